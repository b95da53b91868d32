//! Malformed manifests, each with the field at fault, and manifests that programs really push.

use serde_json::{Value, json};

use super::*;
use crate::digest::Algorithm;

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";

fn hex(digit: char) -> String {
    format!("sha256:{}", digit.to_string().repeat(64))
}

fn layer() -> Value {
    json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": hex('b'), "size": 5})
}

fn image() -> Value {
    let config = json!({"mediaType": "application/vnd.oci.image.config.v1+json", "digest": hex('a'), "size": 2});
    json!({"schemaVersion": 2, "mediaType": OCI, "config": config, "layers": [layer()]})
}

fn index() -> Value {
    let child =
        json!({"mediaType": OCI, "digest": hex('c'), "size": 7, "platform": {"architecture": "arm64", "os": "linux"}});
    json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [child]})
}

/// The manifest with this value at a place such as `/layers/0/size`.
fn with(mut manifest: Value, pointer: &str, value: Value) -> String {
    let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
    let parent = manifest.pointer_mut(parent).expect(pointer);
    match parent {
        Value::Array(list) => list[name.parse::<usize>().expect("a number")] = value,
        _ => parent[name] = value,
    }
    manifest.to_string()
}

fn without(mut manifest: Value, parent: &str, name: &str) -> String {
    manifest.pointer_mut(parent).and_then(Value::as_object_mut).expect(parent).remove(name).expect(name);
    manifest.to_string()
}

fn field(text: &str) -> Result<(), String> {
    check(text.as_bytes(), Some(OCI)).map_err(|fault| fault.field)
}

#[test]
fn each_malformed_field_is_named() {
    let data = Digest::of(Algorithm::Sha256, b"{}").to_string();
    let embedded = |data: Value, digest: &str, size: u64| {
        with(image(), "/config", json!({"mediaType": "a/b", "digest": digest, "size": size, "data": data}))
    };
    for (text, expected) in [
        (with(image(), "/schemaVersion", json!(3)), "schemaVersion"),
        (with(image(), "/schemaVersion", json!(1)), "schemaVersion"),
        (with(image(), "/schemaVersion", json!("2")), "schemaVersion"),
        (with(image(), "/schemaVersion", json!(2.0)), "schemaVersion"),
        (with(image(), "/schemaVersion", Value::Null), "schemaVersion"),
        (without(image(), "", "schemaVersion"), "schemaVersion"),
        (without(index(), "", "schemaVersion"), "schemaVersion"),
        (with(image(), "/mediaType", json!(7)), "mediaType"),
        (with(image(), "/mediaType", json!("")), "mediaType"),
        (with(image(), "/artifactType", json!(["a/b"])), "artifactType"),
        (with(image(), "/config", json!("text")), "config"),
        (with(image(), "/config", json!([])), "config"),
        (with(image(), "/config", Value::Null), "config"),
        (without(image(), "", "config"), "config"),
        (json!({"schemaVersion": 2, "mediaType": OCI}).to_string(), "config"),
        (with(image(), "/config/digest", json!(hex('A'))), "config.digest"),
        (with(image(), "/layers", json!("text")), "layers"),
        (with(image(), "/layers", layer()), "layers"),
        (with(image(), "/layers", json!(7)), "layers"),
        (without(image(), "", "layers"), "layers"),
        (with(image(), "/layers/0", json!("text")), "layers[0]"),
        (with(image(), "/layers/0", Value::Null), "layers[0]"),
        (with(image(), "/layers/0", json!([])), "layers[0]"),
        (with(image(), "/layers/0/digest", json!("sha256:zz")), "layers[0].digest"),
        (with(image(), "/layers/0/digest", json!("sha512:00")), "layers[0].digest"),
        (with(image(), "/layers/0/digest", json!("sha256")), "layers[0].digest"),
        (with(image(), "/layers/0/digest", json!("")), "layers[0].digest"),
        (with(image(), "/layers/0/digest", json!("Blake3:abc")), "layers[0].digest"),
        (with(image(), "/layers/0/digest", json!("sha256:../../etc/passwd")), "layers[0].digest"),
        (with(image(), "/layers/0/digest", json!(7)), "layers[0].digest"),
        (with(image(), "/layers/0/digest", Value::Null), "layers[0].digest"),
        (without(image(), "/layers/0", "digest"), "layers[0].digest"),
        (with(image(), "/layers/0/size", json!(-1)), "layers[0].size"),
        (with(image(), "/layers/0/size", json!("5")), "layers[0].size"),
        (with(image(), "/layers/0/size", json!(5.5)), "layers[0].size"),
        (with(image(), "/layers/0/size", json!(u64::MAX)), "layers[0].size"),
        (with(image(), "/layers/0/size", json!(1e300)), "layers[0].size"),
        (with(image(), "/layers/0/size", Value::Null), "layers[0].size"),
        (without(image(), "/layers/0", "size"), "layers[0].size"),
        (with(image(), "/layers/0/mediaType", json!(true)), "layers[0].mediaType"),
        (without(image(), "/layers/0", "mediaType"), "layers[0].mediaType"),
        (with(image(), "/layers/0/urls", json!("https://a")), "layers[0].urls"),
        (with(image(), "/layers/0/urls", json!([7])), "layers[0].urls[0]"),
        (with(image(), "/layers/0/annotations", json!([])), "layers[0].annotations"),
        (with(image(), "/annotations", json!({"a": 7})), "annotations"),
        (with(image(), "/annotations", json!({"a": null})), "annotations"),
        (with(image(), "/annotations", json!("a")), "annotations"),
        (with(image(), "/subject", json!("text")), "subject"),
        (with(image(), "/subject", json!({"digest": hex('d'), "size": 1})), "subject.mediaType"),
        (with(image(), "/subject", json!({"mediaType": OCI, "digest": "sha256:x", "size": 1})), "subject.digest"),
        (embedded(json!("e30="), &hex('a'), 2), "config.data"),
        (embedded(json!("e30="), &data, 3), "config.data"),
        (embedded(json!("%%%"), &data, 2), "config.data"),
        (embedded(json!({}), &data, 2), "config.data"),
        (with(index(), "/manifests", json!({})), "manifests"),
        (with(index(), "/manifests/0/digest", json!("sha256:zz")), "manifests[0].digest"),
        (with(index(), "/manifests/0/platform", json!("linux/arm64")), "manifests[0].platform"),
        (with(index(), "/manifests/0/platform/os", json!(7)), "manifests[0].platform.os"),
        (with(index(), "/manifests/0/platform", json!({"os.features": "a"})), "manifests[0].platform.os.features"),
        (json!({"mediaType": "a/b", "blobs": [{"digest": "x"}]}).to_string(), "blobs[0].digest"),
        // Parsers differ on which of two they read.
        (image().to_string().replacen('{', r#"{"layers":[],"#, 1), "layers"),
        (image().to_string().replacen('{', r#"{"Layers":[],"#, 1), "layers"),
        (image().to_string().replacen('{', "{\"layer\u{17f}\":[],", 1), "layers"),
        (image().to_string().replace("\"size\":5", "\"size\":5,\"Digest\":\"\""), "layers[0].digest"),
        (image().to_string().replace("\"size\":5", "\"size\":5,\"size\":6"), "layers[0].size"),
        ("[]".into(), "manifest"),
        ("\"text\"".into(), "manifest"),
        ("null".into(), "manifest"),
        (String::new(), "manifest"),
        ("{".into(), "manifest"),
        (image().to_string() + "{}", "manifest"),
        (image().to_string().replace("\"size\":5", "\"size\":05"), "manifest"),
    ] {
        assert_eq!(field(&text), Err(expected.to_owned()), "{text}");
    }
}

#[test]
fn what_programs_really_push_is_taken() {
    let empty = Digest::of(Algorithm::Sha256, b"{}").to_string();
    let descriptor = |kind: &str| json!({"mediaType": kind, "digest": hex('e'), "size": 9});
    let empty = json!({"mediaType": "application/vnd.oci.empty.v1+json", "digest": empty, "size": 2, "data": "e30="});
    for manifest in [
        image(),
        index(),
        // Go writes an empty list as null.
        json!({"schemaVersion": 2, "config": descriptor("a/b"), "layers": null, "annotations": null, "subject": null}),
        json!({"schemaVersion": 2, "mediaType": OCI, "config": descriptor("a/b"), "layers": []}),
        json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}),
        // Docker's schema 2 with a foreign layer.
        json!({"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": descriptor("application/vnd.docker.container.image.v1+json"),
            "layers": [{"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "digest": hex('f'),
                "size": 0, "urls": ["https://mcr.example/layer"]}]}),
        // Docker's manifest list, with a field of its own.
        json!({"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.list.v2+json",
            "manifests": [{"mediaType": "application/vnd.docker.distribution.manifest.v2+json", "digest": hex('f'),
                "size": 9, "platform": {"architecture": "amd64", "os": "windows", "os.version": "10.0",
                "os.features": ["win32k"], "features": ["sse4"], "variant": ""}}]}),
        // BuildKit: an attestation, and its cache, whose index lists layers.
        json!({"schemaVersion": 2, "manifests": [{"mediaType": OCI, "digest": hex('f'), "size": 9,
            "annotations": {"vnd.docker.reference.type": "attestation-manifest"},
            "platform": {"architecture": "unknown", "os": "unknown"}}]}),
        json!({"schemaVersion": 2, "manifests": [layer(), descriptor("application/vnd.buildkit.cacheconfig.v0")]}),
        // ORAS, Helm, cosign, wasm.
        json!({"schemaVersion": 2, "mediaType": OCI, "artifactType": "application/vnd.example+type", "config": empty,
            "layers": [empty], "subject": descriptor(OCI), "annotations": {"org.opencontainers.image.created": "x"}}),
        json!({"schemaVersion": 2, "artifactType": "", "config": descriptor("application/vnd.cncf.helm.config.v1+json"),
            "layers": [descriptor("application/vnd.cncf.helm.chart.content.v1.tar+gzip")]}),
        json!({"schemaVersion": 2, "config": descriptor("application/vnd.oci.image.config.v1+json"), "layers": [{
            "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json", "digest": hex('f'), "size": 9,
            "annotations": {"dev.cosignproject.cosign/signature": "MEUCIQ", "Digest": "x", "Layers": ""}}]}),
        json!({"mediaType": "application/vnd.cncf.oras.artifact.manifest.v1+json", "artifactType": "a/b",
            "blobs": [descriptor("a/b")], "subject": descriptor(OCI)}),
        json!({"mediaType": "application/vnd.oci.artifact.manifest.v1+json", "artifactType": "a/b"}),
        // Fields that nobody knows, of any type.
        json!({"schemaVersion": 2, "config": descriptor("a/b"), "layers": [], "x": {"Layers": [7, null]}, "signatures": 1}),
        json!({"schemaVersion": 2, "config": {"mediaType": "a/b", "digest": hex('f'), "size": 9, "x": []}, "layers": []}),
        // A registered algorithm that we do not compute.
        json!({"schemaVersion": 2, "config": descriptor("a/b"), "layers": [
            {"mediaType": "a/b", "digest": "blake3:0a1b2c", "size": 1},
            {"mediaType": "a/b", "digest": "multihash+base58:QmRZxt2b1FVZ", "size": 1}]}),
    ] {
        let content_type = manifest["mediaType"].as_str().or(Some(OCI));
        assert_eq!(check(manifest.to_string().as_bytes(), content_type), Ok(()), "{manifest}");
    }
    let spaced = format!(" \n{}\n", serde_json::to_string_pretty(&image()).expect("JSON"));
    assert_eq!(field(&spaced), Ok(()));
    assert_eq!(field(r#"{"schemaVersion":1,"fsLayers":7}"#), Ok(()), "schema 1 is refused elsewhere, as a whole");
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "(\\{|\\}|\\[|\\]|:|,|\"config\"|\"layers\"|\"digest\"|\"sha256:aa\"|7|-1|null|\"data\"){0,30}") {
        let _ = check(text.as_bytes(), Some(OCI));
    }
}
