//! Registry hosts and the patterns that list them.
//!
//! A host is always lower case and carries its port, so `GHCR.IO` and `ghcr.io:443` are one registry and
//! `reg.example` and `reg.example:5000` are two.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// The port of a host without one.
pub const HTTPS_PORT: u16 = 443;

/// A host name or address literal, and a port.
///
/// ```
/// use entrepot_core::host::RegistryHost;
///
/// let host: RegistryHost = "GHCR.io".parse()?;
/// assert_eq!((host.name(), host.port()), ("ghcr.io", 443));
/// assert_eq!(host, RegistryHost::parse("ghcr.io:443", 80)?);
/// assert_eq!(RegistryHost::parse("[::1]:5000", 443)?.authority(443), "[::1]:5000");
/// // Some resolvers read this as 127.0.0.1.
/// assert!("0x7f.1".parse::<RegistryHost>().is_err());
/// # Ok::<(), entrepot_core::host::HostError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegistryHost {
    name: Box<str>,
    port: u16,
}

/// The reason why text is not a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// The text is neither a DNS name nor an address literal.
    #[error("not a host name or address")]
    Name,
    /// The port is not a number from 1 to 65535.
    #[error("not a port number")]
    Port,
    /// The text has no port, and one is required.
    #[error("the port is missing")]
    PortMissing,
}

impl RegistryHost {
    /// Reads `host`, `host:port`, `[v6]` or `[v6]:port`. A text without a port gets `default_port`.
    pub fn parse(text: &str, default_port: u16) -> Result<Self, HostError> {
        let (name, port) = split(text)?;
        Ok(Self { name: parse_name(name)?, port: port.unwrap_or(default_port) })
    }

    /// Reads `host:port`, as CONNECT requires it (RFC 9110 section 9.3.6).
    pub fn parse_with_port(text: &str) -> Result<Self, HostError> {
        let (name, port) = split(text)?;
        Ok(Self { name: parse_name(name)?, port: port.ok_or(HostError::PortMissing)? })
    }

    /// The lower-case name or the address, IPv6 without brackets.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The port that the text named, or the default.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address if the name is a literal.
    pub fn address(&self) -> Option<IpAddr> {
        self.name.parse().ok()
    }

    /// The same name on another port.
    pub fn with_port(&self, port: u16) -> Self {
        Self { name: self.name.clone(), port }
    }

    /// The form of a Host header or URI. The port is left out if it is `default_port`.
    pub fn authority(&self, default_port: u16) -> String {
        let name = bracketed(&self.name);
        if self.port == default_port { name } else { format!("{name}:{}", self.port) }
    }
}

impl fmt::Display for RegistryHost {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.authority(HTTPS_PORT))
    }
}

impl fmt::Debug for RegistryHost {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for RegistryHost {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        Self::parse(text, HTTPS_PORT)
    }
}

fn bracketed(name: &str) -> String {
    if name.contains(':') { format!("[{name}]") } else { name.to_owned() }
}

fn split(text: &str) -> Result<(&str, Option<u16>), HostError> {
    let (name, port) = if let Some(rest) = text.strip_prefix('[') {
        let (name, rest) = rest.split_once(']').ok_or(HostError::Name)?;
        name.parse::<Ipv6Addr>().map_err(|_| HostError::Name)?;
        match rest {
            "" => (name, None),
            _ => (name, Some(rest.strip_prefix(':').ok_or(HostError::Name)?)),
        }
    } else if text.parse::<Ipv6Addr>().is_ok() {
        (text, None)
    } else {
        match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        }
    };
    Ok((name, port.map(parse_port).transpose()?))
}

fn parse_port(text: &str) -> Result<u16, HostError> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u16>() {
        Ok(port) if digits && port > 0 => Ok(port),
        _ => Err(HostError::Port),
    }
}

/// Lower-cases a DNS name or address. One trailing dot stands for the root and is dropped.
fn parse_name(text: &str) -> Result<Box<str>, HostError> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.to_string().into());
    }
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    // Some resolvers read a numeric last label as an address (0x7f.1, 127.1).
    let numeric = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit()) || label.starts_with("0x");
    let last = name.rsplit('.').next().unwrap_or_default();
    if name.len() <= 253 && name.split('.').all(label) && !numeric(last) {
        Ok(name.into())
    } else {
        Err(HostError::Name)
    }
}

/// An entry of the list of registries: `ghcr.io`, `reg.example:5000` or `*.pkg.dev` (every name below `pkg.dev`, not
/// `pkg.dev` itself).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPattern {
    wildcard: bool,
    name: Box<str>,
    port: Option<u16>,
}

impl HostPattern {
    /// Whether the entry covers `host`. An entry without a port covers `implied_port`, the scheme's default.
    pub fn matches(&self, host: &RegistryHost, implied_port: u16) -> bool {
        let name = if self.wildcard { is_below(&host.name, &self.name) } else { host.name == self.name };
        name && host.port == self.port.unwrap_or(implied_port)
    }

    /// Whether the entry covers the name of `host`, on any port.
    pub fn names(&self, host: &RegistryHost) -> bool {
        self.matches(&host.with_port(self.port.unwrap_or(HTTPS_PORT)), HTTPS_PORT)
    }

    /// Whether every name of `other` is one of this entry, whichever ports they have.
    pub fn includes(&self, other: &Self) -> bool {
        match (self.wildcard, other.wildcard) {
            (false, wildcard) => !wildcard && self.name == other.name,
            (true, false) => is_below(&other.name, &self.name),
            (true, true) => self.name == other.name || is_below(&other.name, &self.name),
        }
    }

    /// Orders entries that cover one host: a name comes after every wildcard, a longer wildcard after a shorter one.
    pub fn specificity(&self) -> (bool, usize) {
        (!self.wildcard, self.name.len())
    }

    /// The host of an entry without a wildcard, with port 443 if it names none. None for a wildcard.
    pub fn exact(&self) -> Option<RegistryHost> {
        (!self.wildcard).then(|| RegistryHost { name: self.name.clone(), port: self.port.unwrap_or(HTTPS_PORT) })
    }

    /// The same entry with this port.
    pub fn with_port(&self, port: u16) -> Self {
        Self { port: Some(port), ..self.clone() }
    }

    /// The port that the entry names. None if it names none.
    pub fn port(&self) -> Option<u16> {
        self.port
    }
}

/// Whether `name` is a name below `domain`.
fn is_below(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain).is_some_and(|head| head.len() > 1 && head.ends_with('.'))
}

impl FromStr for HostPattern {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        let (wildcard, rest) = match text.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (name, port) = split(rest)?;
        Ok(Self { wildcard, name: parse_name(name)?, port })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = if self.wildcard { "*." } else { "" };
        write!(formatter, "{star}{}", bracketed(&self.name))?;
        self.port.map_or(Ok(()), |port| write!(formatter, ":{port}"))
    }
}

impl fmt::Debug for HostPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_canonical() {
        for (text, shown, port) in [
            ("GHCR.io", "ghcr.io", 443),
            ("ghcr.io:443", "ghcr.io", 443),
            ("ghcr.io.", "ghcr.io", 443),
            ("reg.example:5000", "reg.example:5000", 5000),
            ("[::1]:5000", "[::1]:5000", 5000),
            ("[0:0::1]", "[::1]", 443),
            ("::1", "[::1]", 443),
            ("10.0.0.1:80", "10.0.0.1:80", 80),
            ("my_reg", "my_reg", 443),
        ] {
            let host: RegistryHost = text.parse().expect(text);
            assert_eq!((host.to_string().as_str(), host.port()), (shown, port), "{text}");
        }
        for bad in [
            "",
            ":443",
            "a:0",
            "a:65536",
            "a:+1",
            "a:",
            "a b",
            "a/b",
            "[::1",
            "[::1]x",
            "[a]",
            "127.1",
            "0x7f.1",
            "0x7f000001",
            "2130706433",
            "a..b",
            "-a",
            "a@b",
            "é.io",
        ] {
            assert!(bad.parse::<RegistryHost>().is_err(), "{bad}");
        }
        assert_eq!(RegistryHost::parse_with_port("ghcr.io"), Err(HostError::PortMissing));
    }

    #[test]
    fn patterns_match_what_they_say() {
        for (pattern, host, matches) in [
            ("ghcr.io", "ghcr.io", true),
            ("ghcr.io", "ghcr.io:5000", false),
            ("reg.example:5000", "REG.example:5000", true),
            ("reg.example:5000", "reg.example", false),
            ("*.pkg.dev", "eu-docker.pkg.dev", true),
            ("*.pkg.dev", "a.b.pkg.dev", true),
            ("*.pkg.dev", "pkg.dev", false),
            ("*.pkg.dev", "evilpkg.dev", false),
            ("*.pkg.dev", "eu.pkg.dev:444", false),
            ("*.pkg.dev:444", "eu.pkg.dev:444", true),
        ] {
            let pattern: HostPattern = pattern.parse().expect(pattern);
            let host: RegistryHost = host.parse().expect(host);
            assert_eq!(pattern.matches(&host, HTTPS_PORT), matches, "{pattern} {host}");
        }
        for (pattern, other, includes) in [
            ("a.lan", "a.lan:5000", true),
            ("a.lan", "b.lan", false),
            ("a.lan", "*.lan", false),
            ("*.lan", "a.lan", true),
            ("*.lan", "lan", false),
            ("*.lan", "*.lan:5000", true),
            ("*.lan", "*.a.lan", true),
            ("*.a.lan", "*.lan", false),
        ] {
            let [pattern, other] = [pattern, other].map(|text| text.parse::<HostPattern>().expect(text));
            assert_eq!(pattern.includes(&other), includes, "{pattern} {other}");
        }
        assert_eq!("*.pkg.dev:444".parse::<HostPattern>().map(|p| p.to_string()), Ok("*.pkg.dev:444".into()));
    }
}
