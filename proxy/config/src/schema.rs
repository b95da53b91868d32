//! The keys that `entrepot.toml` may have, and the error for any other.
//!
//! The tree of [`Kind`]s comes from the types in `raw` (macro `section!`), so there is one list of keys. This pass runs
//! before serde, so serde never has to refuse a text. Messages never quote values: one of them may be a password.

use serde_spanned::Spanned;
use toml::de::{DeTable, DeValue};

use super::provenance::{Given, Place, Refusal};
use super::raw::{HiddenText, Named, Raw};

/// The kind of value that a key holds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Text,
    Number,
    Switch,
    /// A list of texts or numbers, or `[[name]]`: a list of tables.
    List(&'static Kind),
    /// A table with known keys.
    Table(&'static [(&'static str, Kind)]),
    /// A table whose keys the administrator chooses. All its values are of the same kind.
    Named(&'static Kind),
}

/// A type of `raw` that knows its kind.
pub(super) trait Shape {
    const KIND: Kind;
}

/// Refuses the first key that is unknown or holds the wrong kind of value.
pub(super) fn check(table: &Spanned<DeTable<'_>>) -> Result<(), Given<Refusal>> {
    check_table(table.get_ref(), &Raw::KIND, "")
}

/// The sections, in the order of `raw`.
pub(super) fn sections() -> Vec<&'static str> {
    match Raw::KIND {
        Kind::Table(sections) => sections.iter().map(|(name, _)| *name).collect(),
        _ => Vec::new(),
    }
}

/// Every key, with dots. `*` stands for the names that the administrator chooses.
pub(super) fn known_keys() -> Vec<String> {
    let mut keys = Vec::new();
    collect(&Raw::KIND, String::new(), &mut keys);
    keys
}

macro_rules! shapes {
    ($($kind:ident: $($of:ty),+;)*) => {$($(
        impl Shape for $of {
            const KIND: Kind = Kind::$kind;
        }
    )+)*};
}
shapes! {
    Text: Option<Given<String>>, Option<Given<HiddenText>>, Given<HiddenText>;
    Number: Option<Given<i64>>;
    Switch: Option<Given<bool>>;
}

impl Shape for Option<Given<Vec<Given<String>>>> {
    const KIND: Kind = Kind::List(&Kind::Text);
}

impl Shape for Option<Given<Vec<Given<i64>>>> {
    const KIND: Kind = Kind::List(&Kind::Number);
}

impl<T: Shape> Shape for Vec<Given<T>> {
    const KIND: Kind = Kind::List(&T::KIND);
}

impl<T: Shape> Shape for Named<T> {
    const KIND: Kind = Kind::Named(&T::KIND);
}

impl Kind {
    pub(super) fn described(&self) -> &'static str {
        match self {
            Self::Text => "a text in quotes",
            Self::Number => "a whole number",
            Self::Switch => "true or false",
            Self::List(Self::Text) => "a list of texts in quotes",
            Self::List(Self::Number) => "a list of whole numbers",
            Self::List(_) => "a list of tables, each headed by its name in double brackets",
            Self::Table(_) | Self::Named(_) => "a table",
        }
    }
}

fn check_table(table: &DeTable<'_>, kind: &Kind, path: &str) -> Result<(), Given<Refusal>> {
    for (key, value) in table.iter() {
        let name = key.get_ref().as_ref();
        let of_key = match kind {
            Kind::Named(of) => *of,
            Kind::Table(keys) => match keys.iter().find(|(known, _)| *known == name) {
                Some((_, of)) => of,
                None => {
                    let refusal = unknown(name, value.get_ref().is_table(), keys, path);
                    return Err(Given::new(refusal, Place::File(key.span().start)));
                }
            },
            _ => continue,
        };
        let shown = if matches!(kind, Kind::Named(_)) { format!("{name:?}") } else { name.to_owned() };
        check_value(value, of_key, &if path.is_empty() { shown } else { format!("{path}.{shown}") })?;
    }
    Ok(())
}

fn check_value(value: &Spanned<DeValue<'_>>, kind: &Kind, path: &str) -> Result<(), Given<Refusal>> {
    let fits = match (kind, value.get_ref()) {
        (Kind::Table(_) | Kind::Named(_), DeValue::Table(table)) => return check_table(table, kind, path),
        (Kind::List(of), DeValue::Array(list)) => return list.iter().try_for_each(|item| check_value(item, of, path)),
        (Kind::Text, value) => value.is_str(),
        (Kind::Number, value) => value.is_integer(),
        (Kind::Switch, value) => value.is_bool(),
        _ => false,
    };
    let refusal = || Refusal::new(format!("{path} must be {}", kind.described()));
    if fits { Ok(()) } else { Err(Given::new(refusal(), Place::File(value.span().start))) }
}

/// A key that needs more edits than this to become a known key gets no suggestion.
const NEAR_EDITS: usize = 2;

/// Refuses a key. `is_table` tells whether the key was meant as a table.
pub(super) fn unknown(name: &str, is_table: bool, keys: &[(&'static str, Kind)], path: &str) -> Refusal {
    let place = if path.is_empty() { "at the top level".to_owned() } else { format!("in [{path}]") };
    let refusal = Refusal::new(format!("unknown key {name:?} {place}"));
    let nearest = keys.iter().map(|(known, _)| (strsim::damerau_levenshtein(known, name), *known)).min();
    if let Some((edits, known)) = nearest
        && edits <= NEAR_EDITS
    {
        return refusal.hint(format!("did you mean {known:?}?"));
    }
    let elsewhere = known_keys().into_iter().find_map(|key| {
        let (section, last) = key.rsplit_once('.')?;
        (last == name && !is_table).then(|| format!("did you mean {name:?} in [{section}]?"))
    });
    refusal.hint(elsewhere.unwrap_or_else(|| {
        format!("known there: {}", keys.iter().map(|(known, _)| *known).collect::<Vec<_>>().join(", "))
    }))
}

fn collect(kind: &Kind, path: String, keys: &mut Vec<String>) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match kind {
        Kind::Table(table) => table.iter().for_each(|(name, of)| collect(of, below(name), keys)),
        Kind::List(of @ Kind::Table(_)) => collect(of, path, keys),
        Kind::Named(of) => collect(of, below("*"), keys),
        _ => keys.push(path),
    }
}
