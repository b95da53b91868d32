//! Hints about variables whose names are misspelt.

use super::environment;

/// Names of other programs that look like ours.
const FOREIGN: [&str; 6] = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "FTP_PROXY", "ftp_proxy"];
/// A short name is like too many others.
const SHORTEST: usize = 7;
/// A name with more edits than this, or than one in seven characters, is another name.
const NEAR_EDITS: usize = 2;
/// Keys of the file are not variables, but some people expect variables with this in front.
const PREFIX: &str = "ENTREPOT_";

/// A line about each variable whose name is nearly one of ours. Values are not shown.
pub(super) fn misspelt(names: &[String]) -> Vec<String> {
    let mut names: Vec<&String> = names.iter().collect();
    names.sort_unstable();
    let hint = |name: &String| {
        let meant = meant(name)?;
        Some(format!("environment variable {name} is not read; did you mean {meant}?"))
    };
    names.into_iter().filter_map(hint).collect()
}

fn meant(name: &str) -> Option<&'static str> {
    if FOREIGN.contains(&name) || environment::names().any(|known| known == name) {
        return None;
    }
    let spellings = [Some(name), name.strip_prefix(PREFIX)].into_iter().flatten();
    let spellings: Vec<String> = spellings.filter(|text| text.len() >= SHORTEST).map(spelling).collect();
    let near = environment::names().filter(|known| known.len() >= SHORTEST).filter_map(|known| {
        let edits = spellings.iter().map(|spelt| strsim::damerau_levenshtein(&spelling(known), spelt)).min()?;
        (edits <= NEAR_EDITS.max(known.len() / 7)).then_some((edits, known))
    });
    // Of two spellings of one variable, the first in the table is named.
    near.min_by_key(|(edits, _)| *edits).map(|(_, known)| known)
}

/// A name without its case and its separators.
fn spelling(name: &str) -> String {
    name.chars().filter(|letter| !matches!(letter, '_' | '-' | '.')).map(|letter| letter.to_ascii_uppercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_variable_is_named_with_the_one_that_was_meant() {
        for (name, known) in [
            ("CACHE_MAXSIZE", "CACHE_MAX_SIZE"),
            ("CACHE_MAX_SIZES", "CACHE_MAX_SIZE"),
            ("CACHE_SIZE_MAX", ""),
            ("cache_max_size", "CACHE_MAX_SIZE"),
            ("CACHE-MAX-SIZE", "CACHE_MAX_SIZE"),
            ("ENTREPOT_CACHE_MAX_SIZE", "CACHE_MAX_SIZE"),
            ("ENTREPOT_CONF", "ENTREPOT_CONFIG"),
            ("REGISTRIE", "REGISTRIES"),
            ("Registries", "REGISTRIES"),
            ("ADDITIONAL_REGISTRY", "ADDITIONAL_REGISTRIES"),
            ("AUTH_REGISTERIES", "AUTH_REGISTRIES"),
            ("AUTH_REGISTRIES_DELIMETER", "AUTH_REGISTRIES_DELIMITER"),
            ("REGISTRY_WHITE_LIST", "REGISTRY_WHITELIST"),
            ("VERIFYSSL", "VERIFY_SSL"),
            ("ENABLE_MANIFESTS_CACHE", "ENABLE_MANIFEST_CACHE"),
            ("MANIFEST_CACHE_DEFAULT_TTL", "MANIFEST_CACHE_DEFAULT_TIME"),
            ("ALLOW_PUSHES", "ALLOW_PUSH"),
            ("DISABLE_IPV_6", "DISABLE_IPV6"),
            ("UPSTREAM_PROXI", "UPSTREAM_PROXY"),
            // Names that are right, and those of others.
            ("CACHE_MAX_SIZE", ""),
            ("https_proxy", ""),
            ("HTTP_PROXY", ""),
            ("all_proxy", ""),
            ("REGISTRY", ""),
            ("REGISTRY_PORT", ""),
            ("DEBUGS", ""),
            ("PATH", ""),
            ("KUBERNETES_SERVICE_HOST", ""),
            ("ENTREPOT_", ""),
            ("ENTREPOT_DISK_GB", ""),
            ("ENTREPOT_NETWORK", ""),
        ] {
            assert_eq!(meant(name).unwrap_or_default(), known, "{name}");
        }
        let names = ["PATH", "CACHE_MAXSIZE", "ALLOW_PUSHES"].map(str::to_owned);
        let hints = [
            "environment variable ALLOW_PUSHES is not read; did you mean ALLOW_PUSH?",
            "environment variable CACHE_MAXSIZE is not read; did you mean CACHE_MAX_SIZE?",
        ];
        assert_eq!(misspelt(&names), hints);
    }
}
