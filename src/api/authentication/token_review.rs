//! TokenReview: whose token is this?.

use crate::registry::{Churn, Resource, Rules, Scope, verbs};

/// TokenReviews.
pub static TOKEN_REVIEWS: Resource = Resource {
    group: "authentication.k8s.io",
    version: "v1",
    kind: "TokenReview",
    plural: "tokenreviews",
    singular: "tokenreview",
    scope: Scope::Cluster,
    verbs: verbs::CREATE,
    short_names: &[],
    categories: &[],
    type_name: "io.k8s.api.authentication.v1.TokenReview",
    churn: Churn::Durable,
    subresources: &[],
    columns: &[],
    rules: Rules { name: |_| Vec::new(), ..Rules::NONE },
};
