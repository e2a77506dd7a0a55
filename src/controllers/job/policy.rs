//! What a Job's policies make of a failed pod, and of the indexes that have succeeded.

use naru_api::batch::indexes::Indexes;
use naru_client::projections::{
    ContainerStatusView, JobView, OnExitCodes, OnPodCondition, PodFailureRule, PodView, SuccessPolicy,
};

/// What a failed pod means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It counts as a failure.
    Count,
    /// It does not count.
    Ignore,
    /// Its index has failed.
    FailIndex,
    /// The whole Job has failed, with this message.
    FailJob(String),
}

impl Verdict {
    /// As rules name it.
    pub(super) fn action(&self) -> &'static str {
        match self {
            Self::Count => "Count",
            Self::Ignore => "Ignore",
            Self::FailIndex => "FailIndex",
            Self::FailJob(_) => "FailJob",
        }
    }
}

/// What the Job's policy says of a failed pod. Without a rule that matches it counts.
pub(super) fn verdict(job: &JobView, pod: &PodView) -> Verdict {
    by_rule(job, pod).unwrap_or(Verdict::Count)
}

/// What the first rule that matches a failed pod says.
pub(super) fn by_rule(job: &JobView, pod: &PodView) -> Option<Verdict> {
    let rules = job.spec.pod_failure_policy.iter().flat_map(|policy| &policy.rules);
    let (index, rule, why) = rules.enumerate().find_map(|(index, rule)| Some((index, rule, matches(rule, pod)?)))?;
    Some(match rule.action.as_str() {
        "Ignore" => Verdict::Ignore,
        "FailIndex" if job.spec.backoff_limit_per_index.is_some() => Verdict::FailIndex,
        "FailJob" => Verdict::FailJob(format!("{why} matching FailJob rule at index {index}")),
        _ => Verdict::Count,
    })
}

/// Why a rule matches, if it does.
fn matches(rule: &PodFailureRule, pod: &PodView) -> Option<String> {
    let meta = &pod.metadata;
    if let Some(codes) = &rule.on_exit_codes {
        let statuses = pod.status.container_statuses.iter().chain(&pod.status.init_container_statuses);
        let (name, code) = statuses.filter_map(|status| exit(status, codes)).next()?;
        return Some(format!("Container {name} for pod {}/{} failed with exit code {code}", meta.namespace, meta.name));
    }
    let holds = |pattern: &OnPodCondition| {
        pod.status.conditions.iter().any(|c| c.kind == pattern.kind && c.status == pattern.status)
    };
    let pattern = rule.on_pod_conditions.iter().find(|pattern| holds(pattern))?;
    Some(format!("Pod {}/{} has condition {}", meta.namespace, meta.name, pattern.kind))
}

/// The name and exit code of a container that failed as the rule says.
fn exit<'a>(status: &'a ContainerStatusView, codes: &OnExitCodes) -> Option<(&'a str, i32)> {
    if codes.container_name.as_ref().is_some_and(|name| *name != status.name) {
        return None;
    }
    let code = status.state.terminated.as_ref().map(|end| end.exit_code).filter(|code| *code != 0)?;
    let among = codes.values.contains(&code);
    (among == (codes.operator == "In")).then_some((status.name.as_str(), code))
}

/// Which rule of the success policy is met, in words.
pub(super) fn success(policy: Option<&SuccessPolicy>, completions: i64, succeeded: &Indexes) -> Option<String> {
    let met = policy?.rules.iter().position(|rule| {
        let enough = |of: i64| rule.succeeded_count.map_or(of, i64::from);
        match &rule.succeeded_indexes {
            None => rule.succeeded_count.is_some_and(|count| succeeded.total() >= i64::from(count)),
            Some(text) => {
                let wanted = Indexes::parse_below(text, completions);
                let done = wanted.iter().filter(|index| succeeded.contains(*index)).count();
                i64::try_from(done).unwrap_or(i64::MAX) >= enough(wanted.total())
            }
        }
    });
    met.map(|index| format!("Matched rules at index {index}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn job(spec: Value) -> JobView {
        serde_json::from_value(json!({ "spec": spec })).unwrap()
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let job = job(json!({"podFailurePolicy": {"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [42]}},
            {"action": "FailIndex", "onExitCodes": {"operator": "NotIn", "values": [1]}},
            {"action": "Count", "onExitCodes": {"operator": "In", "values": [1]}}]}, "backoffLimitPerIndex": 1}));
        let pod = |container: &str, code: i32, condition: &str| -> PodView {
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "status": {
                "conditions": [{"type": condition, "status": "True"}],
                "containerStatuses": [{"name": container, "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": code}}}]}}))
            .unwrap()
        };
        assert_eq!(verdict(&job, &pod("main", 42, "DisruptionTarget")), Verdict::Ignore);
        assert_eq!(
            verdict(&job, &pod("main", 42, "Ready")),
            Verdict::FailJob(
                "Container main for pod n/p failed with exit code 42 matching FailJob rule at index 1".to_owned()
            )
        );
        assert_eq!(verdict(&job, &pod("side", 42, "Ready")), Verdict::FailIndex);
        assert_eq!(verdict(&job, &pod("main", 1, "Ready")), Verdict::Count);
        assert_eq!(verdict(&job, &pod("main", 0, "Ready")), Verdict::Count);
    }

    #[test]
    fn some_indexes_are_enough() {
        let check = |rules: Value, succeeded: &str, expect: Option<&str>| {
            let policy: SuccessPolicy = serde_json::from_value(json!({ "rules": rules })).unwrap();
            let succeeded = Indexes::parse(succeeded, 10).unwrap();
            assert_eq!(success(Some(&policy), 10, &succeeded).as_deref(), expect);
        };
        check(json!([{"succeededCount": 2}]), "1,5", Some("Matched rules at index 0"));
        check(
            json!([{"succeededIndexes": "0"}, {"succeededIndexes": "1-3", "succeededCount": 2}]),
            "2,3",
            Some("Matched rules at index 1"),
        );
        check(json!([{"succeededIndexes": "0-2"}]), "0,1,5", None);
        check(json!([{"succeededIndexes": "0-2"}]), "0-2", Some("Matched rules at index 0"));
    }
}
