//! The value of `AUTH_REGISTRIES`: `host:user:password` entries. The administrator chooses both delimiters.
//!
//! An entry has at most three fields, so a password keeps whatever follows, and the host may name a repository prefix
//! (`ghcr.io/team`). A message shows only the host and the user of an entry: with a wrong delimiter any other part may
//! be a password.

use entrepot_core::host::HostPattern;
use entrepot_core::name::RepositoryName;

use super::provenance::{Given, Place, Refusal};
use super::raw::{HiddenText, RawAccount};
use entrepot_core::secret::Secret;

/// The accounts, longest prefix first, and the notices about them.
pub(super) fn parse(
    entries: &Secret,
    between_entries: &str,
    between_fields: &str,
    variable: &'static str,
) -> Result<(Vec<Given<RawAccount>>, Vec<String>), Refusal> {
    let text = entries.expose();
    // docker-registry-proxy splits at single spaces; YAML folds lines into more.
    let parts: Vec<&str> = match between_entries {
        " " => text.split_whitespace().collect(),
        delimiter => text.split(delimiter).map(str::trim).filter(|part| !part.is_empty()).collect(),
    };
    let (mut accounts, mut notices) = (Vec::new(), Vec::new());
    for (index, part) in parts.into_iter().enumerate() {
        let entry = entry(part, between_fields, index + 1)?;
        if between_fields == ":" && entry.user.bytes().all(|byte| byte.is_ascii_digit()) {
            notices.push(format!(
                "{variable}: {:?} is taken as the user of {:?}; for a port, set AUTH_REGISTRY_DELIMITER=:::",
                entry.user, entry.host
            ));
        }
        if between_entries == " " && has_another_entry(entry.password, between_fields) {
            let host = entry.host;
            notices.push(format!(
                "{variable}: the password for {host:?} seems to have another entry in it; spaces separate the entries"
            ));
        }
        accounts.push(entry);
    }
    accounts.sort_by_key(|entry| std::cmp::Reverse(entry.prefix.map_or(0, str::len)));
    Ok((accounts.iter().map(|entry| account(entry, variable)).collect(), notices))
}

struct Entry<'a> {
    host: &'a str,
    prefix: Option<&'a str>,
    user: &'a str,
    password: &'a str,
}

fn entry<'a>(part: &'a str, between_fields: &str, number: usize) -> Result<Entry<'a>, Refusal> {
    let mut fields = part.splitn(3, between_fields);
    let (Some(place), Some(user), Some(password)) = (fields.next(), fields.next(), fields.next()) else {
        return Err(shape(number, between_fields));
    };
    if user.is_empty() || password.is_empty() {
        return Err(shape(number, between_fields));
    }
    let (host, prefix) = place.split_once('/').map_or((place, None), |(host, prefix)| (host, Some(prefix)));
    let usable =
        host.parse::<HostPattern>().is_ok() && prefix.is_none_or(|prefix| prefix.parse::<RepositoryName>().is_ok());
    if !usable {
        return Err(Refusal::new(format!("entry {number} does not begin with a usable registry"))
            .hint("write host, host:port or host/repository-prefix, without scheme"));
    }
    Ok(Entry { host, prefix, user, password })
}

/// Whether a password looks as if it went on with `,host:user:password`. Passwords may have commas, so it is taken.
fn has_another_entry(password: &str, between_fields: &str) -> bool {
    password.split([',', ';', '|']).skip(1).any(|part| {
        let host = part.trim_start().split(between_fields).next().unwrap_or_default();
        host.contains('.') && entry(part.trim_start(), between_fields, 1).is_ok()
    })
}

fn shape(number: usize, between_fields: &str) -> Refusal {
    Refusal::new(format!("entry {number} is not of the form host{between_fields}user{between_fields}password"))
        .hint("the delimiters are AUTH_REGISTRIES_DELIMITER and AUTH_REGISTRY_DELIMITER")
}

fn account(entry: &Entry<'_>, variable: &'static str) -> Given<RawAccount> {
    let place = Place::Environment(variable);
    let given = |text: &str| Some(Given::new(text.to_owned(), place));
    let raw = RawAccount {
        registry: given(entry.host),
        repository: entry.prefix.and_then(|prefix| given(&format!("{{{prefix},{prefix}/**}}"))),
        username: given(entry.user),
        password: Some(Given::new(HiddenText(Secret::new(entry.password)), place)),
        password_file: None,
        push: None,
    };
    Given::new(raw, place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, between_entries: &str, between_fields: &str) -> Result<Vec<[String; 4]>, String> {
        let (accounts, _) = parse(&Secret::new(text), between_entries, between_fields, "AUTH_REGISTRIES")
            .map_err(|refusal| refusal.message)?;
        let field = |text: Option<Given<String>>| text.map(|text| text.value).unwrap_or_default();
        let row = |account: Given<RawAccount>| {
            let RawAccount { registry, repository, username, password, .. } = account.value;
            let password = password.map(|password| password.value.0.expose().to_owned()).unwrap_or_default();
            [field(registry), field(repository), field(username), password]
        };
        Ok(accounts.into_iter().map(row).collect())
    }

    #[test]
    fn entries_and_fields() {
        let json = r#"{"type": "service_account", "key": "a:b"}"#;
        for (text, between_entries, between_fields, expected) in [
            ("auth.docker.io:me:pw", " ", ":", vec![["auth.docker.io", "", "me", "pw"]]),
            ("a.io:u:p  b.io:v:q\n", " ", ":", vec![["a.io", "", "u", "p"], ["b.io", "", "v", "q"]]),
            ("a.io:u:p:with:colons", " ", ":", vec![["a.io", "", "u", "p:with:colons"]]),
            ("host:5000:::user:::pass", " ", ":::", vec![["host:5000", "", "user", "pass"]]),
            ("a.io::u::p::x;;;b.io::v::q", ";;;", "::", vec![["a.io", "", "u", "p::x"], ["b.io", "", "v", "q"]]),
            (
                &format!("gcr.io:::_json_key:::{json};;;quay.io:::u:::p"),
                ";;;",
                ":::",
                vec![["gcr.io", "", "_json_key", json], ["quay.io", "", "u", "p"]],
            ),
            (
                "ghcr.io:u:p ghcr.io/team:v:q ghcr.io/team/sub:w:r",
                " ",
                ":",
                vec![
                    ["ghcr.io", "{team/sub,team/sub/**}", "w", "r"],
                    ["ghcr.io", "{team,team/**}", "v", "q"],
                    ["ghcr.io", "", "u", "p"],
                ],
            ),
        ] {
            assert_eq!(
                shown(text, between_entries, between_fields),
                Ok(expected.into_iter().map(|row| row.map(str::to_owned)).collect()),
                "{text}"
            );
        }
    }

    #[test]
    fn malformed_entries_are_named_by_number_only() {
        for (text, fields, expected) in [
            ("a.io:u:p canary", ":", "entry 2 is not of the form host:user:password"),
            ("a.io:::canary", ":::", "entry 1 is not of the form host:::user:::password"),
            ("a.io::canary", ":", "entry 1 is not of the form host:user:password"),
            ("can@ry:u:p", ":", "entry 1 does not begin with a usable registry"),
            ("a.io/Team:u:p", ":", "entry 1 does not begin with a usable registry"),
        ] {
            assert_eq!(shown(text, " ", fields), Err(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn a_port_behind_a_colon_is_pointed_out() {
        let parsed = parse(&Secret::new("reg:5000:user:canary"), " ", ":", "AUTH_REGISTRIES");
        let (_, notices) = parsed.unwrap_or_else(|refusal| panic!("{refusal:?}"));
        assert_eq!(
            notices,
            ["AUTH_REGISTRIES: \"5000\" is taken as the user of \"reg\"; for a port, set AUTH_REGISTRY_DELIMITER=:::"]
        );
    }
}
