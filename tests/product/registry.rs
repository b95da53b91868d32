//! Our own registry, by real clients: pushed by one, pulled by another, whatever way they reach it.

use entrepot_tests::daemons::Dockerd;
use entrepot_tests::entrepot::{Entrepot, Settings};
use entrepot_tests::images;
use entrepot_tests::upstream::{HUB, Upstream};
use entrepot_tests::world::{PROXY_ADDRESS, REGISTRY, World};

#[test]
fn dockerd_pushes_and_pulls_through_the_proxy_and_past_it() {
    let world = World::new();
    let hub = Upstream::start(&world, HUB);
    hub.publish(&images::busybox(), "library/busybox", "1.36");
    let entrepot = Entrepot::start(&world, Settings::new());
    let behind = entrepot.client();
    let docker = Dockerd::start(&behind);
    docker.pull("busybox:1.36").expect_success("docker pull from upstream");
    let by_name = format!("{REGISTRY}/team/app/deep/er:v1");
    docker.docker(&["tag", "busybox:1.36", &by_name]).expect_success("docker tag");
    docker.docker(&["push", "-q", &by_name]).expect_success("docker push through the proxy");
    docker.forget();
    docker.pull(&by_name).expect_success("docker pull through the proxy");

    let neighbour = entrepot.neighbour().insecure(&format!("{PROXY_ADDRESS}:5000"));
    let other = Dockerd::start(&neighbour);
    for door in [format!("{REGISTRY}:5443"), format!("{PROXY_ADDRESS}:5443"), format!("{PROXY_ADDRESS}:5000")] {
        let name = format!("{door}/team/app/deep/er:v1");
        other.pull(&name).expect_success(&name);
        let run = other.docker(&["run", "--rm", "--network", "none", &name]).expect_success("docker run");
        assert_eq!(run.stdout, "hello\n");
        let again = format!("{door}/other:v2");
        other.docker(&["tag", &name, &again]).expect_success("docker tag");
        other.docker(&["push", "-q", &again]).expect_success(&again);
        other.forget();
    }
}
