//! The sample configuration is right: it has every setting, with its built-in default.

use std::collections::BTreeSet;

use toml::Value;

use super::super::schema::known_keys;
use super::{Case, Entry, Loaded};

const SAMPLE: &str = include_str!("../../../../provision/entrepot.toml");

/// Lines of settings are `#key = …`; lines of examples are `#   …`; all other comments are prose.
fn uncommented(with_examples: bool) -> String {
    let line = |line: &'static str| match line.strip_prefix('#') {
        Some(knob) if knob.starts_with(|first: char| first.is_ascii_lowercase()) => knob,
        Some(example) if with_examples && example.starts_with("   ") => example,
        _ => line,
    };
    SAMPLE.lines().map(line).collect::<Vec<_>>().join("\n")
}

fn values(loaded: &Loaded) -> Vec<(&str, String)> {
    loaded.effective.entries.iter().map(|Entry { key, value, .. }| (key.as_str(), value.to_string())).collect()
}

#[test]
fn its_knobs_have_the_built_in_defaults() {
    let (sample, defaults) = (Case::new(&uncommented(false)).loaded(), Case::without_file().loaded());
    assert_eq!(values(&sample), values(&defaults));
    assert_eq!(values(&Case::new(SAMPLE).loaded()), values(&defaults), "as it is shipped");
    assert!(sample.notices.is_empty());
}

#[test]
fn its_examples_are_usable() {
    let config = Case::new(&uncommented(true)).loaded().config;
    assert_eq!((config.live.credentials.len(), config.live.registries.len()), (1, 1));
    let registry = config.live.registry;
    assert_eq!((registry.rights.rules.len(), registry.rights.quotas.len(), registry.notifications.len()), (1, 1, 1));
}

#[test]
fn every_known_key_is_in_it() {
    let table: toml::Table = toml::from_str(&uncommented(true)).expect("TOML");
    let mut found = BTreeSet::new();
    collect(&Value::Table(table), String::new(), &mut found);
    assert_eq!(found, known_keys().into_iter().collect());
}

fn collect(value: &Value, path: String, keys: &mut BTreeSet<String>) {
    let chosen_by_user = path == "registries" || path.ends_with(".headers");
    match value {
        Value::Table(table) => {
            for (name, value) in table {
                let name = if chosen_by_user { "*" } else { name };
                collect(value, if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }, keys);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_table) => {
            items.iter().for_each(|item| collect(item, path.clone(), keys));
        }
        _ => drop(keys.insert(path)),
    }
}
