//! The ciphers of encryption at rest. What they write is what upstream's API server writes, so that a
//! database's values can be read with the keys of either.

use aes::{Aes128, Aes192, Aes256};
use aes_gcm::aead::consts::U12;
use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{AesGcm, KeyInit, Nonce};
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockCipher, BlockDecryptMut, BlockEncryptMut, KeyIvInit};
use crypto_secretbox::XSalsa20Poly1305;
use rand::RngCore;

const BLOCK: usize = 16;
const GCM_NONCE: usize = 12;
const BOX_NONCE: usize = 24;

/// A kind of provider that encrypts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// AES in CBC mode with PKCS#7 padding.
    AesCbc,
    /// AES in GCM mode; the storage key is authenticated with the value.
    AesGcm,
    /// XSalsa20 and Poly1305.
    Secretbox,
}

impl Kind {
    /// What values of this provider start with.
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Kind::AesCbc => "k8s:enc:aescbc:v1:",
            Kind::AesGcm => "k8s:enc:aesgcm:v1:",
            Kind::Secretbox => "k8s:enc:secretbox:v1:",
        }
    }

    /// The provider's field in the configuration.
    pub(crate) fn field(self) -> &'static str {
        match self {
            Kind::AesCbc => "aescbc",
            Kind::AesGcm => "aesgcm",
            Kind::Secretbox => "secretbox",
        }
    }

    /// The lengths that a key may have.
    pub(crate) fn key_lengths(self) -> &'static [usize] {
        match self {
            Kind::AesCbc | Kind::AesGcm => &[16, 24, 32],
            Kind::Secretbox => &[32],
        }
    }

    /// What is said of a value whose key is not there.
    pub(super) fn no_key(self) -> &'static str {
        match self {
            Kind::AesCbc | Kind::AesGcm => "no matching key was found for the provided AES transformer",
            Kind::Secretbox => "no matching key was found for the provided Secretbox transformer",
        }
    }
}

/// Why a value could not be decrypted or encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CipherError {
    #[error("the stored data was shorter than the required size")]
    Short,
    #[error("the stored data is not a multiple of the block size")]
    Blocks,
    #[error("invalid padding on input")]
    Padding,
    #[error("cipher: message authentication failed")]
    Forged,
    #[error("output array was not large enough for encryption")]
    ForgedBox,
    #[error("the key has a wrong length")]
    Key,
}

/// A cipher with its key.
pub(crate) struct Cipher {
    kind: Kind,
    key: Box<[u8]>,
}

impl std::fmt::Debug for Cipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cipher").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Cipher {
    /// A cipher, if the key is of a length that it takes.
    pub(crate) fn new(kind: Kind, key: &[u8]) -> Option<Self> {
        kind.key_lengths().contains(&key.len()).then(|| Self { kind, key: key.into() })
    }

    /// Appends the encrypted value to `out`. `context` is the storage key.
    pub(crate) fn encrypt(&self, plain: &[u8], context: &str, out: &mut Vec<u8>) -> Result<(), CipherError> {
        match self.kind {
            Kind::AesCbc => {
                let iv: [u8; BLOCK] = random();
                out.extend_from_slice(&iv);
                out.extend_from_slice(&match self.key.len() {
                    16 => cbc_encrypt::<Aes128>(&self.key, &iv, plain)?,
                    24 => cbc_encrypt::<Aes192>(&self.key, &iv, plain)?,
                    _ => cbc_encrypt::<Aes256>(&self.key, &iv, plain)?,
                });
            }
            Kind::AesGcm => {
                let nonce: [u8; GCM_NONCE] = random();
                out.extend_from_slice(&nonce);
                let payload = Payload { msg: plain, aad: context.as_bytes() };
                out.extend_from_slice(
                    &match self.key.len() {
                        16 => gcm::<Aes128>(&self.key)?.encrypt(Nonce::from_slice(&nonce), payload),
                        24 => gcm::<Aes192>(&self.key)?.encrypt(Nonce::from_slice(&nonce), payload),
                        _ => gcm::<Aes256>(&self.key)?.encrypt(Nonce::from_slice(&nonce), payload),
                    }
                    .map_err(|_| CipherError::Forged)?,
                );
            }
            Kind::Secretbox => {
                let nonce: [u8; BOX_NONCE] = random();
                out.extend_from_slice(&nonce);
                let cipher = XSalsa20Poly1305::new_from_slice(&self.key).map_err(|_| CipherError::Key)?;
                out.extend_from_slice(&cipher.encrypt(&nonce.into(), plain).map_err(|_| CipherError::ForgedBox)?);
            }
        }
        Ok(())
    }

    /// The value that was encrypted under this storage key.
    pub(crate) fn decrypt(&self, data: &[u8], context: &str) -> Result<Vec<u8>, CipherError> {
        match self.kind {
            Kind::AesCbc => {
                let (iv, blocks) = data.split_at_checked(BLOCK).ok_or(CipherError::Short)?;
                if blocks.len() % BLOCK != 0 {
                    return Err(CipherError::Blocks);
                }
                match self.key.len() {
                    16 => cbc_decrypt::<Aes128>(&self.key, iv, blocks),
                    24 => cbc_decrypt::<Aes192>(&self.key, iv, blocks),
                    _ => cbc_decrypt::<Aes256>(&self.key, iv, blocks),
                }
            }
            Kind::AesGcm => {
                let (nonce, msg) = data.split_at_checked(GCM_NONCE).ok_or(CipherError::Short)?;
                let payload = Payload { msg, aad: context.as_bytes() };
                match self.key.len() {
                    16 => gcm::<Aes128>(&self.key)?.decrypt(Nonce::from_slice(nonce), payload),
                    24 => gcm::<Aes192>(&self.key)?.decrypt(Nonce::from_slice(nonce), payload),
                    _ => gcm::<Aes256>(&self.key)?.decrypt(Nonce::from_slice(nonce), payload),
                }
                .map_err(|_| CipherError::Forged)
            }
            Kind::Secretbox => {
                let (nonce, msg) = data.split_at_checked(BOX_NONCE).ok_or(CipherError::Short)?;
                let cipher = XSalsa20Poly1305::new_from_slice(&self.key).map_err(|_| CipherError::Key)?;
                cipher.decrypt(crypto_secretbox::Nonce::from_slice(nonce), msg).map_err(|_| CipherError::ForgedBox)
            }
        }
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}

fn gcm<C>(key: &[u8]) -> Result<AesGcm<C, U12>, CipherError>
where
    AesGcm<C, U12>: KeyInit,
{
    AesGcm::new_from_slice(key).map_err(|_| CipherError::Key)
}

fn cbc_encrypt<C>(key: &[u8], iv: &[u8], plain: &[u8]) -> Result<Vec<u8>, CipherError>
where
    C: BlockEncryptMut + BlockCipher + KeyInit,
{
    let encryptor = cbc::Encryptor::<C>::new_from_slices(key, iv).map_err(|_| CipherError::Key)?;
    Ok(encryptor.encrypt_padded_vec_mut::<Pkcs7>(plain))
}

fn cbc_decrypt<C>(key: &[u8], iv: &[u8], blocks: &[u8]) -> Result<Vec<u8>, CipherError>
where
    C: BlockDecryptMut + BlockCipher + KeyInit,
{
    let decryptor = cbc::Decryptor::<C>::new_from_slices(key, iv).map_err(|_| CipherError::Key)?;
    decryptor.decrypt_padded_vec_mut::<Pkcs7>(blocks).map_err(|_| CipherError::Padding)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn every_cipher_and_key_length_gives_back_what_it_took() {
        for kind in [Kind::AesCbc, Kind::AesGcm, Kind::Secretbox] {
            for length in kind.key_lengths() {
                let cipher = Cipher::new(kind, &vec![7; *length]).unwrap();
                for plain in [&b""[..], b"x", b"sixteen bytes...", &[0; 5000]] {
                    let mut data = Vec::new();
                    cipher.encrypt(plain, "/registry/core/secrets/a/b", &mut data).unwrap();
                    assert_eq!(cipher.decrypt(&data, "/registry/core/secrets/a/b").unwrap(), plain, "{kind:?}");
                    let other = Cipher::new(kind, &vec![8; *length]).unwrap();
                    assert_ne!(other.decrypt(&data, "/registry/core/secrets/a/b").ok().as_deref(), Some(plain));
                }
                assert_eq!(cipher.decrypt(b"short", "k"), Err(CipherError::Short));
            }
            assert!(Cipher::new(kind, &[1; 31]).is_none());
        }
    }

    #[test]
    fn a_value_moved_to_another_key_is_refused_by_gcm() {
        let cipher = Cipher::new(Kind::AesGcm, &[1; 32]).unwrap();
        let mut data = Vec::new();
        cipher.encrypt(b"secret", "/registry/core/secrets/a/b", &mut data).unwrap();
        assert_eq!(cipher.decrypt(&data, "/registry/core/secrets/a/c"), Err(CipherError::Forged));
    }

    /// The test vector of NIST SP 800-38A for CBC with a 128-bit key.
    #[test]
    fn cbc_is_the_standard_one() {
        let hex = |text: &str| -> Vec<u8> {
            (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
        };
        let key = hex("2b7e151628aed2a6abf7158809cf4f3c");
        let iv = hex("000102030405060708090a0b0c0d0e0f");
        let sealed = cbc_encrypt::<Aes128>(&key, &iv, &hex("6bc1bee22e409f96e93d7e117393172a")).unwrap();
        assert_eq!(sealed[..16], hex("7649abac8119b246cee98e9b12e9197d"));
        assert_eq!(sealed.len(), 32, "a whole block of padding follows");
    }
}
