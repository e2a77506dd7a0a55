//! Security contexts.

use crate::checks::one_of;
use crate::status::{FieldErrors, Path};
use crate::tree::{flag, list, some_text, text};
use serde_json::Value;
use std::collections::BTreeSet;

const BAD_ID: &str = "must be between 0 and 2147483647, inclusive";

fn id(value: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    if let Some(id) = value.as_i64().filter(|id| !(0..=i64::from(i32::MAX)).contains(id)) {
        errors.invalid(path, id, BAD_ID);
    }
}

/// What a pod says for all its containers, and how it shares with the host.
pub(super) fn pod(spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    if flag(&spec["hostPID"]) && flag(&spec["shareProcessNamespace"]) {
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.invalid(path.child("shareProcessNamespace"), true, why);
    }
    if spec["hostUsers"] == false {
        for field in ["hostNetwork", "hostPID", "hostIPC"] {
            if flag(&spec[field]) {
                let why = format!("when `hostUsers` is false, `{field}` must be false");
                errors.forbidden(path.child(field), &why);
            }
        }
    }
    let context = &spec["securityContext"];
    if !context.is_object() {
        return;
    }
    let path = path.child("securityContext");
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(&context[field], path.child(field), errors);
    }
    for (i, group) in list(&context["supplementalGroups"]).iter().enumerate() {
        id(group, path.child("supplementalGroups").index(i), errors);
    }
    one_of(&context["fsGroupChangePolicy"], path.child("fsGroupChangePolicy"), &["Always", "OnRootMismatch"], errors);
    one_of(&context["supplementalGroupsPolicy"], path.child("supplementalGroupsPolicy"), &["Merge", "Strict"], errors);
    sysctls(&context["sysctls"], path.child("sysctls"), errors);
    profiles(context, path, errors);
}

fn sysctls(sysctls: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (i, sysctl) in list(sysctls).iter().enumerate() {
        let at = path.index(i);
        let name = text(&sysctl["name"]);
        let part = |p: &str| {
            let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
            let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
            edge(p.chars().next()) && edge(p.chars().last()) && p.chars().all(inner)
        };
        if name.is_empty() {
            errors.required(at.child("name"), "");
        } else if name.len() > 253 || !name.split(['.', '/']).all(part) {
            let why = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            errors.invalid(at.child("name"), name, why);
        } else if seen.contains(&name) {
            errors.duplicate(at.child("name"), name);
        }
        seen.insert(name);
    }
}

fn profiles(context: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    for (field, kind) in [("seccompProfile", "seccomp type"), ("appArmorProfile", "AppArmor type")] {
        let profile = &context[field];
        if !profile.is_object() {
            continue;
        }
        let at = path.child(field);
        let local = profile["localhostProfile"].as_str();
        let missing = if field == "seccompProfile" {
            "must be set when seccomp type is Localhost"
        } else {
            "must be set when AppArmor type is Localhost"
        };
        match text(&profile["type"]) {
            "" => errors.required(at.child("type"), "type is required when seccompProfile is set"),
            "Localhost" if local.is_none_or(str::is_empty) => {
                errors.required(at.child("localhostProfile"), missing);
            }
            "Localhost" => {}
            "RuntimeDefault" | "Unconfined" => {
                if let Some(name) = local {
                    let why = format!("can only be set when {kind} is Localhost");
                    errors.invalid(at.child("localhostProfile"), name, &why);
                }
            }
            other => {
                let supported = ["Localhost", "RuntimeDefault", "Unconfined"];
                errors.not_supported(at.child("type"), other, &supported);
            }
        }
    }
}

/// What one container says.
pub(super) fn container(context: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    if !context.is_object() {
        return;
    }
    for field in ["runAsUser", "runAsGroup"] {
        id(&context[field], path.child(field), errors);
    }
    one_of(&context["procMount"], path.child("procMount"), &["Default", "Unmasked"], errors);
    profiles(context, path, errors);
    if context["allowPrivilegeEscalation"] != false {
        return;
    }
    if flag(&context["privileged"]) {
        let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
        errors.invalid(path, context, why);
    }
    let admin = |c: &Value| some_text(c) == Some("CAP_SYS_ADMIN");
    if list(&context["capabilities"]["add"]).iter().any(admin) {
        let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
        errors.invalid(path, context, why);
    }
}
