//! What the operating system that a pod names rules out.

use super::each_container;
use crate::status::{FieldErrors, Path};
use crate::tree::{flag, list, some_text};
use serde_json::Value;

/// The pod's `os`, and the fields that the system does not have.
pub(super) fn os(spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    if !spec["os"].is_object() {
        return;
    }
    let at = path.child("os");
    match some_text(&spec["os"]["name"]) {
        None => errors.required(at.child("name"), ""),
        Some("linux") => linux(spec, path, errors),
        Some("windows") => windows(spec, path, errors),
        Some(other) => errors.not_supported(at, other, &["linux", "windows"]),
    }
}

fn linux(spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    const WHY: &str = "windows options cannot be set for a linux pod";
    if spec["securityContext"]["windowsOptions"].is_object() {
        errors.forbidden(path.child("securityContext").child("windowsOptions"), WHY);
    }
    each_container(spec, path, |container, at| {
        if container["securityContext"]["windowsOptions"].is_object() {
            errors.forbidden(at.child("securityContext").child("windowsOptions"), WHY);
        }
    });
}

fn windows(spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    const WHY: &str = "cannot be set for a windows pod";
    let (context, at) = (&spec["securityContext"], path.child("securityContext"));
    let within = |field: &str, errors: &mut FieldErrors| {
        if !context[field].is_null() {
            errors.forbidden(at.child(field), WHY);
        }
    };
    within("appArmorProfile", errors);
    within("seLinuxOptions", errors);
    if !spec["hostUsers"].is_null() {
        errors.forbidden(path.child("hostUsers"), WHY);
    }
    for field in ["hostPID", "hostIPC"] {
        if flag(&spec[field]) {
            errors.forbidden(path.child(field), WHY);
        }
    }
    for field in ["seccompProfile", "fsGroup", "fsGroupChangePolicy"] {
        within(field, errors);
    }
    if !list(&context["sysctls"]).is_empty() {
        errors.forbidden(at.child("sysctls"), WHY);
    }
    if !spec["shareProcessNamespace"].is_null() {
        errors.forbidden(path.child("shareProcessNamespace"), WHY);
    }
    for field in ["runAsUser", "runAsGroup", "supplementalGroups", "supplementalGroupsPolicy", "seLinuxChangePolicy"] {
        within(field, errors);
    }
    each_container(spec, path, |container, path| {
        let at = path.child("securityContext");
        for field in [
            "appArmorProfile",
            "seLinuxOptions",
            "seccompProfile",
            "capabilities",
            "readOnlyRootFilesystem",
            "privileged",
            "allowPrivilegeEscalation",
            "procMount",
            "runAsUser",
            "runAsGroup",
        ] {
            if !container["securityContext"][field].is_null() {
                errors.forbidden(at.child(field), WHY);
            }
        }
    });
}
