//! What a server keeps secret: authorities, certificates, keys and tokens, and how they are renewed while it runs.

use crate::cli::ServerArgs;
use crate::layout::Layout;
use crate::pki::{Authority, Identity, LeafSpec, load_or_create_key};
use crate::server::{API_SERVER_NAME, Settings};
use crate::token::{self, Tokens};
use crate::{kubeconfig, renewal};
use anyhow::{Context, Result};
use naru_apiserver::CurrentCertificate;
use naru_base::{Backoff, Shutdown, spawn};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Authorities, certificates, keys and the tokens.
#[derive(Debug)]
pub(crate) struct Secrets {
    pub(crate) server_ca: Arc<Authority>,
    pub(crate) client_ca: Arc<Authority>,
    pub(crate) front_proxy_ca: Authority,
    /// What the API is served with.
    pub(crate) serving: Leaf,
    /// The administrator.
    pub(crate) admin: Leaf,
    /// As what the API server comes to nodes.
    pub(crate) kubelet_client: Leaf,
    /// What the node API of this machine is served with.
    pub(crate) kubelet_serving: Leaf,
    pub(crate) service_account_key: String,
    pub(crate) tokens: Tokens,
}

/// A certificate that this server has signed for itself.
#[derive(Debug)]
pub(crate) struct Leaf {
    authority: Arc<Authority>,
    dir: PathBuf,
    name: &'static str,
    spec: LeafSpec,
    identity: Identity,
    /// The certificate as connections use it.
    pub(crate) current: Arc<CurrentCertificate>,
}

impl Leaf {
    fn load(authority: &Arc<Authority>, layout: &Layout, name: &'static str, spec: LeafSpec) -> Result<Self> {
        let dir = layout.tls();
        let identity = authority.load_or_sign(&dir, name, &spec)?;
        let current = CurrentCertificate::new(&identity.cert_pem, &identity.key_pem)
            .with_context(|| format!("{}", dir.join(name).display()))?;
        Ok(Self { authority: authority.clone(), dir, name, spec, identity, current })
    }

    /// What it is to name from its next renewal on, beside what it names already.
    fn add_names(&mut self, names: &[String]) {
        for name in names {
            if !self.spec.alt_names.contains(name) {
                self.spec.alt_names.push(name.clone());
            }
        }
    }

    fn renew(&mut self) -> Result<()> {
        self.identity = self.authority.sign_and_keep(&self.dir, self.name, &self.spec)?;
        Ok(self.current.replace(&self.identity.cert_pem, &self.identity.key_pem)?)
    }
}

impl Secrets {
    pub(crate) fn load(args: &ServerArgs, layout: &Layout, settings: &Settings) -> Result<Self> {
        let dir = layout.tls();
        let authority = |name: &str, common_name: &str| {
            Ok::<_, anyhow::Error>(
                Authority::load_or_create(&dir, name, common_name)?.with_leaf_life(args.certificate_lifetime),
            )
        };
        let server_ca = Arc::new(authority("server-ca", "naru-server-ca")?);
        let client_ca = Arc::new(authority("client-ca", "naru-client-ca")?);
        let front_proxy_ca = authority("request-header-ca", "naru-request-header-ca")?;
        let leaf = |authority, name, spec| Leaf::load(authority, layout, name, spec);
        let client = |name: &str, group: &str| LeafSpec {
            common_name: name.into(),
            organization: Some(group.into()),
            alt_names: Vec::new(),
        };
        let serving = LeafSpec {
            common_name: "kube-apiserver".into(),
            organization: None,
            alt_names: server_names(args, settings),
        };
        let kubelet = LeafSpec {
            common_name: format!("system:node:{}", settings.node_name),
            organization: Some("system:nodes".into()),
            alt_names: [settings.node_name.clone(), "127.0.0.1".into()]
                .into_iter()
                .chain(settings.node_ips.iter().map(ToString::to_string))
                .collect(),
        };
        let given = token::given("--token-file", args.token_file.as_deref(), args.token.as_deref())?;
        let agents = token::given("--agent-token-file", args.agent_token_file.as_deref(), args.agent_token.as_deref())?;
        Ok(Self {
            serving: leaf(&server_ca, "serving-kube-apiserver", serving)?,
            admin: leaf(&client_ca, "client-admin", client("system:admin", "system:masters"))?,
            kubelet_client: leaf(&client_ca, "client-kube-apiserver", client(API_SERVER_NAME, "system:masters"))?,
            kubelet_serving: leaf(&server_ca, "serving-kubelet", kubelet)?,
            service_account_key: load_or_create_key(&dir.join("service.key"))?,
            tokens: Tokens::load(layout, given.as_deref(), agents, &server_ca.cert_pem)?,
            server_ca,
            client_ca,
            front_proxy_ca,
        })
    }

    /// Renews the server's own certificates when they are due, until the shutdown.
    /// Their names follow the machine's addresses.
    pub(crate) fn keep_fresh(self, kubeconfig: Kubeconfig, ips: watch::Receiver<Vec<IpAddr>>, shutdown: &Shutdown) {
        let shutdown = shutdown.clone();
        spawn("own-certificates", async move { shutdown.guard(self.renew_for_ever(kubeconfig, ips)).await });
    }

    async fn renew_for_ever(mut self, kubeconfig: Kubeconfig, mut ips: watch::Receiver<Vec<IpAddr>>) {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        loop {
            let certificates = self.leaves().map(|leaf| leaf.identity.cert_pem.clone());
            let moved = async {
                if ips.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = renewal::due(&certificates, renewal::now) => {}
                () = moved => {}
            }
            let now: Vec<String> = ips.borrow_and_update().iter().map(ToString::to_string).collect();
            self.serving.add_names(&now);
            self.kubelet_serving.add_names(&now);
            match self.renew(&kubeconfig) {
                Ok(()) => {
                    backoff.reset();
                    tracing::info!("the server's certificates are renewed");
                }
                Err(error) => {
                    tracing::warn!("the server's certificates could not be renewed, trying again: {error:#}");
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
        }
    }

    fn renew(&mut self, kubeconfig: &Kubeconfig) -> Result<()> {
        for leaf in self.leaves() {
            leaf.renew()?;
        }
        kubeconfig.write(self)
    }

    fn leaves(&mut self) -> [&mut Leaf; 4] {
        [&mut self.serving, &mut self.admin, &mut self.kubelet_client, &mut self.kubelet_serving]
    }
}

/// All by which the API server may be called.
pub(crate) fn server_names(args: &ServerArgs, settings: &Settings) -> Vec<String> {
    let mut names: Vec<String> = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        &format!("kubernetes.default.svc.{}", args.cluster_domain),
        "localhost",
        "127.0.0.1",
        "::1",
        &settings.node_name,
        &settings.advertise.to_string(),
        &settings.api_service.to_string(),
    ]
    .map(String::from)
    .to_vec();
    names.extend(settings.node_ips.iter().map(ToString::to_string));
    names.extend(args.tls_san.iter().cloned());
    names.sort();
    names.dedup();
    names
}

/// The administrator's kubeconfig.
#[derive(Debug)]
pub(crate) struct Kubeconfig {
    pub(crate) path: PathBuf,
    pub(crate) mode: u32,
    /// Of the API.
    pub(crate) url: String,
}

impl Kubeconfig {
    pub(crate) fn write(&self, secrets: &Secrets) -> Result<()> {
        kubeconfig::write(&self.path, self.mode, &self.url, &secrets.server_ca.cert_pem, &secrets.admin.identity)
    }
}
