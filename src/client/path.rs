//! Request paths of resources, and query strings.

use naru_api::registry::{Resource, Scope};
use std::fmt::Write;

/// The path of a collection (`name` is `None`), an object, or an object's subresource.
///
/// `namespace` is ignored for cluster-scoped resources; `None` on a namespaced one means all namespaces.
pub fn resource_path(
    resource: &Resource,
    namespace: Option<&str>,
    name: Option<&str>,
    subresource: Option<&str>,
) -> String {
    let mut path = String::with_capacity(96);
    if resource.group.is_empty() {
        path.push_str("/api/");
    } else {
        path.push_str("/apis/");
        path.push_str(resource.group);
        path.push('/');
    }
    path.push_str(resource.version);
    if let (Scope::Namespaced, Some(namespace)) = (resource.scope, namespace) {
        path.push_str("/namespaces/");
        escape(namespace, &mut path);
    }
    path.push('/');
    path.push_str(resource.plural);
    for part in [name, subresource].into_iter().flatten() {
        path.push('/');
        escape(part, &mut path);
    }
    path
}

/// Builds a query string onto a path.
#[derive(Debug)]
pub struct Query {
    uri: String,
    separator: char,
}

impl Query {
    /// Starts with `path`, which has no query yet.
    pub fn new(path: String) -> Self {
        Self { uri: path, separator: '?' }
    }

    /// Adds `name=value`, with the value escaped.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.uri.push(self.separator);
        self.separator = '&';
        self.uri.push_str(name);
        self.uri.push('=');
        escape(value, &mut self.uri);
        self
    }

    /// Adds `name=value` if there is a value.
    pub fn set_some(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.set(name, value),
            None => self,
        }
    }

    /// The whole URI.
    pub fn build(self) -> String {
        self.uri
    }
}

/// Percent-encodes all but the characters that are unreserved everywhere in a URI.
fn escape(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("writing to a string cannot fail");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{NODES, PODS, WIDGETS};

    #[test]
    fn paths_follow_group_scope_and_subresource() {
        assert_eq!(resource_path(&PODS, None, None, None), "/api/v1/pods");
        assert_eq!(resource_path(&PODS, Some("a"), Some("b"), Some("status")), "/api/v1/namespaces/a/pods/b/status");
        assert_eq!(resource_path(&NODES, Some("a"), Some("n"), None), "/api/v1/nodes/n");
        assert_eq!(resource_path(&WIDGETS, Some("a"), None, None), "/apis/apps.example/v1/namespaces/a/widgets");
        assert_eq!(
            resource_path(&PODS, Some("a"), Some("system:x/y"), None),
            "/api/v1/namespaces/a/pods/system%3Ax%2Fy"
        );
    }

    #[test]
    fn queries_are_escaped() {
        let uri = Query::new("/api/v1/pods".into())
            .set("labelSelector", "a in (b,c)")
            .set_some("continue", None)
            .set("limit", "5")
            .build();
        assert_eq!(uri, "/api/v1/pods?labelSelector=a%20in%20%28b%2Cc%29&limit=5");
    }
}
