//! SelfSubjectAccessReview.

use crate::registry::{Churn, Resource, Rules, Scope, verbs};

/// SelfSubjectAccessReviews.
pub static SELF_SUBJECT_ACCESS_REVIEWS: Resource = Resource {
    group: "authorization.k8s.io",
    version: "v1",
    kind: "SelfSubjectAccessReview",
    plural: "selfsubjectaccessreviews",
    singular: "selfsubjectaccessreview",
    scope: Scope::Cluster,
    verbs: verbs::CREATE,
    short_names: &[],
    categories: &[],
    type_name: "io.k8s.api.authorization.v1.SelfSubjectAccessReview",
    churn: Churn::Durable,
    subresources: &[],
    columns: &[],
    rules: Rules { name: |_| Vec::new(), validate: super::validate::attributes, ..Rules::NONE },
};
