//! `[cache]`, `[cache.tags]` and `[rights]`: what is kept, how much of it, and how long the answer for a tag and the
//! proof that content is public are trusted.

use std::time::Duration;

use super::provenance::{ConfigError, Refusal};
use super::raw::{RawCache, RawRights, RawTags, RawTier};
use super::ready::{Cache, ProofAges, TagMode, TagPolicy, Tier};
use super::resolver::{AtReload, Resolver};
use super::values;

/// docker-registry-proxy's tiers: regular expression and time.
const PRIMARY: (&str, &str) = ("(stable|nightly|production|test)", "10m");
const SECONDARY: (&str, &str) = (r"(.*)(\d|\.)+(.*)(\d|\.)+(.*)(\d|\.)+", "60d");
const DEFAULT_TIME: &str = "1h";
/// A "not found" that is remembered longer hides an image that was pushed in the meantime.
const NEGATIVE_TIME_MAX: &str = "10s";

pub(super) fn cache(resolver: &mut Resolver<'_, AtReload>, raw: &RawCache) -> Result<(Cache, TagPolicy), ConfigError> {
    let cache = Cache {
        enabled: resolver.switch("cache.enabled", &raw.enabled, true),
        max_size: resolver.text("cache.max_size", &raw.max_size, "32g", values::size_above_zero)?,
        min_free: resolver.text("cache.min_free", &raw.min_free, "1g", values::size)?,
        inactive: resolver.text("cache.inactive", &raw.inactive, "60d", values::deadline)?,
        scrub: resolver.text("cache.scrub", &raw.scrub, "30d", values::duration)?,
        patterns: resolver.texts("cache.patterns", &raw.patterns, &[], values::regex)?,
        complete_up_to: resolver.text("cache.complete_up_to", &raw.complete_up_to, "8g", values::size)?,
    };
    Ok((cache, tags(resolver, &raw.tags)?))
}

/// How long public content counts as public.
pub(super) fn proofs(resolver: &mut Resolver<'_, AtReload>, raw: &RawRights) -> Result<ProofAges, ConfigError> {
    Ok(ProofAges {
        public_for: resolver.text("rights.public_for", &raw.public_for, "1d", values::duration)?,
        offline_for: resolver.text("rights.offline_for", &raw.offline_for, "30d", values::duration)?,
    })
}

fn tags(resolver: &mut Resolver<'_, AtReload>, raw: &RawTags) -> Result<TagPolicy, ConfigError> {
    const MODES: &[(&str, TagMode)] = &[("revalidate", TagMode::Revalidate), ("ttl", TagMode::Ttl)];
    Ok(TagPolicy {
        mode: resolver.text("cache.tags.mode", &raw.mode, "revalidate", |text| values::choice(text, MODES))?,
        primary: tier(resolver, "cache.tags.primary", &raw.primary, PRIMARY)?,
        secondary: tier(resolver, "cache.tags.secondary", &raw.secondary, SECONDARY)?,
        default_time: resolver
            .text("cache.tags.default_time", &raw.default_time, DEFAULT_TIME, time_or_off)?
            .unwrap_or_default(),
        revalidate_interval: resolver.text(
            "cache.tags.revalidate_interval",
            &raw.revalidate_interval,
            "3s",
            values::duration,
        )?,
        negative_time: resolver.text(
            "cache.tags.negative_time",
            &raw.negative_time,
            NEGATIVE_TIME_MAX,
            values::duration_up_to(NEGATIVE_TIME_MAX),
        )?,
    })
}

/// A tier without an expression or without a time is off.
fn tier(
    resolver: &mut Resolver<'_, AtReload>,
    key: &str,
    raw: &RawTier,
    (regex, time): (&str, &str),
) -> Result<Option<Tier>, ConfigError> {
    let expression = |text: &str| if text.is_empty() { Ok(None) } else { values::tag_regex(text).map(Some) };
    let regex = resolver.text(&format!("{key}.regex"), &raw.regex, regex, expression)?;
    let time = resolver.text(&format!("{key}.time"), &raw.time, time, time_or_off)?;
    Ok(regex.zip(time).map(|(regex, time)| Tier { regex, time }))
}

fn time_or_off(text: &str) -> Result<Option<Duration>, Refusal> {
    if text.is_empty() { Ok(None) } else { values::duration(text).map(Some) }
}
