//! The record layer against a peer that others wrote and that is hostile: tlslite-ng (`tests/hostile-peer`), driven by
//! `hostile_tls.py`. Each case of each suite has the outcome that RFC 8446 and RFC 5246 name, nothing grows, nothing panics,
//! and an honest client is served afterwards. The alerts are named by their numbers (RFC 8446 section 6).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use entrepot_tests::entrepot::{Entrepot, Settings};
use entrepot_tests::process::finish;
use entrepot_tests::world::{PROXY_ADDRESS, World};

use crate::heavy;

const UNEXPECTED_MESSAGE: &str = "alert 10";
/// The connection ends while the peer still sends. The system of the peer may then hear of the end before the alert is read.
const ENDED: &str = "alert 10 or cut off";
const BAD_RECORD_MAC: &str = "alert 20";
const RECORD_OVERFLOW: &str = "alert 22";
const PROTOCOL_VERSION: &str = "alert 70";
const NO_RENEGOTIATION: &str = "alert 100";
/// The first is declined, and many end the connection.
const DECLINED: &str = "alert 100 or cut off";
const SERVED: &str = "HTTP/1.1 200 OK";
const SUITES: [(&str, &str); 6] = [
    ("1.3", "aes128gcm"),
    ("1.3", "aes256gcm"),
    ("1.3", "chacha20-poly1305"),
    ("1.2", "aes128gcm"),
    ("1.2", "aes256gcm"),
    ("1.2", "chacha20-poly1305"),
];
/// Tens of thousands of hostile records leave no more than this.
const GROWTH_MIB: u64 = 32;

/// A case, its outcome in TLS 1.3, and in TLS 1.2. None if that version has no such case.
const CASES: [(&str, Option<&str>, Option<&str>); 20] = [
    ("honest", Some(SERVED), Some(SERVED)),
    ("empty_flood", Some(ENDED), Some(ENDED)),
    ("warning_flood", Some(ENDED), Some(ENDED)),
    ("bad_mac", Some(BAD_RECORD_MAC), Some(BAD_RECORD_MAC)),
    ("oversize", Some(RECORD_OVERFLOW), Some(RECORD_OVERFLOW)),
    ("oversize_header", Some(RECORD_OVERFLOW), Some(RECORD_OVERFLOW)),
    ("short_record", Some(BAD_RECORD_MAC), Some(BAD_RECORD_MAC)),
    ("unprotected", Some(UNEXPECTED_MESSAGE), Some(BAD_RECORD_MAC)),
    ("no_record", Some(PROTOCOL_VERSION), Some(PROTOCOL_VERSION)),
    ("renegotiation", Some(UNEXPECTED_MESSAGE), Some(NO_RENEGOTIATION)),
    ("renegotiation_flood", Some(ENDED), Some(DECLINED)),
    ("unknown_kind", Some(UNEXPECTED_MESSAGE), Some(UNEXPECTED_MESSAGE)),
    ("heartbeat", Some(UNEXPECTED_MESSAGE), Some(UNEXPECTED_MESSAGE)),
    ("byte_by_byte", Some(SERVED), Some(SERVED)),
    ("half_close", Some("closed"), Some("closed")),
    ("left_in_a_record", Some("closed"), Some("closed")),
    ("key_updates", Some(SERVED), None),
    ("key_update_flood", Some(ENDED), None),
    ("half_key_update", Some(UNEXPECTED_MESSAGE), None),
    ("padded", Some(SERVED), None),
];

fn peer() -> PathBuf {
    let target = std::env::current_exe().expect("the path of this test");
    let peer = target.ancestors().nth(3).expect("target/debug/deps/NAME").join("hostile-peer");
    assert!(peer.join("complete").exists(), "{} is missing: run tests/hostile-peer", peer.display());
    peer.join("bin/python3")
}

#[test]
fn a_hostile_peer_gets_the_alert_it_deserves_and_nothing_grows() {
    let _alone = heavy();
    let world = World::new();
    let entrepot = Entrepot::start(&world, Settings::new());
    let attack = || {
        let mut python = Command::new(peer());
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("product/hostile_tls.py");
        python.arg("-I").arg(script).args([PROXY_ADDRESS, "5443"]);
        finish(&world.client, python, Duration::from_secs(240)).expect_success("the hostile peer")
    };
    let outcomes = attack();
    let before_mib = entrepot.memory_mib();
    let mut wrong = Vec::new();
    for (version, cipher) in SUITES {
        for (case, in_13, in_12) in CASES {
            let Some(expected) = (if version == "1.3" { in_13 } else { in_12 }) else { continue };
            let name = format!("{version} {cipher} {case}: ");
            let outcome = outcomes.stdout.lines().find_map(|line| line.strip_prefix(&name));
            if !expected.split(" or ").any(|one| outcome == Some(one)) {
                wrong.push(format!("{name}{outcome:?} instead of {expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    attack();
    let grown_mib = entrepot.memory_mib().saturating_sub(before_mib);
    assert!(grown_mib <= GROWTH_MIB, "the hostile peer left {grown_mib} MiB behind");
}
