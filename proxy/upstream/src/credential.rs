//! The credential of a request. The upstream registry decides by it. The rights table keeps its [`CredentialId`], never
//! the credential itself. Only `registry_client` makes a header of it, and only for the origin to which it belongs.

use std::fmt;
use std::sync::LazyLock;

use aws_lc_rs::{hmac, rand};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;

use entrepot_config::ready::Account;
use entrepot_core::secret::Secret;

/// The credential that a request presents upstream.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// The client sent none. It gets upstream's challenge and answers it itself.
    None,
    /// The client's own `Authorization` value, passed on unchanged.
    Header(Secret),
    /// entrepot answers upstream's challenges: with this login, or anonymously if None.
    Answered(Option<Login>),
}

/// A user name and a password: the administrator's, or those that a client sent to our own token endpoint.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The value of the `Authorization` header: `Basic ` and base64.
    basic: Secret,
    giver: Giver,
}

/// The party that gave a login, and where it may go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Giver {
    /// A client, for the registry that it asks.
    Client,
    /// The administrator, for a registry and its token server.
    Administrator,
    /// The administrator, for a token server alone.
    AdministratorForTokenServer,
}

/// Identifies a credential in this process: the first 16 bytes of an HMAC-SHA-256 with a random key of the process. It
/// may be logged and shown, because nobody can try passwords against it without the key. It must not be stored, because
/// the next process has other ids.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CredentialId([u8; 16]);

static PROCESS_KEY: LazyLock<hmac::Key> = LazyLock::new(|| {
    let mut key = [0; 32];
    // A server without randomness does not start, and other processes show no id.
    let _ = rand::fill(&mut key);
    hmac::Key::new(hmac::HMAC_SHA256, &key)
});

impl Credential {
    /// The credential's identity; [`CredentialId::ANONYMOUS`] if upstream sees none.
    pub fn id(&self) -> CredentialId {
        match self {
            Credential::None | Credential::Answered(None) => CredentialId::ANONYMOUS,
            Credential::Header(value) => CredentialId::of(value.expose()),
            Credential::Answered(Some(login)) => login.id(),
        }
    }

    /// Whether upstream sees an anonymous request. Content that it allows then is public.
    pub fn is_anonymous(&self) -> bool {
        self.id() == CredentialId::ANONYMOUS
    }
}

impl Login {
    /// Encodes a name and a password (RFC 7617).
    pub fn new(username: &str, password: &Secret) -> Self {
        let pair = STANDARD.encode(format!("{username}:{}", password.expose()));
        Self { basic: Secret::new(format!("Basic {pair}")), giver: Giver::Client }
    }

    /// The login of an account that the administrator gave. If it is the token server's, it goes to no registry.
    pub fn of_account(account: &Account, is_token_servers: bool) -> Self {
        let giver = if is_token_servers { Giver::AdministratorForTokenServer } else { Giver::Administrator };
        Self { giver, ..Self::new(&account.username, &account.password) }
    }

    /// Whether it is the administrator's.
    pub fn is_account(&self) -> bool {
        self.giver != Giver::Client
    }

    /// The value of the `Authorization` header for the registry itself. None if the login is not for it.
    pub fn for_registry(&self) -> Option<&Secret> {
        (self.giver != Giver::AdministratorForTokenServer).then_some(&self.basic)
    }

    /// The user name of an account of the administrator. None for a client's login, whose name is not ours to tell.
    pub(crate) fn account_name(&self) -> Option<String> {
        let (_, pair) = self.basic.expose().split_once(' ').filter(|_| self.is_account())?;
        let pair = STANDARD.decode(pair).ok()?;
        let name = pair.split(|byte| *byte == b':').next()?;
        Some(String::from_utf8_lossy(name).into_owned())
    }

    /// Reads an `Authorization` value. None if it is not Basic, or not base64.
    pub fn from_basic(header: &Secret) -> Option<Self> {
        let (scheme, pair) = header.expose().split_once(' ')?;
        let pair = pair.trim();
        let valid = scheme.eq_ignore_ascii_case("basic") && STANDARD.decode(pair).is_ok();
        valid.then(|| Self { basic: Secret::new(format!("Basic {pair}")), giver: Giver::Client })
    }

    /// The value of the `Authorization` header.
    pub fn basic(&self) -> &Secret {
        &self.basic
    }

    /// The login's identity. It equals that of its Basic header.
    pub fn id(&self) -> CredentialId {
        CredentialId::of(self.basic.expose())
    }
}

impl CredentialId {
    /// The identity of requests without a credential.
    pub const ANONYMOUS: Self = Self([0; 16]);

    /// The keyed hash itself, for the trail. All zero for anonymous requests.
    pub fn bytes(&self) -> [u8; 16] {
        self.0
    }

    /// The identity of an `Authorization` value.
    pub fn of(header: &str) -> Self {
        Self::keyed(&PROCESS_KEY, header)
    }

    fn keyed(key: &hmac::Key, header: &str) -> Self {
        let tag = hmac::sign(key, header.as_bytes());
        Self(std::array::from_fn(|i| tag.as_ref()[i]))
    }
}

impl fmt::Display for CredentialId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::ANONYMOUS {
            return formatter.write_str("anonymous");
        }
        self.0[..4].iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for CredentialId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Makes a header value of a secret, marked so that no HTTP library prints it. None if it has characters that no header
/// may have.
pub(crate) fn sensitive(secret: &Secret) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(secret.expose()).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_and_its_basic_header_are_one_credential() {
        let login = Login::new("alice", &Secret::new("pa:ss"));
        assert_eq!(login.basic().expose(), "Basic YWxpY2U6cGE6c3M=");
        let header = Secret::new("basic YWxpY2U6cGE6c3M=");
        assert!(Login::from_basic(&header) == Some(login.clone()));
        assert_eq!(Credential::Answered(Some(login.clone())).id(), CredentialId::of(login.basic().expose()));
        assert!(Login::from_basic(&Secret::new("Bearer abc")).is_none());
        assert!(Login::from_basic(&Secret::new("Basic !!")).is_none());
    }

    #[test]
    fn anonymous_is_one_credential_whoever_answers() {
        assert!(Credential::None.is_anonymous() && Credential::Answered(None).is_anonymous());
        assert!(!Credential::Header(Secret::new("Bearer x")).is_anonymous());
        assert_ne!(CredentialId::of("Bearer x"), CredentialId::of("Bearer y"));
    }

    #[test]
    fn without_the_key_of_the_process_no_id_can_be_computed() {
        let header = "Basic YWxpY2U6cGE6c3M=";
        assert_eq!(CredentialId::of(header), CredentialId::of(header));
        let sha256 = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, header.as_bytes());
        assert_ne!(CredentialId::of(header).bytes(), sha256.as_ref()[..16]);
        for guess in [[0; 32], [1; 32]] {
            let key = hmac::Key::new(hmac::HMAC_SHA256, &guess);
            assert_ne!(CredentialId::of(header), CredentialId::keyed(&key, header), "{guess:?}");
        }
    }
}
