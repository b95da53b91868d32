//! A CA's certificate file, parsed and checked without I/O.
//!
//! The first certificate is the signer, the others are its chain. `authority` adds paths to the errors, `issue` copies
//! the subject's bytes into leaves. Invariant: a `CaCertificate` may sign. `pem` contains only certificates, because
//! every client gets it, and the file may have contained a key as well.

use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::parse_x509_certificate;
use x509_parser::public_key::PublicKey;
use x509_parser::time::ASN1Time;

use super::key::encode;

const CERTIFICATE: &str = "CERTIFICATE";

/// A certificate that may sign others.
pub(crate) struct CaCertificate {
    /// All of the file's certificates, and only those.
    pub(crate) pem: String,
    /// The certificates that follow a leaf in the handshake: the signer and its chain without self-signed roots.
    pub(crate) sent_with_leaves: Vec<CertificateDer<'static>>,
    /// The subject for people.
    pub(crate) subject: String,
    /// The subject as encoded, because the issuer of leaves must repeat it byte for byte.
    pub(crate) subject_der: Vec<u8>,
    /// The signer's key identifier. None if the certificate has none.
    pub(crate) key_id: Option<Vec<u8>>,
    /// The signer's public key as the bit string's bytes.
    pub(crate) public_key: Vec<u8>,
    /// For people: `EC P-256`, `RSA 4096`.
    pub(crate) key_type: String,
    /// SHA-256 of the signer, as openssl prints it.
    pub(crate) fingerprint_sha256: String,
    /// The signer's first moment.
    pub(crate) not_before: SystemTime,
    /// The signer's last moment.
    pub(crate) not_after: SystemTime,
}

/// The reason why bytes are not a CA certificate.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CertificateError {
    /// The bytes contain no certificate in PEM.
    NotPem,
    /// The certificate is not X.509.
    Malformed(String),
    /// The certificate may not sign.
    NotACa(&'static str),
}

impl CaCertificate {
    /// Reads the certificates in `text`. The first must be a CA's.
    pub(crate) fn from_pem(text: &[u8]) -> Result<Self, CertificateError> {
        let blocks = pem::parse_many(text).map_err(|_| CertificateError::NotPem)?;
        let ders: Vec<_> =
            blocks.into_iter().filter(|block| block.tag() == CERTIFICATE).map(|block| block.into_contents()).collect();
        let first = ders.first().ok_or(CertificateError::NotPem)?;
        let chain = ders.iter().map(|der| parse(der)).collect::<Result<Vec<_>, _>>()?;
        let signer = &chain[0];
        may_sign(signer)?;
        let sent = chain.iter().zip(&ders).filter(|(parsed, _)| !is_self_issued(parsed));
        Ok(Self {
            pem: ders.iter().map(|der| encode(CERTIFICATE, der)).collect(),
            sent_with_leaves: sent.map(|(_, der)| CertificateDer::from(der.clone())).collect(),
            subject: signer.subject().to_string(),
            subject_der: signer.subject().as_raw().to_vec(),
            key_id: key_id(signer),
            public_key: signer.public_key().subject_public_key.data.to_vec(),
            key_type: key_type(signer),
            fingerprint_sha256: fingerprint(first),
            not_before: moment(signer.validity().not_before),
            not_after: moment(signer.validity().not_after),
        })
    }
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CertificateError> {
    let (_, certificate) =
        parse_x509_certificate(der).map_err(|error| CertificateError::Malformed(error.to_string()))?;
    Ok(certificate)
}

fn may_sign(certificate: &X509Certificate<'_>) -> Result<(), CertificateError> {
    let malformed = |error: x509_parser::error::X509Error| CertificateError::Malformed(error.to_string());
    match certificate.basic_constraints().map_err(malformed)? {
        Some(constraints) if constraints.value.ca => (),
        Some(_) => return Err(CertificateError::NotACa("its basicConstraints say CA:FALSE")),
        None => return Err(CertificateError::NotACa("it has no basicConstraints CA:TRUE")),
    }
    match certificate.key_usage().map_err(malformed)? {
        Some(usage) if !usage.value.key_cert_sign() => Err(CertificateError::NotACa("its keyUsage lacks keyCertSign")),
        _ => Ok(()),
    }
}

fn is_self_issued(certificate: &X509Certificate<'_>) -> bool {
    certificate.subject().as_raw() == certificate.issuer().as_raw()
}

fn key_id(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    })
}

fn key_type(certificate: &X509Certificate<'_>) -> String {
    match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => format!("RSA {}", key.key_size()),
        Ok(PublicKey::EC(point)) => format!("EC P-{}", point.key_size()),
        _ => "other".to_owned(),
    }
}

/// Lower-case hex.
fn fingerprint(der: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, der);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Moments before 1970 count as 1970.
fn moment(time: ASN1Time) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::super::testdata::{EC_CA, EC_SEC1, RSA_CA, RSA_CA_FINGERPRINT, RSA_PKCS1};
    use super::*;

    #[test]
    fn a_ca_is_described() {
        let ca = CaCertificate::from_pem(RSA_CA.as_bytes()).expect("a CA");
        assert_eq!(ca.fingerprint_sha256, RSA_CA_FINGERPRINT);
        assert_eq!(ca.subject, "C=NL, ST=Noord Holland, L=Amsterdam, O=ME, OU=IT, CN=docker-registry-proxy");
        assert_eq!(ca.key_type, "RSA 2048");
        assert_eq!(ca.pem, RSA_CA);
        assert!(ca.sent_with_leaves.is_empty(), "a root need not be sent");
        let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
        assert_eq!((seconds(ca.not_before), seconds(ca.not_after)), (1_704_067_200, 4_102_444_799));
        assert_eq!(ca.key_id.as_deref().map(|id| &id[..2]), Some(&[0x53, 0x92][..]));
        let ec = CaCertificate::from_pem(EC_CA.as_bytes()).expect("a CA");
        assert_eq!(ec.key_type, "EC P-256");
    }

    #[test]
    fn a_key_in_the_file_is_never_served() {
        for file in [format!("{RSA_PKCS1}subject=x\n{RSA_CA}"), format!("{RSA_CA}{RSA_PKCS1}{EC_SEC1}")] {
            let ca = CaCertificate::from_pem(file.as_bytes()).expect("a CA");
            assert_eq!(ca.pem, RSA_CA);
        }
    }

    #[test]
    fn what_may_not_sign_is_refused_with_the_reason() {
        let error = |text: &str| CaCertificate::from_pem(text.as_bytes()).err();
        assert_eq!(error(""), Some(CertificateError::NotPem));
        assert_eq!(error(EC_SEC1), Some(CertificateError::NotPem));
        assert_eq!(
            error(include_str!("testdata/ec-leaf.crt")),
            Some(CertificateError::NotACa("its basicConstraints say CA:FALSE"))
        );
        assert_eq!(
            error(include_str!("testdata/ec-nosign.crt")),
            Some(CertificateError::NotACa("its keyUsage lacks keyCertSign"))
        );
        let garbage = encode(CERTIFICATE, b"garbage");
        assert!(matches!(error(&garbage), Some(CertificateError::Malformed(_))));
        assert!(matches!(error(&format!("{RSA_CA}{garbage}")), Some(CertificateError::Malformed(_))));
    }
}
