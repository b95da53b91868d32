//! The configuration for people: every setting, its value, the origin of the value, and when a change takes effect.
//!
//! A server has two of these: the values in force, and the values in its file. [`pair`] puts the rows of the two side
//! by side. Secrets never get here: [`MASK`] is recorded in their place.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::LazyLock;

use serde_json::json;
use toml::Value;

use super::provenance::{ConfigError, Provenance};

/// Stands for a secret.
pub const MASK: &str = "********";

/// Values longer than this do not push the origins of the others to the right.
const VALUE_COLUMN_MAX: usize = 40;

/// Every setting in the order of the file. A list that several sources add to has one row for each source.
#[derive(Clone, Debug, Default)]
pub struct Effective {
    pub entries: Vec<Entry>,
}

/// One setting.
#[derive(Clone, PartialEq, Debug)]
pub struct Entry {
    /// The key as in TOML, with dots.
    pub key: String,
    /// Secrets are masked.
    pub value: Value,
    pub origin: Provenance,
    pub applies: Applies,
    /// The content of the file that the value names. None if it is not compared.
    pub(super) content: Option<Content>,
}

/// Tells whether the content of a file, which may be a secret, is the same as before. It holds for one process only,
/// and reveals nothing about the content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Content(u64);

/// When a changed value takes effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Applies {
    /// When the server reloads its configuration.
    AtReload,
    /// When the server starts again.
    AtStart,
    /// When the agent `entrepot redirect` starts again. The server does not use the value.
    AtAgentStart,
}

/// One setting as a running server reports it in `/api/config`.
#[derive(Clone, PartialEq, Debug, serde::Deserialize)]
pub struct Told {
    /// As in [`Entry::key`].
    pub key: String,
    /// The value in force. None if only the server's file has the setting.
    pub value: Option<Value>,
    /// The origin of the value in force.
    pub origin: Option<String>,
    /// Whether the file that the value names has other content now than the content in force.
    #[serde(default)]
    pub content_changed: bool,
}

/// The answer of a running server in `/api/config`, as [`Effective::told`] makes it.
#[derive(Clone, PartialEq, Debug, Default, serde::Deserialize)]
pub struct ToldConfig {
    pub effective: Vec<Told>,
    /// The error of the server's file and environment as they are now. None if a reload would take them over.
    pub file_error: Option<String>,
}

/// A row, for [`pair`].
pub trait Row {
    /// The key as in TOML, with dots.
    fn key(&self) -> &str;
    /// The value. None if the row has none.
    fn value(&self) -> Option<&Value>;
}

/// The rows of two lists side by side. Rows with the same key belong together: first those with the same value, then
/// the others in their order. Rows that only `right` has come last.
pub fn pair<'a, L: Row, R: Row>(left: &'a [L], right: &'a [R]) -> Vec<(Option<&'a L>, Option<&'a R>)> {
    let mut waiting: HashMap<&str, VecDeque<usize>> = HashMap::new();
    for (at, row) in right.iter().enumerate() {
        waiting.entry(row.key()).or_default().push_back(at);
    }
    let mut pairs: Vec<_> = left.iter().map(|row| (Some(row), None)).collect();
    for same_value in [true, false] {
        for (row, (_, partner)) in left.iter().zip(&mut pairs).filter(|(_, (_, partner))| partner.is_none()) {
            let Some(of_key) = waiting.get_mut(row.key()) else { continue };
            let found = of_key.iter().position(|at| !same_value || right[*at].value() == row.value());
            *partner = found.and_then(|found| of_key.remove(found)).map(|at| &right[at]);
        }
    }
    let mut alone: Vec<usize> = waiting.into_values().flatten().collect();
    alone.sort_unstable();
    pairs.extend(alone.into_iter().map(|at| (None, Some(&right[at]))));
    pairs
}

impl Effective {
    /// The value of `key`. None if there is no such setting.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    /// Shows that other programs have default addresses of `key`, and that only those in `open` are in force. A key of
    /// one address is then `none`.
    pub fn default_is_taken(&mut self, key: &str, open: &[String]) {
        for entry in self.entries.iter_mut().filter(|entry| entry.key == key) {
            entry.value = if entry.value.is_array() { open.to_vec().into() } else { "none".into() };
            entry.origin = Provenance::TakenDefault;
        }
    }

    /// The values in force after a reload, for a server that had `self` in force and read `read`.
    pub fn after_reload(&self, read: Self) -> Self {
        let at_start = |entry: &&Entry| entry.applies == Applies::AtStart;
        let kept = |mut read: Entry| {
            let Some(kept) = self.entries.iter().filter(at_start).find(|entry| entry.key == read.key) else {
                return read;
            };
            if kept.value != read.value || kept.has_other_content(&read) {
                return kept.clone();
            }
            read.content = kept.content.or(read.content);
            read
        };
        Self { entries: read.entries.into_iter().map(kept).collect() }
    }

    /// The rows of `self`, which is in force, that have another value or other content in `read` and wait for a start
    /// of the server. Each comes with its row of `read`.
    pub fn waiting_for_a_start<'a>(&'a self, read: &'a Self) -> Vec<(&'a Entry, &'a Entry)> {
        let pairs = pair(&self.entries, &read.entries).into_iter().filter_map(|(old, new)| old.zip(new));
        // A default whose port was in use at the start differs, although nobody changed it.
        let is_unchanged =
            |(old, new): &(&Entry, &Entry)| old.origin == Provenance::TakenDefault && new.origin == Provenance::Default;
        let waits = |(old, new): &(&Entry, &Entry)| {
            old.applies == Applies::AtStart && (old.value != new.value || old.has_other_content(new))
        };
        pairs.filter(|pair| waits(pair) && !is_unchanged(pair)).collect()
    }

    /// For programs: a list of `{key, value, origin, applies}`.
    pub fn to_json(&self) -> serde_json::Value {
        self.entries.iter().map(Entry::to_json).collect()
    }

    /// The answer of a server that has `self` in force, and reads `file` or an error now. The values in force are told
    /// in any case.
    pub fn told(&self, file: Result<&Self, &ConfigError>) -> serde_json::Value {
        match file {
            Ok(file) => json!({"effective": self.to_json_beside(file), "file_error": null}),
            Err(error) => json!({"effective": self.to_json(), "file_error": error.to_string()}),
        }
    }

    /// As [`Self::to_json`], for a server that has `self` in force. A row has `file_value` and `file_origin` if the
    /// file says something else. `value` is null if only the file has the setting. `file_value` is null if only the
    /// server has it. `content_changed` is true if the value is the path of a file whose content is read at the start
    /// and changed since.
    pub fn to_json_beside(&self, file: &Self) -> serde_json::Value {
        let row = |(in_force, in_file): (Option<&Entry>, Option<&Entry>)| {
            let mut row = match (in_force, in_file) {
                (Some(entry), _) => entry.to_json(),
                (None, Some(entry)) => json!({"key": entry.key, "value": null, "applies": entry.applies.word()}),
                (None, None) => json!({}),
            };
            if in_force.map(|entry| &entry.value) != in_file.map(|entry| &entry.value) {
                row["file_value"] = json!(in_file.map(|entry| &entry.value));
                row["file_origin"] = json!(in_file.map(|entry| entry.origin.to_string()));
            } else if in_force.zip(in_file).is_some_and(|(in_force, in_file)| in_force.has_other_content(in_file)) {
                row["content_changed"] = json!(true);
            }
            row
        };
        pair(&self.entries, &file.entries).into_iter().map(row).collect()
    }

    /// For people: a line `key = value  # origin` for each row, with a word on when it takes effect, and the text of
    /// `remark`.
    pub fn table(&self, remark: impl Fn(usize) -> Option<String>) -> String {
        let keys = self.entries.iter().map(|entry| entry.key.len()).max().unwrap_or(0);
        let values: Vec<String> = self.entries.iter().map(|entry| entry.value.to_string()).collect();
        let column = values.iter().map(String::len).filter(|length| *length <= VALUE_COLUMN_MAX).max().unwrap_or(0);
        let mut table = String::new();
        for (at, (Entry { key, origin, applies, .. }, value)) in self.entries.iter().zip(&values).enumerate() {
            let read = match applies {
                Applies::AtReload => "",
                Applies::AtStart => "; read at start",
                Applies::AtAgentStart => "; read by entrepot redirect",
            };
            let remark = remark(at).map(|remark| format!("; {remark}")).unwrap_or_default();
            table.push_str(&format!("{key:keys$} = {value:column$}  # {origin}{read}{remark}\n"));
        }
        table
    }

    pub(super) fn record(
        &mut self,
        key: impl Into<String>,
        value: impl Into<Value>,
        origin: Provenance,
        applies: Applies,
    ) {
        self.entries.push(Entry { key: key.into(), value: value.into(), origin, applies, content: None });
    }

    /// Records the content of the file that the value of `key` names.
    pub(super) fn record_content(&mut self, key: &str, content: &[u8]) {
        if let Some(entry) = self.entries.iter_mut().rfind(|entry| entry.key == key) {
            entry.content = Some(Content::of(content));
        }
    }

    /// Orders the rows by `sections`, the first parts of their keys.
    pub(super) fn sort(&mut self, sections: &[&str]) {
        let section = |entry: &Entry| {
            let first = entry.key.split('.').next().unwrap_or_default();
            sections.iter().position(|section| *section == first)
        };
        self.entries.sort_by_key(section);
    }
}

impl Entry {
    /// For programs: `{key, value, origin, applies}`.
    pub fn to_json(&self) -> serde_json::Value {
        let (origin, applies) = (self.origin.to_string(), self.applies.word());
        json!({"key": self.key, "value": self.value, "origin": origin, "applies": applies})
    }

    /// Whether the file has other content in `read`. A file that was missing on one side does not count: the server may
    /// have made it since.
    fn has_other_content(&self, read: &Self) -> bool {
        self.content.zip(read.content).is_some_and(|(in_force, read)| in_force != read)
    }
}

impl Content {
    fn of(bytes: &[u8]) -> Self {
        static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        Self(KEYS.hash_one(bytes))
    }
}

impl Applies {
    /// The word in JSON for the moment when a change takes effect.
    pub fn word(self) -> &'static str {
        match self {
            Self::AtReload => "reload",
            Self::AtStart => "start",
            Self::AtAgentStart => "redirect",
        }
    }
}

impl Row for Entry {
    fn key(&self) -> &str {
        &self.key
    }

    fn value(&self) -> Option<&Value> {
        Some(&self.value)
    }
}

impl Row for Told {
    fn key(&self) -> &str {
        &self.key
    }

    fn value(&self) -> Option<&Value> {
        self.value.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effective(rows: &[(&str, &str, Applies)]) -> Effective {
        let mut effective = Effective::default();
        for (key, value, applies) in rows {
            effective.record(*key, *value, Provenance::Default, *applies);
        }
        effective
    }

    #[test]
    fn the_table_is_aligned() {
        let mut effective = Effective::default();
        effective.record("a", "x", Provenance::Default, Applies::AtReload);
        effective.record("long.key", 10, Provenance::Environment("KEY"), Applies::AtStart);
        effective.record("b", "y".repeat(60), Provenance::Flag("--b"), Applies::AtAgentStart);
        let expected = format!(
            "a        = \"x\"  # default\nlong.key = 10   # environment variable KEY; read at start; told\n\
             b        = \"{}\"  # flag --b; read by entrepot redirect\n",
            "y".repeat(60)
        );
        assert_eq!(effective.table(|at| (at == 1).then(|| "told".to_owned())), expected);
        assert_eq!(effective.to_json()[1]["value"], 10);
    }

    #[test]
    fn rows_of_one_key_belong_together_in_their_order() {
        /// Each row is a letter for its key, and the rest for its value.
        fn paired(left: &[&str], right: &[&str]) -> Vec<String> {
            let rows = |rows: &[&str]| {
                let rows = rows.iter().map(|row| row.split_at(1));
                effective(&rows.map(|(key, value)| (key, value, Applies::AtReload)).collect::<Vec<_>>()).entries
            };
            let shown = |row: Option<&Entry>| {
                row.map_or("-".to_owned(), |row| row.key.clone() + row.value.as_str().unwrap_or_default())
            };
            let (left, right) = (rows(left), rows(right));
            pair(&left, &right).into_iter().map(|(left, right)| shown(left) + &shown(right)).collect()
        }
        let pairs = paired(&["a0", "b1", "b2", "d3"], &["b0", "c1", "a2", "b3", "b4"]);
        assert_eq!(pairs, ["a0a2", "b1b0", "b2b3", "d3-", "-c1", "-b4"]);
        // A row that went shifts those behind it. Rows with the same value still belong together.
        assert_eq!(paired(&["i0", "ia", "ib"], &["i0", "ib"]), ["i0i0", "ia-", "ibib"]);
        assert_eq!(paired(&["i0", "ib"], &["i0", "ia", "ib"]), ["i0i0", "ibib", "-ia"]);
    }

    #[test]
    fn a_reload_swaps_all_but_what_is_read_at_start() {
        let before = effective(&[("bound", "1", Applies::AtStart), ("swapped", "1", Applies::AtReload)]);
        let read = effective(&[
            ("bound", "2", Applies::AtStart),
            ("swapped", "2", Applies::AtReload),
            ("new", "2", Applies::AtReload),
        ]);
        let waiting = before.waiting_for_a_start(&read);
        assert_eq!(waiting.iter().map(|(old, _)| old.key.as_str()).collect::<Vec<_>>(), ["bound"]);
        let in_force = before.after_reload(read.clone());
        let values: Vec<_> = in_force.entries.iter().map(|entry| entry.value.as_str().unwrap_or_default()).collect();
        assert_eq!(values, ["1", "2", "2"]);
        let told = in_force.to_json_beside(&read);
        let bound = json!({"key": "bound", "value": "1", "origin": "default", "applies": "start", "file_value": "2",
            "file_origin": "default"});
        assert_eq!(told[0], bound);
        assert_eq!(told[1], json!({"key": "swapped", "value": "2", "origin": "default", "applies": "reload"}));
    }

    #[test]
    fn a_bad_file_is_told_beside_the_values_in_force() {
        let in_force = effective(&[("a", "1", Applies::AtReload)]);
        let bad = ConfigError { origin: Provenance::Environment("A"), message: "no".to_owned(), hint: None };
        let told = in_force.told(Err(&bad));
        let row = json!({"key": "a", "value": "1", "origin": "default", "applies": "reload"});
        assert_eq!(told, json!({"effective": [row], "file_error": "environment variable A: no"}));
        let read: ToldConfig = serde_json::from_value(told).expect("as a program reads it");
        assert_eq!((read.effective.len(), read.file_error.as_deref()), (1, Some("environment variable A: no")));
        let good = in_force.told(Ok(&effective(&[("a", "2", Applies::AtReload)])));
        assert_eq!((&good["effective"][0]["file_value"], &good["file_error"]), (&json!("2"), &json!(null)));
    }

    #[test]
    fn a_row_that_only_one_side_has_is_told_as_null() {
        let in_force = effective(&[("gone", "1", Applies::AtReload)]);
        let told = in_force.to_json_beside(&effective(&[("new", "2", Applies::AtReload)]));
        assert_eq!((&told[0]["value"], &told[0]["file_value"]), (&json!("1"), &json!(null)));
        assert!(told[0].as_object().is_some_and(|row| row.contains_key("file_value")));
        assert_eq!((&told[1]["value"], &told[1]["file_value"]), (&json!(null), &json!("2")));
        let rows: Vec<Told> = serde_json::from_value(told).expect("as a program reads it");
        assert_eq!((rows[0].value.clone(), rows[1].value.clone()), (Some(Value::from("1")), None));
    }
}
