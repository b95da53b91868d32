//! Signed manifests of Docker's schema 1, which quay.io still has. Their digest is not that of their bytes: it is the
//! digest of the payload that the signatures cover (distribution's "Image Manifest Version 2, Schema 1", "Signed
//! Manifests"). The payload is the text up to a certain length, and a tail; each signature tells both.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use crate::digest::{Algorithm, Digest};

#[derive(Deserialize)]
struct Signed {
    signatures: Vec<Signature>,
}

#[derive(Deserialize)]
struct Signature {
    protected: String,
}

#[derive(Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
struct Protected {
    format_length: usize,
    format_tail: String,
}

/// The digest of the payload of a signed manifest. None if it is not signed, or its signatures tell different payloads.
/// The signatures themselves are not checked: the digest names the payload.
pub fn payload_digest(bytes: &[u8], algorithm: Algorithm) -> Option<Digest> {
    let signed: Signed = serde_json::from_slice(bytes).ok()?;
    let mut told = signed.signatures.iter().map(|signature| {
        let protected = decoded(&signature.protected)?;
        serde_json::from_slice::<Protected>(&protected).ok()
    });
    let first = told.next()??;
    if !told.all(|other| other.as_ref() == Some(&first)) {
        return None;
    }
    let payload = [bytes.get(..first.format_length)?, &decoded(&first.format_tail)?].concat();
    Some(Digest::of(algorithm, &payload))
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "{\n   \"schemaVersion\": 1,\n   \"fsLayers\": []";
    const TAIL: &str = "\n}";

    fn protected(length: usize, tail: &str) -> String {
        let tail = URL_SAFE_NO_PAD.encode(tail);
        URL_SAFE_NO_PAD
            .encode(format!(r#"{{"formatLength":{length},"formatTail":"{tail}","time":"2015-01-01T00:00:00Z"}}"#))
    }

    fn signed(protected: &[String]) -> String {
        let signatures = protected
            .iter()
            .map(|protected| format!(r#"{{"header":{{"alg":"ES256"}},"signature":"x","protected":"{protected}"}}"#));
        format!("{HEAD},\n   \"signatures\": [{}]\n}}", signatures.collect::<Vec<_>>().join(","))
    }

    #[test]
    fn the_digest_is_that_of_what_was_signed() {
        let payload = Some(Digest::of(Algorithm::Sha256, format!("{HEAD}{TAIL}").as_bytes()));
        let (good, length) = (protected(HEAD.len(), TAIL), HEAD.len());
        let padded = format!("{good}==");
        let other = protected(length - 1, TAIL);
        for (text, digest) in [
            (signed(std::slice::from_ref(&good)), payload),
            (signed(&[good.clone(), good.clone()]), payload),
            (signed(&[padded]), payload),
            (signed(&[]), None),
            (signed(&[good.clone(), other]), None),
            (signed(&[protected(100_000, TAIL)]), None),
            (signed(&["!".to_owned()]), None),
            (signed(&[URL_SAFE_NO_PAD.encode("{}")]), None),
            (signed(&[URL_SAFE_NO_PAD.encode(r#"{"formatLength":-1,"formatTail":""}"#)]), None),
            (format!("{HEAD}{TAIL}"), None),
            ("[]".to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(payload_digest(text.as_bytes(), Algorithm::Sha256), digest, "{text}");
        }
        let moved = signed(&[protected(length - 1, TAIL)]);
        assert_ne!(payload_digest(moved.as_bytes(), Algorithm::Sha256), payload, "other bytes, another digest");
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "(\\{|\"signatures\":|\\[|\"protected\":|\"e30\"|\\}|\\]|,|é){0,12}") {
            let _ = payload_digest(text.as_bytes(), Algorithm::Sha256);
        }
    }
}
