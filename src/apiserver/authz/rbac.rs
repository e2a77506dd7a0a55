//! Role-based access control over small decoded projections of the roles and bindings.
//!
//! The projections follow the cache lazily: a decision first brings in what has changed since the
//! last one, so a role that was just written counts for the very next request.

use super::{Attributes, Decision, PolicyRule, aggregate};
use crate::authn::{SERVICE_ACCOUNT_PREFIX, User};
use crate::cache::{Cache, CachedObject};
use naru_api::registry::{self, Resource};
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::{Arc, RwLock};

/// The RBAC authorizer.
#[derive(Debug, Default)]
pub(crate) struct Rbac {
    /// Leaf lock: nothing else is locked while it is held, and no await happens under it.
    index: RwLock<Arc<Index>>,
}

#[derive(Debug, Default, Clone)]
struct Index {
    /// The newest revision of each of the four resources that is in here.
    revisions: [i64; 4],
    roles: HashMap<Key, Entry<Rules>>,
    cluster_roles: HashMap<Key, Entry<Rules>>,
    bindings: HashMap<Key, Entry<Binding>>,
    cluster_bindings: HashMap<Key, Entry<Binding>>,
}

/// Namespace (empty for cluster scope) and name.
type Key = (Arc<str>, Arc<str>);

#[derive(Debug)]
struct Entry<T> {
    revision: i64,
    value: Arc<T>,
}

impl<T> Clone for Entry<T> {
    fn clone(&self) -> Self {
        Self { revision: self.revision, value: self.value.clone() }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Rules {
    rules: Option<Vec<PolicyRule>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Binding {
    subjects: Option<Vec<Subject>>,
    role_ref: RoleRef,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Subject {
    kind: String,
    name: String,
    namespace: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RoleRef {
    kind: String,
    name: String,
}

impl Subject {
    fn is(&self, user: &User, binding_namespace: &str) -> bool {
        match self.kind.as_str() {
            "User" => self.name == user.name,
            "Group" => user.in_group(&self.name),
            "ServiceAccount" => {
                let namespace = if self.namespace.is_empty() { binding_namespace } else { &self.namespace };
                user.name
                    .strip_prefix(SERVICE_ACCOUNT_PREFIX)
                    .and_then(|rest| rest.split_once(':'))
                    .is_some_and(|(ns, name)| ns == namespace && name == self.name)
            }
            _ => false,
        }
    }
}

impl Rbac {
    /// Looks for a rule that allows this; cluster-wide bindings first.
    pub(crate) fn authorize(&self, cache: &Cache, user: &User, attributes: &Attributes<'_>) -> Decision {
        let mut allowed = None;
        let errors = self.current(cache).visit(user, attributes.namespace, |rules, reason| {
            if rules.iter().any(|rule| rule.allows(attributes)) {
                allowed = Some(reason());
            }
            allowed.is_none()
        });
        match (allowed, aggregate(&errors)) {
            (Some(reason), _) => Decision::allow(reason),
            (None, Some(errors)) => Decision::no_opinion(format!("RBAC: {errors}")),
            (None, None) => Decision::default(),
        }
    }

    /// The rules of the role that a binding in `namespace` (empty: cluster-wide) refers to; `None` when there is
    /// no such role.
    pub(crate) fn rules_of_role(
        &self,
        cache: &Cache,
        kind: &str,
        name: &str,
        namespace: &str,
    ) -> Option<Vec<PolicyRule>> {
        let reference = RoleRef { kind: kind.to_owned(), name: name.to_owned() };
        self.current(cache).rules(&reference, namespace).map(<[PolicyRule]>::to_vec).ok()
    }

    /// All rules that apply to a user in a namespace.
    pub(crate) fn rules_for(&self, cache: &Cache, user: &User, namespace: &str) -> (Vec<PolicyRule>, Vec<String>) {
        let mut all = Vec::new();
        let errors = self.current(cache).visit(user, namespace, |rules, _| {
            all.extend_from_slice(rules);
            true
        });
        (all, errors)
    }

    /// The index with everything that the cache has by now.
    fn current(&self, cache: &Cache) -> Arc<Index> {
        let revisions = RESOURCES.map(|resource| cache.last_change(resource));
        let index = self.index.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        if index.revisions == revisions {
            return index;
        }
        let mut next = (*index).clone();
        drop(index);
        for (position, resource) in RESOURCES.into_iter().enumerate() {
            if next.revisions[position] == revisions[position] {
                continue;
            }
            let objects = cache.objects(resource);
            match position {
                0 => refresh(&mut next.roles, &objects),
                1 => refresh(&mut next.bindings, &objects),
                2 => refresh(&mut next.cluster_roles, &objects),
                _ => refresh(&mut next.cluster_bindings, &objects),
            }
        }
        next.revisions = revisions;
        let next = Arc::new(next);
        *self.index.write().unwrap_or_else(std::sync::PoisonError::into_inner) = next.clone();
        next
    }
}

/// In the order of `Index::revisions`.
const RESOURCES: [&Resource; 4] =
    [&registry::ROLES, &registry::ROLE_BINDINGS, &registry::CLUSTER_ROLES, &registry::CLUSTER_ROLE_BINDINGS];

/// Decodes only what is new or has changed.
fn refresh<T: for<'de> Deserialize<'de> + Default>(
    entries: &mut HashMap<Key, Entry<T>>,
    objects: &[Arc<CachedObject>],
) {
    let mut old = std::mem::take(entries);
    for object in objects {
        let key: Key = (object.namespace().unwrap_or_default().into(), object.name().into());
        let revision = object.revision();
        let entry = match old.remove(&key) {
            Some(entry) if entry.revision == revision => entry,
            _ => {
                let value = serde_json::from_slice(&object.json()).unwrap_or_else(|error| {
                    tracing::error!(name = %key.1, %error, "stored RBAC object cannot be read; it grants nothing");
                    T::default()
                });
                Entry { revision, value: Arc::new(value) }
            }
        };
        entries.insert(key, entry);
    }
}

impl Index {
    /// Calls `visit` with the rules of each binding that applies, until it returns false.
    /// Returns what could not be resolved.
    fn visit(
        &self,
        user: &User,
        namespace: &str,
        mut visit: impl FnMut(&[PolicyRule], &dyn Fn() -> String) -> bool,
    ) -> Vec<String> {
        let mut errors = Vec::new();
        let empty: &str = "";
        for ((_, name), entry) in &self.cluster_bindings {
            let binding = &entry.value;
            let Some(subject) = binding.subject_of(user, empty) else { continue };
            match self.rules(&binding.role_ref, empty) {
                Ok(rules) => {
                    let reason = || binding.reason("ClusterRoleBinding", name, subject);
                    if !visit(rules, &reason) {
                        return errors;
                    }
                }
                Err(error) => errors.push(error),
            }
        }
        if namespace.is_empty() {
            return errors;
        }
        for ((ns, name), entry) in &self.bindings {
            if **ns != *namespace {
                continue;
            }
            let binding = &entry.value;
            let Some(subject) = binding.subject_of(user, namespace) else { continue };
            match self.rules(&binding.role_ref, namespace) {
                Ok(rules) => {
                    let reason = || binding.reason("RoleBinding", &format!("{name}/{namespace}"), subject);
                    if !visit(rules, &reason) {
                        return errors;
                    }
                }
                Err(error) => errors.push(error),
            }
        }
        errors
    }

    fn rules(&self, reference: &RoleRef, namespace: &str) -> Result<&[PolicyRule], String> {
        let (entries, scope, what) = match reference.kind.as_str() {
            "Role" => (&self.roles, namespace, "role"),
            _ => (&self.cluster_roles, "", "clusterrole"),
        };
        let key: Key = (scope.into(), reference.name.as_str().into());
        match entries.get(&key) {
            Some(entry) => Ok(entry.value.rules.as_deref().unwrap_or_default()),
            None => Err(format!("{what}.rbac.authorization.k8s.io {} not found", super::go_quote(&reference.name))),
        }
    }
}

impl Binding {
    fn subject_of(&self, user: &User, namespace: &str) -> Option<&Subject> {
        self.subjects.as_deref().unwrap_or_default().iter().find(|subject| subject.is(user, namespace))
    }

    fn reason(&self, kind: &str, name: &str, subject: &Subject) -> String {
        let who = match subject.kind.as_str() {
            "ServiceAccount" => {
                // A binding in a namespace is named with it.
                let own = name.split_once('/').map_or("", |(_, namespace)| namespace);
                let namespace = if subject.namespace.is_empty() { own } else { &subject.namespace };
                format!("ServiceAccount \"{}/{namespace}\"", subject.name)
            }
            kind => format!("{kind} \"{}\"", subject.name),
        };
        format!("RBAC: allowed by {kind} \"{name}\" of {} \"{}\" to {who}", self.role_ref.kind, self.role_ref.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_named_in_full() {
        let subject =
            |kind: &str, name: &str| Subject { kind: kind.into(), name: name.into(), namespace: String::new() };
        let jane = User::authenticated("jane", []);
        assert!(subject("User", "jane").is(&jane, ""));
        assert!(!subject("User", "*").is(&jane, ""), "nobody's name is a star");
        assert!(subject("Group", "system:authenticated").is(&jane, ""));
        let robot = User::authenticated("system:serviceaccount:here:robot", []);
        let account = subject("ServiceAccount", "robot");
        assert!(account.is(&robot, "here"), "of the binding's namespace");
        assert!(!account.is(&robot, "there") && !account.is(&robot, ""));
    }
}
