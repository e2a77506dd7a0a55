//! Security contexts.

use super::container::relative_path;
use super::{each_container, windows};
use crate::checks::one_of;
use crate::status::{FieldErrors, Path, Shown};
use crate::tree::{flag, list, text};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const BAD_ID: &str = "must be between 0 and 2147483647, inclusive";

fn id(value: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    if let Some(id) = value.as_i64().filter(|id| !(0..=i64::from(i32::MAX)).contains(id)) {
        errors.invalid(path, id, BAD_ID);
    }
}

/// What a pod says for all its containers.
pub(super) fn pod(spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let context = &spec["securityContext"];
    let path = path.child("securityContext");
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(&context[field], path.child(field), errors);
    }
    for (i, group) in list(&context["supplementalGroups"]).iter().enumerate() {
        id(group, path.child("supplementalGroups").index(i), errors);
    }
    if flag(&spec["hostPID"]) && flag(&spec["shareProcessNamespace"]) {
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.invalid(path.child("shareProcessNamespace"), true, why);
    }
    sysctls(spec, path.child("sysctls"), errors);
    one_of(&context["fsGroupChangePolicy"], path.child("fsGroupChangePolicy"), &["Always", "OnRootMismatch"], errors);
    seccomp(&context["seccompProfile"], path.child("seccompProfile"), errors);
    windows::options(&context["windowsOptions"], path.child("windowsOptions"), errors);
    app_armor(&context["appArmorProfile"], path.child("appArmorProfile"), errors);
    one_of(&context["supplementalGroupsPolicy"], path.child("supplementalGroupsPolicy"), &["Merge", "Strict"], errors);
    let policies = ["MountOption", "Recursive"];
    one_of(&context["seLinuxChangePolicy"], path.child("seLinuxChangePolicy"), &policies, errors);
}

/// Users of its own go with namespaces of its own.
pub(super) fn host_users(spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    const WHY: &str = "when `hostUsers` is false";
    if spec["hostUsers"] != false {
        return;
    }
    // Two of them are shown under their names in Go.
    for (field, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if flag(&spec[field]) {
            errors.forbidden(path.child(shown), WHY);
        }
    }
    each_container(spec, path, |container, at| {
        if !list(&container["volumeDevices"]).is_empty() {
            errors.forbidden(at.child("volumeDevices"), WHY);
        }
    });
}

/// What a shared namespace of the host rules out.
fn of_host(spec: &Value, name: &str) -> Option<&'static str> {
    let name = name.replace('/', ".");
    let net = name.starts_with("net.");
    let ipc = name.starts_with("kernel.shm")
        || name.starts_with("kernel.msg")
        || name == "kernel.sem"
        || name.starts_with("fs.mqueue.");
    if net && flag(&spec["hostNetwork"]) {
        Some("may not be specified when 'hostNetwork' is true")
    } else if ipc && flag(&spec["hostIPC"]) {
        Some("may not be specified when 'hostIPC' is true")
    } else {
        None
    }
}

fn sysctls(spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (i, sysctl) in list(&spec["securityContext"]["sysctls"]).iter().enumerate() {
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
        if let Some(why) = of_host(spec, name) {
            errors.invalid(at.child("name"), name, why);
        }
        seen.insert(name);
    }
}

const LOCAL_SECCOMP: &str = "must be set when seccomp type is Localhost";
const LOCAL_APP_ARMOR: &str = "must be set when AppArmor type is Localhost";
const PROFILES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];
const MAX_PROFILE: usize = 4095;

fn seccomp(profile: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    if !profile.is_object() {
        return;
    }
    let (kind, at) = (text(&profile["type"]), path.child("localhostProfile"));
    match kind {
        "" => errors.required(path.child("type"), "type is required when seccompProfile is set"),
        _ if PROFILES.contains(&kind) => {}
        other => errors.not_supported(path.child("type"), other, &PROFILES),
    }
    match profile["localhostProfile"].as_str() {
        None if kind == "Localhost" => errors.required(at, LOCAL_SECCOMP),
        None => {}
        Some(file) if kind == "Localhost" => relative_path(file, at, errors),
        Some(file) => {
            let shown = Shown(format!(r#"{{"Type":{},"LocalhostProfile":{}}}"#, json!(kind), json!(file)));
            errors.invalid(at, shown, "can only be set when seccomp type is Localhost");
        }
    }
}

fn app_armor(profile: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    if !profile.is_object() {
        return;
    }
    let (local, at) = (profile["localhostProfile"].as_str(), path.child("localhostProfile"));
    match (text(&profile["type"]), local) {
        ("Localhost", None) => errors.required(at, LOCAL_APP_ARMOR),
        ("Localhost", Some(name)) => {
            if name.trim() != name {
                errors.invalid(at, name, "must not be padded with whitespace");
            } else if name.is_empty() {
                errors.required(at, LOCAL_APP_ARMOR);
            }
            if name.len() > MAX_PROFILE {
                errors.too_long(at, MAX_PROFILE);
            }
        }
        ("RuntimeDefault" | "Unconfined", None) => {}
        ("RuntimeDefault" | "Unconfined", Some(name)) => {
            errors.invalid(at, name, "can only be set when AppArmor type is Localhost");
        }
        ("", _) => errors.required(path.child("type"), "type is required when appArmorProfile is set"),
        (other, _) => errors.not_supported(path.child("type"), other, &PROFILES),
    }
}

/// A security context under the names that its fields have in Go, as upstream shows it.
fn shown(context: &Value) -> Shown {
    const FIELDS: [(&str, &str); 12] = [
        ("Capabilities", "capabilities"),
        ("Privileged", "privileged"),
        ("SELinuxOptions", "seLinuxOptions"),
        ("WindowsOptions", "windowsOptions"),
        ("RunAsUser", "runAsUser"),
        ("RunAsGroup", "runAsGroup"),
        ("RunAsNonRoot", "runAsNonRoot"),
        ("ReadOnlyRootFilesystem", "readOnlyRootFilesystem"),
        ("AllowPrivilegeEscalation", "allowPrivilegeEscalation"),
        ("ProcMount", "procMount"),
        ("SeccompProfile", "seccompProfile"),
        ("AppArmorProfile", "appArmorProfile"),
    ];
    let capabilities = |value: &Value| {
        let side = |name: &str| if value[name].is_array() { value[name].to_string() } else { "null".to_owned() };
        format!(r#"{{"Add":{},"Drop":{}}}"#, side("add"), side("drop"))
    };
    let fields = FIELDS.map(|(name, field)| match &context[field] {
        value if field == "capabilities" && value.is_object() => format!(r#""{name}":{}"#, capabilities(value)),
        value => format!(r#""{name}":{value}"#),
    });
    Shown(format!("{{{}}}", fields.join(",")))
}

/// What one container says. `host_users`: whether the pod's users are the host's.
pub(super) fn container(context: &Value, host_users: bool, path: Path<'_>, errors: &mut FieldErrors) {
    if !context.is_object() {
        return;
    }
    for field in ["runAsUser", "runAsGroup"] {
        id(&context[field], path.child(field), errors);
    }
    let at = path.child("procMount");
    one_of(&context["procMount"], at, &["Default", "Unmasked"], errors);
    if host_users && context["procMount"] == "Unmasked" {
        errors.invalid(at, "Unmasked", "`hostUsers` must be false to use `Unmasked`");
    }
    seccomp(&context["seccompProfile"], path.child("seccompProfile"), errors);
    if context["allowPrivilegeEscalation"] == false {
        if flag(&context["privileged"]) {
            let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.invalid(path, shown(context), why);
        }
        if list(&context["capabilities"]["add"]).iter().any(|c| c == "CAP_SYS_ADMIN") {
            let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.invalid(path, shown(context), why);
        }
    }
    windows::options(&context["windowsOptions"], path.child("windowsOptions"), errors);
    app_armor(&context["appArmorProfile"], path.child("appArmorProfile"), errors);
}
