//! JSON Web Tokens, ES256 only.

use super::oidc::Key;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// What precedes the point in the DER form of a P-256 public key (SubjectPublicKeyInfo).
const P256_SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Longest token looked at.
const MAX_TOKEN: usize = 16 * 1024;

/// Signs and verifies with one key.
#[derive(Debug)]
pub(crate) struct Signer {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    kid: String,
}

/// Why a token is not one of ours.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum JwtError {
    /// Not three base64url parts of JSON.
    #[error("malformed token")]
    Malformed,
    /// Another algorithm or key.
    #[error("token is signed by an unknown key")]
    UnknownKey,
    /// The signature does not fit.
    #[error("bad signature")]
    Signature,
}

impl Signer {
    /// From a PKCS#8 DER key.
    pub(crate) fn from_pkcs8(der: &[u8]) -> Result<Self, String> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &random)
            .map_err(|error| format!("not an ECDSA P-256 key in PKCS#8: {error}"))?;
        let mut digest = Sha256::new();
        digest.update(P256_SPKI_PREFIX);
        digest.update(pair.public_key().as_ref());
        let kid = URL_SAFE_NO_PAD.encode(digest.finalize());
        Ok(Self { pair, random, kid })
    }

    /// Key id: the digest of the public key.
    pub(crate) fn kid(&self) -> &str {
        &self.kid
    }

    /// The public point, uncompressed.
    pub(crate) fn public_key(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    /// The public point, uncompressed, for the key set document: `(x, y)`.
    pub(crate) fn public_point(&self) -> (String, String) {
        let point = self.pair.public_key().as_ref();
        (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..65]))
    }

    /// A signed token with these claims.
    pub(crate) fn sign(&self, claims: &Value) -> Result<String, ring::error::Unspecified> {
        let header = serde_json::json!({ "alg": "ES256", "kid": self.kid });
        let mut token = URL_SAFE_NO_PAD.encode(header.to_string());
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(claims.to_string(), &mut token);
        let signature = self.pair.sign(&self.random, token.as_bytes())?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature.as_ref(), &mut token);
        Ok(token)
    }

    /// The claims of a token that this key signed.
    pub(crate) fn verify(&self, token: &str) -> Result<Value, JwtError> {
        if token.len() > MAX_TOKEN {
            return Err(JwtError::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(JwtError::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(JwtError::Malformed)?;
        let header = decode_part(header)?;
        if header.get("alg").and_then(Value::as_str) != Some("ES256")
            || header.get("kid").and_then(Value::as_str).is_some_and(|kid| kid != self.kid)
        {
            return Err(JwtError::UnknownKey);
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| JwtError::Malformed)?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref())
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| JwtError::Signature)?;
        decode_part(claims)
    }
}

/// The claims of a token that one of these keys signed.
pub(super) fn verify_with(keys: &[Key], token: &str) -> Result<Value, JwtError> {
    if token.len() > MAX_TOKEN {
        return Err(JwtError::Malformed);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(JwtError::Malformed)?;
    let (header, claims) = signed.split_once('.').ok_or(JwtError::Malformed)?;
    let header = decode_part(header)?;
    let algorithm = header["alg"].as_str().unwrap_or_default();
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| JwtError::Malformed)?;
    if keys.iter().any(|key| key.verifies(algorithm, signed.as_bytes(), &signature)) {
        return decode_part(claims);
    }
    Err(JwtError::UnknownKey)
}

/// The issuer that a token names, whoever signed it.
pub(crate) fn claimed_issuer(token: &str) -> Option<String> {
    let claims = token.split('.').nth(1).filter(|_| token.len() <= MAX_TOKEN)?;
    decode_part(claims).ok()?["iss"].as_str().map(str::to_owned)
}

fn decode_part(part: &str) -> Result<Value, JwtError> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| JwtError::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| JwtError::Malformed)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn signer() -> Signer {
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        Signer::from_pkcs8(key.as_ref()).unwrap()
    }

    #[test]
    fn own_tokens_verify_and_foreign_or_changed_ones_do_not() {
        let (ours, theirs) = (signer(), signer());
        let claims = serde_json::json!({ "sub": "x", "exp": 1 });
        let token = ours.sign(&claims).unwrap();
        assert_eq!(ours.verify(&token).unwrap(), claims);
        assert_eq!(theirs.verify(&token), Err(JwtError::UnknownKey));

        let mut parts: Vec<&str> = token.split('.').collect();
        let other = URL_SAFE_NO_PAD.encode(r#"{"sub":"root","exp":1}"#);
        parts[1] = &other;
        assert_eq!(ours.verify(&parts.join(".")), Err(JwtError::Signature));
        assert_eq!(ours.verify("no token"), Err(JwtError::Malformed));
    }

    #[test]
    fn the_none_algorithm_is_refused() {
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        assert_eq!(signer().verify(&format!("{header}.e30.")), Err(JwtError::UnknownKey));
    }
}
