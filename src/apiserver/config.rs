//! What the composition root gives the API server.

use crate::current_certificate::CurrentCertificate;
use crate::dialer::{Dialer, Direct};
use crate::extension::Extension;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// One line of a static token file.
#[derive(Clone)]
pub struct StaticToken {
    /// The bearer token.
    pub token: String,
    /// User name.
    pub user: String,
    /// User id.
    pub uid: String,
    /// Groups beside `system:authenticated`.
    pub groups: Vec<String>,
}

impl std::fmt::Debug for StaticToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StaticToken").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Who may vouch for users, and in which headers.
#[derive(Debug, Clone, Default)]
pub struct FrontProxy {
    /// Authorities of front proxies' client certificates; none: no front proxy is believed.
    pub ca_pem: String,
    /// Their names; any, when empty.
    pub allowed_names: Vec<String>,
    /// Headers with the user's name; the first that is there counts.
    pub username_headers: Vec<String>,
    /// Headers with the user's id.
    pub uid_headers: Vec<String>,
    /// Headers with groups.
    pub group_headers: Vec<String>,
    /// What headers with extra facts start with.
    pub extra_headers_prefixes: Vec<String>,
}

impl FrontProxy {
    /// With the headers that everybody uses.
    pub fn usual(ca_pem: String, name: &str) -> Self {
        Self {
            ca_pem,
            allowed_names: vec![name.to_owned()],
            username_headers: vec!["X-Remote-User".to_owned()],
            uid_headers: vec!["X-Remote-Uid".to_owned()],
            group_headers: vec!["X-Remote-Group".to_owned()],
            extra_headers_prefixes: vec!["X-Remote-Extra-".to_owned()],
        }
    }
}

/// Everything the API server is told at start.
#[derive(Debug, Clone)]
pub struct Config {
    /// The open store.
    pub store: naru_store::Store,
    /// Authorities whose certificates the kubelets serve with; used when proxying to nodes.
    pub kubelet_ca_pem: String,
    /// The server's own identity towards kubelets; without one, logs and exec answer 503.
    pub kubelet_client: Option<Arc<CurrentCertificate>>,
    /// The authority that the API server's own certificate leads to, published to pods and joining nodes.
    pub root_ca_pem: String,
    /// Authorities whose client certificates identify users, published to extension servers.
    pub client_ca_pem: String,
    /// ECDSA P-256 key (PKCS#8 PEM) that signs service account tokens.
    pub service_account_key_pem: String,
    /// `iss` of service account tokens, such as `https://kubernetes.default.svc.cluster.local`.
    pub issuer: String,
    /// Audiences the API server itself accepts; empty means the issuer alone.
    pub api_audiences: Vec<String>,
    /// Static bearer tokens (admin tokens, node join tokens).
    pub static_tokens: Vec<StaticToken>,
    /// Front proxies (aggregation).
    pub front_proxy: FrontProxy,
    /// What `--kube-apiserver-arg` says; it goes before the fields above.
    pub flags: crate::flags::Flags,
    /// Service addresses: one range such as `10.43.0.0/16`, or one of each family with a comma between them. The
    /// first address of the first is the `kubernetes` Service's.
    pub service_cidr: String,
    /// Ports that NodePort Services get theirs from.
    pub node_ports: RangeInclusive<u16>,
    /// Where pods and nodes reach this server: the endpoints of the `kubernetes` Service.
    pub advertise_address: IpAddr,
    /// The port there.
    pub advertise_port: u16,
    /// How this server reaches nodes, pods and what they serve.
    pub dialer: Arc<dyn Dialer>,
    /// Answers paths of its own on the same port.
    pub extension: Option<Arc<dyn Extension>>,
    /// Other parts of the process whose metrics stand beside the server's own.
    pub metric_sources: Vec<Arc<dyn naru_base::metrics::Source>>,
}

impl Config {
    /// Brings in what flags say about the fields.
    pub(crate) fn resolve(&mut self) -> Result<(), StartError> {
        let flags = &self.flags.requestheader;
        if let Some(path) = &flags.client_ca_file {
            let wrong = |error| StartError::Config { what: "requestheader-client-ca-file", reason: format!("{error}") };
            let ca_pem = std::fs::read_to_string(path).map_err(wrong)?;
            self.front_proxy =
                FrontProxy { allowed_names: flags.allowed_names.clone(), ..FrontProxy::usual(ca_pem, "") };
        }
        let proxy = &mut self.front_proxy;
        for (given, field) in [
            (&flags.username_headers, &mut proxy.username_headers),
            (&flags.uid_headers, &mut proxy.uid_headers),
            (&flags.group_headers, &mut proxy.group_headers),
            (&flags.extra_headers_prefix, &mut proxy.extra_headers_prefixes),
        ] {
            if !given.is_empty() {
                field.clone_from(given);
            }
        }
        Ok(())
    }

    /// A configuration with the usual defaults around the three things that have none.
    pub fn new(store: naru_store::Store, service_account_key_pem: String, advertise_address: IpAddr) -> Self {
        Self {
            store,
            kubelet_ca_pem: String::new(),
            kubelet_client: None,
            root_ca_pem: String::new(),
            client_ca_pem: String::new(),
            service_account_key_pem,
            issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
            api_audiences: Vec::new(),
            static_tokens: Vec::new(),
            front_proxy: FrontProxy::default(),
            flags: crate::flags::Flags::default(),
            service_cidr: "10.43.0.0/16".to_owned(),
            node_ports: 30000..=32767,
            advertise_address,
            advertise_port: 6443,
            dialer: Arc::new(Direct),
            extension: None,
            metric_sources: Vec::new(),
        }
    }
}

/// Why the API server could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A configured value cannot be used.
    #[error("{what}: {reason}")]
    Config {
        /// Which value.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The store failed while the cache was being filled or defaults were written.
    #[error("store: {0}")]
    Store(String),
}

/// Why serving ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener broke.
    #[error("accept: {0}")]
    Accept(std::io::Error),
}
