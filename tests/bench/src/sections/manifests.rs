//! A manifest of about 1.5 KiB over kept TLS connections, as fast as answers come; by digest, and by tag to know.

use std::time::Duration;

use crate::BoxError;
use crate::figures::Samples;
use crate::lab::{Lab, MIB, manifest_path, rows, warm};
use crate::load::Question;
use crate::machine::own_cpu_seconds;
use crate::report::Measured;

/// With these the manifest has about 1.5 KiB.
pub(super) const LAYERS: usize = 8;
pub(super) const CONNECTIONS: usize = 16;

pub(super) async fn run(lab: &Lab) -> Result<Measured, BoxError> {
    let image = lab.image(LAYERS, MIB, "v1");
    let duration = Duration::from_secs(lab.either(5, 2));
    let servers = lab.both().await?;
    let mut measured = Measured::default();
    for reference in [image.manifest.digest.as_str(), "v1"] {
        let path = manifest_path(reference);
        for server in &servers {
            warm(&server.tls, &path, &image.manifest).await?;
        }
        let [mut rate, mut p50, mut p99, mut cpu, mut client] = [rows(), rows(), rows(), rows(), rows()];
        for _ in 0..lab.options.rounds {
            for (column, server) in servers.iter().enumerate() {
                let question = Question {
                    target: server.tls.clone(),
                    path: path.clone(),
                    answer: image.manifest.clone(),
                    connections: CONNECTIONS,
                    duration,
                };
                let (before, own_before) = (server.cpu_seconds()?, own_cpu_seconds()?);
                let load = question.ask_at_once().await?;
                let requests = load.latencies_ms.0.len() as f64;
                cpu[column].push((server.cpu_seconds()? - before) / requests * 1e6);
                client[column].push((own_cpu_seconds()? - own_before) / requests * 1e6);
                rate[column].push(load.requests_per_second);
                p50[column].push(load.latencies_ms.quantile(0.5));
                p99[column].push(load.latencies_ms.quantile(0.99));
            }
        }
        let kind = if reference == "v1" { "by tag" } else { "by digest" };
        let [rates, p99s] = [&rate, &p99].map(|row: &[Samples; 2]| row[1].over(&row[0]));
        if reference == "v1" {
            measured.reading("requests by tag, ratio", "×", &rates);
            measured.reading("p99 by tag, ratio", "×", &p99s);
        } else {
            measured.goal("manifest-rate", &rates);
            measured.goal("manifest-p99", &p99s);
        }
        for (column, server) in servers.iter().enumerate() {
            let name = server.name;
            measured.reading(&format!("requests {kind}, {name}"), "1/s", &rate[column]);
            measured.reading(&format!("p50 {kind}, {name}"), "ms", &p50[column]);
            measured.reading(&format!("p99 {kind}, {name}"), "ms", &p99[column]);
            measured.reading(&format!("server CPU {kind}, {name}"), "µs/request", &cpu[column]);
            measured.reading(&format!("client's own CPU {kind}, {name}"), "µs/request", &client[column]);
        }
    }
    Ok(measured)
}
