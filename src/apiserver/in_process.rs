//! The transport for parts of the same process: no network, no authentication, and the server's own
//! bytes for watches.

use crate::authn::User;
use crate::pipeline::{self, Authenticated, Source, State};
use crate::response::Reply;
use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderValue};
use naru_client::transport::{Error, Request, Transport, WatchStream, failure_of};
use std::sync::Arc;
use std::time::Instant;

struct InProcess {
    state: Arc<State>,
    user: Arc<User>,
    /// What the part calls itself: its managed fields carry the name of upstream's program.
    program: HeaderValue,
}

/// Upstream's program in which the user's work is done.
fn program(user: &str) -> HeaderValue {
    HeaderValue::from_static(
        if user.starts_with("system:serviceaccount:kube-system:") || user.starts_with("system:kube-controller-manager")
        {
            "kube-controller-manager"
        } else if user.starts_with("system:kube-scheduler") {
            "kube-scheduler"
        } else if user.starts_with("system:node:") {
            "kubelet"
        } else if user.starts_with("system:kube-proxy") {
            "kube-proxy"
        } else {
            "naru"
        },
    )
}

/// A transport for one user.
pub(crate) fn transport(state: Arc<State>, user: &str, groups: &[&str]) -> Arc<dyn Transport> {
    let program = program(user);
    let user = User::authenticated(user, groups.iter().map(|group| (*group).to_owned()));
    Arc::new(InProcess { state, user: Arc::new(user), program })
}

impl InProcess {
    async fn call(&self, request: Request) -> Result<Reply, Error> {
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, self.program.clone());
        if !request.body.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(request.content_type));
        }
        let asked = request.body.len();
        let (path, query) = request.uri.split_once('?').unwrap_or((&request.uri, ""));
        let request = Authenticated {
            user: self.user.clone(),
            notes: Arc::default(),
            method: request.method,
            path: path.to_owned(),
            query: query.to_owned(),
            headers,
            body: Source::Bytes(request.body),
            upgrade: None,
        };
        let (method, started) = (request.method.clone(), Instant::now());
        let outcome = pipeline::run(self.state.clone(), request).await;
        self.state.metrics.called(&method, asked, &outcome, started.elapsed());
        outcome.map_err(Error::Status)
    }
}

#[async_trait]
impl Transport for InProcess {
    async fn send(&self, request: Request) -> Result<Bytes, Error> {
        match self.call(request).await? {
            Reply::Bytes(complete) if complete.code < 300 => Ok(complete.body),
            // What is nowhere is answered with plain text.
            Reply::Bytes(complete) => Err(Error::Status(Box::new(failure_of(complete.code, &complete.body)))),
            _ => Err(Error::Connection("a stream cannot be read as one answer".to_owned())),
        }
    }

    async fn watch(&self, request: Request) -> Result<WatchStream, Error> {
        match self.call(request).await? {
            Reply::Watch(events) => Ok(events),
            Reply::Bytes(complete) if complete.code >= 300 => {
                Err(Error::Status(Box::new(failure_of(complete.code, &complete.body))))
            }
            _ => Err(Error::Connection("the answer is no watch".to_owned())),
        }
    }
}
