//! Encrypted CA keys in openssl's older forms: traditional PEM (`Proc-Type: 4,ENCRYPTED`), in which
//! docker-registry-proxy's older images wrote `/ca/ca.key`, and PKCS#8 PBES2, which its newer images use.
//!
//! Everything here is for existing keys: a key that this product writes is unencrypted, mode 0600. This is the only
//! file that needs the crates pkcs8, aes, cbc, des and md-5. `key.rs` has the forms, and the tests of both.

use aes::{Aes128, Aes192, Aes256};
use cbc::Decryptor;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockCipher, BlockDecryptMut, KeyInit, KeyIvInit};
use der::{Decode, asn1::AnyRef};
use des::TdesEde3;
use md5::{Digest, Md5};
use pkcs8::{EncryptedPrivateKeyInfo, pkcs5};

use super::error::KeyError;

/// Opens an encrypted PKCS#8 key with the first passphrase that fits.
pub(super) fn open_pkcs8(contents: &[u8], passphrases: &[&str]) -> Result<Vec<u8>, KeyError> {
    let unsupported =
        || KeyError::UnsupportedEncryption("a PKCS#8 scheme other than PBES2 with AES or 3DES".to_owned());
    let sealed = EncryptedPrivateKeyInfo::from_der(contents).map_err(|_| unsupported())?;
    if sealed.encryption_algorithm.pbes2().is_none() {
        return Err(unsupported());
    }
    for passphrase in passphrases {
        match sealed.decrypt(passphrase) {
            Ok(der) => return Ok(der.as_bytes().to_vec()),
            Err(pkcs8::Error::EncryptedPrivateKey(
                pkcs5::Error::UnsupportedAlgorithm { .. } | pkcs5::Error::AlgorithmParametersInvalid { .. },
            )) => return Err(unsupported()),
            // A wrong passphrase gives bad padding, or sometimes right padding and wrong content.
            Err(_) => (),
        }
    }
    Err(KeyError::WrongPassphrase)
}

/// Opens a traditional PEM block, encrypted as its `DEK-Info` says, with the first passphrase that fits.
pub(super) fn open_traditional(dek_info: &str, data: &[u8], passphrases: &[&str]) -> Result<Vec<u8>, KeyError> {
    let (name, iv) = dek_info.split_once(',').ok_or(KeyError::NotPem)?;
    let cipher = CIPHERS
        .iter()
        .find(|cipher| cipher.name.eq_ignore_ascii_case(name.trim()))
        .ok_or_else(|| KeyError::UnsupportedEncryption(name.trim().to_owned()))?;
    let iv = hex(iv.trim()).filter(|iv| iv.len() >= 8).ok_or(KeyError::NotPem)?;
    passphrases
        .iter()
        .filter_map(|passphrase| (cipher.open)(&derive_key(passphrase, &iv[..8], cipher.key_bytes), &iv, data))
        .find(|der| AnyRef::from_der(der).is_ok())
        .ok_or(KeyError::WrongPassphrase)
}

/// Opens data with a key and an initialisation vector. None if the padding is wrong.
type Open = fn(key: &[u8], iv: &[u8], data: &[u8]) -> Option<Vec<u8>>;

/// A cipher of traditional PEM, with its name there.
struct Cipher {
    name: &'static str,
    key_bytes: usize,
    open: Open,
}

const CIPHERS: [Cipher; 4] = [
    Cipher { name: "DES-EDE3-CBC", key_bytes: 24, open: open_cbc::<TdesEde3> },
    Cipher { name: "AES-128-CBC", key_bytes: 16, open: open_cbc::<Aes128> },
    Cipher { name: "AES-192-CBC", key_bytes: 24, open: open_cbc::<Aes192> },
    Cipher { name: "AES-256-CBC", key_bytes: 32, open: open_cbc::<Aes256> },
];

fn open_cbc<C: BlockCipher + BlockDecryptMut + KeyInit>(key: &[u8], iv: &[u8], data: &[u8]) -> Option<Vec<u8>> {
    Decryptor::<C>::new_from_slices(key, iv).ok()?.decrypt_padded_vec_mut::<Pkcs7>(data).ok()
}

/// openssl's `EVP_BytesToKey` with MD5 and one round, as traditional PEM uses it.
fn derive_key(passphrase: &str, salt: &[u8], key_bytes: usize) -> Vec<u8> {
    let mut key: Vec<u8> = Vec::with_capacity(key_bytes + 16);
    while key.len() < key_bytes {
        let previous = &key[key.len().saturating_sub(16)..];
        let block = Md5::new().chain_update(previous).chain_update(passphrase).chain_update(salt).finalize();
        key.extend_from_slice(&block);
    }
    key.truncate(key_bytes);
    key
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let nibble = |byte: u8| (byte as char).to_digit(16);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let byte = |[high, low]: &[u8; 2]| u8::try_from(nibble(*high)? * 16 + nibble(*low)?).ok();
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}
