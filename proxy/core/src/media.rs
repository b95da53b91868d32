//! Manifests and their media types: what a client accepts, what a manifest is, and what it refers to.
//!
//! A tag's answer depends on the set of manifest types in the Accept header. Their order, weights and spacing do not
//! count, because they would only split the cache. The bytes of a manifest are never changed. A manifest whose shape and
//! announced type disagree is never kept (CVE-2021-41190: clients read one digest as two things).

use serde::Deserialize;
use serde_json::Value;

use crate::digest::Digest;

/// The largest manifest that is kept. Larger ones pass through.
pub const MANIFEST_MAX_BYTES: usize = 4 << 20;

/// The media types of manifests that registries serve.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ManifestType {
    /// Docker schema 1, unsigned.
    Schema1,
    /// Docker schema 1 with its JSON web signature.
    Schema1Signed,
    /// Docker image manifest V2 schema 2.
    Schema2,
    /// Docker manifest list.
    ManifestList,
    /// OCI image manifest.
    OciManifest,
    /// OCI image index.
    OciIndex,
}

/// The kind of a manifest by its fields, whatever its `mediaType` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Shape {
    Layers,
    Index,
    Schema1,
    /// A list of blobs: the artifact manifests of ORAS, and OCI's, which is no longer in use.
    Artifact,
}

impl ManifestType {
    /// All types, in the order of [`AcceptClass::header_value`].
    pub const ALL: [Self; 6] =
        [Self::OciIndex, Self::ManifestList, Self::OciManifest, Self::Schema2, Self::Schema1Signed, Self::Schema1];

    /// The media type as it stands in headers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Schema1 => "application/vnd.docker.distribution.manifest.v1+json",
            Self::Schema1Signed => "application/vnd.docker.distribution.manifest.v1+prettyjws",
            Self::Schema2 => "application/vnd.docker.distribution.manifest.v2+json",
            Self::ManifestList => "application/vnd.docker.distribution.manifest.list.v2+json",
            Self::OciManifest => "application/vnd.oci.image.manifest.v1+json",
            Self::OciIndex => "application/vnd.oci.image.index.v1+json",
        }
    }

    /// Reads a Content-Type or an element of Accept, without its parameters. None if it is no manifest's.
    pub fn of(media_type: &str) -> Option<Self> {
        let essence = essence(media_type);
        Self::ALL.into_iter().find(|known| essence.eq_ignore_ascii_case(known.name()))
    }

    /// Whether a manifest of this type lists other manifests.
    pub fn is_index(self) -> bool {
        self.shape() == Shape::Index
    }

    fn shape(self) -> Shape {
        match self {
            Self::Schema1 | Self::Schema1Signed => Shape::Schema1,
            Self::Schema2 | Self::OciManifest => Shape::Layers,
            Self::ManifestList | Self::OciIndex => Shape::Index,
        }
    }

    fn bit(self) -> u16 {
        1 << self as u16
    }
}

fn essence(media_type: &str) -> &str {
    media_type.split(';').next().unwrap_or_default().trim()
}

/// The set of manifest types that an Accept header admits. It is part of the key of a tag's answer.
///
/// ```
/// use entrepot_core::media::{AcceptClass, ManifestType};
///
/// let index = ManifestType::OciIndex.name();
/// let list = ManifestType::ManifestList.name();
/// let one = AcceptClass::of([format!("{list}, {index};q=0.5").as_str()]);
/// assert_eq!(one, AcceptClass::of([index, list]));
/// assert!(one.admits(index) && !one.admits(ManifestType::Schema2.name()));
/// assert_eq!(AcceptClass::of(["*/*"]), AcceptClass::ANY);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct AcceptClass(u16);

impl AcceptClass {
    /// The class of a request without an Accept header, with a wildcard, or without a manifest type. The registry
    /// chooses.
    pub const ANY: Self = Self(1 << 15);

    /// Reads all values of a request's Accept header.
    pub fn of<'a>(accept: impl IntoIterator<Item = &'a str>) -> Self {
        let elements = accept.into_iter().flat_map(|value| value.split(','));
        let bits = elements.filter(|element| !is_excluded(element)).map(|element| match essence(element) {
            "*/*" | "application/*" => Self::ANY.0,
            name => ManifestType::of(name).map_or(0, ManifestType::bit),
        });
        match bits.fold(0, |set, bit| set | bit) {
            0 => Self::ANY,
            set => Self(set),
        }
    }

    /// Whether the client accepts an answer of this type.
    pub fn admits(self, media_type: &str) -> bool {
        self.has(Self::ANY.0) || ManifestType::of(media_type).is_some_and(|known| self.has(known.bit()))
    }

    /// The Accept header that is sent upstream for this class.
    pub fn header_value(self) -> String {
        let known = ManifestType::ALL.into_iter().filter(|known| self.has(known.bit())).map(ManifestType::name);
        let any = self.has(Self::ANY.0).then_some("*/*");
        known.chain(any).collect::<Vec<_>>().join(", ")
    }

    /// Whether a registry that answered `other` with this type would give this class the same answer.
    ///
    /// A registry gives an index to every client that accepts one. For a client that accepts none, it may choose the
    /// image of one platform out of the index. So an image is shared only if `other` accepts every kind of index that this
    /// class accepts: then the tag itself is an image.
    pub fn shares_answer_of(self, other: Self, media_type: &str) -> bool {
        let known = ManifestType::of(media_type);
        let indexes = ManifestType::ALL.into_iter().filter(|known| known.is_index()).map(ManifestType::bit);
        let of = |class: Self| indexes.clone().fold(0, |set, bit| set | (class.0 & bit));
        self.admits(media_type) && (known.is_some_and(ManifestType::is_index) || of(self) & !of(other) == 0)
    }

    /// The set as bits, for the index on disk and for keys.
    pub fn bits(self) -> u16 {
        self.0
    }

    /// The inverse of [`Self::bits`].
    pub fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    fn has(self, bit: u16) -> bool {
        self.0 & bit != 0
    }
}

/// `q=0` excludes a type (RFC 9110 section 12.4.2).
fn is_excluded(element: &str) -> bool {
    element.split(';').skip(1).any(|parameter| {
        let weight = parameter.split_once('=').filter(|(name, _)| name.trim().eq_ignore_ascii_case("q"));
        weight.is_some_and(|(_, value)| value.trim().parse::<f32>() == Ok(0.0))
    })
}

/// A manifest's reference to other content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Descriptor {
    /// The digest of the content.
    pub digest: Digest,
    /// The length in bytes. None if the manifest does not state it, as in schema 1.
    pub size: Option<u64>,
    /// The content's media type. None if the manifest does not state it.
    pub media_type: Option<String>,
    /// Whether registries need not have the content: it has `urls`, or a type that registries may not distribute.
    pub is_foreign: bool,
}

/// The facts that are read from a manifest.
///
/// ```
/// use entrepot_core::media::{ManifestInfo, ManifestType, agrees};
///
/// let manifest = br#"{"schemaVersion":2,"manifests":[]}"#;
/// let info = ManifestInfo::inspect(manifest)?;
/// assert_eq!(info.media_type.as_deref(), Some(ManifestType::OciIndex.name()));
/// assert!(!agrees(ManifestType::OciManifest.name(), &info));
/// # Ok::<(), entrepot_core::media::ManifestError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ManifestInfo {
    /// The `mediaType` field, or the type that the shape implies. None if neither tells.
    pub media_type: Option<String>,
    /// The manifests of an index, the config and layers of an image, or the blobs of an artifact. References by unknown
    /// digest algorithms are left out.
    pub children: Vec<Descriptor>,
    /// The manifest that this one describes (`subject`). None if it describes none.
    pub subject: Option<Descriptor>,
    /// Whether it can be read as more than one kind of manifest, or its `mediaType` contradicts its shape.
    pub ambiguous: bool,
    /// Whether anything in it says that it is a manifest: a `mediaType`, a `schemaVersion`, or a shape.
    pub is_manifest: bool,
    /// Whether the `mediaType` stands in it, so that no other word counts.
    is_declared: bool,
    /// The one shape that it has.
    shape: Option<Shape>,
}

/// The reason why bytes are not a manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// There are more than [`MANIFEST_MAX_BYTES`].
    #[error("the manifest is larger than 4 MiB")]
    TooLarge,
    /// The text does not begin with `{`.
    #[error("the manifest is not a JSON object")]
    NotAnObject,
    /// The text is not JSON, or a field appears twice.
    #[error("the manifest is not JSON with unique fields: {0}")]
    Json(#[from] serde_json::Error),
}

/// The fields that are read. Each is any JSON value, so that an unexpected one does not make the others unreadable.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    schema_version: Option<Value>,
    media_type: Option<Value>,
    manifests: Option<Value>,
    config: Option<Value>,
    layers: Option<Value>,
    fs_layers: Option<Value>,
    blobs: Option<Value>,
    signatures: Option<Value>,
    subject: Option<Value>,
}

impl ManifestInfo {
    /// Reads the JSON text of a manifest.
    pub fn inspect(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MANIFEST_MAX_BYTES {
            return Err(ManifestError::TooLarge);
        }
        // serde also reads an array as a struct: as its fields in their order.
        if !bytes.trim_ascii_start().starts_with(b"{") {
            return Err(ManifestError::NotAnObject);
        }
        let fields: Fields = serde_json::from_slice(bytes)?;
        let shapes = fields.shapes();
        let declared = fields.media_type.as_ref().and_then(Value::as_str);
        let contradicted = declared.and_then(ManifestType::of).is_some_and(|known| shapes != [known.shape()]);
        Ok(Self {
            media_type: declared.map(str::to_owned).or_else(|| fields.implied_type(&shapes)),
            children: fields.children(),
            subject: fields.subject.as_ref().and_then(descriptor),
            ambiguous: shapes.len() > 1 || contradicted,
            is_manifest: declared.is_some() || fields.schema_version.is_some() || !shapes.is_empty(),
            is_declared: declared.is_some(),
            shape: shapes.first().copied().filter(|_| shapes.len() == 1),
        })
    }
}

impl Fields {
    fn shapes(&self) -> Vec<Shape> {
        let schema1 = self.fs_layers.is_some() || self.schema_version.as_ref().and_then(Value::as_u64) == Some(1);
        let all = [
            (self.manifests.is_some(), Shape::Index),
            (self.config.is_some() || self.layers.is_some(), Shape::Layers),
            (schema1, Shape::Schema1),
            (self.blobs.is_some(), Shape::Artifact),
        ];
        all.into_iter().filter_map(|(present, shape)| present.then_some(shape)).collect()
    }

    /// OCI manifests may leave `mediaType` out, and schema 1 has none. Docker's schema 2 and artifacts must have it.
    fn implied_type(&self, shapes: &[Shape]) -> Option<String> {
        let implied = match shapes {
            [Shape::Index] => ManifestType::OciIndex,
            [Shape::Layers] => ManifestType::OciManifest,
            [Shape::Schema1] if self.signatures.is_some() => ManifestType::Schema1Signed,
            [Shape::Schema1] => ManifestType::Schema1,
            _ => return None,
        };
        Some(implied.name().to_owned())
    }

    fn children(&self) -> Vec<Descriptor> {
        let lists = [&self.layers, &self.manifests, &self.blobs];
        let described = self.config.iter().chain(lists.into_iter().flat_map(elements));
        let old = elements(&self.fs_layers).iter().filter_map(|layer| digest(layer, "blobSum"));
        described
            .filter_map(descriptor)
            .chain(old.map(|digest| Descriptor { digest, size: None, media_type: None, is_foreign: false }))
            .collect()
    }
}

fn elements(list: &Option<Value>) -> &[Value] {
    list.as_ref().and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn descriptor(value: &Value) -> Option<Descriptor> {
    let media_type = value.get("mediaType").and_then(Value::as_str).map(str::to_owned);
    let has_urls = value.get("urls").and_then(Value::as_array).is_some_and(|urls| !urls.is_empty());
    Some(Descriptor {
        digest: digest(value, "digest")?,
        size: value.get("size").and_then(Value::as_u64),
        is_foreign: has_urls || media_type.as_deref().is_some_and(is_restricted),
        media_type,
    })
}

/// The types of layers that registries may not distribute. Docker and OCI both gave them up.
fn is_restricted(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.docker.image.rootfs.foreign.diff.")
        || media_type.starts_with("application/vnd.oci.image.layer.nondistributable.")
}

fn digest(value: &Value, field: &str) -> Option<Digest> {
    value.get(field)?.as_str()?.parse().ok()
}

/// Whether a manifest may be kept under this Content-Type: its own type is the same, and it has one shape.
pub fn agrees(content_type: &str, info: &ManifestInfo) -> bool {
    let essence = essence(content_type);
    !info.ambiguous && info.media_type.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(essence))
}

/// Whether an upstream's manifest may be kept under this Content-Type. Some registries have Docker's manifests without
/// `mediaType`, as older tools made them. Then the Content-Type tells whose an image or an index is, if it is one of that
/// shape; a client reads the same manifest either way. Schema 1 never has a `mediaType`, and its signatures tell.
pub fn agrees_by_shape(content_type: &str, info: &ManifestInfo) -> bool {
    let told = ManifestType::of(content_type).map(ManifestType::shape);
    let is_alike = matches!(told, Some(Shape::Layers | Shape::Index)) && told == info.shape;
    agrees(content_type, info) || (!info.ambiguous && !info.is_declared && is_alike)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    const LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
    const SCHEMA2: &str = "application/vnd.docker.distribution.manifest.v2+json";
    const ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";
    const SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

    fn hex(digit: char) -> String {
        format!("sha256:{}", digit.to_string().repeat(64))
    }

    fn inspect(text: &str) -> ManifestInfo {
        ManifestInfo::inspect(text.as_bytes()).expect(text)
    }

    #[test]
    fn accept_headers_are_sets() {
        let class = |values: &[&str]| AcceptClass::of(values.iter().copied());
        let both = class(&[SCHEMA2, LIST]);
        for same in [
            format!("{LIST}, {SCHEMA2}"),
            format!("{SCHEMA2};q=0.5,application/json, {LIST};q=1"),
            format!("{} , {LIST},{IMAGE};q=0", SCHEMA2.to_uppercase()),
            format!("{LIST},{SCHEMA2},{INDEX}; q=0.000,*/*;q=0"),
        ] {
            assert_eq!(class(&[&same]), both, "{same}");
        }
        assert!(both.admits(LIST) && both.admits(&format!("{SCHEMA2}; charset=utf-8")));
        assert!(!both.admits(IMAGE) && !both.admits("application/json") && !both.admits(""));
        for any in [&[][..], &[""], &["*/*"], &["application/*"], &["application/json"], &["text/html;q=0"]] {
            assert_eq!(class(any), AcceptClass::ANY, "{any:?}");
        }
        assert!(AcceptClass::ANY.admits("application/whatever"));
        assert_ne!(class(&[SCHEMA2, "*/*"]), class(&[SCHEMA2]));
    }

    #[test]
    fn an_answer_is_shared_with_clients_that_would_get_the_same() {
        let class = |values: &[&str]| AcceptClass::of(values.iter().copied());
        let (docker, podman) = (class(&[SCHEMA2, LIST, INDEX, IMAGE, SIGNED]), class(&[IMAGE, SCHEMA2, LIST, INDEX]));
        let (old, oldest) = (class(&[SCHEMA2, LIST]), class(&[SCHEMA2]));
        for (asks, other, media_type, shared) in [
            (podman, docker, INDEX, true),
            (podman, docker, SCHEMA2, true),
            (podman, docker, SIGNED, false),
            (docker, podman, IMAGE, true),
            (old, docker, INDEX, false),
            (old, docker, SCHEMA2, true),
            // It may be one platform's image out of an index.
            (docker, oldest, SCHEMA2, false),
            (docker, old, SCHEMA2, false),
            (docker, AcceptClass::ANY, SCHEMA2, false),
            (docker, AcceptClass::ANY, INDEX, true),
            (docker, old, LIST, true),
            (oldest, old, LIST, false),
            (AcceptClass::ANY, docker, INDEX, true),
            (AcceptClass::ANY, oldest, SCHEMA2, true),
        ] {
            assert_eq!(asks.shares_answer_of(other, media_type), shared, "{asks:?} of {other:?}: {media_type}");
        }
        assert_eq!(AcceptClass::from_bits(docker.bits()), docker);
    }

    #[test]
    fn the_canonical_header_means_the_same_class() {
        for types in 0..1 << ManifestType::ALL.len() {
            let names = ManifestType::ALL.into_iter().filter(|known| types & known.bit() != 0).map(ManifestType::name);
            let class = AcceptClass::of(names);
            assert_eq!(AcceptClass::of([&*class.header_value()]), class);
        }
        assert_eq!(AcceptClass::ANY.header_value(), "*/*");
    }

    #[test]
    fn manifests_are_read_and_sniffed() {
        let (config, layer, subject) = (hex('a'), hex('b'), hex('c'));
        let image = inspect(&format!(
            r#"{{"schemaVersion":2,"config":{{"digest":"{config}","size":7,"mediaType":"c"}},
                "layers":[{{"digest":"{layer}","size":9}},{{"digest":"sha384:00"}},7],"subject":{{"digest":"{subject}"}}}}"#
        ));
        assert_eq!(image.media_type.as_deref(), Some(IMAGE));
        let child = |digest: &str, size, media_type: Option<&str>| Descriptor {
            digest: digest.parse().unwrap(),
            size,
            media_type: media_type.map(str::to_owned),
            is_foreign: false,
        };
        assert_eq!(image.children, [child(&config, Some(7), Some("c")), child(&layer, Some(9), None)]);
        assert_eq!(image.subject, Some(child(&subject, None, None)));

        let index = inspect(&format!(r#"{{"manifests":[{{"digest":"{config}","size":1}}]}}"#));
        assert_eq!((index.media_type.as_deref(), index.children.len()), (Some(INDEX), 1));

        let old = inspect(&format!(r#"{{"schemaVersion":1,"fsLayers":[{{"blobSum":"{layer}"}}],"signatures":[]}}"#));
        assert_eq!((old.media_type.as_deref(), &old.children[..]), (Some(SIGNED), &[child(&layer, None, None)][..]));

        let artifact = inspect(&format!(
            r#"{{"mediaType":"{ARTIFACT}","blobs":[{{"digest":"{layer}","size":9}}],"subject":{{"digest":"{subject}"}}}}"#
        ));
        assert_eq!((artifact.media_type.as_deref(), artifact.ambiguous), (Some(ARTIFACT), false));
        assert_eq!(artifact.children, [child(&layer, Some(9), None)]);
    }

    #[test]
    fn layers_that_lie_elsewhere_are_known() {
        let layer = |more: &str| {
            let text = format!(r#"{{"layers":[{{"digest":"{}"{more}}}]}}"#, hex('a'));
            inspect(&text).children[0].is_foreign
        };
        for (more, foreign) in [
            ("", false),
            (r#","urls":[]"#, false),
            (r#","urls":["https://example.com/a"]"#, true),
            (r#","mediaType":"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip""#, true),
            (r#","mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip""#, true),
            (r#","mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip""#, false),
        ] {
            assert_eq!(layer(more), foreign, "{more}");
        }
    }

    #[test]
    fn types_agree_or_the_manifest_is_not_kept() {
        let schema2 = format!(r#"{{"mediaType":"{SCHEMA2}","config":{{}},"layers":[]}}"#);
        for (manifest, content_type, kept) in [
            (schema2.as_str(), SCHEMA2, true),
            (&schema2, &format!("{}; charset=utf-8", SCHEMA2.to_uppercase()), true),
            (&schema2, IMAGE, false),
            (&schema2, "application/json", false),
            (&schema2, "", false),
            (r#"{"config":{},"layers":[]}"#, IMAGE, true),
            (r#"{"config":{},"layers":[]}"#, INDEX, false),
            (r#"{"manifests":[]}"#, INDEX, true),
            (r#"{"manifests":[]}"#, LIST, false),
            (r#"{"manifests":[],"layers":[]}"#, INDEX, false),
            (r#"{"manifests":[],"layers":[]}"#, IMAGE, false),
            (&format!(r#"{{"mediaType":"{INDEX}","manifests":[],"config":{{}}}}"#), INDEX, false),
            (&format!(r#"{{"mediaType":"{INDEX}","layers":[]}}"#), INDEX, false),
            (&format!(r#"{{"mediaType":"{IMAGE}"}}"#), IMAGE, false),
            (r#"{"mediaType":"application/vnd.example+json"}"#, "application/vnd.example+json", true),
            (&format!(r#"{{"mediaType":"{ARTIFACT}","blobs":[]}}"#), ARTIFACT, true),
            (&format!(r#"{{"mediaType":"{ARTIFACT}","blobs":[],"layers":[]}}"#), ARTIFACT, false),
            (&format!(r#"{{"mediaType":"{IMAGE}","blobs":[]}}"#), IMAGE, false),
            (r#"{"blobs":[]}"#, ARTIFACT, false),
            (r#"{"blobs":[],"manifests":[]}"#, INDEX, false),
            ("{}", "application/json", false),
        ] {
            assert_eq!(agrees(content_type, &inspect(manifest)), kept, "{manifest} as {content_type}");
        }
    }

    /// Manifests without `mediaType`, or with one, and whether an upstream's Content-Type is enough to keep them.
    #[test]
    fn the_content_type_counts_where_the_manifest_has_the_shape() {
        let image = r#"{"schemaVersion":2,"config":{},"layers":[]}"#;
        let index = r#"{"schemaVersion":2,"manifests":[]}"#;
        let old = r#"{"schemaVersion":1,"fsLayers":[]}"#;
        let signed = r#"{"schemaVersion":1,"fsLayers":[],"signatures":[]}"#;
        let declared = format!(r#"{{"schemaVersion":2,"mediaType":"{IMAGE}","config":{{}},"layers":[]}}"#);
        let unsigned = "application/vnd.docker.distribution.manifest.v1+json";
        for (manifest, content_type, kept) in [
            (image, SCHEMA2, true),
            (image, &*format!("{SCHEMA2}; charset=utf-8"), true),
            (image, IMAGE, true),
            (index, LIST, true),
            (index, INDEX, true),
            (image, LIST, false),
            (image, INDEX, false),
            (index, SCHEMA2, false),
            (index, IMAGE, false),
            (image, unsigned, false),
            (old, unsigned, true),
            (old, SIGNED, false),
            (old, SCHEMA2, false),
            (signed, SIGNED, true),
            (signed, unsigned, false),
            (image, ARTIFACT, false),
            (image, "application/json", false),
            (&declared, IMAGE, true),
            (&declared, SCHEMA2, false),
            (r#"{"schemaVersion":2,"layers":[],"manifests":[]}"#, SCHEMA2, false),
            (r#"{"schemaVersion":2,"layers":[],"manifests":[]}"#, LIST, false),
            (r#"{"schemaVersion":2}"#, SCHEMA2, false),
            (r#"{"schemaVersion":1,"layers":[]}"#, SCHEMA2, false),
        ] {
            assert_eq!(agrees_by_shape(content_type, &inspect(manifest)), kept, "{manifest} as {content_type}");
        }
    }

    #[test]
    fn some_json_is_no_manifest() {
        for (text, is_manifest) in [
            (r#"{"schemaVersion":2}"#, true),
            (r#"{"layers":[]}"#, true),
            (r#"{"mediaType":"application/vnd.example+json"}"#, true),
            ("{}", false),
            (r#"{"errors":[{"code":"DENIED"}]}"#, false),
            (r#"{"login":"https://portal.example"}"#, false),
        ] {
            assert_eq!(inspect(text).is_manifest, is_manifest, "{text}");
        }
    }

    #[test]
    fn what_is_no_manifest_is_an_error() {
        let deep = format!("{{\"layers\":{}", "[".repeat(100_000));
        for bad in
            ["", "[]", "[1,2,3,4,5,6,7,8]", "7", "{", r#"{"mediaType":"a","mediaType":"b"}"#, "\u{feff}{}", &deep]
        {
            assert!(ManifestInfo::inspect(bad.as_bytes()).is_err());
        }
        let large = format!("{{}}{}", " ".repeat(MANIFEST_MAX_BYTES));
        assert!(matches!(ManifestInfo::inspect(large.as_bytes()), Err(ManifestError::TooLarge)));
    }
}
