//! The rung of the ladder that only a kernel with TLS has: `data_plane.ktls = "auto"`. Whole blobs, ranges and clients that
//! leave early get the right bytes, and it is the kernel that sealed them.

use entrepot_tests::appliance::{Appliance, Hardware};
use entrepot_tests::clients::Client;
use entrepot_tests::image::disk;
use entrepot_tests::images::{random, sha256};
use entrepot_tests::lan::Lan;
use entrepot_tests::upstream::{GHCR, Upstream};
use entrepot_tests::world::World;

const PUSHED: &str = "docker-registry.local/team/sealed:v1";

#[test]
fn the_kernel_seals_what_clients_get() {
    let _alone = super::alone();
    let world = World::new();
    let lan = Lan::new(&world, true);
    let upstream = Upstream::start(&world, GHCR);
    let made = random(64, 1, 24_000_000);
    let image = upstream.publish(&made, "team/app", "1.0");
    let appliance = Appliance::start(&world, &lan, disk(), &Hardware::default());
    appliance.wait_ready();
    appliance.must("printf '\\n[data_plane]\\nktls = \"auto\"\\n' >>/etc/entrepot/entrepot.toml");
    appliance.trust_internet();
    let said = appliance.must("journalctl -q -b -u entrepot -o cat");
    assert!(said.contains("under TLS sealed by the kernel"), "{said}");
    let metrics = appliance.must(
        "exec 3<>/dev/tcp/127.0.0.1/3130\nprintf 'GET /metrics HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n' >&3\ncat <&3",
    );
    assert!(metrics.contains("{sealing=\"kernel\"} 1"), "{metrics}");
    let before = handed_over(&appliance);

    let client = appliance.client();
    client.skopeo_pull(&image, None).expect_success("a cold pull");
    client.skopeo_pull(&image, None).expect_success("a cached pull");
    client.skopeo_copy(&image, PUSHED, &["--preserve-digests"]).expect_success("a push");
    assert!(handed_over(&appliance) > before, "no connection was handed to the kernel");

    let blob = &made.layers()[0];
    let direct = Client::without_proxy(&world, &world.client, appliance.ca());
    let url = format!("https://docker-registry.local/v2/team/sealed/blobs/{}", blob.digest);
    let file = world.path("blob");
    let path = file.display().to_string();
    let get = |more: &[&str]| {
        let arguments = [&["-f", "-o", &path], more, &[url.as_str()]].concat();
        direct.curl(&arguments).expect_success("curl");
        sha256(&std::fs::read(&file).expect("written"))
    };
    assert_eq!(get(&[]), blob.digest, "the whole blob");
    for (range, part) in [("0-0", 0..1), ("100-99999", 100..100_000), ("16383-16386", 16_383..16_387)] {
        assert_eq!(get(&["-r", range]), blob.digest_of(part), "{range}");
    }
    let tail = usize::try_from(blob.size).expect("it fits") - 5_000_000;
    assert_eq!(get(&["-r", "-5000000"]), blob.digest_of(tail..), "the end");
    for _ in 0..5 {
        // Far less than the socket takes ahead: the client leaves in the middle of a body.
        direct.curl(&["-f", "-o", &path, "--limit-rate", "1M", "-m", "1", &url]).expect_failure("leaving early");
    }
    assert_eq!(get(&[]), blob.digest, "the whole blob after clients that left");
    let open = appliance.must("awk '$1 == \"TlsCurrTxSw\" { print $2 }' /proc/net/tls_stat");
    assert!(open.trim().parse::<u32>().is_ok_and(|open| open < 20), "connections that were left are closed: {open}");
    let log = appliance.must("journalctl -q -b -u entrepot -o cat");
    assert!(!log.contains("panicked at"), "{log}");
    appliance.power_off();
}

/// Connections whose sending half the guest's kernel took over since it started.
fn handed_over(appliance: &Appliance<'_>) -> u64 {
    let count = appliance.must("awk '$1 == \"TlsTxSw\" { print $2 }' /proc/net/tls_stat");
    count.trim().parse().unwrap_or_else(|_| panic!("TlsTxSw: {count:?}"))
}
