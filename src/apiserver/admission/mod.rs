//! Admission: an ordered chain of plugins between decoding and the kind's validation.

mod certificate_approval;
mod certificate_signing;
mod certificate_subject;
mod claim_resize;
mod configuration;
mod declared_features;
mod default_tolerations;
mod escalation;
mod in_use_protection;
mod ingress_class;
mod limit_ranger;
mod more;
mod namespace_lifecycle;
mod node_restriction;
mod notes;
mod owner_references;
mod pod_resize;
mod pod_security;
mod pod_topology_labels;
mod priority;
mod resource_quota;
mod runtime_class;
mod service_account;
mod storage_class;
mod taint_nodes;
mod token_audience;

pub(crate) use configuration::Configuration;
pub(crate) use notes::Notes;
pub(crate) use resource_quota::QuotaLocks;

use crate::authn::User;
use crate::authz;
use crate::config::StartError;
use crate::flags::Flags;
use crate::objects;
use crate::pipeline::State;
use crate::response::Failure;
use futures::future::BoxFuture;
use naru_api::meta;
use naru_api::registry::Resource;
use naru_api::status::Status;
use serde_json::Value;

/// What a request does to its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// A new object.
    Create,
    /// A changed one.
    Update,
    /// One that goes.
    Delete,
    /// A stream to it, or a request passed through it.
    #[allow(dead_code, reason = "used by later plugins")]
    Connect,
}

/// One request, as plugins look at it.
#[derive(Debug, Clone, Copy)]
#[allow(dead_code, reason = "what later plugins decide by")]
pub(crate) struct Attributes<'a> {
    pub(crate) operation: Operation,
    pub(crate) resource: &'static Resource,
    pub(crate) subresource: &'a str,
    pub(crate) namespace: Option<&'a str>,
    pub(crate) name: &'a str,
    pub(crate) user: &'a User,
    /// The object before an update or a delete.
    pub(crate) old: Option<&'a Value>,
    /// Nothing may be written, neither by plugins.
    pub(crate) dry_run: bool,
    /// Where warnings and audit annotations go.
    pub(crate) notes: &'a Notes,
}

impl Attributes<'_> {
    /// Whether this is about objects of a resource (or a subresource of theirs).
    pub(crate) fn is_of(&self, resource: &'static Resource) -> bool {
        std::ptr::eq(self.resource, resource)
    }

    /// Whether this is about objects of a core resource that may come later.
    fn is_core(&self, plural: &str) -> bool {
        self.resource.group.is_empty() && self.resource.plural == plural
    }

    /// A refusal in upstream's words: `pods "x" is forbidden: why`.
    pub(crate) fn forbidden(&self, why: &str) -> Failure {
        let name = if self.name.is_empty() { "Unknown" } else { self.name };
        Box::new(Status::forbidden(self.resource.group, self.resource.plural, name, why))
    }
}

/// A decision that takes time.
pub(crate) type Pending<'a> = BoxFuture<'a, Result<(), Failure>>;

/// Changes the object, or refuses it.
type Admit = fn(&State, &Attributes<'_>, &mut Value) -> Result<(), Failure>;
/// The same for plugins that ask others.
type AdmitAsync = for<'a> fn(&'a State, &'a Attributes<'a>, &'a mut Value) -> Pending<'a>;
/// Looks at the object, and may refuse it.
type Validate = fn(&State, &Attributes<'_>, &Value) -> Result<(), Failure>;
/// The same for plugins that ask others or write.
type ValidateAsync = for<'a> fn(&'a State, &'a Attributes<'a>, &'a Value) -> Pending<'a>;

/// One plugin. The first phase may change the object, the second looks at what all of them made of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plugin {
    pub(crate) name: &'static str,
    /// Whether it runs only when the flags ask for it.
    off: bool,
    admit: Option<Admit>,
    admit_async: Option<AdmitAsync>,
    validate: Option<Validate>,
    validate_async: Option<ValidateAsync>,
}

impl Plugin {
    /// A plugin under upstream's name; it does nothing yet.
    const fn new(name: &'static str) -> Self {
        Self { name, off: false, admit: None, admit_async: None, validate: None, validate_async: None }
    }

    /// One that runs only where `enable-admission-plugins` names it.
    const fn off(self) -> Self {
        Self { off: true, ..self }
    }

    /// With changes in the first phase.
    const fn admit(self, admit: Admit) -> Self {
        Self { admit: Some(admit), ..self }
    }

    /// With changes in the first phase that are waited for.
    const fn admit_async(self, admit: AdmitAsync) -> Self {
        Self { admit_async: Some(admit), ..self }
    }

    /// With a decision in the second phase.
    const fn validate(self, validate: Validate) -> Self {
        Self { validate: Some(validate), ..self }
    }

    /// With a decision in the second phase that is waited for.
    const fn validate_async(self, validate: ValidateAsync) -> Self {
        Self { validate_async: Some(validate), ..self }
    }
}

/// All plugins, in upstream's order. What is off by default upstream has its place here when it comes:
/// ClusterTrustBundleAttest (with its feature) before CertificateSubjectRestriction.
pub(crate) static CHAIN: &[&Plugin] = &[
    &namespace_lifecycle::PLUGIN,
    &more::NAMESPACE_EXISTS,
    &more::LIMIT_ANTI_AFFINITY,
    &limit_ranger::PLUGIN,
    &service_account::PLUGIN,
    &node_restriction::PLUGIN,
    &taint_nodes::PLUGIN,
    &more::ALWAYS_PULL_IMAGES,
    &pod_security::PLUGIN,
    &priority::PLUGIN,
    &default_tolerations::PLUGIN,
    &more::EXTENDED_RESOURCE_TOLERATION,
    &storage_class::PLUGIN,
    &in_use_protection::PLUGIN,
    &owner_references::PLUGIN,
    &claim_resize::PLUGIN,
    &runtime_class::PLUGIN,
    &certificate_approval::PLUGIN,
    &certificate_signing::PLUGIN,
    &certificate_subject::PLUGIN,
    &ingress_class::PLUGIN,
    &pod_topology_labels::PLUGIN,
    &declared_features::PLUGIN,
    &pod_resize::PLUGIN,
    &more::DENY_EXTERNAL_IPS,
    &escalation::PLUGIN,
    // MutatingAdmissionPolicy, MutatingAdmissionWebhook, ValidatingAdmissionPolicy,
    // ValidatingAdmissionWebhook.
    &resource_quota::PLUGIN,
    &more::ALWAYS_DENY,
];

/// The plugins that run, in order: the chain with what the flags add and without what they take away.
pub(crate) fn plugins(flags: &Flags) -> Result<Vec<&'static Plugin>, StartError> {
    let (on, off) = (&flags.enable_admission_plugins, &flags.disable_admission_plugins);
    let wrong = |reason: String| StartError::Config { what: "admission plugins", reason };
    // What has no name of upstream's is a rule of the server's own.
    let known = |name: &str| name != escalation::PLUGIN.name && CHAIN.iter().any(|plugin| plugin.name == name);
    for (what, names) in [("enable-admission-plugins", on), ("disable-admission-plugins", off)] {
        if let Some(name) = names.iter().find(|name| !known(name)) {
            return Err(wrong(format!("{what} plugin {name:?} is unknown")));
        }
    }
    if let Some(both) = on.iter().find(|name| off.contains(name)) {
        return Err(wrong(format!("{both} in enable-admission-plugins and disable-admission-plugins overlapped")));
    }
    let runs = |plugin: &&&Plugin| {
        let named = |list: &[String]| list.iter().any(|name| name == plugin.name);
        named(on) || (!plugin.off && !named(off))
    };
    Ok(CHAIN.iter().filter(runs).copied().collect())
}

/// First phase: every plugin's changes.
pub(crate) async fn admit(state: &State, attributes: &Attributes<'_>, object: &mut Value) -> Result<(), Failure> {
    for plugin in &state.plugins {
        if let Some(admit) = plugin.admit {
            admit(state, attributes, object).inspect_err(|status| refused(plugin, attributes, status))?;
        }
        if let Some(admit) = plugin.admit_async {
            admit(state, attributes, object).await.inspect_err(|status| refused(plugin, attributes, status))?;
        }
    }
    Ok(())
}

/// Second phase, after the kind's own validation.
pub(crate) async fn validate(state: &State, attributes: &Attributes<'_>, object: &Value) -> Result<(), Failure> {
    for plugin in &state.plugins {
        if let Some(validate) = plugin.validate {
            validate(state, attributes, object).inspect_err(|status| refused(plugin, attributes, status))?;
        }
        if let Some(validate) = plugin.validate_async {
            validate(state, attributes, object).await.inspect_err(|status| refused(plugin, attributes, status))?;
        }
    }
    Ok(())
}

/// Follows a write that was admitted: what it was charged is given back if it did not happen.
pub(crate) async fn settle(state: &State, namespace: Option<&str>, notes: &Notes, written: bool) {
    let charges = notes.take_charges();
    if let Some(namespace) = namespace.filter(|_| !written && !charges.is_empty()) {
        resource_quota::give_back(state, namespace, charges).await;
    }
}

fn refused(plugin: &Plugin, attributes: &Attributes<'_>, status: &Status) {
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

/// Whether a pod itself is written again, rather than one of its subresources.
fn is_pod_update(attributes: &Attributes<'_>) -> bool {
    attributes.operation == Operation::Update
        && attributes.subresource.is_empty()
        && attributes.resource.group.is_empty()
        && attributes.resource.plural == "pods"
}

/// The objects of a resource in a namespace, as trees and by name.
fn in_namespace(state: &State, resource: &'static Resource, namespace: Option<&str>) -> Result<Vec<Value>, Failure> {
    let found = state.cache.objects(resource);
    found.iter().filter(|object| object.namespace() == namespace).map(|object| objects::tree(object)).collect()
}

/// The name of the class that one of these annotations marks as the default; of several the newest.
fn newest_default(state: &State, resource: &'static Resource, annotations: &[&str]) -> Option<String> {
    let classes = state.cache.objects(resource);
    let trees = classes.iter().filter_map(|class| objects::tree(class).ok());
    trees
        .filter(|class| annotations.iter().any(|annotation| meta::annotation(class, annotation) == Some("true")))
        .map(|class| {
            let created = meta::creation_timestamp(&class).unwrap_or_default().to_owned();
            (std::cmp::Reverse(created), meta::name(&class).to_owned())
        })
        .min()
        .map(|(_, name)| name)
}

/// Whether a user may approve or sign for a signer, by its name or for its whole domain.
async fn may_for_signer(state: &State, user: &User, verb: &str, signer: &str) -> bool {
    let domain = format!("{}/*", signer.split('/').next().unwrap_or_default());
    for name in [signer, &domain] {
        let asked = authz::Attributes {
            verb,
            is_resource: true,
            group: "certificates.k8s.io",
            resource: "signers",
            name,
            ..authz::Attributes::default()
        };
        if state.authz.authorize(&state.cache, user, &asked).await.is_allowed() {
            return true;
        }
    }
    false
}
