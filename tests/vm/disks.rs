//! The data disk: made only where it is empty and named so, grown, and carried over to another system disk, which is what
//! a new image is. The second machine here starts by EFI.

use std::path::Path;
use std::process::Command;

use entrepot_tests::appliance::{Appliance, Hardware};
use entrepot_tests::image::disk;
use entrepot_tests::images::{random, sha256};
use entrepot_tests::lan::Lan;
use entrepot_tests::upstream::{GHCR, Upstream};
use entrepot_tests::world::World;

const SERIAL: &str = "entrepot-data";
const PUSHED: &str = "docker-registry.local/team/kept:v1";
const GIB: u64 = 1 << 30;

#[test]
fn data_outlive_the_system_disk() {
    let _alone = super::alone();
    let world = World::new();
    let lan = Lan::new(&world, true);
    let upstream = Upstream::start(&world, GHCR);
    let image = upstream.publish(&random(62, 2, 1_000_000), "team/app", "1.0");
    let data = world.path("data.raw");
    grow(&data, 2 * GIB);
    let hardware = |efi| Hardware { efi, second_disk: Some((data.clone(), SERIAL)) };

    let first = Appliance::start(&world, &lan, disk(), &hardware(false));
    first.wait_ready();
    assert_eq!(first.must("findmnt -n -o SOURCE,FSTYPE,LABEL /var/lib/entrepot").trim(), "/dev/vdb ext4 entrepot-data");
    first.trust_internet();
    let ca = first.page("/ca.crt", "*/*");
    let client = first.client();
    client.skopeo_pull(&image, None).expect_success("a pull");
    client.skopeo_copy(&image, PUSHED, &[]).expect_success("a push");
    first.power_off();

    grow(&data, 3 * GIB);
    upstream.off();
    let second = Appliance::start(&world, &lan, disk(), &hardware(true));
    second.wait_ready();
    assert!(second.run("[ -d /sys/firmware/efi ]").status.success(), "it started by EFI");
    assert_eq!(second.page("/ca.crt", "*/*"), ca, "the CA of the machine before");
    client.skopeo_pull(&image, None).expect_success("what the machine before cached, upstream unplugged");
    client.skopeo_pull(PUSHED, None).expect_success("what was pushed to the machine before");
    let size = second.must("df --output=size -BM /var/lib/entrepot | tail -n 1 | tr -dc 0-9");
    assert!(size.trim().parse::<u32>().is_ok_and(|size_mb| size_mb > 2800), "it grew to its disk: {size} MB");
    second.power_off();
}

#[test]
fn a_disk_of_somebody_else_is_left_alone() {
    let _alone = super::alone();
    let world = World::new();
    let lan = Lan::new(&world, true);
    let foreign = world.path("foreign.raw");
    grow(&foreign, GIB / 4);
    let made = Command::new("mke2fs").args(["-q", "-F", "-t", "ext4", "-L", "photos"]).arg(&foreign).status();
    assert!(made.expect("mke2fs (package e2fsprogs)").success());
    let before = sha256(&std::fs::read(&foreign).expect("the disk"));

    let hardware = Hardware { efi: false, second_disk: Some((foreign.clone(), SERIAL)) };
    let appliance = Appliance::start(&world, &lan, disk(), &hardware);
    appliance.wait_ready();
    let said = appliance.must("journalctl -q -b -u entrepot-data -o cat");
    assert!(said.contains("/dev/vdb has content but no file system labelled entrepot-data: left alone"), "{said}");
    assert_eq!(appliance.must("findmnt -n -o SOURCE -T /var/lib/entrepot").trim(), "/dev/vda2");
    appliance.power_off();
    assert_eq!(sha256(&std::fs::read(&foreign).expect("the disk")), before, "not a byte of it changed");
}

fn grow(file: &Path, size: u64) {
    let opened = std::fs::OpenOptions::new().create(true).append(true).open(file);
    opened.and_then(|file| file.set_len(size)).expect("a sparse file");
}
