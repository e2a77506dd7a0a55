//! ClusterRoles with an aggregation rule: their rules are those of the roles that it selects.

use crate::Context;
use naru_api::registry;
use naru_client::projections::Selector;
use naru_client::{Client, Error, Informer, ListParams, Next, WorkQueue, is_not_found};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) fn start(context: &Context) {
    let roles: Informer<Value> = context.informers.start(&registry::CLUSTER_ROLES, ListParams::all());
    let queue: WorkQueue<String> = WorkQueue::new();
    let (wake, all) = (queue.clone(), roles.clone());
    roles.subscribe(move |_| {
        // A role that has lost its labels is missed by selectors that it matched before.
        for role in all.list().iter().filter(|role| role["aggregationRule"].is_object()) {
            wake.add(role["metadata"]["name"].as_str().unwrap_or_default().to_owned());
        }
    });
    let (client, all) = (context.client.clone(), roles.clone());
    context.run(&queue, 1, async move { roles.synced().await }, move |name: String| {
        let (client, all) = (client.clone(), all.clone());
        async move { reconcile(&client, &all, &name).await }
    });
}

async fn reconcile(client: &Client, roles: &Informer<Value>, name: &str) -> Result<Next, Error> {
    let Some(role) = roles.get("", name).filter(|role| role["aggregationRule"].is_object()) else {
        return Ok(Next::Done);
    };
    let rules = aggregated(&role, &roles.list());
    if Value::from(role["rules"].as_array().cloned().unwrap_or_default()) == Value::from(rules.clone()) {
        return Ok(Next::Done);
    }
    let mut role = (*role).clone();
    role["rules"] = rules.into();
    match client.update::<Value>(&registry::CLUSTER_ROLES, None, name, &role).await {
        Err(error) if !is_not_found(&error) => Err(error),
        _ => Ok(Next::Done),
    }
}

/// The rules of the selected roles, each once, in the order of the selectors and of the roles' names.
fn aggregated(role: &Value, all: &[Arc<Value>]) -> Vec<Value> {
    let mut rules: Vec<Value> = Vec::new();
    for selector in role["aggregationRule"]["clusterRoleSelectors"].as_array().into_iter().flatten() {
        let Ok(selector) = Selector::deserialize(selector) else { continue };
        for other in all.iter().filter(|other| other["metadata"]["name"] != role["metadata"]["name"]) {
            let labels: Option<BTreeMap<String, String>> =
                Option::deserialize(&other["metadata"]["labels"]).ok().flatten();
            if !selector.matches(&labels.unwrap_or_default()) {
                continue;
            }
            for rule in other["rules"].as_array().into_iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rules_come_once_from_those_selected() {
        let role = |name: &str, label: &str, rules: Value| {
            Arc::new(json!({"metadata": {"name": name, "labels": {label: "true"}}, "rules": rules}))
        };
        let all = [role("a", "x", json!([1, 2])), role("b", "y", json!([3])), role("c", "x", json!([2, 4]))];
        let mut sum = json!({"metadata": {"name": "c"}, "aggregationRule": {"clusterRoleSelectors": [
            {"matchLabels": {"y": "true"}}, {"matchLabels": {"x": "true"}}]}});
        assert_eq!(aggregated(&sum, &all), [3, 1, 2]);
        sum["aggregationRule"]["clusterRoleSelectors"] = json!([{"matchLabels": {"z": "true"}}]);
        assert!(aggregated(&sum, &all).is_empty());
    }
}
