//! Reading a pushed manifest, away from the serving threads: hashing and parsing 4 MiB takes tens of milliseconds, in
//! which a serving thread would answer nobody. A few are read at once, so that the memory of it is bounded.

use std::sync::Arc;

use entrepot_core::digest::{Algorithm, Digest};
use entrepot_core::error::ErrorCode;
use entrepot_core::media::{self, ManifestInfo, ManifestType};
use entrepot_core::name::Reference;
use entrepot_core::pushed_manifest;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::error::RegistryError;
use entrepot_net::http::held_body::HeldBody;
use entrepot_store::{PushedBy, PushedManifest};

/// Manifests that are read at once.
const READING_MAX: usize = 2;

/// Reads manifests. Clones share the turns.
#[derive(Clone)]
pub(super) struct ManifestReader {
    turns: Arc<Semaphore>,
}

/// The words of a push about its manifest.
pub(super) struct Told {
    pub(super) reference: Reference,
    pub(super) content_type: Option<String>,
    pub(super) pushed_by: PushedBy,
}

/// A manifest that may be taken.
pub(super) struct ReadManifest {
    pub(super) manifest: PushedManifest,
    pub(super) info: ManifestInfo,
}

impl Default for ManifestReader {
    fn default() -> Self {
        Self { turns: Arc::new(Semaphore::new(READING_MAX)) }
    }
}

impl ManifestReader {
    /// Reads and judges what was sent.
    pub(super) async fn read(&self, body: HeldBody, told: Told) -> Result<(HeldBody, ReadManifest), RegistryError> {
        let turn = self.turns.clone().acquire_owned().await.map_err(|_| RegistryError::DiskFailed)?;
        let reading = spawn_blocking(move || {
            // A client that leaves does not end the work, which so keeps its turn.
            let _turn = turn;
            let read = read(body.bytes(), &told)?;
            Ok((body, read))
        });
        let outcome = reading.await;
        outcome
            .inspect_err(|error| tracing::error!("reading a manifest failed, please report this: {error}"))
            .unwrap_or(Err(RegistryError::DiskFailed))
    }
}

fn read(bytes: &[u8], told: &Told) -> Result<ReadManifest, RegistryError> {
    let invalid = |why: String| RegistryError::invalid(ErrorCode::ManifestInvalid, why);
    let digest = match told.reference {
        Reference::Digest(named) => {
            let digest = Digest::of(named.algorithm(), bytes);
            if digest != named {
                return Err(RegistryError::invalid(ErrorCode::DigestInvalid, "the manifest does not have this digest"));
            }
            digest
        }
        Reference::Tag(_) => Digest::of(Algorithm::Sha256, bytes),
    };
    let content_type = told.content_type.as_deref().map(|text| text.split(';').next().unwrap_or_default().trim());
    pushed_manifest::check(bytes, content_type).map_err(|fault| invalid(fault.to_string()))?;
    let info = ManifestInfo::inspect(bytes).map_err(|error| invalid(error.to_string()))?;
    let media_type = match (content_type, info.media_type.as_deref()) {
        (_, own) if own.map(ManifestType::of).is_some_and(is_schema1) => {
            return Err(invalid(
                "schemaVersion: manifests of Docker's schema 1 are not taken; push schema 2 or OCI".into(),
            ));
        }
        (Some(told), _) if media::agrees(told, &info) => told.to_owned(),
        (None, Some(own)) if !info.ambiguous => own.to_owned(),
        _ if info.ambiguous => {
            return Err(invalid("mediaType: the manifest has fields of another kind of manifest".into()));
        }
        _ => {
            let why = "mediaType: the Content-Type is not the type that the manifest has by its own words";
            return Err(invalid(why.into()));
        }
    };
    Ok(ReadManifest { manifest: PushedManifest::of(digest, &media_type, &info, bytes, told.pushed_by), info })
}

fn is_schema1(known: Option<ManifestType>) -> bool {
    matches!(known, Some(ManifestType::Schema1 | ManifestType::Schema1Signed))
}
