//! The API server: the request pipeline in its visible order, the watch cache, and the documents.
//!
//! Architecture invariant: this is the only crate that touches the store; everything else reaches
//! state through a `Transport`, over HTTPS or in-process.

mod admission;
mod audit;
mod authn;
mod authz;
mod bootstrap;
mod cache;
mod clock;
mod config;
mod current_certificate;
mod dialer;
mod documents;
mod encryption;
mod event_expiry;
mod expiring;
mod extension;
mod flags;
mod flowcontrol;
mod handlers;
mod in_process;
mod metrics;
mod negotiate;
mod objects;
mod outbound;
mod pace;
mod pipeline;
mod reload;
mod request_info;
mod response;
mod server;
mod services;
mod shares;
mod stall;
mod storage;
#[cfg(test)]
mod suite;
mod websocket;

pub use authn::LegacyToken;
pub use config::{Config, FrontProxy, ServeError, StartError, StaticToken};
pub use current_certificate::CurrentCertificate;
pub use dialer::{Destination, Dialer, Direct, Stream};
pub use extension::{Caller, Extension, ExtensionRequest};
pub use flags::{
    AuditBatchFlags, AuditFlags, AuditTruncateFlags, AuditWebhookFlags, AuthorizationFlags, EncryptionFlags, FLAGS,
    Flag, FlagError, Flags, OidcFlags, RequestHeaderFlags, ServiceAccountFlags, TokenWebhookFlags,
};
pub use server::{api_tls_config, tls_config};

use naru_base::Shutdown;
use naru_client::QueueMetrics;
use naru_client::transport::Transport;
use std::sync::Arc;
use tokio::net::TcpListener;

/// A running API server. Cloning shares it.
#[derive(Clone, Debug)]
pub struct ApiServer {
    state: Arc<pipeline::State>,
}

impl ApiServer {
    /// Fills the watch cache from the store and writes what must exist before the first request
    /// (namespaces, default RBAC, the `kubernetes` Service).
    pub async fn new(config: Config, shutdown: Shutdown) -> Result<Self, StartError> {
        let state = Arc::new(pipeline::State::new(config, shutdown).await?);
        event_expiry::start(state.clone());
        flowcontrol::follow(state.clone());
        Ok(Self { state })
    }

    /// Accepts connections until the shutdown is triggered, then lets running requests finish
    /// (bounded). `tls` comes from [`api_tls_config`], or is any configuration that offers `h2` and
    /// `http/1.1` and asks for client certificates.
    pub async fn serve(&self, listener: TcpListener, tls: Arc<rustls::ServerConfig>) -> Result<(), ServeError> {
        let served = server::serve(self.state.clone(), listener, tls).await;
        if let Some(audit) = &self.state.audit {
            audit.flush().await;
        }
        served
    }

    /// Lets `/readyz` fail while everything is still served, so that who balances load looks elsewhere first.
    /// Returns for how long that should go on before the shutdown is triggered (`shutdown-delay-duration`).
    pub fn stop_being_ready(&self) -> std::time::Duration {
        self.state.stopping.store(true, std::sync::atomic::Ordering::Release);
        self.state.config.flags.shutdown_delay.unwrap_or_default()
    }

    /// A token for a Secret of the type `kubernetes.io/service-account-token`; `None` when it cannot be signed.
    pub fn legacy_token(&self, token: &LegacyToken<'_>) -> Option<String> {
        self.state.authn.issuer.issue_legacy(token).ok()
    }

    /// Takes other bearer tokens than those of its configuration from now on.
    pub fn replace_static_tokens(&self, tokens: &[StaticToken]) {
        self.state.authn.replace_static_tokens(tokens);
    }

    /// Where the work queues of this process are counted, to be told at `/metrics`.
    pub fn queues(&self) -> QueueMetrics {
        self.state.metrics.queues.clone()
    }

    /// A transport that skips the network and authentication, and nothing else: requests are
    /// authorized, admitted and audited as this user's.
    pub fn in_process(&self, user: &str, groups: &[&str]) -> Arc<dyn Transport> {
        in_process::transport(self.state.clone(), user, groups)
    }
}
