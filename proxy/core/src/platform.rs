//! The platforms of an image, as its index or its config names them. Only people read them; no decision depends on them.

use std::fmt;

use serde::Deserialize;
use serde_json::Value;

/// A platform such as `linux/arm64/v8`. Its words come from the image, so anything may stand there.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

/// No platform has longer words.
const WORD_MAX_BYTES: usize = 32;
/// Tools write this word for content without a platform, such as attestations.
const UNKNOWN: &str = "unknown";

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Value>,
}

impl Platform {
    /// The platforms that an index lists, sorted, each once.
    pub fn of_index(index: &[u8]) -> Vec<Self> {
        let listed = serde_json::from_slice::<Index>(index).map(|index| index.manifests).unwrap_or_default();
        let mut found: Vec<_> = listed.iter().filter_map(|entry| Self::read(entry.get("platform")?)).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The platform of an image's config. None if the config names none.
    pub fn of_config(config: &[u8]) -> Option<Self> {
        Self::read(&serde_json::from_slice(config).ok()?)
    }

    fn read(value: &Value) -> Option<Self> {
        let word = |field| value.get(field).and_then(Value::as_str).filter(|word| is_word(word)).map(str::to_owned);
        let (os, architecture) = (word("os")?, word("architecture")?);
        (os != UNKNOWN).then(|| Self { os, architecture, variant: word("variant") })
    }
}

fn is_word(word: &str) -> bool {
    !word.is_empty() && word.len() <= WORD_MAX_BYTES
}

impl fmt::Display for Platform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(formatter, "/{variant}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_read_from_what_images_say() {
        let long = format!(r#"{{"os":"linux","architecture":"{}"}}"#, "a".repeat(33));
        for (config, expected) in [
            (r#"{"os":"linux","architecture":"arm64","variant":"v8"}"#, Some("linux/arm64/v8")),
            (r#"{"os":"linux","architecture":"amd64"}"#, Some("linux/amd64")),
            (r#"{"os":"unknown","architecture":"unknown"}"#, None),
            (r#"{"os":"linux"}"#, None),
            (r#"{"os":1,"architecture":"amd64"}"#, None),
            (long.as_str(), None),
            ("[]", None),
            ("", None),
        ] {
            let found = Platform::of_config(config.as_bytes()).map(|platform| platform.to_string());
            assert_eq!(found.as_deref(), expected, "{config}");
        }
        let index = br#"{"manifests":[{"platform":{"os":"linux","architecture":"s390x"}},{},
            {"platform":{"os":"linux","architecture":"amd64"}},{"platform":{"os":"unknown","architecture":"unknown"}},
            {"platform":{"os":"linux","architecture":"amd64"}}]}"#;
        let found: Vec<_> = Platform::of_index(index).iter().map(Platform::to_string).collect();
        assert_eq!(found, ["linux/amd64", "linux/s390x"]);
        assert_eq!(Platform::of_index(b"{}"), []);
    }
}
