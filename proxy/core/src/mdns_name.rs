//! Host names under `.local`, which multicast DNS (RFC 6762) resolves.

/// A host name under `.local`: one label of letters, digits and hyphens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MdnsName(String);

/// The longest DNS label (RFC 1035 section 2.3.4).
const LABEL_MAX_BYTES: usize = 63;

impl MdnsName {
    /// Reads a label, with or without `.local`, and lower-cases it. None if it is not one label.
    pub fn parse(text: &str) -> Option<Self> {
        let label = text.strip_suffix(".local").unwrap_or(text);
        let fits = (1..=LABEL_MAX_BYTES).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-');
        let known = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        (fits && known).then(|| Self(label.to_ascii_lowercase()))
    }

    /// The name without `.local`.
    pub fn label(&self) -> &str {
        &self.0
    }

    /// The name with `.local`.
    pub fn host(&self) -> String {
        format!("{}.local", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_label() {
        for (text, host) in [
            ("docker-registry", "docker-registry.local"),
            ("Docker-Registry.local", "docker-registry.local"),
            ("a", "a.local"),
        ] {
            assert_eq!(MdnsName::parse(text).map(|name| name.host()).as_deref(), Some(host));
        }
        let long = "a".repeat(64);
        for bad in ["", ".local", "a.b", "a b", "-a", "a-", "ä", "a_b", "a.local.", &long] {
            assert_eq!(MdnsName::parse(bad), None, "{bad}");
        }
    }
}
