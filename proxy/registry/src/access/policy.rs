//! The decisions, without I/O: the actions that a client may perform in a repository, the tags that are immutable, and
//! the quotas. No other file decides about these.

use entrepot_core::name::{RepositoryName, Tag};
use entrepot_core::quantity::Size;
use entrepot_core::scope::{Action, Actions};

use entrepot_config::ready::rights::{Rights, Rule, RuleSubject};
use entrepot_store::PushedBy;

/// The client, as an account or without a login. An upload session belongs to one.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Principal {
    Anonymous,
    /// An account whose password or token was right.
    User(Box<str>),
}

/// Sizes after a push.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Held {
    /// The size of the repository that is pushed to.
    pub repository_bytes: u64,
    /// The size of all pushed content. Content that repositories share counts once.
    pub total_bytes: u64,
}

/// The quota that would be exceeded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Overdrawn {
    Repository(Size),
    /// The quota of all pushed content together.
    Total(Size),
}

impl Principal {
    /// The name of the account; None without a login.
    pub fn user(&self) -> Option<&str> {
        match self {
            Self::Anonymous => None,
            Self::User(name) => Some(name),
        }
    }

    /// The note on what this client pushes.
    pub fn pushes_as(&self) -> PushedBy {
        match self {
            Self::Anonymous => PushedBy::Anyone,
            Self::User(_) => PushedBy::Account,
        }
    }
}

/// The actions that the client may perform in a repository. If rules name the repository, only they decide; otherwise
/// accounts may do everything and clients without a login have `rights.anonymous`.
pub(super) fn actions(rights: &Rights, principal: &Principal, repository: &RepositoryName) -> Actions {
    let mut naming = rights.rules.iter().filter(|rule| rule.repositories.is_match(repository.as_str())).peekable();
    let given = match (naming.peek(), principal) {
        (Some(_), _) => naming.filter(|rule| is_about(rule, principal)).map(|rule| rule.actions).collect(),
        (None, Principal::Anonymous) => rights.anonymous,
        (None, Principal::User(_)) => Actions::ALL,
    };
    if rights.read_only { given.and(Action::Pull.into()) } else { given }
}

fn is_about(rule: &Rule, principal: &Principal) -> bool {
    rule.subjects.iter().any(|about| match (about, principal) {
        (RuleSubject::Anonymous, Principal::Anonymous) | (RuleSubject::AnyAccount, Principal::User(_)) => true,
        (RuleSubject::Account(name), Principal::User(account)) => **name == **account,
        _ => false,
    })
}

/// Whether a login can give more rights than no login. If not, clients are not asked to log in.
pub(super) fn login_matters(rights: &Rights) -> bool {
    rights.htpasswd.is_some() && (rights.anonymous != Actions::ALL || !rights.rules.is_empty())
}

/// Whether clients without a login may do anything at all.
pub(super) fn something_for_anonymous(rights: &Rights) -> bool {
    let ruled = |rule: &Rule| !rule.actions.is_empty() && is_about(rule, &Principal::Anonymous);
    !rights.anonymous.is_empty() || rights.rules.iter().any(ruled)
}

/// Whether the client may delete in some repository.
pub(super) fn deletes_somewhere(rights: &Rights, principal: &Principal) -> bool {
    let by_default = match principal {
        Principal::Anonymous => rights.anonymous,
        Principal::User(_) => Actions::ALL,
    };
    let ruled = |rule: &Rule| rule.actions.contains(Action::Delete) && is_about(rule, principal);
    !rights.read_only && (by_default.contains(Action::Delete) || rights.rules.iter().any(ruled))
}

/// The quota of a repository; None if there is none.
pub(super) fn quota(rights: &Rights, repository: &RepositoryName) -> Option<Size> {
    rights.quotas.iter().find(|quota| quota.repositories.is_match(repository.as_str())).map(|quota| quota.max_size)
}

/// Whether a tag keeps its first manifest for good.
pub(super) fn is_immutable(rights: &Rights, repository: &RepositoryName, tag: &Tag) -> bool {
    rights.immutable_tags.iter().any(|pattern| {
        let here = pattern.repositories.as_ref().is_none_or(|globs| globs.is_match(repository.as_str()));
        here && pattern.tags.is_match(tag.as_str())
    })
}

/// Whether tags of the repository may be immutable.
pub(super) fn has_immutable_tags(rights: &Rights, repository: &RepositoryName) -> bool {
    let mut patterns = rights.immutable_tags.iter();
    patterns.any(|pattern| pattern.repositories.as_ref().is_none_or(|globs| globs.is_match(repository.as_str())))
}

/// Whether the client may move a tag that was set like this, if it may push. To take away an account's tag is to delete
/// it, so without a login that needs the right to delete.
pub(super) fn may_move(rights: &Rights, principal: &Principal, repository: &RepositoryName, was: PushedBy) -> bool {
    match (was, principal) {
        (PushedBy::Anyone, _) | (_, Principal::User(_)) => true,
        (PushedBy::Account, Principal::Anonymous) => actions(rights, principal, repository).contains(Action::Delete),
    }
}

/// Whether some quota limits the repository.
pub(super) fn has_quota(rights: &Rights, repository: &RepositoryName) -> bool {
    rights.max_size.is_some() || quota(rights, repository).is_some()
}

/// Whether the quotas allow these sizes.
pub(super) fn room(rights: &Rights, repository: &RepositoryName, after: Held) -> Result<(), Overdrawn> {
    match (quota(rights, repository), rights.max_size) {
        (Some(limit), _) if after.repository_bytes > limit.0 => Err(Overdrawn::Repository(limit)),
        (_, Some(limit)) if after.total_bytes > limit.0 => Err(Overdrawn::Total(limit)),
        _ => Ok(()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use entrepot_config::ready::rights::{AuthMethod, Quota, TagPattern};
    use globset::{Glob, GlobSet};
    use std::time::Duration;

    pub(crate) fn globs(text: &str) -> GlobSet {
        GlobSet::builder().add(Glob::new(text).unwrap()).build().unwrap()
    }

    /// Rights without limits, for every client.
    pub(crate) fn open() -> Rights {
        Rights {
            anonymous: Actions::ALL,
            htpasswd: None,
            auth: AuthMethod::Token,
            token_lifetime: Duration::from_secs(300),
            rules: Vec::new(),
            read_only: false,
            immutable_tags: Vec::new(),
            max_size: None,
            quotas: Vec::new(),
        }
    }

    pub(crate) fn rule(repositories: &str, subjects: &[&str], actions: &str) -> Rule {
        let subject = |word: &&str| match *word {
            "*" => RuleSubject::AnyAccount,
            "anonymous" => RuleSubject::Anonymous,
            name => RuleSubject::Account(name.to_owned()),
        };
        let actions = actions.split(',').filter_map(Actions::from_word).collect();
        Rule { repositories: globs(repositories), subjects: subjects.iter().map(subject).collect(), actions }
    }

    pub(crate) fn account(name: &str) -> Principal {
        Principal::User(name.into())
    }

    fn name(text: &str) -> RepositoryName {
        text.parse().unwrap()
    }

    fn may(rights: &Rights, principal: &Principal, repository: &str) -> String {
        actions(rights, principal, &name(repository)).to_string()
    }

    #[test]
    fn without_rules_the_level_decides_for_those_without_a_login() {
        for (level, expected) in [("pull,push,delete", "pull,push,delete"), ("pull", "pull"), ("", "")] {
            let anonymous = level.split(',').filter_map(Actions::from_word).collect();
            let rights = Rights { anonymous, ..open() };
            assert_eq!(may(&rights, &Principal::Anonymous, "a/b"), expected);
            assert_eq!(may(&rights, &account("alice"), "a/b"), "pull,push,delete");
            let frozen = Rights { read_only: true, ..rights };
            assert_eq!(may(&frozen, &account("alice"), "a/b"), "pull");
            assert!(!may(&frozen, &Principal::Anonymous, "a/b").contains("push"));
        }
    }

    #[test]
    fn rules_decide_alone_for_what_they_name() {
        let rules = vec![
            rule("team/*", &["alice"], "pull,push"),
            rule("team/*", &["*"], "pull"),
            rule("team/app", &["bob"], "delete"),
            rule("public/*", &["anonymous"], "pull"),
            rule("public/*", &["*"], "pull,push"),
        ];
        let rights = Rights { anonymous: Actions::NONE, rules, ..open() };
        for (principal, repository, expected) in [
            (account("alice"), "team/app", "pull,push"),
            (account("bob"), "team/app", "pull,delete"),
            (account("carol"), "team/app/deep", "pull"),
            (account("alice"), "other", "pull,push,delete"),
            (account("anonymous"), "public/x", "pull,push"),
            (Principal::Anonymous, "team/app", ""),
            (Principal::Anonymous, "public/x", "pull"),
            (Principal::Anonymous, "other", ""),
        ] {
            assert_eq!(may(&rights, &principal, repository), expected, "{principal:?} {repository}");
        }
        assert!(something_for_anonymous(&rights));
        let closed = Rights { rules: vec![rule("*", &["*"], "pull")], ..rights };
        assert!(!something_for_anonymous(&closed));
        let open_but_one = Rights { rules: vec![rule("secret", &["alice"], "pull")], ..open() };
        assert_eq!(may(&open_but_one, &Principal::Anonymous, "secret"), "");
        assert_eq!(may(&open_but_one, &Principal::Anonymous, "elsewhere"), "pull,push,delete");
    }

    #[test]
    fn a_login_is_asked_for_only_where_it_gives_something() {
        let htpasswd = Some("/etc/htpasswd".into());
        assert!(!login_matters(&open()));
        assert!(!login_matters(&Rights { anonymous: Actions::NONE, ..open() }), "nobody has one");
        assert!(!login_matters(&Rights { htpasswd: htpasswd.clone(), ..open() }));
        assert!(login_matters(&Rights { htpasswd: htpasswd.clone(), anonymous: Action::Pull.into(), ..open() }));
        assert!(login_matters(&Rights { htpasswd, rules: vec![rule("a", &["*"], "pull")], ..open() }));
    }

    #[test]
    fn immutable_tags_are_named_with_or_without_a_repository() {
        let everywhere = TagPattern { repositories: None, tags: globs("v*") };
        let here = TagPattern { repositories: Some(globs("team/*")), tags: globs("*") };
        let rights = Rights { immutable_tags: vec![everywhere, here], ..open() };
        for (repository, tag, expected) in
            [("a", "v1", true), ("a", "latest", false), ("team/x", "latest", true), ("teams", "latest", false)]
        {
            assert_eq!(is_immutable(&rights, &name(repository), &tag.parse().unwrap()), expected, "{repository}:{tag}");
        }
    }

    #[test]
    fn tags_of_accounts_are_moved_by_accounts_or_where_anyone_may_delete() {
        let rule_of = |actions| vec![rule("team/*", &["anonymous"], actions)];
        for (level, rules, by_anyone, expected) in [
            ("push", Vec::new(), PushedBy::Anyone, true),
            ("push", Vec::new(), PushedBy::Account, false),
            ("delete", Vec::new(), PushedBy::Account, true),
            ("delete", rule_of("push"), PushedBy::Account, false),
            ("pull", rule_of("push"), PushedBy::Anyone, true),
            ("pull", rule_of("push,delete"), PushedBy::Account, true),
        ] {
            let anonymous = if level == "delete" { Actions::ALL } else { Actions::from_word(level).unwrap() };
            let rights = Rights { anonymous, rules, ..open() };
            let moves = |principal| may_move(&rights, principal, &name("team/app"), by_anyone);
            assert_eq!(moves(&Principal::Anonymous), expected, "{level} {by_anyone:?}");
            assert!(moves(&account("alice")));
        }
    }

    #[test]
    fn room_is_counted_for_the_repository_and_in_total() {
        let quotas = vec![
            Quota { repositories: globs("team/big"), max_size: Size(100) },
            Quota { repositories: globs("team/*"), max_size: Size(10) },
        ];
        let rights = Rights { quotas, max_size: Some(Size(1000)), ..open() };
        let held = |repository_bytes, total_bytes| Held { repository_bytes, total_bytes };
        for (repository, after, expected) in [
            ("team/a", held(10, 50), Ok(())),
            ("team/a", held(11, 50), Err(Overdrawn::Repository(Size(10)))),
            ("team/big", held(100, 150), Ok(())),
            ("free", held(950, 1000), Ok(())),
            ("free", held(950, 1001), Err(Overdrawn::Total(Size(1000)))),
            ("free", held(0, u64::MAX), Err(Overdrawn::Total(Size(1000)))),
        ] {
            assert_eq!(room(&rights, &name(repository), after), expected, "{repository} {after:?}");
            assert!(has_quota(&rights, &name(repository)));
        }
        assert!(!has_quota(&open(), &name("a")));
        assert_eq!(room(&open(), &name("a"), held(u64::MAX, u64::MAX)), Ok(()));
    }
}
