//! Admission: an ordered chain of plugins between decoding and the kind's validation.

mod default_tolerations;
mod namespace_lifecycle;
mod priority;
mod service_account;

use crate::authn::User;
use crate::pipeline::State;
use crate::response::Failure;
use naru_api::registry::Resource;
use serde_json::Value;

/// What a write does to its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// A new object.
    Create,
    /// A changed one.
    Update,
    /// One that goes.
    Delete,
}

/// One write, as plugins look at it.
#[derive(Debug, Clone, Copy)]
#[allow(dead_code, reason = "what later plugins decide by")]
pub(crate) struct Attributes<'a> {
    pub(crate) operation: Operation,
    pub(crate) resource: &'static Resource,
    pub(crate) subresource: &'a str,
    pub(crate) namespace: Option<&'a str>,
    pub(crate) name: &'a str,
    pub(crate) user: &'a User,
    pub(crate) old: Option<&'a Value>,
}

/// Changes the object, or refuses it.
type Admit = fn(&State, &Attributes<'_>, &mut Value) -> Result<(), Failure>;
/// Looks at the object, and may refuse it.
type Validate = fn(&State, &Attributes<'_>, &Value) -> Result<(), Failure>;

/// One plugin. `admit` may change the object, `validate` looks at what all of them made of it.
#[derive(Debug)]
pub(crate) struct Plugin {
    /// Upstream's name.
    pub(crate) name: &'static str,
    /// Changes.
    pub(crate) admit: Option<Admit>,
    /// Decides.
    pub(crate) validate: Option<Validate>,
}

/// All plugins, in upstream's order.
pub(crate) static CHAIN: &[&Plugin] =
    &[&namespace_lifecycle::PLUGIN, &service_account::PLUGIN, &priority::PLUGIN, &default_tolerations::PLUGIN];

/// First phase: every plugin's changes.
pub(crate) fn admit(state: &State, attributes: &Attributes<'_>, object: &mut Value) -> Result<(), Failure> {
    for plugin in CHAIN {
        if let Some(admit) = plugin.admit {
            admit(state, attributes, object).inspect_err(|status| refused(plugin, attributes, status))?;
        }
    }
    Ok(())
}

/// Second phase, after the kind's own validation.
pub(crate) fn validate(state: &State, attributes: &Attributes<'_>, object: &Value) -> Result<(), Failure> {
    for plugin in CHAIN {
        if let Some(validate) = plugin.validate {
            validate(state, attributes, object).inspect_err(|status| refused(plugin, attributes, status))?;
        }
    }
    Ok(())
}

fn refused(plugin: &Plugin, attributes: &Attributes<'_>, status: &naru_api::status::Status) {
    tracing::debug!(
        plugin = plugin.name,
        resource = attributes.resource.plural,
        name = attributes.name,
        message = status.message,
        "admission refused"
    );
}

/// Whether this is a new pod.
fn is_pod_create(attributes: &Attributes<'_>) -> bool {
    attributes.operation == Operation::Create
        && attributes.subresource.is_empty()
        && attributes.resource.group.is_empty()
        && attributes.resource.plural == "pods"
}
