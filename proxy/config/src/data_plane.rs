//! `[data_plane]`: how bytes get to clients and to the disk. Defaults fit any machine; nothing here changes what a client gets.

use entrepot_core::quantity::Size;

use super::origin::{ConfigError, Refusal};
use super::raw::RawDataPlane;
use super::ready::DataPlane;
use super::resolver::Resolver;
use super::values;

const WORKERS_MAX: i64 = 1024;
const DISK_THREADS_MAX: i64 = 64;
/// Less would have fills wait for each other rather than for the disk.
const DISK_BUFFERS_MIN: Size = Size(1 << 20);

pub(super) fn data_plane(resolver: &mut Resolver, raw: RawDataPlane) -> Result<DataPlane, ConfigError> {
    const RUNG: &[(&str, bool)] = &[("auto", true), ("off", false)];
    Ok(DataPlane {
        workers: resolver.number("data_plane.workers", raw.workers, 0, 0..=WORKERS_MAX)?,
        disk_threads: resolver.number("data_plane.disk_threads", raw.disk_threads, 2, 1..=DISK_THREADS_MAX)?,
        disk_timeout: resolver.text("data_plane.disk_timeout", raw.disk_timeout, "30s", values::deadline)?,
        disk_buffers: resolver.text("data_plane.disk_buffers", raw.disk_buffers, "32m", buffers)?,
        io_uring: resolver.text("data_plane.io_uring", raw.io_uring, "auto", |text| values::choice(text, RUNG))?,
        ktls: resolver.text("data_plane.ktls", raw.ktls, "off", |text| values::choice(text, RUNG))?,
    })
}

fn buffers(text: &str) -> Result<Size, Refusal> {
    let size = values::size(text)?;
    if size >= DISK_BUFFERS_MIN { Ok(size) } else { Err(Refusal::new(format!("{text:?} is less than 1m"))) }
}
