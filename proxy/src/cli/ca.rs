//! `entrepot ca`: shows the certificate authority, exports its certificate, and replaces it.
//!
//! `tls::authority` does the work. Invariants: no key material is printed. Files that the configuration names are never
//! written.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Subcommand;

use entrepot_config::ready::CaFiles;
use entrepot_core::exit;
use entrepot_core::secret::Secret;
use entrepot_net::tls::authority::{Authority, rfc3339};
use entrepot_net::tls::{CaError, files};

/// The actions on the certificate authority.
#[derive(Debug, Subcommand)]
pub enum CaCommand {
    /// Show the CA: subject, SHA-256 fingerprint, validity, key type and file
    Show {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Write the certificate that clients install, as PEM
    Export {
        /// Write to this file instead of stdout
        #[arg(long, short)]
        output: Option<PathBuf>,
    },
    /// Check a CA of your own and install it in place of the current one, which is kept as .old
    Import {
        /// The certificate, PEM; its chain may follow in the same file
        #[arg(long)]
        cert: PathBuf,
        /// Its key, PEM: RSA or EC, PKCS#1, PKCS#8 or SEC1; stored decrypted, mode 0600
        #[arg(long)]
        key: PathBuf,
        /// A file with the passphrase of an encrypted key
        #[arg(long)]
        passphrase_file: Option<PathBuf>,
    },
    /// Make a new CA, which every client must install; the current one is kept as .old
    Rotate {
        /// Confirm
        #[arg(long, short)]
        yes: bool,
    },
}

/// The reason why a command on the CA failed.
#[derive(Debug, thiserror::Error)]
pub enum CaCommandError {
    /// The CA is unusable: the present one, or the one to install.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The configuration names the files, so they belong to the user.
    #[error(
        "[ca] names your own files, which entrepot only reads: replace {} and {} yourself and restart the server, or \
         remove both settings to let entrepot keep its CA in its data directory",
        certificate.display(), key.display()
    )]
    Provided { certificate: PathBuf, key: PathBuf },
    /// The rotation was not confirmed.
    #[error("every client will refuse connections until it has the new certificate; confirm with --yes")]
    Unconfirmed,
    #[error("cannot write the answer: {0}")]
    Output(#[from] io::Error),
}

impl CaCommandError {
    /// The exit code, from sysexits.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Unconfirmed => exit::USAGE,
            Self::Output(_) => exit::IO,
            Self::Ca(_) | Self::Provided { .. } => exit::CONFIGURATION,
        }
    }
}

/// Runs one command and writes its answer to `out`.
pub fn run(command: &CaCommand, ca: &CaFiles, out: &mut impl Write) -> Result<(), CaCommandError> {
    match command {
        CaCommand::Show { json } => show(&Authority::open(ca)?, ca, *json, out),
        CaCommand::Export { output } => export(&Authority::open(ca)?, output.as_deref(), out),
        CaCommand::Import { cert, key, passphrase_file } => {
            refuse_provided(ca)?;
            let passphrase = passphrase_file.as_deref().map(read_passphrase).transpose()?;
            let authority = Authority::open_foreign(cert, key, passphrase.as_ref())?.install_into(ca)?;
            report_replaced("imported", &authority, ca, out)
        }
        CaCommand::Rotate { yes } => {
            refuse_provided(ca)?;
            if !yes {
                return Err(CaCommandError::Unconfirmed);
            }
            report_replaced("made", &Authority::replace(ca)?, ca, out)
        }
    }
}

fn show(authority: &Authority, ca: &CaFiles, json: bool, out: &mut impl Write) -> Result<(), CaCommandError> {
    let facts = [
        ("subject", authority.subject().to_owned()),
        ("fingerprint_sha256", authority.fingerprint_sha256()),
        ("not_before", rfc3339(authority.not_before())),
        ("not_after", rfc3339(authority.not_after())),
        ("key_type", authority.key_type().to_owned()),
        ("certificate", ca.certificate.display().to_string()),
        ("key", ca.key.display().to_string()),
    ];
    if json {
        let object: serde_json::Map<_, _> =
            facts.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        writeln!(out, "{}", serde_json::Value::Object(object))?;
    } else {
        for (name, value) in facts {
            writeln!(out, "{:<20}{value}", name.replace('_', " "))?;
        }
    }
    Ok(())
}

fn export(authority: &Authority, output: Option<&Path>, out: &mut impl Write) -> Result<(), CaCommandError> {
    match output {
        Some(path) => files::write_public(path, authority.certificate_pem())?,
        None => out.write_all(authority.certificate_pem().as_bytes())?,
    }
    Ok(())
}

fn refuse_provided(ca: &CaFiles) -> Result<(), CaCommandError> {
    if ca.provided {
        return Err(CaCommandError::Provided { certificate: ca.certificate.clone(), key: ca.key.clone() });
    }
    Ok(())
}

fn read_passphrase(path: &Path) -> Result<Secret, CaError> {
    let bytes = files::read_existing(path)?;
    let text = String::from_utf8(bytes).map_err(|_| CaError::Unreadable {
        path: path.into(),
        source: io::Error::new(io::ErrorKind::InvalidData, "the passphrase is not UTF-8"),
    })?;
    Ok(Secret::new(text.trim_end_matches(['\r', '\n'])))
}

fn report_replaced(
    verb: &str,
    authority: &Authority,
    ca: &CaFiles,
    out: &mut impl Write,
) -> Result<(), CaCommandError> {
    writeln!(out, "{verb} {} in {}", authority.subject(), ca.certificate.display())?;
    writeln!(out, "SHA-256 {}", authority.fingerprint_sha256())?;
    let old = files::beside(&ca.certificate, ".old");
    if old.exists() {
        writeln!(out, "the CA before is kept in {} and {}", old.display(), files::beside(&ca.key, ".old").display())?;
    }
    writeln!(out, "now restart a running server, and install the new certificate on every client")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use std::path::Path;
    use std::time::Duration;

    const EC_CA: &str = include_str!("../../net/src/tls/testdata/ec-ca.crt");

    /// The configuration of a CA in `folder`.
    fn ca_files(folder: &Path) -> CaFiles {
        CaFiles {
            certificate: folder.join("ca.crt"),
            key: folder.join("ca.key"),
            passphrase: None,
            leaf_lifetime: Duration::from_secs(7 * 86_400),
            provided: false,
        }
    }

    fn answer(command: &CaCommand, ca: &CaFiles) -> String {
        let mut out = Vec::new();
        run(command, ca, &mut out).expect("done");
        String::from_utf8(out).expect("text")
    }

    fn refusal(command: &CaCommand, ca: &CaFiles) -> CaCommandError {
        let mut out = Vec::new();
        let error = run(command, ca, &mut out).expect_err("refused");
        assert!(out.is_empty());
        error
    }

    #[test]
    fn show_and_export_describe_what_is_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let ca = ca_files(&folder.path().join("ca"));
        assert!(matches!(
            refusal(&CaCommand::Show { json: true }, &ca),
            CaCommandError::Ca(CaError::Unreadable { .. })
        ));
        assert!(!ca.key.exists(), "showing makes nothing");
        let made = Authority::open_or_create(&ca).expect("made");
        let json: serde_json::Value =
            serde_json::from_str(&answer(&CaCommand::Show { json: true }, &ca)).expect("JSON");
        assert_eq!(json["fingerprint_sha256"], made.fingerprint_sha256());
        assert_eq!(json["key_type"], "EC P-256");
        assert_eq!(json["certificate"], ca.certificate.display().to_string());
        let text = answer(&CaCommand::Show { json: false }, &ca);
        assert!(text.contains(&made.fingerprint_sha256()) && text.contains(made.subject()), "{text}");
        assert_eq!(answer(&CaCommand::Export { output: None }, &ca), made.certificate_pem());
        let output = folder.path().join("out.crt");
        assert_eq!(answer(&CaCommand::Export { output: Some(output.clone()) }, &ca), "");
        assert_eq!(fs::read_to_string(output).expect("written"), made.certificate_pem());
    }

    #[test]
    fn rotation_is_confirmed_and_keeps_the_old_ca() {
        let folder = tempfile::tempdir().expect("a folder");
        let ca = ca_files(&folder.path().join("ca"));
        let before = Authority::open_or_create(&ca).expect("made");
        assert!(matches!(refusal(&CaCommand::Rotate { yes: false }, &ca), CaCommandError::Unconfirmed));
        assert_eq!(Authority::open(&ca).map(|ca| ca.fingerprint_sha256()).ok(), Some(before.fingerprint_sha256()));
        let text = answer(&CaCommand::Rotate { yes: true }, &ca);
        let after = Authority::open(&ca).expect("usable");
        assert_ne!(after.fingerprint_sha256(), before.fingerprint_sha256());
        assert!(text.contains(&after.fingerprint_sha256()) && text.contains("restart"), "{text}");
        let old =
            Authority::open_foreign(&files::beside(&ca.certificate, ".old"), &files::beside(&ca.key, ".old"), None);
        assert_eq!(old.map(|ca| ca.fingerprint_sha256()).ok(), Some(before.fingerprint_sha256()));
    }

    #[test]
    fn import_takes_an_encrypted_key_and_serves_without_the_passphrase() {
        let folder = tempfile::tempdir().expect("a folder");
        let ca = ca_files(&folder.path().join("ca"));
        Authority::open_or_create(&ca).expect("made");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).expect("written");
            path
        };
        let cert = write("own.crt", EC_CA);
        let key = write("own.key", include_str!("../../net/src/tls/testdata/ec-traditional-aes256-hunter2.pem"));
        let wrong = CaCommand::Import { cert: cert.clone(), key: key.clone(), passphrase_file: None };
        let before = answer(&CaCommand::Export { output: None }, &ca);
        assert!(matches!(refusal(&wrong, &ca), CaCommandError::Ca(CaError::WrongPassphrase { .. })));
        assert_eq!(answer(&CaCommand::Export { output: None }, &ca), before, "a refused import changes nothing");
        let right = CaCommand::Import { cert, key, passphrase_file: Some(write("pass", "hunter2\r\n")) };
        let text = answer(&right, &ca);
        assert!(text.contains("Corporate CA") && text.contains("ca.key.old") && !text.contains("hunter2"), "{text}");
        assert_eq!(answer(&CaCommand::Export { output: None }, &ca), EC_CA);
    }

    #[test]
    fn files_of_the_user_are_not_touched() {
        let folder = tempfile::tempdir().expect("a folder");
        let ca = ca_files(&folder.path().join("ca"));
        Authority::open_or_create(&ca).expect("made");
        let named = CaFiles { provided: true, ..ca_files(&folder.path().join("ca")) };
        let before = fs::read(&named.key).expect("there");
        let import = CaCommand::Import { cert: ca.certificate.clone(), key: ca.key.clone(), passphrase_file: None };
        for command in [CaCommand::Rotate { yes: true }, import] {
            let error = refusal(&command, &named);
            assert!(matches!(error, CaCommandError::Provided { .. }));
            assert!(error.to_string().contains("ca.crt"), "{error}");
        }
        assert_eq!(fs::read(&named.key).expect("there"), before);
        assert!(!files::beside(&named.key, ".old").exists());
    }
}
