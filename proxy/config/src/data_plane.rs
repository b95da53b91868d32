//! `[data_plane]`: the way that bytes take to clients and to the disk. The defaults fit any machine. These settings
//! never change the bytes that clients get.

use entrepot_core::quantity::Size;

use super::provenance::{ConfigError, Refusal};
use super::raw::RawDataPlane;
use super::ready::{DataPlane, Sealing};
use super::resolver::{AtReload, AtStart, Resolver};
use super::values;

const WORKERS_MAX: i64 = 1024;
const DISK_THREADS_MAX: i64 = 64;
/// With less, fetches would wait for each other rather than for the disk.
const DISK_BUFFERS_MIN: Size = Size(1 << 20);

pub(super) fn data_plane(resolver: &mut Resolver<'_, AtStart>, raw: &RawDataPlane) -> Result<DataPlane, ConfigError> {
    Ok(DataPlane {
        workers: resolver.number("data_plane.workers", &raw.workers, 0, 0..=WORKERS_MAX)?,
        disk_threads: resolver.number("data_plane.disk_threads", &raw.disk_threads, 2, 1..=DISK_THREADS_MAX)?,
        disk_timeout: resolver.text("data_plane.disk_timeout", &raw.disk_timeout, "30s", values::deadline)?,
        disk_buffers: resolver.text("data_plane.disk_buffers", &raw.disk_buffers, "32m", buffers)?,
        io_uring: resolver.text("data_plane.io_uring", &raw.io_uring, "auto", auto)?,
    })
}

pub(super) fn sealing(resolver: &mut Resolver<'_, AtReload>, raw: &RawDataPlane) -> Result<Sealing, ConfigError> {
    Ok(Sealing { ktls: resolver.text("data_plane.ktls", &raw.ktls, "off", auto)? })
}

/// `auto` uses a feature if this kernel has it.
fn auto(text: &str) -> Result<bool, Refusal> {
    values::choice(text, &[("auto", true), ("off", false)])
}

fn buffers(text: &str) -> Result<Size, Refusal> {
    let size = values::size(text)?;
    if size >= DISK_BUFFERS_MIN { Ok(size) } else { Err(Refusal::new(format!("{text:?} is less than 1m"))) }
}
