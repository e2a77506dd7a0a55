//! RBAC rules and how they match.

use super::Attributes;
use serde::Deserialize;
use serde_json::Value;

/// One rule of a Role or ClusterRole.
#[derive(Debug, Clone, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PolicyRule {
    pub(crate) verbs: Vec<String>,
    #[serde(rename = "apiGroups")]
    pub(crate) api_groups: Vec<String>,
    pub(crate) resources: Vec<String>,
    pub(crate) resource_names: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    pub(crate) non_resource_urls: Vec<String>,
}

impl PolicyRule {
    /// Whether the rule allows it.
    pub(crate) fn allows(&self, a: &Attributes<'_>) -> bool {
        if !has(&self.verbs, a.verb) {
            return false;
        }
        if !a.is_resource {
            return self.non_resource_urls.iter().any(|pattern| url_matches(pattern, a.path));
        }
        has(&self.api_groups, a.group)
            && self.resources.iter().any(|resource| resource_matches(resource, a))
            && (self.resource_names.is_empty() || self.resource_names.iter().any(|name| name == a.name))
    }

    /// As it appears in SelfSubjectRulesReview.
    pub(crate) fn to_value(&self) -> Value {
        let mut rule = serde_json::Map::new();
        rule.insert("verbs".to_owned(), self.verbs.clone().into());
        if !self.non_resource_urls.is_empty() {
            rule.insert("nonResourceURLs".to_owned(), self.non_resource_urls.clone().into());
            return rule.into();
        }
        rule.insert("apiGroups".to_owned(), self.api_groups.clone().into());
        rule.insert("resources".to_owned(), self.resources.clone().into());
        if !self.resource_names.is_empty() {
            rule.insert("resourceNames".to_owned(), self.resource_names.clone().into());
        }
        rule.into()
    }
}

fn has(values: &[String], wanted: &str) -> bool {
    values.iter().any(|value| value == "*" || value == wanted)
}

fn resource_matches(rule: &str, a: &Attributes<'_>) -> bool {
    if rule == "*" {
        return true;
    }
    match rule.split_once('/') {
        None => a.subresource.is_empty() && rule == a.resource,
        Some((resource, subresource)) => subresource == a.subresource && (resource == "*" || resource == a.resource),
    }
}

fn url_matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => pattern == path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource<'a>(verb: &'a str, resource: &'a str, subresource: &'a str, name: &'a str) -> Attributes<'a> {
        Attributes {
            verb,
            is_resource: true,
            group: "",
            resource,
            subresource,
            namespace: "ns",
            name,
            ..Attributes::default()
        }
    }

    fn rule(verbs: &[&str], resources: &[&str], names: &[&str]) -> PolicyRule {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        PolicyRule {
            verbs: own(verbs),
            api_groups: own(&[""]),
            resources: own(resources),
            resource_names: own(names),
            ..PolicyRule::default()
        }
    }

    #[test]
    fn resources_and_subresources_are_apart() {
        let pods = rule(&["get"], &["pods"], &[]);
        assert!(pods.allows(&resource("get", "pods", "", "x")));
        assert!(!pods.allows(&resource("get", "pods", "log", "x")));
        assert!(!pods.allows(&resource("list", "pods", "", "")));
        assert!(rule(&["*"], &["pods/log"], &[]).allows(&resource("get", "pods", "log", "x")));
        assert!(rule(&["*"], &["*/scale"], &[]).allows(&resource("get", "rc", "scale", "x")));
        assert!(rule(&["*"], &["*"], &[]).allows(&resource("get", "pods", "log", "x")));
    }

    #[test]
    fn names_restrict() {
        let named = rule(&["get", "list"], &["secrets"], &["a"]);
        assert!(named.allows(&resource("get", "secrets", "", "a")));
        assert!(!named.allows(&resource("get", "secrets", "", "b")));
        assert!(!named.allows(&resource("list", "secrets", "", "")));
    }

    #[test]
    fn paths() {
        assert!(url_matches("/healthz", "/healthz"));
        assert!(url_matches("/api/*", "/api/v1"));
        assert!(url_matches("*", "/anything"));
        assert!(!url_matches("/api", "/api/v1"));
    }
}
