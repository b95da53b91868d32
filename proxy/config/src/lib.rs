//! Configuration: the typed form (file, environment, flags) and the ready one.
//!
//! ```text
//! entrepot.toml ─ schema (unknown keys) ─ raw ◄─ environment ◄─ flags
//!                                          └─ resolver: places, doors, cache, registries, … ─► ready, effective
//! ```
//!
//! The ready configuration has a part that is read once, at the start, and a part that a reload replaces; see
//! [`ready`].
//!
//! Later layers win; lists of registries and accounts add up. This crate writes nothing and binds no port. It reads the
//! files that the configuration names (CA, passwords), so that a bad one is found before anything starts.

mod auth_registries;
mod cache;
mod data_plane;
mod doors;
pub mod edit;
mod effective;
mod environment;
mod key_rows;
mod mdns;
mod other_formats;
mod places;
mod provenance;
mod raw;
pub mod ready;
mod redirect;
mod registries;
mod registry_access;
mod registry_door;
mod resolver;
mod schema;
mod upstream;
mod values;
mod variables;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

pub use effective::{Applies, Effective, Entry, MASK, Row, Told, ToldConfig, pair};
use environment::Additions;
pub use environment::Environment;
pub use places::{Found, HostFacts};
pub use provenance::{ConfigError, Provenance};
use provenance::{Given, Place, Refusal, Source};
use raw::{Raw, RawAccount};
use ready::{Config, LiveConfig, Startup};
pub use redirect::appliance as redirect_appliance;
pub use registries::BUILT_IN_REGISTRIES;
use registries::Schemes;
use resolver::{AtReload, AtStart, Record, Resolver};

/// The file that is read if neither a flag nor the environment names one, and if it exists.
const DEFAULT_FILE: &str = "/etc/entrepot/entrepot.toml";

/// The flags that configure, common to every command that reads the configuration.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Flags {
    /// The configuration file [default: $ENTREPOT_CONFIG, else /etc/entrepot/entrepot.toml where it exists]
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// The directory that keeps blobs, index and CA
    #[arg(long, value_name = "DIR", global = true)]
    pub data_dir: Option<PathBuf>,
    /// Address and port of the proxy, may be repeated
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Vec<SocketAddr>,
}

/// A configuration without mistakes.
pub struct Loaded {
    pub config: Config,
    /// The same for people, with the origin of each value.
    pub effective: Effective,
    /// Lines to log once at start.
    pub notices: Vec<String>,
    /// Notices that an administrator has to act on.
    pub warnings: Vec<String>,
}

/// Reads all layers. `env` gives the variables of the environment, `host` the facts that the defaults depend on.
pub fn load(flags: &Flags, env: &dyn Environment, host: &HostFacts) -> Result<Loaded, ConfigError> {
    let source = find_source(flags, env, host)?;
    let mut raw = parse(&source)?;
    let mut additions = environment::apply(&mut raw, env)?;
    additions.notices.extend(variables::misspelt(&env.names()));
    apply_flags(&mut raw, flags);
    resolve(source, raw, additions, env, host)
}

/// The configuration of a file with this text, without environment and flags. Only the files that the text names are
/// read.
pub fn from_text(text: &str) -> Result<Config, ConfigError> {
    let host = HostFacts { uid: 0, look: Box::new(|_| Found::Nothing) };
    validate(Path::new(DEFAULT_FILE), text, &|_: &str| None, &host).map(|loaded| loaded.config)
}

/// The settings of this host without file, environment and flags. `env` is asked only for the places that defaults
/// depend on.
pub fn defaults(env: &dyn Environment, host: &HostFacts) -> Result<Effective, ConfigError> {
    validate(Path::new(DEFAULT_FILE), "", env, host).map(|loaded| loaded.effective)
}

/// The configuration of a file at `path` with this text, without environment and flags. `env` is asked only for the
/// places that defaults depend on. The file itself is not read, so a text can be validated before it replaces the file.
pub fn validate(path: &Path, text: &str, env: &dyn Environment, host: &HostFacts) -> Result<Loaded, ConfigError> {
    let source = Source::new(path.to_owned(), text.to_owned());
    let mut raw = parse(&source)?;
    let additions = environment::apply(&mut raw, &|_: &str| None)?;
    resolve(source, raw, additions, env, host)
}

/// The path of the file that is read, and the layer that names it: `flags`, else the environment, else the default.
pub fn file_place(flags: &Flags, env: &dyn Environment) -> (PathBuf, Provenance) {
    match (&flags.config, env.value(environment::FILE).filter(|path| !path.is_empty())) {
        (Some(path), _) => (path.clone(), Provenance::Flag("--config")),
        (None, Some(path)) => (PathBuf::from(path), Provenance::Environment(environment::FILE)),
        (None, None) => (PathBuf::from(DEFAULT_FILE), Provenance::Default),
    }
}

fn find_source(flags: &Flags, env: &dyn Environment, host: &HostFacts) -> Result<Source, ConfigError> {
    let (path, named_by) = file_place(flags, env);
    if named_by == Provenance::Default && (host.look)(&path) != Found::File {
        return Ok(Source::new(path, String::new()));
    }
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Source::new(path, text)),
        Err(error) => {
            let refusal = Refusal::new(format!("cannot be read: {}", values::reason(&error)));
            Err(refusal
                .hint(format!("it is named by {named_by}"))
                .at(Provenance::File { path: path.into(), line: None }))
        }
    }
}

fn parse(source: &Source) -> Result<Raw, ConfigError> {
    // This takes only the message. toml's full report quotes the line, which may hold a password.
    let refuse = |error: toml::de::Error| {
        let place = Place::File(error.span().map_or(0, |span| span.start));
        let mut refusal = Refusal::new(error.message());
        refusal.hint = other_formats::hint(&source.path, &source.text);
        refusal.at(source.origin(place))
    };
    let table = DeTable::parse(&source.text).map_err(refuse)?;
    schema::check(&table).map_err(|Given { value, place }| value.at(source.origin(place)))?;
    toml::from_str(&source.text).map_err(refuse)
}

fn apply_flags(raw: &mut Raw, flags: &Flags) {
    if let Some(path) = &flags.data_dir {
        let place = Place::Flag("--data-dir");
        raw.data_dir = Some(Given::new(path.to_string_lossy().into_owned(), place));
    }
    if !flags.listen.is_empty() {
        let place = Place::Flag("--listen");
        let addresses = flags.listen.iter().map(|address| Given::new(address.to_string(), place)).collect();
        raw.proxy.listen = Some(Given::new(addresses, place));
    }
}

fn resolve(
    source: Source,
    raw: Raw,
    additions: Additions,
    env: &dyn Environment,
    host: &HostFacts,
) -> Result<Loaded, ConfigError> {
    let mut record = Record::new(source, additions.notices);
    let startup = startup(&mut record.resolver(), &raw, env, host)?;
    let redirect = redirect::redirect(&mut record.resolver(), &raw.redirect, &startup.data_dir)?;
    let live = live(&mut record.resolver(), raw, (additions.registries, additions.accounts))?;
    let Record { mut effective, notices, warnings, .. } = record;
    effective.sort(&schema::sections());
    Ok(Loaded { config: Config { startup, live, redirect }, effective, notices, warnings })
}

fn startup(
    resolver: &mut Resolver<'_, AtStart>,
    raw: &Raw,
    env: &dyn Environment,
    host: &HostFacts,
) -> Result<Startup, ConfigError> {
    let data_dir = places::data_dir(resolver, &raw.data_dir, env, host)?;
    Ok(Startup {
        proxy: doors::proxy_listen(resolver, &raw.proxy)?,
        transparent: redirect::listen(resolver, &raw.transparent)?,
        registry: registry_door::listen(resolver, &raw.registry)?,
        admin: doors::admin(resolver, &raw.admin, &data_dir)?,
        ca: places::ca(resolver, &raw.ca, &data_dir, host)?,
        data_plane: data_plane::data_plane(resolver, &raw.data_plane)?,
        mdns: mdns::mdns(resolver, &raw.mdns)?,
        logging: doors::log_output(resolver, &raw.logging)?,
        data_dir,
    })
}

/// `added` are the registries and accounts of the environment.
fn live(
    resolver: &mut Resolver<'_, AtReload>,
    raw: Raw,
    added: (Vec<Given<String>>, Vec<Given<RawAccount>>),
) -> Result<LiveConfig, ConfigError> {
    let proxy = doors::proxy_policy(resolver, &raw.proxy)?;
    let transparent = redirect::policy(resolver, &raw.transparent)?;
    let registry = registry_door::settings(resolver, &raw.registry)?;
    let (cache, tags) = cache::cache(resolver, &raw.cache)?;
    let proofs = cache::proofs(resolver, &raw.rights)?;
    let upstream = upstream::upstream(resolver, &raw.upstream)?;
    let client = upstream::client(resolver, &raw.client)?;
    let data_plane = data_plane::sealing(resolver, &raw.data_plane)?;
    let logging = doors::log_level(resolver, &raw.logging)?;
    let listed = registries::listed(resolver, &raw.intercept.registries, &added.0)?;
    let mut implied = registries::listed_by_accounts(raw.credentials.iter().chain(&added.1));
    let mut schemes = Schemes::of(&listed, &implied);
    let (registries, named) = registries::policies(resolver, &raw.registries, upstream.verify, &mut schemes)?;
    let credentials = registries::accounts(resolver, raw.credentials, added.1, &schemes, proxy.allow_push)?;
    implied.extend(named);
    let intercept = registries::intercept(resolver, &raw.intercept.registries, listed, implied, &schemes)?;
    Ok(LiveConfig {
        proxy,
        transparent,
        proofs,
        registry,
        cache,
        tags,
        intercept,
        credentials,
        registries,
        upstream,
        client,
        data_plane,
        logging,
    })
}
