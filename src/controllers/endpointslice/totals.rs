//! What all Services have together, for the metrics.

use crate::metrics::{Metrics, SERVICES_BY_WISH, SLICE_ENDPOINTS, SLICES, SLICES_NEEDED};
use naru_client::ObjectKey;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// How upstream names wishes for traffic: the first one, and all others.
const WISHES: [&str; 2] = ["PreferClose", "ImplementationSpecific"];

/// One Service's part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) endpoints: usize,
    pub(super) slices: usize,
    /// Slices, if all were full.
    pub(super) needed: usize,
}

/// The parts of all Services, with what they wish.
#[derive(Debug, Default)]
pub(super) struct Totals {
    parts: Mutex<HashMap<ObjectKey, (Part, String)>>,
}

impl Totals {
    /// Takes note of a Service, or of its end. `wish` is how it wants its traffic distributed, if that counts.
    pub(super) fn note(&self, metrics: &Metrics, service: &ObjectKey, part: Option<(Part, &str)>) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match part {
            Some((part, wish)) => parts.insert(service.clone(), (part, wish.to_owned())),
            None => parts.remove(service),
        };
        if before.as_ref().map(|(part, wish)| (*part, wish.as_str())) == part {
            return;
        }
        let sum = |of: fn(&Part) -> usize| parts.values().map(|(part, _)| of(part)).sum::<usize>() as f64;
        metrics.set(&SLICE_ENDPOINTS, &[], sum(|part| part.endpoints));
        metrics.set(&SLICES, &[], sum(|part| part.slices));
        metrics.set(&SLICES_NEEDED, &[], sum(|part| part.needed));
        let wished = parts.values().filter(|(_, wish)| !wish.is_empty()).count();
        let close = parts.values().filter(|(_, wish)| wish == WISHES[0]).count();
        for (wish, count) in WISHES.iter().zip([close, wished - close]) {
            metrics.set(&SERVICES_BY_WISH, &[wish], count as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use naru_base::metrics::{Source, Text};

    #[test]
    fn services_come_change_and_go() {
        let (totals, metrics) = (Totals::default(), Metrics::default());
        let part = |endpoints, slices, needed| Part { endpoints, slices, needed };
        let key = |name: &str| ObjectKey::new("default", name);
        totals.note(&metrics, &key("a"), Some((part(150, 3, 2), "PreferClose")));
        totals.note(&metrics, &key("b"), Some((part(1, 1, 1), "")));
        totals.note(&metrics, &key("b"), Some((part(2, 1, 1), "PreferSameNode")));
        totals.note(&metrics, &key("c"), Some((part(0, 1, 1), "")));
        totals.note(&metrics, &key("c"), None);
        let mut text = Text::default();
        metrics.render(&mut text);
        let text = text.into_string();
        for line in [
            "endpoint_slice_controller_endpoints_desired 152",
            "endpoint_slice_controller_num_endpoint_slices 4",
            "endpoint_slice_controller_desired_endpoint_slices 3",
            "endpoint_slice_controller_services_count_by_traffic_distribution{traffic_distribution=\"PreferClose\"} 1",
            "endpoint_slice_controller_services_count_by_traffic_distribution{traffic_distribution=\"ImplementationSpecific\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in {text}");
        }
    }
}
