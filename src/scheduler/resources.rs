//! Amounts of resources: what pods ask for and what nodes have.

use naru_api::quantity::Quantity;
use naru_client::projections::{ContainerStatusView, ContainerView, PodView, condition};
use std::collections::BTreeMap;

/// What a container that asks for nothing counts for when nodes are compared.
const DEFAULT_CPU_MILLI: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 << 20;

/// Amounts by resource. CPU counts in thousandths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Resources {
    pub(crate) cpu: i64,
    pub(crate) memory: i64,
    pub(crate) ephemeral: i64,
    pub(crate) pods: i64,
    /// Huge pages and extended resources.
    pub(crate) others: BTreeMap<String, i64>,
}

impl Resources {
    /// Reads a resource list; what cannot be read counts as zero (the API has validated it).
    pub(crate) fn of(list: &BTreeMap<String, String>) -> Self {
        let mut resources = Self::default();
        for (name, text) in list {
            let Ok(quantity) = Quantity::parse(text) else { continue };
            match name.as_str() {
                "cpu" => resources.cpu = quantity.milli_value(),
                "memory" => resources.memory = quantity.value(),
                "ephemeral-storage" => resources.ephemeral = quantity.value(),
                "pods" => resources.pods = quantity.value(),
                _ => {
                    resources.others.insert(name.clone(), quantity.value());
                }
            }
        }
        resources
    }

    fn combine(&mut self, other: &Self, with: impl Fn(i64, i64) -> i64) {
        self.cpu = with(self.cpu, other.cpu);
        self.memory = with(self.memory, other.memory);
        self.ephemeral = with(self.ephemeral, other.ephemeral);
        self.pods = with(self.pods, other.pods);
        for (name, amount) in &other.others {
            let own = self.others.entry(name.clone()).or_default();
            *own = with(*own, *amount);
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.combine(other, i64::saturating_add);
    }

    pub(crate) fn subtract(&mut self, other: &Self) {
        self.combine(other, i64::saturating_sub);
    }

    fn raise_to(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    /// What a pod asks for: the larger of its running set and each step of its initialisation.
    pub(crate) fn of_pod(pod: &PodView) -> Self {
        Self::of_pod_with(pod, |_, _| {})
    }

    /// The same with defaults for containers that ask for no CPU or memory.
    pub(crate) fn of_pod_nonzero(pod: &PodView) -> Self {
        let whole = pod.spec.resources.as_ref();
        let is_set = |name: &str| whole.is_some_and(|whole| whole.requests.contains_key(name));
        let (cpu_is_set, memory_is_set) = (is_set("cpu"), is_set("memory"));
        Self::of_pod_with(pod, |container, asked| {
            if !cpu_is_set && !container.resources.requests.contains_key("cpu") {
                asked.cpu = DEFAULT_CPU_MILLI;
            }
            if !memory_is_set && !container.resources.requests.contains_key("memory") {
                asked.memory = DEFAULT_MEMORY;
            }
        })
    }

    fn of_pod_with(pod: &PodView, fill: impl Fn(&ContainerView, &mut Self)) -> Self {
        let refused = condition(&pod.status.conditions, "PodResizePending").is_some_and(|c| c.reason == "Infeasible");
        let asks = |container: &ContainerView, statuses: &[ContainerStatusView]| {
            let mut asked = Self::of(&container.resources.requests);
            if let Some(status) = statuses.iter().find(|status| status.name == container.name) {
                asked = resized(asked, status, refused);
            }
            fill(container, &mut asked);
            asked
        };
        let mut running = Self::default();
        for container in &pod.spec.containers {
            running.add(&asks(container, &pod.status.container_statuses));
        }
        let (mut sidecars, mut starting) = (Self::default(), Self::default());
        for container in &pod.spec.init_containers {
            let is_sidecar = container.restart_policy == "Always";
            // Only sidecars can be resized.
            let statuses = if is_sidecar { pod.status.init_container_statuses.as_slice() } else { &[] };
            let mut step = asks(container, statuses);
            if is_sidecar {
                sidecars.add(&step);
                step = sidecars.clone();
            } else {
                step.add(&sidecars);
            }
            starting.raise_to(&step);
        }
        running.add(&sidecars);
        running.raise_to(&starting);
        if let Some(whole) = &pod.spec.resources {
            running.replace(&whole.requests);
        }
        running.add(&Self::of(&pod.spec.overhead));
        running.pods = 1;
        running
    }

    /// What is asked for the pod as a whole takes the place of what its containers ask for.
    fn replace(&mut self, whole: &BTreeMap<String, String>) {
        let asked = Self::of(whole);
        for name in whole.keys() {
            match name.as_str() {
                "cpu" => self.cpu = asked.cpu,
                "memory" => self.memory = asked.memory,
                name if name.starts_with("hugepages-") => {
                    self.others.insert(name.to_owned(), asked.others.get(name).copied().unwrap_or_default());
                }
                _ => {}
            }
        }
    }
}

/// While a container is being resized, the most of what is asked, agreed and there counts; what the node has refused
/// for good does not.
fn resized(asked: Resources, status: &ContainerStatusView, refused: bool) -> Resources {
    let (Some(agreed), Some(has)) = (&status.allocated_resources, &status.resources) else { return asked };
    let mut most = Resources::of(agreed);
    most.raise_to(&Resources::of(&has.requests));
    if !refused {
        most.raise_to(&asked);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;
    use serde_json::json;

    fn container(cpu: &str) -> serde_json::Value {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu}}})
    }

    #[test]
    fn init_steps_and_sidecars_count_as_they_overlap() {
        let mut sidecar = container("200m");
        sidecar["restartPolicy"] = "Always".into();
        let pod = pod(
            "a",
            json!({
                "containers": [container("100m"), container("1")],
                "initContainers": [container("1200m"), sidecar, container("1100m")],
                "overhead": {"cpu": "10m"},
            }),
        );
        // Running: 1100 + 200; the last step: 1100 + 200; the first: 1200.
        assert_eq!(Resources::of_pod(&pod).cpu, 1310);
        assert_eq!(Resources::of_pod(&pod).pods, 1);
    }

    #[test]
    fn what_the_whole_pod_asks_for_takes_the_containers_place() {
        let whole = json!({"requests": {"cpu": "2", "hugepages-2Mi": "4Mi"}});
        let mut main = container("100m");
        main["resources"]["requests"]["memory"] = "1Gi".into();
        let pod = pod("a", json!({"containers": [main], "resources": whole, "overhead": {"cpu": "10m"}}));
        let asked = Resources::of_pod(&pod);
        assert_eq!((asked.cpu, asked.memory, asked.others["hugepages-2Mi"]), (2010, 1 << 30, 4 << 20));
        let bare =
            crate::testing::pod("b", json!({"containers": [{"name": "c"}], "resources": {"requests": {"cpu": "1"}}}));
        let asked = Resources::of_pod_nonzero(&bare);
        assert_eq!((asked.cpu, asked.memory), (1000, 200 << 20));
    }

    #[test]
    fn a_resize_counts_with_the_most_of_its_steps() {
        let check = |wants: &str, agreed: &str, has: &str, reason: &str, expected: i64| {
            let mut pod = pod("a", json!({"containers": [container(wants)]}));
            pod.status = serde_json::from_value(json!({
                "conditions": [{"type": "PodResizePending", "status": "True", "reason": reason}],
                "containerStatuses": [{"name": "c", "allocatedResources": {"cpu": agreed},
                                       "resources": {"requests": {"cpu": has}}}],
            }))
            .unwrap_or_default();
            assert_eq!(Resources::of_pod(&pod).cpu, expected, "{wants} {agreed} {has} {reason}");
        };
        check("2", "1", "1", "Deferred", 2000);
        check("2", "1", "1", "Infeasible", 1000);
        check("500m", "1", "1", "Deferred", 1000);
        check("500m", "500m", "1", "", 1000);
        check("500m", "500m", "500m", "", 500);
    }

    #[test]
    fn containers_that_ask_for_nothing_still_weigh_something() {
        let pod = pod("a", json!({"containers": [{"name": "c"}]}));
        let asked = Resources::of_pod_nonzero(&pod);
        assert_eq!((asked.cpu, asked.memory), (100, 200 << 20));
        assert_eq!(Resources::of_pod(&pod).cpu, 0);
    }
}
