//! Pulls of blobs that no cache has, against pulls of others of the same size from the registry itself. The client opens
//! TLS and hashes, as container runtimes do; a second pass with the sink shows the proxy's own limit.

use std::time::Instant;

use super::stampede::RATE_BYTES_PER_SECOND;
use crate::BoxError;
use crate::client::Target;
use crate::figures::Samples;
use crate::lab::{Lab, MIB, blob_path};
use crate::report::Measured;
use crate::sink::Sink;

pub(super) async fn run(lab: &Lab) -> Result<Measured, BoxError> {
    let size_bytes = lab.either(512 * MIB, 64 * MIB);
    let mut measured = Measured::default();
    let passes = [
        ("cold-limited", "at 50 MB/s", Some(RATE_BYTES_PER_SECOND), true),
        ("cold-unlimited", "unlimited", None, true),
        ("", "unlimited, to a sink", None, false),
    ];
    for (goal, name, limit, is_checked) in passes {
        // Afresh for each pass, so that the disk never holds more than one.
        let [nginx, entrepot] = lab.both().await?;
        let ways = [("direct", &lab.direct.0), ("nginx", &nginx.tls), ("entrepot", &entrepot.tls)];
        let mut seconds: [Samples; 3] = Default::default();
        let mut cpu = Samples::default();
        for _ in 0..lab.options.rounds {
            for (column, (_, target)) in ways.iter().enumerate() {
                let before = entrepot.cpu_seconds()?;
                seconds[column].push(pull(lab, target, size_bytes, limit, is_checked).await?);
                if column == 2 {
                    cpu.push((entrepot.cpu_seconds()? - before) * 1024.0 / (size_bytes / MIB) as f64);
                }
            }
        }
        let ratio = seconds[2].over(&seconds[0]);
        match goal {
            "" => measured.reading(&format!("entrepot against direct, {name}"), "×", &ratio),
            goal => measured.goal(goal, &ratio),
        }
        measured.reading(&format!("nginx against direct, {name}"), "×", &seconds[1].over(&seconds[0]));
        for (column, (way, _)) in ways.iter().enumerate() {
            measured.reading(&format!("{way}, {name}"), "s", &seconds[column]);
        }
        measured.reading(&format!("entrepot's CPU, {name}"), "s/GiB", &cpu);
    }
    Ok(measured)
}

/// Seconds from connecting to the last byte, which was checked where that is wanted.
async fn pull(
    lab: &Lab,
    target: &Target,
    size_bytes: u64,
    limit: Option<u64>,
    is_checked: bool,
) -> Result<f64, BoxError> {
    let blob = lab.blob(size_bytes);
    nix::unistd::sync();
    lab.upstream.limit(limit);
    let begin = Instant::now();
    if is_checked {
        target.pull_checked(&blob_path(&blob), &blob).await?;
    } else {
        Sink::open(target, None).await?.fetch(target, &blob_path(&blob), size_bytes).await?;
    }
    let seconds = begin.elapsed().as_secs_f64();
    lab.upstream.limit(None);
    if lab.upstream.sent_bytes(&blob) < size_bytes {
        return Err("a pull that was to be cold did not come from the registry".into());
    }
    Ok(seconds)
}
