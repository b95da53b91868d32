//! The rights at one upstream: accounts, public repositories, and the unguessable tokens that were issued.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

/// The rights at one upstream.
#[derive(Default)]
pub struct Rights {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    accounts: HashMap<String, Account>,
    private: Vec<String>,
    tokens: HashMap<String, Token>,
}

struct Account {
    password: String,
    repositories: Vec<String>,
}

struct Token {
    user: Option<String>,
    grants: Vec<(String, Vec<String>)>,
    expires: Instant,
}

/// An action in a repository.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Pull,
    /// Write and delete.
    Push,
}

/// The validity of a token.
pub const TOKEN_LIFETIME: Duration = Duration::from_secs(300);

impl Rights {
    /// Makes `repository` private and gives `user` the right to read and write it. Without any account, every
    /// repository is public to read.
    pub fn allow(&self, user: &str, password: &str, repository: &str) {
        let mut state = self.lock();
        state.private.push(repository.to_owned());
        let account = state
            .accounts
            .entry(user.to_owned())
            .or_insert_with(|| Account { password: password.to_owned(), repositories: Vec::new() });
        account.repositories.push(repository.to_owned());
    }

    /// Removes the account, and every token that it got.
    pub fn revoke(&self, user: &str) {
        let mut state = self.lock();
        state.accounts.remove(user);
        state.tokens.retain(|_, token| token.user.as_deref() != Some(user));
    }

    /// Makes every token that was issued so far expire.
    pub fn expire_tokens(&self) {
        for token in self.lock().tokens.values_mut() {
            token.expires = Instant::now();
        }
    }

    /// A token for the account in `basic`, with the allowed part of `scopes`. None for a wrong password.
    pub fn issue(&self, basic: Option<&str>, scopes: &[String]) -> Option<String> {
        let mut state = self.lock();
        let user = match basic {
            None => None,
            Some(basic) => Some(state.user(basic)?),
        };
        let grants = scopes.iter().filter_map(|scope| state.grant(user.as_deref(), scope)).collect();
        let text = random_text();
        state.tokens.insert(text.clone(), Token { user, grants, expires: Instant::now() + TOKEN_LIFETIME });
        Some(text)
    }

    /// Whether this token is one of ours and not expired.
    pub fn knows(&self, token: &str) -> bool {
        self.lock().tokens.get(token).is_some_and(|token| token.expires > Instant::now())
    }

    /// Whether this token allows this.
    pub fn token_allows(&self, token: &str, repository: &str, action: Action) -> bool {
        let wanted = if action == Action::Pull { "pull" } else { "push" };
        self.lock().tokens.get(token).is_some_and(|token| {
            token.expires > Instant::now()
                && token.grants.iter().any(|(name, actions)| name == repository && actions.iter().any(|a| a == wanted))
        })
    }

    /// The user of `basic` (the base64 of `user:password`), if the password is right.
    pub fn basic_user(&self, basic: &str) -> Option<String> {
        self.lock().user(basic)
    }

    /// Whether the user may do this.
    pub fn user_allows(&self, user: Option<&str>, repository: &str, action: Action) -> bool {
        self.lock().allows(user, repository, action)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }
}

impl State {
    fn user(&self, basic: &str) -> Option<String> {
        let text = String::from_utf8(STANDARD.decode(basic).ok()?).ok()?;
        let (user, password) = text.split_once(':')?;
        (self.accounts.get(user)?.password == password).then(|| user.to_owned())
    }

    /// The allowed part of `repository:NAME:ACTIONS`.
    fn grant(&self, user: Option<&str>, scope: &str) -> Option<(String, Vec<String>)> {
        let (name, actions) = scope.strip_prefix("repository:")?.rsplit_once(':')?;
        let allowed = |action: &&str| match *action {
            "pull" => self.allows(user, name, Action::Pull),
            "push" => self.allows(user, name, Action::Push),
            _ => false,
        };
        Some((name.to_owned(), actions.split(',').filter(allowed).map(str::to_owned).collect()))
    }

    fn allows(&self, user: Option<&str>, repository: &str, action: Action) -> bool {
        let public = !self.private.iter().any(|name| name == repository);
        let own = user
            .and_then(|user| self.accounts.get(user))
            .is_some_and(|account| account.repositories.iter().any(|name| name == repository));
        own || (public && action == Action::Pull)
    }
}

/// 32 random bytes as text.
pub fn random_text() -> String {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).expect("the system's randomness");
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The value of an Authorization header for an account.
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}
