//! SelfSubjectRulesReview: what may I do in a namespace?.

use crate::registry::{Churn, Resource, Rules, Scope, verbs};

/// SelfSubjectRulesReviews.
pub static SELF_SUBJECT_RULES_REVIEWS: Resource = Resource {
    group: "authorization.k8s.io",
    version: "v1",
    kind: "SelfSubjectRulesReview",
    plural: "selfsubjectrulesreviews",
    singular: "selfsubjectrulesreview",
    scope: Scope::Cluster,
    verbs: verbs::CREATE,
    short_names: &[],
    categories: &[],
    type_name: "io.k8s.api.authorization.v1.SelfSubjectRulesReview",
    churn: Churn::Durable,
    subresources: &[],
    columns: &[],
    rules: Rules { name: |_| Vec::new(), ..Rules::NONE },
};
