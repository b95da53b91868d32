//! The version of containerd on this machine, as far as it decides about `hosts.toml`: containerd 2.2 and newer sends
//! requests for referrers only to hosts with that capability, and 2.1 refuses a file with a capability that it does not
//! know. `scripts/containerd.sh` has the same rule for hosts without this program.

/// A version of containerd.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ContainerdVersion {
    major: u32,
    minor: u32,
    /// An early build of this version, which may lack what the version has.
    is_early: bool,
}

impl ContainerdVersion {
    /// Reads the output of `containerd --version`: the program, its package, the version, and more. None if that is not
    /// what the text is.
    pub fn parse(text: &str) -> Option<Self> {
        let version = text.split_whitespace().nth(2)?;
        let (major, rest) = version.strip_prefix('v').unwrap_or(version).split_once('.')?;
        let (minor, rest) = rest.split_at(rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len()));
        let is_early = ["alpha", "beta", "rc"].iter().any(|word| rest.contains(word));
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()?, is_early })
    }

    /// Whether `hosts.toml` may list the capability `referrers`.
    pub(super) fn knows_referrers(self) -> bool {
        let Self { major, minor, is_early } = self;
        (major, minor) > (2, 2) || ((major, minor) == (2, 2) && !is_early)
    }
}

/// Versions as distributions print them, and whether they know the capability. The script is tested with the same.
#[cfg(test)]
pub(super) const VERSIONS: &[(&str, bool)] = &[
    ("containerd containerd.io v2.2.0 1c4457e00facac03ce1d75f7b6777a7a851e5c41", true),
    ("containerd github.com/containerd/containerd/v2 2.2.1~ds1-1 ", true),
    ("containerd github.com/containerd/containerd/v2 v2.10.3 abc", true),
    ("containerd github.com/containerd/containerd/v3 v3.0.0-rc.1 abc", true),
    ("containerd github.com/containerd/containerd/v2 v2.2.0-12-gabcdef0 abc", true),
    ("containerd github.com/containerd/containerd/v2 v2.2.0-rc.1 abc", false),
    ("containerd github.com/containerd/containerd/v2 v2.2.0-beta.0 abc", false),
    ("containerd containerd.io v2.1.5 fcd43222d6b07379a4be9786bda52438f0dd16a1", false),
    ("containerd github.com/containerd/containerd 1.7.24~ds1 1.7.24~ds1-6+b4", false),
    ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+b1", false),
    ("containerd github.com/containerd/containerd v1.22.0 abc", false),
    ("containerd: command not found", false),
    ("containerd", false),
    ("", false),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_releases_that_know_referrers_count() {
        for (text, expected) in VERSIONS {
            let version = ContainerdVersion::parse(text);
            assert_eq!(version.is_some_and(ContainerdVersion::knows_referrers), *expected, "{text}: {version:?}");
        }
    }
}
