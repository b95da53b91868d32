//! `[registry]`: the rights to pushed content, the limits of its size, and the receivers of events about it.

use std::sync::Arc;
use std::time::Duration;

use entrepot_core::scope::{Action, Actions};
use globset::GlobSet;

use super::effective::MASK;
use super::provenance::{ConfigError, Given, Place, Refusal};
use super::raw::{RawNotification, RawQuota, RawRegistryDoor, RawRule, Text};
use super::ready::rights::{AuthMethod, Notification, Quota, Rights, Rule, RuleSubject, TagPattern};
use super::registries::headers;
use super::resolver::{AtReload, Resolver};
use super::values;
use entrepot_core::secret::Secret;

/// Clients use a token for at least a minute, whatever lifetime it tells (Docker's token specification, "expires_in").
const TOKEN_LIFETIME_MIN: Duration = Duration::from_secs(60);
const QUEUE_MAX: i64 = 100_000;

pub(super) fn access(
    resolver: &mut Resolver<'_, AtReload>,
    raw: &RawRegistryDoor,
) -> Result<(Arc<Rights>, Vec<Notification>), ConfigError> {
    const LEVELS: &[(&str, Actions)] =
        &[("pull", Actions::PULL), ("push", Actions::PULL_AND_PUSH), ("delete", Actions::ALL), ("none", Actions::NONE)];
    const METHODS: &[(&str, AuthMethod)] = &[("token", AuthMethod::Token), ("basic", AuthMethod::Basic)];
    let (anonymous_at, auth_at) = (place(&raw.anonymous), place(&raw.auth));
    let rights = Rights {
        anonymous: resolver.text("registry.anonymous", &raw.anonymous, "pull", |text| values::choice(text, LEVELS))?,
        htpasswd: resolver.optional("registry.htpasswd", &raw.htpasswd, values::path)?,
        auth: resolver.text("registry.auth", &raw.auth, "token", |text| values::choice(text, METHODS))?,
        token_lifetime: resolver.text("registry.token_lifetime", &raw.token_lifetime, "5m", token_lifetime)?,
        read_only: resolver.switch("registry.read_only", &raw.read_only, false),
        immutable_tags: resolver.texts("registry.immutable_tags", &raw.immutable_tags, &[], tag_pattern)?,
        max_size: resolver.optional("registry.max_size", &raw.max_size, values::size_above_zero)?,
        rules: numbered(resolver, "registry.rules", &raw.rules, rule)?,
        quotas: numbered(resolver, "registry.quotas", &raw.quotas, quota)?,
    };
    let notifications = numbered(resolver, "registry.notifications", &raw.notifications, notification)?;
    check_ways_in(resolver, &rights, anonymous_at, auth_at)?;
    for fault in rights.htpasswd.iter().flat_map(|path| values::htpasswd_faults(path)) {
        resolver.notice(format!("registry.htpasswd has accounts that cannot log in: {fault}"));
    }
    Ok((Arc::new(rights), notifications))
}

/// It is a mistake if no client could log in, or if clients could get in by another way than the configuration says.
fn check_ways_in(
    resolver: &mut Resolver<'_, AtReload>,
    rights: &Rights,
    anonymous_at: Option<Place>,
    auth_at: Option<Place>,
) -> Result<(), ConfigError> {
    let subjects = || rights.rules.iter().flat_map(|rule| &rule.subjects);
    let for_anonymous = !rights.anonymous.is_empty() || subjects().any(|subject| *subject == RuleSubject::Anonymous);
    if rights.htpasswd.is_none() {
        if let (false, Some(place)) = (for_anonymous, anonymous_at) {
            let refusal = Refusal::new("nobody could pull or push: there are no accounts");
            return Err(resolver.refuse("registry.anonymous", place, refusal.hint("set registry.htpasswd")));
        }
        if subjects().any(|subject| *subject != RuleSubject::Anonymous) {
            resolver.notice("registry.rules name accounts, but registry.htpasswd is not set".to_owned());
        }
    } else if let (AuthMethod::Basic, true, Some(place)) = (rights.auth, for_anonymous, auth_at) {
        // Docker decides by the first answer whether it logs in, and keeps to that decision for every request.
        let refusal = Refusal::new("\"basic\" asks everybody to log in, but something is for anonymous clients");
        let hint = "use auth = \"token\", or anonymous = \"none\" and no rules for \"anonymous\"";
        return Err(resolver.refuse("registry.auth", place, refusal.hint(hint)));
    }
    Ok(())
}

fn place(text: &Text) -> Option<Place> {
    text.as_ref().map(|given| given.place)
}

/// The entries of a list of tables, each under its number.
fn numbered<R, T>(
    resolver: &mut Resolver<'_, AtReload>,
    key: &str,
    raw: &[Given<R>],
    read: impl Fn(&mut Resolver<'_, AtReload>, &str, &R, Place) -> Result<T, ConfigError>,
) -> Result<Vec<T>, ConfigError> {
    let entries = raw.iter().enumerate();
    entries.map(|(at, Given { value, place })| read(resolver, &format!("{key}.{}", at + 1), value, *place)).collect()
}

fn rule(resolver: &mut Resolver<'_, AtReload>, key: &str, raw: &RawRule, place: Place) -> Result<Rule, ConfigError> {
    let repositories = repositories(resolver, key, &raw.repository, place)?;
    let subjects = resolver.texts(&format!("{key}.users"), &raw.users, &["*"], |text| Ok(subject(text)))?;
    let actions = resolver.texts(&format!("{key}.actions"), &raw.actions, &["pull"], action)?;
    let actions: Actions = actions.into_iter().collect();
    // A client that pushes first checks what is there already, so it has to be able to pull.
    let looks = if actions.contains(Action::Push) { Actions::PULL } else { Actions::NONE };
    Ok(Rule { repositories, subjects, actions: actions.or(looks) })
}

fn quota(resolver: &mut Resolver<'_, AtReload>, key: &str, raw: &RawQuota, place: Place) -> Result<Quota, ConfigError> {
    let repositories = repositories(resolver, key, &raw.repository, place)?;
    if raw.max_size.is_none() {
        return Err(resolver.refuse(key, place, Refusal::new("the entry has no max_size")));
    }
    let max_size = resolver.text(&format!("{key}.max_size"), &raw.max_size, "", values::size_above_zero)?;
    Ok(Quota { repositories, max_size })
}

fn notification(
    resolver: &mut Resolver<'_, AtReload>,
    key: &str,
    raw: &RawNotification,
    place: Place,
) -> Result<Notification, ConfigError> {
    let Some(Given { value: url, place }) = &raw.url else {
        return Err(resolver.refuse(key, place, Refusal::new("the entry has no url")));
    };
    let parsed = values::webhook(url.0.expose()).map_err(|refusal| resolver.refuse(key, *place, refusal))?;
    let name = parsed.origin().ascii_serialization();
    let origin = resolver.origin(*place);
    // The path is often the only secret that protects the receiver.
    resolver.record(format!("{key}.url"), format!("{name}/{MASK}"), origin);
    Ok(Notification {
        url: Secret::new(String::from(parsed)),
        name,
        headers: headers(resolver, &format!("{key}.headers"), &raw.headers)?,
        timeout: resolver.text(&format!("{key}.timeout"), &raw.timeout, "5s", values::deadline)?,
        retry_for: resolver.text(&format!("{key}.retry_for"), &raw.retry_for, "1h", values::duration)?,
        queue: resolver.number(&format!("{key}.queue"), &raw.queue, 1000, 1..=QUEUE_MAX)?,
    })
}

fn repositories(
    resolver: &mut Resolver<'_, AtReload>,
    key: &str,
    given: &Text,
    place: Place,
) -> Result<GlobSet, ConfigError> {
    if given.as_ref().is_none_or(|given| given.value.is_empty()) {
        return Err(resolver.refuse(key, place, Refusal::new("the entry has no repository")));
    }
    resolver.text(&format!("{key}.repository"), given, "", repository_globs)
}

fn repository_globs(text: &str) -> Result<GlobSet, Refusal> {
    values::repository_globs(&[text.to_owned()])
}

fn subject(text: &str) -> RuleSubject {
    match text {
        "anonymous" => RuleSubject::Anonymous,
        "*" => RuleSubject::AnyAccount,
        name => RuleSubject::Account(name.to_owned()),
    }
}

fn action(text: &str) -> Result<Actions, Refusal> {
    let words = Action::ALL.map(|action| (action.word(), Actions::from(action)));
    values::choice(text, &words)
}

/// `v*`, or `team/*:v*` for some repositories only.
fn tag_pattern(text: &str) -> Result<TagPattern, Refusal> {
    let (repositories, tags) = match text.rsplit_once(':') {
        Some((repositories, tags)) => (Some(repository_globs(repositories)?), tags),
        None => (None, text),
    };
    Ok(TagPattern { repositories, tags: repository_globs(tags)? })
}

fn token_lifetime(text: &str) -> Result<Duration, Refusal> {
    let lifetime = values::duration_up_to("1h")(text)?;
    if lifetime >= TOKEN_LIFETIME_MIN { Ok(lifetime) } else { Err(Refusal::new(format!("{text:?} is less than 1m"))) }
}
