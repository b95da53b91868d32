//! `[registry]`: the ready form, and the errors.

use entrepot_core::quantity::Size;
use entrepot_core::scope::{Action, Actions};

use super::Case;
use crate::ready::rights::{AuthMethod, RuleSubject};

const HASH: &str = "$2y$05$abcdefghijklmnopqrstuuS3IfcqE2Cpe9e0oBDnxYBrvQuAUj9jC";

/// The text, with a file that has one account, alice.
fn with_accounts(text: &str) -> Case {
    let case = Case::new("");
    let path = case.file("htpasswd", &format!("alice:{HASH}\n"));
    case.file("entrepot.toml", &format!("[registry]\nhtpasswd = {path:?}\n{text}"));
    case
}

#[test]
fn without_a_login_only_pulls_are_open_by_default() {
    let rights = Case::new("").loaded().config.live.registry.rights;
    assert_eq!((rights.anonymous, rights.auth), (Actions::PULL, AuthMethod::Token));
    assert!(rights.htpasswd.is_none() && !rights.read_only && rights.max_size.is_none());
    assert_eq!(rights.token_lifetime.as_secs(), 300);
}

#[test]
fn pushes_delete_nothing() {
    for (word, expected) in
        [("none", Actions::NONE), ("pull", Actions::PULL), ("push", Actions::PULL_AND_PUSH), ("delete", Actions::ALL)]
    {
        let rights = with_accounts(&format!("anonymous = {word:?}")).loaded().config.live.registry.rights;
        assert_eq!(rights.anonymous, expected, "{word}");
    }
}

#[test]
fn rules_quotas_tags_and_notifications() {
    let registry = with_accounts(
        r#"anonymous = "none"
        read_only = true
        max_size = "10g"
        immutable_tags = ["v*", "team/*:release"]
        [[registry.rules]]
        repository = "team/*"
        users = ["alice", "*", "anonymous"]
        actions = ["push"]
        [[registry.rules]]
        repository = "*"
        [[registry.quotas]]
        repository = "team/*"
        max_size = "1g"
        [[registry.notifications]]
        url = "https://ci.example/canary-path?key=canary-key"
        headers = { X-Key = "canary-header" }
        "#,
    )
    .loaded();
    let rights = &registry.config.live.registry.rights;
    assert_eq!((rights.anonymous, rights.read_only, rights.max_size), (Actions::NONE, true, Some(Size(10 << 30))));
    let [first, second] = &rights.rules[..] else { panic!("two rules") };
    assert!(first.repositories.is_match("team/a/b") && !first.repositories.is_match("teams"));
    let alice = RuleSubject::Account("alice".to_owned());
    assert_eq!(first.subjects, [alice, RuleSubject::AnyAccount, RuleSubject::Anonymous]);
    assert!(first.actions.contains(Action::Pull) && !first.actions.contains(Action::Delete), "who pushes looks first");
    assert_eq!((&second.subjects[..], second.actions), (&[RuleSubject::AnyAccount][..], Actions::PULL));
    let [everywhere, here] = &rights.immutable_tags[..] else { panic!("two patterns") };
    assert!(everywhere.repositories.is_none() && everywhere.tags.is_match("v1.2"));
    assert!(here.repositories.as_ref().is_some_and(|globs| globs.is_match("team/x")) && here.tags.is_match("release"));
    assert_eq!(rights.quotas[0].max_size, Size(1 << 30));
    let [hook] = &registry.config.live.registry.notifications[..] else { panic!("one receiver") };
    assert_eq!((hook.name.as_str(), hook.queue), ("https://ci.example", 1000));
    assert_eq!(hook.url.expose(), "https://ci.example/canary-path?key=canary-key");
    let table = registry.effective.table(|_| None);
    assert!(!table.contains("canary"), "{table}");
}

#[test]
fn further_names_are_hosts_and_addresses_without_ports() {
    let text = r#"[registry]
        names = ["Cache.Example", "192.0.2.7", "fd00::5", "[fd00::6]"]"#;
    let names = Case::new(text).loaded().config.live.registry.names;
    let names: Vec<_> = names.iter().map(|host| host.name()).collect();
    assert_eq!(names, ["cache.example", "192.0.2.7", "fd00::5", "fd00::6"]);
    for bad in ["cache.example:5000", "http://cache.example", "a b", "[fd00::5]:80", ""] {
        let error = Case::new(&format!("[registry]\nnames = [{bad:?}]")).error();
        assert!(error.contains("registry.names: "), "{bad}: {error}");
    }
}

#[test]
fn mistakes_are_told() {
    for (text, expected) in [
        ("anonymous = \"all\"", "registry.anonymous: \"all\" is not one of pull, push, delete, none"),
        ("token_lifetime = \"5s\"", "registry.token_lifetime: \"5s\" is less than 1m"),
        ("auth = \"basic\"", "\"basic\" asks everybody to log in, but something is for anonymous clients"),
        ("[[registry.rules]]\nusers = [\"a\"]", "registry.rules.1: the entry has no repository"),
        ("[[registry.rules]]\nrepository = \"[\"", "registry.rules.1.repository: \"[\" is not a glob"),
        ("[[registry.rules]]\nrepository = \"a\"\nactions = [\"fly\"]", "\"fly\" is not one of pull, push, delete"),
        ("[[registry.quotas]]\nrepository = \"a\"", "registry.quotas.1: the entry has no max_size"),
        ("[[registry.notifications]]\nqueue = 1", "registry.notifications.1: the entry has no url"),
        ("[[registry.notifications]]\nurl = \"ftp://canary\"", "not an http or https address"),
        ("[[registry.notifications]]\nurl = \"http://u:canary@a/\"", "an address with a user in it"),
    ] {
        let error = with_accounts(text).error();
        assert!(error.contains(expected) && !error.contains("canary"), "{text}: {error}");
    }
    let nobody = Case::new("[registry]\nanonymous = \"none\"").error();
    assert!(nobody.contains("nobody could pull or push") && nobody.contains("registry.htpasswd"), "{nobody}");
}

#[test]
fn accounts_that_cannot_be_read_are_pointed_out_and_stop_nothing() {
    let case = Case::new("");
    let path = case.file("htpasswd", &format!("alice:{HASH}\nbob:canary\n"));
    case.file("entrepot.toml", &format!("[registry]\nanonymous = \"none\"\nhtpasswd = {path:?}"));
    let loaded = case.loaded();
    let notice =
        "registry.htpasswd has accounts that cannot log in: line 2: not a bcrypt hash; make it with htpasswd -B";
    assert_eq!(loaded.notices, [notice]);
    assert_eq!(loaded.config.live.registry.rights.htpasswd, Some(path));
    case.file("entrepot.toml", "[registry]\nhtpasswd = \"/nowhere/htpasswd\"");
    let loaded = case.loaded();
    assert!(loaded.notices[0].contains("/nowhere/htpasswd"), "{:?}", loaded.notices);
}

#[test]
fn a_rule_for_accounts_without_accounts_is_pointed_out() {
    let loaded = Case::new("[[registry.rules]]\nrepository = \"a\"\nusers = [\"alice\"]").loaded();
    assert_eq!(loaded.notices, ["registry.rules name accounts, but registry.htpasswd is not set"]);
}
