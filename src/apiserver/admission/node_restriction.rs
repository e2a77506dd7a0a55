//! NodeRestriction: a kubelet changes its own node, pods, lease and CSINode, and of those only what is its to say.

use super::{Attributes, Operation, Plugin, token_audience};
use crate::authz::node_name;
use crate::pipeline::State;
use crate::response::Failure;
use naru_api::core::node::kubelet_may_set;
use naru_api::core::pod::references;
use naru_api::meta;
use naru_api::registry;
use naru_api::status::Status;
use serde_json::Value;
use std::collections::BTreeSet;

pub(super) static PLUGIN: Plugin = Plugin::new("NodeRestriction").admit(admit).admit_async(token_audience::admit);

const MIRROR: &str = "kubernetes.io/config.mirror";
const LEASE_NAMESPACE: &str = "kube-node-lease";

fn admit(state: &State, attributes: &Attributes<'_>, object: &mut Value) -> Result<(), Failure> {
    let Some(node) = node_name(attributes.user) else { return Ok(()) };
    if node.is_empty() {
        let user = &attributes.user.name;
        return Err(attributes.forbidden(&format!("could not determine node from user {user:?}")));
    }
    let check = Check { state, attributes, node };
    match (attributes.resource.storage().group, attributes.resource.plural) {
        ("", "pods") => check.pods(object),
        ("", "nodes") => check.nodes(object),
        ("", "persistentvolumeclaims") => check.claims(object),
        ("", "serviceaccounts") => check.tokens(object),
        ("coordination.k8s.io", "leases") => check.lease(object),
        ("storage.k8s.io", "csinodes") => {
            check.same_name(object, "can only access CSINode with the same name as the requesting node")
        }
        ("resource.k8s.io", "resourceslices") => check.slices(object),
        _ => Ok(()),
    }
}

struct Check<'a> {
    state: &'a State,
    attributes: &'a Attributes<'a>,
    node: &'a str,
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

impl Check<'_> {
    fn no(&self, why: impl AsRef<str>) -> Result<(), Failure> {
        Err(self.attributes.forbidden(why.as_ref()))
    }

    fn operation(&self) -> &'static str {
        match self.attributes.operation {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }

    fn pods(&self, pod: &Value) -> Result<(), Failure> {
        let node = self.node;
        let own = |pod: Option<&Value>| pod.is_some_and(|pod| text(&pod["spec"]["nodeName"]) == node);
        match (self.attributes.subresource, self.attributes.operation) {
            ("", Operation::Create) => self.new_pod(pod),
            ("", Operation::Delete) if own(self.attributes.old) => Ok(()),
            ("", Operation::Delete) => {
                self.no(format!("node {node:?} can only delete pods with spec.nodeName set to itself"))
            }
            ("", _) => self.no(format!(
                "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
                self.operation()
            )),
            ("status", Operation::Update) => self.pod_status(pod, own(self.attributes.old)),
            ("status", _) => self.no(format!("unexpected operation {:?}", self.operation())),
            ("eviction", _) => {
                let namespace = self.attributes.namespace;
                let found = self.state.cache.get(&registry::PODS, namespace, self.attributes.name);
                match found {
                    Some(pod) if pod.field("spec.nodeName") != Some(node) => {
                        self.no(format!("node {node} can only evict pods with spec.nodeName set to itself"))
                    }
                    Some(_) => Ok(()),
                    None => Err(Box::new(Status::not_found("", "pods", self.attributes.name))),
                }
            }
            (other, _) => {
                self.no(format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"))
            }
        }
    }

    /// Only mirrors of what the node runs anyway, and nothing that would widen what it may read.
    fn new_pod(&self, pod: &Value) -> Result<(), Failure> {
        let node = self.node;
        if meta::annotation(pod, MIRROR).is_none() {
            return self
                .no(format!("pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"));
        }
        if text(&pod["spec"]["nodeName"]) != node {
            return self.no(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
        }
        self.owner(pod)?;
        let cannot = |what: &str| self.no(format!("node {node:?} can not create pods that reference {what}"));
        let spec = &pod["spec"];
        if !text(&spec["serviceAccountName"]).is_empty() {
            return cannot("a service account");
        }
        if references::secrets(pod).next().is_some() {
            return cannot("secrets");
        }
        if references::config_maps(pod).next().is_some() {
            return cannot("configmaps");
        }
        let volumes = || spec["volumes"].as_array().into_iter().flatten();
        let sources = || volumes().flat_map(|volume| volume["projected"]["sources"].as_array().into_iter().flatten());
        if sources().any(|source| source["clusterTrustBundle"].is_object()) {
            return cannot("clustertrustbundles");
        }
        if volumes().any(|volume| volume["persistentVolumeClaim"].is_object()) {
            return cannot("persistentvolumeclaims");
        }
        if spec["resourceClaims"].as_array().is_some_and(|claims| !claims.is_empty()) {
            return cannot("resourceclaims");
        }
        Ok(())
    }

    /// A mirror pod belongs to its node, and goes with it.
    fn owner(&self, pod: &Value) -> Result<(), Failure> {
        let node = self.node;
        let owners = pod["metadata"]["ownerReferences"].as_array().map(Vec::as_slice).unwrap_or_default();
        let itself = format!("node {node:?} can only create pods with an owner reference set to itself");
        let owner = match owners {
            [] => return self.no(itself),
            [owner] => owner,
            _ => {
                return self
                    .no(format!("node {node:?} can only create pods with a single owner reference set to itself"));
            }
        };
        if text(&owner["apiVersion"]) != "v1" || text(&owner["kind"]) != "Node" || text(&owner["name"]) != node {
            return self.no(itself);
        }
        if owner["controller"] != true {
            return self
                .no(format!("node {node:?} can only create pods with a controller owner reference set to itself"));
        }
        if owner["blockOwnerDeletion"] == true {
            return self.no(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
        }
        let found = self
            .state
            .cache
            .get(&registry::NODES, None, node)
            .ok_or_else(|| Box::new(Status::not_found("", "nodes", node)))?;
        let given = text(&owner["uid"]);
        if found.uid() != given {
            return self.no(format!("node {node} UID mismatch: expected {given} got {}", found.uid()));
        }
        Ok(())
    }

    fn pod_status(&self, pod: &Value, own: bool) -> Result<(), Failure> {
        let node = self.node;
        if !own {
            return self
                .no(format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"));
        }
        let Some(old) = self.attributes.old else { return Ok(()) };
        if !meta::labels(old).eq(meta::labels(pod)) {
            return self.no(format!("node {node:?} cannot update labels through pod status"));
        }
        let claims = |pod: &Value| pod["status"]["resourceClaimStatuses"].as_array().cloned().unwrap_or_default();
        if claims(old) != claims(pod) {
            return self.no(format!("node {node:?} cannot update resource claim statues"));
        }
        Ok(())
    }

    fn nodes(&self, object: &Value) -> Result<(), Failure> {
        let (node, name) = (self.node, self.attributes.name);
        if name != node {
            return self.no(format!("node {node:?} is not allowed to modify node {name:?}"));
        }
        let source = &object["spec"]["configSource"];
        match (self.attributes.operation, self.attributes.old) {
            (Operation::Create, _) => {
                if !source.is_null() {
                    return self.no(format!("node {node:?} is not allowed to create pods with a non-nil configSource"));
                }
                match forbidden_labels(object, &Value::Null) {
                    None => Ok(()),
                    Some(labels) => {
                        self.no(format!("node {node:?} is not allowed to set the following labels: {labels}"))
                    }
                }
            }
            (Operation::Update, Some(old)) => {
                if !source.is_null() && *source != old["spec"]["configSource"] {
                    return self.no(format!(
                        "node {node:?} is not allowed to update configSource to a new non-nil configSource"
                    ));
                }
                let list = |object: &Value, part: &str, field: &str| {
                    object[part][field].as_array().cloned().unwrap_or_default()
                };
                if list(object, "spec", "taints") != list(old, "spec", "taints") {
                    return self.no(format!("node {node:?} is not allowed to modify taints"));
                }
                if let Some(labels) = forbidden_labels(object, old) {
                    return self.no(format!("is not allowed to modify labels: {labels}"));
                }
                if list(object, "metadata", "ownerReferences") != list(old, "metadata", "ownerReferences") {
                    return self.no(format!("node {node:?} is not allowed to modify ownerReferences"));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn claims(&self, claim: &Value) -> Result<(), Failure> {
        if self.attributes.subresource != "status" {
            return self.no("may only update PVC status");
        }
        let Some(old) = self.attributes.old.filter(|_| self.attributes.operation == Operation::Update) else {
            return self.no(format!("unexpected operation {:?}", self.operation()));
        };
        let strip = |claim: &Value| {
            let mut claim = claim.clone();
            for field in ["resourceVersion", "managedFields"] {
                meta::metadata_mut(&mut claim).remove(field);
            }
            if let Some(status) = claim["status"].as_object_mut() {
                for field in ["capacity", "conditions", "allocatedResources", "allocatedResourceStatuses"] {
                    status.remove(field);
                }
            }
            claim
        };
        if strip(old) != strip(claim) {
            let node = self.node;
            return self.no(format!(
                "node {node:?} is not allowed to update fields other than status.capacity and status.conditions"
            ));
        }
        Ok(())
    }

    /// Tokens for the node's own pods alone.
    fn tokens(&self, request: &Value) -> Result<(), Failure> {
        if self.attributes.operation != Operation::Create || self.attributes.subresource != "token" {
            return Ok(());
        }
        let reference = &request["spec"]["boundObjectRef"];
        let (name, uid) = (text(&reference["name"]), text(&reference["uid"]));
        if text(&reference["apiVersion"]) != "v1" || text(&reference["kind"]) != "Pod" || name.is_empty() {
            return self.no("node requested token not bound to a pod");
        }
        if uid.is_empty() {
            return self.no("node requested token with a pod binding without a uid");
        }
        let pod = self
            .state
            .cache
            .get(&registry::PODS, self.attributes.namespace, name)
            .ok_or_else(|| Box::new(Status::not_found("", "pods", name)))?;
        if pod.uid() != uid {
            return self.no(format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            ));
        }
        if pod.field("spec.nodeName") != Some(self.node) {
            return self.no("node requested token bound to a pod scheduled on a different node");
        }
        Ok(())
    }

    fn lease(&self, lease: &Value) -> Result<(), Failure> {
        if self.attributes.namespace != Some(LEASE_NAMESPACE) {
            return self.no(format!("can only access leases in the {LEASE_NAMESPACE:?} system namespace"));
        }
        self.same_name(lease, "can only access node lease with the same name as the requesting node")
    }

    fn same_name(&self, object: &Value, why: &str) -> Result<(), Failure> {
        let created = self.attributes.operation == Operation::Create;
        let name = if created { meta::name(object) } else { self.attributes.name };
        if name == self.node { Ok(()) } else { self.no(why) }
    }

    fn slices(&self, slice: &Value) -> Result<(), Failure> {
        let (slice, verb) = match (self.attributes.operation, self.attributes.old) {
            (Operation::Create, _) => (slice, "create"),
            (Operation::Delete, Some(old)) => (old, "delete"),
            _ => return Ok(()),
        };
        if text(&slice["spec"]["nodeName"]) == self.node {
            return Ok(());
        }
        self.no(format!("can only {verb} ResourceSlice with the same NodeName as the requesting node"))
    }
}

/// The changed labels that are not a kubelet's to change, sorted.
fn forbidden_labels(new: &Value, old: &Value) -> Option<String> {
    let keys: BTreeSet<&str> = meta::labels(new).chain(meta::labels(old)).map(|(key, _)| key).collect();
    let changed = keys.into_iter().filter(|key| meta::label(new, key) != meta::label(old, key));
    let forbidden: Vec<&str> = changed.filter(|key| !kubelet_may_set(key)).collect();
    (!forbidden.is_empty()).then(|| forbidden.join(", "))
}
