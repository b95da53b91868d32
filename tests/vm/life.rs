//! An appliance's life by BIOS: found by Avahi, joined with the one line, pulled through, pushed to, served from while
//! upstream is gone, restarted, its kernel renewed.

use std::time::Duration;

use entrepot_tests::appliance::{Appliance, Hardware};
use entrepot_tests::avahi::Avahi;
use entrepot_tests::client_host::ClientHost;
use entrepot_tests::daemons::Dockerd;
use entrepot_tests::image::disk;
use entrepot_tests::images;
use entrepot_tests::lan::Lan;
use entrepot_tests::upstream::{GHCR, Upstream};
use entrepot_tests::world::{PROXY_ADDRESS, World};

const PUSHED: &str = "docker-registry.local/team/app:v1";

/// A Docker host joins, pulls and pushes.
const JOIN: &str = r#"
prepare
settle_trust
start_dockerd
docker pull -q "$IMAGE" && fail "there is a way without the appliance"
curl -fsS http://10.90.1.1:3128/setup/docker | sh
docker pull -q "$IMAGE" || fail "no pull through the appliance"
docker tag "$IMAGE" "$PUSHED"
docker push -q "$PUSHED" || fail "no push"
"#;

#[test]
fn found_joined_pulled_pushed_restarted() {
    let _alone = super::alone();
    let world = World::new();
    let lan = Lan::new(&world, true);
    let upstream = Upstream::start(&world, GHCR);
    let image = upstream.publish(&images::random(61, 3, 2_000_000), "team/app", "1.0");
    let appliance = Appliance::start(&world, &lan, disk(), &Hardware::default());
    appliance.wait_ready();
    let avahi = Avahi::start(&world, &world.client, "lan-client");
    avahi.wait_resolved("docker-registry.local", Some(PROXY_ADDRESS), Duration::from_secs(60));
    appliance.trust_internet();

    let host = ClientHost::new(&world);
    host.run(JOIN, &[("IMAGE", &image), ("PUSHED", PUSHED)]).expect_success("a Docker host joins");

    upstream.off();
    let client = appliance.client();
    let second = Dockerd::start(&client);
    second.pull(&image).expect_success("a second client, upstream unplugged");
    second.forget();
    let ca = appliance.page("/ca.crt", "*/*");

    renew_kernel(&appliance);
    appliance.reboot();
    assert_eq!(appliance.page("/ca.crt", "*/*"), ca, "the CA of before");
    second.pull(&image).expect_success("what was cached before the restart, upstream still unplugged");
    client.skopeo_pull(PUSHED, None).expect_success("what was pushed before the restart");
    let root = appliance.must("df --output=size -BM / | tail -n 1 | tr -dc 0-9");
    assert!(root.trim().parse::<u32>().is_ok_and(|size_mb| size_mb > 5000), "the root grew to its disk: {root} MB");
    assert_eq!(appliance.must("systemctl --failed --no-legend --plain"), "", "units that failed");
    appliance.power_off();
}

/// As an upgrade of the kernel's package does it: both boot loaders read what its hooks put on the boot partition.
fn renew_kernel(appliance: &Appliance<'_>) {
    appliance.must(
        "rm /efi/vmlinuz /efi/initrd.img\n\
         DEBIAN_FRONTEND=noninteractive dpkg-reconfigure linux-image-$(uname -r) >/dev/null 2>&1\n\
         cmp /boot/vmlinuz-$(uname -r) /efi/vmlinuz\n\
         cmp /boot/initrd.img-$(uname -r) /efi/initrd.img",
    );
}
