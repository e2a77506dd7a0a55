//! Each default role against each verb and resource, held against a table made from upstream's own roles.

use super::*;
use crate::authz::{Attributes, PolicyRule};
use std::collections::BTreeMap;

/// Three columns: role, verbs, what they are allowed on. Roles limited to names count as allowing nothing here.
const TABLE: &str = include_str!("permissions.txt");
const VERBS: [&str; 11] = [
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
    "impersonate",
    "bind",
    "escalate",
];

fn list(name: &str) -> Vec<&'static str> {
    let line = TABLE.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('\t'));
    line.unwrap().split(' ').collect()
}

fn verbs_on(rules: &[PolicyRule], resource: &str) -> String {
    let (group, resource) = resource.split_once(':').unwrap();
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let allowed = |verb: &&str| {
        let asked = Attributes { verb, is_resource: true, group, resource, subresource, ..Attributes::default() };
        rules.iter().any(|rule| rule.allows(&asked))
    };
    VERBS.iter().copied().filter(allowed).collect::<Vec<_>>().join(",")
}

/// The table's lines of one role.
fn lines(who: &str, rules: &[PolicyRule], resources: &[&str], paths: &[&str]) -> Vec<String> {
    let mut by_verbs: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for resource in resources {
        by_verbs.entry(verbs_on(rules, resource)).or_default().push(resource);
    }
    by_verbs.remove("");
    let mut out: Vec<String> = by_verbs
        .into_iter()
        .map(|(verbs, on)| {
            let on = if on.len() == resources.len() { "*".to_owned() } else { on.join(" ") };
            format!("{who}\t{verbs}\t{on}")
        })
        .collect();
    let open = |path: &&str| {
        let asked = Attributes { verb: "get", path, ..Attributes::default() };
        rules.iter().any(|rule| rule.allows(&asked))
    };
    let open: Vec<&str> = paths.iter().copied().filter(open).collect();
    if !open.is_empty() {
        out.push(format!("{who}\tpaths\t{}", open.join(" ")));
    }
    if out.is_empty() {
        out.push(format!("{who}\t-"));
    }
    out
}

#[tokio::test]
async fn default_roles_allow_what_upstreams_do() {
    let server = Server::start().await;
    let state = server.state();
    let (resources, paths) = (list("resources"), list("paths"));
    let mut got = Vec::new();
    for (resource, kind) in [(&naru_api::registry::CLUSTER_ROLES, "ClusterRole"), (&naru_api::registry::ROLES, "Role")]
    {
        let mut roles = state.cache.objects(resource);
        roles.sort_by(|a, b| (a.namespace(), a.name()).cmp(&(b.namespace(), b.name())));
        for role in roles {
            let namespace = role.namespace().unwrap_or_default();
            let rules = state.authz.rbac.rules_of_role(&state.cache, kind, role.name(), namespace).unwrap();
            let place = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
            got.extend(lines(&format!("{kind} {place}{}", role.name()), &rules, &resources, &paths));
        }
    }
    let wanted: Vec<&str> =
        TABLE.lines().filter(|line| line.starts_with("Role ") || line.starts_with("ClusterRole ")).collect();
    let missing: Vec<_> = wanted.iter().filter(|line| !got.iter().any(|have| have == *line)).collect();
    let extra: Vec<_> = got.iter().filter(|line| !wanted.contains(&line.as_str())).collect();
    assert!(missing.is_empty() && extra.is_empty(), "missing: {missing:#?}\nextra: {extra:#?}");
    assert_eq!(got.len(), wanted.len());
}
