//! `WWW-Authenticate`: what a registry asks for, and whether a token server may receive our credentials.
//!
//! A registry's answer names the token server. A hostile registry could name a server that collects credentials.
//! [`realm_trusted_for`] is the only check: a token server that is not pinned to the registry gets none.

use url::Url;

use crate::host::{HTTPS_PORT, RegistryHost};

/// One challenge (RFC 9110 section 11.6.1).
///
/// ```
/// use entrepot_core::challenge::Challenge;
///
/// let header = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io""#;
/// let [Challenge::Bearer { realm, service, scope }] = &Challenge::parse([header])[..] else {
///     panic!("one Bearer challenge");
/// };
/// assert_eq!(realm.host_str(), Some("auth.docker.io"));
/// assert_eq!(service.as_deref(), Some("registry.docker.io"));
/// assert_eq!(*scope, None);
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Challenge {
    /// The registry itself wants a name and a password.
    Basic {
        /// A text for people; None if the registry sent none.
        realm: Option<String>,
    },
    /// The registry wants a token from the server at `realm` (Docker's token authentication).
    Bearer {
        /// The token server's URL, http or https.
        realm: Url,
        /// The name under which the token server knows the registry; None if the challenge has none.
        service: Option<String>,
        /// The rights that the request needs; None if the challenge has none.
        scope: Option<String>,
    },
    /// Another scheme, or Bearer without a usable realm.
    Other,
}

impl Challenge {
    /// Reads all values of the header of one answer. The rest of a value is skipped from its first malformed part on.
    pub fn parse<'a>(values: impl IntoIterator<Item = &'a str>) -> Vec<Self> {
        let mut challenges = Vec::new();
        for value in values {
            let mut reader = Reader { rest: value };
            while let Some(raw) = reader.challenge() {
                challenges.push(raw.into_challenge());
            }
        }
        challenges
    }
}

/// A scheme with its parameters. token68 data is skipped.
struct Raw<'a> {
    scheme: &'a str,
    parameters: Vec<(&'a str, String)>,
}

impl Raw<'_> {
    fn into_challenge(mut self) -> Challenge {
        if self.scheme.eq_ignore_ascii_case("basic") {
            return Challenge::Basic { realm: self.take("realm") };
        }
        if !self.scheme.eq_ignore_ascii_case("bearer") {
            return Challenge::Other;
        }
        let realm = self.take("realm").and_then(|realm| Url::parse(&realm).ok());
        let web = realm.filter(|realm| matches!(realm.scheme(), "http" | "https") && realm.has_host());
        match web {
            Some(realm) => Challenge::Bearer { realm, service: self.take("service"), scope: self.take("scope") },
            None => Challenge::Other,
        }
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let at = self.parameters.iter().position(|(known, _)| known.eq_ignore_ascii_case(name))?;
        Some(self.parameters.swap_remove(at).1)
    }
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn challenge(&mut self) -> Option<Raw<'a>> {
        self.skip(|byte| is_space(byte) || byte == b',');
        let scheme = self.token()?;
        let mut parameters = Vec::new();
        self.skip(is_space);
        while let Some(parameter) = self.parameter() {
            parameters.push(parameter);
            // A comma separates both parameters and challenges; `parameter` tells which one follows.
            self.skip(|byte| is_space(byte) || byte == b',');
        }
        if parameters.is_empty() {
            self.token68();
            if !self.rest.is_empty() && !self.rest.starts_with(',') {
                self.rest = "";
            }
        }
        Some(Raw { scheme, parameters })
    }

    /// Skips the data of schemes such as Negotiate, which ends at a comma.
    fn token68(&mut self) {
        let end = self.rest.bytes().position(|byte| byte == b',').unwrap_or(self.rest.len());
        let is_data = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/= \t".contains(&byte);
        if self.rest.bytes().take(end).all(is_data) {
            self.rest = &self.rest[end..];
        }
    }

    /// Reads `name=value`. Consumes nothing if something else follows.
    fn parameter(&mut self) -> Option<(&'a str, String)> {
        let mut ahead = Reader { rest: self.rest };
        let name = ahead.token()?;
        ahead.skip(is_space);
        ahead.rest = ahead.rest.strip_prefix('=')?;
        ahead.skip(is_space);
        let value = if ahead.rest.starts_with('"') { ahead.quoted()? } else { ahead.token()?.to_owned() };
        self.rest = ahead.rest;
        Some((name, value))
    }

    fn quoted(&mut self) -> Option<String> {
        let mut value = String::new();
        let mut characters = self.rest.char_indices().skip(1);
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    self.rest = &self.rest[at + 1..];
                    return Some(value);
                }
                '\\' => value.push(characters.next()?.1),
                other => value.push(other),
            }
        }
        None
    }

    fn token(&mut self) -> Option<&'a str> {
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        let end = self.rest.bytes().position(|byte| !is_token(byte)).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!token.is_empty()).then_some(token)
    }

    fn skip(&mut self, what: fn(u8) -> bool) {
        let end = self.rest.bytes().position(|byte| !what(byte)).unwrap_or(self.rest.len());
        self.rest = &self.rest[end..];
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// Registries whose token server is another host: (registry, token server), both on port 443.
const PINS: [(&str, &str); 5] = [
    ("registry-1.docker.io", "auth.docker.io"),
    ("index.docker.io", "auth.docker.io"),
    ("docker.io", "auth.docker.io"),
    ("registry.gitlab.com", "gitlab.com"),
    ("nvcr.io", "authn.nvidia.com"),
];

/// Whether `realm` may receive the credentials of `registry`.
///
/// It may if it has the registry's own host and port, or if a built-in pin names it. A subdomain, a sibling and another
/// port are other hosts. Plain http is allowed only if the administrator configured the registry itself as plain
/// (`https_required` is false).
///
/// ```
/// use entrepot_core::challenge::realm_trusted_for;
///
/// let registry = "registry-1.docker.io".parse()?;
/// assert!(realm_trusted_for(&registry, &"https://auth.docker.io/token".parse()?, true));
/// assert!(!realm_trusted_for(&registry, &"https://auth.docker.io.evil.example/token".parse()?, true));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn realm_trusted_for(registry: &RegistryHost, realm: &Url, https_required: bool) -> bool {
    let secure = realm.scheme() == "https";
    if !secure && (https_required || realm.scheme() != "http") {
        return false;
    }
    if !realm.username().is_empty() || realm.password().is_some() {
        return false;
    }
    let (Some(host), Some(port)) = (realm.host_str(), realm.port_or_known_default()) else {
        return false;
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let same = host == registry.name() && port == registry.port();
    let pinned = secure
        && registry.port() == HTTPS_PORT
        && port == HTTPS_PORT
        && PINS.iter().any(|(from, to)| *from == registry.name() && *to == host);
    same || pinned
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Challenge::Bearer { realm: Url::parse(realm).unwrap(), service: owned(service), scope: owned(scope) }
    }

    fn basic(realm: &str) -> Challenge {
        Challenge::Basic { realm: Some(realm.to_owned()) }
    }

    #[test]
    fn challenges_are_read() {
        let hub = bearer("https://auth.docker.io/token", Some("registry.docker.io"), Some("repository:a/b:pull,push"));
        for (value, expected) in [
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#,
                vec![hub.clone()],
            ),
            (
                r#"bearer  SCOPE="repository:a/b:pull,push" , error=x,Realm = "https://auth.docker.io/token", service=registry.docker.io"#,
                vec![hub.clone()],
            ),
            (r#"Basic realm="a \"b\" \\ c""#, vec![basic("a \"b\" \\ c")]),
            ("Basic", vec![Challenge::Basic { realm: None }]),
            (
                r#"Basic realm="x, Bearer realm=y", Bearer realm="https://t.example/""#,
                vec![basic("x, Bearer realm=y"), bearer("https://t.example/", None, None)],
            ),
            (
                r#"Negotiate, NTLM TlRMTVNTUAAB==, Basic realm="x", charset="UTF-8""#,
                vec![Challenge::Other, Challenge::Other, basic("x")],
            ),
            (r#"Bearer realm="/token""#, vec![Challenge::Other]),
            (r#"Bearer realm="file:///etc/passwd""#, vec![Challenge::Other]),
            (r#"Bearer realm="https://""#, vec![Challenge::Other]),
            ("Bearer service=x", vec![Challenge::Other]),
            (r#"Bearer realm="https://unclosed"#, vec![Challenge::Other]),
            ("", vec![]),
            (",, ,", vec![]),
            ("\"", vec![]),
            ("é", vec![]),
        ] {
            assert_eq!(Challenge::parse([value]), expected, "{value}");
        }
        assert_eq!(Challenge::parse(["Basic realm=a", "Basic realm=b"]), [basic("a"), basic("b")]);
    }

    proptest::proptest! {
        #[test]
        fn no_header_panics_or_loops(value in "(Bearer |Basic |realm=|,| |\"|\\\\|=|a|é|https://a.b){0,20}") {
            proptest::prop_assert!(Challenge::parse([&*value]).len() <= value.len());
        }
    }

    fn trusted(registry: &str, realm: &str, https_required: bool) -> bool {
        let registry: RegistryHost = registry.parse().unwrap();
        // A challenge whose realm is not a URL is not a Bearer challenge.
        Url::parse(realm).is_ok_and(|realm| realm_trusted_for(&registry, &realm, https_required))
    }

    #[test]
    fn realms_that_belong_to_the_registry() {
        for (registry, realm) in [
            ("registry-1.docker.io", "https://auth.docker.io/token"),
            ("registry-1.docker.io", "HTTPS://AUTH.DOCKER.IO:443/token?x=y"),
            ("index.docker.io", "https://auth.docker.io/token"),
            ("registry-1.docker.io", "https://registry-1.docker.io/token"),
            ("registry.gitlab.com", "https://gitlab.com/jwt/auth"),
            ("ghcr.io", "https://ghcr.io/token"),
            ("quay.io", "https://quay.io/v2/auth"),
            ("nvcr.io", "https://nvcr.io/proxy_auth"),
            ("nvcr.io", "https://authn.nvidia.com/token"),
            ("public.ecr.aws", "https://public.ecr.aws/token/"),
            ("eu-docker.pkg.dev", "https://eu-docker.pkg.dev/v2/token"),
            ("reg.example:5000", "https://reg.example:5000/auth"),
            ("[fd00::1]:5000", "https://[fd00::1]:5000/auth"),
            ("10.0.0.1:5000", "https://10.0.0.1:5000/auth"),
        ] {
            assert!(trusted(registry, realm, true), "{registry} {realm}");
        }
        assert!(trusted("reg.example:5000", "http://reg.example:5000/auth", false));
        assert!(trusted("reg.example:5000", "https://reg.example:5000/auth", false));
    }

    /// T4: 66 realms that a hostile registry, or an attacker on the way to it, could name.
    #[test]
    fn realms_that_do_not() {
        for realm in HOSTILE_FOR_HUB {
            assert!(!trusted("registry-1.docker.io", realm, true), "{realm}");
        }
        for (registry, realm, https_required) in HOSTILE_FOR_OTHERS {
            assert!(!trusted(registry, realm, https_required), "{registry} {realm}");
        }
    }

    const HOSTILE_FOR_HUB: [&str; 46] = [
        "http://auth.docker.io/token",
        "http://auth.docker.io:443/token",
        "http://registry-1.docker.io/token",
        "https://auth.docker.io:444/token",
        "https://auth.docker.io:80/token",
        "https://auth.docker.io:8443/token",
        "https://registry-1.docker.io:5000/token",
        "https://auth.docker.io.evil.example/token",
        "https://auth.docker.io.:443/token",
        "https://xauth.docker.io/token",
        "https://auth.docker.io-evil.example/token",
        "https://evil.auth.docker.io/token",
        "https://docker.io/token",
        "https://hub.docker.io/token",
        "https://hub.docker.com/token",
        "https://auth.docker.com/token",
        "https://login.docker.com/token",
        "https://index.docker.io/token",
        "https://auth-docker.io/token",
        "https://authdocker.io/token",
        "https://auth.d0cker.io/token",
        "https://user@auth.docker.io/token",
        "https://user:pass@auth.docker.io/token",
        "https://:pass@auth.docker.io/token",
        "https://auth.docker.io@evil.example/token",
        "https://auth.docker.io:443@evil.example/token",
        "https://auth.docker.io%40evil.example/token",
        "https://evil.example\\@auth.docker.io/token",
        "https://evil.example/@auth.docker.io/token",
        "https://evil.example#@auth.docker.io/token",
        "https://evil.example?@auth.docker.io/token",
        "https://evil.example/https://auth.docker.io/token",
        "https://auth.docker.io\t.evil.example/token",
        "https://auth.docker.io\n.evil.example/token",
        "https://аuth.docker.io/token",
        "https://auth.docker.io\u{2044}.evil.example/token",
        "https://1.1.1.1/token",
        "https://127.0.0.1/token",
        "https://2130706433/token",
        "https://[::1]/token",
        "https://localhost/token",
        "ftp://auth.docker.io/token",
        "ws://auth.docker.io/token",
        "file://auth.docker.io/token",
        "//auth.docker.io/token",
        "javascript://auth.docker.io/%0aalert(1)",
    ];

    const HOSTILE_FOR_OTHERS: [(&str, &str, bool); 20] = [
        ("ghcr.io", "https://auth.docker.io/token", true),
        ("ghcr.io", "https://api.ghcr.io/token", true),
        ("ghcr.io", "https://github.com/token", true),
        ("ghcr.io:5000", "https://ghcr.io/token", true),
        ("quay.io", "https://quay.io.evil.example/v2/auth", true),
        ("quay.io", "https://ghcr.io/v2/auth", true),
        ("gitlab.com", "https://registry.gitlab.com/jwt/auth", true),
        ("registry.gitlab.com", "https://gitlab.com:8443/jwt/auth", true),
        ("registry.gitlab.com:5000", "https://gitlab.com/jwt/auth", true),
        ("registry.gitlab.com", "https://evil.gitlab.com/jwt/auth", true),
        ("nvcr.io", "https://nvidia.com/token", true),
        ("mcr.microsoft.com", "https://login.microsoftonline.com/token", true),
        ("auth.docker.io", "https://registry-1.docker.io/token", true),
        ("registry-1.docker.io:5000", "https://auth.docker.io/token", true),
        ("reg.example:5000", "http://reg.example:5000/auth", true),
        ("reg.example:5000", "http://reg.example/auth", false),
        ("reg.example:5000", "http://other.example:5000/auth", false),
        ("reg.example:5000", "ftp://reg.example:5000/auth", false),
        ("registry-1.docker.io", "http://auth.docker.io:443/token", false),
        ("10.0.0.1:5000", "https://10.0.0.10:5000/auth", true),
    ];
}
