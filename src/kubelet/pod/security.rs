//! Security contexts: who a container runs as and what it may do.

use k8s_openapi::api::core::v1::{AppArmorProfile, Container, Pod, SeccompProfile as ApiSeccomp};
use naru_runtime::{SeccompProfile, default_capabilities};
use std::path::Path;

/// The effective settings of a container: its own over its pod's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// User given in the pod, over the image's.
    pub run_as_user: Option<i64>,
    /// Group given in the pod.
    pub run_as_group: Option<i64>,
    /// Refuse to run as root.
    pub run_as_non_root: bool,
    /// Groups beside the image's.
    pub supplemental_groups: Vec<u32>,
    /// Leave the image's groups out.
    pub strict_groups: bool,
    /// Everything allowed.
    pub privileged: bool,
    /// Root file system is read-only.
    pub readonly_rootfs: bool,
    /// No more rights by set-uid programs.
    pub no_new_privileges: bool,
    /// Capabilities.
    pub capabilities: Vec<String>,
    /// `/proc` unmasked.
    pub unmasked_proc: bool,
    /// System call filter.
    pub seccomp: SeccompProfile,
    /// The AppArmor profile.
    pub apparmor: AppArmor,
}

/// Which AppArmor profile confines a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum AppArmor {
    /// None, by default or by wish.
    #[default]
    Unconfined,
    /// The runtime's, where somebody has loaded it.
    RuntimeDefault,
    /// One that is loaded on the node.
    Localhost(String),
}

/// Names of the runtimes' own profiles, as packages of other runtimes load them.
const RUNTIME_PROFILES: [&str; 3] = ["naru-default", "cri-containerd.apparmor.d", "docker-default"];

/// The profiles that are loaded on this machine; `None` without AppArmor.
pub(crate) fn loaded_profiles() -> Option<Vec<String>> {
    let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").ok()?;
    if !enabled.starts_with('Y') {
        return None;
    }
    let list = std::fs::read_to_string("/sys/kernel/security/apparmor/profiles").unwrap_or_default();
    // Each line ends with the mode in parentheses.
    Some(list.lines().filter_map(|line| Some(line.rsplit_once(" (")?.0.to_owned())).collect())
}

impl AppArmor {
    fn of(profile: Option<&AppArmorProfile>, privileged: bool) -> Self {
        match profile.map(|p| (p.type_.as_str(), p.localhost_profile.as_deref())) {
            _ if privileged => Self::Unconfined,
            Some(("RuntimeDefault", _)) => Self::RuntimeDefault,
            Some(("Localhost", Some(name))) => Self::Localhost(name.to_owned()),
            _ => Self::Unconfined,
        }
    }

    /// The profile to set, if any, among those that are `loaded`.
    pub(crate) fn choose(&self, loaded: Option<&[String]>) -> Result<Option<String>, String> {
        let has = |name: &str| loaded.is_some_and(|all| all.iter().any(|one| one == name));
        match self {
            Self::Unconfined => Ok(None),
            Self::RuntimeDefault => Ok(RUNTIME_PROFILES.iter().find(|name| has(name)).map(ToString::to_string)),
            Self::Localhost(name) if has(name) => Ok(Some(name.clone())),
            Self::Localhost(name) => Err(format!("apparmor profile not found {name}")),
        }
    }
}

/// Why a pod's wish for AppArmor cannot be met on a machine that has none.
pub(crate) fn apparmor_obstacle(pod: &Pod, enabled: bool) -> Option<&'static str> {
    let of_pod = pod.spec.as_ref().and_then(|s| s.security_context.as_ref()).and_then(|c| c.app_armor_profile.as_ref());
    let wanted = super::plan::containers(pod).any(|(container, _)| {
        let own = container.security_context.as_ref().and_then(|c| c.app_armor_profile.as_ref());
        own.or(of_pod).is_some_and(|profile| profile.type_ != "Unconfined")
    });
    (wanted && !enabled).then_some("Cannot enforce AppArmor: AppArmor is not enabled on the host")
}

/// Computes the settings; `seccomp_dir` is where localhost profiles are.
pub fn settings(pod: &Pod, container: &Container, seccomp_dir: &Path) -> Settings {
    let own = container.security_context.clone().unwrap_or_default();
    let of_pod = pod.spec.as_ref().and_then(|s| s.security_context.clone()).unwrap_or_default();
    let privileged = own.privileged == Some(true);
    let mut groups: Vec<u32> = of_pod.supplemental_groups.iter().flatten().map(|g| *g as u32).collect();
    groups.extend(of_pod.fs_group.map(|g| g as u32));
    let caps = own.capabilities.unwrap_or_default();
    Settings {
        run_as_user: own.run_as_user.or(of_pod.run_as_user),
        run_as_group: own.run_as_group.or(of_pod.run_as_group),
        run_as_non_root: own.run_as_non_root.or(of_pod.run_as_non_root) == Some(true),
        supplemental_groups: groups,
        strict_groups: of_pod.supplemental_groups_policy.as_deref() == Some("Strict"),
        privileged,
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        no_new_privileges: own.allow_privilege_escalation == Some(false) && !privileged,
        capabilities: capabilities(caps.add.as_deref().unwrap_or_default(), caps.drop.as_deref().unwrap_or_default()),
        unmasked_proc: own.proc_mount.as_deref() == Some("Unmasked"),
        apparmor: AppArmor::of(own.app_armor_profile.as_ref().or(of_pod.app_armor_profile.as_ref()), privileged),
        seccomp: seccomp(own.seccomp_profile.as_ref().or(of_pod.seccomp_profile.as_ref()), privileged, seccomp_dir),
    }
}

fn seccomp(profile: Option<&ApiSeccomp>, privileged: bool, dir: &Path) -> SeccompProfile {
    match profile.map(|p| (p.type_.as_str(), p.localhost_profile.as_deref())) {
        _ if privileged => SeccompProfile::Unconfined,
        Some(("RuntimeDefault", _)) => SeccompProfile::RuntimeDefault,
        Some(("Localhost", Some(file))) => SeccompProfile::Localhost(dir.join(file)),
        _ => SeccompProfile::Unconfined,
    }
}

fn full_name(name: &str) -> String {
    let upper = name.to_uppercase();
    if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") }
}

/// The default set with additions and removals; `ALL` stands for all that there are.
fn capabilities(add: &[String], drop: &[String]) -> Vec<String> {
    let is_all = |list: &[String]| list.iter().any(|c| c.eq_ignore_ascii_case("ALL"));
    let mut set = default_capabilities();
    if is_all(drop) {
        set.clear();
    }
    if is_all(add) {
        set = ALL_CAPABILITIES.iter().map(|c| format!("CAP_{c}")).collect();
    }
    for name in add.iter().filter(|c| !c.eq_ignore_ascii_case("ALL")).map(|c| full_name(c)) {
        if !set.contains(&name) {
            set.push(name);
        }
    }
    for name in drop.iter().filter(|c| !c.eq_ignore_ascii_case("ALL")).map(|c| full_name(c)) {
        set.retain(|c| *c != name);
    }
    set
}

const ALL_CAPABILITIES: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Refuses a container that must not run as root but would, or might.
pub fn check_non_root(settings: &Settings, image_user: &str, pod: &Pod, container: &str) -> Result<(), String> {
    if !settings.run_as_non_root {
        return Ok(());
    }
    let meta = &pod.metadata;
    let whom = format!(
        "(pod: \"{}_{}({})\", container: {container})",
        meta.name.as_deref().unwrap_or_default(),
        meta.namespace.as_deref().unwrap_or_default(),
        meta.uid.as_deref().unwrap_or_default()
    );
    if let Some(user) = settings.run_as_user {
        return if user == 0 { Err(format!("container's runAsUser breaks non-root policy {whom}")) } else { Ok(()) };
    }
    let user = image_user.split(':').next().unwrap_or_default();
    match user.parse::<i64>() {
        Ok(0) => Err(format!("container has runAsNonRoot and image will run as root {whom}")),
        Err(_) if user.is_empty() => Err(format!("container has runAsNonRoot and image will run as root {whom}")),
        Ok(_) => Ok(()),
        Err(_) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root {whom}"
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn of(pod: serde_json::Value, own: serde_json::Value) -> (Pod, Settings) {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"securityContext": pod, "containers": [{"name": "c", "securityContext": own}]}}))
        .unwrap();
        let settings = settings(&pod, &pod.spec.as_ref().unwrap().containers[0], Path::new("/seccomp"));
        (pod, settings)
    }

    #[test]
    fn a_container_overrides_its_pod() {
        let (_, s) = of(
            json!({"runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "supplementalGroups": [4], "seccompProfile": {"type": "RuntimeDefault"}}),
            json!({"runAsUser": 5, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true}),
        );
        assert_eq!((s.run_as_user, s.run_as_group), (Some(5), Some(2)));
        assert_eq!(s.supplemental_groups, [4, 3]);
        assert!(s.no_new_privileges && s.readonly_rootfs);
        assert_eq!(s.seccomp, SeccompProfile::RuntimeDefault);
    }

    #[test]
    fn only_a_loaded_profile_can_be_asked_for() {
        let profile = |of: serde_json::Value, own: serde_json::Value| of_profiles(&of, &own);
        let loaded = ["mine".to_owned()];
        let localhost = json!({"type": "Localhost", "localhostProfile": "mine"});
        assert_eq!(profile(localhost.clone(), json!(null)).choose(Some(&loaded)), Ok(Some("mine".into())));
        assert_eq!(
            profile(localhost.clone(), json!(null)).choose(Some(&[])),
            Err("apparmor profile not found mine".into())
        );
        assert_eq!(profile(localhost, json!({"type": "Unconfined"})).choose(Some(&loaded)), Ok(None));
        assert_eq!(profile(json!({"type": "RuntimeDefault"}), json!(null)).choose(Some(&loaded)), Ok(None));
        let (pod, _) = of(json!({"appArmorProfile": {"type": "RuntimeDefault"}}), json!({}));
        assert!(apparmor_obstacle(&pod, false).is_some());
        assert_eq!(apparmor_obstacle(&pod, true), None);
    }

    fn of_profiles(pod: &serde_json::Value, own: &serde_json::Value) -> AppArmor {
        let with = |profile: &serde_json::Value| match profile {
            serde_json::Value::Null => json!({}),
            profile => json!({"appArmorProfile": profile}),
        };
        of(with(pod), with(own)).1.apparmor
    }

    #[test]
    fn capabilities_are_added_and_dropped() {
        let caps = |add: &[&str], drop: &[&str]| {
            let own = |l: &[&str]| l.iter().map(ToString::to_string).collect::<Vec<_>>();
            capabilities(&own(add), &own(drop))
        };
        assert_eq!(caps(&[], &["ALL"]), Vec::<String>::new());
        assert_eq!(caps(&["NET_ADMIN"], &["ALL"]), ["CAP_NET_ADMIN"]);
        assert!(!caps(&[], &["CHOWN"]).contains(&"CAP_CHOWN".to_string()));
        assert_eq!(caps(&["ALL"], &["SYS_ADMIN"]).len(), ALL_CAPABILITIES.len() - 1);
    }

    #[test]
    fn root_is_refused_where_it_must_be() {
        let check = |own: serde_json::Value, image: &str| {
            let (pod, s) = of(json!({"runAsNonRoot": true}), own);
            check_non_root(&s, image, &pod, "c").err()
        };
        let text = check(json!({}), "").unwrap();
        assert_eq!(text, "container has runAsNonRoot and image will run as root (pod: \"p_n(u)\", container: c)");
        assert!(check(json!({}), "nginx").unwrap().contains("image has non-numeric user (nginx), cannot verify"));
        assert!(check(json!({"runAsUser": 0}), "1000").unwrap().contains("runAsUser breaks non-root policy"));
        assert_eq!(check(json!({}), "1000:1000"), None);
        assert_eq!(check(json!({"runAsNonRoot": false}), ""), None);
    }
}
