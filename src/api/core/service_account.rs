//! ServiceAccount: an identity for pods.

use crate::registry::{Action, Churn, Column, Resource, Rules, Scope, Subresource, verbs};
use crate::{table, tree};
use serde_json::Value;

/// ServiceAccounts.
pub static SERVICE_ACCOUNTS: Resource = Resource {
    group: "",
    version: "v1",
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &["sa"],
    categories: &[],
    type_name: "io.k8s.api.core.v1.ServiceAccount",
    churn: Churn::Durable,
    subresources: &[Subresource {
        name: "token",
        gvk: ("authentication.k8s.io", "v1", "TokenRequest"),
        verbs: verbs::CREATE,
        action: Action::Token,
    }],
    columns: &[Column::NAME, Column::new("Age", "string")],
    rules: Rules {
        prepare_create: keep_names_of_secrets,
        prepare_update: |new, _| keep_names_of_secrets(new),
        row,
        ..Rules::NONE
    },
};

/// References to secrets are by name alone.
fn keep_names_of_secrets(account: &mut Value) {
    for secret in tree::items(tree::object(account), "secrets") {
        let name = secret.get("name").cloned();
        secret.clear();
        secret.extend(name.map(|n| ("name".to_owned(), n)));
    }
}

fn row(account: &Value, now: i64) -> Vec<Value> {
    vec![table::name(account), table::created(account, now)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn secret_references_keep_their_name_only() {
        let mut account = json!({"secrets": [{"name": "s", "namespace": "n", "uid": "u"}]});
        keep_names_of_secrets(&mut account);
        assert_eq!(account, json!({"secrets": [{"name": "s"}]}));
    }
}
