//! NodeUnschedulable: cordoned nodes take only pods that tolerate it.

use super::taint_toleration::tolerates;
use super::{Plugin, Unfit};
use naru_client::projections::Taint;

pub(super) const PLUGIN: Plugin = Plugin {
    name: "NodeUnschedulable",
    filter: Some(|context, _, node| {
        if !node.spec.unschedulable {
            return Ok(());
        }
        let taint = Taint {
            key: "node.kubernetes.io/unschedulable".to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Taint::default()
        };
        if tolerates(context.pod.tolerations(), &taint) {
            return Ok(());
        }
        Err(Unfit::for_good("node(s) were unschedulable"))
    }),
    score: None,
};
