//! Values of Kubernetes' own libraries: made by their functions, and only looked at by them.

use super::urls::Url;
use super::versions::Version;
use crate::quantity::Quantity;
use std::cmp::Ordering;
use std::net::IpAddr;

/// One of them.
#[derive(Debug, Clone, PartialEq)]
pub enum Opaque {
    /// An address.
    Ip(IpAddr),
    /// An address with the length of its prefix.
    Cidr(IpAddr, u8),
    /// The parts of a URL.
    Url(Url),
    /// An amount of a resource.
    Quantity(Quantity),
    /// A semantic version.
    Version(Version),
    /// A form that texts may have, by its place in the table of forms.
    Format(usize),
}

impl Opaque {
    /// The name of its type.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Ip(_) => "net.IP",
            Self::Cidr(..) => "net.CIDR",
            Self::Url(_) => "kubernetes.URL",
            Self::Quantity(_) => "kubernetes.Quantity",
            Self::Version(_) => "kubernetes.Semver",
            Self::Format(_) => "kubernetes.NamedFormat",
        }
    }

    /// Which comes first, of those that are numbers of a kind.
    pub(super) fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Quantity(a), Self::Quantity(b)) => Some(a.cmp(b)),
            (Self::Version(a), Self::Version(b)) => Some(a.compare(b)),
            _ => None,
        }
    }

    /// As text, where there is a conversion.
    pub(super) fn show(&self) -> Option<String> {
        match self {
            Self::Ip(address) => Some(address.to_string()),
            Self::Cidr(address, length) => Some(format!("{address}/{length}")),
            _ => None,
        }
    }
}
