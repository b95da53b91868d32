//! Turns typed values into ready ones: one method for each kind of setting. Each takes the typed value or the default,
//! parses it, and records the result, so that no setting can be read without being shown.
//!
//! The type of a resolver says when its settings take effect: [`AtStart`], [`AtReload`] or [`AtAgentStart`]. Each part
//! of the ready configuration is built with only one of them, so a setting of [`Startup`](super::ready::Startup) cannot
//! be shown as one that a reload replaces.
//!
//! Defaults are written in the administrator's syntax and go through the same parsers.

use std::marker::PhantomData;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use entrepot_core::secret::Secret;
use toml::Value;

use super::effective::{Applies, Effective};
use super::provenance::{ConfigError, Given, Place, Provenance, Refusal, Source};
use super::raw::{Number, Numbers, Switch, Text, Texts};
use super::values;

/// The file, and the values that are recorded so far.
pub(super) struct Record {
    source: Source,
    pub(super) effective: Effective,
    pub(super) notices: Vec<String>,
    pub(super) warnings: Vec<String>,
}

/// Resolves the settings of one part of the configuration.
pub(super) struct Resolver<'a, W> {
    record: &'a mut Record,
    when: PhantomData<W>,
}

/// The moment when the settings of a resolver take effect.
pub(super) trait When {
    const APPLIES: Applies;
}

/// See [`Applies::AtStart`].
pub(super) enum AtStart {}
/// See [`Applies::AtReload`].
pub(super) enum AtReload {}
/// See [`Applies::AtAgentStart`].
pub(super) enum AtAgentStart {}

impl When for AtStart {
    const APPLIES: Applies = Applies::AtStart;
}

impl When for AtReload {
    const APPLIES: Applies = Applies::AtReload;
}

impl When for AtAgentStart {
    const APPLIES: Applies = Applies::AtAgentStart;
}

impl Record {
    pub(super) fn new(source: Source, notices: Vec<String>) -> Self {
        Self { source, effective: Effective::default(), notices, warnings: Vec::new() }
    }

    /// A resolver of the settings that take effect at `W`.
    pub(super) fn resolver<W: When>(&mut self) -> Resolver<'_, W> {
        Resolver { record: self, when: PhantomData }
    }
}

impl<W: When> Resolver<'_, W> {
    /// A text that `parse` understands.
    pub(super) fn text<T>(
        &mut self,
        key: &str,
        given: &Text,
        default: &str,
        parse: impl Fn(&str) -> Result<T, Refusal>,
    ) -> Result<T, ConfigError> {
        let (text, origin) = self.or_default(given, || default.to_owned());
        let value = parse(&text).map_err(|refusal| named(key, refusal, &origin))?;
        self.record(key, text, origin);
        Ok(value)
    }

    /// A text that may be empty. None if it is empty.
    pub(super) fn optional<T>(
        &mut self,
        key: &str,
        given: &Text,
        parse: impl Fn(&str) -> Result<T, Refusal>,
    ) -> Result<Option<T>, ConfigError> {
        self.text(key, given, "", |text| if text.is_empty() { Ok(None) } else { parse(text).map(Some) })
    }

    /// The secret in a file. None if the path is empty. If the secret is read at the start only, a reload has to notice
    /// that it changed.
    pub(super) fn secret_file(&mut self, key: &str, given: &Text) -> Result<Option<Secret>, ConfigError> {
        let secret = self.optional(key, given, values::secret_file)?;
        if let Some(secret) = &secret {
            self.record_content(key, secret.expose().as_bytes());
        }
        Ok(secret)
    }

    /// A path. If none or an empty one is given, the default holds.
    pub(super) fn path(&mut self, key: &str, given: &Text, default: PathBuf) -> PathBuf {
        let (path, origin) = match given {
            Some(Given { value, place }) if !value.is_empty() => (PathBuf::from(value), self.origin(*place)),
            _ => (default, Provenance::Default),
        };
        self.record(key, path.to_string_lossy().into_owned(), origin);
        path
    }

    pub(super) fn switch(&mut self, key: &str, given: &Switch, default: bool) -> bool {
        let (value, origin) = self.or_default(given, || default);
        self.record(key, value, origin);
        value
    }

    pub(super) fn number(
        &mut self,
        key: &str,
        given: &Number,
        default: i64,
        bounds: RangeInclusive<i64>,
    ) -> Result<usize, ConfigError> {
        let (value, origin) = self.or_default(given, || default);
        let number = bounded(value, &bounds).map_err(|refusal| named(key, refusal, &origin))?;
        self.record(key, value, origin);
        Ok(number)
    }

    pub(super) fn numbers(
        &mut self,
        key: &str,
        given: &Numbers,
        default: &[i64],
        bounds: RangeInclusive<i64>,
    ) -> Result<Vec<usize>, ConfigError> {
        let Some(Given { value: items, place }) = given else {
            self.record(key, default.to_vec(), Provenance::Default);
            return Ok(default.iter().filter_map(|number| usize::try_from(*number).ok()).collect());
        };
        self.record(key, shown(items), self.origin(*place));
        let number =
            |item: &Given<i64>| bounded(item.value, &bounds).map_err(|refusal| self.refuse(key, item.place, refusal));
        items.iter().map(number).collect()
    }

    /// A list of texts. Each item is refused at its own line.
    pub(super) fn texts<T>(
        &mut self,
        key: &str,
        given: &Texts,
        default: &[&str],
        parse: impl Fn(&str) -> Result<T, Refusal>,
    ) -> Result<Vec<T>, ConfigError> {
        let Some(Given { value: items, place }) = given else {
            self.record(key, default.to_vec(), Provenance::Default);
            let parsed: Result<_, _> = default.iter().map(|text| parse(text)).collect();
            return parsed.map_err(|refusal| named(key, refusal, &Provenance::Default));
        };
        self.record(key, shown(items), self.origin(*place));
        let item = |item: &Given<String>| parse(&item.value).map_err(|refusal| self.refuse(key, item.place, refusal));
        items.iter().map(item).collect()
    }

    /// Records a list of texts that was parsed elsewhere.
    pub(super) fn record_texts(&mut self, key: &str, given: &Given<Vec<Given<String>>>) {
        self.record(key, shown(&given.value), self.origin(given.place));
    }

    /// Records a setting that was parsed elsewhere. The caller masks secrets.
    pub(super) fn record(&mut self, key: impl Into<String>, value: impl Into<Value>, origin: Provenance) {
        self.record.effective.record(key, value, origin, W::APPLIES);
    }

    /// Records the content of the file that the value of `key` names, so that a reload notices if it changed.
    pub(super) fn record_content(&mut self, key: &str, content: &[u8]) {
        self.record.effective.record_content(key, content);
    }

    /// Adds a line to log once at start.
    pub(super) fn notice(&mut self, notice: String) {
        self.record.notices.push(notice);
    }

    /// Adds a line to log once at start, as a warning.
    pub(super) fn warn(&mut self, warning: String) {
        self.record.warnings.push(warning);
    }

    pub(super) fn origin(&self, place: Place) -> Provenance {
        self.record.source.origin(place)
    }

    /// The error for a value of `key` at `place`.
    pub(super) fn refuse(&self, key: &str, place: Place, refusal: Refusal) -> ConfigError {
        named(key, refusal, &self.origin(place))
    }

    fn or_default<T: Clone>(&self, given: &Option<Given<T>>, default: impl FnOnce() -> T) -> (T, Provenance) {
        match given {
            Some(Given { value, place }) => (value.clone(), self.origin(*place)),
            None => (default(), Provenance::Default),
        }
    }
}

/// Adds the key to the message if the origin does not name it already.
fn named(key: &str, refusal: Refusal, origin: &Provenance) -> ConfigError {
    let Refusal { message, hint } = refusal;
    let message = match origin {
        Provenance::Default | Provenance::TakenDefault | Provenance::File { .. } => format!("{key}: {message}"),
        Provenance::Environment(_) | Provenance::Flag(_) => message,
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
