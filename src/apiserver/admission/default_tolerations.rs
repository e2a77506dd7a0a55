//! DefaultTolerationSeconds: pods stay five minutes on nodes that are not ready or not reachable.

use super::{Attributes, Plugin, is_pod_create, is_pod_update};
use crate::pipeline::State;
use crate::response::Failure;
use serde_json::{Value, json};

pub(super) static PLUGIN: Plugin = Plugin::new("DefaultTolerationSeconds").admit(admit);

/// Unless the flags say otherwise.
const SECONDS: i64 = 300;

fn admit(state: &State, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), Failure> {
    let written = is_pod_create(attributes) || is_pod_update(attributes);
    if !written || !pod["spec"].is_object() {
        return Ok(());
    }
    let flags = &state.config.flags;
    for (key, seconds) in [
        ("node.kubernetes.io/not-ready", flags.default_not_ready_toleration_seconds),
        ("node.kubernetes.io/unreachable", flags.default_unreachable_toleration_seconds),
    ] {
        let tolerations = &mut pod["spec"]["tolerations"];
        if !tolerations.is_array() {
            *tolerations = json!([]);
        }
        let Some(list) = tolerations.as_array_mut() else { continue };
        let tolerated = list.iter().any(|toleration| {
            let for_key = toleration["key"] == key || toleration["key"].as_str().unwrap_or_default().is_empty();
            let effect = toleration["effect"].as_str().unwrap_or_default();
            for_key && (effect.is_empty() || effect == "NoExecute")
        });
        if !tolerated {
            list.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds.unwrap_or(SECONDS),
            }));
        }
    }
    Ok(())
}
