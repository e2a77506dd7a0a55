//! The checks of the two levels, in the order in which their findings are listed.

use super::{Level, Violation};
use serde_json::Value;
use std::collections::BTreeSet;

/// A pod or the pods of a template.
pub(super) struct Pod<'a> {
    pub(super) metadata: &'a Value,
    pub(super) spec: &'a Value,
}

type Found = Option<Violation>;

/// One check. `since` is the first minor version that has it; `replaces` a check of baseline that restricted does
/// not run beside this one.
pub(super) struct Check {
    pub(super) id: &'static str,
    pub(super) level: Level,
    pub(super) since: u32,
    pub(super) replaces: &'static str,
    pub(super) run: fn(&Pod<'_>, u32) -> Found,
}

const fn baseline(id: &'static str, since: u32, run: fn(&Pod<'_>, u32) -> Found) -> Check {
    Check { id, level: Level::Baseline, since, replaces: "", run }
}

const fn restricted(id: &'static str, since: u32, replaces: &'static str, run: fn(&Pod<'_>, u32) -> Found) -> Check {
    Check { id, level: Level::Restricted, since, replaces, run }
}

pub(super) static ALL: &[Check] = &[
    baseline("appArmorProfile", 0, app_armor),
    baseline("capabilities_baseline", 0, capabilities),
    baseline("hostNamespaces", 0, host_namespaces),
    baseline("hostPathVolumes", 0, host_paths),
    baseline("hostPorts", 0, host_ports),
    baseline("hostProbesAndHostLifecycle", 34, probe_hosts),
    baseline("privileged", 0, privileged),
    baseline("procMount", 0, proc_mount),
    baseline("seLinuxOptions", 0, se_linux),
    baseline("seccompProfile_baseline", 0, seccomp),
    baseline("sysctls", 0, sysctls),
    baseline("windowsHostProcess", 0, host_process),
    restricted("allowPrivilegeEscalation", 8, "", escalation),
    restricted("capabilities_restricted", 22, "capabilities_baseline", dropped_capabilities),
    restricted("procMount_restricted", 35, "procMount", any_proc_mount),
    restricted("restrictedVolumes", 0, "hostPathVolumes", volume_types),
    restricted("runAsNonRoot", 0, "", non_root),
    restricted("runAsUser", 23, "", user_zero),
    restricted("seccompProfile_restricted", 19, "seccompProfile_baseline", seccomp_set),
];

impl<'a> Pod<'a> {
    /// Init, ordinary and ephemeral containers.
    fn containers(&self) -> impl Iterator<Item = &'a Value> {
        let spec = self.spec;
        let lists = ["initContainers", "containers", "ephemeralContainers"];
        lists.into_iter().flat_map(move |list| items(&spec[list]))
    }

    fn annotations(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let annotations = self.metadata["annotations"].as_object().into_iter().flatten();
        annotations.filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
    }

    /// Pods in a user namespace are not root on the node, whoever they are inside.
    fn has_user_namespace(&self) -> bool {
        self.spec["hostUsers"] == false
    }

    fn is_windows(&self) -> bool {
        self.spec["os"]["name"] == "windows"
    }

    /// The names of the containers that are wrong.
    fn bad(&self, wrong: impl Fn(&Value) -> bool) -> Vec<&'a str> {
        self.containers().filter(|container| wrong(container)).map(name).collect()
    }

    /// Who sets a wrong value: the pod, containers, or both.
    fn setters(&self, wrong: impl Fn(&Value) -> bool) -> Vec<String> {
        let mut setters = Vec::new();
        if wrong(&self.spec["securityContext"]) {
            setters.push("pod".to_owned());
        }
        let bad = self.bad(|container| wrong(&container["securityContext"]));
        if !bad.is_empty() {
            setters.push(containers(&bad));
        }
        setters
    }

    /// The different wrong values of a field of the security contexts, sorted.
    fn values(&self, wrong: impl Fn(&'a Value) -> Vec<&'a str>) -> BTreeSet<&'a str> {
        let own = std::iter::once(&self.spec["securityContext"]);
        own.chain(self.containers().map(|container| &container["securityContext"])).flat_map(wrong).collect()
    }
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    items(list).filter_map(Value::as_str)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn name(object: &Value) -> &str {
    text(&object["name"])
}

fn quoted<T: AsRef<str>>(all: impl IntoIterator<Item = T>) -> String {
    let all: Vec<String> = all.into_iter().map(|one| format!("\"{}\"", one.as_ref())).collect();
    all.join(", ")
}

fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

/// `container "a"`, `containers "a", "b"`.
fn containers(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names))
}

fn found(reason: &str, detail: impl Into<String>) -> Found {
    Some(Violation { reason: reason.to_owned(), detail: detail.into() })
}

fn app_armor(pod: &Pod<'_>, _: u32) -> Found {
    const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
    let kind = |context: &Value| context["appArmorProfile"]["type"].as_str().map(str::to_owned);
    let wrong = |context: &Value| kind(context).is_some_and(|kind| kind != "RuntimeDefault" && kind != "Localhost");
    let mut setters = pod.setters(wrong);
    let values =
        pod.values(|context| if wrong(context) { vec![text(&context["appArmorProfile"]["type"])] } else { vec![] });
    let mut values: Vec<String> = values.into_iter().map(str::to_owned).collect();
    let allowed = |value: &str| value.is_empty() || value == "runtime/default" || value.starts_with("localhost/");
    let annotated = pod.annotations().filter(|(key, value)| key.starts_with(ANNOTATION) && !allowed(value));
    let annotated: BTreeSet<String> = annotated.map(|(key, value)| format!("{key}={value:?}")).collect();
    if !annotated.is_empty() {
        setters.push(plural("annotation", "annotations", annotated.len()).to_owned());
        values.extend(annotated);
    }
    if setters.is_empty() {
        return None;
    }
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len());
    found(reason, format!("{} must not set AppArmor profile type to {}", setters.join(" and "), quoted(&values)))
}

const DEFAULT_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// The containers that add capabilities beyond these, and which.
fn added<'a>(pod: &Pod<'a>, allowed: &[&str]) -> Option<String> {
    let beyond = |container: &'a Value| {
        texts(&container["securityContext"]["capabilities"]["add"]).filter(|one| !allowed.contains(one))
    };
    let bad: Vec<&str> = pod.containers().filter(|container| beyond(container).next().is_some()).map(name).collect();
    if bad.is_empty() {
        return None;
    }
    let all: BTreeSet<&str> = pod.containers().flat_map(beyond).collect();
    Some(format!("{} must not include {} in securityContext.capabilities.add", containers(&bad), quoted(all)))
}

fn capabilities(pod: &Pod<'_>, _: u32) -> Found {
    found("non-default capabilities", added(pod, &DEFAULT_CAPABILITIES)?)
}

fn dropped_capabilities(pod: &Pod<'_>, minor: u32) -> Found {
    if minor >= 25 && pod.is_windows() {
        return None;
    }
    let keeps =
        |container: &Value| !texts(&container["securityContext"]["capabilities"]["drop"]).any(|one| one == "ALL");
    let bad = pod.bad(keeps);
    let kept =
        (!bad.is_empty()).then(|| format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&bad)));
    let details: Vec<String> = kept.into_iter().chain(added(pod, &["NET_BIND_SERVICE"])).collect();
    if details.is_empty() { None } else { found("unrestricted capabilities", details.join("; ")) }
}

fn host_namespaces(pod: &Pod<'_>, _: u32) -> Found {
    let shared = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|field| pod.spec[*field] == true);
    let shared: Vec<String> = shared.map(|field| format!("{field}=true")).collect();
    if shared.is_empty() { None } else { found("host namespaces", shared.join(", ")) }
}

fn host_paths(pod: &Pod<'_>, _: u32) -> Found {
    let volumes: Vec<&str> =
        items(&pod.spec["volumes"]).filter(|volume| volume["hostPath"].is_object()).map(name).collect();
    if volumes.is_empty() {
        return None;
    }
    found("hostPath volumes", format!("{} {}", plural("volume", "volumes", volumes.len()), quoted(&volumes)))
}

fn host_ports(pod: &Pod<'_>, _: u32) -> Found {
    let ports = |container: &Value| -> Vec<String> {
        let ports = items(&container["ports"]).filter_map(|port| port["hostPort"].as_i64());
        ports.filter(|port| *port != 0).map(|port| port.to_string()).collect()
    };
    let bad = pod.bad(|container| !ports(container).is_empty());
    if bad.is_empty() {
        return None;
    }
    let all: BTreeSet<String> = pod.containers().flat_map(ports).collect();
    let detail = format!(
        "{} {} {} {}",
        containers(&bad),
        plural("uses", "use", bad.len()),
        plural("hostPort", "hostPorts", all.len()),
        all.into_iter().collect::<Vec<_>>().join(", ")
    );
    found("hostPort", detail)
}

fn probe_hosts(pod: &Pod<'_>, _: u32) -> Found {
    let hosts = |container: &Value| -> Vec<String> {
        let lifecycle = &container["lifecycle"];
        let handlers = [
            &container["livenessProbe"],
            &container["readinessProbe"],
            &container["startupProbe"],
            &lifecycle["postStart"],
            &lifecycle["preStop"],
        ];
        let hosts = handlers.into_iter().flat_map(|one| [&one["httpGet"]["host"], &one["tcpSocket"]["host"]]);
        hosts.filter_map(Value::as_str).filter(|host| !host.is_empty()).map(str::to_owned).collect()
    };
    let bad: BTreeSet<&str> = pod.bad(|container| !hosts(container).is_empty()).into_iter().collect();
    if bad.is_empty() {
        return None;
    }
    let bad: Vec<&str> = bad.into_iter().collect();
    let all: BTreeSet<String> = pod.containers().flat_map(hosts).collect();
    let detail = format!(
        "{} {} {} {}",
        containers(&bad),
        plural("uses", "use", bad.len()),
        plural("probe or lifecycle host", "probe or lifecycle hosts", all.len()),
        quoted(all)
    );
    found("probe or lifecycle host", detail)
}

fn privileged(pod: &Pod<'_>, _: u32) -> Found {
    let bad = pod.bad(|container| container["securityContext"]["privileged"] == true);
    if bad.is_empty() {
        return None;
    }
    found("privileged", format!("{} must not set securityContext.privileged=true", containers(&bad)))
}

fn proc_mount(pod: &Pod<'_>, minor: u32) -> Found {
    if minor >= 35 && pod.has_user_namespace() { None } else { any_proc_mount(pod, minor) }
}

fn any_proc_mount(pod: &Pod<'_>, _: u32) -> Found {
    let mount = |container: &Value| {
        container["securityContext"]["procMount"].as_str().filter(|mount| *mount != "Default").map(str::to_owned)
    };
    let bad = pod.bad(|container| mount(container).is_some());
    if bad.is_empty() {
        return None;
    }
    let all: BTreeSet<String> = pod.containers().filter_map(mount).collect();
    found("procMount", format!("{} must not set securityContext.procMount to {}", containers(&bad), quoted(all)))
}

fn se_linux(pod: &Pod<'_>, minor: u32) -> Found {
    let allowed = |kind: &str| match kind {
        "" | "container_t" | "container_init_t" | "container_kvm_t" => true,
        "container_engine_t" => minor >= 31,
        _ => false,
    };
    let field = |context: &Value, field: &str| text(&context["seLinuxOptions"][field]).to_owned();
    let wrong = |context: &Value| {
        !allowed(&field(context, "type")) || !field(context, "user").is_empty() || !field(context, "role").is_empty()
    };
    let setters = pod.setters(wrong);
    if setters.is_empty() {
        return None;
    }
    let kinds = pod.values(|context| {
        let kind = text(&context["seLinuxOptions"]["type"]);
        if allowed(kind) { vec![] } else { vec![kind] }
    });
    let mut data = Vec::new();
    if !kinds.is_empty() {
        data.push(format!("{} {}", plural("type", "types", kinds.len()), quoted(kinds)));
    }
    for what in ["user", "role"] {
        let set = pod.values(|context| vec![text(&context["seLinuxOptions"][what])]);
        if set.iter().any(|value| !value.is_empty()) {
            data.push(format!("{what} may not be set"));
        }
    }
    let detail = format!("{} set forbidden securityContext.seLinuxOptions: {}", setters.join(" and "), data.join("; "));
    found("seLinuxOptions", detail)
}

/// Seccomp profiles by field that are not allowed: who sets which.
fn bad_seccomp(pod: &Pod<'_>) -> Found {
    let wrong = |context: &Value| {
        context["seccompProfile"].is_object()
            && !matches!(text(&context["seccompProfile"]["type"]), "RuntimeDefault" | "Localhost")
    };
    let setters = pod.setters(wrong);
    if setters.is_empty() {
        return None;
    }
    let values =
        pod.values(|context| if wrong(context) { vec![text(&context["seccompProfile"]["type"])] } else { vec![] });
    let detail =
        format!("{} must not set securityContext.seccompProfile.type to {}", setters.join(" and "), quoted(values));
    found("seccompProfile", detail)
}

fn seccomp(pod: &Pod<'_>, minor: u32) -> Found {
    if minor >= 19 {
        return bad_seccomp(pod);
    }
    const POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
    const CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
    let named = |key: &str| {
        key == POD || key.strip_prefix(CONTAINER).is_some_and(|rest| pod.containers().any(|one| name(one) == rest))
    };
    let allowed =
        |value: &str| value == "runtime/default" || value == "docker/default" || value.starts_with("localhost/");
    let bad = pod.annotations().filter(|(key, value)| named(key) && !allowed(value));
    let bad: BTreeSet<String> = bad.map(|(key, value)| format!("{key}={value:?}")).collect();
    if bad.is_empty() {
        return None;
    }
    let count = bad.len();
    let list = bad.into_iter().collect::<Vec<_>>().join(", ");
    found("seccompProfile", format!("forbidden {} {list}", plural("annotation", "annotations", count)))
}

fn seccomp_set(pod: &Pod<'_>, minor: u32) -> Found {
    if minor >= 25 && pod.is_windows() {
        return None;
    }
    if let Some(found) = bad_seccomp(pod) {
        return Some(found);
    }
    if pod.spec["securityContext"]["seccompProfile"].is_object() {
        return None;
    }
    let bad = pod.bad(|container| !container["securityContext"]["seccompProfile"].is_object());
    if bad.is_empty() {
        return None;
    }
    let detail = format!(
        "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
        containers(&bad)
    );
    found("seccompProfile", detail)
}

/// Safe sysctls with the minor version since when.
const SYSCTLS: [(&str, u32); 12] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];

fn sysctls(pod: &Pod<'_>, minor: u32) -> Found {
    let safe = |name: &str| SYSCTLS.iter().any(|(safe, since)| *safe == name && *since <= minor);
    let bad: Vec<&str> = items(&pod.spec["securityContext"]["sysctls"]).map(name).filter(|name| !safe(name)).collect();
    if bad.is_empty() { None } else { found("forbidden sysctls", bad.join(", ")) }
}

fn host_process(pod: &Pod<'_>, _: u32) -> Found {
    let setters = pod.setters(|context| context["windowsOptions"]["hostProcess"] == true);
    if setters.is_empty() {
        return None;
    }
    let detail = format!("{} must not set securityContext.windowsOptions.hostProcess=true", setters.join(" and "));
    found("hostProcess", detail)
}

fn escalation(pod: &Pod<'_>, minor: u32) -> Found {
    if minor >= 25 && pod.is_windows() {
        return None;
    }
    let bad = pod.bad(|container| container["securityContext"]["allowPrivilegeEscalation"] != false);
    if bad.is_empty() {
        return None;
    }
    let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&bad));
    found("allowPrivilegeEscalation != false", detail)
}

/// Kinds of volumes that restricted allows.
const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

fn volume_types(pod: &Pod<'_>, _: u32) -> Found {
    let kind = |volume: &Value| -> String {
        let fields = volume.as_object().into_iter().flatten();
        let mut kinds = fields.filter(|(key, value)| *key != "name" && value.is_object()).map(|(key, _)| key.clone());
        kinds.next().unwrap_or_else(|| "unknown".to_owned())
    };
    let allowed = |volume: &Value| VOLUMES.iter().any(|kind| volume[*kind].is_object());
    let bad: Vec<&Value> = items(&pod.spec["volumes"]).filter(|volume| !allowed(volume)).collect();
    if bad.is_empty() {
        return None;
    }
    let kinds: BTreeSet<String> = bad.iter().map(|volume| kind(volume)).collect();
    let names: Vec<&str> = bad.into_iter().map(name).collect();
    let detail = format!(
        "{} {} {} {} {}",
        plural("volume", "volumes", names.len()),
        quoted(&names),
        plural("uses", "use", names.len()),
        plural("restricted volume type", "restricted volume types", kinds.len()),
        quoted(kinds)
    );
    found("restricted volume types", detail)
}

fn non_root(pod: &Pod<'_>, minor: u32) -> Found {
    if minor >= 35 && pod.has_user_namespace() {
        return None;
    }
    let reason = "runAsNonRoot != true";
    let setters = pod.setters(|context| context["runAsNonRoot"] == false);
    if !setters.is_empty() {
        return found(reason, format!("{} must not set securityContext.runAsNonRoot=false", setters.join(" and ")));
    }
    if pod.spec["securityContext"]["runAsNonRoot"] == true {
        return None;
    }
    let bad = pod.bad(|container| container["securityContext"]["runAsNonRoot"] != true);
    if bad.is_empty() {
        return None;
    }
    found(reason, format!("pod or {} must set securityContext.runAsNonRoot=true", containers(&bad)))
}

fn user_zero(pod: &Pod<'_>, minor: u32) -> Found {
    if minor >= 35 && pod.has_user_namespace() {
        return None;
    }
    let setters = pod.setters(|context| context["runAsUser"] == 0);
    if setters.is_empty() {
        None
    } else {
        found("runAsUser=0", format!("{} must not set runAsUser=0", setters.join(" and ")))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LevelVersion, details, evaluate};
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(level: Level, minor: Option<u32>, spec: Value, expect: &str) {
        assert_eq!(details(&evaluate(LevelVersion { level, minor }, &Value::Null, &spec)), expect);
    }

    fn hardened(mut container: Value) -> Value {
        container["name"] = "c".into();
        let context = json!({ "allowPrivilegeEscalation": false, "runAsNonRoot": true,
            "capabilities": { "drop": ["ALL"] }, "seccompProfile": { "type": "RuntimeDefault" } });
        for (key, value) in context.as_object().into_iter().flatten() {
            if container["securityContext"][key].is_null() {
                container["securityContext"][key] = value.clone();
            }
        }
        container
    }

    #[test]
    fn a_plain_pod_is_baseline_and_not_restricted() {
        let plain = json!({ "containers": [{ "name": "nginx" }] });
        check(Level::Privileged, None, plain.clone(), "");
        check(Level::Baseline, None, plain.clone(), "");
        check(
            Level::Restricted,
            None,
            plain,
            "allowPrivilegeEscalation != false (container \"nginx\" must set securityContext.allowPrivilegeEscalation=false), \
             unrestricted capabilities (container \"nginx\" must set securityContext.capabilities.drop=[\"ALL\"]), \
             runAsNonRoot != true (pod or container \"nginx\" must set securityContext.runAsNonRoot=true), \
             seccompProfile (pod or container \"nginx\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
        );
        check(Level::Restricted, None, json!({ "containers": [hardened(json!({}))] }), "");
    }

    #[test]
    fn each_check_of_baseline() {
        let with = |container: Value| {
            let mut container = container;
            container["name"] = "c".into();
            json!({ "containers": [container] })
        };
        let context = |context: Value| with(json!({ "securityContext": context }));
        let cases = [
            (
                context(json!({ "privileged": true })),
                "privileged (container \"c\" must not set securityContext.privileged=true)",
            ),
            (
                context(json!({ "capabilities": { "add": ["NET_RAW", "CHOWN", "BPF"] } })),
                "non-default capabilities (container \"c\" must not include \"BPF\", \"NET_RAW\" in securityContext.capabilities.add)",
            ),
            (
                json!({ "hostPID": true, "hostNetwork": true, "containers": [] }),
                "host namespaces (hostNetwork=true, hostPID=true)",
            ),
            (
                json!({ "containers": [], "volumes": [{ "name": "a", "hostPath": { "path": "/" } }, { "name": "b", "hostPath": {} }] }),
                "hostPath volumes (volumes \"a\", \"b\")",
            ),
            (with(json!({ "ports": [{ "hostPort": 80 }] })), "hostPort (container \"c\" uses hostPort 80)"),
            (
                with(json!({ "livenessProbe": { "httpGet": { "host": "h" } } })),
                "probe or lifecycle host (container \"c\" uses probe or lifecycle host \"h\")",
            ),
            (
                context(json!({ "procMount": "Unmasked" })),
                "procMount (container \"c\" must not set securityContext.procMount to \"Unmasked\")",
            ),
            (
                context(json!({ "seLinuxOptions": { "type": "spc_t", "user": "u" } })),
                "seLinuxOptions (container \"c\" set forbidden securityContext.seLinuxOptions: type \"spc_t\"; user may not be set)",
            ),
            (
                json!({ "containers": [], "securityContext": { "seccompProfile": { "type": "Unconfined" } } }),
                "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
            ),
            (
                json!({ "containers": [], "securityContext": { "sysctls": [{ "name": "kernel.msgmax" }, { "name": "net.ipv4.tcp_rmem" }] } }),
                "forbidden sysctls (kernel.msgmax)",
            ),
            (
                json!({ "containers": [], "securityContext": { "windowsOptions": { "hostProcess": true } } }),
                "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
            ),
            (
                context(json!({ "appArmorProfile": { "type": "Unconfined" } })),
                "forbidden AppArmor profile (container \"c\" must not set AppArmor profile type to \"Unconfined\")",
            ),
        ];
        for (spec, expect) in cases {
            check(Level::Baseline, None, spec, expect);
        }
    }

    #[test]
    fn versions_and_replacements() {
        let host = json!({ "containers": [hardened(json!({ "livenessProbe": { "tcpSocket": { "host": "h" } } }))] });
        check(Level::Baseline, Some(33), host, "");
        let sysctl = json!({ "containers": [], "securityContext": { "sysctls": [{ "name": "net.ipv4.tcp_rmem" }] } });
        check(Level::Baseline, Some(31), sysctl, "forbidden sysctls (net.ipv4.tcp_rmem)");
        let volumes = json!({ "containers": [hardened(json!({}))], "volumes": [{ "name": "h", "hostPath": {} }] });
        let expect = "restricted volume types (volume \"h\" uses restricted volume type \"hostPath\")";
        check(Level::Restricted, None, volumes, expect);
        let mapped = json!({ "hostUsers": false, "containers": [hardened(json!({
            "securityContext": { "runAsNonRoot": false, "runAsUser": 0, "procMount": "Unmasked" } }))] });
        let expect = "procMount (container \"c\" must not set securityContext.procMount to \"Unmasked\")";
        check(Level::Restricted, None, mapped.clone(), expect);
        check(Level::Baseline, None, mapped, "");
        let root = json!({ "securityContext": { "runAsUser": 0 }, "containers": [hardened(json!({}))] });
        check(Level::Restricted, None, root, "runAsUser=0 (pod must not set runAsUser=0)");
    }
}
