//! The administrator's door: health, metrics, the cache's numbers in discobot-proxy's form, and changes only for
//! clients with the right to make them (T27 of docs/threats.md).

use entrepot_tests::entrepot::{Entrepot, Settings};
use entrepot_tests::images;
use entrepot_tests::upstream::{GHCR, Upstream};
use entrepot_tests::world::World;
use http::Method;

#[test]
fn numbers_add_up_and_clearing_clears() {
    let world = World::new();
    let ghcr = Upstream::start(&world, GHCR);
    let image = images::random(1, 3, 50_000);
    let name = ghcr.publish(&image, "team/app", "1");
    let entrepot = Entrepot::start(&world, Settings::new());
    let client = entrepot.client();
    client.skopeo_pull(&name, None).expect_success("cold");
    client.skopeo_pull(&name, None).expect_success("warm");
    let stats = entrepot.stats();
    for key in ["hits", "misses", "stores", "evictions", "errors", "current_size", "hit_rate"] {
        assert!(stats[key].is_number(), "{key} in {stats}");
    }
    assert!(entrepot.stat("hits") >= 4 && entrepot.stat("misses") >= 4 && entrepot.stat("stores") >= 4, "{stats}");
    assert!(entrepot.stat("current_size") >= image.blob_bytes(), "{stats}");
    let rate = stats["hit_rate"].as_f64().unwrap_or_default();
    assert!(rate > 0.0 && rate < 100.0, "{stats}");

    assert_eq!(entrepot.admin(Method::DELETE, "/api/cache").0, 200);
    assert_eq!(entrepot.stat("current_size"), 0, "{}", entrepot.stats());
    ghcr.ledger.reset();
    client.skopeo_pull(&name, None).expect_success("after clearing");
    assert_eq!(ghcr.ledger.blob_bytes(), image.blob_bytes(), "fetched anew");
}

#[test]
fn changes_need_the_socket_or_the_token() {
    let world = World::new();
    let ghcr = Upstream::start(&world, GHCR);
    let name = ghcr.publish(&images::random(2, 1, 5000), "team/app", "1");
    let entrepot = Entrepot::start(&world, Settings::new());
    entrepot.client().skopeo_pull(&name, None).expect_success("cold");
    for (method, path) in [(Method::DELETE, "/api/cache"), (Method::POST, "/api/reload")] {
        let (status, _) = entrepot.admin_tcp(method.clone(), path);
        assert!([401, 403].contains(&status), "{method} {path} over TCP: {status}");
    }
    assert!(entrepot.stat("current_size") > 0, "still there");
    for url in ["http://10.90.1.1:3130/metrics", "http://127.0.0.1:3130/metrics"] {
        let status = entrepot.door().get(url, &[]).status;
        assert!(!status.is_success(), "a client reads {url} through the proxy: {status}");
    }
    for path in ["/metrics", "/api/cache/stats", "/healthz"] {
        let status = entrepot.door().get(&format!("http://10.90.1.1:3128{path}"), &[]).status;
        assert!(!status.is_success(), "{path} is open at the proxy's door: {status}");
    }
}

#[test]
fn health_and_metrics_are_there() {
    let world = World::new();
    let entrepot = Entrepot::start(&world, Settings::new());
    assert_eq!(entrepot.admin_tcp(Method::GET, "/healthz").0, 200);
    let (status, metrics) = entrepot.admin_tcp(Method::GET, "/metrics");
    assert_eq!(status, 200);
    assert!(metrics.contains("# TYPE") && metrics.contains("# EOF"), "OpenMetrics text: {metrics}");
}

#[test]
fn the_cache_commands_work_on_a_running_product() {
    let world = World::new();
    let ghcr = Upstream::start(&world, GHCR);
    let image = images::random(3, 1, 5000);
    let name = ghcr.publish(&image, "team/app", "1");
    let entrepot = Entrepot::start(&world, Settings::new());
    entrepot.client().skopeo_pull(&name, None).expect_success("cold");
    let layer = &image.layers()[0].digest;
    let command = |arguments: &[&str]| entrepot.command(arguments).expect_success(&arguments.join(" ")).stdout;
    assert!(command(&["cache", "ls"]).contains(layer.as_str()));
    assert!(command(&["cache", "stats"]).contains("hit"));
    command(&["cache", "verify"]);
    command(&["cache", "rm", layer]);
    assert!(!command(&["cache", "ls"]).contains(layer.as_str()), "removed");
    command(&["cache", "clear", "--yes"]);
    assert_eq!(entrepot.stat("current_size"), 0);
}
