//! `[intercept]`, `[[credentials]]`, `[registries."HOST"]`: the hosts that are intercepted, and their special
//! settings.
//!
//! A host that is named in any of the three is intercepted. Otherwise its settings would have no effect.

use std::collections::HashMap;

use entrepot_core::docker_hub;
use entrepot_core::host::{HTTPS_PORT, HostPattern};
use http::{HeaderName, HeaderValue, header};
use toml_edit::Key;

use super::effective::MASK;
use super::origin::{ConfigError, Given, Origin, Place, Refusal};
use super::raw::{HiddenText, Named, RawAccount, RawRegistry, Text, Texts};
use super::ready::{AccessMode, Account, RegistryPolicy};
use super::resolver::{AtReload, Resolver};
use super::values;
use entrepot_core::origin::Scheme;

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

/// A listed host with the place that listed it.
pub(super) type Listed = (HostPattern, Place);

/// The hosts of `[intercept]`, of the environment (`added`), and those that other sections `imply`.
pub(super) fn intercept(
    resolver: &mut Resolver<'_, AtReload>,
    given: &Texts,
    added: &[Given<String>],
    implied: Vec<Listed>,
) -> Result<Vec<HostPattern>, ConfigError> {
    const KEY: &str = "intercept.registries";
    let built_in: Vec<&str> = docker_hub::HOSTS.into_iter().chain(BUILT_IN_REGISTRIES).collect();
    let mut hosts = resolver.texts(KEY, &None, &built_in, values::host_pattern)?;
    if let Some(items) = given.as_ref().filter(|given| !given.value.is_empty()) {
        let places: Vec<Place> = items.value.iter().map(|item| item.place).collect();
        let listed = resolver.texts(KEY, given, &[], values::host_pattern)?;
        let listed: Vec<Listed> = listed.into_iter().zip(places).collect();
        refuse_duplicates(resolver, KEY, listed.iter())?;
        hosts.extend(listed.into_iter().map(|(host, _)| host));
    }
    let mut more = Vec::new();
    for Given { value, place } in added {
        let host = values::host_pattern(value).map_err(|refusal| resolver.refuse(KEY, *place, refusal))?;
        more.push((host, *place));
    }
    for (host, place) in more.into_iter().chain(implied) {
        if !hosts.contains(&host) {
            let origin = resolver.origin(place);
            resolver.record(KEY, vec![host.to_string()], origin);
            hosts.push(host);
        }
    }
    let mut seen = Vec::new();
    hosts.retain(|host| {
        !seen.contains(host) && {
            seen.push(host.clone());
            true
        }
    });
    Ok(hosts)
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
) -> Result<(Vec<Account>, Vec<Listed>), ConfigError> {
    let count_in_file = in_file.len();
    let (mut accounts, mut listed) = (Vec::new(), Vec::new());
    for (at, Given { value, place }) in in_file.into_iter().chain(added).enumerate() {
        let account = account(resolver, &format!("credentials.{}", at + 1), &value, place)?;
        listed.push((account.registry.clone(), place));
        accounts.push(account);
    }
    accounts.rotate_left(count_in_file);
    accounts.sort_by_key(|account| account.repository.is_none());
    Ok((accounts, listed))
}

fn account(
    resolver: &mut Resolver<'_, AtReload>,
    key: &str,
    raw: &RawAccount,
    place: Place,
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
    let registry = resolver.text(&format!("{key}.registry"), &raw.registry, "", values::host_pattern)?;
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
    Ok(Account { registry, repository, username, password })
}

fn is_set(text: &Text) -> bool {
    text.as_ref().is_some_and(|text| !text.value.is_empty())
}

/// Basic authentication ends the name at its first colon (RFC 7617).
fn username(text: &str) -> Result<String, Refusal> {
    if text.contains(':') { Err(Refusal::new(format!("{text:?} has a colon"))) } else { Ok(text.to_owned()) }
}

/// The settings of single registries, in the order of the file. `verify` holds for a registry that says nothing about
/// it.
pub(super) fn policies(
    resolver: &mut Resolver<'_, AtReload>,
    raw: &Named<RawRegistry>,
    verify: bool,
) -> Result<(Vec<RegistryPolicy>, Vec<Listed>), ConfigError> {
    let (mut policies, mut listed) = (Vec::new(), Vec::new());
    for (name, registry) in &raw.0 {
        let host =
            values::host_pattern(&name.value).map_err(|refusal| resolver.refuse("registries", name.place, refusal))?;
        listed.push((host.clone(), name.place));
        policies.push(policy(resolver, host, registry, verify)?);
    }
    refuse_duplicates(resolver, "registries", listed.iter())?;
    Ok((policies, listed))
}

fn policy(
    resolver: &mut Resolver<'_, AtReload>,
    host: HostPattern,
    raw: &RawRegistry,
    verify: bool,
) -> Result<RegistryPolicy, ConfigError> {
    const SCHEMES: &[(&str, Scheme)] = &[("http", Scheme::Http), ("https", Scheme::Https)];
    const ACCESS: &[(&str, AccessMode)] = &[("strict", AccessMode::Strict), ("shared", AccessMode::Shared)];
    let key = |name: &str| format!("registries.\"{host}\".{name}");
    Ok(RegistryPolicy {
        scheme: resolver.text(&key("scheme"), &raw.scheme, "https", |text| values::choice(text, SCHEMES))?,
        extra_roots: resolver.optional(&key("ca_file"), &raw.ca_file, values::certificates)?.unwrap_or_default(),
        verify: resolver.switch(&key("verify"), &raw.verify, verify),
        access: resolver.optional(&key("access"), &raw.access, |text| values::choice(text, ACCESS))?,
        realm: resolver.optional(&key("realm"), &raw.realm, values::host)?,
        headers: headers(resolver, &key("headers"), &raw.headers)?,
        host,
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

/// A host that stands twice in one list, in whatever spelling, is a mistake: the second entry would have no effect.
fn refuse_duplicates<'a>(
    resolver: &Resolver<'_, AtReload>,
    key: &str,
    listed: impl Iterator<Item = &'a Listed>,
) -> Result<(), ConfigError> {
    let mut seen: HashMap<String, Place> = HashMap::new();
    for (host, place) in listed {
        let text = host.to_string();
        let implied = format!(":{HTTPS_PORT}");
        let canonical = text.strip_suffix(&implied).unwrap_or(&text).to_owned();
        if let Some(first) = seen.insert(canonical, *place) {
            let refusal = Refusal::new(format!("duplicate registry {text:?}"));
            let hint = match resolver.origin(first) {
                Origin::File { line: Some(line), .. } => format!("line {line} has it already"),
                other => format!("{other} has it already"),
            };
            return Err(resolver.refuse(key, *place, refusal.hint(hint)));
        }
    }
    Ok(())
}
