//! Small shared views of the common kinds: what controllers, scheduler, proxy and kubelet read.
//!
//! They hold far less than the objects; a full object is fetched only to be changed.

mod affinity;
mod apps;
mod batch;
mod network;
mod sets;
mod template;

pub use affinity::*;
pub use apps::*;
pub use batch::*;
pub use network::*;
pub use sets::*;
pub use template::{TemplateDigest, TemplateView};

use naru_api::core::is_extended;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::sync::Arc;

type Strings = BTreeMap<String, String>;

/// `null` counts as absent.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// Annotations of a pod that are longer are for people and for programs of their own.
const LONGEST_ANNOTATION: usize = 256;

/// The metadata of a pod. There are many pods, and what they carry along for others would be most of what is held.
fn short_meta<'de, D: Deserializer<'de>>(d: D) -> Result<Meta, D::Error> {
    let mut meta = Meta::deserialize(d)?;
    meta.annotations.retain(|_, value| value.len() <= LONGEST_ANNOTATION);
    Ok(meta)
}

/// metav1.ObjectMeta without managedFields.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    /// Name.
    pub name: String,
    /// Namespace, empty for cluster-scoped objects.
    pub namespace: String,
    /// Uid.
    pub uid: String,
    /// The object's revision.
    pub resource_version: String,
    /// Counts changes of the desired state.
    pub generation: i64,
    /// Labels.
    #[serde(deserialize_with = "nullable")]
    pub labels: Strings,
    /// Annotations.
    #[serde(deserialize_with = "nullable")]
    pub annotations: Strings,
    /// Owners.
    #[serde(deserialize_with = "nullable")]
    pub owner_references: Vec<OwnerRef>,
    /// Finalizers.
    #[serde(deserialize_with = "nullable")]
    pub finalizers: Vec<String>,
    /// RFC 3339, empty if absent.
    #[serde(deserialize_with = "nullable")]
    pub creation_timestamp: String,
    /// RFC 3339 once a graceful deletion has begun.
    pub deletion_timestamp: Option<String>,
    /// The grace period of that deletion.
    pub deletion_grace_period_seconds: Option<i64>,
}

impl Meta {
    /// The owner that manages the object.
    pub fn controller(&self) -> Option<&OwnerRef> {
        self.owner_references.iter().find(|owner| owner.controller)
    }

    /// Whether a graceful deletion has begun.
    pub fn is_deleting(&self) -> bool {
        self.deletion_timestamp.is_some()
    }

    /// Namespace and name.
    pub fn key(&self) -> crate::ObjectKey {
        crate::ObjectKey::new(&self.namespace, &self.name)
    }

    /// The namespace as requests want it.
    pub fn namespace(&self) -> Option<&str> {
        (!self.namespace.is_empty()).then_some(self.namespace.as_str())
    }
}

/// metav1.OwnerReference.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnerRef {
    /// Group and version.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
    /// Whether it manages the object.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "std::ops::Not::not")]
    pub controller: bool,
    /// Whether the owner waits for the object in a foreground deletion.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "std::ops::Not::not")]
    pub block_owner_deletion: bool,
}

/// metav1.LabelSelector.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Selector {
    /// Labels that must have these values.
    #[serde(deserialize_with = "nullable")]
    pub match_labels: Strings,
    /// More demands.
    #[serde(deserialize_with = "nullable")]
    pub match_expressions: Vec<SelectorTerm>,
}

/// metav1.LabelSelectorRequirement, and the like for nodes.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct SelectorTerm {
    /// Label.
    pub key: String,
    /// `In`, `NotIn`, `Exists`, `DoesNotExist`, `Gt`, `Lt`.
    pub operator: String,
    /// Values.
    #[serde(deserialize_with = "nullable")]
    pub values: Vec<String>,
}

impl Selector {
    /// Whether it demands nothing. Controllers treat that as a selector of nothing.
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }

    /// Whether the labels meet all demands.
    pub fn matches(&self, labels: &Strings) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|term| term.matches(labels.get(&term.key)))
    }
}

impl SelectorTerm {
    /// Whether a label's value (or its absence) meets the demand. An unknown operator is never met.
    pub fn matches(&self, value: Option<&String>) -> bool {
        let number = |text: &String| text.parse::<i64>().ok();
        let bound = || self.values.first().and_then(number);
        match self.operator.as_str() {
            "In" => value.is_some_and(|value| self.values.contains(value)),
            "NotIn" => value.is_none_or(|value| !self.values.contains(value)),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            "Gt" => value.and_then(number).zip(bound()).is_some_and(|(value, bound)| value > bound),
            "Lt" => value.and_then(number).zip(bound()).is_some_and(|(value, bound)| value < bound),
            _ => false,
        }
    }
}

/// Any object: its metadata alone.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectView {
    /// Metadata.
    pub metadata: Meta,
}

/// A condition of any kind of object.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// Type.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// For machines.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// For humans.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// RFC 3339, empty if absent.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub last_transition_time: String,
    /// RFC 3339, empty if absent (Deployments).
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub last_update_time: String,
    /// RFC 3339, empty if absent (Nodes).
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub last_heartbeat_time: String,
    /// RFC 3339, empty if absent (Jobs).
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub last_probe_time: String,
}

/// The condition of a type.
pub fn condition<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.kind == kind)
}

/// A pod as seen by controllers, scheduler and proxy.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodView {
    /// Metadata, without long annotations.
    #[serde(deserialize_with = "short_meta")]
    pub metadata: Meta,
    /// Desired state.
    pub spec: PodSpecView,
    /// Observed state.
    pub status: PodStatusView,
}

impl PodView {
    /// Whether the Ready condition is True.
    pub fn is_ready(&self) -> bool {
        condition(&self.status.conditions, "Ready").is_some_and(|ready| ready.status == "True")
    }

    /// Whether all containers have ended for good.
    pub fn is_finished(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    /// Neither finished nor being deleted.
    pub fn is_active(&self) -> bool {
        !self.is_finished() && !self.metadata.is_deleting()
    }
}

/// The part of a pod's spec that others than its node read.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpecView {
    /// Node, empty while unscheduled.
    #[serde(deserialize_with = "nullable")]
    pub node_name: String,
    /// Which scheduler.
    #[serde(deserialize_with = "nullable")]
    pub scheduler_name: String,
    /// Hostname.
    #[serde(deserialize_with = "nullable")]
    pub hostname: String,
    /// Subdomain.
    #[serde(deserialize_with = "nullable")]
    pub subdomain: String,
    /// Whether it lives in the node's network.
    #[serde(deserialize_with = "nullable")]
    pub host_network: bool,
    /// Containers.
    #[serde(deserialize_with = "nullable")]
    pub containers: Vec<ContainerView>,
    /// Init containers, sidecars included.
    #[serde(deserialize_with = "nullable")]
    pub init_containers: Vec<ContainerView>,
    /// RuntimeClass overhead.
    #[serde(deserialize_with = "nullable")]
    pub overhead: Strings,
    /// Pod level resources.
    pub resources: Option<ResourcesView>,
    /// Node labels wanted.
    #[serde(deserialize_with = "nullable")]
    pub node_selector: Strings,
    /// Affinity, undecoded: few pods have any, and only the scheduler reads it.
    pub affinity: Option<Arc<serde_json::Value>>,
    /// Tolerations.
    #[serde(deserialize_with = "nullable")]
    pub tolerations: Vec<Toleration>,
    /// Priority.
    pub priority: Option<i32>,
    /// `PreemptLowerPriority` (also when empty) or `Never`.
    #[serde(deserialize_with = "nullable")]
    pub preemption_policy: String,
    /// Spread over the nodes, undecoded as `affinity`.
    pub topology_spread_constraints: Option<Arc<serde_json::Value>>,
    /// Gates that keep it from being scheduled.
    #[serde(deserialize_with = "nullable")]
    pub scheduling_gates: Vec<SchedulingGate>,
    /// `Always` (also when empty), `OnFailure` or `Never`.
    #[serde(deserialize_with = "nullable")]
    pub restart_policy: String,
    /// Conditions that must hold beside those of its containers before it is Ready.
    #[serde(deserialize_with = "nullable")]
    pub readiness_gates: Vec<ReadinessGate>,
}

/// A readiness gate.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReadinessGate {
    /// The type of the condition.
    pub condition_type: String,
}

/// A scheduling gate.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct SchedulingGate {
    /// Name.
    pub name: String,
}

/// A container's image, ports and resources.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerView {
    /// Name.
    pub name: String,
    /// Image.
    #[serde(deserialize_with = "nullable")]
    pub image: String,
    /// Ports.
    #[serde(deserialize_with = "nullable")]
    pub ports: Vec<ContainerPort>,
    /// Requests and limits.
    #[serde(deserialize_with = "nullable")]
    pub resources: ResourcesView,
    /// `Always` for sidecars.
    #[serde(deserialize_with = "nullable")]
    pub restart_policy: String,
}

/// A container's port.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerPort {
    /// Name.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// Port in the pod.
    pub container_port: u16,
    /// Port on the node, or 0.
    #[serde(deserialize_with = "nullable")]
    pub host_port: u16,
    /// Address on the node, empty for all.
    #[serde(rename = "hostIP", deserialize_with = "nullable")]
    pub host_ip: String,
    /// `TCP`, `UDP` or `SCTP`; empty means TCP.
    #[serde(deserialize_with = "nullable")]
    pub protocol: String,
}

/// Requests and limits as written.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourcesView {
    /// Requests.
    #[serde(deserialize_with = "nullable")]
    pub requests: Strings,
    /// Limits.
    #[serde(deserialize_with = "nullable")]
    pub limits: Strings,
}

/// A toleration.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Toleration {
    /// Taint key, empty for all.
    #[serde(deserialize_with = "nullable")]
    pub key: String,
    /// `Equal` (also when empty) or `Exists`.
    #[serde(deserialize_with = "nullable")]
    pub operator: String,
    /// Taint value.
    #[serde(deserialize_with = "nullable")]
    pub value: String,
    /// Effect, empty for all.
    #[serde(deserialize_with = "nullable")]
    pub effect: String,
    /// How long a NoExecute taint is borne; for ever if absent.
    pub toleration_seconds: Option<i64>,
}

impl Toleration {
    /// Whether it covers the taint.
    pub fn tolerates(&self, taint: &Taint) -> bool {
        (self.effect.is_empty() || self.effect == taint.effect)
            && (self.key.is_empty() || self.key == taint.key)
            && match self.operator.as_str() {
                "" | "Equal" => self.value == taint.value,
                "Exists" => true,
                _ => false,
            }
    }
}

/// A pod's status.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatusView {
    /// Phase.
    #[serde(deserialize_with = "nullable")]
    pub phase: String,
    /// Reason.
    #[serde(deserialize_with = "nullable")]
    pub reason: String,
    /// First address.
    #[serde(rename = "podIP", deserialize_with = "nullable")]
    pub pod_ip: String,
    /// All addresses.
    #[serde(rename = "podIPs", deserialize_with = "nullable")]
    pub pod_ips: Vec<PodIp>,
    /// The node that preemption has made room on.
    #[serde(deserialize_with = "nullable")]
    pub nominated_node_name: String,
    /// RFC 3339, empty if absent.
    #[serde(deserialize_with = "nullable")]
    pub start_time: String,
    /// Conditions.
    #[serde(deserialize_with = "nullable")]
    pub conditions: Vec<Condition>,
    /// Container statuses.
    #[serde(deserialize_with = "nullable")]
    pub container_statuses: Vec<ContainerStatusView>,
    /// Init container statuses.
    #[serde(deserialize_with = "nullable")]
    pub init_container_statuses: Vec<ContainerStatusView>,
}

/// One address of a pod.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct PodIp {
    /// Address.
    pub ip: String,
}

/// A container's status.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerStatusView {
    /// Name.
    pub name: String,
    /// Ready.
    pub ready: bool,
    /// Restarts.
    pub restart_count: i32,
    /// What it does, or how it has ended.
    #[serde(deserialize_with = "nullable")]
    pub state: ContainerStateView,
    /// What the node has agreed to give it; absent where nothing was resized yet.
    pub allocated_resources: Option<Box<Strings>>,
    /// What it has at present.
    pub resources: Option<Box<ResourcesView>>,
}

/// What a container does, where it matters to others.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ContainerStateView {
    /// How it has ended, if it has.
    pub terminated: Option<TerminatedView>,
}

/// How a container has ended.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TerminatedView {
    /// Its exit code.
    pub exit_code: i32,
    /// RFC 3339, empty if absent.
    #[serde(deserialize_with = "nullable")]
    pub finished_at: String,
}

/// A node as seen by scheduler, controllers and proxy.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeView {
    /// Metadata.
    pub metadata: Meta,
    /// Desired state.
    pub spec: NodeSpecView,
    /// Observed state.
    pub status: NodeStatusView,
}

/// A node's spec.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSpecView {
    /// Cordoned.
    #[serde(deserialize_with = "nullable")]
    pub unschedulable: bool,
    /// Taints.
    #[serde(deserialize_with = "nullable")]
    pub taints: Vec<Taint>,
    /// Range of its pods' addresses.
    #[serde(rename = "podCIDR", deserialize_with = "nullable")]
    pub pod_cidr: String,
    /// Ranges of its pods' addresses.
    #[serde(rename = "podCIDRs", deserialize_with = "nullable")]
    pub pod_cidrs: Vec<String>,
    /// Cloud's id.
    #[serde(rename = "providerID", deserialize_with = "nullable")]
    pub provider_id: String,
}

/// A taint.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
    /// RFC 3339, for NoExecute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_added: Option<String>,
}

/// A node's status.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatusView {
    /// What pods may use.
    #[serde(deserialize_with = "nullable")]
    pub allocatable: Strings,
    /// What it has.
    #[serde(deserialize_with = "nullable")]
    pub capacity: Strings,
    /// Conditions.
    #[serde(deserialize_with = "nullable")]
    pub conditions: Vec<Condition>,
    /// Addresses.
    #[serde(deserialize_with = "nullable")]
    pub addresses: Vec<NodeAddress>,
    /// Images present.
    #[serde(deserialize_with = "nullable")]
    pub images: Vec<NodeImage>,
}

impl NodeStatusView {
    /// Extended resources that somebody has given the node, and that its pods cannot have yet: the node itself, which
    /// does not know them, has to pass them on.
    pub fn withheld(&self) -> Strings {
        let given = self.capacity.iter().filter(|(name, _)| is_extended(name));
        let withheld = given.filter(|(name, amount)| self.allocatable.get(*name) != Some(amount));
        withheld.map(|(name, amount)| (name.clone(), amount.clone())).collect()
    }
}

/// A node's address.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, serde::Serialize)]
#[serde(default)]
pub struct NodeAddress {
    /// `InternalIP`, `Hostname`, ...
    #[serde(rename = "type")]
    pub kind: String,
    /// Address.
    pub address: String,
}

/// An image that a node has.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeImage {
    /// Names.
    #[serde(deserialize_with = "nullable")]
    pub names: Vec<String>,
    /// Bytes.
    pub size_bytes: i64,
}

/// A Lease.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LeaseView {
    /// Metadata.
    pub metadata: Meta,
    /// Holder and renewal.
    pub spec: LeaseSpecView,
}

/// A Lease's spec.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LeaseSpecView {
    /// Holder.
    #[serde(deserialize_with = "nullable")]
    pub holder_identity: String,
    /// RFC 3339 with microseconds, empty if absent.
    #[serde(deserialize_with = "nullable")]
    pub renew_time: String,
    /// Seconds.
    pub lease_duration_seconds: Option<i32>,
}

/// A Namespace.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NamespaceView {
    /// Metadata.
    pub metadata: Meta,
    /// Finalizers.
    #[serde(deserialize_with = "nullable")]
    pub spec: NamespaceSpecView,
    /// Phase.
    #[serde(deserialize_with = "nullable")]
    pub status: NamespaceStatusView,
}

/// A Namespace's spec.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NamespaceSpecView {
    /// Finalizers.
    #[serde(deserialize_with = "nullable")]
    pub finalizers: Vec<String>,
}

/// A Namespace's status.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NamespaceStatusView {
    /// `Active` or `Terminating`.
    #[serde(deserialize_with = "nullable")]
    pub phase: String,
    /// Conditions.
    #[serde(deserialize_with = "nullable")]
    pub conditions: Vec<Condition>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn long_annotations_of_pods_are_not_held() {
        let annotations = json!({"short": "1", "long": "x".repeat(LONGEST_ANNOTATION + 1)});
        let pod: PodView = serde_json::from_value(json!({"metadata": {"annotations": annotations}})).unwrap();
        assert_eq!(pod.metadata.annotations, Strings::from([("short".to_owned(), "1".to_owned())]));
    }

    #[test]
    fn absent_null_and_unknown_fields_are_fine() {
        let pod: PodView = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "labels": null, "managedFields": [{}]},
            "spec": {"containers": [{"name": "c", "resources": {}}], "volumes": [{"name": "v"}]},
        }))
        .unwrap();
        assert_eq!(pod.metadata.name, "a");
        assert_eq!(pod.spec.containers[0].name, "c");
        assert!(pod.is_active() && !pod.is_ready());
    }

    #[test]
    fn endpoint_conditions_have_their_documented_defaults() {
        let conditions = EndpointConditions::default();
        assert!(conditions.is_ready() && conditions.is_serving() && !conditions.is_terminating());
        let conditions = EndpointConditions { ready: Some(false), ..Default::default() };
        assert!(!conditions.is_serving());
    }
}
