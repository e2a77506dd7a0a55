//! NodeAffinity: node selectors and node affinity, required and preferred.

use super::{Plugin, Scale, Score, Unfit};
use crate::pod_info::PodInfo;
use naru_client::projections::NodeView;

pub(super) const PLUGIN: Plugin = Plugin {
    name: "NodeAffinity",
    filter: Some(|context, _, node| {
        if admits(context.pod, node) {
            return Ok(());
        }
        Err(Unfit::for_good("node(s) didn't match Pod's node affinity/selector"))
    }),
    score: Some(Score {
        weight: 2,
        scale: Scale::HighestBest,
        rate: |context, _, node| {
            let preferred = context.pod.node_affinity.preferred.iter();
            preferred.filter(|term| term.preference.matches(node)).map(|term| term.weight).sum()
        },
    }),
};

/// Whether the node selector and the required affinity hold.
pub(super) fn admits(pod: &PodInfo, node: &NodeView) -> bool {
    pod.node_affinity.admits(&pod.pod.spec.node_selector, node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{labelled_node, pod};
    use serde_json::{Value, json};
    use std::sync::Arc;

    #[test]
    fn selector_and_one_of_the_terms_must_match() {
        let node = labelled_node("n", &[("disk", "ssd"), ("cpus", "8")]);
        let check = |spec: Value, expected: bool| {
            let pod = PodInfo::new(Arc::new(pod("p", spec.clone())));
            assert_eq!(admits(&pod, &node), expected, "{spec}");
        };
        let required = |terms: Value| {
            json!({"affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
        };
        let term = |key: &str, operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        check(json!({}), true);
        check(json!({"nodeSelector": {"disk": "ssd"}}), true);
        check(json!({"nodeSelector": {"disk": "hdd"}}), false);
        check(required(json!([term("disk", "In", &["hdd"]), term("cpus", "Gt", &["4"])])), true);
        check(required(json!([term("cpus", "Lt", &["4"])])), false);
        check(required(json!([term("gpu", "DoesNotExist", &[])])), true);
        check(required(json!([{}])), false);
        check(required(json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}])), true);
    }
}
