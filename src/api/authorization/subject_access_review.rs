//! SubjectAccessReview.

use crate::registry::{Churn, Resource, Rules, Scope, verbs};
use crate::status::FieldErrors;
use crate::tree;
use serde_json::Value;

/// SubjectAccessReviews.
pub static SUBJECT_ACCESS_REVIEWS: Resource = Resource {
    group: "authorization.k8s.io",
    version: "v1",
    kind: "SubjectAccessReview",
    plural: "subjectaccessreviews",
    singular: "subjectaccessreview",
    scope: Scope::Cluster,
    verbs: verbs::CREATE,
    short_names: &[],
    categories: &[],
    type_name: "io.k8s.api.authorization.v1.SubjectAccessReview",
    churn: Churn::Durable,
    subresources: &[],
    columns: &[],
    rules: Rules { name: |_| Vec::new(), validate, ..Rules::NONE },
};

pub(super) fn validate(review: &Value, errors: &mut FieldErrors) {
    super::validate::attributes(review, errors);
    let spec = &review["spec"];
    if tree::is_empty(&spec["user"]) && tree::is_empty(&spec["groups"]) {
        errors.invalid("spec.user", tree::text(&spec["user"]), "at least one of user or group must be specified");
    }
}
