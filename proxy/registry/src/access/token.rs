//! Our own tokens: short-lived, for one account and some scopes. A token is a JWT with HMAC-SHA256. Only this appliance
//! signs and reads tokens, so no other program needs the key, and clients do not look inside.
//!
//! A token narrows the rights of its account and never widens them: `policy` decides too, on every request.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use entrepot_core::name::RepositoryName;
use entrepot_core::scope::{Actions, Scope};
use serde::{Deserialize, Serialize};

use super::policy::Principal;
use entrepot_core::secret::Secret;

/// The name of this registry in tokens and challenges.
pub(crate) const SERVICE: &str = "entrepot";
/// The most scopes of one token.
pub(super) const GRANTS_MAX: usize = 64;

/// The header of every token. A token with another header, such as `none`, is refused.
const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;
const KEY_BYTES: usize = 32;
/// The longest token that is read: [`GRANTS_MAX`] grants with the longest names, and some more.
const TOKEN_MAX_BYTES: usize = 32 * 1024;

/// Issues tokens and reads them.
pub(super) struct Signer {
    key: hmac::Key,
}

/// The content of a valid token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Ticket {
    pub(super) principal: Principal,
    /// The actions in each repository.
    pub(super) grants: HashMap<RepositoryName, Actions>,
    /// Whether the token is for the list of repositories.
    pub(super) catalog: bool,
}

/// The token is not ours, was changed, or has expired.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a valid token")]
pub(super) struct BadToken;

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: String,
    iat: u64,
    exp: u64,
    access: Vec<Grant>,
}

#[derive(Serialize, Deserialize)]
struct Grant {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    actions: Vec<String>,
}

fn random_key() -> io::Result<[u8; KEY_BYTES]> {
    let mut key = [0; KEY_BYTES];
    rand::fill(&mut key).map_err(|_| io::Error::other("the system gives no randomness"))?;
    Ok(key)
}

impl Signer {
    pub(super) fn new(key: &[u8]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, key) }
    }

    /// Reads the key from a file, or makes the file, so that tokens stay valid over a restart. Blocks.
    pub(super) fn open_or_create(path: &Path) -> io::Result<Self> {
        match fs::read(path) {
            Ok(key) if key.len() == KEY_BYTES => Ok(Self::new(&key)),
            Ok(_) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "not a key of 32 bytes; remove the file to get a new key",
            )),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = random_key()?;
                write_private(path, &key)?;
                Ok(Self::new(&key))
            }
            Err(error) => Err(error),
        }
    }

    /// A new key that is kept nowhere.
    pub(super) fn passing() -> io::Result<Self> {
        Ok(Self::new(&random_key()?))
    }

    /// A token that is valid from `now` on.
    pub(super) fn issue(&self, ticket: &Ticket, now: SystemTime, lifetime: Duration) -> Secret {
        let issued_s = unix_s(now);
        let repositories = ticket.grants.iter().map(|(name, actions)| Grant {
            kind: "repository".to_owned(),
            name: name.to_string(),
            actions: actions.words().map(str::to_owned).collect(),
        });
        let catalog = ticket.catalog.then(|| Grant {
            kind: "registry".to_owned(),
            name: "catalog".to_owned(),
            actions: vec!["*".to_owned()],
        });
        let claims = Claims {
            iss: SERVICE.to_owned(),
            aud: SERVICE.to_owned(),
            sub: ticket.principal.user().unwrap_or_default().to_owned(),
            iat: issued_s,
            exp: issued_s + lifetime.as_secs(),
            access: repositories.chain(catalog).collect(),
        };
        // Serialising texts and numbers cannot fail; `read` would refuse an empty payload.
        let payload = serde_json::to_vec(&claims).unwrap_or_default();
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(HEADER), URL_SAFE_NO_PAD.encode(payload));
        let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&self.key, signed.as_bytes()));
        Secret::new(format!("{signed}.{signature}"))
    }

    /// The content of a token, if it is ours and valid at `now`.
    pub(super) fn read(&self, token: &str, now: SystemTime) -> Result<Ticket, BadToken> {
        if token.len() > TOKEN_MAX_BYTES {
            return Err(BadToken);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(BadToken)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| BadToken)?;
        hmac::verify(&self.key, signed.as_bytes(), &signature).map_err(|_| BadToken)?;
        let (header, payload) = signed.split_once('.').ok_or(BadToken)?;
        if URL_SAFE_NO_PAD.decode(header).map_err(|_| BadToken)? != HEADER.as_bytes() {
            return Err(BadToken);
        }
        let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| BadToken)?;
        let claims: Claims = serde_json::from_slice(&payload).map_err(|_| BadToken)?;
        let now_s = unix_s(now);
        let ours = claims.iss == SERVICE && claims.aud == SERVICE;
        if !ours || now_s < claims.iat || now_s >= claims.exp {
            return Err(BadToken);
        }
        Ok(ticket(claims))
    }
}

impl Ticket {
    /// A ticket without scopes.
    pub(super) fn new(principal: Principal) -> Self {
        Self { principal, grants: HashMap::new(), catalog: false }
    }

    /// Whether the token is for all of `scope`.
    pub(super) fn covers(&self, scope: &Scope) -> bool {
        match scope {
            Scope::Repository { name, actions } => {
                self.grants.get(name).is_some_and(|granted| granted.contains_all(*actions))
            }
            Scope::Catalog => self.catalog,
        }
    }
}

fn ticket(claims: Claims) -> Ticket {
    let principal = if claims.sub.is_empty() { Principal::Anonymous } else { Principal::User(claims.sub.into()) };
    let mut ticket = Ticket::new(principal);
    for Grant { kind, name, actions } in claims.access {
        match (&*kind, name.parse()) {
            ("repository", Ok(name)) => {
                let actions = actions.iter().filter_map(|word| Actions::from_word(word)).collect();
                ticket.grants.insert(name, actions);
            }
            ("registry", _) => ticket.catalog = name == "catalog",
            _ => {}
        }
    }
    ticket
}

/// Writes under another name first, so that the file is never half written.
fn write_private(path: &Path, key: &[u8]) -> io::Result<()> {
    let unready = path.with_extension("new");
    match fs::remove_file(&unready) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unready)?;
    file.write_all(key)?;
    file.sync_all()?;
    fs::rename(&unready, path)
}

fn unix_s(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use entrepot_core::scope::Action;
    use std::os::unix::fs::PermissionsExt;

    const LIFETIME: Duration = Duration::from_secs(300);

    fn at(unix_s: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(unix_s)
    }

    fn alices() -> Ticket {
        let mut ticket = Ticket::new(Principal::User("alice".into()));
        ticket.grants.insert("team/app".parse().unwrap(), Actions::from(Action::Pull).or(Action::Push.into()));
        ticket.catalog = true;
        ticket
    }

    #[test]
    fn a_token_is_valid_until_it_expires() {
        let signer = Signer::new(&[7; 32]);
        for ticket in [alices(), Ticket::new(Principal::Anonymous)] {
            let token = signer.issue(&ticket, at(1000), LIFETIME);
            assert_eq!(signer.read(token.expose(), at(1000)), Ok(ticket.clone()));
            assert_eq!(signer.read(token.expose(), at(1299)), Ok(ticket));
            for wrong in [999, 1300, 99_999] {
                assert_eq!(signer.read(token.expose(), at(wrong)), Err(BadToken), "at {wrong}");
            }
            assert_eq!(Signer::new(&[8; 32]).read(token.expose(), at(1000)), Err(BadToken), "another appliance's");
        }
    }

    #[test]
    fn a_changed_token_is_refused() {
        let signer = Signer::new(&[7; 32]);
        let token = signer.issue(&alices(), at(1000), LIFETIME);
        let token = token.expose();
        for (index, byte) in token.bytes().enumerate() {
            let mut changed = token.as_bytes().to_vec();
            changed[index] = if byte == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(signer.read(&changed, at(1000)), Err(BadToken), "byte {index}");
        }
        let (_, rest) = token.split_once('.').unwrap();
        let (payload, signature) = rest.split_once('.').unwrap();
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
        // Signed with the right key, but with another header.
        let signed = format!("{none}.{payload}");
        let resigned = URL_SAFE_NO_PAD.encode(hmac::sign(&signer.key, signed.as_bytes()));
        for bad in [
            "".to_owned(),
            ".".to_owned(),
            "..".to_owned(),
            format!("{none}.{payload}."),
            format!("{none}.{payload}.{signature}"),
            format!("{signed}.{resigned}"),
            format!("{token}."),
            format!("{token}="),
            "x".repeat(TOKEN_MAX_BYTES + 1),
        ] {
            assert_eq!(signer.read(&bad, at(1000)), Err(BadToken), "{bad}");
        }
    }

    #[test]
    fn a_ticket_covers_what_it_names() {
        let ticket = alices();
        let scope = |name: &str, actions| Scope::Repository { name: name.parse().unwrap(), actions };
        assert!(ticket.covers(&scope("team/app", Action::Push.into())) && ticket.covers(&Scope::Catalog));
        assert!(!ticket.covers(&scope("team/app", Action::Delete.into())));
        assert!(!ticket.covers(&scope("team/other", Action::Pull.into())));
    }

    #[test]
    fn the_key_is_private_and_lasts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry-token.key");
        let token = Signer::open_or_create(&path).unwrap().issue(&alices(), at(1000), LIFETIME);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = Signer::open_or_create(&path).unwrap();
        assert_eq!(again.read(token.expose(), at(1000)), Ok(alices()));
        fs::write(&path, "short").unwrap();
        assert!(Signer::open_or_create(&path).is_err());
    }
}
