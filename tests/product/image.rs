//! The appliance's image: it contains nothing of one machine, starts, is found by its name, and serves.
//!
//! All other tests of it, from EFI to `vagrant up`, are in `tests/vm`, which takes half an hour of emulation.

use std::path::Path;
use std::time::Duration;

use entrepot_tests::appliance::{Appliance, Hardware};
use entrepot_tests::avahi::Avahi;
use entrepot_tests::image::{Root, disk};
use entrepot_tests::images::sha256;
use entrepot_tests::lan::Lan;
use entrepot_tests::world::{PROXY_ADDRESS, World};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

const NAME: &str = "docker-registry.local";

#[test]
fn it_starts_is_found_and_serves() {
    let world = World::new();
    let lan = Lan::new(&world, true);
    let appliance = Appliance::start(&world, &lan, disk(), &Hardware::default());
    appliance.wait_ready();

    let avahi = Avahi::start(&world, &world.client, "lan-client");
    avahi.wait_resolved(NAME, Some(PROXY_ADDRESS), Duration::from_secs(60));
    let pem = std::fs::read(appliance.ca()).expect("the CA");
    let fingerprint = sha256(&CertificateDer::from_pem_slice(&pem).expect("a certificate"));
    let digits = &fingerprint["sha256:".len()..][..8];
    let page = appliance.page("/", "text/html");
    for part in [NAME, PROXY_ADDRESS, digits, "/setup/docker | sudo sh"] {
        assert!(page.contains(part), "{part} is missing on the page:\n{page}");
    }
    // The console may show a text from before the name was announced. It is renewed afterwards.
    for part in [
        NAME,
        digits,
        "█▀",
        "curl -k --pinnedpubkey sha256//",
        &format!("https://{PROXY_ADDRESS}:3128/setup/docker | sudo sh"),
    ] {
        appliance.wait_console(part);
    }
    let health = appliance.must(
        "exec 3<>/dev/tcp/127.0.0.1/3130\nprintf 'GET /healthz HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n' >&3\ncat <&3",
    );
    assert!(health.starts_with("HTTP/1.0 200") || health.starts_with("HTTP/1.1 200"), "{health}");
    assert_eq!(appliance.must("systemctl --failed --no-legend --plain"), "", "units that failed");
    assert_eq!(appliance.must("cat /etc/machine-id").trim().len(), 32, "an identity of its own");
}

#[test]
fn it_holds_nothing_of_one_machine() {
    let root = Root::of(disk());
    for gone in
        ["/etc/ssh/ssh_host_ed25519_key", "/root/.ssh/authorized_keys", "/var/lib/entrepot/ca", "/var/log/dpkg.log"]
    {
        assert_eq!(root.ask(&format!("cat {gone}")), "", "{gone}");
    }
    assert_eq!(root.ask("cat /etc/machine-id"), "");
    let variables = root.ask("cat /etc/entrepot/entrepot.env");
    assert!(variables.lines().all(|line| line.starts_with('#')), "{variables}");
    assert!(root.ask("cat /etc/shadow").lines().all(|line| !line.contains('$')), "no password");
    let sources = root.ask("cat /etc/apt/sources.list.d/debian.sources");
    assert_eq!(sources.matches("URIs: http://deb.debian.org/debian").count(), 2, "{sources}");
    for folder in ["/etc", "/root", "/home", "/var"] {
        assert_no_key(&root.copy(folder));
    }
}

/// Asserts that no file in `folder` has a private key in it.
fn assert_no_key(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().expect("a type"));
        if kind.is_dir() {
            assert_no_key(&path);
        } else if kind.is_file() {
            let content = std::fs::read(&path).expect("readable");
            let found = content.windows(16).any(|window| window == b"PRIVATE KEY-----");
            assert!(!found, "{} has a private key", path.display());
        }
    }
}
