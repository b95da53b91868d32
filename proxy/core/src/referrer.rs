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

/// The longest list in one answer: clients take it for a manifest (OCI Distribution 1.1, "Listing Referrers").
pub const LIST_MAX_BYTES: usize = 4 << 20;

const LIST_END: &[u8] = b"]}";

/// The part of an entry's JSON text that decides whether it is listed. Its annotations are not read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EntryHead {
    media_type: String,
    size: u64,
    digest: String,
    #[serde(default)]
    artifact_type: Option<String>,
}

/// A list of referrers as it grows, from the JSON texts of its entries.
pub struct ListText {
    text: Vec<u8>,
    entries: usize,
}

impl EntryHead {
    /// Reads an entry. None if it is no entry's text.
    pub fn read(entry: &[u8]) -> Option<Self> {
        serde_json::from_slice(entry).ok()
    }

    /// The type that lists are filtered by.
    pub fn artifact_type(&self) -> Option<&String> {
        self.artifact_type.as_ref()
    }

    /// The entry without its annotations.
    fn bare(&self) -> Referrer {
        Referrer {
            media_type: self.media_type.clone(),
            size: self.size,
            digest: self.digest.clone(),
            artifact_type: self.artifact_type.clone(),
            annotations: None,
        }
    }
}

impl Default for ListText {
    fn default() -> Self {
        let text = format!(r#"{{"schemaVersion":2,"mediaType":"{REFERRERS_TYPE}","manifests":["#).into_bytes();
        Self { text, entries: 0 }
    }
}

impl ListText {
    /// Adds an entry. False, and nothing is added, if the list would be longer than [`LIST_MAX_BYTES`]. An entry that
    /// alone is too long is added without its annotations, which are in its manifest as well.
    pub fn add(&mut self, entry: &[u8], head: &EntryHead) -> bool {
        if self.fits(entry) {
            self.append(entry);
            return true;
        }
        if self.entries > 0 {
            return false;
        }
        // Serialising texts and numbers does not fail.
        let bare = serde_json::to_vec(&head.bare()).unwrap_or_default();
        if !bare.is_empty() && self.fits(&bare) {
            self.append(&bare);
        }
        true
    }

    /// The JSON text of the index that lists what was added.
    pub fn finish(mut self) -> Vec<u8> {
        self.text.extend_from_slice(LIST_END);
        self.text
    }

    fn fits(&self, entry: &[u8]) -> bool {
        self.text.len() + 1 + entry.len() + LIST_END.len() <= LIST_MAX_BYTES
    }

    fn append(&mut self, entry: &[u8]) {
        if self.entries > 0 {
            self.text.push(b',');
        }
        self.text.extend_from_slice(entry);
        self.entries += 1;
    }
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

    fn entry(referrer: &Referrer) -> Vec<u8> {
        serde_json::to_vec(referrer).expect("JSON")
    }

    fn add(list: &mut ListText, entry: &[u8]) -> bool {
        list.add(entry, &EntryHead::read(entry).expect("an entry"))
    }

    #[test]
    fn lists_are_indexes() {
        let (one, other) = (referrer(r#"{"artifactType":"a/b","annotations":{"k":"v"}}"#), referrer("{}"));
        let mut list = ListText::default();
        assert!(add(&mut list, &entry(&one)) && add(&mut list, &entry(&other)));
        let listed: Value = serde_json::from_slice(&list.finish()).expect("JSON");
        assert_eq!(listed["schemaVersion"], 2);
        assert_eq!(listed["mediaType"], REFERRERS_TYPE);
        assert_eq!(listed["manifests"][0]["digest"], one.digest);
        assert_eq!(listed["manifests"][0]["annotations"]["k"], "v");
        assert_eq!(listed["manifests"][1]["digest"], other.digest);
        assert_eq!(
            ListText::default().finish(),
            format!(r#"{{"schemaVersion":2,"mediaType":"{REFERRERS_TYPE}","manifests":[]}}"#).as_bytes()
        );
        let again: Referrer = serde_json::from_slice(&entry(&one)).expect("the same");
        assert_eq!(again, one);
        assert!(EntryHead::read(b"{}").is_none() && EntryHead::read(b"not JSON").is_none());
    }

    #[test]
    fn lists_end_before_they_are_longer_than_a_manifest() {
        let long = |bytes: usize| {
            let text = format!(r#"{{"artifactType":"a/b","annotations":{{"k":"{}"}}}}"#, "v".repeat(bytes));
            entry(&referrer(&text))
        };
        let mut list = ListText::default();
        assert!(add(&mut list, &long(LIST_MAX_BYTES / 2)));
        assert!(!add(&mut list, &long(LIST_MAX_BYTES / 2)), "the second is for the next page");
        assert!(add(&mut list, &long(10)));
        assert!(list.finish().len() <= LIST_MAX_BYTES);
        let mut list = ListText::default();
        assert!(add(&mut list, &long(LIST_MAX_BYTES)), "no page has room for it, so its annotations are left out");
        let text = list.finish();
        let listed: Value = serde_json::from_slice(&text).expect("JSON");
        assert_eq!((&listed["manifests"][0]["artifactType"], text.len() < 1000), (&"a/b".into(), true));
        assert!(listed["manifests"][0].get("annotations").is_none());
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
