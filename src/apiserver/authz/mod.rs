//! Who may do what: `system:masters` may do everything; then the configured authorizers are asked in their order
//! (Node and RBAC, unless told otherwise) until one of them has an opinion.

mod conditions;
mod configuration;
mod escalation;
mod node;
mod node_index;
mod rbac;
mod rules;
mod webhook;

pub(crate) use escalation::{confirm_no_escalation, full_authority, missing_rules};
pub(crate) use node::node_name;
pub(crate) use rbac::Rbac;
pub(crate) use rules::PolicyRule;

use crate::authn::{MASTERS, User};
use crate::cache::Cache;
use crate::config::StartError;
use crate::flags::Flags;
use crate::reload;
use crate::request_info::RequestInfo;
use configuration::Mode;
use naru_api::selector::{FieldSelector, LabelSelector};
use naru_api::status::Status;
use naru_base::Shutdown;
use std::sync::{Arc, PoisonError, RwLock};
use webhook::AccessWebhook;

/// What somebody wants to do, as authorizers look at it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Attributes<'a> {
    /// RBAC verb.
    pub(crate) verb: &'a str,
    /// Whether this is about a resource (else `path` counts).
    pub(crate) is_resource: bool,
    /// API group.
    pub(crate) group: &'a str,
    /// API version.
    pub(crate) version: &'a str,
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
    pub(crate) labels: Option<&'a LabelSelector>,
}

impl<'a> Attributes<'a> {
    /// Of a request.
    pub(crate) fn of(info: &'a RequestInfo) -> Self {
        Self {
            verb: info.verb,
            is_resource: info.is_resource,
            group: &info.group,
            version: &info.version,
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
enum Authorizer {
    /// Kubelets, by what runs on their node.
    Node,
    /// Roles and bindings.
    Rbac,
    /// Somebody else.
    Webhook(Box<AccessWebhook>),
    /// Everything is allowed.
    AlwaysAllow,
    /// Nothing is, unless somebody before said so.
    AlwaysDeny,
}

impl Authorizer {
    fn new(mode: Mode) -> Result<Self, String> {
        Ok(match mode {
            Mode::AlwaysAllow => Self::AlwaysAllow,
            Mode::AlwaysDeny => Self::AlwaysDeny,
            Mode::Node => Self::Node,
            Mode::Rbac => Self::Rbac,
            Mode::Webhook(webhook) => {
                Self::Webhook(Box::new(AccessWebhook::new(webhook).map_err(|error| error.to_string())?))
            }
        })
    }
}

/// The authorizers that are asked, in order; replaced when the configuration changes.
type Chain = Arc<RwLock<Arc<Vec<Authorizer>>>>;

fn chain(modes: Vec<Mode>) -> Result<Arc<Vec<Authorizer>>, String> {
    modes.into_iter().map(Authorizer::new).collect::<Result<Vec<_>, _>>().map(Arc::new)
}

/// Rules as authorizers list them.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    pub(crate) rules: Vec<PolicyRule>,
    /// Whether there may be more.
    pub(crate) incomplete: bool,
    pub(crate) errors: Vec<String>,
}

/// The chain of authorizers.
#[derive(Debug)]
pub(crate) struct Authz {
    chain: Chain,
    pub(crate) rbac: Rbac,
    node: node::NodeAuthorizer,
}

impl Authz {
    /// What the flags or their file say: Node and RBAC, unless told otherwise.
    pub(crate) fn new(flags: &Flags, shutdown: &Shutdown) -> Result<Self, StartError> {
        let wrong = |reason: String| StartError::Config { what: "authorization", reason };
        let started = match &flags.authorization.config {
            None => chain(configuration::of_flags(flags).map_err(wrong)?).map_err(wrong)?,
            Some(path) => {
                let text = std::fs::read_to_string(path);
                let text = text.map_err(|error| wrong(format!("{}: {error}", path.display())))?;
                configuration::parse(&text).and_then(chain).map_err(wrong)?
            }
        };
        let this = Self {
            chain: Arc::new(RwLock::new(started)),
            rbac: Rbac::default(),
            node: node::NodeAuthorizer::default(),
        };
        if let Some(path) = &flags.authorization.config {
            let changed = this.chain.clone();
            let text = std::fs::read_to_string(path).unwrap_or_default();
            reload::on_change("authorization-config", path.clone(), text, shutdown.clone(), move |text| {
                let changed = changed.clone();
                Box::pin(async move {
                    let next = configuration::parse(&text).and_then(chain)?;
                    *changed.write().unwrap_or_else(PoisonError::into_inner) = next;
                    Ok(())
                })
            });
        }
        Ok(this)
    }

    fn chain(&self) -> Arc<Vec<Authorizer>> {
        self.chain.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What a user may do in a namespace, as far as authorizers can list it, and what they cannot.
    pub(crate) fn rules_for(&self, cache: &Cache, user: &User, namespace: &str) -> Listed {
        let mut listed = Listed::default();
        for authorizer in self.chain().iter() {
            match authorizer {
                Authorizer::Rbac => {
                    let (rules, errors) = self.rbac.rules_for(cache, user, namespace);
                    listed.rules.extend(rules);
                    listed.incomplete |= !errors.is_empty();
                    listed.errors.extend(errors);
                }
                Authorizer::Node if node_name(user).is_some() => {
                    listed.incomplete = true;
                    listed.errors.push("node authorizer does not support user rule resolution".to_owned());
                }
                Authorizer::Webhook(_) => {
                    listed.incomplete = true;
                    listed.errors.push("webhook authorizer does not support user rule resolution".to_owned());
                }
                Authorizer::AlwaysAllow => listed.rules.extend(full_authority()),
                Authorizer::Node | Authorizer::AlwaysDeny => {}
            }
        }
        listed
    }

    /// Whether a user may do something.
    pub(crate) async fn authorize(&self, cache: &Cache, user: &User, attributes: &Attributes<'_>) -> Decision {
        if user.in_group(MASTERS) {
            return Decision::allow("");
        }
        let (mut reasons, mut errors) = (Vec::new(), Vec::new());
        for authorizer in self.chain().iter() {
            let decision = match authorizer {
                Authorizer::Node => self.node.authorize(cache, user, attributes),
                Authorizer::Rbac => self.rbac.authorize(cache, user, attributes),
                Authorizer::Webhook(webhook) => webhook.authorize(user, attributes).await,
                Authorizer::AlwaysAllow => Decision::allow(""),
                Authorizer::AlwaysDeny => Decision::no_opinion("Everything is forbidden."),
            };
            if decision.verdict != Verdict::NoOpinion {
                errors.extend(decision.errors);
                return Decision { errors, ..decision };
            }
            if !decision.reason.is_empty() {
                reasons.push(decision.reason);
            }
            errors.extend(decision.errors);
        }
        Decision { verdict: Verdict::NoOpinion, reason: reasons.join("\n"), errors }
    }
}
