//! `entrepot config get` and `set`: one key is changed, comments stay, a refusal leaves the file unchanged, and a
//! running server uses the change after a reload.

use entrepot_tests::entrepot::{Entrepot, Settings, run};
use entrepot_tests::world::World;
use http::Method;

#[test]
fn a_changed_key_is_taken_over_by_a_reload() {
    let world = World::new();
    let settings = Settings::new().set("cache", "# big\nmax_size = \"1g\" # enough");
    let entrepot = Entrepot::start(&world, settings.clone());
    let set = entrepot.command(&["config", "set", "cache.max_size", "2g"]).expect_success("set");
    assert!(set.stdout.contains("set cache.max_size in ") && set.stdout.contains("when it reloads"), "{}", set.stdout);
    let text = std::fs::read_to_string(world.path("entrepot.toml")).expect("the file");
    assert_eq!(text, settings.toml(&world).replace("max_size = \"1g\" # enough", "max_size = \"2g\" # enough"));
    assert_eq!(entrepot.stat("max_size"), 1 << 30, "not before the reload");
    assert_eq!(entrepot.admin(Method::POST, "/api/reload").0, 200);
    assert_eq!(entrepot.stat("max_size"), 2 << 30);
}

#[test]
fn what_is_refused_leaves_the_file_as_it_is() {
    let world = World::new();
    let settings = Settings::new().set("cache", "# big\nmax_size = \"1g\"");
    for (arguments, code, told) in [
        (["cache.max_sise", "2g"], 64, "did you mean \"max_size\"?"),
        (["cache.max_size", "lots"], 78, "\"lots\""),
        (["proxy.max_connections", "many"], 64, "proxy.max_connections must be a whole number"),
        (["cache.patterns", "[\"(\"]"], 78, "cache.patterns"),
        (["proxy.allow_push", "maybe"], 64, "true or false"),
    ] {
        let refused = run(&world, &settings, &["config", "set", arguments[0], arguments[1]]);
        assert_eq!(refused.status.code(), Some(code), "{arguments:?}: {}{}", refused.stdout, refused.stderr);
        assert!(refused.stderr.contains(told), "{arguments:?}: {}", refused.stderr);
        let text = std::fs::read_to_string(world.path("entrepot.toml")).expect("the file");
        assert_eq!(text, settings.toml(&world), "{arguments:?}");
    }
}

#[test]
fn values_are_read_and_secrets_are_masked() {
    let world = World::new();
    let account = "registry = \"ghcr.io\"\nusername = \"robot\"\npassword = \"canary-1\"";
    let settings = Settings::new().set("[[credentials]]", account).set("cache", "max_size = \"1g\"");
    let get = |key: &str| run(&world, &settings, &["config", "get", key]).expect_success(key).stdout;
    assert_eq!(get("cache.max_size"), "1g\n");
    assert_eq!(get("proxy.allow_push"), "false\n", "a default");
    assert_eq!(get("credentials.\"ghcr.io\".username"), "robot\n");
    assert_eq!(get("credentials.\"ghcr.io\".password"), "********\n");
    let refused = run(&world, &settings, &["config", "get", "cache.max_sise"]);
    assert_eq!(refused.status.code(), Some(64), "{}", refused.stderr);
    assert!(refused.stderr.contains("did you mean \"max_size\"?"), "{}", refused.stderr);
}
