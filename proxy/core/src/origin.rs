//! Origins: a registry's scheme, name and port (RFC 6454 section 4). Unverified bytes, accounts and rights belong to one
//! origin. A name without a scheme means https, whatever its port is.

use std::fmt;
use std::str::FromStr;

use crate::host::{HTTPS_PORT, HostError, HostPattern, RegistryHost};

/// The port of an http origin without one.
pub const HTTP_PORT: u16 = 80;

/// The protocol of a registry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Scheme {
    /// HTTP without TLS.
    Http,
    /// HTTP over TLS.
    Https,
}

/// A registry as it is reached: the scheme, the name and the port.
///
/// ```
/// use entrepot_core::origin::{Origin, Scheme};
///
/// let sealed: Origin = "reg.example:5000".parse()?;
/// let plain: Origin = "http://reg.example:5000".parse()?;
/// assert_eq!((sealed.scheme, sealed.to_string().as_str()), (Scheme::Https, "reg.example:5000"));
/// assert_eq!((plain.scheme, plain.to_string().as_str()), (Scheme::Http, "http://reg.example:5000"));
/// assert_ne!(sealed, plain);
/// assert_eq!("http://reg.example".parse::<Origin>()?.host.port(), 80);
/// # Ok::<(), entrepot_core::host::HostError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// The protocol.
    pub scheme: Scheme,
    /// The name and the port.
    pub host: RegistryHost,
}

/// An entry of a list of registries: `ghcr.io`, `*.pkg.dev` and `reg.example:5000` by https, `http://reg.example:5000` by
/// plain HTTP.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OriginPattern {
    /// The protocol.
    pub scheme: Scheme,
    /// The names and the port.
    pub host: HostPattern,
}

impl Scheme {
    /// The port of a URL that names none.
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => HTTP_PORT,
            Self::Https => HTTPS_PORT,
        }
    }

    /// `http` or `https`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// Takes `http://` or `https://` off the front. None if the text begins with neither.
    pub fn split(text: &str) -> (Option<Self>, &str) {
        let without = |prefix: &str| text.get(..prefix.len()).filter(|head| head.eq_ignore_ascii_case(prefix));
        match (without("http://"), without("https://")) {
            (Some(head), _) => (Some(Self::Http), &text[head.len()..]),
            (_, Some(head)) => (Some(Self::Https), &text[head.len()..]),
            (None, None) => (None, text),
        }
    }
}

/// The `host[:port]` of a text that people copy from a browser, such as `http://host:3128/`, and its scheme. A text
/// without a scheme and a path is returned as it is.
///
/// ```
/// use entrepot_core::origin::{Scheme, authority_of_url};
///
/// assert_eq!(authority_of_url("HTTP://cache.lan:3128/?sha256=ab"), (Some(Scheme::Http), "cache.lan:3128"));
/// assert_eq!(authority_of_url("cache.lan/"), (None, "cache.lan"));
/// assert_eq!(authority_of_url("[fd00::5]:3128"), (None, "[fd00::5]:3128"));
/// ```
pub fn authority_of_url(text: &str) -> (Option<Scheme>, &str) {
    let (scheme, rest) = Scheme::split(text);
    (scheme, rest.split(['/', '?', '#']).next().unwrap_or_default())
}

impl Origin {
    /// The https origin of a host.
    pub fn https(host: RegistryHost) -> Self {
        Self { scheme: Scheme::Https, host }
    }

    /// The form of a Host header: without the port if it is the scheme's own.
    pub fn authority(&self) -> String {
        self.host.authority(self.scheme.default_port())
    }
}

impl OriginPattern {
    /// Whether the entry covers this origin. An entry without a port covers the scheme's own port.
    pub fn matches(&self, origin: &Origin) -> bool {
        self.scheme == origin.scheme && self.host.matches(&origin.host, self.scheme.default_port())
    }

    /// Whether the entry covers this host by its own scheme.
    pub fn covers(&self, host: &RegistryHost) -> bool {
        self.host.matches(host, self.scheme.default_port())
    }

    /// The origin of an entry without a wildcard. None for a wildcard.
    pub fn exact(&self) -> Option<Origin> {
        let host = self.host.exact()?;
        let port = self.host.port().unwrap_or(self.scheme.default_port());
        Some(Origin { scheme: self.scheme, host: host.with_port(port) })
    }
}

impl FromStr for Origin {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        let (scheme, host) = Scheme::split(text);
        let scheme = scheme.unwrap_or(Scheme::Https);
        Ok(Self { scheme, host: RegistryHost::parse(host, scheme.default_port())? })
    }
}

impl FromStr for OriginPattern {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        let (scheme, host) = Scheme::split(text);
        Ok(Self { scheme: scheme.unwrap_or(Scheme::Https), host: host.parse()? })
    }
}

impl fmt::Display for Origin {
    /// An https origin as its host alone, as it was written before there were schemes.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scheme {
            Scheme::Https => formatter.write_str(&self.authority()),
            Scheme::Http => write!(formatter, "http://{}", self.authority()),
        }
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl fmt::Display for OriginPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = if self.scheme == Scheme::Http { "http://" } else { "" };
        write!(formatter, "{prefix}{}", self.host)
    }
}

impl fmt::Debug for OriginPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_read_back_as_they_are_written() {
        for (text, shown) in [
            ("GHCR.io", "ghcr.io"),
            ("https://ghcr.io:443", "ghcr.io"),
            ("ghcr.io:80", "ghcr.io:80"),
            ("http://ghcr.io:80", "http://ghcr.io"),
            ("HTTP://ghcr.io", "http://ghcr.io"),
            ("http://ghcr.io:443", "http://ghcr.io:443"),
            ("http://[::1]:5000", "http://[::1]:5000"),
        ] {
            let origin: Origin = text.parse().expect(text);
            assert_eq!(origin.to_string(), shown);
            assert_eq!(shown.parse(), Ok(origin), "{text}");
        }
        for bad in ["ftp://a", "http://", "http://a/b", "https://user@a"] {
            assert!(bad.parse::<Origin>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_entry_covers_one_scheme() {
        for (pattern, origin, matches) in [
            ("ghcr.io", "ghcr.io", true),
            ("ghcr.io", "http://ghcr.io", false),
            ("ghcr.io", "ghcr.io:80", false),
            ("http://ghcr.io", "http://ghcr.io", true),
            ("http://ghcr.io", "ghcr.io", false),
            ("http://ghcr.io", "ghcr.io:80", false),
            ("http://ghcr.io", "http://ghcr.io:8080", false),
            ("http://reg.example:5000", "http://reg.example:5000", true),
            ("reg.example:5000", "http://reg.example:5000", false),
            ("http://*.lan", "http://a.lan", true),
        ] {
            let pattern: OriginPattern = pattern.parse().expect(pattern);
            assert_eq!(pattern.matches(&origin.parse().expect(origin)), matches, "{pattern} {origin}");
        }
        let exact = |text: &str| text.parse::<OriginPattern>().expect(text).exact().map(|origin| origin.to_string());
        assert_eq!(exact("http://a"), Some("http://a".into()));
        assert_eq!((exact("a:80"), exact("*.a")), (Some("a:80".into()), None));
    }
}
