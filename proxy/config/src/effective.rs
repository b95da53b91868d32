//! The configuration that is in force, for people: every knob, its value, and where the value came from.
//!
//! Secrets never get here; whoever records one records [`MASK`].

use std::fmt;

use serde_json::json;
use toml::Value;

use super::origin::Origin;

/// Stands for a secret.
pub const MASK: &str = "********";

/// Values longer than this do not push the origins of the others to the right.
const VALUE_COLUMN_MAX: usize = 40;

/// Every knob in the order of the file, one row for each source where sources add up.
#[derive(Clone, Debug, Default)]
pub struct Effective {
    /// The rows.
    pub entries: Vec<Entry>,
}

/// One knob.
#[derive(Clone, PartialEq, Debug)]
pub struct Entry {
    /// Dotted, as TOML would have it.
    pub key: String,
    /// As it is in force, secrets masked.
    pub value: Value,
    /// Where it came from.
    pub origin: Origin,
}

impl Effective {
    /// The value that is in force for `key`.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    /// For programs: a list of `{key, value, origin}`.
    pub fn to_json(&self) -> serde_json::Value {
        let row = |entry: &Entry| json!({"key": entry.key, "value": entry.value, "origin": entry.origin.to_string()});
        self.entries.iter().map(row).collect()
    }

    pub(super) fn record(&mut self, key: impl Into<String>, value: impl Into<Value>, origin: Origin) {
        self.entries.push(Entry { key: key.into(), value: value.into(), origin });
    }
}

impl fmt::Display for Effective {
    /// A table: `key = value  # origin`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.entries.iter().map(|entry| entry.key.len()).max().unwrap_or(0);
        let values: Vec<String> = self.entries.iter().map(|entry| entry.value.to_string()).collect();
        let column = values.iter().map(String::len).filter(|length| *length <= VALUE_COLUMN_MAX).max().unwrap_or(0);
        for (Entry { key, origin, .. }, value) in self.entries.iter().zip(&values) {
            writeln!(formatter, "{key:keys$} = {value:column$}  # {origin}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_aligned() {
        let mut effective = Effective::default();
        effective.record("a", "x", Origin::Default);
        effective.record("long.key", 10, Origin::Environment("KEY"));
        effective.record("b", "y".repeat(60), Origin::Flag("--b"));
        let expected = format!(
            "a        = \"x\"  # default\nlong.key = 10   # environment variable KEY\nb        = \"{}\"  # flag --b\n",
            "y".repeat(60)
        );
        assert_eq!(effective.to_string(), expected);
        assert_eq!(effective.to_json()[1]["value"], 10);
    }
}
