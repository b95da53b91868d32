//! `entrepot check`: validates the configuration and prints it, with the origin of each value. It starts nothing and
//! writes nothing.
//!
//! If a server answers on the configured admin socket, the command also shows the values in force there that differ.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use super::ProcessEnvironment;
use super::admin_client::{AdminClient, AdminClientError};
use entrepot_core::exit;

use entrepot_config::{
    Applies, ConfigError, Effective, Entry, Flags, HostFacts, Loaded, Provenance, Told, ToldConfig, defaults, load,
    pair,
};

/// The longest wait for a server that hangs.
const PATIENCE: Duration = Duration::from_secs(2);

/// The answer of a running server about its configuration.
enum Running {
    /// No server runs.
    No,
    /// The answer of `/api/config`.
    Told(ToldConfig),
    /// A server may run, but it did not answer, for this reason.
    Silent(String),
}

/// Exit code 0 and the effective configuration on stdout, or 78 and one line on stderr. `only_changed` leaves out what
/// has its default.
pub fn run(flags: &Flags, only_changed: bool, as_json: bool) -> ExitCode {
    let host = HostFacts::real();
    let mut loaded = load(flags, &ProcessEnvironment, &host);
    let mut running = loaded.as_ref().map_or(Running::No, |loaded| ask(&loaded.config.startup.admin.socket));
    if let (true, Ok(loaded)) = (only_changed, &mut loaded) {
        // Without a place for the data there are no defaults, and everything counts as changed.
        let defaults = defaults(&ProcessEnvironment, &host).unwrap_or_default();
        leave_out(&defaults, loaded, &mut running);
    }
    let code = report(loaded, &running, as_json, &mut std::io::stdout().lock(), &mut std::io::stderr().lock());
    ExitCode::from(code)
}

fn ask(socket: &Path) -> Running {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Running::Silent(format!("the system gives no event loop: {error}")),
    };
    let asked = async { tokio::time::timeout(PATIENCE, AdminClient::new(socket).get("/api/config")).await };
    match runtime.block_on(asked) {
        Ok(Ok(told)) => Running::Told(told),
        Ok(Err(AdminClientError::NotRunning { .. })) => Running::No,
        Ok(Err(error)) => Running::Silent(error.to_string()),
        Err(_) => Running::Silent(format!("it did not answer within {} s", PATIENCE.as_secs())),
    }
}

fn report(
    loaded: Result<Loaded, ConfigError>,
    running: &Running,
    as_json: bool,
    stdout: &mut dyn Write,
    stderr: &mut dyn Write,
) -> u8 {
    let written = match &loaded {
        Ok(loaded) => {
            let notices: Vec<_> =
                loaded.warnings.iter().chain(&loaded.notices).cloned().chain(notice(running)).collect();
            match as_json {
                true => writeln!(stdout, "{:#}", as_rows(loaded, running, &notices)),
                false => notices
                    .iter()
                    .try_for_each(|notice| writeln!(stderr, "notice: {notice}"))
                    .and_then(|()| write!(stdout, "{}", as_table(loaded, running))),
            }
        }
        Err(error) => writeln!(stderr, "{error}"),
    };
    match (loaded, written) {
        (Err(_), _) => exit::CONFIGURATION,
        (Ok(_), Err(error)) => {
            // A reader that left (`| head`) is told nothing.
            if error.kind() != std::io::ErrorKind::BrokenPipe {
                let _ = writeln!(stderr, "entrepot: cannot write the output: {error}");
            }
            exit::IO
        }
        (Ok(_), Ok(())) => 0,
    }
}

fn notice(running: &Running) -> Option<String> {
    match running {
        Running::Silent(reason) => Some(format!("the values in force in a running server are not shown: {reason}")),
        Running::Told(told) => told
            .file_error
            .as_ref()
            .map(|error| format!("the running server would refuse a reload and keep its values: {error}")),
        Running::No => None,
    }
}

/// The rows of the configuration and of the server side by side, without those that agree.
fn differences<'a>(loaded: &'a Loaded, running: &'a Running) -> Vec<(Option<&'a Entry>, Option<&'a Told>)> {
    let Running::Told(told) = running else { return Vec::new() };
    let pairs = pair(&loaded.effective.entries, &told.effective).into_iter();
    pairs.filter(|(entry, told)| differs(*entry, *told)).collect()
}

/// Leaves out the rows that have their default here and in the running server.
fn leave_out(defaults: &Effective, loaded: &mut Loaded, running: &mut Running) {
    let is_default = |entry: &Entry| {
        let same = |default: &&Entry| default.key == entry.key && default.value == entry.value;
        entry.origin == Provenance::Default || defaults.entries.iter().any(|default| same(&default))
    };
    let told = match running {
        Running::Told(told) => std::mem::take(&mut told.effective),
        _ => Vec::new(),
    };
    let pairs = pair(&loaded.effective.entries, &told).into_iter();
    let is_shown = |(entry, told): &(Option<&Entry>, Option<&Told>)| {
        entry.is_none_or(|entry| !is_default(entry)) || (told.is_some() && differs(*entry, *told))
    };
    let (kept, kept_told): (Vec<_>, Vec<_>) = pairs.filter(is_shown).unzip();
    let kept = kept.into_iter().flatten().cloned().collect();
    if let Running::Told(running) = running {
        running.effective = kept_told.into_iter().flatten().cloned().collect();
    }
    loaded.effective.entries = kept;
}

fn differs(entry: Option<&Entry>, told: Option<&Told>) -> bool {
    // The server does not know which values are in force in the agent.
    let is_of_the_agent = entry.is_some_and(|entry| entry.applies == Applies::AtAgentStart);
    let has_other_value = entry.map(|entry| &entry.value) != told.and_then(|told| told.value.as_ref());
    !is_of_the_agent && (has_other_value || told.is_some_and(|told| told.content_changed))
}

fn as_rows(loaded: &Loaded, running: &Running, notices: &[String]) -> serde_json::Value {
    let differences = differences(loaded, running);
    let mut rows: Vec<_> = loaded.effective.entries.iter().map(Entry::to_json).collect();
    for (at, entry) in loaded.effective.entries.iter().enumerate() {
        let other = differences.iter().find(|(differing, _)| differing.is_some_and(|row| std::ptr::eq(row, entry)));
        if let Some((_, told)) = other {
            rows[at]["in_force"] = json!(told.and_then(|told| told.value.as_ref()));
            rows[at]["in_force_origin"] = json!(told.and_then(|told| told.origin.as_ref()));
            if told.is_some_and(|told| told.content_changed) {
                rows[at]["content_changed"] = json!(true);
            }
        }
    }
    let only_in_force = differences.iter().filter_map(|(entry, told)| (*told).filter(|_| entry.is_none()));
    rows.extend(
        only_in_force.map(
            |told| json!({"key": told.key, "value": null, "in_force": told.value, "in_force_origin": told.origin}),
        ),
    );
    json!({"effective": rows, "notices": notices, "server_answers": matches!(running, Running::Told(_))})
}

fn as_table(loaded: &Loaded, running: &Running) -> String {
    let differences = differences(loaded, running);
    let remark = |at: usize| {
        let entry = &loaded.effective.entries[at];
        let (_, told) = differences.iter().find(|(row, _)| row.is_some_and(|row| std::ptr::eq(row, entry)))?;
        Some(match told.and_then(|told| told.value.as_ref()) {
            Some(value) if *value == entry.value => "in force: the file's content as it was at the start".to_owned(),
            Some(value) => format!("in force: {value}"),
            None => "not in force".to_owned(),
        })
    };
    let mut table = loaded.effective.table(remark);
    for told in differences.iter().filter_map(|(entry, told)| (*told).filter(|_| entry.is_none())) {
        if let Some(value) = &told.value {
            table.push_str(&format!("# {} = {value} is in force, but not configured any more\n", told.key));
        }
    }
    if table.is_empty() {
        table.push_str("# every key has its default\n");
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(variable: &'static str, value: &'static str) -> Result<Loaded, ConfigError> {
        let flags = Flags { data_dir: Some("/data".into()), ..Flags::default() };
        let host = HostFacts { uid: 0, look: Box::new(|_| entrepot_config::Found::Nothing) };
        load(&flags, &|name: &str| (name == variable).then(|| value.to_owned()), &host)
    }

    fn reported(variable: &'static str, value: &'static str, as_json: bool) -> (u8, String, String) {
        reported_beside(&Running::No, variable, value, as_json)
    }

    fn reported_beside(
        running: &Running,
        variable: &'static str,
        value: &'static str,
        as_json: bool,
    ) -> (u8, String, String) {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let code = report(loaded(variable, value), running, as_json, &mut stdout, &mut stderr);
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (code, text(stdout), text(stderr))
    }

    fn line(table: &str, key: &str) -> String {
        let line = table.lines().find(|line| line.split(' ').next() == Some(key)).expect(key);
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// A server with the defaults, except for its size, its port and an account.
    fn running() -> Running {
        let mut rows = loaded("", "").expect("the defaults").effective.to_json();
        for row in rows.as_array_mut().expect("a list") {
            match row["key"].as_str() {
                Some("cache.max_size") => row["value"] = json!("64g"),
                Some("proxy.listen") => row["value"] = json!(["127.0.0.1:1"]),
                Some("redirect.enforce") => row["value"] = json!(true),
                _ => {}
            }
        }
        let mut told: Vec<Told> = serde_json::from_value(rows).expect("rows");
        let (value, origin) = (Some("u".into()), Some("entrepot.toml:3".to_owned()));
        told.push(Told { key: "credentials.1.username".to_owned(), value, origin, content_changed: false });
        Running::Told(ToldConfig { effective: told, file_error: None })
    }

    #[test]
    fn values_that_a_running_server_has_are_shown_where_they_differ() {
        let (code, table, stderr) = reported_beside(&running(), "", "", false);
        assert_eq!((code, stderr.as_str()), (0, ""));
        assert_eq!(line(&table, "cache.max_size"), "cache.max_size = \"32g\" # default; in force: \"64g\"");
        let listen = "proxy.listen = [\"[::]:3128\"] # default; read at start; in force: [\"127.0.0.1:1\"]";
        assert_eq!(line(&table, "proxy.listen"), listen);
        assert_eq!(line(&table, "cache.min_free"), "cache.min_free = \"1g\" # default");
        assert_eq!(line(&table, "redirect.enforce"), "redirect.enforce = false # default; read by entrepot redirect");
        assert!(table.ends_with("# credentials.1.username = \"u\" is in force, but not configured any more\n"));
        toml::from_str::<toml::Table>(&table).expect("the table is TOML");
    }

    #[test]
    fn json_has_both_values_too() {
        let (_, text, _) = reported_beside(&running(), "", "", true);
        let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let rows = report["effective"].as_array().expect("a list");
        let row = |key: &str| rows.iter().find(|row| row["key"] == key).expect(key);
        assert_eq!(
            (&row("cache.max_size")["value"], &row("cache.max_size")["in_force"]),
            (&json!("32g"), &json!("64g"))
        );
        assert!(row("cache.min_free").get("in_force").is_none() && row("redirect.enforce").get("in_force").is_none());
        let gone = row("credentials.1.username");
        assert_eq!((&gone["value"], &gone["in_force_origin"]), (&json!(null), &json!("entrepot.toml:3")));
        assert_eq!(report["server_answers"], true);
    }

    fn changed(mut running: Running, variables: &[(&str, &str)], as_json: bool) -> String {
        let flags = Flags { data_dir: Some("/data".into()), ..Flags::default() };
        let host = HostFacts { uid: 0, look: Box::new(|_| entrepot_config::Found::Nothing) };
        let env = |name: &str| variables.iter().find(|(have, _)| *have == name).map(|(_, value)| (*value).to_owned());
        let mut loaded = load(&flags, &env, &host).expect("a good configuration");
        let defaults = defaults(&|_: &str| None, &host).expect("the defaults");
        leave_out(&defaults, &mut loaded, &mut running);
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        assert_eq!(report(Ok(loaded), &running, as_json, &mut stdout, &mut stderr), 0);
        String::from_utf8(stdout).expect("UTF-8")
    }

    #[test]
    fn only_what_is_not_a_default_is_shown() {
        let keys = |table: &str| {
            let keys = table.lines().map(|line| line.split(' ').next().unwrap_or_default().to_owned());
            keys.collect::<Vec<_>>()
        };
        let variables = [
            ("REGISTRIES", "reg.example:5000"),
            ("CACHE_MAX_SIZE", "64g"),
            // As the default is.
            ("CACHE_INACTIVE", "60d"),
            ("VERIFY_SSL", "true"),
        ];
        let table = changed(Running::No, &variables, false);
        assert_eq!(keys(&table), ["data_dir", "cache.max_size", "intercept.registries"], "{table}");
        toml::from_str::<toml::Table>(&table).expect("the table is TOML");
        let text = changed(Running::No, &variables, true);
        let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(report["effective"].as_array().map(Vec::len), Some(3), "{text}");
        // A running server has one value of the three in force, and others instead of defaults.
        let table = changed(running(), &variables, false);
        let in_force = "# credentials.1.username = \"u\" is in force, but not configured any more";
        assert_eq!(table.lines().last(), Some(in_force), "{table}");
        assert_eq!(
            keys(&table)[..4],
            ["data_dir", "proxy.listen", "cache.max_size", "intercept.registries"],
            "{table}"
        );
        assert!(line(&table, "proxy.listen").ends_with("in force: [\"127.0.0.1:1\"]"), "{table}");
        assert_eq!(line(&table, "cache.max_size"), "cache.max_size = \"64g\" # environment variable CACHE_MAX_SIZE");
        assert!(line(&table, "intercept.registries").ends_with("not in force"), "{table}");
    }

    /// The documents show what the command prints.
    #[test]
    fn the_documents_show_the_output() {
        let host = HostFacts { uid: 0, look: Box::new(|_| entrepot_config::Found::Nothing) };
        let env = |name: &str| match name {
            "REGISTRIES" => Some("reg.example:5000".to_owned()),
            "CACHE_MAX_SIZE" => Some("64g".to_owned()),
            _ => None,
        };
        let mut loaded = load(&Flags::default(), &env, &host).expect("a good configuration");
        leave_out(&defaults(&|_: &str| None, &host).expect("the defaults"), &mut loaded, &mut Running::No);
        let command = "$ REGISTRIES=\"reg.example:5000\" CACHE_MAX_SIZE=64g entrepot check --changed\n";
        let shown = format!("```\n{command}{}```\n", as_table(&loaded, &Running::No));
        for document in [include_str!("../../../README.md"), include_str!("../../../docs/configuration.md")] {
            assert!(document.contains(&shown), "{shown}");
        }
    }

    #[test]
    fn without_changes_it_says_so() {
        let host = HostFacts { uid: 0, look: Box::new(|_| entrepot_config::Found::Nothing) };
        let mut loaded = load(&Flags::default(), &|_: &str| None, &host).expect("the defaults");
        leave_out(&defaults(&|_: &str| None, &host).expect("the defaults"), &mut loaded, &mut Running::No);
        assert_eq!(as_table(&loaded, &Running::No), "# every key has its default\n");
    }

    #[test]
    fn a_server_that_does_not_answer_is_mentioned() {
        let silent = Running::Silent("it did not answer within 2 s".to_owned());
        let (code, _, stderr) = reported_beside(&silent, "", "", false);
        let notice = "notice: the values in force in a running server are not shown: it did not answer within 2 s\n";
        assert_eq!((code, stderr.as_str()), (0, notice));
    }

    #[test]
    fn a_file_whose_content_changed_since_the_start_is_shown() {
        let Running::Told(mut told) = running() else { panic!("it answers") };
        for row in told.effective.iter_mut().filter(|row| row.key == "ca.key") {
            row.content_changed = true;
        }
        let running = Running::Told(told);
        let (_, table, _) = reported_beside(&running, "", "", false);
        let ca_key = line(&table, "ca.key");
        assert!(ca_key.ends_with("read at start; in force: the file's content as it was at the start"), "{ca_key}");
        let (_, text, _) = reported_beside(&running, "", "", true);
        let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let changed = |row: &&serde_json::Value| row["content_changed"] == true;
        let rows: Vec<_> = report["effective"].as_array().expect("a list").iter().filter(changed).collect();
        assert!(matches!(rows[..], [row] if row["key"] == "ca.key"), "{rows:?}");
    }

    #[test]
    fn a_server_that_would_refuse_a_reload_is_mentioned() {
        let Running::Told(told) = running() else { panic!("it answers") };
        let running = Running::Told(ToldConfig { file_error: Some("entrepot.toml:3: no".to_owned()), ..told });
        let (code, table, stderr) = reported_beside(&running, "", "", false);
        let notice = "notice: the running server would refuse a reload and keep its values: entrepot.toml:3: no\n";
        assert_eq!((code, stderr.as_str()), (0, notice));
        assert!(line(&table, "cache.max_size").contains("in force: \"64g\""), "the values in force are shown: {table}");
    }

    #[test]
    fn a_good_configuration_is_shown_with_origins() {
        let (code, stdout, stderr) = reported("DEBUG", "true", false);
        assert_eq!(code, 0);
        let line = |key: &str| line(&stdout, key);
        assert_eq!(line("data_dir"), "data_dir = \"/data\" # flag --data-dir; read at start");
        assert_eq!(line("cache.max_size"), "cache.max_size = \"32g\" # default");
        assert_eq!(line("logging.level"), "logging.level = \"debug\" # environment variable DEBUG");
        assert_eq!(stderr, "notice: DEBUG starts no mitmweb here: events are logged at level debug\n");
        toml::from_str::<toml::Table>(&stdout).expect("the table is TOML");
    }

    #[test]
    fn json_has_the_same() {
        let (code, stdout, _) = reported("ALLOW_PUSH", "true", true);
        let report: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
        let rows = report["effective"].as_array().expect("a list");
        let row = rows.iter().find(|row| row["key"] == "proxy.allow_push").expect("the knob");
        let expected = json!({"key": "proxy.allow_push", "value": true, "origin": "environment variable ALLOW_PUSH",
            "applies": "reload"});
        assert_eq!((code, row), (0, &expected));
        assert_eq!(report["server_answers"], false);
    }

    #[test]
    fn a_bad_one_is_one_line_and_78() {
        for as_json in [false, true] {
            let line = "environment variable ALLOW_PUSH: \"maybe\" is neither true nor false\n";
            assert_eq!(reported("ALLOW_PUSH", "maybe", as_json), (78, String::new(), line.to_owned()));
        }
    }

    #[test]
    fn a_closed_pipe_is_an_io_failure() {
        let (mut full, mut stderr) = ([0u8; 8], Vec::new());
        assert_eq!(report(loaded("", ""), &Running::No, false, &mut full.as_mut_slice(), &mut stderr), exit::IO);
    }
}
