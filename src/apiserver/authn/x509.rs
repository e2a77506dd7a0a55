//! Users from client certificates: CN is the name, O are the groups.

use super::User;
use x509_parser::oid_registry::{Oid, asn1_rs::oid};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Where a certificate may carry the user's id.
const UID: Oid<'static> = oid!(1.3.6.1.4.1.57683.2);

/// The user that a verified certificate names; `None` without a common name.
pub(super) fn user(der: &[u8]) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = common_name(der)?;
    let groups = subject.iter_organization().filter_map(|group| group.as_str().ok()).map(str::to_owned);
    let mut user = User::authenticated(name, groups);
    let mut ids = subject.iter_by_oid(&UID).filter_map(|id| id.as_str().ok());
    if let Some(id) = ids.next() {
        // Two ids are none: upstream refuses such a certificate.
        if ids.next().is_some() || id.is_empty() {
            return None;
        }
        id.clone_into(&mut user.uid);
    }
    let digest = <sha2::Sha256 as sha2::Digest>::digest(der);
    let id = format!("X509SHA256={}", digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    user.extra.insert("authentication.kubernetes.io/credential-id".to_owned(), vec![id]);
    Some(user)
}

/// Until when the certificate is valid, in seconds since 1970.
pub(super) fn expires(der: &[u8]) -> Option<i64> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

/// The common name, if it has one.
pub(super) fn common_name(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
    (!name.is_empty()).then(|| name.to_owned())
}
