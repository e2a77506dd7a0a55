//! What the kinds of roles have in common.

use crate::meta::validate;
use crate::status::{FieldErrors, Path};
use crate::tree::{is_empty, list};
use serde_json::Value;

/// The rules of a role; only a cluster role may name paths that are no resources.
pub(super) fn rules(role: &Value, cluster: bool, errors: &mut FieldErrors) {
    let path = Path::root("rules");
    for (i, rule) in list(&role["rules"]).iter().enumerate() {
        let item = path.index(i);
        if is_empty(&rule["verbs"]) {
            errors.required(item.child("verbs"), "verbs must contain at least one value");
        }
        if !is_empty(&rule["nonResourceURLs"]) {
            let at = item.child("nonResourceURLs");
            if !cluster {
                let why = "namespaced rules cannot apply to non-resource URLs";
                errors.invalid(at, &rule["nonResourceURLs"], why);
            }
            if ["apiGroups", "resources", "resourceNames"].iter().any(|f| !is_empty(&rule[*f])) {
                let why = "rules cannot apply to both regular resources and non-resource URLs";
                errors.invalid(at, &rule["nonResourceURLs"], why);
            }
            continue;
        }
        if is_empty(&rule["apiGroups"]) {
            errors.required(item.child("apiGroups"), "resource rules must supply at least one api group");
        }
        if is_empty(&rule["resources"]) {
            errors.required(item.child("resources"), "resource rules must supply at least one resource");
        }
    }
}

/// The selectors of the roles that a cluster role gathers.
pub(super) fn aggregation(role: &Value, errors: &mut FieldErrors) {
    let aggregation = &role["aggregationRule"];
    if !aggregation.is_object() {
        return;
    }
    let path = Path::root("aggregationRule");
    let at = path.child("clusterRoleSelectors");
    let selectors = list(&aggregation["clusterRoleSelectors"]);
    if selectors.is_empty() {
        errors.required(at, "at least one clusterRoleSelector required if aggregationRule is non-nil");
    }
    for (i, selector) in selectors.iter().enumerate() {
        let before = errors.len();
        validate::label_selector(selector, &at.index(i), errors);
        if errors.len() > before {
            errors.invalid(at.index(i), None::<i64>, "invalid label selector.");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rules_name_what_they_are_about() {
        let role =
            json!({"rules": [{"verbs": []}, {"verbs": ["get"], "nonResourceURLs": ["/x"], "resources": ["pods"]}]});
        let mut errors = FieldErrors::default();
        rules(&role, false, &mut errors);
        assert_eq!(
            errors.messages(),
            [
                "rules[0].verbs: Required value: verbs must contain at least one value",
                "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
                "rules[0].resources: Required value: resource rules must supply at least one resource",
                "rules[1].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs",
                "rules[1].nonResourceURLs: Invalid value: [\"/x\"]: rules cannot apply to both regular resources and non-resource URLs",
            ]
        );
    }
}
