//! Fixed keys and certificates for tests. `testdata/README` says how they were made. They are valid from 2024 to 2099.

use std::path::Path;
use std::time::Duration;

use entrepot_config::ready::CaFiles;

pub(crate) const EC_CA: &str = include_str!("testdata/ec-ca.crt");
pub(crate) const EC_SEC1: &str = include_str!("testdata/ec-sec1.pem");
pub(crate) const RSA_CA: &str = include_str!("testdata/rsa-ca.crt");
pub(crate) const RSA_PKCS1: &str = include_str!("testdata/rsa-pkcs1.pem");
pub(crate) const RSA_TRADITIONAL_3DES: &str = include_str!("testdata/rsa-traditional-3des.pem");
/// As `openssl x509 -fingerprint -sha256` prints it.
pub(crate) const RSA_CA_FINGERPRINT: &str =
    "3E:96:E7:C0:76:5E:45:01:C4:CD:25:13:BB:42:BA:3D:F7:3B:59:13:A7:BD:74:8E:B5:51:32:EC:9F:4B:93:8A";

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
