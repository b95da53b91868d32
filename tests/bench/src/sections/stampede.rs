//! A hundred clients ask for one blob that only a slow upstream has, and one more joins half-way. nginx is not measured:
//! its waiters get nothing before the whole blob is there, and where the lock's time ends each downloads it again.

use std::time::{Duration, Instant};

use crate::BoxError;
use crate::client::Target;
use crate::content::Blob;
use crate::figures::Samples;
use crate::lab::{Lab, MIB, blob_path, on_a_thread};
use crate::report::Measured;
use crate::servers::Server;
use crate::sink::{Fetched, Sink};

const CLIENTS: usize = 100;
pub(super) const RATE_BYTES_PER_SECOND: u64 = 50_000_000;

/// What one kind of connection gave.
#[derive(Default)]
struct Rows {
    bytes: Samples,
    ratio: Samples,
    joined_ms: Samples,
    alone: Samples,
    last: Samples,
    first_ms: Samples,
    cpu: Samples,
}

pub(super) async fn run(lab: &Lab) -> Result<Measured, BoxError> {
    let server = lab.entrepot(&lab.folder("entrepot")?).await?;
    let [mut tls, mut plain]: [Rows; 2] = Default::default();
    for _ in 0..lab.options.rounds {
        round(lab, &server, &server.tls, &mut tls).await?;
        // Nobody seals a hundred copies here: the rest of the time is not the processors'.
        round(lab, &server, &server.plain, &mut plain).await?;
    }
    let mut measured = Measured::default();
    measured.goal("stampede-bytes", &tls.bytes);
    measured.goal("stampede-last", &tls.ratio);
    measured.goal("stampede-joiner", &tls.joined_ms);
    for (name, rows) in [("TLS", &tls), ("plain", &plain)] {
        let mut reading = |what: &str, unit, samples| measured.reading(&format!("{name}, {what}"), unit, samples);
        reading("upstream bytes / blob", "×", &rows.bytes);
        reading("last of 100 clients against one alone", "×", &rows.ratio);
        reading("one client alone", "s", &rows.alone);
        reading("last of 100 clients", "s", &rows.last);
        reading("first byte of the slowest of 100", "ms", &rows.first_ms);
        reading("first byte of the joiner", "ms", &rows.joined_ms);
        reading("server CPU of the whole stampede", "s", &rows.cpu);
    }
    Ok(measured)
}

async fn round(lab: &Lab, server: &Server, target: &Target, rows: &mut Rows) -> Result<(), BoxError> {
    let size_bytes = lab.either(256 * MIB, 64 * MIB);
    let [single, shared] = [lab.blob(size_bytes), lab.blob(size_bytes)];
    lab.upstream.limit(Some(RATE_BYTES_PER_SECOND));
    let begin = Instant::now();
    let mut sink = Sink::open(target, None).await?;
    sink.fetch(target, &blob_path(&single), size_bytes).await?;
    let alone_seconds = begin.elapsed().as_secs_f64();

    let before = server.cpu_seconds()?;
    let half = Duration::from_secs_f64(alone_seconds / 2.0);
    let (seconds, first_ms, joined_ms) = stampede(target, &shared, half).await?;
    lab.upstream.limit(None);
    rows.cpu.push(server.cpu_seconds()? - before);
    rows.bytes.push(lab.upstream.sent_bytes(&shared) as f64 / size_bytes as f64);
    rows.ratio.push(seconds / alone_seconds);
    rows.joined_ms.push(joined_ms);
    rows.alone.push(alone_seconds);
    rows.last.push(seconds);
    rows.first_ms.push(first_ms);
    // Not measured: that what was sent a hundred times is right.
    target.pull_checked(&blob_path(&shared), &shared).await?;
    Ok(())
}

/// Seconds to the last byte of all, ms to the first byte of the slowest, ms from the joiner's question to its first byte.
async fn stampede(target: &Target, blob: &Blob, half: Duration) -> Result<(f64, f64, f64), BoxError> {
    let path = blob_path(blob);
    let mut sinks = Vec::new();
    for _ in 0..CLIENTS {
        sinks.push(Sink::open(target, None).await?);
    }
    let begin = Instant::now();
    let joiner = tokio::task::spawn_local(join_late(target.clone(), path.clone(), blob.size_bytes, begin + half));
    let pulls = sinks.into_iter().map(|mut sink| {
        let (target, path, size_bytes) = (target.clone(), path.clone(), blob.size_bytes);
        tokio::task::spawn_local(async move { sink.fetch(&target, &path, size_bytes).await })
    });
    let mut fetched: Vec<Fetched> = Vec::new();
    for pull in pulls.collect::<Vec<_>>() {
        fetched.push(pull.await??);
    }
    let joiner_ms = joiner.await??;
    let latest = |of: fn(&Fetched) -> Instant| fetched.iter().map(of).max().unwrap_or(begin);
    let seconds = (latest(|fetched| fetched.last_byte) - begin).as_secs_f64();
    let first_byte_ms = (latest(|fetched| fetched.first_byte) - begin).as_secs_f64() * 1e3;
    Ok((seconds, first_byte_ms, joiner_ms))
}

/// Connects at once, asks when it is time; ms from the question to the first byte.
async fn join_late(target: Target, path: String, size_bytes: u64, when: Instant) -> Result<f64, BoxError> {
    on_a_thread(move || async move {
        let mut sink = Sink::open(&target, None).await?;
        tokio::time::sleep_until(when.into()).await;
        let asked = Instant::now();
        let fetched = sink.fetch(&target, &path, size_bytes).await?;
        Ok((fetched.first_byte - asked).as_secs_f64() * 1e3)
    })
    .await
}
