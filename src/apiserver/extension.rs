//! Paths beside the API that the composition root answers itself: nodes that join, and their tunnels.

use crate::authn::User;
use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Response};
use hyper::upgrade::OnUpgrade;

/// Somebody who answers paths of his own on the API's port.
#[async_trait]
pub trait Extension: std::fmt::Debug + Send + Sync {
    /// Whether a path is one of his.
    fn serves(&self, path: &str) -> bool;

    /// Answers. Nothing has been authorized: that is his to do.
    async fn answer(&self, request: ExtensionRequest) -> Response<Bytes>;
}

/// A request for an [`Extension`].
#[derive(Debug)]
pub struct ExtensionRequest {
    /// Who asks; `None` if that could not be proved.
    pub caller: Option<Caller>,
    /// Method.
    pub method: Method,
    /// Path, without the query.
    pub path: String,
    /// The body, at most 3 MiB; empty for upgrades.
    pub body: Bytes,
    /// The connection, once the answer is 101.
    pub upgrade: Option<OnUpgrade>,
}

/// An authenticated user.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Name.
    pub name: String,
    /// Groups.
    pub groups: Vec<String>,
}

impl Caller {
    pub(crate) fn of(user: &User) -> Self {
        Self { name: user.name.clone(), groups: user.groups.clone() }
    }

    /// Whether he belongs to a group.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|held| held == group)
    }
}
