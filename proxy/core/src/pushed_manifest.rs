//! The strict reading of manifests that are pushed to our own registry: every field that the specifications know has the
//! type that they give it, and stands there once. Unknown fields are left alone.
//!
//! Upstream's manifests are read by [`media`](crate::media), which takes what registries really serve. A pushed one is
//! still in its author's hands, so a fault is told, with the field that has it. Names that differ from a known one only
//! in upper and lower case are faults: Go reads them as that field, others do not. Nothing is built while it is read, so
//! a manifest costs no more memory than its text.

use std::cell::RefCell;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::digest::Digest;
use crate::media::ManifestType;

/// The reason why a manifest is not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{field}: {fault}")]
pub struct ManifestFault {
    /// The place of the field, such as `layers[0].digest`.
    pub field: String,
    /// What is wrong with it.
    pub fault: &'static str,
}

/// What a field may be.
#[derive(Clone, Copy)]
enum Kind {
    /// Text that is not empty.
    Name,
    Text,
    Digest,
    Size,
    /// The number 2.
    Version,
    Base64,
    Object(&'static [Field]),
    List(&'static Kind),
    /// An object of texts.
    Texts,
}

/// A field of an object.
struct Field {
    name: &'static str,
    kind: Kind,
    presence: Presence,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Presence {
    Required,
    /// It must be there; programs that have none write `null`.
    RequiredOrNull,
    /// It may be missing, or `null`.
    Optional,
}

use Presence::{Optional, Required, RequiredOrNull};

const fn field(name: &'static str, kind: Kind, presence: Presence) -> Field {
    Field { name, kind, presence }
}

static PLATFORM: [Field; 5] = [
    field("architecture", Kind::Text, Optional),
    field("os", Kind::Text, Optional),
    field("os.version", Kind::Text, Optional),
    field("os.features", Kind::List(&Kind::Text), Optional),
    field("variant", Kind::Text, Optional),
];

static DESCRIPTOR: [Field; 8] = [
    field("mediaType", Kind::Name, Required),
    field("digest", Kind::Digest, Required),
    field("size", Kind::Size, Required),
    field("urls", Kind::List(&Kind::Text), Optional),
    field("annotations", Kind::Texts, Optional),
    field("data", Kind::Base64, Optional),
    field("artifactType", Kind::Text, Optional),
    field("platform", Kind::Object(&PLATFORM), Optional),
];

static DESCRIBED: Kind = Kind::Object(&DESCRIPTOR);

static IMAGE: [Field; 7] = [
    field("schemaVersion", Kind::Version, Required),
    field("mediaType", Kind::Name, Optional),
    field("artifactType", Kind::Text, Optional),
    field("config", DESCRIBED, Required),
    field("layers", Kind::List(&DESCRIBED), RequiredOrNull),
    field("subject", DESCRIBED, Optional),
    field("annotations", Kind::Texts, Optional),
];

static INDEX: [Field; 6] = [
    field("schemaVersion", Kind::Version, Required),
    field("mediaType", Kind::Name, Optional),
    field("artifactType", Kind::Text, Optional),
    field("manifests", Kind::List(&DESCRIBED), RequiredOrNull),
    field("subject", DESCRIBED, Optional),
    field("annotations", Kind::Texts, Optional),
];

/// The artifact manifests of ORAS, and OCI's, which is no longer in use.
static ARTIFACT: [Field; 5] = [
    field("mediaType", Kind::Name, Required),
    field("artifactType", Kind::Text, Optional),
    field("blobs", Kind::List(&DESCRIBED), Optional),
    field("subject", DESCRIBED, Optional),
    field("annotations", Kind::Texts, Optional),
];

/// The fields that tell the kinds of manifests apart, and that are not `null`.
#[derive(Default)]
struct Outline {
    is_index: bool,
    is_image: bool,
    is_artifact: bool,
    is_schema1: bool,
}

/// Checks a manifest that is pushed with this Content-Type. Schema 1 is not checked.
///
/// ```
/// use entrepot_core::pushed_manifest::check;
///
/// let fault = check(br#"{"schemaVersion":2,"manifests":[{"mediaType":"a/b","digest":"sha256:zz"}]}"#, None);
/// assert_eq!(fault.unwrap_err().field, "manifests[0].digest");
/// ```
pub fn check(manifest: &[u8], content_type: Option<&str>) -> Result<(), ManifestFault> {
    let fault = |field: &str, fault| ManifestFault { field: field.to_owned(), fault };
    if !manifest.trim_ascii_start().starts_with(b"{") {
        return Err(fault("manifest", "it is not a JSON object"));
    }
    let not_json = |_| fault("manifest", "it is not JSON");
    let outline: Outline = serde_json::from_slice(manifest).map_err(not_json)?;
    let Some(fields) = outline.fields(content_type) else { return Ok(()) };
    let found = RefCell::new(None);
    let mut text = serde_json::Deserializer::from_slice(manifest);
    let checked = At { place: &Place::Root, kind: Kind::Object(fields), found: &found }.deserialize(&mut text);
    match (checked.and_then(|_| text.end()), found.into_inner()) {
        (Ok(()), _) => Ok(()),
        (Err(_), Some(found)) => Err(found),
        (Err(_), None) => Err(fault("manifest", "it is not JSON")),
    }
}

impl Outline {
    /// The fields of this kind of manifest. None if it is of schema 1, or of no kind that is known.
    fn fields(&self, content_type: Option<&str>) -> Option<&'static [Field]> {
        match self {
            Self { is_schema1: true, .. } => None,
            Self { is_index: true, .. } => Some(&INDEX),
            Self { is_image: true, .. } => Some(&IMAGE),
            Self { is_artifact: true, .. } => Some(&ARTIFACT),
            _ => match content_type.and_then(ManifestType::of)? {
                ManifestType::Schema1 | ManifestType::Schema1Signed => None,
                known if known.is_index() => Some(&INDEX),
                _ => Some(&IMAGE),
            },
        }
    }
}

impl<'de> Deserialize<'de> for Outline {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Outline;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a manifest")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Outline, A::Error> {
                let mut outline = Outline::default();
                while let Some(name) = object.next_key::<String>()? {
                    let is_there = object.next_value::<Option<IgnoredAny>>()?.is_some();
                    match name.as_str() {
                        "manifests" => outline.is_index |= is_there,
                        "config" | "layers" => outline.is_image |= is_there,
                        "blobs" => outline.is_artifact |= is_there,
                        "fsLayers" => outline.is_schema1 |= is_there,
                        _ => {}
                    }
                }
                Ok(outline)
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// The place of a value.
enum Place<'p> {
    Root,
    Field(&'p Place<'p>, &'static str),
    Element(&'p Place<'p>, usize),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => out.write_str("manifest"),
            Self::Field(Self::Root, name) => out.write_str(name),
            Self::Field(object, name) => write!(out, "{object}.{name}"),
            Self::Element(list, number) => write!(out, "{list}[{number}]"),
        }
    }
}

/// Reads the value at a place, which must be of this kind.
#[derive(Clone, Copy)]
struct At<'p> {
    place: &'p Place<'p>,
    kind: Kind,
    found: &'p RefCell<Option<ManifestFault>>,
}

/// The part of a value that its object is checked by.
enum Read {
    Null,
    Digest(Option<Digest>),
    Size(u64),
    Data(Vec<u8>),
    Other,
}

impl At<'_> {
    fn fault<E: Error>(&self, fault: &'static str) -> E {
        self.found.replace(Some(ManifestFault { field: self.place.to_string(), fault }));
        E::custom(fault)
    }

    fn mismatch<E: Error>(&self) -> E {
        self.fault(match self.kind {
            Kind::Name | Kind::Text | Kind::Base64 => "it is not a text",
            Kind::Digest => "it is not a digest",
            Kind::Size => "it is not a number of bytes",
            Kind::Version => "it is not 2",
            Kind::Object(_) | Kind::Texts => "it is not an object",
            Kind::List(_) => "it is not a list",
        })
    }
}

impl<'de> DeserializeSeed<'de> for At<'_> {
    type Value = Read;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Read, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for At<'_> {
    type Value = Read;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a field of a manifest")
    }

    fn visit_unit<E: Error>(self) -> Result<Read, E> {
        Ok(Read::Null)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Read, E> {
        Err(self.mismatch())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Read, E> {
        Err(self.mismatch())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Read, E> {
        Err(self.mismatch())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Read, E> {
        match self.kind {
            Kind::Version if number == 2 => Ok(Read::Other),
            // Clients read it as a signed number.
            Kind::Size if i64::try_from(number).is_ok() => Ok(Read::Size(number)),
            _ => Err(self.mismatch()),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Read, E> {
        match self.kind {
            Kind::Text => Ok(Read::Other),
            Kind::Name if !text.is_empty() => Ok(Read::Other),
            Kind::Name => Err(self.fault("it is empty")),
            Kind::Digest => match text.parse::<Digest>() {
                Ok(digest) => Ok(Read::Digest(Some(digest))),
                Err(_) if is_of_another_algorithm(text) => Ok(Read::Digest(None)),
                Err(_) => Err(self.mismatch()),
            },
            Kind::Base64 => STANDARD.decode(text).map(Read::Data).map_err(|_| self.fault("it is not base64")),
            _ => Err(self.mismatch()),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Read, A::Error> {
        let Kind::List(kind) = self.kind else { return Err(self.mismatch()) };
        for number in 0.. {
            let place = Place::Element(self.place, number);
            let element = At { place: &place, kind: *kind, found: self.found };
            match list.next_element_seed(element)? {
                Some(Read::Null) => return Err(element.mismatch()),
                Some(_) => {}
                None => break,
            }
        }
        Ok(Read::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Read, A::Error> {
        let fields = match self.kind {
            Kind::Object(fields) => fields,
            Kind::Texts => {
                while let Some(_name) = object.next_key::<String>()? {
                    let text = object.next_value_seed(At { kind: Kind::Text, ..self })?;
                    if matches!(text, Read::Null) {
                        return Err(self.fault("a value in it is not a text"));
                    }
                }
                return Ok(Read::Other);
            }
            _ => return Err(self.mismatch()),
        };
        let (mut seen, mut embedded) = ([false; FIELDS_MAX], Embedded::default());
        while let Some(name) = object.next_key::<String>()? {
            let Some(at) = fields.iter().position(|field| field.name == name) else {
                if let Some(field) = fields.iter().find(|field| folds_to(&name, field.name)) {
                    let place = Place::Field(self.place, field.name);
                    return Err(At { place: &place, ..self }.fault("its name is written in another case"));
                }
                object.next_value::<IgnoredAny>()?;
                continue;
            };
            let field = &fields[at];
            let place = Place::Field(self.place, field.name);
            let value = At { place: &place, kind: field.kind, found: self.found };
            if std::mem::replace(&mut seen[at], true) {
                return Err(value.fault("it appears twice"));
            }
            match object.next_value_seed(value)? {
                Read::Null if field.presence == Required => return Err(value.mismatch()),
                read => embedded.add(read),
            }
        }
        let missing = fields.iter().zip(seen).find(|(field, seen)| !seen && field.presence != Optional);
        if let Some((field, _)) = missing {
            let place = Place::Field(self.place, field.name);
            return Err(At { place: &place, ..self }.fault("it is missing"));
        }
        if !embedded.agrees() {
            let place = Place::Field(self.place, "data");
            return Err(At { place: &place, ..self }.fault("it is not the content that size and digest describe"));
        }
        Ok(Read::Other)
    }
}

/// No object has more known fields.
const FIELDS_MAX: usize = 8;

/// The content that a descriptor has in itself, and its description.
#[derive(Default)]
struct Embedded {
    data: Option<Vec<u8>>,
    digest: Option<Digest>,
    size: Option<u64>,
}

impl Embedded {
    fn add(&mut self, read: Read) {
        match read {
            Read::Data(data) => self.data = Some(data),
            Read::Digest(digest) => self.digest = digest,
            Read::Size(size) => self.size = Some(size),
            Read::Null | Read::Other => {}
        }
    }

    fn agrees(&self) -> bool {
        let Some(data) = &self.data else { return true };
        self.size.is_none_or(|size| size == data.len() as u64)
            && self.digest.is_none_or(|digest| Digest::of(digest.algorithm(), data) == digest)
    }
}

/// A digest by the grammar of the image specification, of an algorithm that we do not compute.
fn is_of_another_algorithm(text: &str) -> bool {
    let Some((algorithm, encoded)) = text.split_once(':') else { return false };
    let is_lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let component = |part: &str| !part.is_empty() && part.bytes().all(is_lower);
    let is_encoded = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'=' | b'_' | b'-');
    !matches!(algorithm, "sha256" | "sha512")
        && algorithm.split(['+', '.', '_', '-']).all(component)
        && !encoded.is_empty()
        && encoded.bytes().all(is_encoded)
}

/// Whether Go's reader takes a name for a field's: it folds upper and lower case, and two letters beyond ASCII.
fn folds_to(name: &str, field: &str) -> bool {
    let fold = |letter: char| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        _ => letter.to_ascii_lowercase(),
    };
    name.chars().map(fold).eq(field.chars().map(fold))
}

#[cfg(test)]
mod tests;
