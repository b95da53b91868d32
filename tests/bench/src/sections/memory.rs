//! Resident memory of entrepot: idle with a million entries, under sixteen streams, and for each idle TLS connection.
//! Mapped files are told apart: they are the page cache's.

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use super::start::{first_hit, seed};
use crate::BoxError;
use crate::content::Blob;
use crate::figures::Samples;
use crate::lab::{GIB, Lab, MIB, blob_path, manifest_path, warm};
use crate::machine::{Memory, memory};
use crate::report::Measured;
use crate::servers::Server;
use crate::sink::Sink;

const STREAMS: usize = 16;
/// As many files, so that four clients share each.
const FILES: usize = 4;
const SAMPLE_EVERY: Duration = Duration::from_millis(20);
const SETTLE: Duration = Duration::from_secs(3);
/// From each address of 127/8, as from so many hosts.
const CONNECTIONS_PER_ADDRESS: usize = 250;

pub(super) async fn run(lab: &Lab) -> Result<Measured, BoxError> {
    let mut measured = Measured::default();
    let folder = lab.folder("entrepot")?;
    let seeded = seed(lab, &folder).await;
    let image = lab.image(8, MIB, "memory");
    let path = manifest_path(&image.manifest.digest);
    let server = lab.entrepot(&folder).await?;
    warm(&server.tls, &path, &image.manifest).await?;
    server.process.terminate().await?;

    idle(lab, &folder, &path, &image.manifest, seeded, &mut measured).await?;
    connections(lab, &folder, &path, &image.manifest, &mut measured).await?;
    let server = lab.entrepot(&folder).await?;
    streams(lab, &server, &mut measured).await?;
    server.process.terminate().await?;
    Ok(measured)
}

async fn idle(
    lab: &Lab,
    folder: &Path,
    path: &str,
    manifest: &Blob,
    seeded: Result<(), BoxError>,
    measured: &mut Measured,
) -> Result<(), BoxError> {
    let [mut own, mut file]: [Samples; 2] = Default::default();
    for _ in 0..lab.options.rounds {
        let server = lab.entrepot(folder).await?;
        first_hit(&server.tls, path, manifest).await?;
        tokio::time::sleep(SETTLE).await;
        let Memory { own_mib, file_mib } = memory(server.process.pid())?;
        own.push(own_mib);
        file.push(file_mib);
        server.process.terminate().await?;
    }
    match seeded {
        Ok(()) => measured.goal("rss-idle", &own),
        Err(error) => {
            measured.missing("rss-idle", &error.to_string());
            measured.reading("RSS idle, small index, files not counted", "MiB", &own);
        }
    }
    measured.reading("RSS idle, mapped files", "MiB", &file);
    Ok(())
}

async fn streams(lab: &Lab, server: &Server, measured: &mut Measured) -> Result<(), BoxError> {
    let size_bytes = lab.either(GIB, 128 * MIB);
    let blobs: Vec<_> = (0..FILES).map(|_| lab.blob(size_bytes)).collect();
    for blob in &blobs {
        warm(&server.tls, &blob_path(blob), blob).await?;
    }
    let [mut own, mut file]: [Samples; 2] = Default::default();
    for _ in 0..lab.options.rounds {
        let pulls = (0..STREAMS).map(|number| {
            let (target, path) = (server.tls.clone(), blob_path(&blobs[number % FILES]));
            tokio::task::spawn_local(async move {
                Sink::open(&target, None).await?.fetch(&target, &path, size_bytes).await.map(drop)
            })
        });
        let pulls: Vec<_> = pulls.collect();
        let peak = watch(server.process.pid());
        for pull in pulls {
            pull.await??;
        }
        own.push(peak.get().own_mib);
        file.push(peak.get().file_mib);
    }
    measured.goal("rss-streams", &own);
    measured.reading("RSS under 16 streams, mapped files", "MiB", &file);
    Ok(())
}

/// The largest figures seen until the process ends.
fn watch(pid: u32) -> Rc<Cell<Memory>> {
    let peak = Rc::new(Cell::new(Memory::default()));
    let seen = Rc::downgrade(&peak);
    tokio::task::spawn_local(async move {
        while let (Some(seen), Ok(now)) = (seen.upgrade(), memory(pid)) {
            let before = seen.get();
            let own_mib = before.own_mib.max(now.own_mib);
            seen.set(Memory { own_mib, file_mib: before.file_mib.max(now.file_mib) });
            drop(seen);
            tokio::time::sleep(SAMPLE_EVERY).await;
        }
    });
    peak
}

async fn connections(
    lab: &Lab,
    folder: &Path,
    path: &str,
    manifest: &Blob,
    measured: &mut Measured,
) -> Result<(), BoxError> {
    let count = lab.either(5000, 1000);
    let [mut each_kib, mut all, mut left]: [Samples; 3] = Default::default();
    for _ in 0..lab.options.rounds {
        let server = lab.entrepot(folder).await?;
        first_hit(&server.tls, path, manifest).await?;
        // The first hundred bring up what is there once and not for each.
        let first = hold(&server, path, manifest, 0, 100).await?;
        tokio::time::sleep(SETTLE).await;
        let before = memory(server.process.pid())?.own_mib;
        let held = hold(&server, path, manifest, first.len(), count).await?;
        tokio::time::sleep(SETTLE).await;
        let after = memory(server.process.pid())?.own_mib;
        each_kib.push((after - before) * 1024.0 / held.len() as f64);
        all.push(after);
        drop((first, held));
        tokio::time::sleep(SETTLE).await;
        left.push(memory(server.process.pid())?.own_mib);
        server.process.terminate().await?;
    }
    measured.goal("idle-connection", &each_kib);
    measured.reading(&format!("RSS with {} idle TLS connections", count + 100), "MiB", &all);
    measured.reading("RSS after they left", "MiB", &left);
    Ok(())
}

/// Opens so many connections, each with one request behind it.
async fn hold(
    server: &Server,
    path: &str,
    manifest: &Blob,
    numbered_from: usize,
    count: usize,
) -> Result<Vec<tokio::net::TcpStream>, BoxError> {
    let mut sockets = Vec::new();
    for number in numbered_from..numbered_from + count {
        let source = Ipv4Addr::new(127, 0, 1, u8::try_from(1 + number / CONNECTIONS_PER_ADDRESS)?);
        let mut sink = Sink::open(&server.tls, Some(source)).await?;
        sink.fetch(&server.tls, path, manifest.size_bytes).await?;
        sockets.push(sink.into_socket());
    }
    Ok(sockets)
}
