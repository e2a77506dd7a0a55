//! Users from client certificates: CN is the name, O are the groups.

use super::User;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The user that a verified certificate names; `None` without a common name.
pub(super) fn user(der: &[u8]) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    if name.is_empty() {
        return None;
    }
    let groups = subject.iter_organization().filter_map(|group| group.as_str().ok()).map(str::to_owned);
    Some(User::authenticated(name, groups))
}
