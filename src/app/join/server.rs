//! The server's side of joining.

use super::twins::Twins;
use super::{AGENTS, CA_PATH, Cluster, JOIN_PATH, JoinAnswer, JoinRequest, MACHINE};
use crate::pki::{Authority, LeafSpec};
use crate::tunnel::{self, Tunnels};
use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Response, StatusCode};
use naru_api::meta::names::dns_subdomain;
use naru_api::registry;
use naru_apiserver::{Caller, Extension, ExtensionRequest};
use naru_client::{Client, PatchKind, is_not_found};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

/// What somebody is told who shows no good token.
const WRONG_TOKEN: &str = "the token is wrong or has expired: take the one in server/token on the server, or make one \
                           there with naru token create";

/// The group of everybody who holds a token for joining.
const BOOTSTRAPPERS: &str = "system:bootstrappers";

/// What the server knows for those who join.
#[derive(Debug)]
pub(crate) struct JoinConfig {
    /// Signs what nodes serve with.
    pub(crate) server_ca: Arc<Authority>,
    /// Signs what nodes ask with.
    pub(crate) client_ca: Arc<Authority>,
    /// What they have in common.
    pub(crate) cluster: Cluster,
    /// Names and addresses of the API server, which no node may show as its own.
    pub(crate) reserved: Vec<String>,
}

/// Answers those who join.
#[derive(Debug)]
pub(crate) struct Joining {
    config: JoinConfig,
    tunnels: Tunnels,
    client: OnceLock<Client>,
    twins: Twins,
}

/// Addresses of a node in its certificate, beside the first: one is what a second family needs.
const MAX_MORE_IPS: usize = 3;

impl Joining {
    pub(crate) fn new(config: JoinConfig, tunnels: Tunnels) -> Self {
        Self { config, tunnels, client: OnceLock::new(), twins: Twins::default() }
    }

    /// Gives it a client that may read Nodes and Leases; before that nobody can join.
    pub(crate) fn open(&self, client: Client) {
        // A second one would be the same.
        let _ = self.client.set(client);
    }

    async fn join(&self, caller: &Caller, body: &[u8]) -> Result<JoinAnswer> {
        let asked: JoinRequest = serde_json::from_slice(body).context("the request cannot be read")?;
        let name = &asked.node_name;
        let of_node = caller.name == format!("system:node:{name}");
        if !of_node && !caller.in_group(BOOTSTRAPPERS) {
            bail!("{} may not join nodes: use the token of this cluster", caller.name);
        }
        if let Some(reason) = dns_subdomain(name).first() {
            bail!("the node's name {name:?} cannot be used (give another with --node-name): {reason}");
        }
        let addresses = std::iter::once(&asked.node_ip).chain(asked.more_ips.iter().take(MAX_MORE_IPS));
        let shown: Vec<String> = std::iter::once(name.clone()).chain(addresses.map(ToString::to_string)).collect();
        if let Some(taken) = shown.iter().find(|shown| self.config.reserved.contains(shown)) {
            bail!("{taken} is the server's own: give this node another --node-name or --node-ip");
        }
        if !of_node {
            self.check_machine(name, &asked.machine, asked.dry_run).await?;
        }
        if asked.dry_run {
            let none = String::new;
            let cluster = self.config.cluster.clone();
            return Ok(JoinAnswer {
                client_certificate: none(),
                serving_certificate: none(),
                agent_certificate: none(),
                cluster,
            });
        }
        let client = |common_name: String, organization: &str| LeafSpec {
            common_name,
            organization: Some(organization.to_owned()),
            alt_names: Vec::new(),
        };
        let node = format!("system:node:{name}");
        let mut serving = client(node.clone(), "system:nodes");
        serving.alt_names = shown;
        serving.alt_names.push(IpAddr::from([127, 0, 0, 1]).to_string());
        let ca = &self.config.client_ca;
        Ok(JoinAnswer {
            client_certificate: ca.sign_request(&asked.client_csr, &client(node, "system:nodes"))?,
            serving_certificate: self.config.server_ca.sign_request(&asked.serving_csr, &serving)?,
            agent_certificate: ca.sign_request(&asked.agent_csr, &client(format!("naru:agent:{name}"), AGENTS))?,
            cluster: self.config.cluster.clone(),
        })
    }

    /// Two machines must not be one node: the name of a node that is alive belongs to its machine.
    async fn check_machine(&self, name: &str, machine: &str, dry_run: bool) -> Result<()> {
        let client = self.client.get().context("the server is still starting: try again")?;
        let node: Value = match client.get(&registry::NODES, None, name).await {
            Ok(node) => node,
            Err(error) if is_not_found(&error) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let known = node["metadata"]["annotations"][MACHINE].as_str().unwrap_or_default();
        if known == machine {
            return Ok(());
        }
        let ready = node["status"]["conditions"].as_array().is_some_and(|conditions| {
            conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
        });
        if ready {
            if !dry_run {
                self.twins.seen(client, name);
            }
            bail!("another machine is the node {name:?}, and it is Ready: give this one another --node-name");
        }
        if dry_run {
            return Ok(());
        }
        // The machine was replaced, or lost its data: the node is its.
        let patch = json!({ "metadata": { "annotations": { (MACHINE): machine } } });
        client.patch::<Value>(&registry::NODES, None, name, None, PatchKind::Merge, &patch).await?;
        Ok(())
    }
}

#[async_trait]
impl Extension for Joining {
    fn serves(&self, path: &str) -> bool {
        [CA_PATH, JOIN_PATH, tunnel::PATH].contains(&path)
    }

    async fn answer(&self, request: ExtensionRequest) -> Response<Bytes> {
        match (request.path.as_str(), &request.method) {
            (CA_PATH, &Method::GET) => text(StatusCode::OK, self.config.server_ca.cert_pem.clone()),
            (JOIN_PATH, &Method::POST) => {
                let Some(caller) = &request.caller else {
                    tracing::warn!("somebody was refused who wanted to join: the token is wrong or has expired");
                    return text(StatusCode::UNAUTHORIZED, WRONG_TOKEN.to_owned());
                };
                match self.join(caller, &request.body).await {
                    Ok(answer) => {
                        tracing::info!("{} gave a node its certificates", caller.name);
                        json_answer(&answer)
                    }
                    Err(error) => {
                        tracing::warn!("{} was refused: {error:#}", caller.name);
                        text(StatusCode::FORBIDDEN, format!("{error:#}"))
                    }
                }
            }
            (tunnel::PATH, &Method::GET) => {
                let node = request.caller.as_ref().and_then(|caller| caller.name.strip_prefix("system:node:"));
                match (node, request.upgrade) {
                    (Some(node), Some(upgrade)) => self.tunnels.accept(node.to_owned(), upgrade),
                    (None, _) => text(StatusCode::FORBIDDEN, "only nodes open tunnels".to_owned()),
                    (_, None) => text(StatusCode::BAD_REQUEST, "an upgrade is needed".to_owned()),
                }
            }
            _ => text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed".to_owned()),
        }
    }
}

fn json_answer(answer: &JoinAnswer) -> Response<Bytes> {
    match serde_json::to_vec(answer) {
        Ok(body) => reply(StatusCode::OK, "application/json", body.into()),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn text(code: StatusCode, body: String) -> Response<Bytes> {
    reply(code, "text/plain; charset=utf-8", body.into())
}

fn reply(code: StatusCode, content_type: &'static str, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}

/// What agents may read for the parts that every node has (proxy, DNS, the way between nodes), and no more.
pub(crate) fn roles() -> Vec<(&'static registry::Resource, Value)> {
    let group = "rbac.authorization.k8s.io";
    let read = ["get", "list", "watch"];
    let subjects = json!([{ "kind": "Group", "apiGroup": group, "name": AGENTS }]);
    let binding = |kind: &str, name: &str| json!({ "apiGroup": group, "kind": kind, "name": name });
    let settings = json!({ "name": "naru:agent", "namespace": "kube-system" });
    vec![
        (
            &registry::CLUSTER_ROLES,
            json!({
                "metadata": { "name": "naru:agent" },
                "rules": [
                    { "apiGroups": [""], "resources": ["services", "nodes", "namespaces"], "verbs": read },
                    { "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": read },
                ],
            }),
        ),
        (
            &registry::CLUSTER_ROLE_BINDINGS,
            json!({
                "metadata": { "name": "naru:agent" },
                "roleRef": binding("ClusterRole", "naru:agent"), "subjects": subjects,
            }),
        ),
        (
            &registry::ROLES,
            json!({
                "metadata": settings,
                "rules": [
                    { "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["naru-dns"], "verbs": read },
                ],
            }),
        ),
        (
            &registry::ROLE_BINDINGS,
            json!({ "metadata": settings, "roleRef": binding("Role", "naru:agent"), "subjects": subjects }),
        ),
    ]
}
