//! Views of Deployments and ReplicaSets.

use super::{Condition, Meta, Selector, TemplateView, nullable};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

/// A number, or a percentage of something.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum IntOrPercent {
    /// A number.
    Int(i32),
    /// `25%`.
    Percent(String),
}

impl IntOrPercent {
    /// The number meant, of `total`; a text that is no percentage counts as 0.
    pub fn of(&self, total: i32, round_up: bool) -> i32 {
        match self {
            Self::Int(number) => *number,
            Self::Percent(text) => {
                let percent: i64 = text.trim_end_matches('%').parse().unwrap_or_default();
                let product = percent * i64::from(total);
                let rounded = if round_up { (product + 99).div_euclid(100) } else { product.div_euclid(100) };
                i32::try_from(rounded).unwrap_or(i32::MAX)
            }
        }
    }
}

/// A Deployment.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct DeploymentView {
    /// Metadata.
    pub metadata: Meta,
    /// Desired state.
    pub spec: DeploymentSpecView,
    /// Observed state.
    #[serde(deserialize_with = "nullable")]
    pub status: DeploymentStatusView,
}

/// A Deployment's spec.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeploymentSpecView {
    /// Wanted pods.
    pub replicas: Option<i32>,
    /// Its pods.
    pub selector: Selector,
    /// Its template.
    pub template: TemplateView,
    /// Seconds until a ready pod is available.
    #[serde(deserialize_with = "nullable")]
    pub min_ready_seconds: i32,
    /// How pods are replaced.
    #[serde(deserialize_with = "nullable")]
    pub strategy: Strategy,
    /// Old ReplicaSets kept.
    pub revision_history_limit: Option<i32>,
    /// No rollout while set.
    #[serde(deserialize_with = "nullable")]
    pub paused: bool,
    /// Seconds without progress until the rollout counts as failed.
    pub progress_deadline_seconds: Option<i32>,
}

/// How pods are replaced.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Strategy {
    /// `RollingUpdate` or `Recreate`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Settings of the former.
    pub rolling_update: Option<RollingUpdate>,
}

/// Settings of a rolling update.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RollingUpdate {
    /// Pods that may be missing.
    pub max_unavailable: Option<IntOrPercent>,
    /// Pods that may be too many.
    pub max_surge: Option<IntOrPercent>,
}

/// A Deployment's status.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeploymentStatusView {
    /// Generation that the rest is about.
    pub observed_generation: i64,
    /// Pods.
    #[serde(skip_serializing_if = "is_zero")]
    pub replicas: i32,
    /// Pods of the newest template.
    #[serde(skip_serializing_if = "is_zero")]
    pub updated_replicas: i32,
    /// Ready pods.
    #[serde(skip_serializing_if = "is_zero")]
    pub ready_replicas: i32,
    /// Available pods.
    #[serde(skip_serializing_if = "is_zero")]
    pub available_replicas: i32,
    /// Wanted but not available pods.
    #[serde(skip_serializing_if = "is_zero")]
    pub unavailable_replicas: i32,
    /// Terminating pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminating_replicas: Option<i32>,
    /// Names of ReplicaSets that were taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collision_count: Option<i32>,
    /// Conditions.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// A ReplicaSet.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ReplicaSetView {
    /// Metadata.
    pub metadata: Meta,
    /// Desired state.
    pub spec: ReplicaSetSpecView,
    /// Observed state.
    #[serde(deserialize_with = "nullable")]
    pub status: ReplicaSetStatusView,
}

/// A ReplicaSet's spec.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicaSetSpecView {
    /// Wanted pods.
    pub replicas: Option<i32>,
    /// Its pods.
    pub selector: Selector,
    /// Its template.
    pub template: TemplateView,
    /// Seconds until a ready pod is available.
    #[serde(deserialize_with = "nullable")]
    pub min_ready_seconds: i32,
}

impl ReplicaSetSpecView {
    /// Wanted pods; 1 if unsaid.
    pub fn replicas(&self) -> i32 {
        self.replicas.unwrap_or(1)
    }
}

/// A ReplicaSet's status.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicaSetStatusView {
    /// Pods.
    pub replicas: i32,
    /// Pods with all the template's labels.
    #[serde(skip_serializing_if = "is_zero")]
    pub fully_labeled_replicas: i32,
    /// Ready pods.
    #[serde(skip_serializing_if = "is_zero")]
    pub ready_replicas: i32,
    /// Available pods.
    #[serde(skip_serializing_if = "is_zero")]
    pub available_replicas: i32,
    /// Terminating pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminating_replicas: Option<i32>,
    /// Generation that the rest is about.
    pub observed_generation: i64,
    /// Conditions.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// A ReplicationController, in the form of the ReplicaSet that it would be.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ReplicationControllerView(pub ReplicaSetView);

impl<'de> Deserialize<'de> for ReplicationControllerView {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut controller = Value::deserialize(deserializer)?;
        if let Some(selector) = controller.pointer_mut("/spec/selector") {
            *selector = json!({"matchLabels": selector.take()});
        }
        ReplicaSetView::deserialize(controller).map(Self).map_err(serde::de::Error::custom)
    }
}

/// What keeps so many pods of one template.
pub trait Replicated: DeserializeOwned + Send + Sync + 'static {
    /// It as a ReplicaSet.
    fn set(&self) -> &ReplicaSetView;
}

impl Replicated for ReplicaSetView {
    fn set(&self) -> &ReplicaSetView {
        self
    }
}

impl Replicated for ReplicationControllerView {
    fn set(&self) -> &ReplicaSetView {
        &self.0
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
pub(super) fn is_zero(number: &i32) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_rounded_as_asked() {
        let quarter = IntOrPercent::Percent("25%".into());
        assert_eq!((quarter.of(10, true), quarter.of(10, false)), (3, 2));
        assert_eq!((quarter.of(1, true), quarter.of(1, false)), (1, 0));
        assert_eq!(IntOrPercent::Int(4).of(1, true), 4);
    }
}
