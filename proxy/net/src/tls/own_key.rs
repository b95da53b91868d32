//! The key of this server's own name. It is kept in the data directory, so it stays while the certificates for it are
//! renewed: a client that knows it needs no CA to know this server.
//!
//! The key of the other leaves lives as long as the process (`leaf`).

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::PublicKeyData as _;

use super::authority::bad_key;
use super::error::CaError;
use super::files;
use super::key::CaKey;

/// The name of its file in the data directory.
const FILE: &str = "own-name.key";

/// The key.
pub struct OwnKey(CaKey);

impl OwnKey {
    /// Reads the key in the data directory. Makes one if there is none.
    pub fn open_or_create(data_dir: &Path) -> Result<Self, CaError> {
        let path = data_dir.join(FILE);
        if let Some(text) = files::read(&path)? {
            return CaKey::from_pem(&text, &[]).map(Self).map_err(|error| bad_key(&path, error));
        }
        let key = Self::generate()?;
        files::write_private(&path, &key.0.to_pem())?;
        Ok(key)
    }

    /// A new key that is kept nowhere.
    pub fn generate() -> Result<Self, CaError> {
        let made = CaKey::generate();
        made.map(Self).map_err(|error| CaError::Issue {
            subject: "the key of the own name".to_owned(),
            reason: error.to_string(),
        })
    }

    /// SHA-256 of the public key as curl's `--pinnedpubkey` takes it: `sha256//` and base64.
    pub fn pin(&self) -> String {
        let public = self.0.pair().subject_public_key_info();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &public);
        format!("sha256//{}", STANDARD.encode(digest))
    }

    pub(super) fn key(&self) -> &CaKey {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_key_stays_in_its_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let pin = OwnKey::open_or_create(folder.path()).expect("a key").pin();
        assert!(pin.starts_with("sha256//") && pin.len() == 8 + 44, "{pin}");
        assert_eq!(OwnKey::open_or_create(folder.path()).expect("the key").pin(), pin);
        let path = folder.path().join(FILE);
        assert_eq!(std::fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
        assert_ne!(OwnKey::generate().expect("a key").pin(), pin);
        std::fs::write(&path, "no key").expect("written");
        assert!(matches!(OwnKey::open_or_create(folder.path()), Err(CaError::NotPem { .. })));
    }
}
