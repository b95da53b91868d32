//! The sections: each starts the servers it needs with empty caches, measures in turn, and gives back its figures.

mod cold;
mod cold_streams;
mod criterion;
mod hits;
mod manifests;
mod memory;
mod redirect;
mod skopeo;
mod stampede;
mod start;
mod strangers;

use crate::BoxError;
use crate::lab::Lab;
use crate::report::Measured;

/// The names, in the order in which they run, and what they are.
pub(crate) const SECTIONS: &[(&str, &str)] = &[
    ("hit-tls", "hits of a 1 GiB blob over TLS: processor time, throughput with 1, 4, 16 clients"),
    ("hit-plain", "the same without TLS"),
    ("manifests", "a 1.5 KiB manifest over 16 kept TLS connections: requests/s, p99"),
    ("stampede", "100 clients, one cold blob, upstream at 50 MB/s"),
    ("cold", "cold pulls against pulls from the registry itself"),
    ("start", "start to first hit with a million entries, clean and after kill -9"),
    ("memory", "idle, under 16 streams, and of 5,000 idle TLS connections"),
    ("cold-streams", "p99 of manifest hits while files outside the page cache are streamed"),
    ("strangers", "a pull beside a stranger (dead names, silent connections, slow manifests, uploads) against alone"),
    ("skopeo", "one real client, one warm image"),
    ("redirect", "connect() and routed throughput with the eBPF programs attached against without"),
    ("criterion", "the Criterion benches of the parsers and the index"),
];

/// Runs one section.
pub(crate) async fn run(name: &str, lab: &Lab) -> Result<Measured, BoxError> {
    match name {
        "hit-tls" => hits::tls(lab).await,
        "hit-plain" => hits::plain(lab).await,
        "manifests" => manifests::run(lab).await,
        "stampede" => stampede::run(lab).await,
        "cold" => cold::run(lab).await,
        "start" => start::run(lab).await,
        "memory" => memory::run(lab).await,
        "cold-streams" => cold_streams::run(lab).await,
        "strangers" => strangers::run(lab).await,
        "skopeo" => skopeo::run(lab).await,
        "redirect" => redirect::run(lab).await,
        "criterion" => criterion::run(lab),
        _ => Err(format!("there is no section {name:?}; tests/bench/run --list shows them").into()),
    }
}
