//! Manifest hits at a steady rate, first with nothing else going on, then while clients stream files that are pushed out
//! of the page cache all the time.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::manifests::{CONNECTIONS, LAYERS};
use crate::BoxError;
use crate::content::Blob;
use crate::figures::Samples;
use crate::lab::{GIB, Lab, MIB, blob_path, manifest_path, on_a_thread, rows, warm};
use crate::load::{Load, Question};
use crate::machine::forget_pages;
use crate::report::Measured;
use crate::servers::Server;
use crate::sink::Sink;

const REQUESTS_PER_SECOND: f64 = 1000.0;
const STREAMS: usize = 4;
/// Each stream goes round these: small enough that it ends soon after the asking.
const FILES_PER_STREAM: usize = 4;
const FORGET_EVERY: Duration = Duration::from_millis(200);
/// Only files of streams are pushed out, never the manifests.
const FORGET_FROM_BYTES: u64 = MIB;

pub(super) async fn run(lab: &Lab) -> Result<Measured, BoxError> {
    let image = lab.image(LAYERS, 1024, "streams");
    let path = manifest_path(&image.manifest.digest);
    let blobs: Vec<_> = (0..STREAMS * FILES_PER_STREAM).map(|_| lab.blob(lab.either(256 * MIB, 64 * MIB))).collect();
    let servers = lab.both().await?;
    for server in &servers {
        warm(&server.tls, &path, &image.manifest).await?;
        for blob in &blobs {
            warm(&server.tls, &blob_path(blob), blob).await?;
        }
    }
    let [mut idle, mut busy, mut ratio, mut streamed] = [rows(), rows(), rows(), rows()];
    let mut beside = Samples::default();
    for _ in 0..lab.options.rounds {
        for (column, server) in servers.iter().enumerate() {
            let question = Question {
                target: server.tls.clone(),
                path: path.clone(),
                answer: image.manifest.clone(),
                connections: CONNECTIONS,
                duration: Duration::from_secs(lab.either(4, 2)),
            };
            let alone = ask(question.clone()).await?.latencies_ms.quantile(0.99);
            let (load, gib_per_second) = under_streams(server, &blobs, question.clone()).await?;
            let pressed = load.latencies_ms.quantile(0.99);
            idle[column].push(alone);
            busy[column].push(pressed);
            ratio[column].push(pressed / alone);
            streamed[column].push(gib_per_second);
            if column == 1 {
                // How much of it is the machine's: the streams are nginx's, and the server that is asked has no part in them.
                let (load, _) = under_streams(&servers[0], &blobs, question).await?;
                beside.push(load.latencies_ms.quantile(0.99));
            }
        }
    }
    let mut measured = Measured::default();
    measured.goal("p99-under-streams", &ratio[1]);
    measured.reading("p99 under cold streams against idle, nginx", "×", &ratio[0]);
    for (column, server) in servers.iter().enumerate() {
        measured.reading(&format!("p99 idle, {}", server.name), "ms", &idle[column]);
        measured.reading(&format!("p99 under cold streams, {}", server.name), "ms", &busy[column]);
        measured.reading(&format!("cold streams beside it, {}", server.name), "GiB/s", &streamed[column]);
    }
    measured.reading("p99 of entrepot while nginx serves the cold streams", "ms", &beside);
    Ok(measured)
}

/// Asks while the streams run; ends with the asking. Also tells how fast the streams were.
async fn under_streams(server: &Server, blobs: &[Blob], question: Question) -> Result<(Load, f64), BoxError> {
    let stopped = Rc::new(Cell::new(false));
    let deadline = Instant::now() + question.duration * 4;
    let begin = Instant::now();
    let streams = blobs.chunks(FILES_PER_STREAM).map(|blobs| {
        let (target, blobs, stopped) = (server.tls.clone(), blobs.to_vec(), stopped.clone());
        tokio::task::spawn_local(async move {
            let mut bytes = 0;
            for blob in blobs.iter().cycle() {
                if stopped.get() || Instant::now() > deadline {
                    break;
                }
                let mut sink = Sink::open(&target, None).await?;
                sink.fetch(&target, &blob_path(blob), blob.size_bytes).await?;
                bytes += blob.size_bytes;
            }
            Ok::<_, BoxError>((bytes, begin.elapsed()))
        })
    });
    forget_pages(&server.directory, FORGET_FROM_BYTES)?;
    let streams: Vec<_> = streams.collect();
    let forgetting = {
        let (stopped, directory) = (stopped.clone(), server.directory.clone());
        tokio::task::spawn_local(async move {
            while !stopped.get() {
                let directory = directory.clone();
                // Off this thread: asking the file system for much at once can take a while.
                tokio::task::spawn_blocking(move || {
                    forget_pages(&directory, FORGET_FROM_BYTES).map_err(|error| error.to_string())
                })
                .await??;
                tokio::time::sleep(FORGET_EVERY).await;
            }
            Ok::<_, BoxError>(())
        })
    };
    let load = ask(question).await;
    stopped.set(true);
    let mut gib_per_second = 0.0;
    for stream in streams {
        let (bytes, time) = stream.await??;
        gib_per_second += bytes as f64 / GIB as f64 / time.as_secs_f64();
    }
    forgetting.await??;
    Ok((load?, gib_per_second))
}

async fn ask(question: Question) -> Result<Load, BoxError> {
    on_a_thread(move || async move { question.ask_at_rate(REQUESTS_PER_SECOND).await }).await
}
