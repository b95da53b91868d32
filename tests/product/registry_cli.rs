//! `entrepot registry`: an administrator's work on the push registry from the command line.

use entrepot_tests::entrepot::{Entrepot, Settings};
use entrepot_tests::images;
use entrepot_tests::upstream::{PLAIN, Upstream};
use entrepot_tests::world::{PROXY_ADDRESS, World, address_of};
use serde_json::Value;

fn plain(name: &str) -> String {
    format!("{PROXY_ADDRESS}:5000/{name}")
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
}

#[test]
fn repositories_are_listed_removed_and_collected() {
    let world = World::new();
    let entrepot = Entrepot::start(&world, Settings::new());
    let client = entrepot.neighbour().insecure(&format!("{PROXY_ADDRESS}:5000"));
    let (first, second) = (images::random(1, 2, 100_000), images::random(2, 1, 100_000));
    for (image, name) in [(&first, "team/app:v1"), (&second, "team/app:v2"), (&second, "other:v1")] {
        client.skopeo_push(image, &plain(name), None).expect_success(name);
    }
    let registry = |arguments: &[&str]| entrepot.command(&[&["registry"][..], arguments].concat());
    let listed = registry(&["ls"]).expect_success("ls").stdout;
    let rows: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((&rows[1][..3], &rows[2][..3]), (&["other", "1", "1"][..], &["team/app", "2", "2"][..]), "{listed}");
    let tags = lines(&registry(&["tags", "team/app", "--json"]).expect_success("tags").stdout);
    assert_eq!((tags[0]["tag"].as_str(), tags[0]["digest"].as_str()), (Some("v1"), Some(&*first.digest)));

    let refused = registry(&["rm", "team/app:v1", "other"]).expect_failure("rm of a whole repository");
    assert_eq!((refused.status.code(), refused.stderr.contains("--all")), (Some(64), true), "{}", refused.stderr);
    client.skopeo_pull(&plain("team/app:v1"), None).expect_success("nothing was removed");
    let removed = registry(&["rm", "--all", "team/app:v1", "other"]).expect_success("rm").stdout;
    assert_eq!(removed.matches("layers that nothing else needs are kept until").count(), 2, "{removed}");
    client.skopeo_pull(&plain("team/app:v1"), None).expect_failure("a tag that was removed");
    client.skopeo_pull(&plain("other:v1"), None).expect_failure("a repository that was removed");
    client.skopeo_pull(&plain("team/app:v2"), None).expect_success("what was not");
    let gone = registry(&["rm", "other"]).expect_failure("rm of what is gone");
    assert_eq!((gone.status.code(), gone.stderr.contains("other")), (Some(66), true), "{}", gone.stderr);

    let would = registry(&["gc", "--dry-run", "--grace", "0s"]).expect_success("gc --dry-run").stdout;
    assert!(would.starts_with("would free "), "{would}");
    let freed = lines(&registry(&["gc", "--grace", "0s", "--json"]).expect_success("gc").stdout);
    let last = freed.last().expect("a line");
    let bytes = last["freed_bytes"].as_u64().unwrap_or_default();
    assert!(last["event"] == "finished" && bytes >= first.blob_bytes(), "{last}");
    assert!(bytes < first.blob_bytes() + second.blob_bytes(), "what is shared stays: {last}");
    client.skopeo_pull(&plain("team/app:v2"), None).expect_success("what somebody needs");
}

#[test]
fn a_tree_of_dockers_registry_is_taken_over() {
    let world = World::new();
    let old = Upstream::start(&world, PLAIN);
    let (image, index) = (images::random(3, 3, 300_000), images::index(4));
    old.publish(&image, "team/app", "1");
    old.publish(&image, "team/deep/er/copy", "1");
    old.publish_index(&index, "team/multi", "latest");
    // docker-registry's data on disk. It is stopped, as in a migration.
    let port =
        6000 + address_of("plain.test").rsplit('.').next().and_then(|last| last.parse::<u16>().ok()).expect("v4");
    let tree = world.path(&format!("registry-{port}"));
    drop(old);
    let entrepot = Entrepot::start(&world, Settings::new());
    let client = entrepot.neighbour().insecure(&format!("{PROXY_ADDRESS}:5000"));
    let import = |more: &[&str]| {
        let directory = tree.to_str().expect("text");
        entrepot.command(&[&["registry", "import", directory][..], more].concat()).expect_success("import").stdout
    };
    let told = import(&[]);
    assert!(told.contains("team/deep/er/copy: 1 manifest, 1 tag\n"), "{told}");
    assert!(told.contains("took over 3 repositories, 6 manifests, 3 tags"), "{told}");
    for name in ["team/app:1", "team/deep/er/copy:1", "team/multi:latest"] {
        client.skopeo_pull(&plain(name), None).expect_success(name);
    }
    client.podman_pull(&plain("team/multi:latest"), None).expect_success("podman");
    let tags = lines(&entrepot.command(&["registry", "tags", "team/multi", "--json"]).expect_success("tags").stdout);
    assert_eq!(tags[0]["digest"].as_str(), Some(&*index.digest), "verbatim");
    let again = lines(&import(&["--json"]));
    let last = again.last().expect("a line");
    assert_eq!((last["event"].as_str(), last["blobs"].as_u64()), (Some("finished"), Some(0)), "nothing twice: {last}");
    let nothing = entrepot.command(&["registry", "import", "/"]).expect_failure("import of what is no tree");
    assert!(nothing.stderr.contains("docker/registry/v2"), "{}", nothing.stderr);
}
