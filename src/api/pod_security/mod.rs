//! The Pod Security Standards: what a namespace's labels ask for, and whether a pod is so.

mod checks;
mod configuration;

pub use configuration::{Configuration, Exemptions};

use crate::meta;
use crate::status::{FieldErrors, Path};
use serde_json::Value;
use std::fmt;

/// The newest minor version that any check was changed in: what `latest` stands for.
const NEWEST: u32 = 35;
/// What the labels of namespaces start with.
const PREFIX: &str = "pod-security.kubernetes.io/";

/// How much a pod may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    /// Anything.
    #[default]
    Privileged,
    /// Nothing that is known to raise privileges.
    Baseline,
    /// Hardened.
    Restricted,
}

impl Level {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "privileged" => Some(Self::Privileged),
            "baseline" => Some(Self::Baseline),
            "restricted" => Some(Self::Restricted),
            _ => None,
        }
    }
}

/// A level as it was in one version of Kubernetes; `None` is the latest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LevelVersion {
    /// Level.
    pub level: Level,
    /// Minor version.
    pub minor: Option<u32>,
}

impl fmt::Display for LevelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        })?;
        match self.minor {
            Some(minor) => write!(f, ":v1.{minor}"),
            None => f.write_str(":latest"),
        }
    }
}

/// What a namespace asks for in each of the three modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy {
    /// Pods that are not so are refused.
    pub enforce: LevelVersion,
    /// They are noted in the audit log.
    pub audit: LevelVersion,
    /// Their authors are warned.
    pub warn: LevelVersion,
}

impl Policy {
    /// What a namespace's own labels ask for, in a few words.
    pub fn said(&self, namespace: &Value) -> String {
        let modes = [("enforce", self.enforce), ("audit", self.audit), ("warn", self.warn)];
        let says = |label: &str| meta::label(namespace, &format!("{PREFIX}{label}")).is_some();
        let said = modes.iter().filter(|(mode, wanted)| {
            wanted.level != Level::Privileged && (says(mode) || says(&format!("{mode}-version")))
        });
        said.map(|(mode, wanted)| format!("{mode}={wanted}")).collect::<Vec<_>>().join(", ")
    }

    /// Whether it asks for nothing.
    pub fn is_privileged(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|wanted| wanted.level == Level::Privileged)
    }

    /// Reads a namespace's labels; where they say nothing, the defaults count. Wrong values are reported; an unreadable `enforce` is the strictest, the other
    /// two then do nothing.
    pub fn of(namespace: &Value, defaults: &Self, errors: &mut FieldErrors) -> Self {
        let mut policy = *defaults;
        let mut read = |mode: &str, at: &mut LevelVersion, unreadable: Level| {
            let level = format!("{PREFIX}{mode}");
            if let Some(text) = meta::label(namespace, &level) {
                at.level = Level::parse(text).unwrap_or_else(|| {
                    wrong(&level, text, "must be one of privileged, baseline, restricted", errors);
                    unreadable
                });
            }
            let version = format!("{PREFIX}{mode}-version");
            if let Some(text) = meta::label(namespace, &version) {
                at.minor = parse_version(text).unwrap_or_else(|| {
                    wrong(&version, text, "must be \"latest\" or \"v1.x\"", errors);
                    None
                });
            }
        };
        read("enforce", &mut policy.enforce, Level::Restricted);
        read("audit", &mut policy.audit, Level::Privileged);
        read("warn", &mut policy.warn, Level::Privileged);
        let says = |label: &str| meta::label(namespace, &format!("{PREFIX}{label}")).is_some();
        // Whoever writes a Deployment hears at once that its pods will be refused.
        if !says("warn") && !says("warn-version") && policy.enforce.level > policy.warn.level {
            policy.warn = policy.enforce;
        }
        policy
    }
}

fn wrong(label: &str, value: &str, why: &str, errors: &mut FieldErrors) {
    let (metadata, labels) = (Path::root("metadata"), "labels");
    let labels = metadata.child(labels);
    errors.invalid(labels.key(label), value, why);
}

/// `latest` or `v1.x`; the outer `None` is neither.
fn parse_version(text: &str) -> Option<Option<u32>> {
    if text == "latest" {
        return Some(None);
    }
    let minor = text.strip_prefix("v1.")?;
    let plain = minor.bytes().all(|byte| byte.is_ascii_digit()) && (minor == "0" || !minor.starts_with('0'));
    if plain { minor.parse().ok().map(Some) } else { None }
}

/// What one check has against a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// In a word or two.
    pub reason: String,
    /// What exactly; may be empty.
    pub detail: String,
}

/// All that a level has against a pod, or a pod template; `spec` is a PodSpec.
pub fn evaluate(wanted: LevelVersion, metadata: &Value, spec: &Value) -> Vec<Violation> {
    if wanted.level == Level::Privileged {
        return Vec::new();
    }
    let minor = wanted.minor.unwrap_or(NEWEST).min(NEWEST);
    let pod = checks::Pod { metadata, spec };
    let in_force = |check: &&checks::Check| check.level <= wanted.level && check.since <= minor;
    let replaced = |id: &str| {
        let strict = checks::ALL.iter().filter(in_force).filter(|check| check.level == Level::Restricted);
        wanted.level == Level::Restricted && strict.into_iter().any(|check| check.replaces == id)
    };
    let checks = checks::ALL.iter().filter(in_force).filter(|check| !replaced(check.id));
    checks.filter_map(|check| (check.run)(&pod, minor)).collect()
}

/// `reason (detail), reason (detail)`.
pub fn details(violations: &[Violation]) -> String {
    let each = violations.iter().map(|one| match one.detail.as_str() {
        "" => one.reason.clone(),
        detail => format!("{} ({detail})", one.reason),
    });
    each.collect::<Vec<_>>().join(", ")
}

/// `reason, reason`.
pub fn reasons(violations: &[Violation]) -> String {
    violations.iter().map(|one| one.reason.as_str()).collect::<Vec<_>>().join(", ")
}

/// The metadata and spec of the pods that an object of this resource makes; `None` where there is no template.
pub fn pod_template<'a>(group: &str, plural: &str, object: &'a Value) -> Option<(&'a Value, &'a Value)> {
    let template = match (group, plural) {
        ("", "podtemplates") => &object["template"],
        ("", "replicationcontrollers")
        | ("apps", "replicasets" | "deployments" | "statefulsets" | "daemonsets")
        | ("batch", "jobs") => &object["spec"]["template"],
        ("batch", "cronjobs") => &object["spec"]["jobTemplate"]["spec"]["template"],
        _ => return None,
    };
    template.is_object().then(|| (&template["metadata"], &template["spec"]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn policy(labels: Value) -> (Policy, Vec<String>) {
        let mut errors = FieldErrors::default();
        let policy = Policy::of(&json!({ "metadata": { "labels": labels } }), &Policy::default(), &mut errors);
        (policy, errors.messages())
    }

    #[test]
    fn labels_are_read_and_wrong_ones_named() {
        assert_eq!(policy(json!({})).0, Policy::default());
        let (read, errors) = policy(json!({
            "pod-security.kubernetes.io/enforce": "baseline",
            "pod-security.kubernetes.io/enforce-version": "v1.25",
        }));
        assert_eq!((read.enforce.to_string().as_str(), errors.len()), ("baseline:v1.25", 0));
        assert_eq!(read.warn, read.enforce);
        assert_eq!(read.audit.to_string(), "privileged:latest");
        let (read, errors) = policy(json!({
            "pod-security.kubernetes.io/enforce": "hard",
            "pod-security.kubernetes.io/warn": "x",
            "pod-security.kubernetes.io/warn-version": "v1.05",
        }));
        assert_eq!((read.enforce.level, read.warn.level), (Level::Restricted, Level::Privileged));
        assert_eq!(
            errors,
            [
                "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"hard\": must be one of privileged, baseline, restricted",
                "metadata.labels[pod-security.kubernetes.io/warn]: Invalid value: \"x\": must be one of privileged, baseline, restricted",
                "metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: \"v1.05\": must be \"latest\" or \"v1.x\"",
            ]
        );
    }

    #[test]
    fn templates_are_found() {
        let job = json!({ "spec": { "jobTemplate": { "spec": { "template": { "spec": { "a": 1 } } } } } });
        assert_eq!(pod_template("batch", "cronjobs", &job).map(|(_, spec)| spec["a"].clone()), Some(json!(1)));
        assert!(pod_template("", "replicationcontrollers", &json!({ "spec": {} })).is_none());
        assert!(pod_template("", "services", &job).is_none());
    }
}
