//! Parsers of single values. Each takes the text of one setting and returns its ready form or the reason against it.
//! `resolver` adds the place of the text.

use std::fs;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use entrepot_core::host::{HTTPS_PORT, HostPattern, RegistryHost};
use entrepot_core::htpasswd::Accounts;
use entrepot_core::origin::{OriginPattern, Scheme};
use entrepot_core::quantity::{self, Size};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use ipnet::IpNet;
use regex::Regex;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tracing_subscriber::EnvFilter;
use url::Url;

use super::provenance::Refusal;
use entrepot_core::secret::Secret;

/// Secrets and certificates are small. A path to a larger file is a mistake.
const FILE_MAX_BYTES: u64 = 4 << 20;
/// Faults of one file that are shown.
const FAULTS_MAX: usize = 5;

pub(super) fn path(text: &str) -> Result<PathBuf, Refusal> {
    Ok(PathBuf::from(text))
}

pub(super) fn size(text: &str) -> Result<Size, Refusal> {
    quantity::parse_size(text).map_err(|error| Refusal::new(format!("{text:?} is {error}")))
}

pub(super) fn size_above_zero(text: &str) -> Result<Size, Refusal> {
    above(size(text)?, Size(0), text)
}

/// A duration that may be zero.
pub(super) fn duration(text: &str) -> Result<Duration, Refusal> {
    quantity::parse_duration(text).map_err(|error| Refusal::new(format!("{text:?} is {error}")))
}

/// A deadline. Zero is refused: every wait would fail.
pub(super) fn deadline(text: &str) -> Result<Duration, Refusal> {
    above(duration(text)?, Duration::ZERO, text)
}

fn above<T: PartialOrd>(value: T, floor: T, text: &str) -> Result<T, Refusal> {
    if value > floor { Ok(value) } else { Err(Refusal::new(format!("{text:?} must be more than 0"))) }
}

/// A duration that may be zero and has a ceiling.
pub(super) fn duration_up_to(ceiling: &str) -> impl Fn(&str) -> Result<Duration, Refusal> {
    move |text| {
        let (value, most) = (duration(text)?, duration(ceiling)?);
        if value <= most { Ok(value) } else { Err(Refusal::new(format!("{text:?} is more than {ceiling}"))) }
    }
}

/// The value of one of a few words.
pub(super) fn choice<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, Refusal> {
    words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        Refusal::new(format!("{text:?} is not one of {}", known.join(", ")))
    })
}

pub(super) fn listen_address(text: &str) -> Result<SocketAddr, Refusal> {
    text.parse().map_err(|_| {
        Refusal::new(format!("{text:?} is not an address with a port"))
            .hint("write for example 0.0.0.0:3128, [::]:3128 or 127.0.0.1:3130")
    })
}

pub(super) fn regex(text: &str) -> Result<Regex, Refusal> {
    Regex::new(text).map_err(|error| {
        let error = error.to_string();
        let reason = error.lines().last().unwrap_or_default();
        let reason = reason.strip_prefix("error: ").unwrap_or(reason).trim_end_matches('.');
        Refusal::new(format!("{text:?} is not a regular expression: {reason}"))
    })
}

/// A tier's expression. It matches from the start of the tag and is open at its end, as in docker-registry-proxy.
pub(super) fn tag_regex(text: &str) -> Result<Regex, Refusal> {
    regex(text)?;
    regex(&format!("^(?:{text})"))
}

pub(super) fn host_pattern(text: &str) -> Result<HostPattern, Refusal> {
    text.parse().map_err(|error| {
        let hint = match text.contains('/') {
            _ if text.contains([',', ';']) => "write a section for each registry",
            true => "write the host alone, without scheme and path",
            false => "write for example reg.example, reg.example:5000 or *.pkg.dev",
        };
        Refusal::new(format!("{text:?} is no usable registry: {error}")).hint(hint)
    })
}

/// An entry of a list of registries, and the scheme that it spells.
pub(super) fn registry(text: &str) -> Result<(Option<Scheme>, HostPattern), Refusal> {
    let (spelled, host) = Scheme::split(text);
    let host = host.parse().map_err(|error| {
        let hint = match host {
            _ if is_list(host) => "write each registry as an entry of its own: [\"a.example\", \"b.example\"]",
            _ if host.contains('/') => "write the host alone, without a path; http:// before it means plain HTTP",
            _ => "write for example reg.example, reg.example:5000, *.pkg.dev or http://reg.example:5000",
        };
        Refusal::new(format!("{text:?} is no usable registry: {error}")).hint(hint)
    })?;
    Ok((spelled, host))
}

/// The same where no other section has a say: without a scheme it is https.
pub(super) fn origin_pattern(text: &str) -> Result<OriginPattern, Refusal> {
    let (spelled, host) = registry(text)?;
    Ok(OriginPattern { scheme: spelled.unwrap_or(Scheme::Https), host })
}

/// A host. Without a port, it is on port 443.
pub(super) fn host(text: &str) -> Result<RegistryHost, Refusal> {
    RegistryHost::parse(text, HTTPS_PORT).map_err(|error| {
        Refusal::new(format!("{text:?} is no usable host: {error}")).hint("write for example auth.example")
    })
}

/// Globs over host names. A glob without a port matches the host on any port.
pub(super) fn host_globs(texts: &[String]) -> Result<GlobSet, Refusal> {
    let with_any_port = |text: &String| [text.to_ascii_lowercase(), format!("{}:*", text.to_ascii_lowercase())];
    globs(texts.iter().flat_map(with_any_port))
}

/// Whether the text of one entry looks like several.
fn is_list(text: &str) -> bool {
    text.contains([',', ';', '|']) || text.trim().contains(char::is_whitespace)
}

/// Globs over repository names. `*` matches slashes too, so `team/*` is everything below `team`.
pub(super) fn repository_globs(texts: &[String]) -> Result<GlobSet, Refusal> {
    globs(texts.iter().cloned())
}

/// Checks the syntax of one host glob. The brackets of an IPv6 literal are not a character class.
pub(super) fn host_glob(text: &str) -> Result<String, Refusal> {
    let literal = text.replace('[', "\u{1}").replace(']', "[]]").replace('\u{1}', "[[]");
    let is_in_braces = text.contains('{');
    if text.is_empty() || text.contains('/') || (is_list(text) && !is_in_braces) {
        let hint = match is_list(text) {
            true => "write each host as an entry of its own: [\"ghcr.io\", \"*.docker.io\"]",
            false => "write for example ghcr.io, *.docker.io or reg.example:5000",
        };
        return Err(Refusal::new(format!("{text:?} is not a host or a glob of hosts")).hint(hint));
    }
    globs([literal.clone()].into_iter()).map(|_| literal)
}

fn globs(texts: impl Iterator<Item = String>) -> Result<GlobSet, Refusal> {
    let mut set = GlobSetBuilder::new();
    for text in texts {
        let glob = GlobBuilder::new(&text).build();
        set.add(glob.map_err(|error| Refusal::new(format!("{text:?} is not a glob: {}", error.kind())))?);
    }
    set.build().map_err(|error| Refusal::new(format!("not usable as globs: {}", error.kind())))
}

/// An address or a network.
pub(super) fn network(text: &str) -> Result<IpNet, Refusal> {
    text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(|_| {
        Refusal::new(format!("{text:?} is not an address or a network")).hint("write for example 10.0.0.0/8 or ::1")
    })
}

/// A filter in tracing's syntax. A bare word must be a level, because a misspelt level would silently name a module.
pub(super) fn log_filter(text: &str) -> Result<String, Refusal> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let known = |part: &str| part.contains('=') || LEVELS.contains(&part.trim().to_ascii_lowercase().as_str());
    let refusal = || {
        Refusal::new(format!("{text:?} is not a log level"))
            .hint("write error, warn, info, debug or trace, or a filter such as info,entrepot=debug")
    };
    if !text.split(',').all(known) {
        return Err(refusal());
    }
    EnvFilter::builder().parse(text).map(|_| text.to_owned()).map_err(|_| refusal())
}

/// The certificates of a PEM file, each one usable as a trust anchor.
pub(super) fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, Refusal> {
    let refusal =
        |reason: String| Refusal::new(format!("{text:?} {reason}")).hint("give a PEM file of CA certificates");
    let pem = read(Path::new(text))?;
    let certificates: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = certificates.map_err(|_| refusal("is not PEM".to_owned()))?;
    if certificates.is_empty() {
        return Err(refusal("holds no certificate".to_owned()));
    }
    let mut roots = rustls::RootCertStore::empty();
    for certificate in &certificates {
        roots
            .add(certificate.clone())
            .map_err(|error| refusal(format!("holds a certificate that is not usable: {error}")))?;
    }
    Ok(certificates)
}

/// A PEM file with a private key in it. The authority checks later whether the passphrase opens it.
pub(super) fn private_key_file(text: &str) -> Result<PathBuf, Refusal> {
    let pem = Secret::new(String::from_utf8_lossy(&read(Path::new(text))?));
    if pem.expose().contains("-----BEGIN ") && pem.expose().contains("PRIVATE KEY-----") {
        return Ok(PathBuf::from(text));
    }
    Err(Refusal::new(format!("{text:?} holds no private key")).hint("give a PEM file, PKCS#1, PKCS#8 or SEC1"))
}

/// The secret in a file: its text without the line end.
pub(super) fn secret_file(text: &str) -> Result<Secret, Refusal> {
    let refusal =
        |reason: &str| Refusal::new(format!("{text:?} {reason}")).hint("write the secret into it, on one line");
    let content = String::from_utf8(read(Path::new(text))?).map_err(|_| refusal("is not UTF-8"))?;
    let secret = content.trim_end_matches(['\r', '\n']);
    if secret.is_empty() { Err(refusal("is empty")) } else { Ok(Secret::new(secret)) }
}

/// The first faults of a file of accounts, in the form of `htpasswd -B`. They stop nothing: the good lines hold, and a
/// file that is repaired is read again.
pub(super) fn htpasswd_faults(path: &Path) -> Vec<String> {
    match read(path) {
        Ok(content) => Accounts::read(&content).1.iter().take(FAULTS_MAX).map(ToString::to_string).collect(),
        Err(refusal) => vec![refusal.message],
    }
}

/// An address to post to. A user in it is refused, because many receivers write the whole address to their logs.
pub(super) fn webhook(text: &str) -> Result<Url, Refusal> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let url = url.ok_or_else(|| Refusal::new("not an http or https address"))?;
    match url.username().is_empty() && url.password().is_none() {
        true => Ok(url),
        false => Err(Refusal::new("an address with a user in it").hint("send an Authorization in headers instead")),
    }
}

/// The whole text of a file, which may be a secret. None if the file cannot be read.
pub(super) fn text_file(path: &Path) -> Option<Secret> {
    read(path).ok().and_then(|content| String::from_utf8(content).ok()).map(Secret::new)
}

fn read(path: &Path) -> Result<Vec<u8>, Refusal> {
    let mut content = Vec::new();
    let length = fs::File::open(path).and_then(|file| file.take(FILE_MAX_BYTES + 1).read_to_end(&mut content));
    match length {
        Ok(length) if length as u64 <= FILE_MAX_BYTES => Ok(content),
        Ok(_) => Err(Refusal::new(format!("{path:?} is larger than {}", Size(FILE_MAX_BYTES)))),
        Err(error) => Err(Refusal::new(format!("{path:?} cannot be read: {}", reason(&error)))
            .hint("check the path and who may read it")),
    }
}

/// The text of an I/O error, without its number.
pub(super) fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tag_expressions_are_anchored_at_the_start_only() {
        let secondary = tag_regex(r"(.*)(\d|\.)+(.*)(\d|\.)+(.*)(\d|\.)+").expect("docker-registry-proxy's default");
        assert!(secondary.is_match("v1.2.3") && secondary.is_match("20261121-x") && !secondary.is_match("v12"));
        let primary = tag_regex("stable|test").expect("regex");
        assert!(primary.is_match("test-2") && primary.is_match("stable") && !primary.is_match("latest"));
        assert_eq!(
            tag_regex("a)(b").map(|_| ()).map_err(|refusal| refusal.message).expect_err("two halves"),
            "\"a)(b\" is not a regular expression: unopened group"
        );
    }

    #[test]
    fn host_globs_take_any_port_unless_they_name_one() {
        let texts: Vec<String> =
            ["*.Docker.io", "ghcr.io", "reg:5000", "[::1]"].iter().map(|text| host_glob(text).expect("glob")).collect();
        let globs = host_globs(&texts).expect("globs");
        for host in ["auth.docker.io", "ghcr.io", "ghcr.io:444", "reg:5000", "[::1]", "[::1]:5000"] {
            assert!(globs.is_match(host), "{host}");
        }
        for host in ["docker.io", "ghcr.io.evil", "reg", "reg:443", "xghcr.io"] {
            assert!(!globs.is_match(host), "{host}");
        }
    }

    #[test]
    fn a_misspelt_level_is_refused() {
        for good in ["info", "off", "INFO", "info,entrepot=debug", "entrepot_cache::pull=trace,warn"] {
            assert!(log_filter(good).is_ok(), "{good}");
        }
        for bad in ["inof", "", "info,debgu", "entrepot=loud"] {
            assert!(log_filter(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn repository_globs_take_everything_below() {
        let globs = repository_globs(&["team".to_owned(), "team/**".to_owned()]).expect("globs");
        assert!(globs.is_match("team") && globs.is_match("team/a/b") && !globs.is_match("teams/a"));
        assert!(repository_globs(&["team/*".to_owned()]).expect("glob").is_match("team/a/b"));
    }
}
