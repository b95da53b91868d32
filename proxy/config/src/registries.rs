//! `[intercept]`, `[[credentials]]`, `[registries."HOST"]`: the hosts that are intercepted, and their special
//! settings.
//!
//! A host that is named in any of the three is intercepted. Otherwise its settings would have no effect.

use std::collections::{HashMap, HashSet};

use entrepot_core::docker_hub;
use entrepot_core::host::HostPattern;
use entrepot_core::origin::{OriginPattern, Scheme};
use http::{HeaderName, HeaderValue, Method, header};
use toml_edit::Key;

use super::effective::MASK;
use super::provenance::{ConfigError, Given, Place, Provenance, Refusal};
use super::raw::{HiddenText, Named, RawAccount, RawRegistry, Text, Texts};
use super::ready::{AccessMode, Account, RegistryPolicy};
use super::resolver::{AtReload, Resolver};
use super::values;

/// The key of the list.
const LIST: &str = "intercept.registries";

/// Registries that are intercepted without configuration, besides Docker Hub.
pub const BUILT_IN_REGISTRIES: [&str; 10] = [
    "registry.k8s.io",
    "k8s.gcr.io",
    "gcr.io",
    "quay.io",
    "ghcr.io",
    "mcr.microsoft.com",
    "public.ecr.aws",
    "nvcr.io",
    "lscr.io",
    "*.pkg.dev",
];

/// Headers that entrepot sets itself, or that belong to one connection.
const RESERVED_HEADERS: [HeaderName; 10] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::UPGRADE,
    header::TE,
    header::TRAILER,
    header::PROXY_AUTHORIZATION,
    header::ACCEPT_ENCODING,
    header::RANGE,
];

/// A registry that a section or a list names, with the place that names it. Entries that spell no scheme get theirs
/// from [`Schemes`].
pub(super) struct Listed {
    spelled: Option<Scheme>,
    host: HostPattern,
    place: Place,
}

/// The schemes that the configuration declares, for entries that spell none. It decides as
/// [`LiveConfig::origin`](super::ready::LiveConfig::origin) does: sections first, then the list, in which the most
/// specific entry counts. A name that no declaration covers means https, whatever its port is.
pub(super) struct Schemes {
    sections: Vec<OriginPattern>,
    others: Vec<Declared>,
}

/// A declaration of the list or of an account.
struct Declared {
    pattern: OriginPattern,
    /// False for an entry of the list without a scheme. Such an entry means https, unless the same name is spelled with
    /// a scheme elsewhere.
    is_spelled: bool,
}

impl Schemes {
    /// Collects the declarations of the list and the accounts. [`policies`] adds those of `[registries]`. A name of an
    /// account without a scheme declares nothing.
    pub(super) fn of(listed: &[Listed], accounts: &[Listed]) -> Self {
        let declared = |listed: &Listed| Declared {
            pattern: OriginPattern { scheme: listed.spelled.unwrap_or(Scheme::Https), host: listed.host.clone() },
            is_spelled: listed.spelled.is_some(),
        };
        let accounts = accounts.iter().filter(|account| account.spelled.is_some());
        Self { sections: Vec::new(), others: listed.iter().chain(accounts).map(declared).collect() }
    }

    fn resolve(&self, spelled: Option<Scheme>, host: &HostPattern) -> OriginPattern {
        let by_section = || self.sections.iter().find(|section| covers(section, host));
        let by_others = || {
            let covering = self.others.iter().filter(|declared| covers(&declared.pattern, host));
            let rank = |declared: &&Declared| {
                let Declared { pattern, is_spelled } = declared;
                (pattern.host.specificity(), *is_spelled, pattern.scheme == Scheme::Https)
            };
            covering.max_by_key(rank).map(|declared| &declared.pattern)
        };
        match (spelled, by_section().or_else(by_others)) {
            (Some(scheme), _) => OriginPattern { scheme, host: host.clone() },
            (None, None) => OriginPattern { scheme: Scheme::Https, host: host.clone() },
            // The declaration's spelling, which may lack the scheme's own port, keeps one registry in the list.
            (None, Some(same)) if same.host.specificity() == host.specificity() => same.clone(),
            (None, Some(wider)) => OriginPattern { scheme: wider.scheme, host: host.clone() },
        }
    }
}

/// Whether a declaration is about everything that `host` means. A name without a port is on its scheme's own port.
fn covers(declaration: &OriginPattern, host: &HostPattern) -> bool {
    let port = match (declaration.host.port(), host.port()) {
        (None, port) => port.is_none_or(|port| port == declaration.scheme.default_port()),
        (Some(declared), port) => port == Some(declared),
    };
    port && declaration.host.includes(host)
}

/// The entries of `[intercept]`, and those of the environment (`added`).
pub(super) fn listed(
    resolver: &mut Resolver<'_, AtReload>,
    given: &Texts,
    added: &[Given<String>],
) -> Result<Vec<Listed>, ConfigError> {
    let items = given.iter().flat_map(|given| &given.value).chain(added);
    items
        .map(|Given { value, place }| entry(value, *place).map_err(|refusal| resolver.refuse(LIST, *place, refusal)))
        .collect()
}

/// The registries that are intercepted: the built-in ones, those of the list, and those that other sections `imply`.
pub(super) fn intercept(
    resolver: &mut Resolver<'_, AtReload>,
    given: &Texts,
    listed: Vec<Listed>,
    implied: Vec<Listed>,
    schemes: &Schemes,
) -> Result<Vec<OriginPattern>, ConfigError> {
    let built_in: Vec<&str> = docker_hub::HOSTS.into_iter().chain(BUILT_IN_REGISTRIES).collect();
    let mut registries = resolver.texts(LIST, &None, &built_in, values::origin_pattern)?;
    let (in_file, others): (Vec<_>, Vec<_>) =
        listed.into_iter().partition(|listed| matches!(listed.place, Place::File(_)));
    if let Some(given) = given.as_ref().filter(|given| !given.value.is_empty()) {
        resolver.record_texts(LIST, given);
        refuse_duplicates(resolver, LIST, in_file.iter())?;
    }
    let of = |listed: &Listed| schemes.resolve(listed.spelled, &listed.host);
    registries.extend(in_file.iter().map(of));
    for listed in others.iter().chain(&implied) {
        let registry = of(listed);
        if !registries.contains(&registry) {
            let origin = resolver.origin(listed.place);
            resolver.record(LIST, vec![registry.to_string()], origin);
            registries.push(registry);
        }
    }
    let mut seen = HashSet::new();
    registries.retain(|registry| seen.insert(registry.clone()));
    Ok(registries)
}

fn entry(text: &str, place: Place) -> Result<Listed, Refusal> {
    let (spelled, host) = values::registry(text)?;
    Ok(Listed { spelled, host, place })
}

/// The accounts of the file and those of the environment (`added`), in the order in which they are tried: the first
/// that matches wins. Accounts for some repositories come before those for a whole host. Among equals, those of the
/// environment come first.
///
/// Their rows have the numbers by which `edit` finds them: the accounts of the file by their place, then the others.
pub(super) fn accounts(
    resolver: &mut Resolver<'_, AtReload>,
    in_file: Vec<Given<RawAccount>>,
    added: Vec<Given<RawAccount>>,
    schemes: &Schemes,
    allow_push: bool,
) -> Result<Vec<Account>, ConfigError> {
    let count_in_file = in_file.len();
    let mut accounts = Vec::new();
    for (at, Given { value, place }) in in_file.into_iter().chain(added).enumerate() {
        accounts.push(account(resolver, &format!("credentials.{}", at + 1), &value, place, schemes, allow_push)?);
    }
    let pushing = accounts[count_in_file..].iter().filter(|account: &&Account| account.push);
    let pushing: Vec<String> = pushing.map(|account| account.registry.to_string()).collect();
    if !pushing.is_empty() {
        resolver.notice(format!(
            "ALLOW_PUSH: pushes of clients without a login to {} use the accounts of AUTH_REGISTRIES",
            pushing.join(", ")
        ));
    }
    accounts.rotate_left(count_in_file);
    accounts.sort_by_key(|account| account.repository.is_none());
    Ok(accounts)
}

/// The registries that accounts name. Those of entries without a usable name are left out: [`accounts`] refuses them.
pub(super) fn listed_by_accounts<'a>(accounts: impl Iterator<Item = &'a Given<RawAccount>>) -> Vec<Listed> {
    accounts.filter_map(|account| entry(&account.value.registry.as_ref()?.value, account.place).ok()).collect()
}

fn account(
    resolver: &mut Resolver<'_, AtReload>,
    key: &str,
    raw: &RawAccount,
    place: Place,
    schemes: &Schemes,
    allow_push: bool,
) -> Result<Account, ConfigError> {
    let missing = |what: &str| {
        let refusal = Refusal::new(format!("the entry has no {what}"));
        resolver.refuse(
            "credentials",
            place,
            refusal.hint("it needs registry, username, and password or password_file"),
        )
    };
    if !is_set(&raw.registry) {
        return Err(missing("registry"));
    }
    if !is_set(&raw.username) {
        return Err(missing("username"));
    }
    let password = raw.password.as_ref().filter(|password| !password.value.0.expose().is_empty());
    if password.is_none() && !is_set(&raw.password_file) {
        return Err(missing("password"));
    }
    if let (Some(_), Some(file)) = (&password, raw.password_file.as_ref().filter(|file| !file.value.is_empty())) {
        return Err(resolver.refuse("credentials", file.place, Refusal::new("give either password or password_file")));
    }
    let (spelled, host) = resolver.text(&format!("{key}.registry"), &raw.registry, "", values::registry)?;
    let registry = schemes.resolve(spelled, &host);
    let repository = resolver
        .optional(&format!("{key}.repository"), &raw.repository, |text| values::repository_globs(&[text.to_owned()]))?;
    let username = resolver.text(&format!("{key}.username"), &raw.username, "", username)?;
    let password = match password {
        Some(Given { value: HiddenText(secret), place }) => {
            let origin = resolver.origin(*place);
            resolver.record(format!("{key}.password"), MASK, origin);
            secret.clone()
        }
        None => resolver.text(&format!("{key}.password_file"), &raw.password_file, "", values::secret_file)?,
    };
    // With docker-registry-proxy's variables, ALLOW_PUSH means pushes with the accounts of AUTH_REGISTRIES.
    let by_default = allow_push && matches!(place, Place::Environment(_));
    let push = resolver.switch(&format!("{key}.push"), &raw.push, by_default);
    Ok(Account { registry, repository, username, password, push })
}

/// A method as in a request line.
fn method(text: &str) -> Result<Method, Refusal> {
    let known = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
    let found = known.into_iter().find(|method| method.as_str() == text);
    found.ok_or_else(|| Refusal::new(format!("{text:?} is no method")).hint("write for example [\"POST\", \"PUT\"]"))
}

fn is_set(text: &Text) -> bool {
    text.as_ref().is_some_and(|text| !text.value.is_empty())
}

/// Basic authentication ends the name at its first colon (RFC 7617).
fn username(text: &str) -> Result<String, Refusal> {
    if text.contains(':') { Err(Refusal::new(format!("{text:?} has a colon"))) } else { Ok(text.to_owned()) }
}

/// The settings of single registries, in the order of the file. `verify`, and the scheme that `schemes` has, hold for a
/// registry that says nothing about them.
pub(super) fn policies(
    resolver: &mut Resolver<'_, AtReload>,
    raw: &Named<RawRegistry>,
    verify: bool,
    schemes: &mut Schemes,
) -> Result<(Vec<RegistryPolicy>, Vec<Listed>), ConfigError> {
    let (mut policies, mut listed) = (Vec::new(), Vec::new());
    for (name, registry) in &raw.0 {
        let host =
            values::host_pattern(&name.value).map_err(|refusal| resolver.refuse("registries", name.place, refusal))?;
        let policy = policy(resolver, host.clone(), registry, verify, schemes)?;
        listed.push(Listed { spelled: Some(policy.registry.scheme), host, place: name.place });
        policies.push(policy);
    }
    refuse_duplicates(resolver, "registries", listed.iter())?;
    schemes.sections = policies.iter().map(|policy| policy.registry.clone()).collect();
    Ok((policies, listed))
}

fn policy(
    resolver: &mut Resolver<'_, AtReload>,
    host: HostPattern,
    raw: &RawRegistry,
    verify: bool,
    schemes: &Schemes,
) -> Result<RegistryPolicy, ConfigError> {
    const SCHEMES: &[(&str, Scheme)] = &[("http", Scheme::Http), ("https", Scheme::Https)];
    const ACCESS: &[(&str, AccessMode)] = &[("strict", AccessMode::Strict), ("shared", AccessMode::Shared)];
    let key = |name: &str| format!("registries.\"{host}\".{name}");
    let default = schemes.resolve(None, &host).scheme.name();
    let scheme = resolver.text(&key("scheme"), &raw.scheme, default, |text| values::choice(text, SCHEMES))?;
    Ok(RegistryPolicy {
        extra_roots: resolver.optional(&key("ca_file"), &raw.ca_file, values::certificates)?.unwrap_or_default(),
        verify: resolver.switch(&key("verify"), &raw.verify, verify),
        access: resolver.optional(&key("access"), &raw.access, |text| values::choice(text, ACCESS))?,
        realm: resolver.optional(&key("realm"), &raw.realm, values::host)?,
        headers: headers(resolver, &key("headers"), &raw.headers)?,
        header_methods: resolver.texts(&key("methods"), &raw.methods, &[], method)?,
        registry: OriginPattern { scheme, host },
    })
}

/// Headers to send. Their values are secrets.
pub(super) fn headers(
    resolver: &mut Resolver<'_, AtReload>,
    key: &str,
    raw: &Named<Given<HiddenText>>,
) -> Result<Vec<(HeaderName, HeaderValue)>, ConfigError> {
    let mut headers = Vec::new();
    for (name, Given { value, place }) in &raw.0 {
        let header = header_name(&name.value).map_err(|refusal| resolver.refuse(key, name.place, refusal))?;
        let mut value = HeaderValue::from_str(value.0.expose()).map_err(|_| {
            let refusal = Refusal::new(format!("the value of {header} has characters that no header may have"));
            resolver.refuse(key, *place, refusal)
        })?;
        // Most injected headers are keys of some kind.
        value.set_sensitive(true);
        let origin = resolver.origin(*place);
        // A header's name may have characters that TOML wants in quotes.
        resolver.record(format!("{key}.{}", Key::new(header.as_str()).display_repr()), MASK, origin);
        headers.push((header, value));
    }
    Ok(headers)
}

fn header_name(text: &str) -> Result<HeaderName, Refusal> {
    let name: HeaderName = text.parse().map_err(|_| Refusal::new(format!("{text:?} is not a header's name")))?;
    if RESERVED_HEADERS.contains(&name) {
        return Err(Refusal::new(format!("{text:?} cannot be injected")).hint("entrepot sets this header itself"));
    }
    Ok(name)
}

/// A host that stands twice in one list, in whatever spelling, is a mistake: the second entry would have no effect, or
/// one port would speak two protocols.
fn refuse_duplicates<'a>(
    resolver: &Resolver<'_, AtReload>,
    key: &str,
    listed: impl Iterator<Item = &'a Listed>,
) -> Result<(), ConfigError> {
    let mut seen: HashMap<HostPattern, Place> = HashMap::new();
    for Listed { spelled, host, place } in listed {
        let scheme = spelled.unwrap_or(Scheme::Https);
        let with_port = host.with_port(host.port().unwrap_or(scheme.default_port()));
        if let Some(first) = seen.insert(with_port, *place) {
            let refusal = Refusal::new(format!("duplicate registry \"{host}\""));
            let hint = match resolver.origin(first) {
                Provenance::File { line: Some(line), .. } => format!("line {line} has it already"),
                other => format!("{other} has it already"),
            };
            return Err(resolver.refuse(key, *place, refusal.hint(hint)));
        }
    }
    Ok(())
}
