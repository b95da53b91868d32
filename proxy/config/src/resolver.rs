//! The tool that turns typed values into ready ones: one method a kind of knob. Each takes the typed value or the
//! default, parses it, and records what came of it, so that no knob can be read without being shown.
//!
//! Defaults are written in the administrator's syntax and go through the same parsers.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use toml::Value;

use super::effective::Effective;
use super::origin::{ConfigError, Given, Origin, Place, Refusal, Source};
use super::raw::{Number, Numbers, Switch, Text, Texts};

/// Carries the file's name and what was recorded through the sections.
pub(super) struct Resolver {
    source: Source,
    pub(super) effective: Effective,
    pub(super) notices: Vec<String>,
}

impl Resolver {
    pub(super) fn new(source: Source, notices: Vec<String>) -> Self {
        Self { source, effective: Effective::default(), notices }
    }

    /// Text with a meaning.
    pub(super) fn text<T>(
        &mut self,
        key: &str,
        given: Text,
        default: &str,
        parse: impl Fn(&str) -> Result<T, Refusal>,
    ) -> Result<T, ConfigError> {
        let (text, origin) = self.or_default(given, || default.to_owned());
        let value = parse(&text).map_err(|refusal| named(key, refusal, &origin))?;
        self.effective.record(key, text, origin);
        Ok(value)
    }

    /// Text that may be empty: then there is no such thing.
    pub(super) fn optional<T>(
        &mut self,
        key: &str,
        given: Text,
        parse: impl Fn(&str) -> Result<T, Refusal>,
    ) -> Result<Option<T>, ConfigError> {
        self.text(key, given, "", |text| if text.is_empty() { Ok(None) } else { parse(text).map(Some) })
    }

    /// A path that has a default of its own where it is not given, or given empty.
    pub(super) fn path(&mut self, key: &str, given: Text, default: PathBuf) -> PathBuf {
        let given = given.filter(|given| !given.value.is_empty());
        let (path, origin) = match given {
            Some(Given { value, place }) => (PathBuf::from(value), self.origin(place)),
            None => (default, Origin::Default),
        };
        self.effective.record(key, path.to_string_lossy().into_owned(), origin);
        path
    }

    /// `true` or `false`.
    pub(super) fn switch(&mut self, key: &str, given: Switch, default: bool) -> bool {
        let (value, origin) = self.or_default(given, || default);
        self.effective.record(key, value, origin);
        value
    }

    /// A number within bounds.
    pub(super) fn number(
        &mut self,
        key: &str,
        given: Number,
        default: i64,
        bounds: RangeInclusive<i64>,
    ) -> Result<usize, ConfigError> {
        let (value, origin) = self.or_default(given, || default);
        let number = bounded(value, &bounds).map_err(|refusal| named(key, refusal, &origin))?;
        self.effective.record(key, value, origin);
        Ok(number)
    }

    /// A list of numbers within bounds.
    pub(super) fn numbers(
        &mut self,
        key: &str,
        given: Numbers,
        default: &[i64],
        bounds: RangeInclusive<i64>,
    ) -> Result<Vec<usize>, ConfigError> {
        let Some(Given { value: items, place }) = given else {
            self.effective.record(key, default.to_vec(), Origin::Default);
            return Ok(default.iter().filter_map(|number| usize::try_from(*number).ok()).collect());
        };
        self.effective.record(key, shown(&items), self.source.origin(place));
        let number =
            |item: &Given<i64>| bounded(item.value, &bounds).map_err(|refusal| self.refuse(key, item.place, refusal));
        items.iter().map(number).collect()
    }

    /// A list of texts with a meaning; each item is refused at its own line.
    pub(super) fn texts<T>(
        &mut self,
        key: &str,
        given: Texts,
        default: &[&str],
        parse: impl Fn(&str) -> Result<T, Refusal>,
    ) -> Result<Vec<T>, ConfigError> {
        let Some(Given { value: items, place }) = given else {
            self.effective.record(key, default.to_vec(), Origin::Default);
            let parsed: Result<_, _> = default.iter().map(|text| parse(text)).collect();
            return parsed.map_err(|refusal| named(key, refusal, &Origin::Default));
        };
        self.effective.record(key, shown(&items), self.source.origin(place));
        let item = |item: &Given<String>| parse(&item.value).map_err(|refusal| self.refuse(key, item.place, refusal));
        items.iter().map(item).collect()
    }

    /// The origin of a place, for those who record by themselves.
    pub(super) fn origin(&self, place: Place) -> Origin {
        self.source.origin(place)
    }

    /// The error for a value of `key` that stands at `place`.
    pub(super) fn refuse(&self, key: &str, place: Place, refusal: Refusal) -> ConfigError {
        named(key, refusal, &self.origin(place))
    }

    fn or_default<T>(&self, given: Option<Given<T>>, default: impl FnOnce() -> T) -> (T, Origin) {
        match given {
            Some(Given { value, place }) => (value, self.origin(place)),
            None => (default(), Origin::Default),
        }
    }
}

/// The key is said where the origin does not tell it already.
fn named(key: &str, refusal: Refusal, origin: &Origin) -> ConfigError {
    let Refusal { message, hint } = refusal;
    let message = match origin {
        Origin::Default | Origin::File { .. } => format!("{key}: {message}"),
        Origin::Environment(_) | Origin::Flag(_) => message,
    };
    Refusal { message, hint }.at(origin.clone())
}

fn bounded(value: i64, bounds: &RangeInclusive<i64>) -> Result<usize, Refusal> {
    let refusal = || Refusal::new(format!("{value} is not between {} and {}", bounds.start(), bounds.end()));
    if bounds.contains(&value) { usize::try_from(value).map_err(|_| refusal()) } else { Err(refusal()) }
}

fn shown<T: Clone + Into<Value>>(items: &[Given<T>]) -> Value {
    Value::Array(items.iter().map(|item| item.value.clone().into()).collect())
}
