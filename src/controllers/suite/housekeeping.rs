//! What is kept in order without anybody asking.

use super::{Cluster, deployment, find, is_done};
use crate::{Signer, SigningRequest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use naru_api::registry::{CERTIFICATE_SIGNING_REQUESTS, CLUSTER_ROLES, DEPLOYMENTS, NODES, SERVICE_CIDRS};
use serde_json::{Value, json};

/// Signs nothing that anybody would trust.
pub(super) struct SelfSigner;

impl Signer for SelfSigner {
    fn sign(&self, _: &SigningRequest<'_>) -> Result<String, String> {
        let key = rcgen::KeyPair::generate().unwrap();
        Ok(rcgen::CertificateParams::default().self_signed(&key).unwrap().pem())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_ranges_and_roles_get_what_they_need() {
    let cluster = Cluster::start().await;
    cluster
        .until(&NODES, "the time to live", |all| {
            find(all, "n1").is_some_and(|node| node["metadata"]["annotations"]["node.alpha.kubernetes.io/ttl"] == "0")
        })
        .await;
    cluster
        .until(&SERVICE_CIDRS, "the range to be ready", |all| {
            all.iter().all(|range| {
                let ready = &range["status"]["conditions"][0];
                ready["status"] == "True" && ready["message"] == "Kubernetes Service CIDR is ready"
            })
        })
        .await;
    let rule = json!({"apiGroups": ["example.com"], "resources": ["widgets"], "verbs": ["get"]});
    let role = json!({
        "metadata": {"name": "widgets", "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
        "rules": [rule],
    });
    cluster.client.create::<Value>(&CLUSTER_ROLES, None, &role).await.unwrap();
    let has = |role: &Value| role["rules"].as_array().unwrap().contains(&rule);
    cluster.until(&CLUSTER_ROLES, "its rule in view", |all| find(all, "view").is_some_and(|role| has(role))).await;
}

/// What a node asks its client certificate with.
pub(super) fn node_request(node: &str) -> Value {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(rcgen::DnType::CommonName, format!("system:node:{node}"));
    let key = rcgen::KeyPair::generate().unwrap();
    let request = params.serialize_request(&key).unwrap().pem().unwrap();
    json!({"metadata": {"name": node}, "spec": {
        "request": STANDARD.encode(request), "usages": ["client auth", "digital signature"],
        "signerName": "kubernetes.io/kube-apiserver-client-kubelet"}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_gets_its_certificate() {
    let cluster = Cluster::start().await;
    cluster.client.create::<Value>(&CERTIFICATE_SIGNING_REQUESTS, None, &node_request("n9")).await.unwrap();
    cluster
        .until(&CERTIFICATE_SIGNING_REQUESTS, "the certificate", |all| {
            let Some(status) = find(all, "n9").map(|csr| &csr["status"]) else { return false };
            status["conditions"][0]["reason"] == "AutoApproved" && status["certificate"].is_string()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_deployment_is_at_its_first_generation() {
    let cluster = Cluster::start().await;
    cluster.create(&DEPLOYMENTS, deployment("web", 1, "web:1")).await;
    cluster.until(&DEPLOYMENTS, "the rollout", |all| is_done(all, "web", 1)).await;
    let made: Value = cluster.client.get(&DEPLOYMENTS, Some("default"), "web").await.unwrap();
    assert_eq!(made["metadata"]["generation"], 1);
    assert_eq!(made["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "1");
}
