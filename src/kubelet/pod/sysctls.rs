//! Kernel parameters that pods may set: those that touch nobody else, and others of their own namespaces where the
//! node allows it.

use k8s_openapi::api::core::v1::Pod;

/// What every pod may set.
const SAFE: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// The namespace that a parameter belongs to; parameters of the whole machine have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Namespace {
    Ipc,
    Network,
}

fn namespace(name: &str) -> Option<Namespace> {
    let ipc = name == "kernel.sem"
        || ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|prefix| name.starts_with(prefix));
    match name {
        _ if ipc => Some(Namespace::Ipc),
        _ if name.starts_with("net.") => Some(Namespace::Network),
        _ => None,
    }
}

/// With dots between its parts, whichever way it is written.
fn dotted(name: &str) -> String {
    // The first separator tells: after a slash, dots belong to names, such as those of interfaces.
    match name.find(['.', '/']).map(|at| name.as_bytes()[at]) {
        Some(b'/') => name
            .chars()
            .map(|c| {
                if c == '/' {
                    '.'
                } else if c == '.' {
                    '/'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_owned(),
    }
}

/// Whether a node can be told to allow `pattern`, a name or the beginning of names with `*` at its end.
pub fn can_be_allowed(pattern: &str) -> bool {
    namespace(&dotted(pattern.trim_end_matches('*'))).is_some()
}

/// Why a pod may not set what it wants to; `allowed` is what the node allows beside the safe ones.
pub(crate) fn forbidden(pod: &Pod, allowed: &[String]) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let wanted = spec.security_context.as_ref()?.sysctls.as_ref()?;
    let matches = |name: &str| {
        SAFE.contains(&name)
            || allowed.iter().map(|pattern| dotted(pattern)).any(|pattern| match pattern.strip_suffix('*') {
                Some(prefix) => name.starts_with(prefix),
                None => name == pattern,
            })
    };
    wanted.iter().find_map(|sysctl| {
        let name = dotted(&sysctl.name);
        match namespace(&name) {
            Some(Namespace::Ipc) if spec.host_ipc == Some(true) => {
                Some(format!("forbidden sysctl: {:?} not allowed with host ipc enabled", sysctl.name))
            }
            Some(Namespace::Network) if spec.host_network == Some(true) => {
                Some(format!("forbidden sysctl: {:?} not allowed with host net enabled", sysctl.name))
            }
            Some(_) if matches(&name) => None,
            _ => Some(format!("forbidden sysctl: {:?} not allowlisted", sysctl.name)),
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn check(name: &str, spec: serde_json::Value, allowed: &[&str], expect: Option<&str>) {
        let mut pod = json!({"spec": spec});
        pod["spec"]["securityContext"] = json!({"sysctls": [{"name": name, "value": "1"}]});
        pod["spec"]["containers"] = json!([]);
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let allowed: Vec<String> = allowed.iter().map(ToString::to_string).collect();
        let expect = expect.map(|why| format!("forbidden sysctl: {name:?} {why}"));
        assert_eq!(forbidden(&pod, &allowed), expect, "{name} {allowed:?}");
    }

    #[test]
    fn a_pod_sets_what_is_its_own() {
        let none = || json!({});
        check("kernel.shm_rmid_forced", none(), &[], None);
        check("net/ipv4/tcp_syncookies", none(), &[], None);
        check("kernel.msgmax", none(), &[], Some("not allowlisted"));
        check("kernel.msgmax", none(), &["kernel.msg*"], None);
        check("net.core.somaxconn", none(), &["net.core.somaxconn"], None);
        check("net.ipv4.conf.all.forwarding", none(), &["net.core.*"], Some("not allowlisted"));
    }

    #[test]
    fn nobody_sets_what_is_the_machines() {
        for name in ["kernel.core_pattern", "vm.swappiness", "kernel/core_pattern", "fs.file-max"] {
            check(name, json!({}), &["*", "kernel.*", name], Some("not allowlisted"));
            assert!(!can_be_allowed(name));
        }
        check("net.ipv4.tcp_syncookies", json!({"hostNetwork": true}), &[], Some("not allowed with host net enabled"));
        check("kernel.shm_rmid_forced", json!({"hostIPC": true}), &[], Some("not allowed with host ipc enabled"));
        assert!(can_be_allowed("net.*") && can_be_allowed("kernel.msg*") && !can_be_allowed("*"));
    }
}
