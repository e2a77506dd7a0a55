//! LocalSubjectAccessReview: may somebody do this in this namespace?.

use crate::registry::{Churn, Resource, Rules, Scope, verbs};
use crate::status::FieldErrors;
use crate::tree;
use serde_json::Value;

/// LocalSubjectAccessReviews.
pub static LOCAL_SUBJECT_ACCESS_REVIEWS: Resource = Resource {
    group: "authorization.k8s.io",
    version: "v1",
    kind: "LocalSubjectAccessReview",
    plural: "localsubjectaccessreviews",
    singular: "localsubjectaccessreview",
    scope: Scope::Namespaced,
    verbs: verbs::CREATE,
    short_names: &[],
    categories: &[],
    type_name: "io.k8s.api.authorization.v1.LocalSubjectAccessReview",
    churn: Churn::Durable,
    subresources: &[],
    columns: &[],
    rules: Rules { name: |_| Vec::new(), validate, ..Rules::NONE },
};

fn validate(review: &Value, errors: &mut FieldErrors) {
    super::subject_access_review::validate(review, errors);
    let (spec, given) = (&review["spec"]["resourceAttributes"], &review["metadata"]["namespace"]);
    if spec.is_object() && tree::text(&spec["namespace"]) != tree::text(given) {
        let why = "must match metadata.namespace";
        errors.invalid("spec.resourceAttributes.namespace", tree::text(&spec["namespace"]), why);
    }
    if review["spec"]["nonResourceAttributes"].is_object() {
        let why = "disallowed on this kind of request";
        errors.invalid("spec.nonResourceAttributes", &review["spec"]["nonResourceAttributes"], why);
    }
}
