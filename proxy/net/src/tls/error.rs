//! The faults of a certificate authority: one line each, with the file, the fault and the remedy. A `KeyError` has no
//! file yet; `authority` adds it.
//!
//! The administrator reads these at start (exit 78) and from `entrepot ca`. None of them carries key material.

use std::io;
use std::path::PathBuf;

use entrepot_kernel::disk_refusal::DiskRefusal;

/// The remedy for a file that cannot be written.
fn remedy(source: &io::Error) -> &'static str {
    DiskRefusal::of(source).map_or("make its directory writable for this user", DiskRefusal::remedy)
}

/// The reason why the certificate authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}; check that it exists and that this user may read it", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// A file cannot be written.
    #[error(
        "cannot write {}: {source}; {}, or name another place in [ca]",
        path.display(), remedy(source)
    )]
    Unwritable {
        /// The file or directory.
        path: PathBuf,
        source: io::Error,
    },
    /// The file has no such block.
    #[error("{} holds no {expected} in PEM; convert it with openssl (\"-----BEGIN …\" must be in it)", path.display())]
    NotPem {
        path: PathBuf,
        /// The kind of block that is missing.
        expected: &'static str,
    },
    /// The PEM block is not an X.509 certificate.
    #[error("{} holds a certificate that cannot be read ({reason}); export it again from where it was made", path.display())]
    Malformed {
        path: PathBuf,
        /// The parser's message.
        reason: String,
    },
    /// The certificate may not sign others.
    #[error("{} is not a CA certificate: {reason}; give the CA's own certificate, not a server's", path.display())]
    NotACa {
        path: PathBuf,
        /// The missing property.
        reason: &'static str,
    },
    /// The certificate has expired.
    #[error(
        "the CA certificate {} expired on {not_after}; renew it, or make a new one with `entrepot ca rotate`, \
         and install it on the clients",
        path.display()
    )]
    Expired {
        path: PathBuf,
        /// The last valid moment, RFC 3339.
        not_after: String,
    },
    /// The CA expired while this process ran.
    #[error(
        "the CA {subject} expired on {not_after} while running; make a new one with `entrepot ca rotate` and restart"
    )]
    Outlived {
        /// The CA's name.
        subject: String,
        /// The last valid moment, RFC 3339.
        not_after: String,
    },
    /// The certificate and the key do not belong together.
    #[error(
        "the key {} does not belong to the first certificate in {}; give the matching pair, signer first",
        key.display(), certificate.display()
    )]
    KeyMismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// No passphrase opens the encrypted key.
    #[error(
        "{} is encrypted and neither ca.passphrase_file nor docker-registry-proxy's passphrase opens it; \
         correct ca.passphrase_file",
        path.display()
    )]
    WrongPassphrase {
        /// The key's file.
        path: PathBuf,
    },
    /// The key is encrypted in a way that is not implemented.
    #[error(
        "{} is encrypted with {scheme}, which is not supported; rewrite it with `openssl pkey -aes256 -in OLD -out NEW`",
        path.display()
    )]
    UnsupportedEncryption {
        /// The key's file.
        path: PathBuf,
        /// The scheme's name.
        scheme: String,
    },
    /// The key is neither RSA of 2048 to 8192 bits nor EC on P-256, P-384 or P-521.
    #[error("{} is not a usable key; use RSA of 2048 to 8192 bits or EC on P-256, P-384 or P-521", path.display())]
    UnsupportedKey {
        /// The key's file.
        path: PathBuf,
    },
    /// Only one of certificate and key exists.
    #[error(
        "{} exists but {} does not; restore the missing file, or move the other one away to have a new CA made",
        present.display(), missing.display()
    )]
    HalfPair {
        /// The file that is there.
        present: PathBuf,
        /// The file that is not.
        missing: PathBuf,
    },
    /// A certificate could not be encoded or signed, because of a fault of ours.
    #[error("cannot make the certificate for {subject}: {reason}; this is a fault of entrepot, please report it")]
    Issue {
        /// The name in the certificate.
        subject: String,
        /// The library's message.
        reason: String,
    },
}

/// The reason why bytes are not a usable key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum KeyError {
    /// The bytes contain no private key in PEM.
    NotPem,
    /// No passphrase opens the encrypted key.
    WrongPassphrase,
    /// The key is encrypted in a way that is not implemented.
    UnsupportedEncryption(String),
    /// The key is not RSA or EC, or its size or curve is unsafe or not supported everywhere.
    Unsupported,
}
