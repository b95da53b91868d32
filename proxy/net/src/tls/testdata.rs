//! Fixed keys and certificates for tests. `testdata/README` says how they were made. They are valid from 2024 to 2099.

use std::path::Path;
use std::time::Duration;

use entrepot_config::ready::CaFiles;

pub(crate) const EC_CA: &str = include_str!("testdata/ec-ca.crt");
pub(crate) const EC_SEC1: &str = include_str!("testdata/ec-sec1.pem");
pub(crate) const RSA_CA: &str = include_str!("testdata/rsa-ca.crt");
pub(crate) const RSA_PKCS1: &str = include_str!("testdata/rsa-pkcs1.pem");
pub(crate) const RSA_TRADITIONAL_3DES: &str = include_str!("testdata/rsa-traditional-3des.pem");
/// SHA-256 of its DER, lower-case hex.
pub(crate) const RSA_CA_FINGERPRINT: &str = "3e96e7c0765e4501c4cd2513bb42ba3df73b5913a7bd748eb55132ec9f4b938a";

/// The configuration of a CA in `folder`.
pub(crate) fn ca_files(folder: &Path) -> CaFiles {
    CaFiles {
        certificate: folder.join("ca.crt"),
        key: folder.join("ca.key"),
        passphrase: None,
        leaf_lifetime: Duration::from_secs(7 * 86_400),
        provided: false,
    }
}
