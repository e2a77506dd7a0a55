//! Default roles and bindings, put right at each start: what is missing from them is added, what others added stays,
//! and `rbac.authorization.kubernetes.io/autoupdate: "false"` keeps all hands off.

use super::{creation, put};
use crate::authz::{PolicyRule, missing_rules};
use crate::cache::CachedObject;
use crate::config::StartError;
use crate::objects;
use crate::pipeline::State;
use naru_api::meta;
use naru_api::registry::{self, Resource};
use naru_store::{Durability, Expect, Write};
use serde_json::Value;

const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// The writes that bring a stored role or binding up to the default.
pub(super) fn reconciled(state: &State, resource: &'static Resource, wanted: Value) -> Result<Vec<Write>, StartError> {
    let namespace = Some(meta::namespace(&wanted)).filter(|namespace| !namespace.is_empty());
    let Some(found) = state.cache.get(resource, namespace, meta::name(&wanted)) else {
        return Ok(vec![creation(resource, wanted)?]);
    };
    let stored: Value = serde_json::from_slice(&found.json()).map_err(|error| StartError::Store(error.to_string()))?;
    if meta::annotation(&stored, AUTO_UPDATE) == Some("false") {
        return Ok(Vec::new());
    }
    let expect = Expect::Revision(found.revision());
    if !wanted["roleRef"].is_null() && !same_role(&wanted, &stored) {
        // A binding is to one role for ever: this is another one of the same name.
        let mut write = creation(resource, wanted)?;
        write.expect = expect;
        return Ok(vec![write]);
    }
    let mut next = stored.clone();
    add_metadata(&mut next, &wanted);
    if wanted["roleRef"].is_null() {
        add_rules(&mut next, &wanted);
    } else {
        add_entries(&mut next, &["subjects"], &wanted["subjects"]);
    }
    if next == stored {
        return Ok(Vec::new());
    }
    let bytes = objects::encode(next.clone());
    Ok(vec![put(resource, &next, expect, bytes)])
}

/// Bindings that earlier versions made and that would undo the Node authorizer.
const RETIRED: [&str; 2] = ["naru:nodes", "naru:nodes-proxy"];

/// The deletions of what is no longer a default.
pub(super) fn retired(state: &State) -> Vec<Write> {
    let resource = &registry::CLUSTER_ROLE_BINDINGS;
    let found = RETIRED.into_iter().filter_map(|name| state.cache.get(resource, None, name));
    let deletion = |found: std::sync::Arc<CachedObject>| Write {
        key: found.key().clone(),
        expect: Expect::Revision(found.revision()),
        value: None,
        durability: Durability::Sync,
    };
    found.map(deletion).collect()
}

fn same_role(one: &Value, other: &Value) -> bool {
    ["kind", "name"].iter().all(|field| one["roleRef"][*field] == other["roleRef"][*field])
}

fn add_metadata(object: &mut Value, wanted: &Value) {
    for field in ["labels", "annotations"] {
        for (key, value) in wanted["metadata"][field].as_object().into_iter().flatten() {
            if object["metadata"][field].get(key).is_none() {
                object["metadata"][field][key] = value.clone();
            }
        }
    }
}

fn add_rules(role: &mut Value, wanted: &Value) {
    if wanted["aggregationRule"].is_object() {
        // Its rules are gathered from other roles.
        let selectors = &wanted["aggregationRule"]["clusterRoleSelectors"];
        add_entries(role, &["aggregationRule", "clusterRoleSelectors"], selectors);
        return;
    }
    let rules = |role: &Value| -> Vec<PolicyRule> { serde_json::from_value(role["rules"].clone()).unwrap_or_default() };
    let missing = missing_rules(&rules(role), &rules(wanted));
    if missing.is_empty() {
        return;
    }
    if !role["rules"].is_array() {
        role["rules"] = Value::Array(Vec::new());
    }
    if let Some(present) = role["rules"].as_array_mut() {
        present.extend(missing.iter().map(PolicyRule::to_value));
    }
}

/// Appends the entries of `wanted` that the list at `path` lacks.
fn add_entries(object: &mut Value, path: &[&str], wanted: &Value) {
    for entry in wanted.as_array().into_iter().flatten() {
        let list = path.iter().fold(&mut *object, |at, field| &mut at[*field]);
        if !list.is_array() {
            *list = Value::Array(Vec::new());
        }
        if let Some(list) = list.as_array_mut()
            && !list.contains(entry)
        {
            list.push(entry.clone());
        }
    }
}
