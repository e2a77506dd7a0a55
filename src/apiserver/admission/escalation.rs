//! Roles and bindings: nobody grants more than they have. Not one of upstream's plugins: there the storage of roles
//! checks this, after all admission plugins, where this one stands.

use super::{Attributes, Operation, Plugin};
use crate::authn::MASTERS;
use crate::authz::{self, PolicyRule, confirm_no_escalation, full_authority};
use crate::pipeline::State;
use crate::response::Failure;
use naru_api::meta;
use naru_api::status::Status;
use serde_json::Value;

pub(super) static PLUGIN: Plugin =
    Plugin::new("RBACEscalation").admit_async(|state, attributes, object| Box::pin(admit(state, attributes, object)));

const GROUP: &str = "rbac.authorization.k8s.io";

async fn admit(state: &State, attributes: &Attributes<'_>, object: &mut Value) -> Result<(), Failure> {
    let about = attributes.resource.group == GROUP && attributes.subresource.is_empty();
    if !about || attributes.operation == Operation::Delete || attributes.user.in_group(MASTERS) {
        return Ok(());
    }
    if attributes.old.is_some_and(|old| same_but_for_gc(old, object)) {
        return Ok(());
    }
    match attributes.resource.plural {
        "roles" | "clusterroles" => role(state, attributes, object).await,
        _ => binding(state, attributes, object).await,
    }
}

/// The garbage collector may take its finalizers and owners off anything.
fn same_but_for_gc(old: &Value, new: &Value) -> bool {
    let strip = |object: &Value| {
        let mut object = object.clone();
        let metadata = meta::metadata_mut(&mut object);
        for field in ["finalizers", "ownerReferences", "managedFields", "resourceVersion"] {
            metadata.remove(field);
        }
        object
    };
    strip(old) == strip(new)
}

async fn may(state: &State, attributes: &Attributes<'_>, verb: &str, resource: &str, name: &str) -> bool {
    let asked = authz::Attributes {
        verb,
        is_resource: true,
        group: GROUP,
        resource,
        namespace: attributes.namespace.unwrap_or_default(),
        name,
        ..authz::Attributes::default()
    };
    state.authz.authorize(&state.cache, attributes.user, &asked).await.is_allowed()
}

async fn role(state: &State, attributes: &Attributes<'_>, object: &Value) -> Result<(), Failure> {
    let plural = attributes.resource.plural;
    // As the request names it, and a create does not.
    let name = if attributes.operation == Operation::Create { "" } else { attributes.name };
    if may(state, attributes, "escalate", plural, name).await {
        return Ok(());
    }
    confirm(state, attributes, &rules(object))?;
    let gathers = |role: &Value| {
        role["aggregationRule"]["clusterRoleSelectors"].as_array().is_some_and(|selectors| !selectors.is_empty())
    };
    if (gathers(object) || attributes.old.is_some_and(gathers))
        && confirm(state, attributes, &full_authority()).is_err()
    {
        return Err(forbidden(attributes, "must have cluster-admin privileges to use an aggregationRule"));
    }
    Ok(())
}

async fn binding(state: &State, attributes: &Attributes<'_>, object: &Value) -> Result<(), Failure> {
    let text = |field: &str| object["roleRef"][field].as_str().unwrap_or_default();
    let (kind, name) = (text("kind"), text("name"));
    let plural = match kind {
        "ClusterRole" => "clusterroles",
        "Role" => "roles",
        // Validation refuses it.
        _ => return Ok(()),
    };
    if may(state, attributes, "bind", plural, name).await {
        return Ok(());
    }
    let namespace = attributes.namespace.unwrap_or_default();
    let wanted = state
        .authz
        .rbac
        .rules_of_role(&state.cache, kind, name, namespace)
        .ok_or_else(|| Box::new(Status::not_found(GROUP, plural.trim_end_matches('s'), name)))?;
    confirm(state, attributes, &wanted)
}

fn confirm(state: &State, attributes: &Attributes<'_>, wanted: &[PolicyRule]) -> Result<(), Failure> {
    let namespace = attributes.namespace.unwrap_or_default();
    let (owned, errors) = state.authz.rbac.rules_for(&state.cache, attributes.user, namespace);
    confirm_no_escalation(attributes.user, &owned, &errors, wanted).map_err(|why| forbidden(attributes, &why))
}

fn forbidden(attributes: &Attributes<'_>, why: &str) -> Failure {
    Box::new(Status::forbidden(GROUP, attributes.resource.plural, attributes.name, why))
}

fn rules(role: &Value) -> Vec<PolicyRule> {
    let rules = role["rules"].as_array().into_iter().flatten();
    rules.filter_map(|rule| serde_json::from_value(rule.clone()).ok()).collect()
}
