//! Every command against a real admin door on a real socket.

use futures_util::FutureExt;

use super::*;
use crate::admin::fixture::{TestDoor, backend, digest, now};
use crate::admin::{AdminBackend, OperationError};

/// A command's output, its progress, and its exit code (0 for success).
async fn entrepot(door: &TestDoor, command: CacheCommand, json: bool, answer: Option<bool>) -> (String, String, u8) {
    let (mut out, mut progress) = (Vec::new(), Vec::new());
    let mut console = CacheConsole { out: &mut out, progress: Some(&mut progress), confirm: &mut |_| answer, json };
    let result = execute(&command, &AdminClient::new(&door.socket), &mut console).await;
    let code = result.as_ref().map_or_else(CacheError::exit_code, |()| 0);
    let said = result.err().map(|error| error.to_string()).unwrap_or_default();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (text(out) + &said, text(progress), code)
}

fn rm(targets: &[&str]) -> CacheCommand {
    CacheCommand::Rm { targets: targets.iter().map(|target| target.parse().expect(target)).collect() }
}

#[tokio::test]
async fn stats_and_ls() {
    let door = TestDoor::open(None).await;
    let (shown, _, code) = entrepot(&door, CacheCommand::Stats, false, None).await;
    assert!(code == 0 && shown.starts_with("hits           3 (75.0 %)"), "{shown}");
    let (json, _, _) = entrepot(&door, CacheCommand::Stats, true, None).await;
    assert!(json.starts_with(r#"{"hits":3,"misses":1,"stores":0,"#), "{json}");
    let (shown, _, code) = entrepot(&door, CacheCommand::Ls, false, None).await;
    assert!(code == 0 && shown.lines().count() == 4 && shown.contains(&digest(2).to_string()), "{shown}");
    let (json, _, _) = entrepot(&door, CacheCommand::Ls, true, None).await;
    assert!(json.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{json}");
    assert_eq!(json.lines().count(), 3);
    door.close().await;
}

#[tokio::test]
async fn rm_takes_what_is_there_and_says_what_is_not() {
    let door = TestDoor::open(None).await;
    let (present, absent) = (digest(1).to_string(), digest(9).to_string());
    let command = rm(&[&absent, "ghcr.io/a/b:gone", &present, "docker.io/busybox:v1"]);
    let (said, _, code) = entrepot(&door, command, false, None).await;
    assert_eq!(code, 66);
    assert!(said.contains(&format!("removed {present} (1 B)\nforgot registry-1.docker.io/library/busybox:v1")));
    let unknown = format!(
        "{absent}: the cache does not have this blob\nentrepot: ghcr.io/a/b:gone: the cache does not know this tag"
    );
    assert!(said.ends_with(&unknown), "{said}");
    let last = door.changes.lock().expect("not poisoned").last().cloned();
    assert_eq!(last.as_deref(), Some("registry-1.docker.io/library/busybox:v1"));
    for (target, code) in [("ghcr.io/a/b:gone", 66), (&absent, 66), (&present, 0), ("ghcr.io/a/b:v1", 0)] {
        for json in [false, true] {
            let (said, _, found) = entrepot(&door, rm(&[target]), json, None).await;
            assert_eq!((found, said.contains("the cache does not")), (code, code != 0), "{target}: {said}");
        }
    }
    door.close().await;
}

/// Nobody reads what was removed, and all of it is removed.
#[tokio::test]
async fn output_that_fails_stops_no_removal() {
    let door = TestDoor::open(None).await;
    let present = digest(1).to_string();
    let targets = rm(&[&present, "ghcr.io/a/b:v1", "docker.io/busybox:v1"]);
    let mut full: &mut [u8] = &mut [];
    let mut console = CacheConsole { out: &mut full, progress: None, confirm: &mut |_| None, json: false };
    let failed = execute(&targets, &AdminClient::new(&door.socket), &mut console).await.expect_err("it is full");
    assert_eq!(failed.exit_code(), 74);
    let changes = door.changes.lock().expect("not poisoned").clone();
    assert_eq!(changes, ["remove", "ghcr.io/a/b:v1", "registry-1.docker.io/library/busybox:v1"]);
    door.close().await;
}

#[tokio::test]
async fn clear_asks_first() {
    let door = TestDoor::open(None).await;
    for (yes, answer, code) in [(false, None, 64), (false, Some(false), 64)] {
        assert_eq!(entrepot(&door, CacheCommand::Clear { yes }, false, answer).await.2, code);
        assert!(door.changes.lock().expect("not poisoned").is_empty(), "nothing was cleared");
    }
    for (yes, answer) in [(false, Some(true)), (true, None)] {
        let (said, _, code) = entrepot(&door, CacheCommand::Clear { yes }, false, answer).await;
        assert_eq!((said.as_str(), code), ("dropped 3 blobs, 6 B\n", 0));
    }
    door.close().await;
}

#[tokio::test]
async fn verify_names_what_is_bad() {
    let door = TestDoor::open(None).await;
    let (said, progress, code) = entrepot(&door, CacheCommand::Verify, false, None).await;
    assert_eq!(code, 65);
    assert!(said.starts_with(&format!("corrupt    {} (2 B)\n2 blobs, 3 B, 1 bad\n", digest(2))), "{said}");
    assert!(progress.contains("\rverifying 2 of 2"), "{progress:?}");
    let (json, _, code) = entrepot(&door, CacheCommand::Verify, true, None).await;
    assert_eq!((json.lines().filter(|line| line.starts_with(r#"{"event":"#)).count(), code), (3, 65));
    door.close().await;
}

#[tokio::test]
async fn a_verification_that_stops_is_a_failure() {
    let changes = std::sync::Arc::default();
    for (is_a_bug, code) in [(false, 74), (true, 69)] {
        let verify = Box::new(move |_| match is_a_bug {
            true => async { panic!("a bug") }.boxed(),
            false => now(Err(OperationError::Failed("the disk".into()))),
        });
        let backend = AdminBackend { verify, ..backend(&changes) };
        let door = TestDoor::open_with(backend, std::sync::Arc::clone(&changes), None).await;
        assert_eq!(entrepot(&door, CacheCommand::Verify, false, None).await.2, code);
        door.close().await;
    }
}

#[test]
fn without_a_server() {
    let folder = tempfile::tempdir().expect("a folder");
    let code = run(&CacheCommand::Stats, &folder.path().join("admin.sock"), false);
    assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(69)));
}

#[test]
fn targets() {
    let digest = digest(1).to_string();
    for (text, shown) in [
        (digest.as_str(), digest.as_str()),
        ("ghcr.io/a/b:v1", "ghcr.io/a/b:v1"),
        ("reg.example:5000/a:v1", "reg.example:5000/a:v1"),
        ("localhost/a:v1", "localhost/a:v1"),
        ("docker.io/busybox:1", "registry-1.docker.io/library/busybox:1"),
        ("docker.io/a/b:1", "registry-1.docker.io/a/b:1"),
    ] {
        assert_eq!(text.parse::<CacheTarget>().map(|target| target.to_string()).as_deref(), Ok(shown));
    }
    for bad in ["", "busybox", "busybox:latest", "library/busybox:latest", "ghcr.io/a", "ghcr.io/a:", "sha256:abc"] {
        assert_eq!(bad.parse::<CacheTarget>(), Err(CacheTargetError), "{bad}");
    }
}
