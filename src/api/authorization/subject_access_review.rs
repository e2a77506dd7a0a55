//! SubjectAccessReview.

use crate::registry::{Churn, Resource, Rules, Scope, verbs};

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
    rules: Rules::NONE,
};
