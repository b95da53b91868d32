//! `entrepot check`: validates the configuration and prints what is in force and why. Nothing is started or written.

use std::io::Write;
use std::process::ExitCode;

use serde_json::json;

use super::exit;
use crate::config::{ConfigError, Flags, HostFacts, Loaded, load};

/// Exit code 0 and the effective configuration on stdout, or 78 and one line on stderr.
pub fn run(flags: &Flags, as_json: bool) -> ExitCode {
    let loaded = load(flags, &|name| std::env::var(name).ok(), &HostFacts::real());
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
