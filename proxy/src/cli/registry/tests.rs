//! The commands against a server with prepared answers.

use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};

use super::*;
use crate::admin::registry::CollectionReport;

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Takes one request on each connection and gives the next answer of the list. It records the requests.
async fn serve<S: AsyncReadExt + AsyncWriteExt + Unpin>(mut stream: S, asked: &Mutex<Vec<String>>, answer: &str) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a head"));
    }
    asked.lock().expect("not poisoned").push(String::from_utf8(head).expect("text"));
    let (status, body) = answer.split_once(' ').expect("status and body");
    let text = format!("HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(text.as_bytes()).await.expect("sent");
}

struct Ran {
    out: String,
    code: u8,
    asked: Vec<String>,
    message: String,
}

/// Runs a command against a socket that gives these answers, each as `status body`.
async fn ran(command: RegistryCommand, json: bool, answers: &[&str]) -> Ran {
    let folder = TempDir::new().expect("a folder");
    let socket = folder.path().join("admin.sock");
    let listener = UnixListener::bind(&socket).expect("bound");
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let answers: Vec<String> = answers.iter().map(|answer| answer.to_string()).collect();
    let noted = asked.clone();
    let server = tokio::spawn(async move {
        for answer in answers {
            let (stream, _) = listener.accept().await.expect("a connection");
            serve(stream, &noted, &answer).await;
        }
    });
    let mut out = Vec::new();
    let mut console = RegistryConsole { out: &mut out, bar: ProgressBar::hidden(), json };
    let outcome = execute(&command, &AdminClient::new(&socket), true, &mut console).await;
    server.abort();
    let (code, message) = outcome.map_or_else(|error| (error.exit_code(), error.to_string()), |()| (0, String::new()));
    let lines =
        asked.lock().expect("not poisoned").iter().map(|head| head.lines().next().unwrap_or("").to_owned()).collect();
    Ran { out: String::from_utf8(out).expect("text"), code, asked: lines, message }
}

#[tokio::test]
async fn repositories_are_listed_page_by_page() {
    let pages = [
        r#"200 {"repositories":[{"name":"a","tags":1,"manifests":2,"size":2048}],"next":"a"}"#,
        r#"200 {"repositories":[{"name":"team/app","tags":0,"manifests":0,"size":0}],"next":null}"#,
    ];
    let listed = ran(RegistryCommand::Ls, false, &pages).await;
    let rows: Vec<Vec<&str>> = listed.out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["REPOSITORY", "TAGS", "MANIFESTS", "SIZE"]);
    assert_eq!((&rows[1][..], rows[2][0]), (&["a", "1", "2", "2.0", "KiB"][..], "team/app"));
    assert_eq!(
        listed.asked,
        ["GET /api/registry/repositories? HTTP/1.1", "GET /api/registry/repositories?after=a HTTP/1.1"]
    );
    let json = ran(RegistryCommand::Ls, true, &pages).await.out;
    assert_eq!(json.lines().count(), 2);
    assert!(json.starts_with(r#"{"name":"a","tags":1,"manifests":2,"size":2048}"#), "{json}");
}

#[tokio::test]
async fn tags_are_listed() {
    let answer =
        format!(r#"200 {{"name":"a","tags":[{{"tag":"v1","digest":"{DIGEST}","size":10,"media_type":"t"}}]}}"#);
    let command = || RegistryCommand::Tags { repository: "team/app".parse().expect("a name") };
    let listed = ran(command(), false, &[&answer]).await;
    assert!(
        listed.out.contains(DIGEST) && listed.asked[0].contains("tags?repository=team%2Fapp "),
        "{}",
        listed.asked[0]
    );
    let unknown = ran(command(), false, &[r#"404 {"error":"no such repository"}"#]).await;
    assert_eq!((unknown.code, unknown.message.as_str()), (66, "no such repository"));
}

#[tokio::test]
async fn each_target_is_removed_by_its_own_path() {
    let targets = ["a:v1", &format!("a@{DIGEST}"), "team/app", "gone"].map(|text| text.parse().expect("a target"));
    let done = r#"200 {"status":"ok","tags":["v1"],"manifests":["sha256:0"]}"#;
    let answers = [done, done, done, r#"404 {"error":"no such repository"}"#];
    let ran = ran(RegistryCommand::Rm { targets: targets.to_vec() }, false, &answers).await;
    assert_eq!(
        ran.asked,
        [
            "DELETE /api/registry/tags?repository=a&tag=v1 HTTP/1.1".to_owned(),
            format!("DELETE /api/registry/manifests?repository=a&digest={} HTTP/1.1", DIGEST.replace(':', "%3A")),
            "DELETE /api/registry/repositories?repository=team%2Fapp HTTP/1.1".to_owned(),
            "DELETE /api/registry/repositories?repository=gone HTTP/1.1".to_owned(),
        ]
    );
    assert!(ran.out.contains("removed a:v1 (1 tag, 1 manifest)\n"), "{}", ran.out);
    assert_eq!((ran.code, ran.message.as_str()), (66, "gone: no such repository"));
}

#[tokio::test]
async fn a_collection_is_followed_to_its_end() {
    let finished = |dry_run| {
        let collection = CollectionReport { dry_run, freed_blobs: 2, freed_bytes: 1024, ..CollectionReport::default() };
        serde_json::to_string(&GcLine::Finished(collection)).expect("JSON")
    };
    let step = r#"{"event":"repositories","done":1,"total":2}"#;
    let answer = |dry_run| format!("200 {step}\n{}\n", finished(dry_run));
    let command = |dry_run| RegistryCommand::Gc { dry_run, untagged: false, grace: Some(Duration::from_secs(3600)) };
    let real = ran(command(false), false, &[&answer(false)]).await;
    assert_eq!((real.out.as_str(), real.code), ("freed 1.0 KiB: 2 blobs\n", 0));
    assert_eq!(real.asked, ["POST /api/registry/gc?dry_run=false&untagged=false&grace=3600s HTTP/1.1"]);
    assert_eq!(ran(command(true), false, &[&answer(true)]).await.out, "would free 1.0 KiB: 2 blobs\n");
    let json = ran(command(false), true, &[&answer(false)]).await.out;
    assert_eq!(json.lines().last(), Some(&*finished(false)));
    let failed = ran(command(false), false, &["200 {\"event\":\"failed\",\"error\":\"the disk\"}\n"]).await;
    assert_eq!((failed.code, failed.message.as_str()), (74, "the collection stopped: the disk"));
    let cut_off = ran(command(false), false, &[&format!("200 {step}\n")]).await;
    assert_eq!(cut_off.code, 69);
}

#[tokio::test]
async fn an_import_names_what_it_left_out() {
    let folder = TempDir::new().expect("a folder");
    let command = || RegistryCommand::Import { directory: folder.path().to_owned() };
    let finished = |skipped| {
        format!(
            r#"{{"event":"finished","repositories":1,"manifests":1,"tags":1,"blobs":2,"bytes":10,"skipped":{skipped}}}"#
        )
    };
    let news = r#"{"event":"planned","repositories":1,"blobs":2,"bytes":10}
{"event":"blob","digest":"d","size":5,"how":"linked"}
{"event":"repository","name":"a","manifests":1,"tags":1}"#;
    let whole = ran(command(), false, &[&format!("200 {news}\n{}\n", finished(0))]).await;
    let expected = "a: 1 manifest, 1 tag\ntook over 1 repository, 1 manifest, 1 tag; 2 blobs (10 B) were new\n";
    assert_eq!((whole.out.as_str(), whole.code), (expected, 0));
    let skipped = r#"{"event":"skipped","what":"a@d","why":"it is gone"}"#;
    let partly = ran(command(), false, &[&format!("200 {news}\n{skipped}\n{}\n", finished(1))]).await;
    assert!(partly.out.contains("left out a@d: it is gone\n") && partly.code == 65, "{}", partly.out);
    let nowhere = ran(RegistryCommand::Import { directory: folder.path().join("none") }, false, &[]).await;
    assert_eq!((nowhere.code, nowhere.asked.len()), (66, 0));
}

#[tokio::test]
async fn a_url_is_asked_with_the_token() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let noted = asked.clone();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a connection");
        serve(stream, &noted, r#"200 {"repositories":[],"next":null}"#).await;
    });
    let folder = TempDir::new().expect("a folder");
    let token_file = folder.path().join("token");
    std::fs::write(&token_file, "canary-token\n").expect("written");
    let server =
        AdminAddress { url: Some(format!("http://{address}").parse().expect("a URL")), token_file: Some(token_file) };
    let Ok(client) = client(&server, Path::new("/nowhere")) else { panic!("a client") };
    let mut out = Vec::new();
    let mut console = RegistryConsole { out: &mut out, bar: ProgressBar::hidden(), json: true };
    execute(&RegistryCommand::Ls, &client, false, &mut console).await.expect("listed");
    let head = asked.lock().expect("not poisoned")[0].to_ascii_lowercase();
    assert!(
        head.contains("authorization: bearer canary-token\r\n") && head.contains(&format!("host: {address}\r\n")),
        "{head}"
    );
}

#[test]
fn targets() {
    for text in ["a", "team/app", "team/app:v1", &format!("team/app@{DIGEST}")] {
        assert_eq!(text.parse::<RegistryTarget>().map(|target| target.to_string()).as_deref(), Ok(text));
    }
    for bad in ["", "A", "a:", ":v1", "a@", "a@sha256:0", "a:b:c", "/a"] {
        assert_eq!(bad.parse::<RegistryTarget>(), Err(RegistryTargetError), "{bad}");
    }
}
