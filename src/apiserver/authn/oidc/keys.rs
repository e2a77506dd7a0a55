//! A provider's key set (RFC 7517) and the signatures that it verifies.

use crate::authn::jwt::Signer;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Keys of one set; further ones are left out.
const MAX_KEYS: usize = 256;

/// The algorithms that tokens may be signed with. ES512 is not among them: its curve has no implementation here.
pub(super) const ALGORITHMS: [&str; 8] = ["ES256", "ES384", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512"];

/// One public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::authn) struct Key {
    id: String,
    /// The only algorithm it is for, if it says so.
    algorithm: Option<String>,
    material: Material,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// An uncompressed point.
    P256(Vec<u8>),
    P384(Vec<u8>),
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<JsonWebKey>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct JsonWebKey {
    kty: String,
    kid: String,
    #[serde(rename = "use")]
    usage: String,
    alg: Option<String>,
    crv: String,
    n: String,
    e: String,
    x: String,
    y: String,
}

/// Reads a key set; keys of other kinds and uses are left out.
pub(super) fn parse(document: &[u8]) -> Result<Vec<Key>, serde_json::Error> {
    let set: KeySet = serde_json::from_slice(document)?;
    Ok(set.keys.into_iter().filter_map(key).take(MAX_KEYS).collect())
}

fn key(key: JsonWebKey) -> Option<Key> {
    if !matches!(key.usage.as_str(), "" | "sig") {
        return None;
    }
    let decode = |text: &str| URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok().filter(|b| !b.is_empty());
    let point = |size: usize| -> Option<Vec<u8>> {
        let (x, y) = (decode(&key.x)?, decode(&key.y)?);
        (x.len() == size && y.len() == size).then(|| [&[4], x.as_slice(), y.as_slice()].concat())
    };
    let material = match (key.kty.as_str(), key.crv.as_str()) {
        ("RSA", _) => Material::Rsa { n: decode(&key.n)?, e: decode(&key.e)? },
        ("EC", "P-256") => Material::P256(point(32)?),
        ("EC", "P-384") => Material::P384(point(48)?),
        _ => return None,
    };
    Some(Key { id: key.kid, algorithm: key.alg, material })
}

impl Key {
    /// Whether a token that names this key (or none) may be signed by it.
    pub(super) fn is_called(&self, id: &str) -> bool {
        id.is_empty() || self.id == id
    }

    /// The keys of a PEM file: public keys, those of certificates, and those that go with ECDSA P-256 private keys.
    pub(in crate::authn) fn all_in(pem: &[u8]) -> Result<Vec<Self>, String> {
        let wrong = |error: &dyn std::fmt::Display| error.to_string();
        let mut keys = Vec::new();
        for key in SubjectPublicKeyInfoDer::pem_slice_iter(pem) {
            keys.push(Self::of_spki(&key.map_err(|error| wrong(&error))?)?);
        }
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| wrong(&error))?;
            let (_, certificate) = X509Certificate::from_der(&certificate).map_err(|error| wrong(&error))?;
            keys.push(Self::of_spki(certificate.public_key().raw)?);
        }
        for key in PrivatePkcs8KeyDer::pem_slice_iter(pem) {
            let key = key.map_err(|error| wrong(&error))?;
            let signer = Signer::from_pkcs8(key.secret_pkcs8_der())?;
            let material = Material::P256(signer.public_key().to_vec());
            keys.push(Self { id: signer.kid().to_owned(), algorithm: None, material });
        }
        if keys.is_empty() { Err("no key in it".to_owned()) } else { Ok(keys) }
    }

    /// From a SubjectPublicKeyInfo; its digest is the id.
    fn of_spki(der: &[u8]) -> Result<Self, String> {
        let (_, info) = SubjectPublicKeyInfo::from_der(der).map_err(|error| error.to_string())?;
        let material = match info.parsed().map_err(|error| error.to_string())? {
            PublicKey::RSA(rsa) => Material::Rsa { n: rsa.modulus.to_vec(), e: rsa.exponent.to_vec() },
            PublicKey::EC(point) if point.data().len() == 65 => Material::P256(point.data().to_vec()),
            PublicKey::EC(point) if point.data().len() == 97 => Material::P384(point.data().to_vec()),
            _ => return Err("only RSA and ECDSA keys on P-256 and P-384 are supported".to_owned()),
        };
        Ok(Self { id: URL_SAFE_NO_PAD.encode(Sha256::digest(der)), algorithm: None, material })
    }

    /// As a key set has it.
    pub(in crate::authn) fn to_value(&self) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let ec = |curve: &str, algorithm: &str, point: &[u8]| {
            let (x, y) = point[1..].split_at(point.len() / 2);
            json!({ "kty": "EC", "crv": curve, "alg": algorithm, "x": text(x), "y": text(y) })
        };
        let mut value = match &self.material {
            Material::Rsa { n, e } => json!({ "kty": "RSA", "alg": "RS256", "n": text(n), "e": text(e) }),
            Material::P256(point) => ec("P-256", "ES256", point),
            Material::P384(point) => ec("P-384", "ES384", point),
        };
        value["use"] = "sig".into();
        value["kid"] = self.id.clone().into();
        value
    }

    /// Whether the signature over `signed` is this key's.
    pub(in crate::authn) fn verifies(&self, algorithm: &str, signed: &[u8], signature: &[u8]) -> bool {
        if self.algorithm.as_deref().is_some_and(|only| only != algorithm) {
            return false;
        }
        match (&self.material, algorithm) {
            (Material::Rsa { n, e }, _) => {
                // ring wants numbers without leading zeros.
                let trim = |bytes: &[u8]| bytes[bytes.iter().take_while(|byte| **byte == 0).count()..].to_vec();
                let Some(parameters) = rsa(algorithm) else { return false };
                RsaPublicKeyComponents { n: trim(n), e: trim(e) }.verify(parameters, signed, signature).is_ok()
            }
            (Material::P256(point), "ES256") => ecdsa(&signature::ECDSA_P256_SHA256_FIXED, point, signed, signature),
            (Material::P384(point), "ES384") => ecdsa(&signature::ECDSA_P384_SHA384_FIXED, point, signed, signature),
            _ => false,
        }
    }
}

fn ecdsa(algorithm: &'static dyn VerificationAlgorithm, point: &[u8], signed: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(algorithm, point).verify(signed, signature).is_ok()
}

fn rsa(algorithm: &str) -> Option<&'static signature::RsaParameters> {
    Some(match algorithm {
        "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
        "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
        "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
        "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
        "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
        "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn only_keys_that_can_verify_are_kept() {
        let set = r#"{"keys":[{"kty":"oct","k":"AA"},{"kty":"EC","crv":"P-521","x":"AA","y":"AA"},
            {"kty":"RSA","use":"enc","n":"AQAB","e":"AQAB"},{"kty":"RSA","kid":"r","n":"AQAB","e":"AQAB"}]}"#;
        let keys = parse(set.as_bytes()).unwrap();
        assert_eq!(keys.len(), 1);
        assert!(keys[0].is_called("r") && keys[0].is_called("") && !keys[0].is_called("x"));
        assert!(!keys[0].verifies("RS256", b"x", b"y") && !keys[0].verifies("none", b"x", b""));
        assert!(parse(b"[]").is_err());
    }

    /// Made with OpenSSL over the text `signed`.
    #[test]
    fn signatures_of_each_family_verify() {
        let set = serde_json::json!({ "keys": [
            { "kty": "RSA", "kid": "r", "e": "AQAB", "n": RSA_N },
            { "kty": "EC", "kid": "e", "crv": "P-384", "x": EC_X, "y": EC_Y },
        ] });
        let keys = parse(set.to_string().as_bytes()).unwrap();
        let check = |key: &Key, algorithm: &str, signature: &str, good: bool| {
            let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
            assert_eq!(key.verifies(algorithm, b"signed", &signature), good, "{algorithm}");
            assert!(!key.verifies(algorithm, b"changed", &signature), "{algorithm}");
        };
        check(&keys[0], "RS256", RS256, true);
        check(&keys[0], "PS384", PS384, true);
        check(&keys[1], "ES384", ES384, true);
        check(&keys[0], "RS512", RS256, false);
        check(&keys[0], "PS256", PS384, false);
        check(&keys[0], "ES384", ES384, false);
        check(&keys[1], "ES256", ES384, false);
    }

    const RSA_N: &str = "oqUNkoKFk7FIk0CISR75CAgx6jiu8tmN0FZyY3nNV4QHUIZHkWvty3-pEqFGFdEcSRBpwOJaA1AihNiDRcg5DES_f7PwBCT1cwuMWzV9LAiCyA_gSK2rq7SAwVuLUd4vnGf3SDSLrszhUT7Dz-b_uywQh_oOeoGZjJIBqHrgGT2S51L_osQeUXzJXUZoLLZ5NL4l6MMMgNvnbMt5cFHQrb6uA1Gfj5wt3XYIsT81TrkdAG3cF9TnOc04gMT4OZ52hGi-0xEAFf6FYrK9xH7YPAuaHUE7HGYzvLD90BrztRvUwW0Bg9m86vF3fm50v-SXaediFyNjRYg_QTVVjdUCYw";
    const RS256: &str = "Ies_cp1Lb_vQECAweNJfKA5bzFZjFleOScxb8K_6Qr5uNg9gcyMN_AF0Ecm6hkG0oMruwEjAfmbDybNlgwXAXnabifQ6f97CTnhWKr5ZQFYd-pFwvmWT4VNE562fENb-EvHawGt8RPQC-c7Q_SqPO4w7WRYdaSCgR-t0pCh3Uw2wnLwTunAiukNJbHw1IvFkckj4BTp0dly7hqyjE7LAmdOurPF1VUiTJjeEwWiaX_c0jx5qiE-WTZWbStg7nRoTzRqxeCDke8wImVdbOpk-AbZ500Ql7sfw9isUinBT6aXOhja3bl1qewhpIkbJDG6uBJTvIAoewceGWGrOJ_9toQ";
    const PS384: &str = "bMNWpI-r0ZrA4cW6C-mLZ2NDw8PKupXnDa3VUu3KZArdRv1lD6XBFCMHOUvQqUmWl0ksZSlBLAYrd3ej2PpegD7pcjqx0KoKmi_-lf-_5TPd3qyk2ZGgzYxBv_h5kTdCXM3kLzRb4Z-DMaPpvY-VztYqsqA_5UCtxQo79fFYdSbIG1E40wKcJqFRE_reuhif1BJvbJH0vvHsoPSc0wAqmzrbOJYuWQQ-OQ8M8No8wpjWEjuYzm3qCzTXJVD3eDmC0kipQ5QBYlZBMK1tGbRfcXaJQEARiPpdWXHEHNxLAvTB5tBq3k79l56vkl7HXkOZ719RG--X9dAOIKsyerGtuQ";
    const EC_X: &str = "6HyDsudO3WDMrW9VnrCR4c4oEZS_hU95bBFQ7QyWCd6str6-eHDcTVH2Z-R9XBxn";
    const EC_Y: &str = "T5Hs-xVGjT-apNHXaf80Jl-sYOkEcwUMYjEB823DA76svLhPIUiBkgw-XA2xlLnr";
    const ES384: &str = "SWnse88RLnSwmUYjSyMoSVI3lAF_k1FOaLGa1IvY3slMZgakuSOI56EKQJJ_WKoaz4LRxvh_qPJ1OfpVjo8jFQsRbMT729JDb6EMlfnWC-C1R8g3xChMWyGwMxNC-M6G";
}
