//! The ConfigMaps by which others learn whom to trust: extension servers and joining nodes.

use super::current;
use crate::config::{FrontProxy, StartError};
use crate::pipeline::State;
use naru_api::registry;
use naru_store::Write;
use serde_json::{Value, json};

/// Says from which day on the use of tokens in Secrets is noted.
const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";

/// The writes that bring them up to date; none for what the configuration does not say.
pub(super) fn wanted(state: &State) -> Result<Vec<Write>, StartError> {
    let config = &state.config;
    let mut writes = Vec::new();
    if !config.client_ca_pem.is_empty() {
        let mut trust = json!({
            "metadata": { "name": "extension-apiserver-authentication", "namespace": "kube-system" },
            "data": { "client-ca-file": config.client_ca_pem },
        });
        trust_in_front_proxies(&config.front_proxy, &mut trust["data"]);
        writes.extend(current(state, &registry::CONFIG_MAPS, trust, &["data"])?);
    }
    if !config.root_ca_pem.is_empty() {
        let server = std::net::SocketAddr::new(config.advertise_address, config.advertise_port);
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "", "cluster": {
                "certificate-authority-data": base64(&config.root_ca_pem),
                "server": format!("https://{server}"),
            } }],
            "contexts": [],
            "current-context": "",
            "preferences": {},
            "users": [],
        });
        let kubeconfig = kubeconfig.to_string();
        // Signatures of it (`jws-kubeconfig-ID`) live beside the text, and go when it changes.
        let known = state.cache.get(&registry::CONFIG_MAPS, Some("kube-public"), "cluster-info");
        let same = known.is_some_and(|found| {
            crate::objects::tree(&found).is_ok_and(|found| found["data"]["kubeconfig"] == kubeconfig)
        });
        if !same {
            let info = json!({
                "metadata": { "name": "cluster-info", "namespace": "kube-public" },
                "data": { "kubeconfig": kubeconfig },
            });
            writes.extend(current(state, &registry::CONFIG_MAPS, info, &["data"])?);
        }
    }
    if !config.root_ca_pem.is_empty() {
        writes.extend(readers_of_cluster_info(state)?);
    }
    let tracking = state.cache.get(&registry::CONFIG_MAPS, Some("kube-system"), TRACKING);
    if tracking.is_none() {
        let since = json!({
            "metadata": { "name": TRACKING, "namespace": "kube-system" },
            "data": { "since": crate::authn::day(crate::clock::now_seconds()) },
        });
        writes.extend(current(state, &registry::CONFIG_MAPS, since, &["data"])?);
    }
    Ok(writes)
}

/// Who joins reads `cluster-info` by a bootstrap token, or without any where anonymous requests are served.
fn readers_of_cluster_info(state: &State) -> Result<Vec<Write>, StartError> {
    const NAME: &str = "kubeadm:bootstrap-signer-clusterinfo";
    let metadata = json!({ "name": NAME, "namespace": "kube-public" });
    let rule =
        json!({ "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["cluster-info"], "verbs": ["get"] });
    let role = json!({ "metadata": metadata, "rules": [rule] });
    let group = "rbac.authorization.k8s.io";
    let binding = json!({
        "metadata": metadata,
        "roleRef": { "apiGroup": group, "kind": "Role", "name": NAME },
        "subjects": [
            { "apiGroup": group, "kind": "User", "name": "system:anonymous" },
            { "apiGroup": group, "kind": "Group", "name": "system:bootstrappers" },
        ],
    });
    let role = super::missing(state, &registry::ROLES, role)?;
    Ok(role.into_iter().chain(super::missing(state, &registry::ROLE_BINDINGS, binding)?).collect())
}

/// How extension servers know the users that this server vouches for.
fn trust_in_front_proxies(proxy: &FrontProxy, data: &mut Value) {
    if proxy.ca_pem.is_empty() {
        return;
    }
    data["requestheader-client-ca-file"] = proxy.ca_pem.clone().into();
    for (key, list) in [
        ("requestheader-allowed-names", &proxy.allowed_names),
        ("requestheader-username-headers", &proxy.username_headers),
        ("requestheader-uid-headers", &proxy.uid_headers),
        ("requestheader-group-headers", &proxy.group_headers),
        ("requestheader-extra-headers-prefix", &proxy.extra_headers_prefixes),
    ] {
        data[key] = json!(list).to_string().into();
    }
}

fn base64(text: &str) -> String {
    use ::base64::Engine;
    ::base64::engine::general_purpose::STANDARD.encode(text)
}
