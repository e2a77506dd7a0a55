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

/// What a Service counts for: endpoints, slices, slices if all were full, and each of [`WISHES`].
fn figures((part, wish): (Part, &str)) -> [i64; 5] {
    let counts = [part.endpoints, part.slices, part.needed].map(|count| i64::try_from(count).unwrap_or(i64::MAX));
    let close = wish == WISHES[0];
    [counts[0], counts[1], counts[2], close.into(), (!close && !wish.is_empty()).into()]
}

/// The parts of all Services, with what they wish.
#[derive(Debug, Default)]
pub(super) struct Totals {
    all: Mutex<All>,
}

#[derive(Debug, Default)]
struct All {
    parts: HashMap<ObjectKey, (Part, String)>,
    sums: [i64; 5],
}

impl Totals {
    /// Takes note of a Service, or of its end. `wish` is how it wants its traffic distributed, if that counts.
    pub(super) fn note(&self, metrics: &Metrics, service: &ObjectKey, part: Option<(Part, &str)>) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let All { parts, sums } = &mut *all;
        let before = match part {
            Some((part, wish)) => parts.insert(service.clone(), (part, wish.to_owned())),
            None => parts.remove(service),
        };
        let before = before.as_ref().map(|(part, wish)| (*part, wish.as_str()));
        if before == part {
            return;
        }
        let (old, new) = (before.map(figures).unwrap_or_default(), part.map(figures).unwrap_or_default());
        for (sum, (old, new)) in sums.iter_mut().zip(old.into_iter().zip(new)) {
            *sum += new - old;
        }
        let [endpoints, slices, needed, close, others] = sums.map(|sum| sum as f64);
        metrics.set(&SLICE_ENDPOINTS, &[], endpoints);
        metrics.set(&SLICES, &[], slices);
        metrics.set(&SLICES_NEEDED, &[], needed);
        metrics.set(&SERVICES_BY_WISH, &[WISHES[0]], close);
        metrics.set(&SERVICES_BY_WISH, &[WISHES[1]], others);
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
