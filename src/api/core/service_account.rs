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
        warnings,
        ..Rules::NONE
    },
};

/// Says which secrets pods of the account may mount.
pub const MOUNTABLE_SECRETS: &str = "kubernetes.io/enforce-mountable-secrets";

fn warnings(account: &Value) -> Vec<String> {
    let set = !account["metadata"]["annotations"][MOUNTABLE_SECRETS].is_null();
    let text = format!(
        "metadata.annotations[{MOUNTABLE_SECRETS}]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"
    );
    if set { vec![text] } else { Vec::new() }
}

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
        assert!(warnings(&account).is_empty());
        assert_eq!(warnings(&json!({"metadata": {"annotations": {MOUNTABLE_SECRETS: "false"}}})).len(), 1);
    }
}
