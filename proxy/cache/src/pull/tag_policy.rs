//! How long an answer about a tag is trusted, by the configuration's tiers. Pure.

use std::time::Duration;

use entrepot_core::freshness::{self, Tier};
use entrepot_core::name::Tag;
use entrepot_core::outcome::RequestType;

use entrepot_config::ready::{self, TagMode, TagPolicy};
use entrepot_store::TagEntry;

/// The tier of a tag.
pub(super) fn tier(policy: &TagPolicy, tag: &Tag) -> Tier {
    let regex = |tier: &Option<ready::Tier>| tier.as_ref().map(|tier| tier.regex.clone());
    freshness::tag_tier(tag, regex(&policy.primary).as_ref(), regex(&policy.secondary).as_ref())
}

/// How long an answer about this tag is trusted without asking.
pub(super) fn trusted_for(policy: &TagPolicy, tag: &Tag, tier: Tier) -> Duration {
    if policy.mode == TagMode::Revalidate || freshness::is_always_revalidated(tag) {
        return policy.revalidate_interval;
    }
    let of = |tier: &Option<ready::Tier>| tier.as_ref().map(|tier| tier.time);
    let time = match tier {
        Tier::Primary => of(&policy.primary),
        Tier::Secondary => of(&policy.secondary),
        Tier::Default => None,
    };
    time.unwrap_or(policy.default_time)
}

/// The tag's kind in docker-registry-proxy's words.
pub(super) fn request_type(policy: &TagPolicy, tier: Tier) -> RequestType {
    match (policy.mode, tier) {
        (TagMode::Revalidate, _) => RequestType::ManifestDefaultDisabled,
        (TagMode::Ttl, Tier::Primary) => RequestType::ManifestPrimary,
        (TagMode::Ttl, Tier::Secondary) => RequestType::ManifestSecondary,
        (TagMode::Ttl, Tier::Default) => RequestType::ManifestDefault,
    }
}

/// Whether an answer is young enough. A validation in the future is none: the clock stepped back.
pub(super) fn is_fresh(entry: &TagEntry, time: Duration) -> bool {
    entry.validated_at.elapsed().is_ok_and(|age| age < time)
}
