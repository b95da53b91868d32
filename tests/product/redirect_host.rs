//! No proxy setting anywhere: the agent on a host leads its connections to the door, on the same machine or on an
//! appliance, and leaves everything else alone (`entrepot redirect host`).

use entrepot_tests::agent::Agent;
use entrepot_tests::clients::Client;
use entrepot_tests::daemons::Dockerd;
use entrepot_tests::entrepot::{Entrepot, Settings};
use entrepot_tests::images;
use entrepot_tests::upstream::{GHCR, HUB, Upstream};
use entrepot_tests::world::World;

#[test]
fn skopeo_and_dockerd_pull_from_the_cache_of_their_own_machine() {
    let world = World::new();
    let (ghcr, hub) = (Upstream::start(&world, GHCR), Upstream::start(&world, HUB));
    let image = images::random(410, 3, 40_000);
    let (from_ghcr, from_hub) = (ghcr.publish(&image, "team/app", "1"), hub.publish(&image, "team/app", "1"));
    let entrepot = Entrepot::start(&world, Settings::new());
    let agent = Agent::start(&world, &world.proxy, &Settings::new(), &["host"]);
    let client = Client::without_proxy(&world, &world.proxy, entrepot.ca());
    client.skopeo_pull(&from_ghcr, None).expect_success("skopeo, cold");
    assert_eq!(ghcr.ledger.blob_bytes(), image.blob_bytes(), "each blob once");
    ghcr.ledger.reset();
    client.skopeo_pull(&from_ghcr, None).expect_success("skopeo, warm");
    assert_eq!(ghcr.ledger.blob_bytes(), 0, "from the cache");
    let redirected = agent.count("redirected");
    assert!(redirected >= 2, "{redirected}");
    let docker = Dockerd::start(&client);
    docker.pull(&from_hub).expect_success("docker");
    assert_eq!(hub.ledger.blob_bytes(), 0, "the blobs are those of the other registry");
    assert!(agent.count("redirected") > redirected);
    assert!(agent.count("own") > 0, "the proxy's own connections were left alone");
    assert!(agent.terminate().success());
    let distrustful = Client::without_proxy(&world, &world.proxy, world.internet_ca());
    distrustful.skopeo_pull(&from_ghcr, None).expect_success("directly, once the agent is gone");
}
