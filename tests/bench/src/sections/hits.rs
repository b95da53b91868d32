//! Warm hits of one large blob, nginx and entrepot in turn: what a GiB costs the server, and how fast it comes.

use crate::BoxError;
use crate::client::Target;
use crate::figures::Samples;
use crate::lab::{GIB, Lab, MIB, blob_path, pull_together, rows, warm};
use crate::machine::own_cpu_seconds;
use crate::report::Measured;
use crate::servers::Server;

const CLIENTS: [usize; 3] = [1, 4, 16];
/// One after the other in one measurement, so that the kernel's 10 ms ticks weigh little.
const PULLS: usize = 4;

struct Kind {
    name: &'static str,
    cpu_goal: &'static str,
    throughput_goal: Option<&'static str>,
    target: fn(&Server) -> &Target,
}

pub(super) async fn tls(lab: &Lab) -> Result<Measured, BoxError> {
    let throughput_goal = Some("tls-throughput-4");
    run(lab, &Kind { name: "TLS", cpu_goal: "tls-cpu", throughput_goal, target: |server| &server.tls }).await
}

pub(super) async fn plain(lab: &Lab) -> Result<Measured, BoxError> {
    run(lab, &Kind { name: "plain", cpu_goal: "plain-cpu", throughput_goal: None, target: |server| &server.plain })
        .await
}

async fn run(lab: &Lab, kind: &Kind) -> Result<Measured, BoxError> {
    let blob = lab.blob(lab.either(GIB, 256 * MIB));
    let path = blob_path(&blob);
    let servers = lab.both().await?;
    for server in &servers {
        warm((kind.target)(server), &path, &blob).await?;
    }
    let gib = blob.size_bytes as f64 / GIB as f64;
    // By number of clients, then by server.
    let mut cpu: [[Samples; 2]; 3] = Default::default();
    let mut throughput: [[Samples; 2]; 3] = Default::default();
    let mut client = rows();
    for _ in 0..lab.options.rounds {
        for (column, server) in servers.iter().enumerate() {
            for (row, clients) in CLIENTS.into_iter().enumerate() {
                let times = if clients == 1 { PULLS } else { 1 };
                let (before, own_before) = (server.cpu_seconds()?, own_cpu_seconds()?);
                let mut seconds = 0.0;
                for _ in 0..times {
                    seconds += pull_together((kind.target)(server), &path, blob.size_bytes, clients).await?;
                }
                let pulled_gib = gib * (clients * times) as f64;
                cpu[row][column].push((server.cpu_seconds()? - before) / pulled_gib);
                throughput[row][column].push(pulled_gib / seconds);
                client[column].push((own_cpu_seconds()? - own_before) / pulled_gib);
            }
        }
    }
    let mut measured = Measured::default();
    measured.goal(kind.cpu_goal, &cpu[0][1].over(&cpu[0][0]));
    if let Some(goal) = kind.throughput_goal {
        measured.goal(goal, &throughput[1][1].over(&throughput[1][0]));
    }
    let mut ratios = rows();
    for (row, clients) in CLIENTS.into_iter().enumerate() {
        for (column, server) in servers.iter().enumerate() {
            let what = format!("{} server CPU, {clients} clients, {}", kind.name, server.name);
            measured.reading(&what, "s/GiB", &cpu[row][column]);
            let what = format!("{} throughput, {clients} clients, {}", kind.name, server.name);
            measured.reading(&what, "GiB/s", &throughput[row][column]);
        }
        ratios[0] = cpu[row][1].over(&cpu[row][0]);
        ratios[1] = throughput[row][1].over(&throughput[row][0]);
        measured.reading(&format!("{} server CPU, {clients} clients, ratio", kind.name), "×", &ratios[0]);
        measured.reading(&format!("{} throughput, {clients} clients, ratio", kind.name), "×", &ratios[1]);
    }
    for (column, server) in servers.iter().enumerate() {
        measured.reading(&format!("{} client's own CPU, at {}", kind.name, server.name), "s/GiB", &client[column]);
    }
    Ok(measured)
}
