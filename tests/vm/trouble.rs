//! No network at first boot, and a full disk: one clear line on the console, and service as far as it goes.

use entrepot_tests::appliance::{Appliance, Hardware};
use entrepot_tests::image::disk;
use entrepot_tests::images::random;
use entrepot_tests::lan::Lan;
use entrepot_tests::upstream::{GHCR, Upstream};
use entrepot_tests::world::{PROXY_ADDRESS, World};

#[test]
fn the_console_says_what_is_wrong_and_service_goes_on() {
    let _alone = super::alone();
    let world = World::new();
    let mut lan = Lan::new(&world, false);
    let upstream = Upstream::start(&world, GHCR);
    let image = upstream.publish(&random(63, 2, 1_000_000), "team/app", "1.0");
    let appliance = Appliance::start(&world, &lan, disk(), &Hardware::default());
    appliance.wait_console("No network: no interface has an address. Is a cable in, does DHCP answer?");
    assert!(!appliance.console().contains("| sudo sh"), "no line for clients that cannot come");

    lan.serve_dhcp();
    appliance.wait_ready();
    appliance.wait_console(&format!("https://{PROXY_ADDRESS}:3128/setup/docker | sudo sh"));
    appliance.trust_internet();

    appliance.must("fallocate -l $(($(df --output=avail -B1 / | tail -n 1) - 30000000)) /filling");
    appliance.wait_console("The disk is full:");
    appliance.client().skopeo_pull(&image, None).expect_success("a pull with a full disk");
    appliance.must("rm /filling");
    assert!(appliance.page("/", "*/*").contains("proxy is working"));
    appliance.power_off();
}
