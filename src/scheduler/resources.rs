//! Amounts of resources: what pods ask for and what nodes have.

use naru_api::quantity::Quantity;
use naru_client::projections::{ContainerView, PodView, ResourcesView};
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
        Self::of_pod_with(pod, |resources| Self::of(&resources.requests))
    }

    /// The same with defaults for containers that ask for no CPU or memory.
    pub(crate) fn of_pod_nonzero(pod: &PodView) -> Self {
        Self::of_pod_with(pod, |resources| {
            let mut asked = Self::of(&resources.requests);
            if !resources.requests.contains_key("cpu") {
                asked.cpu = DEFAULT_CPU_MILLI;
            }
            if !resources.requests.contains_key("memory") {
                asked.memory = DEFAULT_MEMORY;
            }
            asked
        })
    }

    fn of_pod_with(pod: &PodView, read: impl Fn(&ResourcesView) -> Self) -> Self {
        let asks = |container: &ContainerView| read(&container.resources);
        let mut running = Self::default();
        for container in &pod.spec.containers {
            running.add(&asks(container));
        }
        let (mut sidecars, mut starting) = (Self::default(), Self::default());
        for container in &pod.spec.init_containers {
            let mut step = asks(container);
            if container.restart_policy == "Always" {
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
            let asked = Self::of(&whole.requests);
            running.cpu = if whole.requests.contains_key("cpu") { asked.cpu } else { running.cpu };
            if whole.requests.contains_key("memory") {
                running.memory = asked.memory;
            }
        }
        running.add(&Self::of(&pod.spec.overhead));
        running.pods = 1;
        running
    }
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
    fn containers_that_ask_for_nothing_still_weigh_something() {
        let pod = pod("a", json!({"containers": [{"name": "c"}]}));
        let asked = Resources::of_pod_nonzero(&pod);
        assert_eq!((asked.cpu, asked.memory), (100, 200 << 20));
        assert_eq!(Resources::of_pod(&pod).cpu, 0);
    }
}
