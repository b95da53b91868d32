//! Entries of the list of referrers: the manifests whose `subject` is a given manifest (OCI Distribution 1.1, "Listing
//! Referrers").

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::digest::Digest;

/// The media type of a list of referrers.
pub const REFERRERS_TYPE: &str = "application/vnd.oci.image.index.v1+json";

/// One entry of a list of referrers: the descriptor of a manifest.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Referrer {
    /// The manifest's Content-Type.
    pub media_type: String,
    /// The manifest's length in bytes.
    pub size: u64,
    /// The manifest's digest as text.
    pub digest: String,
    /// The `artifactType` field, or the type of the config. None if the manifest has neither.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub artifact_type: Option<String>,
    /// The manifest's annotations. None if it has none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub annotations: Option<Map<String, Value>>,
}

/// A list of referrers.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List<'a> {
    schema_version: u8,
    media_type: &'static str,
    manifests: &'a [Referrer],
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    artifact_type: Option<Value>,
    annotations: Option<Value>,
    config: Option<Value>,
}

impl Referrer {
    /// The entry of this manifest. None if it is not a JSON object.
    pub fn of(manifest: &[u8], media_type: &str, digest: &Digest) -> Option<Self> {
        let fields: Fields = serde_json::from_slice(manifest).ok()?;
        let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let own = fields.artifact_type.as_ref().and_then(text);
        let by_config = || fields.config.as_ref()?.get("mediaType").and_then(text);
        let annotations = fields.annotations.and_then(|value| match value {
            Value::Object(map) if !map.is_empty() => Some(map),
            _ => None,
        });
        Some(Self {
            media_type: media_type.to_owned(),
            size: manifest.len() as u64,
            digest: digest.to_string(),
            artifact_type: own.or_else(by_config),
            annotations,
        })
    }
}

/// The JSON text of the index that lists `referrers`.
pub fn list(referrers: &[Referrer]) -> Vec<u8> {
    let list = List { schema_version: 2, media_type: REFERRERS_TYPE, manifests: referrers };
    // Serialising maps with text keys does not fail. A client would not take an empty body for an index.
    serde_json::to_vec(&list).unwrap_or_default()
}

/// A registry's list of referrers, reduced to one type of artefact. None if it is no such list.
pub fn filtered(list: &[u8], artifact_type: &str) -> Option<Vec<u8>> {
    let mut list: Map<String, Value> = serde_json::from_slice(list).ok()?;
    let manifests = list.get_mut("manifests")?.as_array_mut()?;
    manifests.retain(|entry| entry.get("artifactType").and_then(Value::as_str) == Some(artifact_type));
    serde_json::to_vec(&list).ok()
}

/// Whether this is a list of referrers: a JSON object with the list of an index.
pub fn is_list(text: &[u8]) -> bool {
    serde_json::from_slice::<Map<String, Value>>(text)
        .is_ok_and(|list| list.get("manifests").is_some_and(Value::is_array))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Algorithm;

    const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";

    fn referrer(manifest: &str) -> Referrer {
        let digest = Digest::of(Algorithm::Sha256, manifest.as_bytes());
        Referrer::of(manifest.as_bytes(), IMAGE, &digest).expect(manifest)
    }

    #[test]
    fn the_artifact_type_is_its_own_or_its_configs() {
        for (manifest, expected) in [
            (r#"{"artifactType":"a/b","config":{"mediaType":"c/d"}}"#, Some("a/b")),
            (r#"{"artifactType":"","config":{"mediaType":"c/d"}}"#, Some("c/d")),
            (r#"{"config":{"mediaType":"c/d"}}"#, Some("c/d")),
            (r#"{"manifests":[]}"#, None),
            (r#"{"artifactType":7}"#, None),
        ] {
            assert_eq!(referrer(manifest).artifact_type.as_deref(), expected, "{manifest}");
        }
    }

    #[test]
    fn lists_are_indexes() {
        let one = referrer(r#"{"artifactType":"a/b","annotations":{"k":"v"}}"#);
        let listed: Value = serde_json::from_slice(&list(std::slice::from_ref(&one))).expect("JSON");
        assert_eq!(listed["schemaVersion"], 2);
        assert_eq!(listed["mediaType"], REFERRERS_TYPE);
        assert_eq!(listed["manifests"][0]["digest"], one.digest);
        assert_eq!(listed["manifests"][0]["annotations"]["k"], "v");
        assert_eq!(
            list(&[]),
            format!(r#"{{"schemaVersion":2,"mediaType":"{REFERRERS_TYPE}","manifests":[]}}"#).as_bytes()
        );
        let again: Referrer = serde_json::from_slice(&serde_json::to_vec(&one).expect("JSON")).expect("the same");
        assert_eq!(again, one);
    }

    #[test]
    fn a_list_is_told_from_other_answers_and_filtered_by_type() {
        let both = r#"{"schemaVersion":2,"manifests":[{"digest":"a","artifactType":"x/y"},{"digest":"b"}]}"#;
        let one = r#"{"manifests":[{"artifactType":"x/y","digest":"a"}],"schemaVersion":2}"#;
        let read = |text: &[u8]| serde_json::from_slice::<Value>(text).expect("JSON");
        assert_eq!(read(&filtered(both.as_bytes(), "x/y").expect("a list")), read(one.as_bytes()));
        assert_eq!(read(&filtered(both.as_bytes(), "z").expect("a list"))["manifests"], Value::Array(Vec::new()));
        for (text, is) in [
            (both, true),
            (r#"{"manifests":[]}"#, true),
            (r#"{"manifests":null}"#, false),
            (r#"{"errors":[]}"#, false),
            (r#"[{"manifests":[]}]"#, false),
            ("<html></html>", false),
            ("", false),
        ] {
            assert_eq!((is_list(text.as_bytes()), filtered(text.as_bytes(), "z").is_some()), (is, is), "{text}");
        }
    }
}
