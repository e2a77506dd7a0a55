//! Who may do what: `system:masters` may do everything; then the configured authorizers are asked in their order
//! (Node and RBAC, unless told otherwise) until one of them has an opinion.

mod escalation;
mod node;
mod rbac;
mod rules;

pub(crate) use escalation::{confirm_no_escalation, full_authority, missing_rules};
pub(crate) use node::node_name;
pub(crate) use rbac::Rbac;
pub(crate) use rules::PolicyRule;

use crate::authn::{MASTERS, User};
use crate::cache::Cache;
use crate::request_info::RequestInfo;
use naru_api::selector::{FieldSelector, LabelSelector};
use naru_api::status::Status;

/// What somebody wants to do, as authorizers look at it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Attributes<'a> {
    /// RBAC verb.
    pub(crate) verb: &'a str,
    /// Whether this is about a resource (else `path` counts).
    pub(crate) is_resource: bool,
    /// API group.
    pub(crate) group: &'a str,
    /// Plural resource name.
    pub(crate) resource: &'a str,
    /// Subresource or empty.
    pub(crate) subresource: &'a str,
    /// Namespace or empty.
    pub(crate) namespace: &'a str,
    /// Object name or empty.
    pub(crate) name: &'a str,
    /// Plain path.
    pub(crate) path: &'a str,
    /// What a list, watch or deletecollection is limited to by fields.
    pub(crate) fields: Option<&'a FieldSelector>,
    /// The same by labels, for authorizers on the network.
    #[allow(dead_code, reason = "read by the webhook authorizer, which follows")]
    pub(crate) labels: Option<&'a LabelSelector>,
}

impl<'a> Attributes<'a> {
    /// Of a request.
    pub(crate) fn of(info: &'a RequestInfo) -> Self {
        Self {
            verb: info.verb,
            is_resource: info.is_resource,
            group: &info.group,
            resource: &info.resource,
            subresource: &info.subresource,
            namespace: &info.namespace,
            name: &info.name,
            path: &info.path,
            fields: None,
            labels: None,
        }
    }

    /// Whether a field selector limits this to objects whose `field` is `value`.
    pub(crate) fn selects(&self, field: &str, value: &str) -> bool {
        let requirements = self.fields.map(FieldSelector::requirements).unwrap_or_default();
        requirements.iter().any(|one| one.equal && one.field == field && one.value == value)
    }

    /// `pods` or `pods/exec`.
    pub(crate) fn full_resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.to_owned()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }

    /// The 403 for a user who was not allowed this.
    pub(crate) fn forbidden(&self, user: &User, decision: &Decision) -> Box<Status> {
        let mut why = self.denial(user);
        if !decision.reason.is_empty() {
            why.push_str(": ");
            why.push_str(&decision.reason);
        }
        let resource = if self.is_resource { self.resource } else { "" };
        Box::new(Status::forbidden(self.group, resource, self.name, &why))
    }

    /// Why this user is refused, in upstream's words.
    pub(crate) fn denial(&self, user: &User) -> String {
        let name = go_quote(&user.name);
        if !self.is_resource {
            return format!("User {name} cannot {} path {}", self.verb, go_quote(self.path));
        }
        let scope = if self.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {}", go_quote(self.namespace))
        };
        format!(
            "User {name} cannot {} resource {} in API group {} {scope}",
            self.verb,
            go_quote(&self.full_resource()),
            go_quote(self.group),
        )
    }
}

/// A string in double quotes with escapes.
pub(crate) fn go_quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// What an authorizer makes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Verdict {
    /// It may be done; nobody else is asked.
    Allow,
    /// It may not be done; nobody else is asked.
    Deny,
    /// The next one is asked.
    #[default]
    NoOpinion,
}

/// A verdict and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) verdict: Verdict,
    /// Why, for people; may be empty.
    pub(crate) reason: String,
    /// What kept authorizers from deciding; may be empty.
    pub(crate) errors: Vec<String>,
}

impl Decision {
    /// Allowed, because of this.
    pub(crate) fn allow(reason: impl Into<String>) -> Self {
        Self { verdict: Verdict::Allow, reason: reason.into(), errors: Vec::new() }
    }

    /// Somebody else may know.
    pub(crate) fn no_opinion(reason: impl Into<String>) -> Self {
        Self { verdict: Verdict::NoOpinion, reason: reason.into(), errors: Vec::new() }
    }

    /// Whether it may be done.
    pub(crate) fn is_allowed(&self) -> bool {
        self.verdict == Verdict::Allow
    }

    /// The errors in one text, as Go aggregates them.
    pub(crate) fn error(&self) -> Option<String> {
        aggregate(&self.errors)
    }
}

/// One text for several errors.
pub(crate) fn aggregate(errors: &[String]) -> Option<String> {
    match errors {
        [] => None,
        [one] => Some(one.clone()),
        many => Some(format!("[{}]", many.join(", "))),
    }
}

/// One authorizer of the chain.
#[derive(Debug)]
pub(crate) enum Authorizer {
    /// Kubelets, by what runs on their node.
    Node,
    /// Roles and bindings.
    Rbac,
}

/// The chain of authorizers.
#[derive(Debug)]
pub(crate) struct Authz {
    chain: Vec<Authorizer>,
    pub(crate) rbac: Rbac,
    node: node::NodeAuthorizer,
}

impl Authz {
    /// Node and RBAC.
    pub(crate) fn new() -> Self {
        Self {
            chain: vec![Authorizer::Node, Authorizer::Rbac],
            rbac: Rbac::default(),
            node: node::NodeAuthorizer::default(),
        }
    }

    /// Whether a user may do something.
    pub(crate) async fn authorize(&self, cache: &Cache, user: &User, attributes: &Attributes<'_>) -> Decision {
        if user.in_group(MASTERS) {
            return Decision::allow("");
        }
        let (mut reasons, mut errors) = (Vec::new(), Vec::new());
        for authorizer in &self.chain {
            let decision = match authorizer {
                Authorizer::Node => self.node.authorize(cache, user, attributes),
                Authorizer::Rbac => self.rbac.authorize(cache, user, attributes),
            };
            if decision.verdict != Verdict::NoOpinion {
                return decision;
            }
            if !decision.reason.is_empty() {
                reasons.push(decision.reason);
            }
            errors.extend(decision.errors);
        }
        Decision { verdict: Verdict::NoOpinion, reason: reasons.join("\n"), errors }
    }
}
