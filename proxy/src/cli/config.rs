//! `entrepot config`: reads and changes single keys of `entrepot.toml`.
//!
//! `config::edit` changes the text. The configuration's own loader validates the result. Then the file is replaced in
//! one step. If anything is refused, the file stays untouched. A secret is never printed.

use std::convert::Infallible;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use entrepot_config::edit::{EditError, KeyPath};
use entrepot_config::{
    Applies, ConfigError, Effective, Entry, Environment, Flags, HostFacts, Loaded, file_place, load, validate,
};
use entrepot_core::exit;
use entrepot_core::secret::Secret;
use tempfile::NamedTempFile;
use toml::Value;

use super::ProcessEnvironment;

/// The actions on the configuration file.
#[derive(Subcommand)]
pub enum ConfigCommand {
    /// Print the value that holds for a key, secrets masked; for a section, all its keys
    Get {
        /// Such as cache.max_size or registries."reg.example:5000".scheme
        key: KeyPath,
        /// Print JSON: the value, where it came from and when a change takes effect
        #[arg(long)]
        json: bool,
    },
    /// Change a key in the file, keeping comments and layout
    Set {
        /// Such as cache.max_size, or credentials."ghcr.io" for a whole account
        key: KeyPath,
        /// Text as it is, or a number, true, false, a list ["a", "b"], a table { username = "robot" }; - reads it from
        /// stdin
        #[arg(allow_hyphen_values = true, value_parser = secret)]
        value: Secret,
    },
}

/// The reason why nothing was printed or changed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigCommandError {
    /// The value does not fit the key.
    #[error("nothing was changed: {0}")]
    Edit(#[from] EditError),
    /// The file would be a bad configuration, or it cannot be read.
    #[error("nothing was changed: {0}")]
    Refused(ConfigError),
    /// The values in force cannot be read.
    #[error(transparent)]
    Bad(ConfigError),
    /// The file cannot be read or replaced.
    #[error("nothing was changed: {path}: {source}", path = path.display())]
    File { path: PathBuf, source: io::Error },
    /// The value cannot be read from stdin.
    #[error("nothing was changed: the value cannot be read from stdin: {0}")]
    Stdin(io::Error),
    /// stdout is closed or full.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

impl ConfigCommandError {
    /// The exit code, from sysexits.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Edit(EditError::NotToml) | Self::Refused(_) | Self::Bad(_) => exit::CONFIGURATION,
            Self::Edit(_) => exit::USAGE,
            Self::File { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => exit::PERMISSION,
            Self::File { .. } | Self::Stdin(_) | Self::Output(_) => exit::IO,
        }
    }
}

/// Runs one command and writes values to `out`. `file` is the configuration file that a flag names.
pub fn run(file: Option<PathBuf>, command: &ConfigCommand, out: &mut dyn Write) -> Result<(), ConfigCommandError> {
    run_with(&ProcessEnvironment, file, command, out)
}

/// `env` gives the variables of the environment.
fn run_with(
    env: &dyn Environment,
    file: Option<PathBuf>,
    command: &ConfigCommand,
    out: &mut dyn Write,
) -> Result<(), ConfigCommandError> {
    let flags = Flags { config: file, ..Flags::default() };
    let all_layers = || load(&flags, env, &HostFacts::real());
    match command {
        ConfigCommand::Get { key, json } => {
            let loaded = all_layers().map_err(ConfigCommandError::Bad)?;
            Ok(out.write_all(get(&loaded.effective, key, *json).as_bytes())?)
        }
        ConfigCommand::Set { key, value } => {
            let value = if value.expose() == "-" { from_stdin()? } else { value.clone() };
            let (path, _) = file_place(&flags, env);
            set(&path, key, &value, env)?;
            Ok(writeln!(out, "{}", changed(&path, key, all_layers()))?)
        }
    }
}

/// Any value may be a secret, so no message and no `Debug` can show one.
fn secret(text: &str) -> Result<Secret, Infallible> {
    Ok(Secret::new(text))
}

fn from_stdin() -> Result<Secret, ConfigCommandError> {
    let mut value = String::new();
    io::stdin().read_to_string(&mut value).map_err(ConfigCommandError::Stdin)?;
    value.truncate(value.trim_end_matches(['\r', '\n']).len());
    Ok(Secret::new(value))
}

/// The rows of a key: only its value, or all keys with their values if it is a section.
fn get(effective: &Effective, key: &KeyPath, as_json: bool) -> String {
    let rows = key.rows(effective).into_iter();
    if as_json {
        let rows: serde_json::Value = rows.map(Entry::to_json).collect();
        return format!("{rows:#}\n");
    }
    let line = |row: &Entry| match &row.value {
        Value::String(text) if key.is_value() => format!("{text}\n"),
        value if key.is_value() => format!("{value}\n"),
        value => format!("{} = {value}\n", row.key),
    };
    rows.map(line).collect()
}

/// Replaces the file if the result is a good configuration. If there is no file, one is created.
fn set(path: &Path, key: &KeyPath, value: &Secret, env: &dyn Environment) -> Result<(), ConfigCommandError> {
    let failed = |source| ConfigCommandError::File { path: path.to_owned(), source };
    // A symbolic link stays: the file that it points to is replaced.
    let (place, before) = match fs::canonicalize(path) {
        Ok(place) => (place, Some(fs::read_to_string(path).map_err(failed)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (path.to_owned(), None),
        Err(error) => return Err(failed(error)),
    };
    let after = key.set(before.as_deref().unwrap_or_default(), value.expose())?;
    validate(path, &after, env, &HostFacts::real()).map_err(ConfigCommandError::Refused)?;
    if before.as_ref() != Some(&after) {
        write(&place, &after).map_err(failed)?;
    }
    Ok(())
}

/// Writes the whole new file with the owner and mode of the old one, then puts it in place.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = NamedTempFile::new_in(folder)?;
    match fs::metadata(path) {
        Ok(old) => {
            fchown(file.as_file(), Some(old.uid()), Some(old.gid()))?;
            file.as_file().set_permissions(old.permissions())?;
        }
        Err(_) => file.as_file().set_permissions(Permissions::from_mode(0o644))?,
    }
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    File::open(folder)?.sync_all()
}

/// The message about a change. It names the key but not the value, which may be a secret. `loaded` is what all layers
/// give together, now that the file is changed.
fn changed(path: &Path, key: &KeyPath, loaded: Result<Loaded, ConfigError>) -> String {
    let effect = match loaded.as_ref().map(|loaded| &loaded.effective) {
        Err(error) => format!("the configuration as a whole is still refused: {error}"),
        Ok(effective) => match (key.overridden_by(effective), key.rows(effective).first().map(|row| row.applies)) {
            (Some(origin), _) => format!("the {origin} overrides it"),
            (None, Some(Applies::AtStart)) => "a running server takes it over when it starts again".to_owned(),
            (None, Some(Applies::AtAgentStart)) => "entrepot redirect takes it over when it starts again".to_owned(),
            (None, Some(Applies::AtReload) | None) => {
                "a running server takes it over when it reloads its configuration".to_owned()
            }
        },
    };
    format!("set {key} in {}; {effect}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    struct Sample {
        folder: tempfile::TempDir,
        path: PathBuf,
        variables: Vec<(&'static str, &'static str)>,
    }

    fn sample(text: &str) -> Sample {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("entrepot.toml");
        fs::write(&path, text).expect("a file");
        Sample { folder, path, variables: vec![("HOME", "/home/u")] }
    }

    impl Sample {
        fn run(&self, command: ConfigCommand) -> Result<String, ConfigCommandError> {
            let mut out = Vec::new();
            let env = |name: &str| {
                let variable = self.variables.iter().find(|(have, _)| *have == name);
                variable.map(|(_, value)| (*value).to_owned())
            };
            run_with(&env, Some(self.path.clone()), &command, &mut out)?;
            Ok(String::from_utf8(out).expect("text"))
        }

        fn set(&self, key: &str, value: &str) -> Result<String, ConfigCommandError> {
            self.run(ConfigCommand::Set { key: key.parse().expect(key), value: Secret::new(value) })
        }

        fn get(&self, key: &str, json: bool) -> String {
            self.run(ConfigCommand::Get { key: key.parse().expect(key), json }).expect(key)
        }

        fn text(&self) -> String {
            fs::read_to_string(&self.path).expect("the file")
        }
    }

    #[derive(clap::Parser)]
    struct Arguments {
        #[command(subcommand)]
        command: ConfigCommand,
    }

    #[test]
    fn a_value_on_the_command_line_is_a_secret_from_its_first_moment() {
        for value in ["canary", "-", "-1", ""] {
            let arguments = Arguments::try_parse_from(["config", "set", "proxy.max_connections", value]).expect(value);
            let ConfigCommand::Set { key, value: parsed } = arguments.command else { panic!("another command") };
            assert_eq!((key.to_string().as_str(), parsed.expose()), ("proxy.max_connections", value));
        }
        let refused = Arguments::try_parse_from(["config", "set", "no.key", "canary"]).err().expect("a refusal");
        assert!(!refused.to_string().contains("canary") && !format!("{refused:?}").contains("canary"), "{refused:?}");
    }

    const TEXT: &str = "data_dir = \"/data\"\n[cache] # big\nmax_size = \"1g\" # enough\n";

    #[test]
    fn a_key_is_changed_and_told_without_its_value() {
        let sample = sample(TEXT);
        fs::set_permissions(&sample.path, Permissions::from_mode(0o640)).expect("a mode");
        let told = sample.set("cache.max_size", "2g").expect("set");
        assert_eq!(sample.text(), TEXT.replace("1g", "2g"));
        assert!(told.starts_with("set cache.max_size in /") && !told.contains("2g"), "{told}");
        assert!(told.contains("when it reloads its configuration"), "{told}");
        assert_eq!(sample.get("cache.max_size", false), "2g\n");
        assert_eq!(fs::metadata(&sample.path).expect("the file").permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(sample.folder.path()).expect("the folder").count(), 1, "no other file is left");
    }

    #[test]
    fn a_value_that_needs_a_start_says_so() {
        let sample = sample(TEXT);
        let told = sample.set("proxy.listen", "[\"127.0.0.1:3128\"]").expect("set");
        assert!(told.contains("set proxy.listen in") && told.contains("a running server takes it over when it starts"));
        let told = sample.set("redirect.ports", "[443]").expect("set");
        assert!(told.contains("entrepot redirect takes it over when it starts again"), "{told}");
    }

    #[test]
    fn a_key_that_the_environment_overrides_says_so() {
        let mut sample = sample(TEXT);
        sample.variables.extend([
            ("CACHE_MAX_SIZE", "5g"),
            ("AUTH_REGISTRIES", "GHCR.io:env:canary"),
            ("REGISTRIES", "a.example"),
        ]);
        let told = sample.set("cache.max_size", "2g").expect("set");
        assert!(told.ends_with("entrepot.toml; the environment variable CACHE_MAX_SIZE overrides it\n"), "{told}");
        assert_eq!((sample.text(), sample.get("cache.max_size", false)), (TEXT.replace("1g", "2g"), "5g\n".to_owned()));
        let account = "{ username = \"robot\", password = \"canary\" }";
        let told = sample.set("credentials.\"ghcr.io\"", account).expect("set");
        assert!(told.ends_with("the environment variable AUTH_REGISTRIES overrides it\n"), "{told}");
        let told = sample.set("credentials.1.username", "robot").expect("set");
        assert!(told.ends_with("the environment variable AUTH_REGISTRIES overrides it\n"), "{told}");
        assert_eq!(sample.get("credentials.\"ghcr.io\".username", false), "env\n", "the account that is used");
        for (key, value) in [
            ("intercept.registries", "[\"b.example\"]"),
            ("credentials.1.repository", "team/*"),
            ("credentials.\"quay.io\"", account),
        ] {
            let told = sample.set(key, value).expect(key);
            assert!(told.contains("when it reloads its configuration"), "the environment adds to it: {told}");
        }
        sample.variables.push(("ALLOW_PUSH", "maybe"));
        let told = sample.set("cache.min_free", "2g").expect("set");
        let refused = "the configuration as a whole is still refused: environment variable ALLOW_PUSH: \"maybe\"";
        assert!(told.contains(refused) && sample.text().contains("min_free = \"2g\""), "{told}");
    }

    #[test]
    fn a_refusal_leaves_the_file_as_it_is() {
        let sample = sample(TEXT);
        for (key, value, code, told) in [
            ("cache.max_size", "lots", 78, "\"lots\""),
            ("proxy.max_connections", "-1", 78, "proxy.max_connections: -1 is not between"),
            ("proxy.max_connections", "many", 64, "proxy.max_connections must be a whole number"),
            ("cache", "1", 64, "cache is a table; name one of its keys"),
        ] {
            let error = sample.set(key, value).expect_err(key);
            assert_eq!((error.exit_code(), sample.text().as_str()), (code, TEXT), "{error}");
            let text = error.to_string();
            assert!(text.starts_with("nothing was changed: ") && text.contains(told), "{text}");
        }
        let broken = self::sample("[cache\n");
        assert_eq!(broken.set("cache.max_size", "1g").expect_err("no TOML").exit_code(), 78);
        assert_eq!(broken.text(), "[cache\n");
    }

    #[test]
    fn a_secret_is_set_and_never_shown() {
        let sample = sample(TEXT);
        let account = "{ username = \"robot\", password = \"canary\" }";
        let told = sample.set("credentials.\"ghcr.io\"", account).expect("set");
        assert!(sample.text().contains("password = \"canary\"") && !told.contains("canary"), "{told}");
        for json in [false, true] {
            for key in ["credentials.\"ghcr.io\".password", "credentials.1", "credentials"] {
                let shown = sample.get(key, json);
                assert!(shown.contains("********") && !shown.contains("canary"), "{key}: {shown}");
            }
        }
        assert_eq!(sample.get("credentials.\"ghcr.io\".username", false), "robot\n");
        let error = sample.set("credentials.\"ghcr.io\"", "{ password = \"canary-2\" }").expect_err("no user");
        assert!(!error.to_string().contains("canary"), "{error}");
    }

    #[test]
    fn an_account_is_found_by_its_registry_in_any_case_and_as_a_whole() {
        let account = |registry: &str, rest: &str| {
            format!("[[credentials]]\nregistry = \"{registry}\"\npassword = \"canary\"\n{rest}")
        };
        let text = [
            account("other.example", "username = \"ghcr.io\"\n"),
            account("ghcr.io", "repository = \"team/*\"\nusername = \"part\"\n"),
            account("GHCR.io", "repository = \"\"\nusername = \"whole\"\n"),
        ];
        let sample = sample(&text.concat());
        assert_eq!(sample.get("credentials.\"ghcr.io\".username", false), "whole\n");
        assert_eq!(sample.get("credentials.\"Ghcr.IO\".username", false), "whole\n");
        assert_eq!(sample.get("credentials.2.username", false), "part\n", "numbered as in the file");
        assert_eq!(sample.get("credentials.\"team.example\"", false), "", "no such account");
        assert!(sample.get("credentials.\"ghcr.io\"", false).starts_with("credentials.3.registry = \"GHCR.io\"\n"));
        sample.set("credentials.\"ghcr.io\".username", "robot").expect("set");
        assert_eq!(sample.text(), text.concat().replace("whole", "robot"), "the same account is changed");
    }

    #[test]
    fn names_of_hosts_and_headers_are_found_as_they_are_typed() {
        let table =
            |host: &str| format!("[registries.{host}]\nscheme = \"http\"\nheaders = {{ \"X.Key\" = \"canary\" }}\n");
        let sample = sample(&[table("localhost"), table("\"Reg.example:5000\"")].concat());
        for host in ["localhost", "'localhost'", "\"reg.example:5000\"", "'Reg.Example:5000'"] {
            assert_eq!(sample.get(&format!("registries.{host}.scheme"), false), "http\n", "{host}");
            assert_eq!(sample.get(&format!("registries.{host}.headers.\"x.key\""), false), "********\n", "{host}");
        }
        let shown = sample.get("registries.localhost", false);
        assert!(shown.contains("registries.\"localhost\".headers.\"x.key\" = \"********\"\n"), "{shown}");
    }

    #[test]
    fn a_file_is_made_and_a_link_stays_one() {
        let mut sample = sample(TEXT);
        sample.path = sample.folder.path().join("new.toml");
        sample.set("data_dir", "/data").expect("set");
        assert_eq!(sample.text(), "data_dir = \"/data\"\n");
        let link = sample.folder.path().join("link.toml");
        std::os::unix::fs::symlink(&sample.path, &link).expect("a link");
        sample.path = link;
        sample.set("data_dir", "/other").expect("set");
        assert!(sample.path.is_symlink());
        assert_eq!(sample.get("data_dir", false), "/other\n");
    }

    #[test]
    fn a_section_is_shown_with_its_keys_and_json_has_origins() {
        let sample = sample(TEXT);
        assert!(sample.get("cache", false).contains("cache.max_size = \"1g\"\ncache.min_free = "));
        let rows: serde_json::Value = serde_json::from_str(&sample.get("cache.max_size", true)).expect("JSON");
        let origin = format!("{}:3", sample.path.display());
        assert_eq!((&rows[0]["value"], &rows[0]["origin"]), (&"1g".into(), &origin.into()));
        assert_eq!(sample.get("registries.\"a:1\".scheme", false), "", "not set");
    }
}
