//! Creates certificates: the root, and leaves that a CA signs.
//!
//! rcgen encodes the certificate. Before signing, the issuer's name is replaced by the CA's own bytes: rcgen keeps a
//! name as a map from attribute to value, so the name of a corporate CA (`DC=com, DC=example`, two OUs, old string
//! types) would change, and clients compare names byte for byte. `authority` owns the CA, `leaf` calls for names.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand;
use der::asn1::{AnyRef, BitStringRef};
use der::{Decode, Encode, Reader, SliceReader, Tag};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm, SigningKey,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;

use super::certificate::CaCertificate;
use super::key::CaKey;

/// The time by which certificates are backdated, for clients whose clock is behind.
pub(super) const BACKDATE: Duration = Duration::from_secs(86_400);
const ROOT_LIFETIME: Duration = Duration::from_secs(3652 * 86_400);
/// X.509's bound for a common name. A longer host is only in the subject alternative name.
const COMMON_NAME_MAX: usize = 64;

/// The position of the issuer in a to-be-signed certificate: version, serial, algorithm, issuer, …
const ISSUER: usize = 3;

/// The reason why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum IssueError {
    /// rcgen refused.
    #[error("{0}")]
    Certificate(#[from] rcgen::Error),
    /// Our own encoding failed.
    #[error("{0}")]
    Encoding(#[from] der::Error),
    /// rcgen's output is not a certificate.
    #[error("the certificate came out in an unknown shape")]
    Shape,
    /// The system gave no randomness.
    #[error("no randomness")]
    Random,
}

/// A new self-signed root for `key`, valid for ten years from a day before `now`.
pub(super) fn root(key: &CaKey, now: SystemTime) -> Result<CertificateDer<'static>, IssueError> {
    let mut params = CertificateParams::default();
    let suffix: String = random::<4>()?.iter().map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name = common_name(format!("entrepot CA {suffix}"));
    params.serial_number = Some(serial()?);
    params.not_before = OffsetDateTime::from(now - BACKDATE);
    params.not_after = OffsetDateTime::from(now + ROOT_LIFETIME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params.self_signed(key.pair())?.der().clone())
}

/// The first and the last moment at which a certificate is valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Validity {
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

/// A server certificate for exactly these names (DNS names or addresses), signed by the CA. Its subject is the first
/// name.
pub(super) fn leaf(
    names: &[&str],
    validity: Validity,
    leaf_key: &KeyPair,
    ca: &CaCertificate,
    ca_key: &CaKey,
) -> Result<CertificateDer<'static>, IssueError> {
    let mut params = CertificateParams::default();
    let alternatives: Result<_, IssueError> = names.iter().map(|name| alternative(name)).collect();
    params.subject_alt_names = alternatives?;
    let subject = names.first().filter(|name| name.len() <= COMMON_NAME_MAX);
    params.distinguished_name = subject.map_or_else(DistinguishedName::new, |name| common_name((*name).to_owned()));
    params.serial_number = Some(serial()?);
    params.not_before = OffsetDateTime::from(validity.not_before);
    params.not_after = OffsetDateTime::from(validity.not_after);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = ca.key_id.is_some();
    let mut issuer = CertificateParams::default();
    if let Some(key_id) = &ca.key_id {
        issuer.key_identifier_method = KeyIdMethod::PreSpecified(key_id.clone());
    }
    let unsigned = params.signed_by(leaf_key, &Issuer::from_params(&issuer, Unsigned(ca_key.pair())))?;
    sign_as(&ca.subject_der, unsigned.der(), ca_key.pair())
}

fn alternative(name: &str) -> Result<SanType, IssueError> {
    Ok(match name.parse::<IpAddr>() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) => SanType::DnsName(name.try_into()?),
    })
}

/// Puts `issuer` into a certificate in place of the name there, and signs the result.
fn sign_as(issuer: &[u8], unsigned: &[u8], key: &KeyPair) -> Result<CertificateDer<'static>, IssueError> {
    let certificate = children(unsigned)?;
    let [to_sign, algorithm, _] = certificate[..] else { return Err(IssueError::Shape) };
    let mut fields = children(to_sign)?;
    *fields.get_mut(ISSUER).ok_or(IssueError::Shape)? = issuer;
    let to_sign = sequence(&fields)?;
    let signature = BitStringRef::from_bytes(&key.sign(&to_sign)?)?.to_der()?;
    Ok(sequence(&[&to_sign, algorithm, &signature])?.into())
}

/// The elements of a SEQUENCE, each with its header.
fn children(sequence: &[u8]) -> Result<Vec<&[u8]>, der::Error> {
    let mut reader = SliceReader::new(AnyRef::from_der(sequence)?.value())?;
    let mut children = Vec::new();
    while !reader.is_finished() {
        children.push(reader.tlv_bytes()?);
    }
    Ok(children)
}

fn sequence(children: &[&[u8]]) -> Result<Vec<u8>, der::Error> {
    AnyRef::new(Tag::Sequence, &children.concat())?.to_der()
}

/// Takes the place of the CA's key while rcgen encodes, so that a slow RSA key signs once and not twice.
struct Unsigned<'a>(&'a KeyPair);

impl PublicKeyData for Unsigned<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for Unsigned<'_> {
    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(Vec::new())
    }
}

fn common_name(name: String) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

/// A serial number of 127 bits, positive, of constant length.
fn serial() -> Result<SerialNumber, IssueError> {
    let mut bytes = random::<16>()?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn random<const N: usize>() -> Result<[u8; N], IssueError> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| IssueError::Random)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use x509_parser::extensions::{GeneralName, ParsedExtension};
    use x509_parser::parse_x509_certificate;

    use super::super::key::encode;
    use super::super::testdata::{EC_CA, EC_SEC1, RSA_CA, RSA_PKCS1};
    use super::*;

    fn authorities() -> Vec<(CaCertificate, CaKey)> {
        let now = SystemTime::now();
        let own_key = CaKey::generate().expect("a key");
        let own = encode("CERTIFICATE", &root(&own_key, now).expect("a root"));
        let given = [(EC_CA, EC_SEC1), (RSA_CA, RSA_PKCS1)]
            .map(|(certificate, key)| (certificate.to_owned(), CaKey::from_pem(key.as_bytes(), &[]).expect("a key")));
        let parse = |pem: String| CaCertificate::from_pem(pem.as_bytes()).expect("a CA");
        std::iter::once((own, own_key)).chain(given).map(|(pem, key)| (parse(pem), key)).collect()
    }

    #[test]
    fn a_leaf_names_one_host_and_can_do_nothing_else() {
        let leaf_key = KeyPair::generate().expect("a key");
        let second = Duration::from_secs(1);
        let validity = Validity {
            not_before: SystemTime::UNIX_EPOCH + 1_000_000_000 * second,
            not_after: SystemTime::UNIX_EPOCH + 1_000_500_000 * second,
        };
        let long = format!("{}.example", "a".repeat(60));
        for (ca, ca_key) in authorities() {
            for (name, expected) in [
                ("ghcr.io", GeneralName::DNSName("ghcr.io")),
                (&long, GeneralName::DNSName(&long)),
                ("10.1.2.3", GeneralName::IPAddress(&[10, 1, 2, 3])),
                ("::1", GeneralName::IPAddress(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])),
            ] {
                let der = leaf(&[name], validity, &leaf_key, &ca, &ca_key).expect("a leaf");
                let (rest, leaf) = parse_x509_certificate(&der).expect("X.509");
                assert!(rest.is_empty());
                assert_eq!(leaf.issuer().as_raw(), ca.subject_der);
                let names = leaf.subject_alternative_name().expect("readable").expect("there").value;
                assert_eq!(names.general_names, [expected]);
                let usage = leaf.extended_key_usage().expect("readable").expect("there").value;
                assert!(usage.server_auth && !usage.any && !usage.client_auth);
                assert!(leaf.basic_constraints().expect("readable").is_some_and(|it| !it.value.ca));
                let period = leaf.validity();
                let seconds = (period.not_before.timestamp(), period.not_after.timestamp());
                assert_eq!(seconds, (1_000_000_000, 1_000_500_000));
                let authority_id = leaf.iter_extensions().find_map(|extension| match extension.parsed_extension() {
                    ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0.to_vec()),
                    _ => None,
                });
                assert_eq!(authority_id, ca.key_id);
            }
        }
    }

    #[test]
    fn a_leaf_of_several_names_has_them_all() {
        let (ca, ca_key) = authorities().remove(0);
        let leaf_key = KeyPair::generate().expect("a key");
        let now = SystemTime::now();
        let validity = Validity { not_before: now, not_after: now + BACKDATE };
        let der = leaf(&["a.local", "b", "10.0.0.1"], validity, &leaf_key, &ca, &ca_key).expect("a leaf");
        let (_, leaf) = parse_x509_certificate(&der).expect("X.509");
        let names = leaf.subject_alternative_name().expect("readable").expect("there").value;
        let expected =
            [GeneralName::DNSName("a.local"), GeneralName::DNSName("b"), GeneralName::IPAddress(&[10, 0, 0, 1])];
        assert_eq!(names.general_names, expected);
        assert!(leaf.subject().to_string().contains("a.local"));
    }

    #[test]
    fn serials_differ() {
        let (ca, ca_key) = authorities().remove(0);
        let leaf_key = KeyPair::generate().expect("a key");
        let now = SystemTime::now();
        let validity = Validity { not_before: now, not_after: now + BACKDATE };
        let serials: std::collections::HashSet<_> = (0..32)
            .map(|_| {
                let der = leaf(&["ghcr.io"], validity, &leaf_key, &ca, &ca_key).expect("a leaf");
                parse_x509_certificate(&der).expect("X.509").1.serial.to_bytes_be()
            })
            .collect();
        assert_eq!(serials.len(), 32);
        assert!(serials.iter().all(|serial| serial.len() == 16));
    }
}
