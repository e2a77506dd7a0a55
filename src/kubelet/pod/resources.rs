//! From requests and limits to QoS classes and cgroup values.

use super::plan::Kind;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

/// A quantity in thousandths; what cannot be parsed counts as nothing (the API server admitted none such).
pub fn milli(quantity: &Quantity) -> i128 {
    naru_api::quantity::Quantity::parse(&quantity.0).map_or(0, |q| i128::from(q.milli_value()))
}

/// A quantity in whole units, rounded up.
pub fn units(quantity: &Quantity) -> i64 {
    naru_api::quantity::Quantity::parse(&quantity.0).map_or(0, |q| q.value())
}

/// Quality of service class of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    /// Limits equal requests for cpu and memory of every container.
    Guaranteed,
    /// Some request or limit.
    Burstable,
    /// None at all.
    BestEffort,
}

/// The class of `pod` by its own requests and limits where it has them, else by its containers'.
pub fn qos(pod: &Pod) -> Qos {
    let Some(spec) = &pod.spec else { return Qos::BestEffort };
    let containers = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let of_pod = spec.resources.as_ref().filter(|r| r.requests.is_some() || r.limits.is_some());
    let parts: Vec<Option<&ResourceRequirements>> = match of_pod {
        Some(of_pod) => vec![Some(of_pod)],
        None => containers().map(|c| c.resources.as_ref()).collect(),
    };
    let mut any = false;
    let mut guaranteed = true;
    for part in parts {
        for resource in ["cpu", "memory"] {
            let request = given(part, Part::Requests, resource);
            let limit = given(part, Part::Limits, resource);
            any |= request.is_some() || limit.is_some();
            guaranteed &= match (request, limit) {
                (Some(request), Some(limit)) => milli(request) == milli(limit),
                (None, Some(_)) => true,
                _ => false,
            };
        }
    }
    match (any, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

/// Relative cgroup path of a pod: below its QoS class.
pub fn cgroup_parent(pod: &Pod) -> String {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    match qos(pod) {
        Qos::Guaranteed => format!("kubepods/pod{uid}"),
        Qos::Burstable => format!("kubepods/burstable/pod{uid}"),
        Qos::BestEffort => format!("kubepods/besteffort/pod{uid}"),
    }
}

/// Which half of a specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Requests,
    Limits,
}

fn given<'a>(resources: Option<&'a ResourceRequirements>, part: Part, name: &str) -> Option<&'a Quantity> {
    let map = match part {
        Part::Requests => &resources?.requests,
        Part::Limits => &resources?.limits,
    };
    map.as_ref()?.get(name).filter(|q| milli(q) != 0)
}

fn request<'a>(container: &'a Container, resource: &str) -> Option<&'a Quantity> {
    given(container.resources.as_ref(), Part::Requests, resource)
}

fn limit<'a>(container: &'a Container, resource: &str) -> Option<&'a Quantity> {
    given(container.resources.as_ref(), Part::Limits, resource)
}

/// What a pod as a whole asks for or may have, in thousandths. `None`: nothing, or without bound.
fn of_pod(pod: &Pod, part: Part, name: &str) -> Option<i128> {
    let spec = pod.spec.as_ref()?;
    let whole = match given(spec.resources.as_ref(), part, name) {
        Some(whole) => milli(whole),
        None => together(pod, part, name)?,
    };
    let overhead = spec.overhead.as_ref().and_then(|o| o.get(name)).map_or(0, milli);
    Some(whole + overhead).filter(|whole| *whole > 0)
}

/// What its containers say together, at the time when they need most. One without a limit leaves all without.
fn together(pod: &Pod, part: Part, name: &str) -> Option<i128> {
    let (mut main, mut sidecars, mut peak) = (0, 0, 0);
    for (container, kind) in super::plan::containers(pod) {
        let own = match given(container.resources.as_ref(), part, name) {
            None if part == Part::Limits => return None,
            own => own.map_or(0, milli),
        };
        match kind {
            Kind::Main | Kind::Ephemeral => main += own,
            Kind::Sidecar => {
                sidecars += own;
                peak = peak.max(sidecars);
            }
            Kind::Init => peak = peak.max(own + sidecars),
        }
    }
    Some(peak.max(main + sidecars))
}

/// Bytes of memory that a pod may use, if that is bounded.
pub(crate) fn memory_limit(pod: &Pod) -> Option<u64> {
    u64::try_from(of_pod(pod, Part::Limits, "memory")? / 1000).ok()
}

/// What a pod's requests for processor time come to, in thousandths.
pub(crate) fn cpu_request(pod: &Pod) -> i128 {
    of_pod(pod, Part::Requests, "cpu").or_else(|| of_pod(pod, Part::Limits, "cpu")).unwrap_or(0)
}

fn shares(milli: i128) -> u64 {
    (milli * 1024 / 1000).clamp(2, 262_144) as u64
}

/// The values of a cgroup that holds pods asking for so much processor time.
pub(crate) fn shares_of(milli: i128) -> naru_runtime::Resources {
    naru_runtime::Resources { cpu_shares: Some(shares(milli)), ..Default::default() }
}

/// The limits of a pod's cgroup, in which those of its containers are.
pub(crate) fn pod_limits(pod: &Pod, pids_limit: Option<i64>) -> naru_runtime::Resources {
    let bounded = qos(pod) != Qos::BestEffort;
    let cpu = of_pod(pod, Part::Limits, "cpu").filter(|_| bounded);
    let memory = of_pod(pod, Part::Limits, "memory").filter(|_| bounded);
    naru_runtime::Resources {
        cpu_shares: Some(shares(if bounded { cpu_request(pod) } else { 0 })),
        cpu_quota: cpu.map(quota),
        cpu_period: Some(PERIOD_US as u64),
        memory_limit: memory.map(|milli| (milli / 1000) as i64),
        pids_limit,
        ..Default::default()
    }
}

/// Of two sets of limits the wider ones, for the time in which containers go from one to the other.
pub(crate) fn wider(one: &naru_runtime::Resources, other: &naru_runtime::Resources) -> naru_runtime::Resources {
    let wider = |one: Option<i64>, other: Option<i64>| match (one, other) {
        (Some(one), Some(other)) if one > 0 && other > 0 => Some(one.max(other)),
        _ => Some(-1),
    };
    naru_runtime::Resources {
        cpu_quota: wider(one.cpu_quota, other.cpu_quota),
        memory_limit: wider(one.memory_limit, other.memory_limit),
        cpu_shares: one.cpu_shares.max(other.cpu_shares),
        ..other.clone()
    }
}

/// What a container may have of the huge pages that the node has, or the pod as a whole: none unless it says so.
pub(crate) fn huge_pages(
    pod: &Pod,
    container: Option<&Container>,
    node: &BTreeMap<String, Quantity>,
) -> BTreeMap<String, i64> {
    let sizes = node.keys().filter_map(|name| Some((name, name.strip_prefix("hugepages-")?)));
    sizes
        .filter_map(|(name, size)| {
            let bytes = match container {
                Some(container) => limit(container, name).map_or(0, units),
                None => {
                    let all = super::plan::containers(pod).map(|(c, _)| limit(c, name).map_or(0, units));
                    of_pod(pod, Part::Limits, name).map_or_else(|| all.sum(), |milli| (milli / 1000) as i64)
                }
            };
            Some((kernel_size(units(&Quantity(size.to_owned())))?, bytes))
        })
        .collect()
}

/// A size of pages as the kernel names files: `2MB`.
fn kernel_size(bytes: i64) -> Option<String> {
    let units = [(1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "KB")];
    let (unit, name) = units.into_iter().find(|(unit, _)| bytes >= *unit)?;
    Some(format!("{}{name}", bytes / unit))
}

fn quota(milli: i128) -> i64 {
    (milli * PERIOD_US / 1000).max(1000) as i64
}

/// Cgroup values of one container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CgroupValues {
    /// Weight in cgroup v1 terms.
    pub cpu_shares: u64,
    /// Microseconds of CPU in each period.
    pub cpu_quota: Option<i64>,
    /// Length of a period in microseconds.
    pub cpu_period: u64,
    /// Bytes of memory.
    pub memory_limit: Option<i64>,
    /// Who dies first when the machine is out of memory.
    pub oom_score_adj: i32,
}

impl CgroupValues {
    /// For a new cgroup: what is not limited stays as the kernel has it.
    pub fn limits(&self) -> naru_runtime::Resources {
        naru_runtime::Resources {
            cpu_shares: Some(self.cpu_shares),
            cpu_quota: self.cpu_quota,
            cpu_period: Some(self.cpu_period),
            memory_limit: self.memory_limit,
            ..Default::default()
        }
    }

    /// For a cgroup that may have had limits: those that are no more are lifted.
    pub fn update(&self) -> naru_runtime::Resources {
        let mut limits = self.limits();
        limits.cpu_quota.get_or_insert(-1);
        limits.memory_limit.get_or_insert(-1);
        limits
    }
}

const PERIOD_US: i128 = 100_000;

/// Computes the cgroup values of `container` on a node with `node_memory` bytes.
pub fn cgroup_values(pod: &Pod, container: &Container, node_memory: u64) -> CgroupValues {
    let cpu = request(container, "cpu").or_else(|| limit(container, "cpu")).map_or(0, milli);
    let cpu_quota = limit(container, "cpu").map(|q| quota(milli(q)));
    CgroupValues {
        cpu_shares: shares(cpu),
        cpu_quota,
        cpu_period: PERIOD_US as u64,
        memory_limit: limit(container, "memory").map(units),
        oom_score_adj: oom_score_adj(pod, container, node_memory),
    }
}

fn oom_score_adj(pod: &Pod, container: &Container, node_memory: u64) -> i32 {
    if pod.spec.as_ref().is_some_and(|s| s.priority_class_name.as_deref() == Some("system-node-critical")) {
        return -997;
    }
    match qos(pod) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let requested = request(container, "memory").map_or(0, units).max(0) as u128;
            let share = (1000 * requested / u128::from(node_memory.max(1))).min(1000) as i32;
            (1000 - share).clamp(3, 999)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn pod(resources: serde_json::Value) -> Pod {
        serde_json::from_value(
            json!({"metadata": {"uid": "u"}, "spec": {"containers": [{"name": "c", "resources": resources}]}}),
        )
        .unwrap()
    }

    fn check(resources: serde_json::Value, class: Qos, parent: &str, expect: (u64, Option<i64>, Option<i64>, i32)) {
        let pod = pod(resources);
        assert_eq!(qos(&pod), class);
        assert_eq!(cgroup_parent(&pod), parent);
        let values = cgroup_values(&pod, &pod.spec.as_ref().unwrap().containers[0], 4 << 30);
        assert_eq!((values.cpu_shares, values.cpu_quota, values.memory_limit, values.oom_score_adj), expect);
    }

    #[test]
    fn a_pod_has_limits_of_its_own_or_those_of_all_its_containers() {
        let limits = |pod: serde_json::Value| {
            let limits = pod_limits(&serde_json::from_value(json!({"spec": pod})).unwrap(), None);
            (limits.cpu_shares.unwrap(), limits.cpu_quota, limits.memory_limit)
        };
        let with =
            |cpu: &str, memory: &str| json!({"limits": {"cpu": cpu, "memory": memory}, "requests": {"cpu": cpu}});
        let bounded = json!({"name": "a", "resources": with("500m", "64Mi")});
        let free = json!({"name": "b", "resources": {"requests": {"cpu": "250m"}}});
        let side = json!({"name": "s", "restartPolicy": "Always", "resources": with("250m", "16Mi")});
        let init = json!({"name": "i", "resources": with("2", "8Mi")});
        let (mi, both) = (1 << 20, json!([bounded, free]));
        assert_eq!(limits(json!({"containers": [bounded]})), (512, Some(50_000), Some(64 * mi)));
        assert_eq!(limits(json!({"containers": both})), (768, None, None));
        assert_eq!(
            limits(json!({"initContainers": [side], "containers": [bounded]})),
            (768, Some(75_000), Some(80 * mi))
        );
        assert_eq!(
            limits(json!({"initContainers": [init], "containers": [bounded]})),
            (2048, Some(200_000), Some(64 * mi))
        );
        let whole = json!({"containers": both, "resources": with("1", "96Mi")});
        assert_eq!(limits(whole), (1024, Some(100_000), Some(96 * mi)));
        assert_eq!(limits(json!({"containers": [{"name": "x"}]})), (2, None, None));
    }

    #[test]
    fn huge_pages_are_those_that_are_asked_for() {
        let node = ["cpu", "hugepages-2Mi", "hugepages-1Gi"].map(|name| (name.to_owned(), Quantity("0".into()))).into();
        let pod = pod(json!({"limits": {"hugepages-2Mi": "4Mi", "memory": "64Mi"}}));
        let expect = BTreeMap::from([("2MB".to_owned(), 4 << 20), ("1GB".to_owned(), 0)]);
        assert_eq!(huge_pages(&pod, pod.spec.as_ref().unwrap().containers.first(), &node), expect);
        assert_eq!(huge_pages(&pod, None, &node), expect);
    }

    #[test]
    fn classes_and_cgroup_values() {
        check(json!({}), Qos::BestEffort, "kubepods/besteffort/podu", (2, None, None, 1000));
        check(
            json!({"requests": {"cpu": "250m", "memory": "1Gi"}, "limits": {"cpu": "1"}}),
            Qos::Burstable,
            "kubepods/burstable/podu",
            (256, Some(100_000), None, 750),
        );
        check(
            json!({"requests": {"cpu": "500m", "memory": "64Mi"}, "limits": {"cpu": "0.5", "memory": "64Mi"}}),
            Qos::Guaranteed,
            "kubepods/podu",
            (512, Some(50_000), Some(64 << 20), -997),
        );
        check(
            json!({"limits": {"memory": "64Mi"}}),
            Qos::Burstable,
            "kubepods/burstable/podu",
            (2, None, Some(64 << 20), 999),
        );
    }
}
