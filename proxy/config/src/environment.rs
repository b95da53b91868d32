//! docker-registry-proxy's environment variables, and those of the wrappers around it.
//!
//! One table says which setting each variable sets. Their values replace those of the file in `raw`. `REGISTRIES` and
//! `AUTH_REGISTRIES` add to the file's lists instead. An empty variable counts as not set. An empty one of the manifest
//! cache's tiers switches its tier off. The environment itself comes in as an [`Environment`].

use super::auth_registries;
use super::provenance::{ConfigError, Given, Place, Provenance, Refusal};
use super::raw::{HiddenText, Raw, RawAccount, Switch, Text};
use super::values;
use entrepot_core::secret::Secret;

/// The variables of a process. A closure from a name to a value is an environment whose names are not known.
pub trait Environment {
    /// The value of a variable. None if it is not set.
    fn value(&self, name: &str) -> Option<String>;

    /// The names of all variables that are set.
    fn names(&self) -> Vec<String>;
}

impl<F: Fn(&str) -> Option<String>> Environment for F {
    fn value(&self, name: &str) -> Option<String> {
        self(name)
    }

    fn names(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The variable that names the file.
pub(super) const FILE: &str = "ENTREPOT_CONFIG";

/// The values that the environment adds to lists.
#[derive(Default)]
pub(super) struct Additions {
    pub(super) registries: Vec<Given<String>>,
    pub(super) accounts: Vec<Given<RawAccount>>,
    /// Lines to log once at start.
    pub(super) notices: Vec<String>,
}

/// Puts the values of the environment into `raw`.
pub(super) fn apply(raw: &mut Raw, env: &dyn Environment) -> Result<Additions, ConfigError> {
    let mut layer = Layer { raw, env, additions: Additions::default() };
    for (name, target) in VARIABLES {
        let Some(text) = env.value(name) else { continue };
        let text = text.trim();
        if !text.is_empty() || matches!(target, Target::OffWhenEmpty(_)) {
            layer.set(name, target, text)?;
        }
    }
    layer.parent_proxy()?;
    layer.tunnel_idle()?;
    layer.accounts()?;
    Ok(layer.additions)
}

/// Every variable that sets a key, and the one that names the file.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    let parents = PARENT_PROXIES.iter().flat_map(|(name, file)| [Some(*name), *file]).flatten();
    VARIABLES.iter().map(|(name, _)| *name).chain(parents).chain(TUNNEL_IDLE).chain(AUTHENTICATION).chain([FILE])
}

enum Target {
    Text(fn(&mut Raw) -> &mut Text),
    OffWhenEmpty(fn(&mut Raw) -> &mut Text),
    Switch(fn(&mut Raw) -> &mut Switch),
    /// The setting means the opposite of the variable.
    Inverted(fn(&mut Raw) -> &mut Switch),
    /// The variable has a rule of its own.
    Special(fn(&mut Layer<'_>, &'static str, &str) -> Result<(), ConfigError>),
}
use Target::{Inverted, OffWhenEmpty, Special};

const VARIABLES: &[(&str, Target)] = &[
    ("REGISTRIES", Special(registries)),
    ("ADDITIONAL_REGISTRIES", Special(registries)),
    ("REGISTRY_WHITELIST", Special(whitelist)),
    ("VERIFY_SSL", Target::Switch(|raw| &mut raw.upstream.verify)),
    ("ENABLE_MANIFEST_CACHE", Special(manifest_cache)),
    ("MANIFEST_CACHE_PRIMARY_REGEX", OffWhenEmpty(|raw| &mut raw.cache.tags.primary.regex)),
    ("MANIFEST_CACHE_PRIMARY_TIME", OffWhenEmpty(|raw| &mut raw.cache.tags.primary.time)),
    ("MANIFEST_CACHE_SECONDARY_REGEX", OffWhenEmpty(|raw| &mut raw.cache.tags.secondary.regex)),
    ("MANIFEST_CACHE_SECONDARY_TIME", OffWhenEmpty(|raw| &mut raw.cache.tags.secondary.time)),
    ("MANIFEST_CACHE_DEFAULT_TIME", OffWhenEmpty(|raw| &mut raw.cache.tags.default_time)),
    ("CACHE_MAX_SIZE", Target::Text(|raw| &mut raw.cache.max_size)),
    ("CACHE_INACTIVE", Target::Text(|raw| &mut raw.cache.inactive)),
    ("ALLOW_PUSH", Target::Switch(|raw| &mut raw.proxy.allow_push)),
    ("PROXY_REQUEST_BUFFERING", Special(request_buffering)),
    ("SEND_TIMEOUT", Target::Text(|raw| &mut raw.client.send_timeout)),
    ("CLIENT_BODY_TIMEOUT", Target::Text(|raw| &mut raw.client.body_timeout)),
    ("CLIENT_HEADER_TIMEOUT", Target::Text(|raw| &mut raw.client.header_timeout)),
    ("KEEPALIVE_TIMEOUT", Target::Text(|raw| &mut raw.client.keepalive_timeout)),
    ("PROXY_READ_TIMEOUT", Target::Text(|raw| &mut raw.upstream.read_timeout)),
    ("PROXY_CONNECT_TIMEOUT", Target::Text(|raw| &mut raw.upstream.connect_timeout)),
    ("PROXY_SEND_TIMEOUT", Target::Text(|raw| &mut raw.upstream.send_timeout)),
    ("PROXY_CONNECT_CONNECT_TIMEOUT", Target::Text(|raw| &mut raw.upstream.tunnel_connect_timeout)),
    ("DISABLE_IPV6", Inverted(|raw| &mut raw.upstream.ipv6)),
    // The last one wins, so the one that logs most comes last.
    ("DEBUG", Special(debug)),
    ("DEBUG_HUB", Special(debug)),
    ("DEBUG_NGINX", Special(trace)),
    ("CA_CRT_FILE", Target::Text(|raw| &mut raw.ca.cert)),
    ("CA_KEY_FILE", Target::Text(|raw| &mut raw.ca.key)),
    ("no_proxy", Special(no_proxy)),
    ("NO_PROXY", Special(no_proxy)),
];

/// The first variable that is set wins. Variables for this program come before those for every program.
const PARENT_PROXIES: [(&str, Option<&'static str>); 4] = [
    ("UPSTREAM_PROXY", Some("UPSTREAM_PROXY_FILE")),
    ("upstream_proxy", None),
    ("HTTPS_PROXY", None),
    ("https_proxy", None),
];

/// nginx has one idle time for each direction of a tunnel. A tunnel is idle when both directions are.
const TUNNEL_IDLE: [&str; 2] = ["PROXY_CONNECT_READ_TIMEOUT", "PROXY_CONNECT_SEND_TIMEOUT"];

/// The accounts, the file that may hold them, and the delimiters of entries and of fields.
const AUTHENTICATION: [&str; 4] =
    ["AUTH_REGISTRIES", "AUTH_REGISTRIES_FILE", "AUTH_REGISTRIES_DELIMITER", "AUTH_REGISTRY_DELIMITER"];

/// Separators of other programs' lists, and the quotes that `docker run --env-file` keeps. No registry's name has one of
/// them.
const LIST_SEPARATORS: [char; 5] = [',', ';', '|', '"', '\''];

struct Layer<'a> {
    raw: &'a mut Raw,
    env: &'a dyn Environment,
    additions: Additions,
}

impl Layer<'_> {
    fn set(&mut self, name: &'static str, target: &Target, text: &str) -> Result<(), ConfigError> {
        let place = Place::Environment(name);
        match target {
            Target::Text(knob) | OffWhenEmpty(knob) => *knob(self.raw) = Some(Given::new(text.to_owned(), place)),
            Target::Switch(knob) => *knob(self.raw) = Some(Given::new(switch(name, text)?, place)),
            Inverted(knob) => *knob(self.raw) = Some(Given::new(!switch(name, text)?, place)),
            Special(special) => special(self, name, text)?,
        }
        Ok(())
    }

    fn parent_proxy(&mut self) -> Result<(), ConfigError> {
        for (name, file) in PARENT_PROXIES {
            if let Some((proxy, name)) = self.secret(name, file)? {
                self.raw.upstream.proxy = Some(Given::new(HiddenText(proxy), Place::Environment(name)));
                return Ok(());
            }
        }
        Ok(())
    }

    fn tunnel_idle(&mut self) -> Result<(), ConfigError> {
        let mut longest = None;
        for name in TUNNEL_IDLE {
            let Some(text) = self.env.value(name).filter(|text| !text.trim().is_empty()) else { continue };
            let time = values::deadline(text.trim()).map_err(|refusal| refusal.at(Provenance::Environment(name)))?;
            if longest.is_none_or(|longest| time > longest) {
                longest = Some(time);
                let given = Given::new(text.trim().to_owned(), Place::Environment(name));
                self.raw.upstream.tunnel_idle_timeout = Some(given);
            }
        }
        Ok(())
    }

    fn accounts(&mut self) -> Result<(), ConfigError> {
        let [entries, file, between_entries, between_fields] = AUTHENTICATION;
        let Some((entries, name)) = self.secret(entries, Some(file))? else {
            return Ok(());
        };
        let delimiter = |name: &str, default: &str| {
            self.env.value(name).filter(|text| !text.is_empty()).unwrap_or_else(|| default.to_owned())
        };
        let between_entries = delimiter(between_entries, " ");
        let between_fields = delimiter(between_fields, ":");
        let parsed = auth_registries::parse(&entries, &between_entries, &between_fields, name);
        let (accounts, notices) = parsed.map_err(|refusal| refusal.at(Provenance::Environment(name)))?;
        self.additions.accounts = accounts;
        self.additions.notices.extend(notices);
        Ok(())
    }

    /// The secret in the variable `name`, or in the file that the variable `file` names, with the name of the variable
    /// that is set. None if neither is set.
    fn secret(
        &self,
        name: &'static str,
        file: Option<&'static str>,
    ) -> Result<Option<(Secret, &'static str)>, ConfigError> {
        let set = |name: &str| self.env.value(name).filter(|text| !text.trim().is_empty());
        let direct = set(name).map(|text| (Secret::new(text.trim()), name));
        let Some((file, path)) = file.and_then(|file| Some((file, set(file)?))) else { return Ok(direct) };
        if direct.is_some() {
            return Err(Refusal::new(format!("{name} is set too"))
                .hint("set one of them")
                .at(Provenance::Environment(file)));
        }
        let secret = values::secret_file(path.trim()).map_err(|refusal| refusal.at(Provenance::Environment(file)))?;
        Ok(Some((secret, file)))
    }
}

fn registries(layer: &mut Layer<'_>, name: &'static str, text: &str) -> Result<(), ConfigError> {
    if let Some(separator) = text.chars().find(|letter| LIST_SEPARATORS.contains(letter)) {
        let apart = text.split(LIST_SEPARATORS).map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>();
        return Err(Refusal::new(format!("{text:?} has a {separator:?} in it"))
            .hint(format!("spaces separate the registries: {:?}", apart.join(" ")))
            .at(Provenance::Environment(name)));
    }
    layer.additions.registries.extend(items(text.split_whitespace(), name));
    Ok(())
}

fn whitelist(layer: &mut Layer<'_>, name: &'static str, text: &str) -> Result<(), ConfigError> {
    if let Some(part) =
        text.split(',').find(|part| part.trim().contains(|letter: char| letter.is_whitespace() || letter == ';'))
    {
        return Err(Refusal::new(format!("{:?} is not one host", part.trim()))
            .hint("commas separate the hosts")
            .at(Provenance::Environment(name)));
    }
    layer.raw.proxy.allow = Some(Given::new(items(text.split(','), name), Place::Environment(name)));
    Ok(())
}

fn no_proxy(layer: &mut Layer<'_>, name: &'static str, text: &str) -> Result<(), ConfigError> {
    let entries = items(text.split([',', ' ']), name);
    layer.raw.upstream.no_proxy = Some(Given::new(entries, Place::Environment(name)));
    Ok(())
}

fn manifest_cache(layer: &mut Layer<'_>, name: &'static str, text: &str) -> Result<(), ConfigError> {
    let mode = if switch(name, text)? { "ttl" } else { "revalidate" };
    layer.raw.cache.tags.mode = Some(Given::new(mode.to_owned(), Place::Environment(name)));
    Ok(())
}

fn request_buffering(layer: &mut Layer<'_>, name: &'static str, text: &str) -> Result<(), ConfigError> {
    switch(name, text)?;
    layer.additions.notices.push(format!("{name} has no effect: request bodies are always streamed"));
    Ok(())
}

fn debug(layer: &mut Layer<'_>, name: &'static str, text: &str) -> Result<(), ConfigError> {
    log_level(layer, name, text, "debug")
}

fn trace(layer: &mut Layer<'_>, name: &'static str, text: &str) -> Result<(), ConfigError> {
    log_level(layer, name, text, "trace")
}

fn log_level(layer: &mut Layer<'_>, name: &'static str, text: &str, level: &str) -> Result<(), ConfigError> {
    if switch(name, text)? {
        layer.raw.logging.level = Some(Given::new(level.to_owned(), Place::Environment(name)));
        layer.additions.notices.push(format!("{name} starts no mitmweb here: events are logged at level {level}"));
    }
    Ok(())
}

fn items<'a>(parts: impl Iterator<Item = &'a str>, name: &'static str) -> Vec<Given<String>> {
    let given = |part: &str| Given::new(part.to_owned(), Place::Environment(name));
    parts.map(str::trim).filter(|part| !part.is_empty()).map(given).collect()
}

fn switch(name: &'static str, text: &str) -> Result<bool, ConfigError> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(Refusal::new(format!("{text:?} is neither true nor false")).at(Provenance::Environment(name))),
    }
}
