//! ResourceClaimTemplate: claims that are made for pods.

use super::claim;
use crate::internal;
use crate::meta::validate;
use crate::registry::{Churn, Column, Resource, Rules, Scope, verbs};
use crate::status::{FieldErrors, Path};
use crate::{table, tree};
use serde_json::Value;

/// ResourceClaimTemplates.
pub static RESOURCE_CLAIM_TEMPLATES: Resource = Resource {
    group: "resource.k8s.io",
    version: "v1",
    kind: "ResourceClaimTemplate",
    plural: "resourceclaimtemplates",
    singular: "resourceclaimtemplate",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &[],
    categories: &[],
    type_name: "io.k8s.api.resource.v1.ResourceClaimTemplate",
    churn: Churn::Durable,
    subresources: &[],
    columns: &[Column::NAME, Column::new("Age", "string")],
    rules: Rules { default, row, validate_create: validate, validate_update, ..Rules::NONE },
};

fn default(template: &mut Value) {
    let spec = tree::sub(tree::object(template), "spec").and_then(|spec| tree::sub(spec, "spec"));
    if let Some(spec) = spec {
        claim::default(spec);
    }
}

fn row(template: &Value, now: i64) -> Vec<Value> {
    vec![table::name(template), table::created(template, now)]
}

fn validate(template: &Value, errors: &mut FieldErrors) {
    let (spec, path) = (&template["spec"], Path::root("spec"));
    let metadata = path.child("metadata");
    validate::labels(&spec["metadata"]["labels"], &metadata.child("labels"), errors);
    validate::annotations(&spec["metadata"]["annotations"], &metadata.child("annotations"), errors);
    claim::spec(&spec["spec"], path.child("spec"), errors);
}

fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    if new["spec"] != old["spec"] {
        errors.immutable("spec", internal::shown(&new["spec"], "io.k8s.api.resource.v1.ResourceClaimTemplateSpec"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn templates_are_checked_as_claims_and_stay() {
        let mut template = json!({"spec": {"spec": {"devices": {"requests": [{"name": "a", "exactly": {}}]}}}});
        default(&mut template);
        let exactly = &template["spec"]["spec"]["devices"]["requests"][0]["exactly"];
        assert_eq!(*exactly, json!({"allocationMode": "ExactCount", "count": 1}));
        let mut errors = FieldErrors::default();
        validate(&template, &mut errors);
        let at = "spec.spec.devices.requests[0].exactly.deviceClassName";
        assert_eq!(errors.messages(), [format!("{at}: Required value")]);
        let mut errors = FieldErrors::default();
        validate_update(&json!({"spec": {}}), &template, &mut errors);
        assert_eq!(
            errors.messages(),
            [
                r#"spec: Invalid value: {"Spec":{"Devices":{"Requests":null,"Constraints":null,"Config":null}}}: field is immutable"#
            ]
        );
    }
}
