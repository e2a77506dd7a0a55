//! What made a Service's endpoints change, and when: the annotation by which it is measured how long news take.

use naru_client::ObjectKey;
use naru_client::projections::{PodView, ServiceView, condition};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

const ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// What has been seen of each Service. Time stamps of the API sort as they are written.
#[derive(Debug, Default)]
pub(crate) struct TriggerTimes {
    seen: Mutex<HashMap<ObjectKey, Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    service: String,
    pods: HashMap<String, String>,
}

impl TriggerTimes {
    /// The first of the changes that have not been seen yet.
    pub(crate) fn next(&self, service: &ServiceView, pods: &[Arc<PodView>]) -> Option<String> {
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = all.entry(service.metadata.key()).or_default();
        let changes = pods.iter().filter_map(|pod| {
            let ready = condition(&pod.status.conditions, "Ready")?;
            let time = &ready.last_transition_time;
            (!time.is_empty()).then(|| (pod.metadata.name.clone(), time.clone()))
        });
        let now = Seen { service: service.metadata.creation_timestamp.clone(), pods: changes.collect() };
        let new = now.pods.iter().filter(|(pod, time)| seen.pods.get(*pod).is_none_or(|known| known < *time));
        let new = new.map(|(_, time)| time).chain((now.service > seen.service).then_some(&now.service));
        let first = new.min().cloned();
        *seen = now;
        first
    }

    /// The Service is gone.
    pub(crate) fn forget(&self, service: &ObjectKey) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).remove(service);
    }
}

/// Puts the time of a change among the annotations, or takes an older one away.
pub(crate) fn note(annotations: &mut BTreeMap<String, String>, trigger: Option<&str>) {
    match trigger {
        Some(trigger) => drop(annotations.insert(ANNOTATION.to_owned(), trigger.to_owned())),
        None => drop(annotations.remove(ANNOTATION)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::desired::tests::{pod, service};
    use super::*;
    use serde_json::json;

    #[test]
    fn the_first_change_that_is_new_is_told_once() {
        let mut service = service(json!({"selector": {"app": "web"}}));
        service.metadata.creation_timestamp = "2026-01-01T00:00:05Z".to_owned();
        let at = |name: &str, second: u8| {
            let mut pod = pod(name, "10.0.0.1", true);
            pod.status.conditions[0].last_transition_time = format!("2026-01-01T00:00:{second:02}Z");
            Arc::new(pod)
        };
        let times = TriggerTimes::default();
        let next = |pods: &[Arc<PodView>]| times.next(&service, pods).map(|time| time[17..19].to_owned());
        assert_eq!(next(&[]).as_deref(), Some("05"));
        assert_eq!(next(&[]), None);
        assert_eq!(next(&[at("a", 9), at("b", 7)]).as_deref(), Some("07"));
        assert_eq!(next(&[at("a", 9), at("b", 7)]), None);
        assert_eq!(next(&[at("a", 9), at("b", 8), at("c", 12)]).as_deref(), Some("08"));
        times.forget(&service.metadata.key());
        assert_eq!(next(&[]).as_deref(), Some("05"));
        let mut annotations = BTreeMap::new();
        note(&mut annotations, Some("now"));
        assert_eq!(annotations.get(ANNOTATION).map(String::as_str), Some("now"));
        note(&mut annotations, None);
        assert!(annotations.is_empty());
    }
}
