//! Views of Jobs, CronJobs and PodDisruptionBudgets.

use super::{Condition, IntOrPercent, Meta, Selector, nullable};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A Job.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct JobView {
    /// Metadata.
    pub metadata: Meta,
    /// Desired state.
    #[serde(deserialize_with = "nullable")]
    pub spec: JobSpecView,
    /// Observed state.
    #[serde(deserialize_with = "nullable")]
    pub status: JobStatusView,
}

impl JobView {
    /// The condition by which the Job is finished, if it is.
    pub fn end(&self) -> Option<&Condition> {
        let mut conditions = self.status.conditions.iter();
        conditions.find(|c| matches!(c.kind.as_str(), "Complete" | "Failed") && c.status == "True")
    }
}

/// A Job's spec.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JobSpecView {
    /// Pods at once.
    pub parallelism: Option<i32>,
    /// Pods that must succeed; none for work queues.
    pub completions: Option<i32>,
    /// Seconds until it has failed.
    pub active_deadline_seconds: Option<i64>,
    /// Failed pods until it has failed.
    pub backoff_limit: Option<i32>,
    /// The same for each index.
    pub backoff_limit_per_index: Option<i32>,
    /// Failed indexes until it has failed.
    pub max_failed_indexes: Option<i32>,
    /// `Indexed` or `NonIndexed`.
    #[serde(deserialize_with = "nullable")]
    pub completion_mode: String,
    /// No pods while set.
    #[serde(deserialize_with = "nullable")]
    pub suspend: bool,
    /// Its pods.
    #[serde(deserialize_with = "nullable")]
    pub selector: Selector,
    /// What failed pods mean.
    pub pod_failure_policy: Option<PodFailurePolicy>,
    /// Which indexes are enough.
    pub success_policy: Option<SuccessPolicy>,
    /// `Failed` or `TerminatingOrFailed`.
    #[serde(deserialize_with = "nullable")]
    pub pod_replacement_policy: String,
    /// The controller that looks after it.
    pub managed_by: Option<String>,
    /// Seconds that it is kept when it has finished.
    pub ttl_seconds_after_finished: Option<i32>,
    /// Its pods' template.
    #[serde(deserialize_with = "nullable")]
    pub template: JobTemplateView,
}

/// The part of a Job's pod template that is needed before there are pods.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct JobTemplateView {
    /// The pods' spec.
    #[serde(deserialize_with = "nullable")]
    pub spec: JobPodSpecView,
}

/// See `JobTemplateView`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JobPodSpecView {
    /// `Never` or `OnFailure`.
    #[serde(deserialize_with = "nullable")]
    pub restart_policy: String,
}

/// What failed pods mean.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct PodFailurePolicy {
    /// The first that matches counts.
    #[serde(deserialize_with = "nullable")]
    pub rules: Vec<PodFailureRule>,
}

/// One rule about failed pods.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodFailureRule {
    /// `Count`, `FailIndex`, `FailJob` or `Ignore`.
    pub action: String,
    /// Matches by exit codes.
    pub on_exit_codes: Option<OnExitCodes>,
    /// Matches by conditions.
    #[serde(deserialize_with = "nullable")]
    pub on_pod_conditions: Vec<OnPodCondition>,
}

/// Exit codes of containers.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OnExitCodes {
    /// Only this container.
    pub container_name: Option<String>,
    /// `In` or `NotIn`.
    pub operator: String,
    /// Codes.
    #[serde(deserialize_with = "nullable")]
    pub values: Vec<i32>,
}

/// A condition of a pod.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct OnPodCondition {
    /// Type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Status.
    pub status: String,
}

/// Which indexes are enough.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct SuccessPolicy {
    /// One that is met is enough.
    #[serde(deserialize_with = "nullable")]
    pub rules: Vec<SuccessRule>,
}

/// One set of indexes that is enough.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SuccessRule {
    /// Of these; of all if absent.
    pub succeeded_indexes: Option<String>,
    /// So many; all if absent.
    pub succeeded_count: Option<i32>,
}

/// A Job's status.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JobStatusView {
    /// Conditions.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// RFC 3339, empty while it has not been started.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub start_time: String,
    /// RFC 3339, empty while it is not complete.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub completion_time: String,
    /// Pods that run or are about to.
    #[serde(skip_serializing_if = "is_zero")]
    pub active: i32,
    /// Pods (or indexes) that have succeeded.
    #[serde(skip_serializing_if = "is_zero")]
    pub succeeded: i32,
    /// Pods that have failed.
    #[serde(skip_serializing_if = "is_zero")]
    pub failed: i32,
    /// Active pods that are ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<i32>,
    /// Terminating pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminating: Option<i32>,
    /// Indexes that have succeeded, such as `0,2-4`.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub completed_indexes: String,
    /// Indexes that have failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_indexes: Option<String>,
    /// Pods that have ended and are not in the counts yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uncounted_terminated_pods: Option<UncountedPods>,
}

/// Uids of pods that have ended and are not in the counts yet.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct UncountedPods {
    /// Well.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub succeeded: Vec<String>,
    /// Not well.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<String>,
}

/// A CronJob.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct CronJobView {
    /// Metadata.
    pub metadata: Meta,
    /// Desired state.
    #[serde(deserialize_with = "nullable")]
    pub spec: CronJobSpecView,
    /// Observed state.
    #[serde(deserialize_with = "nullable")]
    pub status: CronJobStatusView,
}

/// A CronJob's spec.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CronJobSpecView {
    /// When.
    pub schedule: String,
    /// Where.
    pub time_zone: Option<String>,
    /// Seconds by which a Job may be late.
    pub starting_deadline_seconds: Option<i64>,
    /// `Allow`, `Forbid` or `Replace`.
    #[serde(deserialize_with = "nullable")]
    pub concurrency_policy: String,
    /// No new Jobs while set.
    #[serde(deserialize_with = "nullable")]
    pub suspend: bool,
    /// Complete Jobs that are kept.
    pub successful_jobs_history_limit: Option<i32>,
    /// Failed Jobs that are kept.
    pub failed_jobs_history_limit: Option<i32>,
}

/// A CronJob's status.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CronJobStatusView {
    /// Jobs that have not finished.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub active: Vec<ActiveJob>,
    /// RFC 3339, empty if there was none.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub last_schedule_time: String,
    /// RFC 3339, empty if there was none.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub last_successful_time: String,
}

/// A reference to a Job.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ActiveJob {
    /// Kind.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
    /// Group and version.
    pub api_version: String,
    /// Revision when it was created.
    pub resource_version: String,
}

/// A PodDisruptionBudget.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct BudgetView {
    /// Metadata.
    pub metadata: Meta,
    /// Desired state.
    #[serde(deserialize_with = "nullable")]
    pub spec: BudgetSpecView,
    /// Observed state.
    #[serde(deserialize_with = "nullable")]
    pub status: BudgetStatusView,
}

/// A PodDisruptionBudget's spec.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BudgetSpecView {
    /// Pods that must stay.
    pub min_available: Option<IntOrPercent>,
    /// Pods that may be missing.
    pub max_unavailable: Option<IntOrPercent>,
    /// Its pods; none without.
    pub selector: Option<Selector>,
}

/// A PodDisruptionBudget's status.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BudgetStatusView {
    /// Generation that the rest is about.
    #[serde(skip_serializing_if = "is_zero_long")]
    pub observed_generation: i64,
    /// Pods whose eviction has been allowed, and when.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub disrupted_pods: BTreeMap<String, String>,
    /// Pods that may go now.
    pub disruptions_allowed: i32,
    /// Healthy pods.
    pub current_healthy: i32,
    /// Healthy pods that there must be.
    pub desired_healthy: i32,
    /// All pods.
    pub expected_pods: i32,
    /// Conditions.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<BudgetCondition>,
}

/// A condition in the form of newer kinds.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BudgetCondition {
    /// Type.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Generation that it is about.
    #[serde(skip_serializing_if = "is_zero_long")]
    pub observed_generation: i64,
    /// RFC 3339.
    pub last_transition_time: String,
    /// For machines.
    pub reason: String,
    /// For humans.
    pub message: String,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &i32) -> bool {
    *number == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero_long(number: &i64) -> bool {
    *number == 0
}
