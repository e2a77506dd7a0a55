//! SelfSubjectReview: who am I?.

use crate::registry::{Churn, Resource, Rules, Scope, verbs};

/// SelfSubjectReviews.
pub static SELF_SUBJECT_REVIEWS: Resource = Resource {
    group: "authentication.k8s.io",
    version: "v1",
    kind: "SelfSubjectReview",
    plural: "selfsubjectreviews",
    singular: "selfsubjectreview",
    scope: Scope::Cluster,
    verbs: verbs::CREATE,
    short_names: &[],
    categories: &[],
    type_name: "io.k8s.api.authentication.v1.SelfSubjectReview",
    churn: Churn::Durable,
    subresources: &[],
    columns: &[],
    rules: Rules { name: |_| Vec::new(), ..Rules::NONE },
};
