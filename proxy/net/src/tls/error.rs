//! The faults of a certificate authority: one line each, with the file, the fault and the remedy.
//!
//! The administrator reads these at start (exit 78) and from `entrepot ca`. None of them carries key material.

use std::io;
use std::path::PathBuf;

/// Why the certificate authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}; check that it exists and that this user may read it", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error(
        "cannot write {}: {source}; make its directory writable for this user, or name another place in [ca]",
        path.display()
    )]
    Unwritable {
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// No such block in the file.
    #[error("{} holds no {expected} in PEM; convert it with openssl (\"-----BEGIN …\" must be in it)", path.display())]
    NotPem {
        /// The file.
        path: PathBuf,
        /// The kind of block that is missing.
        expected: &'static str,
    },
    /// PEM around something that is no X.509 certificate.
    #[error("{} holds a certificate that cannot be read ({reason}); export it again from where it was made", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The parser's message.
        reason: String,
    },
    /// A certificate that may not sign others.
    #[error("{} is not a CA certificate: {reason}; give the CA's own certificate, not a server's", path.display())]
    NotACa {
        /// The file.
        path: PathBuf,
        /// The missing property.
        reason: &'static str,
    },
    /// A certificate past its end.
    #[error(
        "the CA certificate {} expired on {not_after}; renew it, or make a new one with `entrepot ca rotate`, \
         and install it on the clients",
        path.display()
    )]
    Expired {
        /// The file.
        path: PathBuf,
        /// The last moment, RFC 3339.
        not_after: String,
    },
    /// The CA came to its end while this process ran.
    #[error(
        "the CA {subject} expired on {not_after} while running; make a new one with `entrepot ca rotate` and restart"
    )]
    Outlived {
        /// The CA's name.
        subject: String,
        /// The last moment, RFC 3339.
        not_after: String,
    },
    /// Two files that do not belong together.
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
    /// An encrypted key that no passphrase opens.
    #[error(
        "{} is encrypted and neither ca.passphrase_file nor docker-registry-proxy's passphrase opens it; \
         correct ca.passphrase_file",
        path.display()
    )]
    WrongPassphrase {
        /// The key's file.
        path: PathBuf,
    },
    /// Encrypted in a way that is not implemented.
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
    /// Neither RSA of 2048 to 8192 bits nor EC on P-256, P-384 or P-521.
    #[error("{} is not a usable key; use RSA of 2048 to 8192 bits or EC on P-256, P-384 or P-521", path.display())]
    UnsupportedKey {
        /// The key's file.
        path: PathBuf,
    },
    /// One of certificate and key.
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
    /// Signing, or preparing what is signed, failed inside.
    #[error("cannot make the certificate for {subject}: {reason}; this is a fault of entrepot, please report it")]
    Issue {
        /// Whose certificate.
        subject: String,
        /// The library's message.
        reason: String,
    },
}
