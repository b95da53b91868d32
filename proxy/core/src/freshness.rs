//! How long an answer is valid: the tier of a tag, the expiry of a token, the lifetime of a verdict about a credential.
//!
//! These are pure functions. The caller has the clock and the configuration.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use regex::Regex;
use serde::Deserialize;

use crate::digest::Digest;
use crate::name::{Reference, Tag};
use crate::outcome::RequestType;
use crate::route::Route;

/// docker-registry-proxy's tiers of tags. Each has its own caching time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tier {
    /// The primary expression matches.
    Primary,
    /// The secondary expression matches, the primary one does not.
    Secondary,
    /// No expression matches.
    Default,
}

/// The tier of a tag. Both expressions must be anchored at their start; None never matches.
pub fn tag_tier(tag: &Tag, primary: Option<&Regex>, secondary: Option<&Regex>) -> Tier {
    let matches = |tier: Option<&Regex>| tier.is_some_and(|regex| regex.is_match(tag.as_str()));
    if is_always_revalidated(tag) {
        Tier::Default
    } else if matches(primary) {
        Tier::Primary
    } else if matches(secondary) {
        Tier::Secondary
    } else {
        Tier::Default
    }
}

/// Whether upstream must be asked about a tag each time, in every mode.
///
/// These are the tags `sha256-<digest>` and `sha512-<digest>`, with or without a suffix. cosign and the fallback of the referrers API add
/// signatures to an image under them. docker-registry-proxy's secondary expression takes such a tag for a version and
/// would hide a new signature for 60 days.
pub fn is_always_revalidated(tag: &Tag) -> bool {
    let rest = ["sha256-", "sha512-"].iter().find_map(|algorithm| tag.as_str().strip_prefix(algorithm));
    let Some((hex, suffix)) = rest.and_then(|rest| rest.split_at_checked(FALLBACK_HEX)) else { return false };
    is_hex(hex) && (suffix.is_empty() || suffix.starts_with('.'))
}

/// The referrers' fallback tag of a digest (OCI Distribution 1.1, "Referrers Tag Schema"): a dash for the colon, and no
/// more than 64 characters behind it.
pub fn referrers_fallback(digest: &Digest) -> Option<Tag> {
    let hex = digest.hex();
    format!("{}-{}", digest.algorithm().name(), hex.get(..FALLBACK_HEX)?).parse().ok()
}

/// Whether a tag has the form of [`referrers_fallback`], with nothing behind it.
pub fn is_referrers_fallback(tag: &Tag) -> bool {
    let hex = ["sha256-", "sha512-"].iter().find_map(|algorithm| tag.as_str().strip_prefix(algorithm));
    hex.is_some_and(|hex| hex.len() == FALLBACK_HEX && is_hex(hex))
}

/// The characters of a digest in its fallback tag.
const FALLBACK_HEX: usize = 64;

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The `request_type` of the access log. `tier` is None while the tiers are off; `artefact` is true if a configured
/// pattern caches the path.
pub fn request_type(route: &Route, tier: Option<Tier>, artefact: bool) -> RequestType {
    match route {
        Route::Blob { .. } => RequestType::BlobByDigest,
        Route::Uploads { .. } | Route::Upload { .. } => RequestType::BlobMutable,
        Route::Manifest { reference: Reference::Digest(_), .. } => RequestType::ManifestByDigest,
        Route::Manifest { reference: Reference::Tag(_), .. } => match tier {
            Some(Tier::Primary) => RequestType::ManifestPrimary,
            Some(Tier::Secondary) => RequestType::ManifestSecondary,
            Some(Tier::Default) => RequestType::ManifestDefault,
            None => RequestType::ManifestDefaultDisabled,
        },
        Route::Other if artefact => RequestType::BlobMutable,
        Route::Ping
        | Route::Catalog
        | Route::Tags { .. }
        | Route::Referrers { .. }
        | Route::Extension
        | Route::Other => RequestType::Unknown,
    }
}

/// Longer tokens are not decoded.
const TOKEN_MAX_BYTES: usize = 64 << 10;

/// The expiry (`exp`) that a JSON web token states, in seconds since 1970. None for an opaque token.
///
/// The signature is not checked: the result only shortens a lifetime, and the registry checks the token itself.
pub fn jwt_expiry(token: &str) -> Option<u64> {
    #[derive(Deserialize)]
    struct Claims {
        exp: f64,
    }
    if token.len() > TOKEN_MAX_BYTES {
        return None;
    }
    let mut parts = token.split('.');
    let (_header, claims, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let claims = URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?;
    let Claims { exp } = serde_json::from_slice(&claims).ok()?;
    // The cast saturates. A negative time is in the past; the caller limits a huge one.
    Some(exp as u64)
}

/// For every verdict about a credential (T1).
const VERDICT_TTL_MAX: Duration = Duration::from_secs(300);
/// For opaque tokens, whose expiry is unknown: the shortest lifetime that token servers give (Docker's specification).
const VERDICT_TTL_OPAQUE: Duration = Duration::from_secs(60);

/// How long upstream's verdict that a credential may read a repository is valid: never longer than the token.
/// `token_expiry_in` is None for an opaque credential.
pub fn verdict_ttl(token_expiry_in: Option<Duration>, is_bearer: bool) -> Duration {
    match (token_expiry_in, is_bearer) {
        (Some(left), _) => left.min(VERDICT_TTL_MAX),
        (None, true) => VERDICT_TTL_OPAQUE,
        (None, false) => VERDICT_TTL_MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;

    #[test]
    fn tags_fall_into_docker_registry_proxys_tiers() {
        let primary = Regex::new("^(stable|nightly|production|test)").unwrap();
        let secondary = Regex::new(r"^(.*)(\d|\.)+(.*)(\d|\.)+(.*)(\d|\.)+").unwrap();
        let hex = "0".repeat(64);
        for (tag, tier) in [
            ("stable", Tier::Primary),
            ("stable-1.2.3", Tier::Primary),
            ("unstable", Tier::Default),
            ("1.2", Tier::Secondary),
            ("v1.2.3", Tier::Secondary),
            ("v12", Tier::Default),
            ("latest", Tier::Default),
            (&format!("sha256-{hex}"), Tier::Default),
            (&format!("sha256-{hex}.sig"), Tier::Default),
            (&format!("sha256-{hex}.att"), Tier::Default),
            (&format!("sha256-{hex}.sbom"), Tier::Default),
            (&format!("sha256-{hex}0"), Tier::Secondary),
            (&format!("sha256-{}", &hex[1..]), Tier::Secondary),
            (&format!("sha256-{}", hex.replace('0', "A")), Tier::Secondary),
        ] {
            let parsed: Tag = tag.parse().unwrap();
            assert_eq!(tag_tier(&parsed, Some(&primary), Some(&secondary)), tier, "{tag}");
            assert_eq!(tag_tier(&parsed, None, None), Tier::Default);
        }
        assert!(is_always_revalidated(&format!("sha256-{hex}.sig").parse().unwrap()));
        assert!(!is_always_revalidated(&"sha256-1.2.3".parse().unwrap()));
    }

    #[test]
    fn request_types_are_docker_registry_proxys_words() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for (method, path, tier, artefact, word) in [
            (Method::GET, "/v2/", None, false, "unknown"),
            (Method::GET, "/v2/a/tags/list", None, false, "unknown"),
            (Method::GET, "/token", None, false, "unknown"),
            (Method::GET, "/pkg.tgz", None, true, "blob-mutable"),
            (Method::POST, "/v2/a/blobs/uploads/", None, false, "blob-mutable"),
            (Method::PUT, "/v2/a/blobs/uploads/1", None, false, "blob-mutable"),
            (Method::GET, &format!("/v2/a/blobs/{digest}"), None, false, "blob-by-digest"),
            (Method::GET, &format!("/v2/a/manifests/{digest}"), Some(Tier::Primary), false, "manifest-by-digest"),
            (Method::GET, "/v2/a/manifests/x", Some(Tier::Primary), false, "manifest-primary"),
            (Method::GET, "/v2/a/manifests/x", Some(Tier::Secondary), false, "manifest-secondary"),
            (Method::GET, "/v2/a/manifests/x", Some(Tier::Default), false, "manifest-default"),
            (Method::GET, "/v2/a/manifests/x", None, false, "manifest-default-disabled"),
        ] {
            let route = Route::parse(&method, path, None).unwrap();
            assert_eq!(request_type(&route, tier, artefact).word(), word, "{path}");
        }
    }

    #[test]
    fn the_end_of_a_token_is_read_from_its_claims() {
        let token = |claims: &str| format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(claims));
        for (claims, expiry) in [
            (r#"{"exp":1700000000,"iat":1}"#, Some(1_700_000_000)),
            (r#"{"exp":1700000000.9}"#, Some(1_700_000_000)),
            (r#"{"exp":-5}"#, Some(0)),
            (r#"{"exp":"soon"}"#, None),
            (r#"{"iat":1}"#, None),
            ("nonsense", None),
        ] {
            assert_eq!(jwt_expiry(&token(claims)), expiry, "{claims}");
        }
        let padded = token(r#"{"exp":17}"#).replace(".sig", "==.sig");
        assert_eq!(jwt_expiry(&padded), Some(17));
        for opaque in ["", "opaque", "a.b", "a.b.c", "a.b.c.d", "..", "a.!!.c"] {
            assert_eq!(jwt_expiry(opaque), None, "{opaque}");
        }
        assert_eq!(jwt_expiry(&format!("{}{}", token(r#"{"exp":1}"#), "x".repeat(TOKEN_MAX_BYTES))), None);
    }

    #[test]
    fn a_fallback_tag_is_a_digest_and_nothing_more() {
        let hex = "ab".repeat(32);
        for (tag, is) in [
            (format!("sha256-{hex}"), true),
            (format!("sha512-{hex}"), true),
            (format!("sha512-{hex}ab"), false),
            (format!("sha256-{hex}.sig"), false),
            (format!("sha256-{}", &hex[1..]), false),
            (format!("sha256-{}", hex.to_uppercase()), false),
            (format!("md5-{hex}"), false),
            ("latest".to_owned(), false),
        ] {
            assert_eq!(is_referrers_fallback(&tag.parse().expect("a tag")), is, "{tag}");
        }
        for digest in [format!("sha256:{hex}"), format!("sha512:{hex}{hex}")] {
            let tag = referrers_fallback(&digest.parse().expect("a digest")).expect("a tag");
            assert_eq!(tag.as_str(), format!("{}-{hex}", &digest[..6]));
        }
    }

    #[test]
    fn verdicts_end_with_their_token() {
        let seconds = Duration::from_secs;
        for (left, is_bearer, ttl) in [
            (Some(seconds(10)), true, seconds(10)),
            (Some(seconds(0)), true, seconds(0)),
            (Some(seconds(3600)), true, seconds(300)),
            (None, true, seconds(60)),
            (None, false, seconds(300)),
        ] {
            assert_eq!(verdict_ttl(left, is_bearer), ttl);
        }
    }
}
