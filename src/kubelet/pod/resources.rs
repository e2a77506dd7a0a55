//! From requests and limits to QoS classes and cgroup values.

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

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

/// The class of `pod` by its containers' requests and limits.
pub fn qos(pod: &Pod) -> Qos {
    let Some(spec) = &pod.spec else { return Qos::BestEffort };
    let containers = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let mut any = false;
    let mut guaranteed = true;
    for container in containers() {
        for resource in ["cpu", "memory"] {
            let request = request(container, resource);
            let limit = limit(container, resource);
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

fn request<'a>(container: &'a Container, resource: &str) -> Option<&'a Quantity> {
    container.resources.as_ref()?.requests.as_ref()?.get(resource).filter(|q| milli(q) != 0)
}

fn limit<'a>(container: &'a Container, resource: &str) -> Option<&'a Quantity> {
    container.resources.as_ref()?.limits.as_ref()?.get(resource).filter(|q| milli(q) != 0)
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
    let cpu_quota = limit(container, "cpu").map(|q| (milli(q) * PERIOD_US / 1000).max(1000) as i64);
    CgroupValues {
        cpu_shares: (cpu * 1024 / 1000).clamp(2, 262_144) as u64,
        cpu_quota,
        cpu_period: PERIOD_US as u64,
        memory_limit: limit(container, "memory").map(units),
        oom_score_adj: oom_score_adj(pod, container, node_memory),
    }
}

fn oom_score_adj(pod: &Pod, container: &Container, node_memory: u64) -> i32 {
    if pod.spec.as_ref().is_some_and(|s| matches!(s.priority, Some(p) if p >= 2_000_000_000)) {
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
