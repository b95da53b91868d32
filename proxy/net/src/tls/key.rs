//! A CA key in each form that openssl has written, decoded from bytes without I/O: PKCS#1, PKCS#8 and SEC1, plain or
//! encrypted (`legacy_key.rs`). `authority` adds the path to the errors. Decoded keys are never printed: the types here
//! have no `Debug`.

use pem::Pem;
use rcgen::KeyPair;
use rustls_pki_types::PrivateKeyDer;

use super::error::KeyError;
use super::legacy_key::{open_pkcs8, open_traditional};

const PKCS8: &str = "PRIVATE KEY";
const PKCS8_ENCRYPTED: &str = "ENCRYPTED PRIVATE KEY";
const PKCS1: &str = "RSA PRIVATE KEY";
const SEC1: &str = "EC PRIVATE KEY";

/// A key that can sign certificates.
pub(crate) struct CaKey {
    der: PrivateKeyDer<'static>,
    pair: KeyPair,
}

impl CaKey {
    /// Reads the first private key in `text`. If it is encrypted, each passphrase is tried.
    pub(crate) fn from_pem(text: &[u8], passphrases: &[&str]) -> Result<Self, KeyError> {
        let blocks = pem::parse_many(text).map_err(|_| KeyError::NotPem)?;
        let block = blocks
            .into_iter()
            .find(|block| [PKCS8, PKCS8_ENCRYPTED, PKCS1, SEC1].contains(&block.tag()))
            .ok_or(KeyError::NotPem)?;
        let der = match (block.tag(), block.headers().get("DEK-Info")) {
            (PKCS8_ENCRYPTED, _) => pkcs8(open_pkcs8(block.contents(), passphrases)?),
            (PKCS8, _) => pkcs8(block.into_contents()),
            (tag, Some(dek_info)) => traditional(tag, open_traditional(dek_info, block.contents(), passphrases)?),
            (tag, None) => traditional(tag, block.contents().to_vec()),
        };
        Self::from_der(der)
    }

    fn from_der(der: PrivateKeyDer<'static>) -> Result<Self, KeyError> {
        let pair = KeyPair::try_from(&der).map_err(|_| KeyError::Unsupported)?;
        // Ed25519 would work here, but not in every client. The administrator learns that now, before clients fail.
        let usable = [
            &rcgen::PKCS_ECDSA_P256_SHA256,
            &rcgen::PKCS_ECDSA_P384_SHA384,
            &rcgen::PKCS_ECDSA_P521_SHA512,
            &rcgen::PKCS_RSA_SHA256,
        ];
        if usable.contains(&pair.algorithm()) { Ok(Self { der, pair }) } else { Err(KeyError::Unsupported) }
    }

    /// Makes a new EC P-256 key.
    pub(crate) fn generate() -> Result<Self, rcgen::Error> {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        Ok(Self { der: pkcs8(pair.serialize_der()), pair })
    }

    /// The key in the form that signs.
    pub(crate) fn pair(&self) -> &KeyPair {
        &self.pair
    }

    /// The key in the form of the TLS library.
    pub(crate) fn der(&self) -> &PrivateKeyDer<'static> {
        &self.der
    }

    /// The key unencrypted, only for its own file.
    pub(crate) fn to_pem(&self) -> String {
        let tag = match self.der {
            PrivateKeyDer::Pkcs1(_) => PKCS1,
            PrivateKeyDer::Sec1(_) => SEC1,
            _ => PKCS8,
        };
        encode(tag, self.der.secret_der())
    }
}

/// PEM with unix line ends.
pub(crate) fn encode(tag: &str, contents: &[u8]) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&Pem::new(tag, contents), config)
}

fn pkcs8(der: Vec<u8>) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(der.into())
}

fn traditional(tag: &str, der: Vec<u8>) -> PrivateKeyDer<'static> {
    if tag == SEC1 { PrivateKeyDer::Sec1(der.into()) } else { PrivateKeyDer::Pkcs1(der.into()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testdata::{EC_CA, EC_SEC1, RSA_PKCS1, RSA_TRADITIONAL_3DES};
    use super::*;

    const PLAIN: [(&str, &str); 4] = [
        ("rsa", RSA_PKCS1),
        ("rsa", include_str!("testdata/rsa-pkcs8.pem")),
        ("ec", EC_SEC1),
        ("ec", include_str!("testdata/ec-pkcs8.pem")),
    ];
    const ENCRYPTED: [(&str, &str); 7] = [
        ("rsa", RSA_TRADITIONAL_3DES),
        ("rsa", include_str!("testdata/rsa-traditional-aes192.pem")),
        ("rsa", include_str!("testdata/rsa-pkcs8-3des.pem")),
        ("rsa", include_str!("testdata/rsa-pkcs8-3des-sha1.pem")),
        ("ec", include_str!("testdata/ec-traditional-aes128.pem")),
        ("ec", include_str!("testdata/ec-traditional-aes256.pem")),
        ("ec", include_str!("testdata/ec-pkcs8-aes256.pem")),
    ];

    fn public_key(text: &str, passphrases: &[&str]) -> Result<Vec<u8>, KeyError> {
        CaKey::from_pem(text.as_bytes(), passphrases).map(|key| key.pair().public_key_raw().to_vec())
    }

    #[test]
    fn every_form_gives_the_same_key() {
        let expected = |kind| if kind == "rsa" { public_key(RSA_PKCS1, &[]) } else { public_key(EC_SEC1, &[]) };
        assert!(expected("rsa").is_ok() && expected("ec").is_ok() && expected("rsa") != expected("ec"));
        for (kind, text) in PLAIN {
            assert_eq!(public_key(text, &["foobar"]), expected(kind), "{}", &text[..80]);
        }
        for (kind, text) in ENCRYPTED {
            assert_eq!(public_key(text, &["foobar"]), expected(kind), "{}", &text[..80]);
            assert_eq!(public_key(text, &["other", "foobar"]), expected(kind), "second try, {}", &text[..80]);
            assert_eq!(public_key(&text.replace('\n', "\r\n"), &["foobar"]), expected(kind), "CRLF, {}", &text[..80]);
        }
    }

    #[test]
    fn wrong_passphrases_say_so() {
        for (_, text) in ENCRYPTED {
            for passphrases in [&[][..], &[""], &["Foobar"], &["foobar "]] {
                assert_eq!(public_key(text, passphrases), Err(KeyError::WrongPassphrase), "{}", &text[..80]);
            }
        }
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let renamed = RSA_TRADITIONAL_3DES.replace("DES-EDE3-CBC", "RC2-40-CBC");
        let no_iv = RSA_TRADITIONAL_3DES.replace("DES-EDE3-CBC,", "DES-EDE3-CBC,zz");
        for (text, expected) in [
            ("", KeyError::NotPem),
            ("0\u{82}", KeyError::NotPem),
            (EC_CA, KeyError::NotPem),
            (&no_iv, KeyError::NotPem),
            (&renamed, KeyError::UnsupportedEncryption("RC2-40-CBC".into())),
            (include_str!("testdata/ed25519-pkcs8.pem"), KeyError::Unsupported),
            ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", KeyError::Unsupported),
        ] {
            assert_eq!(public_key(text, &["foobar"]), Err(expected), "{text}");
        }
        let pbes1 = public_key(include_str!("testdata/ec-pkcs8-pbes1.pem"), &["foobar"]);
        assert!(matches!(pbes1, Err(KeyError::UnsupportedEncryption(_))), "{pbes1:?}");
    }

    #[test]
    fn written_keys_read_back() {
        for (_, text) in PLAIN.into_iter().chain(ENCRYPTED) {
            let key = CaKey::from_pem(text.as_bytes(), &["foobar"]).expect("a vector");
            assert_eq!(public_key(&key.to_pem(), &[]), Ok(key.pair().public_key_raw().to_vec()));
        }
        let (one, other) = (CaKey::generate().expect("a key"), CaKey::generate().expect("a key"));
        assert_ne!(one.to_pem(), other.to_pem());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), label in 0..4usize) {
            let tag = [PKCS8, PKCS8_ENCRYPTED, PKCS1, SEC1][label];
            prop_assert!(CaKey::from_pem(encode(tag, &bytes).as_bytes(), &["foobar"]).is_err());
            let sealed = "AES-128-CBC,00112233445566778899aabbccddeeff";
            prop_assert!(open_traditional(sealed, &bytes, &["x"]).is_err());
        }
    }
}
