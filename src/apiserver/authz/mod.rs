//! Who may do what: `system:masters` may do everything, RBAC decides the rest.

mod rbac;
mod rules;

pub(crate) use rbac::Rbac;
pub(crate) use rules::PolicyRule;

use crate::authn::{MASTERS, User};
use crate::cache::Cache;
use crate::request_info::RequestInfo;

/// What somebody wants to do, as authorizers look at it.
#[derive(Debug, Clone, Copy)]
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
        }
    }

    /// `pods` or `pods/exec`.
    pub(crate) fn full_resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.to_owned()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
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

/// Decides: `Ok` with the reason when allowed, `Err` with the errors met (dangling references) when not.
pub(crate) fn authorize(
    rbac: &Rbac,
    cache: &Cache,
    user: &User,
    attributes: &Attributes<'_>,
) -> Result<String, Vec<String>> {
    if user.in_group(MASTERS) {
        return Ok(String::new());
    }
    rbac.authorize(cache, user, attributes)
}
