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

/// Runs a command against a socket that gives these answers, each as `status body`. Nobody can be asked.
async fn ran(command: RegistryCommand, json: bool, answers: &[&str]) -> Ran {
    let mut out = Vec::new();
    let ran = ran_with((command, json), answers, &mut |_| None, &mut out).await;
    Ran { out: String::from_utf8(out).expect("text"), ..ran }
}

async fn ran_with(
    (command, json): (RegistryCommand, bool),
    answers: &[&str],
    confirm: &mut dyn FnMut(&str) -> Option<bool>,
    out: &mut dyn Write,
) -> Ran {
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
    let mut console = RegistryConsole { out, unwritten: None, bar: ProgressBar::hidden(), confirm, json };
    let outcome = execute(&command, &AdminClient::new(&socket), true, &mut console).await;
    server.abort();
    let (code, message) = outcome.map_or_else(|error| (error.exit_code(), error.to_string()), |()| (0, String::new()));
    let lines =
        asked.lock().expect("not poisoned").iter().map(|head| head.lines().next().unwrap_or("").to_owned()).collect();
    Ran { out: String::new(), code, asked: lines, message }
}

fn rm(all: bool, targets: &[&str]) -> RegistryCommand {
    RegistryCommand::Rm { all, targets: targets.iter().map(|text| text.parse().expect(text)).collect() }
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
    let targets = rm(true, &["a:v1", &format!("a@{DIGEST}"), "gone", "team/app", "lost"]);
    let done = r#"200 {"status":"ok","tags":["v1"],"manifests":["sha256:0"]}"#;
    let waiting = r#"200 {"status":"ok","tags":["v1"],"manifests":["sha256:0"],"freed_from_unix_seconds":1796097600,
        "collected_every_seconds":21600}"#;
    let gone = r#"404 {"error":"no such repository"}"#;
    let ran = ran(targets, false, &[done, done, gone, waiting, gone]).await;
    assert_eq!(
        ran.asked,
        [
            "DELETE /api/registry/tags?repository=a&tag=v1 HTTP/1.1".to_owned(),
            format!("DELETE /api/registry/manifests?repository=a&digest={} HTTP/1.1", DIGEST.replace(':', "%3A")),
            "DELETE /api/registry/repositories?repository=gone HTTP/1.1".to_owned(),
            "DELETE /api/registry/repositories?repository=team%2Fapp HTTP/1.1".to_owned(),
            "DELETE /api/registry/repositories?repository=lost HTTP/1.1".to_owned(),
        ]
    );
    assert!(ran.out.contains("removed a:v1 (1 tag, 1 manifest)\n"), "{}", ran.out);
    let when = "removed team/app (1 tag, 1 manifest); layers that nothing else needs are kept until \
                2026-12-01T04:00:00Z, and freed by the next collection after that, at most 6h later\n";
    assert!(ran.out.contains(when), "{}", ran.out);
    let named = "gone: no such repository\nentrepot: lost: no such repository";
    assert_eq!((ran.code, ran.message.as_str()), (66, named));
}

/// A whole repository needs `--all`, or a yes of the person at the terminal. Before that nothing is removed at all.
#[tokio::test]
async fn whole_repositories_are_asked_about() {
    let list = r#"200 {"name":"team/app","tags":[{"tag":"v1","digest":"d","size":1,"media_type":"t"}]}"#;
    let unknown = r#"404 {"error":"the registry has no such repository"}"#;
    let done = r#"200 {"status":"ok","tags":["v1"],"manifests":[]}"#;
    for (targets, answer, answers, code, said, removals) in [
        (&["team/app"][..], None, &[list][..], 64, "say --all to remove it", 0),
        (&["team/app"], Some(false), &[list], 64, "nothing was removed", 0),
        (&["team/app"], Some(true), &[list, done], 0, "", 1),
        (&["team/app"], None, &[unknown], 66, "team/app: the registry has no such repository", 0),
        // Tags before it stay too.
        (&["a:v1", "team/app"], None, &[list], 64, "or name one tag as team/app:TAG", 0),
        (&["a:v1", &format!("a@{DIGEST}")], None, &[done, done], 0, "", 2),
    ] {
        let mut questions = Vec::new();
        let mut confirm = |question: &str| {
            questions.push(question.to_owned());
            answer
        };
        let ran = ran_with((rm(false, targets), false), answers, &mut confirm, &mut Vec::new()).await;
        assert_eq!((ran.code, ran.message.contains(said)), (code, true), "{targets:?}: {}", ran.message);
        let removed = ran.asked.iter().filter(|line| line.starts_with("DELETE")).count();
        assert_eq!(removed, removals, "{targets:?}: {:?}", ran.asked);
        assert!(questions.iter().all(|question| question == "Remove team/app with 1 tag?"), "{questions:?}");
    }
    let forced = ran(rm(true, &["team/app"]), false, &[done]).await;
    assert_eq!((forced.code, forced.asked.len()), (0, 1), "it is not asked about");
}

/// Nobody reads what happens, and it happens to its end.
#[tokio::test]
async fn output_that_fails_stops_only_lists() {
    let done = r#"200 {"status":"ok","tags":["v1"],"manifests":[]}"#;
    let page = r#"200 {"repositories":[{"name":"a","tags":1,"manifests":2,"size":2048}],"next":"a"}"#;
    let step = r#"200 {"event":"planned","repositories":1,"blobs":2,"bytes":10}
{"event":"repository","name":"a","manifests":1,"tags":1}
{"event":"finished","repositories":1,"manifests":1,"tags":1,"blobs":2,"bytes":10,"skipped":0}"#;
    let import = || RegistryCommand::Import { directory: "/".into() };
    for (command, answers, asked) in [
        (rm(true, &["a:v1", "a:v2", "b"]), &[done, done, done][..], 3),
        (import(), &[&format!("{step}\n")], 1),
        (RegistryCommand::Ls, &[page, page], 1),
    ] {
        let mut full: &mut [u8] = &mut [];
        let ran = ran_with((command, false), answers, &mut |_| None, &mut full).await;
        assert_eq!((ran.code, ran.asked.len()), (74, asked), "{:?}: {}", ran.asked, ran.message);
    }
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
    let bar = ProgressBar::hidden();
    let confirm = &mut |_: &str| None;
    let mut console = RegistryConsole { out: &mut out, unwritten: None, bar, confirm, json: true };
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
