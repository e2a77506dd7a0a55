//! Annotations of pods that mean something: mirror pods, deletion costs, and the forerunners of the
//! fields for seccomp and AppArmor.

use super::container::relative_path;
use super::{MIRROR, each_container};
use crate::core::pod::app_armor::PREFIX as APP_ARMOR;
use crate::status::{FieldErrors, Path};
use crate::tree::{entries, some_text, text};
use serde_json::Value;

const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Errors of a pod's annotations.
pub(super) fn pod(pod: &Value, errors: &mut FieldErrors) {
    let path = Path::root("metadata");
    of_spec(&pod["metadata"], &pod["spec"], path.child("annotations"), errors);
}

/// Errors of the annotations beside a spec.
pub(super) fn of_spec(metadata: &Value, spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let all = &metadata["annotations"];
    if all[MIRROR].is_string() && some_text(&spec["nodeName"]).is_none() {
        let why = "must set spec.nodeName if mirror pod annotation is set";
        errors.invalid(path.key(MIRROR), text(&all[MIRROR]), why);
    }
    if let Some(profile) = all[SECCOMP_POD].as_str() {
        seccomp(profile, path.child(SECCOMP_POD), errors);
    }
    for (key, value) in entries(all).filter(|(key, _)| key.starts_with(SECCOMP_CONTAINER)) {
        seccomp(text(value), path.child(key), errors);
    }
    for (key, value) in entries(all) {
        let Some(container) = key.strip_prefix(APP_ARMOR) else { continue };
        let mut known = false;
        each_container(spec, path, |c, _| known |= c["name"] == container);
        if !known {
            errors.invalid(path.key(key), container, "container not found");
        }
        let profile = text(value);
        let good = matches!(profile, "" | "runtime/default" | "unconfined") || profile.starts_with("localhost/");
        if !good {
            let why = format!("invalid AppArmor profile name: {}", crate::status::quote(profile));
            errors.invalid(path.key(key), profile, &why);
        }
    }
    if let Some(cost) = all[DELETION_COST].as_str()
        && !is_cost(cost)
    {
        errors.invalid(path.key(DELETION_COST), cost, "must be a 32bit integer");
    }
}

/// A number as the controllers read it: no plus sign, no leading zeros.
fn is_cost(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let leading = digits.starts_with('0') && digits.len() > 1;
    !text.starts_with('+') && !leading && text.parse::<i32>().is_ok()
}

fn seccomp(profile: &str, path: Path<'_>, errors: &mut FieldErrors) {
    match profile {
        "runtime/default" | "docker/default" | "unconfined" => {}
        _ => match profile.strip_prefix("localhost/") {
            Some(file) => relative_path(file, path, errors),
            None => errors.invalid(path, profile, "must be a valid seccomp profile"),
        },
    }
}

/// Where both an annotation and the field that took its place are set, they say the same.
pub(super) fn match_fields(metadata: &Value, spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let all = &metadata["annotations"];
    if !all.is_object() {
        return;
    }
    let own = &spec["securityContext"];
    if let Some(annotation) = all[SECCOMP_POD].as_str() {
        let at = path.child("securityContext");
        same_profile("seccomp", annotation, &own["seccompProfile"], at.child("seccompProfile"), errors);
    }
    each_container(spec, path, |container, at| {
        let at = at.child("securityContext");
        let key = format!("{SECCOMP_CONTAINER}{}", text(&container["name"]));
        if let Some(annotation) = all[&key].as_str() {
            let field = &container["securityContext"]["seccompProfile"];
            same_profile("seccomp", annotation, field, at.child("seccompProfile"), errors);
        }
    });
    if spec["os"]["name"] == "windows" {
        return;
    }
    each_container(spec, path, |container, at| {
        let at = at.child("securityContext");
        let key = format!("{APP_ARMOR}{}", text(&container["name"]));
        if let Some(annotation) = all[&key].as_str() {
            let field = &container["securityContext"]["appArmorProfile"];
            let field = if field.is_object() { field } else { &own["appArmorProfile"] };
            same_profile("apparmor", annotation, field, at.child("appArmorProfile"), errors);
        }
    });
}

fn same_profile(what: &str, annotation: &str, field: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let kinds_differ = |errors: &mut FieldErrors| {
        errors.forbidden(path.child("type"), &format!("{what} type in annotation and field must match"));
    };
    match text(&field["type"]) {
        "Unconfined" if annotation != "unconfined" => kinds_differ(errors),
        "RuntimeDefault" => {
            let older = what == "seccomp" && annotation == "docker/default";
            if annotation != "runtime/default" && !older {
                kinds_differ(errors);
            }
        }
        "Localhost" => match annotation.strip_prefix("localhost/") {
            None => kinds_differ(errors),
            Some(file) if field["localhostProfile"].as_str() != Some(file) => {
                let why = format!("{what} profile in annotation and field must match");
                errors.forbidden(path.child("localhostProfile"), &why);
            }
            Some(_) => {}
        },
        _ => {}
    }
}

/// What may not change in a pod's annotations.
pub(super) fn update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = Path::root("metadata");
    let at = path.child("annotations");
    let (new, old) = (&new["metadata"]["annotations"], &old["metadata"]["annotations"]);
    for (key, value) in entries(old).filter(|(key, value)| new[key.as_str()] != **value) {
        let _ = value;
        if key.starts_with(APP_ARMOR) {
            errors.forbidden(at.key(key), "may not remove or update AppArmor annotations");
        }
        if key == MIRROR {
            errors.forbidden(at.key(key), "may not remove or update mirror pod annotation");
        }
    }
    for (key, _) in entries(new).filter(|(key, _)| old[key.as_str()].is_null()) {
        if key.starts_with(APP_ARMOR) {
            errors.forbidden(at.key(key), "may not add AppArmor annotations");
        }
        if key == MIRROR {
            errors.forbidden(at.key(key), "may not add mirror pod annotation");
        }
    }
}
