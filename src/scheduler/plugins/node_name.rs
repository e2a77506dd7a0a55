//! NodeName: a pod that names a node goes nowhere else.

use super::{Plugin, Unfit};

pub(super) const PLUGIN: Plugin = Plugin {
    name: "NodeName",
    filter: Some(|context, _, node| {
        let wanted = &context.pod.pod.spec.node_name;
        if wanted.is_empty() || *wanted == node.metadata.name {
            return Ok(());
        }
        Err(Unfit::for_good("node(s) didn't match the requested node name"))
    }),
    score: None,
};
