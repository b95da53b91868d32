//! Tests of all layers together. Each file is written to a directory of its own and named `entrepot.toml` in messages.

mod errors;
mod registry;
mod sample;
mod variables;

use std::fs;
use std::path::{Path, PathBuf};

use entrepot_core::host::RegistryHost;
use entrepot_core::origin::{Origin, Scheme};
use tempfile::TempDir;

use super::*;
use crate::ready::TunnelPolicy;

/// Files and an environment to load.
pub(super) struct Case {
    pub(super) directory: TempDir,
    pub(super) variables: Vec<(String, String)>,
    pub(super) flags: Flags,
}

impl Case {
    /// A case with this text as its `entrepot.toml`.
    pub(super) fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let case = Self { directory, variables: Vec::new(), flags: Flags::default() };
        let path = case.file("entrepot.toml", text);
        Self { flags: Flags { config: Some(path), ..Flags::default() }, ..case }
    }

    /// A case without a file.
    pub(super) fn without_file() -> Self {
        let mut case = Self::new("");
        case.flags.config = None;
        case
    }

    pub(super) fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, content).expect("a file");
        path
    }

    /// `$DIR` in the value stands for the case's directory.
    pub(super) fn set(mut self, name: &str, value: &str) -> Self {
        let value = value.replace("$DIR", &self.directory.path().to_string_lossy());
        self.variables.push((name.to_owned(), value));
        self
    }

    pub(super) fn load(&self) -> Result<Loaded, ConfigError> {
        load(&self.flags, self, &bare_host())
    }

    pub(super) fn loaded(&self) -> Loaded {
        self.load().unwrap_or_else(|error| panic!("{error}"))
    }

    /// The error's line, without the case's directory.
    pub(super) fn error(&self) -> String {
        let error = self.load().map(|_| ()).expect_err("a mistake");
        error.to_string().replace(&format!("{}/", self.directory.path().display()), "")
    }
}

impl Environment for Case {
    fn value(&self, name: &str) -> Option<String> {
        self.variables.iter().find(|(have, _)| have == name).map(|(_, value)| value.clone())
    }

    fn names(&self) -> Vec<String> {
        self.variables.iter().map(|(name, _)| name.clone()).collect()
    }
}

/// Root, on a host without any of the paths.
fn bare_host() -> HostFacts {
    HostFacts { uid: 0, look: Box::new(|_| Found::Nothing) }
}

/// The value and its origin, as `value # origin`.
pub(super) fn shown(loaded: &Loaded, key: &str) -> String {
    let entry = loaded.effective.entries.iter().rfind(|entry| entry.key == key).expect(key);
    let origin = entry.origin.to_string();
    let origin = origin.rsplit('/').next().unwrap_or_default();
    format!("{} # {origin}", entry.value)
}

#[test]
fn later_layers_win_and_say_so() {
    let listen = "[proxy]\nlisten = [\"127.0.0.1:1\"]\n";
    let size = "[cache]\n\nmax_size = \"2g\"\n";
    let mut case = Case::new(&format!("data_dir = \"/one\"\n{listen}{size}")).set("CACHE_MAX_SIZE", "3g");
    let loaded = case.loaded();
    assert_eq!(shown(&loaded, "data_dir"), "\"/one\" # entrepot.toml:1");
    assert_eq!(shown(&loaded, "proxy.listen"), "[\"127.0.0.1:1\"] # entrepot.toml:3");
    assert_eq!(shown(&loaded, "cache.max_size"), "\"3g\" # environment variable CACHE_MAX_SIZE");
    assert_eq!(shown(&loaded, "cache.min_free"), "\"1g\" # default");
    assert_eq!(loaded.config.live.cache.max_size.0, 3 << 30);

    case.flags.data_dir = Some("/two".into());
    case.flags.listen = vec!["[::1]:2".parse().expect("address")];
    case.variables.clear();
    let loaded = case.loaded();
    assert_eq!(shown(&loaded, "data_dir"), "\"/two\" # flag --data-dir");
    assert_eq!(shown(&loaded, "proxy.listen"), "[\"[::1]:2\"] # flag --listen");
    assert_eq!(shown(&loaded, "cache.max_size"), "\"2g\" # entrepot.toml:6");
    assert_eq!(loaded.config.startup.admin.socket, Path::new("/two/admin.sock"));
    assert_eq!(loaded.config.startup.ca.certificate, Path::new("/two/ca/ca.crt"));
    assert!(!loaded.config.startup.ca.provided);
}

#[test]
fn the_content_of_files_that_are_read_at_start_is_compared() {
    let case = Case::new("");
    let files = [("ca.passphrase_file", "passphrase"), ("admin.token_file", "token")];
    let paths = files.map(|(_, name)| case.file(name, "canary-1"));
    let folder = case.directory.path().join("ca");
    fs::create_dir(&folder).expect("a folder");
    let text = format!(
        "data_dir = {:?}\n[ca]\npassphrase_file = {:?}\n[admin]\ntoken_file = {:?}\n",
        case.directory.path(),
        paths[0],
        paths[1]
    );
    case.file("entrepot.toml", &text);
    let first = case.loaded().effective;
    let waiting = |in_force: &Effective| {
        let read = case.loaded().effective;
        in_force.waiting_for_a_start(&read).into_iter().map(|(old, _)| old.key.clone()).collect::<Vec<_>>()
    };
    fs::write(folder.join("ca.key"), "canary-1").expect("the key that the first start makes");
    assert!(waiting(&first).is_empty(), "no change of the administrator");
    let in_force = first.after_reload(case.loaded().effective);

    fs::write(folder.join("ca.key"), "canary-2").expect("another key");
    for (_, name) in files {
        case.file(name, "canary-2");
    }
    assert_eq!(waiting(&in_force), ["admin.token_file", "ca.key", "ca.passphrase_file"]);
    let read = case.loaded().effective;
    let told = in_force.told(Ok(&read)).to_string();
    assert_eq!((told.matches("\"content_changed\":true").count(), told.contains("canary")), (3, false), "{told}");
    assert_eq!(waiting(&in_force.after_reload(read)).len(), 3, "a reload does not take them over");
    for (_, name) in files {
        case.file(name, "canary-1");
    }
    assert_eq!(waiting(&in_force), ["ca.key"], "the old content is back");
}

#[test]
fn the_file_is_found_by_flag_then_variable() {
    let case = Case::new("data_dir = \"/flag\"");
    let other = case.file("other.toml", "data_dir = \"/variable\"");
    let mut case = case.set("ENTREPOT_CONFIG", &other.to_string_lossy());
    assert_eq!(case.loaded().config.startup.data_dir, Path::new("/flag"));
    case.flags.config = None;
    assert_eq!(case.loaded().config.startup.data_dir, Path::new("/variable"));
    case.variables.clear();
    assert_eq!(case.loaded().config.startup.data_dir, Path::new("/var/lib/entrepot"));
}

#[test]
fn named_hosts_are_intercepted_whichever_section_names_them() {
    let case = Case::new(
        "[intercept]\nregistries = [\"*.azurecr.io\", \"ghcr.io\"]\n[registries.\"plain.example:5000\"]\n\
         scheme = \"http\"\n[[credentials]]\nregistry = \"token.example\"\nusername = \"u\"\npassword = \"p\"\n",
    );
    let case =
        case.set("REGISTRIES", "a.example quay.io a.example b.example:5000").set("AUTH_REGISTRIES", "c.example:u:p");
    let config = case.loaded().config;
    for (host, listed) in [
        ("registry-1.docker.io", true),
        ("eu-docker.pkg.dev", true),
        ("my.azurecr.io", true),
        ("plain.example:5000", true),
        ("token.example", true),
        ("a.example", true),
        ("b.example:5000", true),
        ("b.example", false),
        ("c.example", true),
        ("example.org", false),
    ] {
        assert_eq!(config.live.intercepts(Scheme::Https, &host.parse::<RegistryHost>().expect(host)), listed, "{host}");
    }
    let mut hosts: Vec<String> = config.live.intercept.iter().map(ToString::to_string).collect();
    hosts.sort();
    hosts.dedup();
    assert_eq!(hosts.len(), config.live.intercept.len(), "no host twice");
}

#[test]
fn the_closest_account_wins() {
    let account = |registry: &str, rest: &str, user: &str| {
        format!("[[credentials]]\nregistry = \"{registry}\"\n{rest}username = \"{user}\"\npassword = \"p\"\n")
    };
    let text = [account("ghcr.io", "", "file"), account("ghcr.io", "repository = \"other/*\"\n", "other")];
    let case = Case::new(&text.concat()).set("AUTH_REGISTRIES", "ghcr.io:env:p ghcr.io/team:team:p");
    let config = case.loaded().config;
    let origin: Origin = "ghcr.io".parse().expect("an origin");
    let user = |repository| config.live.account(&origin, Some(repository)).map(|account| account.username.as_str());
    assert_eq!(user("team/a"), Some("team"));
    assert_eq!(user("team"), Some("team"));
    assert_eq!(user("other/a/b"), Some("other"));
    assert_eq!(user("teams/a"), Some("env"));
}

#[test]
fn accounts_are_numbered_as_in_the_file() {
    let account = |rest: &str| format!("[[credentials]]\nregistry = \"a.example\"\n{rest}password = \"p\"\n");
    let text = account("username = \"all\"\n") + &account("repository = \"team/*\"\nusername = \"team\"\n");
    let loaded = Case::new(&text).set("AUTH_REGISTRIES", "a.example/x:env:p").loaded();
    for (number, user) in [(1, "\"all\" # entrepot.toml:3"), (2, "\"team\" # entrepot.toml:8")] {
        assert_eq!(shown(&loaded, &format!("credentials.{number}.username")), user);
    }
    assert_eq!(shown(&loaded, "credentials.3.username"), "\"env\" # environment variable AUTH_REGISTRIES");
    let users: Vec<_> = loaded.config.live.credentials.iter().map(|account| account.username.as_str()).collect();
    assert_eq!(users, ["env", "team", "all"], "the order in which they are tried");
}

#[test]
fn secrets_are_masked_everywhere() {
    let case = Case::new(
        "[[credentials]]\nregistry = \"a.example\"\nusername = \"u\"\npassword = \"canary\"\n[upstream]\n\
         proxy = \"http://u:canary@proxy:80\"\n[registries.\"a.example\"]\nheaders = { X-Key = \"canary\" }\n\
         [admin]\ntoken_file = \"TOKEN\"\n",
    );
    let token = case.file("token", "canary\n");
    let text = fs::read_to_string(case.directory.path().join("entrepot.toml")).expect("the file");
    case.file("entrepot.toml", &text.replace("TOKEN", &token.to_string_lossy()));
    let case = case.set("AUTH_REGISTRIES", "b.example:u:canary");
    let loaded = case.loaded();
    assert!(!loaded.effective.table(|_| None).contains("canary"));
    assert!(!loaded.effective.to_json().to_string().contains("canary"));
    assert!(!loaded.notices.concat().contains("canary"));
    assert_eq!(shown(&loaded, "upstream.proxy"), "\"http://********@proxy:80\" # entrepot.toml:6");
    assert_eq!(loaded.config.startup.admin.token.map(|token| token.expose().to_owned()), Some("canary".to_owned()));
    let headers = &loaded.config.live.registries[0].headers;
    assert_eq!(headers[0].1, "canary");
    assert!(!format!("{headers:?}").contains("canary"));
    for (key, mask) in [
        ("credentials.1.password", MASK),
        ("credentials.2.password", MASK),
        ("registries.\"a.example\".headers.x-key", MASK),
    ] {
        assert_eq!(loaded.effective.value(key).and_then(|value| value.as_str()), Some(mask), "{key}");
    }
}

#[test]
fn an_own_ca_is_only_read_and_the_default_places_are_made() {
    let pair = rcgen::generate_simple_self_signed(["ca.example".to_owned()]).expect("a certificate");
    let case = Case::without_file().set("CA_CRT_FILE", "$DIR/own.crt").set("CA_KEY_FILE", "$DIR/own.key");
    case.file("own.crt", &pair.cert.pem());
    case.file("own.key", &pair.signing_key.serialize_pem());
    assert!(case.loaded().config.startup.ca.provided);
    let case = Case::without_file()
        .set("CA_CRT_FILE", "/var/lib/entrepot/ca/ca.crt")
        .set("CA_KEY_FILE", "/var/lib/entrepot/ca/ca.key");
    assert!(!case.loaded().config.startup.ca.provided);
}

/// The list is for readers. The types decide: the list always contains every setting of `Startup`.
#[test]
fn every_knob_says_when_a_change_takes_effect() {
    let loaded = Case::without_file().loaded();
    let that_apply = |at: Applies| {
        let rows = loaded.effective.entries.iter().filter(move |entry| entry.applies == at);
        rows.map(|entry| entry.key.as_str()).collect::<Vec<_>>()
    };
    let at_start = [
        "data_dir",
        "proxy.listen",
        "proxy.max_connections",
        "proxy.max_connections_per_client",
        "transparent.listen",
        "admin.listen",
        "admin.socket",
        "admin.token_file",
        "admin.loopback_changes",
        "ca.cert",
        "ca.key",
        "ca.passphrase_file",
        "ca.leaf_lifetime",
        "registry.http",
        "registry.https",
        "registry.mirror_listen",
        "data_plane.workers",
        "data_plane.disk_threads",
        "data_plane.disk_timeout",
        "data_plane.disk_buffers",
        "data_plane.io_uring",
        "mdns.enabled",
        "mdns.hostname",
        "mdns.interfaces",
        "logging.format",
        "logging.file",
    ];
    assert_eq!(that_apply(Applies::AtStart), at_start);
    let of_the_agent = that_apply(Applies::AtAgentStart);
    assert!(!of_the_agent.is_empty() && of_the_agent.iter().all(|key| key.starts_with("redirect.")));
    assert!(that_apply(Applies::AtReload).iter().all(|key| !key.starts_with("redirect.")));
}

#[test]
fn words_become_policies() {
    for (word, policy) in
        [("any", TunnelPolicy::Any), ("registries", TunnelPolicy::Registries), ("none", TunnelPolicy::None)]
    {
        let case = Case::new(&format!("[proxy]\ntunnel = \"{word}\"\n[admin]\nlisten = \"none\"\n"));
        assert_eq!(case.loaded().config.live.proxy.tunnel, policy);
        assert_eq!(case.loaded().config.startup.admin.listen.addresses, []);
    }
}

#[test]
fn plain_http_is_spoken_only_where_the_configuration_says_so() {
    let text = "[intercept]\n\
                registries = [\"sealed.lan:5000\", \"http://plain.lan:5000\", \"http://eighty.lan\", \"s.lan:7000\"]\n\
                [registries.\"s.lan:7000\"]\nscheme = \"http\"\n\
                [[credentials]]\nregistry = \"plain.lan:5000\"\nusername = \"u\"\npassword = \"p\"\n\
                [[credentials]]\nregistry = \"sealed.lan:5000\"\nusername = \"v\"\npassword = \"p\"\n";
    let live = Case::new(text).set("REGISTRIES", "http://env.lan:81 env2.lan:80").loaded().config.live;
    for (host, tls, plain) in [
        ("ghcr.io", true, false),
        ("ghcr.io:80", false, false),
        ("sealed.lan:5000", true, false),
        ("plain.lan:5000", true, true),
        ("plain.lan", false, false),
        ("eighty.lan:80", true, true),
        ("eighty.lan", false, false),
        ("s.lan:7000", true, true),
        ("env.lan:81", true, true),
        ("env2.lan:80", true, false),
    ] {
        let host: RegistryHost = host.parse().expect(host);
        let listed = (live.intercepts(Scheme::Https, &host), live.intercepts(Scheme::Http, &host));
        assert_eq!(listed, (tls, plain), "{host}");
        let scheme = if plain { Scheme::Http } else { Scheme::Https };
        assert_eq!(live.origin(&host), Origin { scheme, host });
    }
    let user = |origin: &str| {
        let account = live.account(&origin.parse().expect(origin), None);
        account.map_or("", |account| account.username.as_str())
    };
    let users =
        ["http://plain.lan:5000", "plain.lan:5000", "sealed.lan:5000", "http://sealed.lan:5000", "http://sealed.lan"];
    assert_eq!(users.map(user), ["u", "", "v", "", ""], "an account belongs to one origin");
    let text =
        "[intercept]\nregistries = [\"http://plain.lan:5000\"]\n[registries.\"plain.lan:5000\"]\naccess = \"shared\"\n";
    let loaded = Case::new(text).loaded();
    let origin: Origin = "http://plain.lan:5000".parse().expect("an origin");
    assert_eq!(loaded.config.live.origin(&origin.host), origin, "settings without a scheme leave the list's");
    assert!(
        loaded.config.live.registry(&origin).is_some_and(|policy| policy.access == Some(ready::AccessMode::Shared))
    );
    assert_eq!(shown(&loaded, "registries.\"plain.lan:5000\".scheme"), "\"http\" # default");
    let twice = Case::new("[intercept]\nregistries = [\"a.lan:80\", \"http://a.lan\"]\n");
    assert!(twice.error().contains("duplicate registry"), "one port speaks one protocol");
}

/// Accounts and sections that spell no scheme have the one that the list or a section declares for their registry.
#[test]
fn a_scheme_is_declared_by_wildcards_too() {
    for (list, section, registry, expected) in [
        (&["http://*.lan:5000"][..], "", "reg.lan:5000", "http://reg.lan:5000"),
        (&["http://*.lan:5000"], "", "*.a.lan:5000", "http://*.a.lan:5000"),
        (&["http://*.lan:5000"], "", "*.lan:5000", "http://*.lan:5000"),
        (&["http://*.lan"], "", "reg.lan", "http://reg.lan"),
        (&["http://*.lan"], "", "reg.lan:80", "http://reg.lan:80"),
        (&["http://reg.lan"], "", "reg.lan:80", "http://reg.lan"),
        (&["http://*.lan"], "", "reg.lan:5000", "reg.lan:5000"),
        (&["http://*.lan:5000"], "", "reg.lan", "reg.lan"),
        (&["http://*.lan:5000"], "", "lan:5000", "lan:5000"),
        (&["http://reg.lan:5000"], "", "*.lan:5000", "*.lan:5000"),
        // The most specific entry counts. An entry without a scheme means https.
        (&["http://*.lan:5000", "reg.lan:5000"], "", "reg.lan:5000", "reg.lan:5000"),
        (&["http://*.lan:5000", "*.a.lan:5000"], "", "reg.a.lan:5000", "reg.a.lan:5000"),
        (&["*.lan:5000", "http://reg.lan:5000"], "", "reg.lan:5000", "http://reg.lan:5000"),
        // A section comes before the list.
        (&["reg.lan:5000"], "*.lan:5000", "reg.lan:5000", "http://reg.lan:5000"),
        (&[], "*.lan:5000", "reg.lan:5000", "http://reg.lan:5000"),
    ] {
        let section = match section {
            "" => String::new(),
            name => format!("[registries.{name:?}]\nscheme = \"http\"\n"),
        };
        let text = format!(
            "[intercept]\nregistries = {list:?}\n{section}\
             [[credentials]]\nregistry = {registry:?}\nusername = \"u\"\npassword = \"p\"\n"
        );
        let live = Case::new(&text).loaded().config.live;
        assert_eq!(live.credentials[0].registry.to_string(), expected, "{list:?} {section:?} {registry}");
        // A registry that a client names is reached where the account belongs, so the account is used.
        let Some(host) = live.credentials[0].registry.exact().map(|origin| origin.host) else { continue };
        let origin = live.origin(&host);
        assert!(live.account(&origin, None).is_some(), "{list:?} {section:?} {registry}: {origin:?}");
        assert!(live.intercepts(origin.scheme, &host), "{list:?} {registry}");
    }
}

#[test]
fn accounts_push_only_if_they_were_given_for_that() {
    let text = "[[credentials]]\nregistry = \"a.lan\"\nusername = \"u\"\npassword = \"p\"\n\
                [[credentials]]\nregistry = \"b.lan\"\nusername = \"u\"\npassword = \"p\"\npush = true\n";
    for (allow_push, expected) in [("false", [false, true, false]), ("true", [false, true, true])] {
        let case = Case::new(text).set("AUTH_REGISTRIES", "c.lan:u:p").set("ALLOW_PUSH", allow_push);
        let loaded = case.loaded();
        assert_eq!(loaded.notices.concat().contains("c.lan use the accounts"), allow_push == "true");
        let live = loaded.config.live;
        let pushes = |host: &str| live.account(&host.parse().expect(host), None).expect("an account").push;
        assert_eq!(["a.lan", "b.lan", "c.lan"].map(pushes), expected, "ALLOW_PUSH={allow_push}");
    }
}
