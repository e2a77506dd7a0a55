//! The Node authorizer: a kubelet reads and writes what its node's pods need, and nothing else.
//!
//! What its pods need is in the index beside; volumes are followed to their claims.

use super::node_index::{NodeIndex, Used};
use super::{Attributes, Decision, PolicyRule};
use crate::authn::User;
use crate::cache::{Cache, CachedObject};
use naru_api::registry::{self, Resource};
use serde_json::Value;
use std::sync::{Arc, OnceLock};

/// What kubelets' user names start with.
const NODE_USER: &str = "system:node:";
const NODES_GROUP: &str = "system:nodes";
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// The node that a user is the kubelet of: `Some("")` for a member of the group with another name.
pub(crate) fn node_name(user: &User) -> Option<&str> {
    // Upstream asks for the name's prefix first: whoever lacks it is no node.
    let name = user.name.strip_prefix(NODE_USER)?;
    user.in_group(NODES_GROUP).then_some(name)
}

/// What kind of object a node asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Secret,
    ConfigMap,
    Claim,
    Volume,
    ResourceClaim,
    Attachment,
    ServiceAccount,
    Pod,
    Slice,
}

/// Authorizes `system:node:NAME`.
#[derive(Debug, Default)]
pub(super) struct NodeAuthorizer {
    /// The rules of the ClusterRole `system:node` as shipped.
    rules: OnceLock<Vec<PolicyRule>>,
    index: NodeIndex,
}

/// What answers are worked out from.
#[derive(Clone, Copy)]
struct View<'a> {
    cache: &'a Cache,
    index: &'a NodeIndex,
}

impl View<'_> {
    fn uses(&self, node: &str, used: Used, namespace: &str, name: &str) -> bool {
        self.index.uses(self.cache, node, used, namespace, name)
    }
}

impl NodeAuthorizer {
    /// What a node may do; no opinion on others.
    pub(super) fn authorize(&self, cache: &Cache, user: &User, a: &Attributes<'_>) -> Decision {
        let Some(node) = node_name(user) else { return Decision::default() };
        if node.is_empty() {
            return Decision::no_opinion(format!("unknown node for user {}", super::go_quote(&user.name)));
        }
        let view = View { cache, index: &self.index };
        if a.is_resource {
            match (a.group, a.resource) {
                ("", "secrets") => return read(view, node, Kind::Secret, a),
                ("", "configmaps") => return read(view, node, Kind::ConfigMap, a),
                ("", "persistentvolumeclaims") if a.subresource == "status" => return claim_status(view, node, a),
                ("", "persistentvolumeclaims") => return get(view, node, Kind::Claim, a),
                ("", "persistentvolumes") => return get(view, node, Kind::Volume, a),
                ("resource.k8s.io", "resourceclaims") => return get(view, node, Kind::ResourceClaim, a),
                ("storage.k8s.io", "volumeattachments") => return get(view, node, Kind::Attachment, a),
                ("", "serviceaccounts") => return token(view, node, a),
                ("coordination.k8s.io", "leases") => return lease(node, a),
                ("storage.k8s.io", "csinodes") => return csi_node(node, a),
                ("resource.k8s.io", "resourceslices") => return slice(view, node, a),
                ("", "nodes") => return own_node(node, a),
                ("", "pods") => return pod(view, node, a),
                _ => {}
            }
        }
        let rules = self.rules.get_or_init(crate::bootstrap::node_rules);
        if rules.iter().any(|rule| rule.allows(a)) { Decision::allow("") } else { Decision::default() }
    }
}

fn no(reason: &str) -> Decision {
    Decision::no_opinion(reason)
}

fn read(view: View<'_>, node: &str, kind: Kind, a: &Attributes<'_>) -> Decision {
    if !matches!(a.verb, "get" | "list" | "watch") {
        return no("can only read resources of this type");
    }
    if !a.subresource.is_empty() {
        return no("cannot read subresource");
    }
    if a.namespace.is_empty() {
        return no("can only read namespaced object of this type");
    }
    related(view, node, kind, a)
}

fn get(view: View<'_>, node: &str, kind: Kind, a: &Attributes<'_>) -> Decision {
    if a.verb != "get" {
        return no("can only get individual resources of this type");
    }
    if !a.subresource.is_empty() {
        return no("cannot get subresource");
    }
    related(view, node, kind, a)
}

fn claim_status(view: View<'_>, node: &str, a: &Attributes<'_>) -> Decision {
    if !matches!(a.verb, "update" | "patch") {
        return no("can only get/update/patch this type");
    }
    related(view, node, Kind::Claim, a)
}

fn token(view: View<'_>, node: &str, a: &Attributes<'_>) -> Decision {
    if a.verb == "get" && a.subresource.is_empty() {
        return related(view, node, Kind::ServiceAccount, a);
    }
    if a.verb != "create" || a.name.is_empty() {
        return no("can only create tokens for individual service accounts");
    }
    if a.subresource != "token" {
        return no("can only create token subresource of serviceaccount");
    }
    related(view, node, Kind::ServiceAccount, a)
}

fn lease(node: &str, a: &Attributes<'_>) -> Decision {
    if !matches!(a.verb, "get" | "create" | "update" | "patch" | "delete") {
        return no("can only get, create, update, patch, or delete a node lease");
    }
    if a.namespace != LEASE_NAMESPACE {
        return no("can only access leases in the \"kube-node-lease\" system namespace");
    }
    // The name of a new one is not known here; NodeRestriction looks at it.
    if a.verb != "create" && a.name != node {
        return no("can only access node lease with the same name as the requesting node");
    }
    Decision::allow("")
}

fn csi_node(node: &str, a: &Attributes<'_>) -> Decision {
    if !matches!(a.verb, "get" | "create" | "update" | "patch" | "delete") {
        return no("can only get, create, update, patch, or delete a CSINode");
    }
    if !a.subresource.is_empty() {
        return no("cannot authorize CSINode subresources");
    }
    if a.verb != "create" && a.name != node {
        return no("can only access CSINode with the same name as the requesting node");
    }
    Decision::allow("")
}

fn slice(view: View<'_>, node: &str, a: &Attributes<'_>) -> Decision {
    if !a.subresource.is_empty() {
        return no("cannot authorize ResourceSlice subresources");
    }
    match a.verb {
        "create" => Decision::allow(""),
        "get" | "update" | "patch" | "delete" => related(view, node, Kind::Slice, a),
        "watch" | "list" | "deletecollection" if a.selects("spec.nodeName", node) || a.selects("nodeName", node) => {
            Decision::allow("")
        }
        "watch" | "list" | "deletecollection" => {
            no("can only list/watch/deletecollection resourceslices with nodeName field selector")
        }
        _ => no(
            "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection",
        ),
    }
}

fn own_node(node: &str, a: &Attributes<'_>) -> Decision {
    match (a.subresource, a.verb) {
        // NodeRestriction sees to it that these are about the node itself.
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Decision::allow(""),
        ("", "get" | "list" | "watch") => match a.name {
            name if name == node => Decision::allow(""),
            "" => no(&format!("node '{node}' cannot read all nodes, only its own Node object")),
            name => no(&format!("node '{node}' cannot read '{name}', only its own Node object")),
        },
        _ => Decision::default(),
    }
}

fn pod(view: View<'_>, node: &str, a: &Attributes<'_>) -> Decision {
    match (a.subresource, a.verb) {
        ("", "get") => get(view, node, Kind::Pod, a),
        ("", "list" | "watch") if a.selects("spec.nodeName", node) => Decision::allow(""),
        ("", "list" | "watch") if !a.name.is_empty() => related(view, node, Kind::Pod, a),
        ("", "list" | "watch") => no("can only list/watch pods with spec.nodeName field selector"),
        // NodeRestriction sees to it that the pods are the node's own.
        ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Decision::allow(""),
        _ => Decision::default(),
    }
}

fn related(view: View<'_>, node: &str, kind: Kind, a: &Attributes<'_>) -> Decision {
    if a.name.is_empty() {
        return no("No Object name found");
    }
    let related = view.cache.get(&registry::NODES, None, node).is_some() && is_related(view, node, kind, a);
    if related {
        return Decision::allow("");
    }
    no(&format!("no relationship found between node '{node}' and this object"))
}

fn is_related(view: View<'_>, node: &str, kind: Kind, a: &Attributes<'_>) -> bool {
    let (namespace, name) = (a.namespace, a.name);
    let uses = |used: Used| view.uses(node, used, namespace, name);
    match kind {
        Kind::Pod => {
            let found = view.cache.get(&registry::PODS, Some(namespace), name);
            found.is_some_and(|pod| pod.field("spec.nodeName") == Some(node))
        }
        Kind::ServiceAccount => uses(Used::ServiceAccount),
        Kind::ConfigMap => uses(Used::ConfigMap),
        Kind::Secret => uses(Used::Secret) || secret_of_volume(view, node, namespace, name),
        Kind::Claim => uses(Used::Claim),
        Kind::ResourceClaim => uses(Used::ResourceClaim),
        Kind::Volume => tree_of(view, "", "persistentvolumes", name).is_some_and(|volume| {
            let claim = &volume["spec"]["claimRef"];
            let text = |field: &str| claim[field].as_str().unwrap_or_default();
            !text("name").is_empty() && view.uses(node, Used::Claim, text("namespace"), text("name"))
        }),
        Kind::Attachment => tree_of(view, "storage.k8s.io", "volumeattachments", name)
            .is_some_and(|attachment| attachment["spec"]["nodeName"] == *node),
        Kind::Slice => tree_of(view, "resource.k8s.io", "resourceslices", name)
            .is_some_and(|slice| slice["spec"]["nodeName"] == *node),
    }
}

/// Whether the bytes have the text anywhere: a cheap look before decoding.
fn mentions(object: &Arc<CachedObject>, text: &str) -> bool {
    let (json, text) = (object.json(), text.as_bytes());
    text.is_empty() || json.windows(text.len()).any(|window| window == text)
}

/// The secrets that volumes need to be mounted or expanded, through the claims of the node's pods.
fn secret_of_volume(view: View<'_>, node: &str, namespace: &str, secret: &str) -> bool {
    let Some(volumes) = stored("", "persistentvolumes") else { return false };
    view.cache.objects(volumes).iter().filter(|volume| mentions(volume, secret)).any(|volume| {
        let Ok(volume) = crate::objects::tree(volume) else { return false };
        let claim = &volume["spec"]["claimRef"];
        let text = |field: &str| claim[field].as_str().unwrap_or_default();
        if text("name").is_empty() || !volume_secrets(&volume["spec"], text("namespace")).contains(&(namespace, secret))
        {
            return false;
        }
        view.uses(node, Used::Claim, text("namespace"), text("name"))
    })
}

/// Namespace and name of each secret in a volume's source.
fn volume_secrets<'a>(spec: &'a Value, claim_namespace: &'a str) -> Vec<(&'a str, &'a str)> {
    let mut found = Vec::new();
    let mut add = |reference: &'a Value| {
        if let Some(name) = reference["name"].as_str() {
            found.push((reference["namespace"].as_str().filter(|ns| !ns.is_empty()).unwrap_or(claim_namespace), name));
        }
    };
    for source in ["cephfs", "cinder", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos"] {
        add(&spec[source]["secretRef"]);
    }
    let csi = &spec["csi"];
    // Those of the driver's controller are none of the nodes' business.
    for field in ["nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef"] {
        add(&csi[field]);
    }
    let azure = &spec["azureFile"];
    if let Some(name) = azure["secretName"].as_str() {
        found.push((azure["secretNamespace"].as_str().filter(|ns| !ns.is_empty()).unwrap_or(claim_namespace), name));
    }
    found
}

/// A stored resource, once it is served.
fn stored(group: &str, plural: &str) -> Option<&'static Resource> {
    registry::find(group, "v1", plural).filter(|resource| resource.is_stored())
}

fn tree_of(view: View<'_>, group: &str, plural: &str, name: &str) -> Option<Value> {
    let found = view.cache.get(stored(group, plural)?, None, name)?;
    crate::objects::tree(&found).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nodes_see_the_secrets_that_mounting_needs_and_no_others() {
        let of = |spec: Value| {
            volume_secrets(&spec, "claims").iter().map(|(ns, name)| format!("{ns}/{name}")).collect::<Vec<_>>()
        };
        let csi = json!({ "csi": {
            "controllerPublishSecretRef": { "name": "publish", "namespace": "csi" },
            "controllerExpandSecretRef": { "name": "expand", "namespace": "csi" },
            "nodePublishSecretRef": { "name": "mount", "namespace": "csi" },
            "nodeStageSecretRef": { "name": "stage", "namespace": "csi" },
            "nodeExpandSecretRef": { "name": "grow", "namespace": "csi" } } });
        assert_eq!(of(csi), ["csi/mount", "csi/stage", "csi/grow"]);
        assert_eq!(of(json!({ "cinder": { "secretRef": { "name": "s", "namespace": "n" } } })), ["n/s"]);
        assert_eq!(of(json!({ "rbd": { "secretRef": { "name": "s" } } })), ["claims/s"]);
        assert_eq!(of(json!({ "azureFile": { "secretName": "s", "secretNamespace": "" } })), ["claims/s"]);
    }
}
