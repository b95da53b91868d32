//! What the grammar costs for each request: route, digest, challenge, range, framing. `cargo bench -p entrepot-core`;
//! `cargo test` runs each once, untimed. What a whole request costs is in `tests/bench/`.

// The macros of the harness make undocumented functions.
#![allow(missing_docs)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use entrepot_core::challenge::Challenge;
use entrepot_core::digest::{Algorithm, Digest};
use entrepot_core::framing::RequestFraming;
use entrepot_core::media::AcceptClass;
use entrepot_core::range;
use entrepot_core::route::Route;
use http::Method;

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn routes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route");
    for (name, path) in [
        ("ping", "/v2/".to_owned()),
        ("tag", "/v2/library/busybox/manifests/latest".to_owned()),
        ("blob", format!("/v2/team/deep/down/project/blobs/sha256:{HEX}")),
        ("other", "/token".to_owned()),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| Route::parse(&Method::GET, black_box(&path), black_box(None)));
        });
    }
}

fn digests(criterion: &mut Criterion) {
    let text = format!("sha256:{HEX}");
    let digest = Digest::of(Algorithm::Sha256, b"");
    let manifest = vec![b'x'; 1536];
    let mut group = criterion.benchmark_group("digest");
    group.bench_function("parse", |bencher| bencher.iter(|| black_box(&text).parse::<Digest>()));
    group.bench_function("print", |bencher| bencher.iter(|| black_box(&digest).to_string()));
    group.throughput(Throughput::Bytes(manifest.len() as u64));
    group.bench_function("of a manifest", |bencher| {
        bencher.iter(|| Digest::of(Algorithm::Sha256, black_box(&manifest)));
    });
}

fn headers(criterion: &mut Criterion) {
    let challenge = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/busybox:pull""#;
    criterion.bench_function("challenge", |bencher| bencher.iter(|| Challenge::parse([black_box(challenge)])));
    criterion.bench_function("range", |bencher| {
        bencher.iter(|| range::decide(black_box(Some("bytes=1048576-2097151")), black_box(1 << 30)));
    });
    let accept = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.index.v1+json, \
                  application/vnd.docker.distribution.manifest.list.v2+json, */*;q=0.5";
    criterion.bench_function("accept", |bencher| bencher.iter(|| AcceptClass::of([black_box(accept)])));
}

fn framing(criterion: &mut Criterion) {
    let head = format!(
        "GET /v2/library/busybox/blobs/sha256:{HEX} HTTP/1.1\r\nHost: registry-1.docker.io\r\n\
         User-Agent: containerd/2.1.4\r\nAccept: application/vnd.oci.image.layer.v1.tar+gzip, */*\r\n\
         Authorization: Bearer {}\r\nAccept-Encoding: gzip\r\n\r\n",
        "x".repeat(1500)
    );
    let upload = "POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: a\r\nContent-Length: 65536\r\n\r\n".to_owned()
        + &"x".repeat(65_536);
    let mut group = criterion.benchmark_group("framing");
    for (name, stream) in [("a head with a token", head), ("a body of 64 KiB", upload)] {
        group.throughput(Throughput::Bytes(stream.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let pushed = RequestFraming::default().push(black_box(stream.as_bytes()));
                assert!(pushed.rejection.is_none());
                pushed
            });
        });
    }
}

criterion_group!(benches, routes, digests, headers, framing);
criterion_main!(benches);
