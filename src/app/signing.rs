//! Certificates for what others ask: the request's subject, names and key as they are, signed by one of
//! the cluster's authorities.
//!
//! Written out here since the library for our own certificates keeps one value of each part of a subject,
//! and groups are several organizations.

use crate::pki::Authority;
use naru_controllers::{Signer, SigningRequest};
use rcgen::SigningKey;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::sync::Arc;
use time::{Duration, OffsetDateTime};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{OID_X509_EXT_SUBJECT_ALT_NAME, OID_X509_EXT_SUBJECT_KEY_IDENTIFIER};
use x509_parser::prelude::{FromDer, ParsedCriAttribute, X509Certificate};

/// Clocks of clients may be behind.
const SKEW: Duration = Duration::minutes(5);

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// Bits of the key usage extension, from the first on.
const KEY_USAGES: [&str; 9] = [
    "digital signature",
    "content commitment",
    "key encipherment",
    "data encipherment",
    "key agreement",
    "cert sign",
    "crl sign",
    "encipher only",
    "decipher only",
];
/// Last parts of 1.3.6.1.5.5.7.3.
const EXTENDED_USAGES: [(&str, u8); 10] = [
    ("server auth", 1),
    ("client auth", 2),
    ("code signing", 3),
    ("email protection", 4),
    ("s/mime", 4),
    ("ipsec end system", 5),
    ("ipsec tunnel", 6),
    ("ipsec user", 7),
    ("timestamping", 8),
    ("ocsp signing", 9),
];

/// The cluster's authorities at the service of the controllers.
pub(crate) struct Authorities {
    pub(crate) client: Arc<Authority>,
    pub(crate) server: Arc<Authority>,
}

impl Signer for Authorities {
    fn sign(&self, request: &SigningRequest<'_>) -> Result<String, String> {
        let authority = match request.authority {
            naru_controllers::Authority::Client => &self.client,
            naru_controllers::Authority::Server => &self.server,
        };
        let der = certificate(authority, request, OffsetDateTime::now_utc()).map_err(|error| format!("{error:#}"))?;
        Ok(pem(&der))
    }
}

fn certificate(authority: &Authority, request: &SigningRequest<'_>, now: OffsetDateTime) -> anyhow::Result<Vec<u8>> {
    let csr = rustls_pki_types::CertificateSigningRequestDer::from_pem_slice(request.pem.as_bytes())?;
    let (_, csr) = X509CertificationRequest::from_der(&csr)?;
    csr.verify_signature()?;
    let ca = CertificateDer::from_pem_slice(authority.cert_pem.as_bytes())?;
    let (_, ca) = X509Certificate::from_der(&ca)?;
    let info = &csr.certification_request_info;
    let last = OffsetDateTime::from_unix_timestamp(ca.validity().not_after.timestamp())?;
    let end = (now + Duration::try_from(request.duration)?).min(last);
    let mut serial: [u8; 16] = rand::random();
    // Positive, and no shorter than it says.
    serial[0] = (serial[0] & 0x7f) | 0x40;
    let algorithm = algorithm(authority.key())?;
    let unsigned = tlv(
        SEQUENCE,
        &[
            tlv(0xa0, &[tlv(INTEGER, &[vec![2]])]),
            tlv(INTEGER, &[serial.to_vec()]),
            algorithm.clone(),
            ca.subject().as_raw().to_vec(),
            tlv(SEQUENCE, &[time(now - SKEW), time(end)]),
            info.subject.as_raw().to_vec(),
            info.subject_pki.raw.to_vec(),
            tlv(0xa3, &[tlv(SEQUENCE, &extensions(&csr, &ca, &request.usages))]),
        ],
    );
    let signature = authority.key().sign(&unsigned)?;
    let signature = tlv(BIT_STRING, &[vec![0], signature]);
    Ok(tlv(SEQUENCE, &[unsigned, algorithm, signature]))
}

fn extensions(csr: &X509CertificationRequest<'_>, ca: &X509Certificate<'_>, usages: &[&str]) -> Vec<Vec<u8>> {
    let mut extensions = Vec::new();
    let mut bits = [0_u8; 2];
    for (bit, name) in KEY_USAGES.iter().enumerate() {
        let asked = usages.iter().any(|usage| usage == name || (*usage == "signing" && bit == 0));
        if asked {
            bits[bit / 8] |= 0x80 >> (bit % 8);
        }
    }
    if bits != [0, 0] {
        let kept = if bits[1] == 0 { &bits[..1] } else { &bits[..] };
        let unused = kept.last().map_or(0, |byte| byte.trailing_zeros());
        let value = tlv(BIT_STRING, &[vec![u8::try_from(unused).unwrap_or(0)], kept.to_vec()]);
        extensions.push(extension(&[0x55, 0x1d, 0x0f], true, value));
    }
    let mut purposes: Vec<Vec<u8>> = EXTENDED_USAGES
        .iter()
        .filter(|(name, _)| usages.contains(name))
        .map(|(_, last)| tlv(OID, &[vec![0x2b, 6, 1, 5, 5, 7, 3, *last]]))
        .collect();
    if usages.contains(&"any") {
        purposes.push(tlv(OID, &[vec![0x55, 0x1d, 0x25, 0]]));
    }
    purposes.dedup();
    if !purposes.is_empty() {
        extensions.push(extension(&[0x55, 0x1d, 0x25], false, tlv(SEQUENCE, &purposes)));
    }
    // No authority.
    extensions.push(extension(&[0x55, 0x1d, 0x13], true, tlv(SEQUENCE, &[])));
    let key_id = ca.extensions().iter().find(|extension| extension.oid == OID_X509_EXT_SUBJECT_KEY_IDENTIFIER);
    if let Some(id) = key_id.and_then(|extension| extension.value.get(2..)) {
        extensions.push(extension(&[0x55, 0x1d, 0x23], false, tlv(SEQUENCE, &[tlv(0x80, &[id.to_vec()])])));
    }
    let attributes = csr.certification_request_info.iter_attributes();
    let asked = attributes.filter_map(|attribute| match attribute.parsed_attribute() {
        ParsedCriAttribute::ExtensionRequest(asked) => Some(&asked.extensions),
        _ => None,
    });
    if let Some(names) = asked.flatten().find(|extension| extension.oid == OID_X509_EXT_SUBJECT_ALT_NAME) {
        extensions.push(extension(&[0x55, 0x1d, 0x11], names.critical, names.value.to_vec()));
    }
    extensions
}

fn extension(oid: &[u8], critical: bool, value: Vec<u8>) -> Vec<u8> {
    let critical = if critical { vec![0x01, 0x01, 0xff] } else { Vec::new() };
    tlv(SEQUENCE, &[tlv(OID, &[oid.to_vec()]), critical, tlv(OCTET_STRING, &[value])])
}

/// The signature's algorithm.
fn algorithm(key: &rcgen::KeyPair) -> anyhow::Result<Vec<u8>> {
    let known: [(&rcgen::SignatureAlgorithm, &[u8], &[u8]); 4] = [
        (&rcgen::PKCS_ECDSA_P256_SHA256, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2], &[]),
        (&rcgen::PKCS_ECDSA_P384_SHA384, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3], &[]),
        (&rcgen::PKCS_ED25519, &[0x2b, 0x65, 0x70], &[]),
        (&rcgen::PKCS_RSA_SHA256, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11], &[0x05, 0]),
    ];
    let found = known.iter().find(|(algorithm, _, _)| *algorithm == key.algorithm());
    let (_, oid, parameters) = found.ok_or_else(|| anyhow::anyhow!("the authority's key is of an unknown kind"))?;
    Ok(tlv(SEQUENCE, &[tlv(OID, &[oid.to_vec()]), parameters.to_vec()]))
}

fn time(at: OffsetDateTime) -> Vec<u8> {
    let (year, month) = (at.year(), u8::from(at.month()));
    let rest = format!("{month:02}{:02}{:02}{:02}{:02}Z", at.day(), at.hour(), at.minute(), at.second());
    // Two digits of the year are enough until 2050.
    if year < 2050 {
        tlv(UTC_TIME, &[format!("{:02}{rest}", year % 100).into_bytes()])
    } else {
        tlv(GENERALIZED_TIME, &[format!("{year:04}{rest}").into_bytes()])
    }
}

/// A tag, a length, and the parts one after the other.
fn tlv(tag: u8, parts: &[Vec<u8>]) -> Vec<u8> {
    let length: usize = parts.iter().map(Vec::len).sum();
    let mut out = vec![tag];
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let bytes = length.to_be_bytes();
            let used = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
            out.push(0x80 | u8::try_from(used.len()).unwrap_or(8));
            out.extend_from_slice(used);
        }
    }
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}

fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        out.push_str(std::str::from_utf8(line).unwrap_or_default());
        out.push('\n');
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Result;
    use rcgen::{CertificateParams, DnType, KeyPair};
    use std::time::Duration as StdDuration;

    fn signed(usages: Vec<&str>, days: u64) -> Result<(Vec<u8>, Arc<Authority>)> {
        let dir = tempfile::tempdir()?;
        let ca = Arc::new(Authority::load_or_create(dir.path(), "client-ca", "naru-client-ca")?);
        let mut params = CertificateParams::new(vec!["n1".to_owned(), "10.0.0.1".to_owned()])?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "a");
        params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 10]), "b");
        params.distinguished_name.push(DnType::CommonName, "jane");
        let request = params.serialize_request(&KeyPair::generate()?)?.pem()?;
        let wanted = SigningRequest {
            authority: naru_controllers::Authority::Client,
            pem: &request,
            usages,
            duration: StdDuration::from_secs(days * 24 * 3600),
        };
        let authorities = Authorities { client: ca.clone(), server: ca.clone() };
        let text = authorities.sign(&wanted).map_err(anyhow::Error::msg)?;
        Ok((CertificateDer::from_pem_slice(text.as_bytes())?.to_vec(), ca))
    }

    #[test]
    fn a_certificate_keeps_all_groups_names_and_the_key() -> Result<()> {
        let (der, ca) = signed(vec!["client auth", "digital signature", "key encipherment"], 1)?;
        let (rest, certificate) = X509Certificate::from_der(&der)?;
        assert!(rest.is_empty());
        let issuer = CertificateDer::from_pem_slice(ca.cert_pem.as_bytes())?;
        let (_, issuer) = X509Certificate::from_der(&issuer)?;
        certificate.verify_signature(Some(issuer.public_key()))?;
        let groups: Vec<_> = certificate.subject().iter_organization().filter_map(|part| part.as_str().ok()).collect();
        assert_eq!(groups, ["a", "b"]);
        let names = certificate.subject_alternative_name()?.map(|names| names.value.general_names.len());
        assert_eq!(names, Some(2));
        let usage = certificate.key_usage()?.map(|usage| usage.value.flags);
        assert_eq!(usage, Some(0b101));
        let extended =
            certificate.extended_key_usage()?.map(|usage| (usage.value.client_auth, usage.value.server_auth));
        assert_eq!(extended, Some((true, false)));
        assert!(!certificate.is_ca());
        let validity = certificate.validity();
        let seconds = validity.not_after.timestamp() - validity.not_before.timestamp();
        assert_eq!(seconds, 24 * 3600 + SKEW.whole_seconds());
        Ok(())
    }

    #[test]
    fn a_certificate_ends_with_its_authority() -> Result<()> {
        let (der, ca) = signed(vec!["server auth"], 365 * 100)?;
        let (_, certificate) = X509Certificate::from_der(&der)?;
        let issuer = CertificateDer::from_pem_slice(ca.cert_pem.as_bytes())?;
        let (_, issuer) = X509Certificate::from_der(&issuer)?;
        assert_eq!(certificate.validity().not_after, issuer.validity().not_after);
        Ok(())
    }
}
