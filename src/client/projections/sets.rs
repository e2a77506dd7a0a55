//! Views of StatefulSets, DaemonSets and the ControllerRevisions that both keep.

use super::apps::{IntOrPercent, is_zero};
use super::{Condition, Meta, ObjectView, Selector, Strings, TemplateDigest, TemplateView, Toleration, nullable};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::sync::Arc;

/// A StatefulSet.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct StatefulSetView {
    /// Metadata.
    pub metadata: Meta,
    /// Desired state.
    pub spec: StatefulSetSpecView,
    /// Observed state.
    #[serde(deserialize_with = "nullable")]
    pub status: StatefulSetStatusView,
}

/// A StatefulSet's spec.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatefulSetSpecView {
    /// Wanted pods.
    pub replicas: Option<i32>,
    /// Its pods.
    pub selector: Selector,
    /// Its template.
    pub template: TemplateView,
    /// The headless Service of its pods.
    #[serde(deserialize_with = "nullable")]
    pub service_name: String,
    /// `OrderedReady` or `Parallel`.
    #[serde(deserialize_with = "nullable")]
    pub pod_management_policy: String,
    /// How pods are replaced.
    #[serde(deserialize_with = "nullable")]
    pub update_strategy: OrderedStrategy,
    /// Old revisions kept.
    pub revision_history_limit: Option<i32>,
    /// Seconds until a ready pod is available.
    #[serde(deserialize_with = "nullable")]
    pub min_ready_seconds: i32,
    /// Where counting begins.
    #[serde(deserialize_with = "nullable")]
    pub ordinals: Ordinals,
    /// What happens to claims.
    #[serde(deserialize_with = "nullable")]
    pub persistent_volume_claim_retention_policy: ClaimRetention,
    /// Templates of claims, undecoded: they are only copied.
    #[serde(deserialize_with = "nullable")]
    pub volume_claim_templates: Arc<Vec<Value>>,
}

impl StatefulSetSpecView {
    /// Wanted pods; 1 if unsaid.
    pub fn replicas(&self) -> i32 {
        self.replicas.unwrap_or(1)
    }
}

/// How a StatefulSet's pods are replaced.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OrderedStrategy {
    /// `RollingUpdate` or `OnDelete`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Settings of the former.
    pub rolling_update: Option<Partition>,
}

/// Settings of a StatefulSet's rolling update.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Partition {
    /// Pods before this one keep their revision.
    #[serde(deserialize_with = "nullable")]
    pub partition: i32,
    /// How many pods may be unavailable at once; one if unsaid.
    pub max_unavailable: Option<IntOrPercent>,
}

/// Where a StatefulSet begins to count.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Ordinals {
    /// The first pod's number.
    #[serde(deserialize_with = "nullable")]
    pub start: i32,
}

/// `Retain` or `Delete`, for two occasions.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimRetention {
    /// When the set goes.
    #[serde(deserialize_with = "nullable")]
    pub when_deleted: String,
    /// When the pod is scaled away.
    #[serde(deserialize_with = "nullable")]
    pub when_scaled: String,
}

/// A StatefulSet's status.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatefulSetStatusView {
    /// Generation that the rest is about.
    pub observed_generation: i64,
    /// Pods.
    pub replicas: i32,
    /// Ready pods.
    #[serde(skip_serializing_if = "is_zero")]
    pub ready_replicas: i32,
    /// Pods of the current revision.
    #[serde(skip_serializing_if = "is_zero")]
    pub current_replicas: i32,
    /// Pods of the update's revision.
    #[serde(skip_serializing_if = "is_zero")]
    pub updated_replicas: i32,
    /// Name of the revision that the set comes from.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub current_revision: String,
    /// Name of the revision that it goes to.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub update_revision: String,
    /// Names of revisions that were taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collision_count: Option<i32>,
    /// Conditions, which are others'.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Available pods.
    pub available_replicas: i32,
}

/// A DaemonSet.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct DaemonSetView {
    /// Metadata.
    pub metadata: Meta,
    /// Desired state.
    pub spec: DaemonSetSpecView,
    /// Observed state.
    #[serde(deserialize_with = "nullable")]
    pub status: DaemonSetStatusView,
}

/// A DaemonSet's spec.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DaemonSetSpecView {
    /// Its pods.
    pub selector: Selector,
    /// Its template.
    pub template: DaemonTemplateView,
    /// How pods are replaced.
    #[serde(deserialize_with = "nullable")]
    pub update_strategy: DaemonStrategy,
    /// Old revisions kept.
    pub revision_history_limit: Option<i32>,
    /// Seconds until a ready pod is available.
    #[serde(deserialize_with = "nullable")]
    pub min_ready_seconds: i32,
}

/// What is kept of a DaemonSet's template: what decides about nodes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DaemonTemplateView {
    /// Digest and labels.
    pub pod: TemplateView,
    /// Where its pods go.
    pub spec: Placement,
}

/// The part of a pod's spec that decides about nodes.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Placement {
    /// The only node, or empty.
    #[serde(deserialize_with = "nullable")]
    pub node_name: String,
    /// Node labels wanted.
    #[serde(deserialize_with = "nullable")]
    pub node_selector: Strings,
    /// Affinity, undecoded.
    pub affinity: Option<Arc<Value>>,
    /// Tolerations.
    #[serde(deserialize_with = "nullable")]
    pub tolerations: Vec<Toleration>,
    /// Whether its pods live in the node's network.
    #[serde(deserialize_with = "nullable")]
    pub host_network: bool,
}

impl<'de> Deserialize<'de> for DaemonTemplateView {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let template = Value::deserialize(deserializer)?;
        let spec = Placement::deserialize(&template["spec"]).unwrap_or_default();
        let pod = TemplateView::deserialize(template).map_err(serde::de::Error::custom)?;
        Ok(Self { pod, spec })
    }
}

/// How a DaemonSet's pods are replaced.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DaemonStrategy {
    /// `RollingUpdate` or `OnDelete`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Settings of the former.
    #[serde(deserialize_with = "nullable")]
    pub rolling_update: DaemonRollingUpdate,
}

/// Settings of a DaemonSet's rolling update.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DaemonRollingUpdate {
    /// Nodes that may be without an available pod.
    pub max_unavailable: Option<IntOrPercent>,
    /// Nodes that may have two pods.
    pub max_surge: Option<IntOrPercent>,
}

/// A DaemonSet's status.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DaemonSetStatusView {
    /// Nodes that run a pod and should.
    pub current_number_scheduled: i32,
    /// Nodes that run a pod and should not.
    pub number_misscheduled: i32,
    /// Nodes that should run a pod.
    pub desired_number_scheduled: i32,
    /// Nodes with a ready pod.
    pub number_ready: i32,
    /// Generation that the rest is about.
    pub observed_generation: i64,
    /// Nodes with a pod of the newest template.
    #[serde(skip_serializing_if = "is_zero")]
    pub updated_number_scheduled: i32,
    /// Nodes with an available pod.
    #[serde(skip_serializing_if = "is_zero")]
    pub number_available: i32,
    /// Nodes that should have an available pod and do not.
    #[serde(skip_serializing_if = "is_zero")]
    pub number_unavailable: i32,
    /// Names of revisions that were taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collision_count: Option<i32>,
    /// Conditions, which are others'.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// A ControllerRevision.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RevisionView {
    /// Metadata.
    pub metadata: Meta,
    /// Its number.
    #[serde(deserialize_with = "nullable")]
    pub revision: i64,
    /// The template that it keeps.
    pub data: RevisionData,
}

/// What is kept of a revision's data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RevisionData {
    /// Stands for the template.
    pub digest: TemplateDigest,
}

impl<'de> Deserialize<'de> for RevisionData {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut data = Value::deserialize(deserializer)?;
        let mut template = data.pointer_mut("/spec/template").map(Value::take).unwrap_or_default();
        if let Some(template) = template.as_object_mut() {
            // Says that the patch replaces, and is no part of the template.
            template.remove("$patch");
        }
        Ok(Self { digest: TemplateDigest::of(&template) })
    }
}

/// A PersistentVolumeClaim: its metadata alone.
pub type ClaimView = ObjectView;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_revision_has_the_digest_of_its_template() {
        let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"nodeName": "n1", "hostNetwork": true}});
        let mut data = json!({"spec": {"template": template.clone()}});
        data["spec"]["template"]["$patch"] = "replace".into();
        let revision: RevisionView = serde_json::from_value(json!({"revision": 3, "data": data})).unwrap();
        let set: DaemonSetView = serde_json::from_value(json!({"spec": {"template": template}})).unwrap();
        assert_eq!(revision.data.digest, set.spec.template.pod.digest);
        assert_eq!((set.spec.template.spec.node_name.as_str(), set.spec.template.spec.host_network), ("n1", true));
    }
}
