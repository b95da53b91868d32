//! The certificate authority. It is opened from its files, or created at the first start.
//!
//! It is one of three kinds: our own root, the user's own CA (`files.provided`: read, never created), or
//! docker-registry-proxy's `/ca`. `files` reads and installs, `certificate` and `key` parse, `issue` signs.
//!
//! Invariant: an `Authority` has its own key and a certificate that may sign and had not expired when it was opened.

use std::path::Path;
use std::time::SystemTime;

use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::certificate::{CaCertificate, CertificateError};
use super::error::{CaError, KeyError};
use super::files::{self, PairText};
use super::issue::{self, IssueError, Validity};
use super::key::{self, CaKey};
use entrepot_config::ready::CaFiles;
use entrepot_core::secret::Secret;

/// docker-registry-proxy's passphrase. It is public, so it protects nothing and is always tried.
const PREDECESSOR_PASSPHRASE: &str = "foobar";

/// A CA that can sign leaves.
pub struct Authority {
    certificate: CaCertificate,
    key: CaKey,
}

impl Authority {
    /// Opens the CA. Creates one if neither file exists and the configuration names no files.
    pub fn open_or_create(files: &CaFiles) -> Result<Self, CaError> {
        Self::open_or_create_at(files, SystemTime::now())
    }

    /// Opens the CA, which must exist.
    pub fn open(files: &CaFiles) -> Result<Self, CaError> {
        let (certificate, key) = (&files.certificate, &files.key);
        if !files.provided && files::is_unfinished(certificate) {
            files::lock(certificate, key)?;
        }
        match files::read_pair(certificate, key)? {
            Some(pair) => Self::from_pair(files, &pair, SystemTime::now()),
            None => Err(CaError::Unreadable { path: certificate.clone(), source: std::io::ErrorKind::NotFound.into() }),
        }
    }

    /// Reads and checks a pair that is not installed yet.
    pub fn open_foreign(certificate: &Path, key: &Path, passphrase: Option<&Secret>) -> Result<Self, CaError> {
        let pair = PairText { certificate: files::read_existing(certificate)?, key: files::read_existing(key)? };
        Self::parse((certificate, &pair.certificate), (key, &pair.key), passphrase, SystemTime::now())
    }

    /// Creates a new root and installs it in place of the present one, which is kept as `.old`.
    pub fn replace(files: &CaFiles) -> Result<Self, CaError> {
        let held = files::lock(&files.certificate, &files.key)?;
        Self::generate(SystemTime::now())?.install(&held, files)
    }

    /// Installs this CA in place of the present one, which is kept as `.old`. The key is written unencrypted, mode
    /// 0600: a passphrase would have to be in a file beside it.
    pub fn install_into(self, files: &CaFiles) -> Result<Self, CaError> {
        let held = files::lock(&files.certificate, &files.key)?;
        self.install(&held, files)
    }

    /// The certificates that clients install, signer first, never a key.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate.pem
    }

    /// The same as DER. They must never vouch for an upstream (T17 in `docs/threats.md`).
    pub fn certificates(&self) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(self.certificate.pem.as_bytes()).filter_map(Result::ok).collect()
    }

    /// SHA-256 of the signer's DER, lower-case hex: the one spelling of the fingerprint.
    pub fn fingerprint_sha256(&self) -> String {
        self.certificate.fingerprint_sha256.clone()
    }

    /// The signer's name.
    pub fn subject(&self) -> &str {
        &self.certificate.subject
    }

    /// The kind of key, for people: `EC P-256`, `RSA 4096`.
    pub fn key_type(&self) -> &str {
        &self.certificate.key_type
    }

    /// The first moment at which the signer is valid.
    pub fn not_before(&self) -> SystemTime {
        self.certificate.not_before
    }

    /// The last moment at which the signer is valid.
    pub fn not_after(&self) -> SystemTime {
        self.certificate.not_after
    }

    /// A certificate for exactly these names, with the chain to send after it. Blocks: RSA takes milliseconds.
    pub(super) fn sign_leaf(
        &self,
        names: &[&str],
        validity: Validity,
        leaf_key: &KeyPair,
    ) -> Result<Vec<CertificateDer<'static>>, CaError> {
        let leaf = issue::leaf(names, validity, leaf_key, &self.certificate, &self.key)
            .map_err(|error| issue_failed(&names.join(", "), &error))?;
        Ok(std::iter::once(leaf).chain(self.certificate.sent_with_leaves.iter().cloned()).collect())
    }

    pub(super) fn open_or_create_at(files: &CaFiles, now: SystemTime) -> Result<Self, CaError> {
        let (certificate, key) = (&files.certificate, &files.key);
        let complete = certificate.exists() && key.exists() && !files::is_unfinished(certificate);
        if files.provided || complete {
            return Self::open(files);
        }
        // Two processes may start at once. The second one waits here, and then finds the files of the first.
        let held = files::lock(certificate, key)?;
        match files::read_pair(certificate, key)? {
            Some(pair) => Self::from_pair(files, &pair, now),
            None => Self::generate(now)?.install(&held, files),
        }
    }

    fn from_pair(files: &CaFiles, pair: &PairText, now: SystemTime) -> Result<Self, CaError> {
        let (certificate, key) = ((&*files.certificate, &*pair.certificate), (&*files.key, &*pair.key));
        Self::parse(certificate, key, files.passphrase.as_ref(), now)
    }

    fn parse(
        (certificate_path, certificate): (&Path, &[u8]),
        (key_path, key): (&Path, &[u8]),
        passphrase: Option<&Secret>,
        now: SystemTime,
    ) -> Result<Self, CaError> {
        let certificate =
            CaCertificate::from_pem(certificate).map_err(|error| bad_certificate(certificate_path, error))?;
        let passphrases: Vec<&str> =
            passphrase.map(Secret::expose).into_iter().chain([PREDECESSOR_PASSPHRASE]).collect();
        let key = CaKey::from_pem(key, &passphrases).map_err(|error| bad_key(key_path, error))?;
        if key.pair().public_key_raw() != certificate.public_key {
            return Err(CaError::KeyMismatch { certificate: certificate_path.into(), key: key_path.into() });
        }
        if certificate.not_after <= now {
            return Err(CaError::Expired { path: certificate_path.into(), not_after: rfc3339(certificate.not_after) });
        }
        Ok(Self { certificate, key })
    }

    fn generate(now: SystemTime) -> Result<Self, CaError> {
        let made = || -> Result<_, IssueError> {
            let key = CaKey::generate()?;
            let root = issue::root(&key, now)?;
            Ok((key, key::encode("CERTIFICATE", &root)))
        };
        let failed = |error: &dyn std::fmt::Display| issue_failed("the new CA", error);
        let (key, pem) = made().map_err(|error| failed(&error))?;
        let certificate =
            CaCertificate::from_pem(pem.as_bytes()).map_err(|_| failed(&"it does not read back as a CA"))?;
        Ok(Self { certificate, key })
    }

    fn install(self, held: &files::PairLock, files: &CaFiles) -> Result<Self, CaError> {
        let certificate = (&*files.certificate, self.certificate_pem());
        files::install(held, certificate, (&files.key, &self.key.to_pem()))?;
        Ok(self)
    }
}

/// A moment for people and JSON, in UTC.
pub fn rfc3339(moment: SystemTime) -> String {
    // Only years beyond 9999 cannot be written in this format.
    OffsetDateTime::from(moment).format(&Rfc3339).unwrap_or_else(|_| "9999-12-31T23:59:59Z".to_owned())
}

fn issue_failed(subject: &str, error: &dyn std::fmt::Display) -> CaError {
    CaError::Issue { subject: subject.to_owned(), reason: error.to_string() }
}

fn bad_certificate(path: &Path, error: CertificateError) -> CaError {
    let path = path.to_path_buf();
    match error {
        CertificateError::NotPem => CaError::NotPem { path, expected: "certificate" },
        CertificateError::Malformed(reason) => CaError::Malformed { path, reason },
        CertificateError::NotACa(reason) => CaError::NotACa { path, reason },
    }
}

pub(super) fn bad_key(path: &Path, error: KeyError) -> CaError {
    let path = path.to_path_buf();
    match error {
        KeyError::NotPem => CaError::NotPem { path, expected: "private key" },
        KeyError::WrongPassphrase => CaError::WrongPassphrase { path },
        KeyError::UnsupportedEncryption(scheme) => CaError::UnsupportedEncryption { path, scheme },
        KeyError::Unsupported => CaError::UnsupportedKey { path },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;
    use std::time::Duration;

    use super::super::testdata::{
        EC_CA, EC_SEC1, RSA_CA, RSA_CA_FINGERPRINT, RSA_PKCS1, RSA_TRADITIONAL_3DES, ca_files,
    };
    use super::*;

    /// A folder with `ca.crt` and `ca.key` as given. An empty text creates no file.
    fn pair(certificate: &str, key: &str) -> (tempfile::TempDir, CaFiles) {
        let folder = tempfile::tempdir().expect("a folder");
        let files = ca_files(folder.path());
        for (path, text) in [(&files.certificate, certificate), (&files.key, key)] {
            if !text.is_empty() {
                fs::write(path, text).expect("written");
            }
        }
        (folder, files)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("there").permissions().mode() & 0o777
    }

    #[test]
    fn the_first_start_makes_a_root_and_the_second_keeps_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = ca_files(&folder.path().join("deep/ca"));
        let made = Authority::open_or_create(&files).expect("made");
        assert_eq!((mode(&files.key), mode(&files.certificate)), (0o600, 0o644));
        assert_eq!(mode(&folder.path().join("deep/ca")), 0o700);
        let again = Authority::open_or_create(&files).expect("opened");
        assert_eq!(again.fingerprint_sha256(), made.fingerprint_sha256());
        assert_eq!(fs::read_to_string(&files.certificate).ok().as_deref(), Some(again.certificate_pem()));

        assert!(made.subject().starts_with("CN=entrepot CA "), "{}", made.subject());
        assert_eq!(made.key_type(), "EC P-256");
        let days = |from: SystemTime, to: SystemTime| to.duration_since(from).expect("later").as_secs() / 86_400;
        assert_eq!(days(made.not_before(), made.not_after()), 3653);
        assert_eq!(days(made.not_before(), SystemTime::now()), 1);
    }

    #[test]
    fn the_root_may_sign_leaves_and_nothing_below() {
        let (_folder, files) = pair("", "");
        let made = Authority::open_or_create(&files).expect("made");
        let pem = pem::parse(made.certificate_pem()).expect("PEM");
        let (_, root) = x509_parser::parse_x509_certificate(pem.contents()).expect("X.509");
        let constraints = root.basic_constraints().expect("readable").expect("there");
        assert!(constraints.critical && constraints.value.ca && constraints.value.path_len_constraint == Some(0));
        let usage = root.key_usage().expect("readable").expect("there").value;
        assert!(usage.key_cert_sign() && usage.crl_sign() && !usage.digital_signature());
    }

    #[test]
    fn two_installations_have_two_keys() {
        let ((_one, one), (_other, other)) = (pair("", ""), pair("", ""));
        let (made, made_other) = (Authority::open_or_create(&one), Authority::open_or_create(&other));
        assert_ne!(made.map(|ca| ca.subject().to_owned()).ok(), made_other.map(|ca| ca.subject().to_owned()).ok());
        assert_ne!(fs::read(&one.key).expect("a key"), fs::read(&other.key).expect("a key"));
    }

    #[test]
    fn two_first_starts_at_once_agree() {
        let (_folder, files) = pair("", "");
        let starts: Vec<_> = std::thread::scope(|scope| {
            let start = || Authority::open_or_create(&files).map(|ca| ca.fingerprint_sha256()).ok();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        let kept = Authority::open(&files).map(|ca| ca.fingerprint_sha256()).ok();
        assert!(kept.is_some() && starts.iter().all(|start| *start == kept), "{starts:?}");
    }

    #[test]
    fn the_predecessors_ca_opens_without_configuration() {
        for key in [RSA_TRADITIONAL_3DES, include_str!("testdata/rsa-pkcs8-3des.pem")] {
            let (_folder, files) = pair(RSA_CA, key);
            let ca = Authority::open_or_create(&files).expect("opened");
            assert_eq!(ca.fingerprint_sha256(), RSA_CA_FINGERPRINT);
            assert_eq!(fs::read_to_string(&files.key).expect("there"), key, "its files are left alone");
        }
    }

    #[test]
    fn a_configured_passphrase_comes_first() {
        let (_folder, files) = pair(EC_CA, include_str!("testdata/ec-traditional-aes256-hunter2.pem"));
        for (passphrase, opens) in [(None, false), (Some("hunter3"), false), (Some("hunter2"), true)] {
            let files = CaFiles { passphrase: passphrase.map(Secret::new), ..ca_files(_folder.path()) };
            assert_eq!(Authority::open_or_create(&files).is_ok(), opens, "{passphrase:?}");
        }
        assert!(matches!(Authority::open(&files), Err(CaError::WrongPassphrase { path }) if path == files.key));
    }

    #[test]
    fn unusable_files_are_named_and_left_alone() {
        type Judge = fn(&CaError) -> bool;
        let table: [(&str, &str, &str, Judge); 8] = [
            (RSA_CA, "", "ca.key", |e| matches!(e, CaError::HalfPair { .. })),
            ("", RSA_PKCS1, "ca.crt", |e| matches!(e, CaError::HalfPair { .. })),
            (EC_CA, RSA_PKCS1, "ca.key", |e| matches!(e, CaError::KeyMismatch { .. })),
            ("text", RSA_PKCS1, "ca.crt", |e| matches!(e, CaError::NotPem { expected: "certificate", .. })),
            (RSA_CA, "text", "ca.key", |e| matches!(e, CaError::NotPem { expected: "private key", .. })),
            (include_str!("testdata/ec-leaf.crt"), EC_SEC1, "ca.crt", |e| matches!(e, CaError::NotACa { .. })),
            (EC_CA, include_str!("testdata/ed25519-pkcs8.pem"), "ca.key", |e| {
                matches!(e, CaError::UnsupportedKey { .. })
            }),
            (EC_CA, include_str!("testdata/ec-pkcs8-pbes1.pem"), "ca.key", |e| {
                matches!(e, CaError::UnsupportedEncryption { .. })
            }),
        ];
        for (certificate, key, named, judge) in table {
            let (folder, files) = pair(certificate, key);
            let error = Authority::open_or_create(&files).err().expect(named);
            assert!(judge(&error), "{error:?}");
            let text = error.to_string();
            assert!(text.contains(named) && !text.contains('\n'), "{text}");
            let names = fs::read_dir(folder.path()).expect("a folder").count();
            assert_eq!(names, [certificate, key].iter().filter(|text| !text.is_empty()).count());
        }
    }

    #[test]
    fn files_that_the_user_named_are_never_made() {
        let (folder, files) = pair("", "");
        let files = CaFiles { provided: true, ..files };
        assert!(matches!(Authority::open_or_create(&files), Err(CaError::Unreadable { .. })));
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
    }

    #[test]
    fn an_expired_ca_is_refused() {
        let parse = |now| {
            let path = PathBuf::from("ca.crt");
            Authority::parse((&path, EC_CA.as_bytes()), (&path, EC_SEC1.as_bytes()), None, now)
        };
        let end = parse(SystemTime::UNIX_EPOCH).map(|ca| ca.not_after()).expect("usable in 1970");
        assert!(parse(end - Duration::from_secs(1)).is_ok());
        let error = parse(end).err().expect("expired");
        assert!(error.to_string().contains("expired on 2099-12-31T23:59:59Z"), "{error}");
    }
}
