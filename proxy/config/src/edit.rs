//! Changes single keys of `entrepot.toml` and leaves its comments and its layout as they are.
//!
//! Pure: a text goes in and a text comes out. The keys are those of `schema`. The result may still be a bad
//! configuration, so the caller has it [validated](super::validate) before it replaces anything.

use std::str::FromStr;

use toml_edit::{ArrayOfTables, Decor, DocumentMut, Item, Key, Table, TableLike, Value};

use super::raw::Raw;
use super::schema::{Kind, Shape, unknown};

/// The key of a value, as in `cache.max_size`, `registries."reg.example:5000".scheme` or `credentials.1.username`.
///
/// An entry of a list of tables is named by its number in the file, counted from 1, or by its registry:
/// `credentials."ghcr.io"` is the entry for `ghcr.io` as a whole, without a repository.
#[derive(Clone, Debug)]
pub struct KeyPath {
    parts: Vec<Key>,
    pub(super) kind: Kind,
}

/// Why a key cannot be changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EditError {
    /// The text is not a dotted key of TOML.
    #[error("{0:?} is not a key such as cache.max_size")]
    NotAKey(String),
    /// The configuration has no such key.
    #[error("{0}")]
    Unknown(String),
    /// The value is not of the key's kind. The message does not show the value, because it may be a secret.
    #[error("{key} must be {expected}")]
    Kind {
        /// The key as it was typed.
        key: String,
        /// The kind that is expected, in words.
        expected: String,
    },
    /// A section has no value of its own.
    #[error("{0} is a table; name one of its keys")]
    Section(String),
    /// The file has no such entry, or something of another kind at its place.
    #[error("the file has no entry {0}")]
    NoEntry(String),
    #[error("the file is not TOML; entrepot check says where")]
    NotToml,
}

impl KeyPath {
    /// The key as it was typed.
    pub(super) fn shown(&self) -> String {
        joined(&self.parts)
    }

    /// The parts of the key, without quotes.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().map(Key::get)
    }

    /// Sets the value in `text`, the text of a file. A missing section is added at the end.
    ///
    /// `value` is the text itself if the key holds a text, and TOML if not: `64`, `true`, `["a", "b"]`, and
    /// `{ username = "robot" }` for a whole entry of a list of tables.
    pub fn set(&self, text: &str, value: &str) -> Result<String, EditError> {
        let value = self.value(value)?;
        let mut document: DocumentMut = text.parse().map_err(|_| EditError::NotToml)?;
        // Comments after the last section stay in front of a section that is added.
        let comments = document.trailing().as_str().unwrap_or_default().to_owned();
        let sections = document.len();
        self.put(document.as_table_mut(), &self.parts, &Raw::KIND, value)?;
        if document.len() > sections && !comments.trim().is_empty() {
            let separator = if comments.ends_with("\n\n") { "" } else { "\n" };
            let first = self.parts.first().and_then(|part| document.as_table_mut().get_mut(part.get()));
            if let Some(decor) = first.and_then(header) {
                decor.set_prefix(format!("{comments}{separator}"));
                document.set_trailing("");
            }
        }
        Ok(document.to_string())
    }

    fn value(&self, text: &str) -> Result<Value, EditError> {
        let wrong = || EditError::Kind { key: self.shown(), expected: self.kind.described().to_owned() };
        match self.kind {
            Kind::Text => Ok(Value::from(text)),
            Kind::Number => text.trim().parse::<i64>().map(Value::from).map_err(|_| wrong()),
            Kind::Switch => text.trim().parse::<bool>().map(Value::from).map_err(|_| wrong()),
            Kind::List(Kind::Table(_)) | Kind::Named(_) => Err(EditError::Section(self.shown())),
            Kind::List(_) => {
                let value = text.trim().parse::<Value>().ok().filter(Value::is_array);
                value.ok_or_else(|| EditError::Kind {
                    key: self.shown(),
                    expected: format!("{}, as in [\"a\", \"b\"]", self.kind.described()),
                })
            }
            // An entry of a list or of a table that the administrator named. Sections of the file have no value.
            Kind::Table(_) if self.is_section() => Err(EditError::Section(self.shown())),
            Kind::Table(_) => {
                let value = text.trim().parse::<Value>().ok().filter(Value::is_inline_table);
                value.ok_or_else(|| EditError::Kind {
                    key: self.shown(),
                    expected: "a table, as in { username = \"robot\" }".to_owned(),
                })
            }
        }
    }

    /// Whether every part is a key that the schema names.
    fn is_section(&self) -> bool {
        let mut kind = Raw::KIND;
        self.parts.iter().all(|part| match kind {
            Kind::Table(keys) => match keys.iter().find(|(known, _)| *known == part.get()) {
                Some((_, of)) => {
                    kind = *of;
                    true
                }
                None => false,
            },
            _ => false,
        })
    }

    /// Puts the value below `table`, which is of `kind`. `rest` is the remaining part of the key.
    fn put(&self, table: &mut dyn TableLike, rest: &[Key], kind: &Kind, value: Value) -> Result<(), EditError> {
        let Some((part, below)) = rest.split_first() else { return Ok(()) };
        let name = part.get();
        let mut there = None;
        let kind = match kind {
            Kind::Table(keys) => keys.iter().find(|(known, _)| *known == name).map_or(*kind, |(_, of)| *of),
            Kind::Named(of) => {
                // Names of hosts and headers compare without case.
                let mut names = table.iter().map(|(have, _)| have);
                there = names.find(|have| have.eq_ignore_ascii_case(name)).map(str::to_owned);
                **of
            }
            other => *other,
        };
        let name = there.as_deref().unwrap_or(name);
        if below.is_empty() {
            return replace(table, name, value).ok_or_else(|| EditError::NoEntry(self.shown()));
        }
        if let Kind::List(of @ Kind::Table(_)) = kind {
            let entries = table.entry(name).or_insert(Item::ArrayOfTables(ArrayOfTables::new()));
            let entries = entries.as_array_of_tables_mut().ok_or_else(|| EditError::NoEntry(self.shown()))?;
            return self.put_in_list(entries, below, of, value);
        }
        // Only the last table of a path gets a header, as people write it.
        let fresh = Item::Table(if below.len() == 1 { Table::new() } else { implicit() });
        let inner = table.entry(name).or_insert(fresh);
        let inner = inner.as_table_like_mut().ok_or_else(|| EditError::NoEntry(self.shown()))?;
        self.put(inner, below, &kind, value)
    }

    fn put_in_list(
        &self,
        entries: &mut ArrayOfTables,
        rest: &[Key],
        kind: &Kind,
        value: Value,
    ) -> Result<(), EditError> {
        let Some((part, below)) = rest.split_first() else { return Ok(()) };
        let wanted = part.get();
        let text = |table: &Table, key: &str| table.get(key).and_then(Item::as_str).map(str::to_owned);
        let place = match wanted.parse::<usize>() {
            Ok(number) => number.checked_sub(1),
            // Only a list of registries has entries with a name.
            Err(_) if !matches!(kind, Kind::Table(keys) if has(keys, "registry")) => None,
            Err(_) => {
                let is_it = |table: &Table| {
                    text(table, "registry").is_some_and(|registry| registry.eq_ignore_ascii_case(wanted))
                        && text(table, "repository").is_none_or(|repository| repository.is_empty())
                };
                Some(entries.iter().position(is_it).unwrap_or(entries.len()))
            }
        };
        let place = place.filter(|place| *place <= entries.len()).ok_or_else(|| EditError::NoEntry(self.shown()))?;
        if place == entries.len() {
            entries.push(Table::new());
        }
        let entry = entries.get_mut(place).ok_or_else(|| EditError::NoEntry(self.shown()))?;
        let is_new = !entry.contains_key("registry");
        if is_new && wanted.parse::<usize>().is_err() {
            entry["registry"] = Item::Value(Value::from(wanted));
        }
        if !below.is_empty() {
            return self.put(entry, below, kind, value);
        }
        // This replaces the whole entry. The comments above it stay.
        let Value::InlineTable(fields) = value else { return Err(EditError::Section(self.shown())) };
        entry.retain(|key, _| key == "registry" && wanted.parse::<usize>().is_err());
        for (key, field) in fields {
            replace(entry, &key, field).ok_or_else(|| EditError::NoEntry(self.shown()))?;
        }
        Ok(())
    }
}

impl FromStr for KeyPath {
    type Err = EditError;

    fn from_str(text: &str) -> Result<Self, EditError> {
        let parts = Key::parse(text).map_err(|_| EditError::NotAKey(text.to_owned()))?;
        let mut kind = Raw::KIND;
        for (at, part) in parts.iter().enumerate() {
            let name = part.get();
            kind = match kind {
                Kind::Table(keys) => match keys.iter().find(|(known, _)| *known == name) {
                    Some((_, of)) => *of,
                    None => {
                        let is_last = at + 1 == parts.len();
                        let refusal = unknown(name, !is_last, keys, &joined(&parts[..at]));
                        let hint = refusal.hint.map(|hint| format!("; {hint}")).unwrap_or_default();
                        return Err(EditError::Unknown(format!("{}{hint}", refusal.message)));
                    }
                },
                Kind::Named(of) | Kind::List(of @ Kind::Table(_)) => *of,
                _ => return Err(EditError::Unknown(format!("{} has no keys below it", joined(&parts[..at])))),
            };
        }
        Ok(Self { parts, kind })
    }
}

/// Sets a value in a table. The comment after a value that is replaced stays. None if the name belongs to a table.
fn replace(table: &mut dyn TableLike, name: &str, mut value: Value) -> Option<()> {
    match table.get_mut(name) {
        Some(Item::Value(old)) => {
            *value.decor_mut() = old.decor().clone();
            *old = value;
        }
        None | Some(Item::None) => {
            value.decor_mut().clear();
            table.insert(name, Item::Value(value));
        }
        Some(Item::Table(_) | Item::ArrayOfTables(_)) => return None,
    }
    Some(())
}

fn has(keys: &[(&str, Kind)], name: &str) -> bool {
    keys.iter().any(|(known, _)| *known == name)
}

/// A table without a header of its own.
fn implicit() -> Table {
    let mut table = Table::new();
    table.set_implicit(true);
    table
}

/// The comments and blank lines around the first header of a section.
fn header(section: &mut Item) -> Option<&mut Decor> {
    match section {
        Item::Table(table) => match table.is_implicit() {
            true => table.iter_mut().next().and_then(|(_, inner)| header(inner)),
            false => Some(table.decor_mut()),
        },
        Item::ArrayOfTables(tables) => tables.get_mut(0).map(Table::decor_mut),
        Item::Value(_) | Item::None => None,
    }
}

fn joined(parts: &[Key]) -> String {
    parts.iter().map(Key::display_repr).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str, key: &str, value: &str) -> Result<String, EditError> {
        key.parse::<KeyPath>()?.set(text, value)
    }

    #[test]
    fn a_value_changes_and_nothing_else() {
        for (before, after) in [
            ("", "[cache]\nmax_size = \"2g\"\n"),
            ("# mine\n", "# mine\n\n[cache]\nmax_size = \"2g\"\n"),
            ("[cache]\n\nmax_size = \"1\"\n\n[x]\n", "[cache]\n\nmax_size = \"2g\"\n\n[x]\n"),
            (
                "[cache] # big\nmax_size = \"1\"  # enough\nmin_free=\"2g\"\n",
                "[cache] # big\nmax_size = \"2g\"  # enough\nmin_free=\"2g\"\n",
            ),
            (
                "[cache]\na = 1\n\n# b\n\nmax_size = [\n\n  1,\n]\nb = 1\n",
                "[cache]\na = 1\n\n# b\n\nmax_size = \"2g\"\nb = 1\n",
            ),
            ("[cache]\na = 1\n\nb = 1\n\n\n# x\n[x]\n", "[cache]\na = 1\n\nb = 1\nmax_size = \"2g\"\n\n\n# x\n[x]\n"),
            ("[cache]\n\n", "[cache]\nmax_size = \"2g\"\n\n"),
            ("[x]\n\nb = 1\n# last\n", "[x]\n\nb = 1\n# last\n\n[cache]\nmax_size = \"2g\"\n"),
            ("cache.min_free = \"1g\"\n", "cache.min_free = \"1g\"\ncache.max_size = \"2g\"\n"),
            ("cache = { max_size = \"1g\" }\n", "cache = { max_size = \"2g\" }\n"),
        ] {
            assert_eq!(set(before, "cache.max_size", "2g").as_deref(), Ok(after), "{before}");
        }
    }

    #[test]
    fn each_kind_has_its_own_values() {
        for (key, value, line) in [
            ("data_dir", "/srv/a \"b\"", "data_dir = '/srv/a \"b\"'\n"),
            ("proxy.max_connections", "64", "[proxy]\nmax_connections = 64\n"),
            ("proxy.allow_push", "true", "[proxy]\nallow_push = true\n"),
            ("proxy.allow", r#"["*.a", "b"]"#, "[proxy]\nallow = [\"*.a\", \"b\"]\n"),
            ("proxy.tunnel_ports", "[443, 8443]", "[proxy]\ntunnel_ports = [443, 8443]\n"),
            ("cache.tags.mode", "ttl", "[cache.tags]\nmode = \"ttl\"\n"),
            ("registries.\"a:5000\".scheme", "http", "[registries.\"a:5000\"]\nscheme = \"http\"\n"),
            ("registry.quotas.1.max_size", "1g", "[[registry.quotas]]\nmax_size = \"1g\"\n"),
        ] {
            assert_eq!(set("", key, value).as_deref(), Ok(line), "{key}");
        }
        for (key, value, named) in [
            ("proxy.max_connections", "many", "proxy.max_connections must be a whole number"),
            ("proxy.allow_push", "yes", "proxy.allow_push must be true or false"),
            ("proxy.allow", "a", "proxy.allow must be a list of texts in quotes, as in [\"a\", \"b\"]"),
            ("credentials.\"a\"", "canary", "credentials.\"a\" must be a table, as in { username = \"robot\" }"),
            ("cache", "1", "cache is a table; name one of its keys"),
            ("cache.tags", "{ mode = \"ttl\" }", "cache.tags is a table"),
            ("credentials", "[]", "credentials is a table"),
            ("credentials.2.username", "a", "the file has no entry credentials.2.username"),
            ("credentials.0.username", "a", "the file has no entry"),
            ("registry.quotas.team.max_size", "1g", "the file has no entry registry.quotas.team.max_size"),
        ] {
            let error = set("", key, value).expect_err(key).to_string();
            assert!(error.contains(named) && !error.contains("canary"), "{key}: {error}");
        }
        assert_eq!(set("a = ", "data_dir", "/x"), Err(EditError::NotToml));
        assert_eq!(
            set("[registry]\nquotas = 1\n", "registry.quotas.1.max_size", "1g"),
            Err(EditError::NoEntry("registry.quotas.1.max_size".to_owned()))
        );
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_one() {
        for (key, told) in [
            ("cache.max_sise", "unknown key \"max_sise\" in [cache]; did you mean \"max_size\"?"),
            ("max_size", "unknown key \"max_size\" at the top level; did you mean \"max_size\" in [cache]?"),
            ("cahce.max_size", "unknown key \"cahce\" at the top level; did you mean \"cache\"?"),
            ("credentials.1.user", "unknown key \"user\" in [credentials.1]; known there: registry"),
            ("cache.max_size.x", "cache.max_size has no keys below it"),
            ("cache..x", "is not a key such as cache.max_size"),
        ] {
            let error = key.parse::<KeyPath>().expect_err(key).to_string();
            assert!(error.contains(told), "{key}: {error}");
        }
    }

    #[test]
    fn hosts_and_headers_are_found_in_any_case() {
        let text = "[registries.\"Reg:1\".headers]\nX-Key = \"a\"\n";
        let changed = set(text, "registries.\"reg:1\".headers.x-key", "b");
        assert_eq!(changed, Ok(text.replace("\"a\"", "\"b\"")));
    }

    #[test]
    fn an_account_is_found_by_its_registry() {
        let new = r#"{ username = "b", password_file = "/b" }"#;
        let one = "[[credentials]]\nregistry = \"ghcr.io\"\nusername = \"b\"\npassword_file = \"/b\"\n";
        let key = "credentials.\"ghcr.io\"";
        assert_eq!(set("", key, new).as_deref(), Ok(one));
        let part = "[[credentials]]\nregistry = \"ghcr.io\"\nrepository = \"team/*\"\nusername = \"a\"\n";
        assert_eq!(set(part, key, new), Ok(format!("{part}\n{one}")), "the account of a part is another one");
        let old = format!("{part}\n# all\n[[credentials]]\nregistry = \"ghcr.io\"\npassword = \"canary\"\n\n[x]\n");
        assert_eq!(set(&old, key, new), Ok(format!("{part}\n# all\n{one}\n[x]\n")), "replaced as a whole");
        assert_eq!(set(one, "credentials.1.username", "c"), Ok(one.replace("\"b\"", "\"c\"")));
        assert_eq!(set(one, "credentials.\"ghcr.io\".username", "c"), Ok(one.replace("\"b\"", "\"c\"")));
        let spelled = one.replace("ghcr.io\"\n", "GHCR.io\"\nrepository = \"\"\n");
        assert_eq!(set(&spelled, "credentials.\"ghcr.io\".username", "c"), Ok(spelled.replace("\"b\"", "\"c\"")));
    }
}
