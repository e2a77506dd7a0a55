//! PodSecurity: pods are as their namespace's labels ask; workloads that make other pods are warned about.

use super::{Attributes, Operation, Plugin};
use crate::pipeline::State;
use crate::response::Failure;
use naru_api::meta;
use naru_api::pod_security::{self, Level, LevelVersion, Policy};
use naru_api::registry;
use naru_api::status::{FieldErrors, Status};
use serde_json::Value;
use std::collections::BTreeMap;

pub(super) static PLUGIN: Plugin = Plugin::new("PodSecurity").validate(validate);

/// Under which key it is noted that a policy did not count.
const EXEMPT: &str = "pod-security.kubernetes.io/exempt";
/// Existing pods looked at when a namespace becomes stricter.
const MAX_PODS: usize = 3000;
/// Subresources of pods that leave the spec alone.
const IGNORED: [&str; 8] = ["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];

fn validate(state: &State, attributes: &Attributes<'_>, object: &Value) -> Result<(), Failure> {
    if !matches!(attributes.operation, Operation::Create | Operation::Update) {
        return Ok(());
    }
    match (attributes.resource.group, attributes.resource.plural) {
        ("", "namespaces") if attributes.subresource.is_empty() => namespace(state, attributes, object),
        ("", "pods") if !IGNORED.contains(&attributes.subresource) => pod(state, attributes, object),
        (group, plural) if attributes.subresource.is_empty() => {
            let Some((metadata, spec)) = pod_security::pod_template(group, plural, object) else { return Ok(()) };
            if is_exempt(state, attributes) {
                return Ok(());
            }
            let policy = policy_of(state, attributes)?;
            if has_exempt_class(state, attributes, spec) {
                return Ok(());
            }
            if policy.warn.level != Level::Privileged || policy.audit.level != Level::Privileged {
                advise(attributes, &policy, metadata, spec);
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Whether no policy concerns the namespace or the user, which is noted in the audit log.
fn is_exempt(state: &State, attributes: &Attributes<'_>) -> bool {
    let exemptions = &state.admission.pod_security.exemptions;
    let namespace = attributes.namespace.unwrap_or_default();
    let why = if exemptions.namespaces.iter().any(|exempt| exempt == namespace) {
        "namespace"
    } else if exemptions.usernames.contains(&attributes.user.name) {
        "user"
    } else {
        return false;
    };
    attributes.notes.audit(EXEMPT, why.to_owned());
    true
}

/// The same for what runs the pod.
fn has_exempt_class(state: &State, attributes: &Attributes<'_>, spec: &Value) -> bool {
    let found = names_exempt_class(state, spec);
    if found {
        attributes.notes.audit(EXEMPT, "runtimeClass".to_owned());
    }
    found
}

fn names_exempt_class(state: &State, spec: &Value) -> bool {
    let exempt = &state.admission.pod_security.exemptions.runtime_classes;
    spec["runtimeClassName"].as_str().is_some_and(|class| exempt.iter().any(|one| one == class))
}

/// The policy of the object's namespace. What its labels say wrongly is noted in the audit log.
fn policy_of(state: &State, attributes: &Attributes<'_>) -> Result<Policy, Failure> {
    let name = attributes.namespace.unwrap_or_default();
    let found = state
        .cache
        .get(&registry::NAMESPACES, None, name)
        .ok_or_else(|| Box::new(Status::internal(format!("failed to lookup namespace {name:?}"))))?;
    let mut errors = FieldErrors::default();
    let policy = Policy::of(&crate::objects::tree(&found)?, &state.admission.pod_security.defaults, &mut errors);
    if let Some(errors) = errors.aggregate() {
        attributes.notes.audit("pod-security.kubernetes.io/error", format!("Failed to parse policy: {errors}"));
    }
    Ok(policy)
}

fn pod(state: &State, attributes: &Attributes<'_>, pod: &Value) -> Result<(), Failure> {
    if is_exempt(state, attributes) {
        return Ok(());
    }
    let policy = policy_of(state, attributes)?;
    attributes.notes.audit("pod-security.kubernetes.io/enforce-policy", policy.enforce.to_string());
    let unchanged = attributes.old.is_some_and(|old| !is_significant(pod, old));
    if policy.is_privileged() || unchanged || has_exempt_class(state, attributes, &pod["spec"]) {
        return Ok(());
    }
    let (metadata, spec) = (&pod["metadata"], &pod["spec"]);
    let violations = pod_security::evaluate(policy.enforce, metadata, spec);
    if violations.is_empty() {
        advise(attributes, &policy, metadata, spec);
        return Ok(());
    }
    note(attributes, policy.audit, metadata, spec);
    let details = pod_security::details(&violations);
    Err(attributes.forbidden(&format!("violates PodSecurity \"{}\": {details}", policy.enforce)))
}

/// Audit and warn modes.
fn advise(attributes: &Attributes<'_>, policy: &Policy, metadata: &Value, spec: &Value) {
    note(attributes, policy.audit, metadata, spec);
    if let Some(text) = would_violate(policy.warn, metadata, spec) {
        attributes.notes.warn(text);
    }
}

fn note(attributes: &Attributes<'_>, wanted: LevelVersion, metadata: &Value, spec: &Value) {
    if let Some(text) = would_violate(wanted, metadata, spec) {
        attributes.notes.audit("pod-security.kubernetes.io/audit-violations", text);
    }
}

fn would_violate(wanted: LevelVersion, metadata: &Value, spec: &Value) -> Option<String> {
    let violations = pod_security::evaluate(wanted, metadata, spec);
    let details = pod_security::details(&violations);
    (!violations.is_empty()).then(|| format!("would violate PodSecurity \"{wanted}\": {details}"))
}

/// Whether an update changes what the checks look at: images, or the containers themselves.
fn is_significant(new: &Value, old: &Value) -> bool {
    let list = |pod: &Value, list: &str| pod["spec"][list].as_array().cloned().unwrap_or_default();
    for kind in ["containers", "initContainers"] {
        let (new, old) = (list(new, kind), list(old, kind));
        if new.len() != old.len() || new.iter().zip(&old).any(|(new, old)| new["image"] != old["image"]) {
            return true;
        }
    }
    let old = list(old, "ephemeralContainers");
    list(new, "ephemeralContainers").iter().any(|container| {
        let before = old.iter().find(|before| before["name"] == container["name"]);
        before.is_none_or(|before| before["image"] != container["image"])
    })
}

/// Labels must be readable where they are new; stricter ones are held against the pods that are there.
fn namespace(state: &State, attributes: &Attributes<'_>, namespace: &Value) -> Result<(), Failure> {
    let mut errors = FieldErrors::default();
    let configured = &state.admission.pod_security;
    let new = Policy::of(namespace, &configured.defaults, &mut errors);
    let mut old_errors = FieldErrors::default();
    let old = attributes.old.map(|old| Policy::of(old, &configured.defaults, &mut old_errors));
    if !errors.is_empty() && errors.messages() != old_errors.messages() {
        return Err(Box::new(Status::invalid("", "Namespace", meta::name(namespace), errors)));
    }
    let name = meta::name(namespace);
    let exempt = configured.exemptions.namespaces.iter().any(|exempt| exempt == name);
    let warn_exempt = || {
        if !new.is_privileged() && new != configured.defaults {
            let policy = new.said(namespace);
            let warning =
                format!("namespace \"{name}\" is exempt from Pod Security, and the policy ({policy}) will be ignored");
            attributes.notes.warn(warning);
        }
    };
    let Some(old) = old else {
        if exempt {
            warn_exempt();
        }
        return Ok(());
    };
    let relaxed = new.enforce.minor == old.enforce.minor && new.enforce.level <= old.enforce.level;
    if new.enforce.level == Level::Privileged || relaxed {
        return Ok(());
    }
    if exempt {
        warn_exempt();
        return Ok(());
    }
    for warning in existing_pods(state, name, new.enforce) {
        attributes.notes.warn(warning);
    }
    Ok(())
}

/// What is wrong with the pods of a namespace, one line for each kind of trouble.
fn existing_pods(state: &State, namespace: &str, wanted: LevelVersion) -> Vec<String> {
    let pods = state.cache.objects(&registry::PODS);
    let pods: Vec<_> = pods.iter().filter(|pod| pod.namespace() == Some(namespace)).collect();
    // For each reason the first pod and how many there are.
    let mut troubles: BTreeMap<String, (&str, usize)> = BTreeMap::new();
    for pod in pods.iter().take(MAX_PODS) {
        let Ok(tree) = crate::objects::tree(pod) else { continue };
        if names_exempt_class(state, &tree["spec"]) {
            continue;
        }
        let violations = pod_security::evaluate(wanted, &tree["metadata"], &tree["spec"]);
        if !violations.is_empty() {
            // Pods come in the order of their names.
            troubles.entry(pod_security::reasons(&violations)).or_insert((pod.name(), 0)).1 += 1;
        }
    }
    let mut warnings = Vec::new();
    if pods.len() > MAX_PODS {
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {MAX_PODS} of {} existing pods",
            pods.len()
        ));
    }
    if !troubles.is_empty() {
        warnings.push(format!(
            "existing pods in namespace \"{namespace}\" violate the new PodSecurity enforce level \"{wanted}\""
        ));
    }
    let mut lines: Vec<String> = troubles
        .into_iter()
        .map(|(reasons, (pod, count))| match count {
            1 => format!("{pod}: {reasons}"),
            2 => format!("{pod} (and 1 other pod): {reasons}"),
            _ => format!("{pod} (and {} other pods): {reasons}", count - 1),
        })
        .collect();
    lines.sort();
    warnings.extend(lines);
    warnings
}
