//! Certificate authorities, leaf certificates and keys under `server/tls`, all ECDSA P-256.

use crate::files::{read_optional, write_atomic};
use anyhow::{Context, Result, anyhow, bail};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::path::{Path, PathBuf};
use time::{Duration, OffsetDateTime};

const CA_DAYS: i64 = 3650;
/// How long leaves are good for, unless something else is asked for.
pub(crate) const LEAF_LIFE: std::time::Duration = std::time::Duration::from_secs(365 * 24 * 3600);
/// The part of its life after which a leaf is renewed.
pub(crate) const RENEWAL: std::ops::Range<f64> = 0.7..0.9;
/// Clocks of home machines differ: certificates are valid from a little earlier.
const SKEW: Duration = Duration::hours(1);

/// A certificate with its private key.
#[derive(Clone)]
pub struct Identity {
    /// The certificate, PEM.
    pub cert_pem: String,
    /// Its private key, PKCS#8 PEM.
    pub key_pem: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

impl Identity {
    /// The chain and key as rustls takes them.
    pub fn to_rustls(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let chain = CertificateDer::pem_slice_iter(self.cert_pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| anyhow!("certificate is not PEM: {error}"))?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(self.key_pem.as_bytes())
            .map_err(|error| anyhow!("private key is not PKCS#8 PEM: {error}"))?;
        Ok((chain, key.into()))
    }
}

/// What a leaf certificate is for.
#[derive(Debug, Clone, Default)]
pub struct LeafSpec {
    /// Common name: the user name in a client certificate.
    pub common_name: String,
    /// Organization: the group in a client certificate.
    pub organization: Option<String>,
    /// Host names and addresses of a serving certificate; empty for a client certificate.
    pub alt_names: Vec<String>,
}

/// A certificate authority kept in two files, `NAME.crt` and `NAME.key`.
pub struct Authority {
    /// The authority's certificate, PEM.
    pub cert_pem: String,
    issuer: Issuer<'static, KeyPair>,
    /// Of what it signs.
    leaf_life: std::time::Duration,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

fn pair(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")))
}

impl Authority {
    /// Loads the authority, or makes it on the first start. The certificate is written last, so a
    /// certificate without its key means that somebody lost the key: an error, never a new authority.
    pub fn load_or_create(dir: &Path, name: &str, common_name: &str) -> Result<Self> {
        let (crt, key) = pair(dir, name);
        if let Some(cert_pem) = read_optional(&crt)? {
            let issuer = (|| -> Result<_> {
                let key_pem = read_optional(&key)?.context("the file is missing")?;
                Ok(Issuer::from_ca_cert_pem(&cert_pem, KeyPair::from_pem(&key_pem)?)?)
            })()
            .with_context(|| {
                format!(
                    "the certificate authority {} cannot be used with its key {}: restore both from a backup, or \
                     remove {} to start with new certificates (clients then need new kubeconfigs)",
                    crt.display(),
                    key.display(),
                    dir.display()
                )
            })?;
            return Ok(Self { cert_pem, issuer, leaf_life: LEAF_LIFE });
        }
        let now = OffsetDateTime::now_utc();
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, format!("{common_name}@{}", now.unix_timestamp()));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = now - SKEW;
        params.not_after = now + Duration::days(CA_DAYS);
        let key_pair = KeyPair::generate()?;
        let cert_pem = params.self_signed(&key_pair)?.pem();
        write_atomic(&key, key_pair.serialize_pem().as_bytes(), 0o600)?;
        write_atomic(&crt, cert_pem.as_bytes(), 0o644)?;
        let issuer = Issuer::from_ca_cert_pem(&cert_pem, key_pair)?;
        Ok(Self { cert_pem, issuer, leaf_life: LEAF_LIFE })
    }

    /// Signs leaves for this time from now on.
    pub(crate) fn with_leaf_life(self, leaf_life: std::time::Duration) -> Self {
        Self { leaf_life, ..self }
    }

    /// The authority's key.
    pub(crate) fn key(&self) -> &KeyPair {
        self.issuer.key()
    }

    /// Signs a new leaf.
    pub fn sign(&self, spec: &LeafSpec) -> Result<Identity> {
        let params = self.leaf(spec)?;
        let key_pair = KeyPair::generate()?;
        let cert_pem = params.signed_by(&key_pair, &self.issuer)?.pem();
        Ok(Identity { cert_pem, key_pem: key_pair.serialize_pem() })
    }

    /// Signs the key of a certificate request; the names are those of `spec`, whatever the request says.
    pub fn sign_request(&self, request_pem: &str, spec: &LeafSpec) -> Result<String> {
        let request = rcgen::CertificateSigningRequestParams::from_pem(request_pem)
            .context("the certificate request cannot be read")?;
        Ok(self.leaf(spec)?.signed_by(&request.public_key, &self.issuer)?.pem())
    }

    /// The leaf kept as `NAME.crt` and `NAME.key`: the stored one while it still serves `spec` and has
    /// time left, else a new one.
    pub fn load_or_sign(&self, dir: &Path, name: &str, spec: &LeafSpec) -> Result<Identity> {
        let (crt, key) = pair(dir, name);
        if let (Some(cert_pem), Some(key_pem)) = (read_optional(&crt)?, read_optional(&key)?) {
            let identity = Identity { cert_pem, key_pem };
            match self.still_serves(&identity, spec) {
                Ok(()) => return Ok(identity),
                Err(reason) => {
                    tracing::debug!("{}: signing a new certificate: {reason:#}", crt.display())
                }
            }
        }
        self.sign_and_keep(dir, name, spec)
    }

    /// A new leaf, kept as `NAME.crt` and `NAME.key`.
    pub(crate) fn sign_and_keep(&self, dir: &Path, name: &str, spec: &LeafSpec) -> Result<Identity> {
        let (crt, key) = pair(dir, name);
        let identity = self.sign(spec)?;
        write_atomic(&key, identity.key_pem.as_bytes(), 0o600)?;
        write_atomic(&crt, identity.cert_pem.as_bytes(), 0o644)?;
        Ok(identity)
    }

    fn still_serves(&self, identity: &Identity, spec: &LeafSpec) -> Result<()> {
        let (chain, _) = identity.to_rustls()?;
        let leaf = chain.first().context("no certificate in the file")?;
        let (_, cert) = x509_parser::parse_x509_certificate(leaf)?;
        let ca = CertificateDer::from_pem_slice(self.cert_pem.as_bytes()).map_err(|error| anyhow!("{error}"))?;
        let (_, ca) = x509_parser::parse_x509_certificate(&ca)?;
        if cert.issuer() != ca.subject() {
            bail!("it is from another authority");
        }
        let key = KeyPair::from_pem(&identity.key_pem)?;
        if key.public_key_raw() != &*cert.public_key().subject_public_key.data {
            bail!("the key does not belong to it");
        }
        if share_of(&cert, RENEWAL.start) <= OffsetDateTime::now_utc().unix_timestamp() {
            bail!("it is to be renewed");
        }
        let wanted = CertificateParams::new(spec.alt_names.clone())?.subject_alt_names;
        let names = cert.subject_alternative_name()?.map(|ext| ext.value.general_names.clone()).unwrap_or_default();
        for name in &wanted {
            if !names.iter().any(|have| same_name(have, name)) {
                bail!("it lacks the name {name:?}");
            }
        }
        let subject = cert.subject().iter_common_name().next().and_then(|cn| cn.as_str().ok());
        if subject != Some(spec.common_name.as_str()) {
            bail!("it names another subject");
        }
        Ok(())
    }

    /// A leaf as it is to be signed.
    fn leaf(&self, spec: &LeafSpec) -> Result<CertificateParams> {
        let now = OffsetDateTime::now_utc();
        let mut params = CertificateParams::new(spec.alt_names.clone())?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, &spec.common_name);
        if let Some(organization) = &spec.organization {
            params.distinguished_name.push(DnType::OrganizationName, organization);
        }
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![if spec.alt_names.is_empty() {
            ExtendedKeyUsagePurpose::ClientAuth
        } else {
            ExtendedKeyUsagePurpose::ServerAuth
        }];
        params.not_before = now - SKEW;
        params.not_after = now + self.leaf_life;
        Ok(params)
    }
}

/// A new key and the request for its certificate, both PEM: request first.
pub(crate) fn new_request() -> Result<(String, String)> {
    let key = KeyPair::generate()?;
    let request = CertificateParams::new(Vec::new())?.serialize_request(&key)?.pem()?;
    Ok((request, key.serialize_pem()))
}

/// Seconds until a certificate expires; negative afterwards.
pub(crate) fn seconds_left(cert_pem: &str) -> Result<i64> {
    let cert = CertificateDer::from_pem_slice(cert_pem.as_bytes()).map_err(|error| anyhow!("{error}"))?;
    let (_, cert) = x509_parser::parse_x509_certificate(&cert)?;
    Ok(cert.validity().not_after.timestamp() - OffsetDateTime::now_utc().unix_timestamp())
}

/// When a certificate is so much of its life old, in seconds since 1970.
pub(crate) fn at_share(cert_pem: &str, share: f64) -> Result<i64> {
    let cert = CertificateDer::from_pem_slice(cert_pem.as_bytes()).map_err(|error| anyhow!("{error}"))?;
    let (_, cert) = x509_parser::parse_x509_certificate(&cert)?;
    Ok(share_of(&cert, share))
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "lives are no more than centuries")]
fn share_of(cert: &x509_parser::certificate::X509Certificate<'_>, share: f64) -> i64 {
    let from = cert.validity().not_before.timestamp() + SKEW.whole_seconds();
    let life = cert.validity().not_after.timestamp() - from;
    from + (life as f64 * share) as i64
}

/// Whether an identity names all of `names`.
pub(crate) fn names_all(identity: &Identity, names: &[String]) -> Result<bool> {
    let (chain, _) = identity.to_rustls()?;
    let (_, cert) = x509_parser::parse_x509_certificate(chain.first().context("no certificate in the file")?)?;
    let wanted = CertificateParams::new(names.to_vec())?.subject_alt_names;
    let held = cert.subject_alternative_name()?.map(|ext| ext.value.general_names.clone()).unwrap_or_default();
    Ok(wanted.iter().all(|name| held.iter().any(|have| same_name(have, name))))
}

fn same_name(have: &x509_parser::extensions::GeneralName<'_>, want: &rcgen::SanType) -> bool {
    use x509_parser::extensions::GeneralName;
    match (have, want) {
        (GeneralName::DNSName(have), rcgen::SanType::DnsName(want)) => *have == want.as_str(),
        (GeneralName::IPAddress(have), rcgen::SanType::IpAddress(want)) => match want {
            std::net::IpAddr::V4(ip) => *have == ip.octets(),
            std::net::IpAddr::V6(ip) => *have == ip.octets(),
        },
        _ => false,
    }
}

/// A key that signs tokens, PKCS#8 PEM; made on the first start.
pub fn load_or_create_key(path: &Path) -> Result<String> {
    if let Some(pem) = read_optional(path)? {
        KeyPair::from_pem(&pem).with_context(|| {
            format!(
                "{} is damaged: restore it from a backup, or remove it (tokens issued so far are then refused)",
                path.display()
            )
        })?;
        return Ok(pem);
    }
    let pem = KeyPair::generate()?.serialize_pem();
    write_atomic(path, pem.as_bytes(), 0o600)?;
    Ok(pem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(names: &[&str]) -> LeafSpec {
        LeafSpec {
            common_name: "kube-apiserver".into(),
            organization: None,
            alt_names: names.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn a_leaf_is_kept_until_it_no_longer_fits() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let ca = Authority::load_or_create(dir.path(), "server-ca", "naru-server-ca")?;
        let first = ca.load_or_sign(dir.path(), "serving", &spec(&["localhost", "10.0.0.1"]))?;
        let again = Authority::load_or_create(dir.path(), "server-ca", "naru-server-ca")?;
        let same = again.load_or_sign(dir.path(), "serving", &spec(&["localhost", "10.0.0.1"]))?;
        assert_eq!(first.cert_pem, same.cert_pem);
        let more = again.load_or_sign(dir.path(), "serving", &spec(&["localhost", "10.0.0.2"]))?;
        assert_ne!(first.cert_pem, more.cert_pem);
        Ok(())
    }

    #[test]
    fn a_lost_authority_key_is_an_error_that_says_what_to_do() -> Result<()> {
        let dir = tempfile::tempdir()?;
        Authority::load_or_create(dir.path(), "client-ca", "naru-client-ca")?;
        std::fs::remove_file(dir.path().join("client-ca.key"))?;
        let error = Authority::load_or_create(dir.path(), "client-ca", "naru-client-ca").err().context("must fail")?;
        let text = format!("{error:#}");
        assert!(text.contains("client-ca.key") && text.contains("restore"), "{text}");
        Ok(())
    }

    #[test]
    fn a_key_without_certificate_is_a_crash_and_starts_over() -> Result<()> {
        let dir = tempfile::tempdir()?;
        std::fs::write(dir.path().join("client-ca.key"), "half a k")?;
        Authority::load_or_create(dir.path(), "client-ca", "naru-client-ca")?;
        Authority::load_or_create(dir.path(), "client-ca", "naru-client-ca")?;
        Ok(())
    }
}
