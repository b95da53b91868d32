//! `entrepot check`: validates the configuration and prints what is in force and why. Nothing is started or written.

use std::io::Write;
use std::process::ExitCode;

use serde_json::json;

use super::environment;
use entrepot_core::exit;

use entrepot_config::{ConfigError, Flags, HostFacts, Loaded, load};

/// Exit code 0 and the effective configuration on stdout, or 78 and one line on stderr.
pub fn run(flags: &Flags, as_json: bool) -> ExitCode {
    let loaded = load(flags, &environment, &HostFacts::real());
    let code = report(loaded, as_json, &mut std::io::stdout().lock(), &mut std::io::stderr().lock());
    ExitCode::from(code)
}

fn report(loaded: Result<Loaded, ConfigError>, as_json: bool, stdout: &mut dyn Write, stderr: &mut dyn Write) -> u8 {
    let written = match &loaded {
        Ok(loaded) if as_json => {
            let report = json!({"effective": loaded.effective.to_json(), "notices": loaded.notices});
            writeln!(stdout, "{report:#}")
        }
        Ok(loaded) => {
            let notices = loaded.notices.iter().try_for_each(|notice| writeln!(stderr, "notice: {notice}"));
            notices.and_then(|()| write!(stdout, "{}", loaded.effective))
        }
        Err(error) => writeln!(stderr, "{error}"),
    };
    match (loaded, written) {
        (Err(_), _) => exit::CONFIGURATION,
        (Ok(_), Err(_)) => exit::IO,
        (Ok(_), Ok(())) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(variable: &'static str, value: &'static str) -> Result<Loaded, ConfigError> {
        let flags = Flags { data_dir: Some("/data".into()), ..Flags::default() };
        let host = HostFacts { uid: 0, look: Box::new(|_| entrepot_config::Found::Nothing) };
        load(&flags, &|name| (name == variable).then(|| value.to_owned()), &host)
    }

    fn reported(variable: &'static str, value: &'static str, as_json: bool) -> (u8, String, String) {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let code = report(loaded(variable, value), as_json, &mut stdout, &mut stderr);
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (code, text(stdout), text(stderr))
    }

    #[test]
    fn a_good_configuration_is_shown_with_origins() {
        let (code, stdout, stderr) = reported("DEBUG", "true", false);
        assert_eq!(code, 0);
        let line = |key: &str| {
            let line = stdout.lines().find(|line| line.split(' ').next() == Some(key)).expect(key);
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(line("data_dir"), "data_dir = \"/data\" # flag --data-dir");
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
        let expected = json!({"key": "proxy.allow_push", "value": true, "origin": "environment variable ALLOW_PUSH"});
        assert_eq!((code, row), (0, &expected));
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
        assert_eq!(report(loaded("", ""), false, &mut full.as_mut_slice(), &mut stderr), exit::IO);
    }
}
