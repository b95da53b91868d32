//! Configuration from outside: a bad one is refused in one clear line before any port is bound, `check` shows the
//! values in force, and SIGHUP puts only good ones in force.

use std::time::Duration;

use entrepot_tests::entrepot::{Entrepot, Settings, run};
use entrepot_tests::upstream::{GHCR, Upstream};
use entrepot_tests::world::World;
use http::Method;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

#[test]
fn bad_configurations_are_refused_in_one_line() {
    let world = World::new();
    std::fs::write(world.path("no-ca.pem"), "no certificate").expect("a file");
    let no_ca = format!("cert = {:?}\nkey = {:?}", world.path("no-ca.pem"), world.path("missing.pem"));
    let cases = [
        ("an unknown key", Settings::new().set("proxy", "tunel = \"any\""), "tunnel"),
        ("an unknown section", Settings::new().set("proxi", "listen = []"), "proxy"),
        ("a bad expression", Settings::new().set("cache", "patterns = [\"(\"]"), "patterns"),
        ("a bad size", Settings::new().set("cache", "max_size = \"many\""), "max_size"),
        ("a bad duration", Settings::new().set("cache", "inactive = \"soon\""), "inactive"),
        ("a bad word", Settings::new().set("proxy", "tunnel = \"maybe\""), "tunnel"),
        ("an unusable registry", Settings::new().set("registries.\"https://x/\"", "verify = false"), "https://x/"),
        ("a CA that is none", Settings::new().set("ca", &no_ca), "no-ca.pem"),
        ("no TOML", Settings::new().set("cache", "max_size ="), "entrepot.toml"),
    ];
    for (what, settings, hint) in cases {
        for command in ["check", "serve"] {
            let refused = run(&world, &settings, &[command]);
            assert_eq!(refused.status.code(), Some(78), "{what}, {command}: {}{}", refused.stdout, refused.stderr);
            assert_eq!(refused.stderr.trim_end().lines().count(), 1, "{what}, {command}: {}", refused.stderr);
            assert!(refused.stderr.contains(hint), "{what}, {command}: {}", refused.stderr);
        }
    }
    let misspelt = run(&world, &Settings::new().set("proxy", "tunel = \"any\""), &["check"]);
    let toml = Settings::new().set("proxy", "tunel = \"any\"").toml(&world);
    let line = 1 + toml.lines().position(|line| line.starts_with("tunel")).expect("in the file");
    assert!(misspelt.stderr.contains(&format!("entrepot.toml:{line}")), "file and line: {}", misspelt.stderr);
}

#[test]
fn an_index_of_a_later_program_is_refused_by_name() {
    let world = World::new();
    let mut entrepot = Entrepot::start(&world, Settings::new());
    entrepot.kill();
    let index = world.path("data/index.redb");
    let format: redb::TableDefinition<'_, (), u64> = redb::TableDefinition::new("format");
    let database = redb::Database::open(&index).expect("an index");
    let transaction = database.begin_write().expect("a transaction");
    transaction.open_table(format).expect("a table").insert((), 3).expect("a row");
    transaction.commit().expect("a commit");
    drop(database);
    let refused = run(&world, &Settings::new(), &["serve"]);
    assert_eq!(refused.status.code(), Some(78), "{}{}", refused.stdout, refused.stderr);
    let sentence = format!("{} has the format 3, but this entrepot knows formats up to 2", index.display());
    assert!(refused.stderr.contains(&sentence), "{}", refused.stderr);
}

#[test]
fn bad_environments_are_refused_too() {
    let world = World::new();
    for (name, value) in [("CACHE_MAX_SIZE", "lots"), ("MANIFEST_CACHE_PRIMARY_REGEX", "("), ("ALLOW_PUSH", "maybe")] {
        let settings = Settings::new().env("ENABLE_MANIFEST_CACHE", "true").env(name, value);
        let refused = run(&world, &settings, &["check"]);
        assert_eq!(refused.status.code(), Some(78), "{name}: {}{}", refused.stdout, refused.stderr);
        assert!(refused.stderr.contains(name), "{name} is named: {}", refused.stderr);
    }
}

#[test]
fn check_shows_values_and_where_they_come_from() {
    let world = World::new();
    let settings = Settings::new().set("cache", "inactive = \"7d\"").env("CACHE_MAX_SIZE", "5g");
    let checked = run(&world, &settings, &["check"]).expect_success("entrepot check");
    let line = |key: &str| {
        let found = checked.stdout.lines().find(|line| line.contains(key));
        found.unwrap_or_else(|| panic!("{key} in {}", checked.stdout)).to_owned()
    };
    let max_size = line("cache.max_size");
    assert!(max_size.contains("5g") && max_size.contains("CACHE_MAX_SIZE"), "{max_size}");
    assert!(line("inactive").contains("7d") && line("inactive").contains("entrepot.toml"), "{}", line("inactive"));
}

/// The row of a key in the answer of `/api/config`, or in that of `entrepot check --json`.
fn row(answer: &Value, key: &str) -> Value {
    let found = answer["effective"].as_array().and_then(|rows| rows.iter().find(|row| row["key"] == key));
    found.unwrap_or_else(|| panic!("{key} in {answer}")).clone()
}

#[test]
fn a_reload_swaps_what_it_can_and_names_what_waits_for_a_start() {
    let world = World::new();
    let settings = |workers: u32, size: &str| {
        let data_plane = format!("workers = {workers}");
        Settings::new().set("data_plane", &data_plane).set("cache", &format!("max_size = {size:?}"))
    };
    let entrepot = Entrepot::start(&world, settings(1, "5g"));
    entrepot.rewrite(&settings(2, "6g"));
    let told = |key| {
        let (status, answer) = entrepot.admin(Method::GET, "/api/config");
        assert_eq!(status, 200, "{answer}");
        row(&serde_json::from_str(&answer).expect("JSON"), key)
    };
    let size = told("cache.max_size");
    assert_eq!((&size["value"], &size["file_value"]), (&json!("5g"), &json!("6g")), "before the reload");

    assert_eq!(entrepot.admin(Method::POST, "/api/reload").0, 200);
    let warning = entrepot.process().wait_line("data_plane.workers", Duration::from_secs(5));
    assert!(warning.contains("read at the start only") && warning.contains("WARN"), "{warning}");
    let (workers, size) = (told("data_plane.workers"), told("cache.max_size"));
    assert_eq!((&workers["value"], &workers["file_value"]), (&json!(1), &json!(2)), "{workers}");
    assert_eq!(workers["applies"], "start");
    assert_eq!((&size["value"], size.get("file_value")), (&json!("6g"), None), "{size}");
    assert_eq!(entrepot.stat("max_size"), 6 << 30, "it is in force");
    let door = told("transparent.listen");
    assert!(
        door["applies"] == "start" && door.get("file_value").is_none(),
        "what did not change does not differ: {door}"
    );

    let check = |arguments: &[&str]| run(&world, &settings(2, "6g"), arguments).expect_success("entrepot check").stdout;
    let checked: Value = serde_json::from_str(&check(&["check", "--json"])).expect("JSON");
    let workers = row(&checked, "data_plane.workers");
    assert_eq!((&workers["value"], &workers["in_force"]), (&json!(2), &json!(1)), "{workers}");
    assert!(row(&checked, "cache.max_size").get("in_force").is_none(), "{checked}");
    let table = check(&["check"]);
    let line = table.lines().find(|line| line.starts_with("data_plane.workers")).unwrap_or_default();
    assert!(line.contains("= 2") && line.contains("read at start; in force: 1"), "{line}");
}

#[test]
fn a_wrong_word_on_the_command_line_is_a_usage_error() {
    let world = World::new();
    assert_eq!(run(&world, &Settings::new(), &["serv"]).status.code(), Some(64));
}

#[test]
fn reloading_takes_good_files_and_keeps_the_old_for_bad_ones() {
    let world = World::new();
    let _ghcr = Upstream::start(&world, GHCR);
    let open = Settings::new();
    let closed = Settings::new().set("proxy", "allow = [\"quay.io\"]");
    let entrepot = Entrepot::start(&world, open.clone());
    let door = entrepot.door();
    assert_eq!(door.connect("ghcr.io:443"), Ok(()));

    entrepot.rewrite(&closed);
    assert_eq!(entrepot.admin(Method::POST, "/api/reload").0, 200);
    assert!(door.connect("ghcr.io:443").is_err(), "the new list holds");

    entrepot.rewrite(&open.clone().set("proxy", "tunel = \"any\""));
    entrepot.process().signal(Signal::SIGHUP);
    let said = entrepot.process().wait_line("tunel", Duration::from_secs(5));
    assert!(said.contains("entrepot.toml"), "{said}");
    let (status, why) = entrepot.admin(Method::POST, "/api/reload");
    assert!(status == 409 && why.contains("tunel"), "{status} {why}");
    assert!(door.connect("ghcr.io:443").is_err(), "the last good list holds");
    let (status, answer) = entrepot.admin(Method::GET, "/api/config");
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    let error = answer["file_error"].as_str().unwrap_or_default();
    assert!(status == 200 && error.contains("entrepot.toml") && error.contains("tunel"), "{answer}");
    assert_eq!(row(&answer, "proxy.allow")["value"], json!(["quay.io"]), "the values in force are shown");

    entrepot.rewrite(&open);
    assert_eq!(entrepot.admin(Method::POST, "/api/reload").0, 200);
    assert_eq!(door.connect("ghcr.io:443"), Ok(()), "a good file after a bad one");
}
