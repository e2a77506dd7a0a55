//! Nobody grants what they do not have: the check behind writes of roles and bindings.

use super::{PolicyRule, go_quote};
use crate::authn::User;
use std::collections::BTreeSet;

/// A rule with one verb on one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Right {
    group: String,
    resource: String,
    name: Option<String>,
    url: Option<String>,
    verb: String,
}

/// `*` on everything: what it takes to write an aggregation rule.
pub(crate) fn full_authority() -> Vec<PolicyRule> {
    let all = || vec!["*".to_owned()];
    vec![
        PolicyRule { verbs: all(), api_groups: all(), resources: all(), ..PolicyRule::default() },
        PolicyRule { verbs: all(), non_resource_urls: all(), ..PolicyRule::default() },
    ]
}

/// Refuses, with the text for the client, when `wanted` has more than `owned`.
pub(crate) fn confirm_no_escalation(
    user: &User,
    owned: &[PolicyRule],
    resolution_errors: &[String],
    wanted: &[PolicyRule],
) -> Result<(), String> {
    let missing = missing_rules(owned, wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let lines: BTreeSet<String> = missing.iter().map(describe).collect();
    let lines: Vec<String> = lines.into_iter().collect();
    let mut text = format!(
        "user {} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        go_quote(&user.name),
        quoted(&user.groups),
        lines.join("\n")
    );
    if !resolution_errors.is_empty() {
        text.push_str(&format!("; resolution errors: [{}]", resolution_errors.join(" ")));
    }
    Err(text)
}

/// The rules that `wanted` has and `owned` has not.
pub(crate) fn missing_rules(owned: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    let rights = wanted.iter().flat_map(rights);
    compact(rights.filter(|right| !owned.iter().any(|rule| covers(rule, right))).collect())
}

/// The rule taken apart.
fn rights(rule: &PolicyRule) -> Vec<Right> {
    let mut all = Vec::new();
    for group in &rule.api_groups {
        for resource in &rule.resources {
            for verb in &rule.verbs {
                let right = |name: Option<&String>| Right {
                    group: group.clone(),
                    resource: resource.clone(),
                    name: name.cloned(),
                    url: None,
                    verb: verb.clone(),
                };
                if rule.resource_names.is_empty() {
                    all.push(right(None));
                } else {
                    all.extend(rule.resource_names.iter().map(|name| right(Some(name))));
                }
            }
        }
    }
    for url in &rule.non_resource_urls {
        for verb in &rule.verbs {
            let (group, resource) = (String::new(), String::new());
            all.push(Right { group, resource, name: None, url: Some(url.clone()), verb: verb.clone() });
        }
    }
    all
}

fn covers(rule: &PolicyRule, right: &Right) -> bool {
    let has = |list: &[String], wanted: &str| list.iter().any(|one| one == "*" || one == wanted);
    if !has(&rule.verbs, &right.verb) {
        return false;
    }
    if let Some(url) = &right.url {
        return rule.non_resource_urls.iter().any(|owned| match owned.strip_suffix('*') {
            Some(prefix) => owned == "*" || owned == url || url.starts_with(prefix),
            None => owned == url,
        });
    }
    has(&rule.api_groups, &right.group)
        && rule.resources.iter().any(|owned| covers_resource(owned, &right.resource))
        && (rule.resource_names.is_empty() || right.name.as_ref().is_some_and(|n| rule.resource_names.contains(n)))
}

/// `*/scale` covers every kind's scale, `*` everything.
fn covers_resource(owned: &str, wanted: &str) -> bool {
    if owned == "*" || owned == wanted {
        return true;
    }
    match (owned.strip_prefix("*/"), wanted.split_once('/')) {
        (Some(owned), Some((_, wanted))) => owned == wanted,
        _ => false,
    }
}

/// Puts the verbs of one resource (and name) together again.
fn compact(rights: Vec<Right>) -> Vec<PolicyRule> {
    let mut rules: Vec<PolicyRule> = Vec::new();
    for right in rights {
        let mut rule = PolicyRule { verbs: vec![right.verb], ..PolicyRule::default() };
        match right.url {
            Some(url) => rule.non_resource_urls.push(url),
            None => {
                rule.api_groups.push(right.group);
                rule.resources.push(right.resource);
                rule.resource_names.extend(right.name);
            }
        }
        let same = |have: &&mut PolicyRule| {
            have.non_resource_urls.is_empty()
                && have.api_groups == rule.api_groups
                && have.resources == rule.resources
                && have.resource_names == rule.resource_names
        };
        match rules.iter_mut().find(same) {
            Some(have) => have.verbs.append(&mut rule.verbs),
            None => rules.push(rule),
        }
    }
    rules
}

fn describe(rule: &PolicyRule) -> String {
    let parts = [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("NonResourceURLs", &rule.non_resource_urls),
        ("ResourceNames", &rule.resource_names),
        ("Verbs", &rule.verbs),
    ];
    let parts = parts.into_iter().filter(|(_, list)| !list.is_empty());
    let parts: Vec<String> = parts.map(|(name, list)| format!("{name}:{}", quoted(list))).collect();
    format!("{{{}}}", parts.join(", "))
}

/// `["a" "b"]`.
fn quoted(list: &[String]) -> String {
    let list: Vec<String> = list.iter().map(|one| go_quote(one)).collect();
    format!("[{}]", list.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(groups: &[&str], resources: &[&str], names: &[&str], verbs: &[&str]) -> PolicyRule {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        PolicyRule {
            api_groups: own(groups),
            resources: own(resources),
            resource_names: own(names),
            verbs: own(verbs),
            non_resource_urls: Vec::new(),
        }
    }

    #[test]
    fn what_is_missing_is_listed() {
        let user = User::authenticated("bob", ["team".to_owned()]);
        let owned = [rule(&[""], &["pods", "*/scale"], &[], &["get"])];
        let ok = [rule(&[""], &["pods", "x/scale"], &["a"], &["get"])];
        assert_eq!(confirm_no_escalation(&user, &owned, &[], &ok), Ok(()));
        let more = [rule(&[""], &["pods", "secrets"], &[], &["get", "list"]), rule(&["apps"], &["*"], &["n"], &["*"])];
        assert_eq!(
            confirm_no_escalation(&user, &owned, &[], &more).unwrap_err(),
            "user \"bob\" (groups=[\"team\" \"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n\
             {APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"list\"]}\n\
             {APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"list\"]}\n\
             {APIGroups:[\"apps\"], Resources:[\"*\"], ResourceNames:[\"n\"], Verbs:[\"*\"]}"
        );
    }

    #[test]
    fn names_and_paths_are_limits() {
        let user = User::authenticated("bob", []);
        let named = [rule(&[""], &["pods"], &["a"], &["get"])];
        assert!(confirm_no_escalation(&user, &named, &[], &[rule(&[""], &["pods"], &[], &["get"])]).is_err());
        assert!(confirm_no_escalation(&user, &named, &[], &[rule(&[""], &["pods"], &["b"], &["get"])]).is_err());
        let urls = |url: &str| {
            let (verbs, non_resource_urls) = (vec!["get".to_owned()], vec![url.to_owned()]);
            [PolicyRule { verbs, non_resource_urls, ..PolicyRule::default() }]
        };
        assert!(confirm_no_escalation(&user, &urls("/apis*"), &[], &urls("/apis/x")).is_ok());
        assert!(confirm_no_escalation(&user, &urls("/apis/x"), &[], &urls("/apis/*")).is_err());
        assert!(confirm_no_escalation(&user, &full_authority(), &[], &full_authority()).is_ok());
    }
}
