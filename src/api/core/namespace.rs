//! Namespace: a scope for names, kept until its content is gone.

use crate::checks::complain;
use crate::meta::names;
use crate::registry::{Action, Churn, Column, Resource, Rules, Scope, Subresource, verbs};
use crate::status::{FieldErrors, Path};
use crate::{table, tree};
use serde_json::{Value, json};

/// Namespaces.
pub static NAMESPACES: Resource = Resource {
    group: "",
    version: "v1",
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    scope: Scope::Cluster,
    verbs: verbs::NO_COLLECTION_DELETE,
    short_names: &["ns"],
    categories: &[],
    type_name: "io.k8s.api.core.v1.Namespace",
    churn: Churn::Durable,
    subresources: &[
        Subresource { name: "finalize", gvk: ("", "v1", "Namespace"), verbs: verbs::UPDATE, action: Action::Finalize },
        Subresource {
            name: "status",
            gvk: ("", "v1", "Namespace"),
            verbs: verbs::GET_PATCH_UPDATE,
            action: Action::Status,
        },
    ],
    columns: &[Column::NAME, Column::new("Status", "string"), Column::new("Age", "string")],
    rules: Rules {
        name: crate::meta::names::dns_label,
        default,
        prepare_create,
        prepare_update,
        fields,
        row,
        validate,
        validate_status,
        ..Rules::NONE
    },
};

/// The finalizer that the namespace controller removes when the content is gone.
const FINALIZER: &str = "kubernetes";

fn default(namespace: &mut Value) {
    let namespace = tree::object(namespace);
    let metadata = tree::ensure(namespace, "metadata");
    if let Some(name) = metadata.get("name").and_then(tree::some_text).map(Value::from) {
        tree::ensure(metadata, "labels").insert("kubernetes.io/metadata.name".to_owned(), name);
    }
    tree::ensure(namespace, "spec");
    tree::default_zero(tree::ensure(namespace, "status"), "phase", "Active");
}

fn prepare_create(namespace: &mut Value) {
    default(namespace);
    let namespace = tree::object(namespace);
    namespace.insert("status".to_owned(), json!({"phase": "Active"}));
    let finalizers = tree::ensure(namespace, "spec").entry("finalizers").or_insert(json!([]));
    if let Some(list) = finalizers.as_array_mut().filter(|l| !l.iter().any(|f| f == FINALIZER)) {
        list.push(FINALIZER.into());
    }
}

fn prepare_update(new: &mut Value, old: &Value) {
    let namespace = tree::object(new);
    tree::keep_status(namespace, old);
    let spec = tree::ensure(namespace, "spec");
    match old["spec"].get("finalizers") {
        Some(finalizers) => spec.insert("finalizers".to_owned(), finalizers.clone()),
        None => spec.remove("finalizers"),
    };
}

fn fields(namespace: &Value) -> Vec<(&'static str, String)> {
    vec![("status.phase", tree::text(&namespace["status"]["phase"]).to_owned())]
}

fn row(namespace: &Value, now: i64) -> Vec<Value> {
    vec![table::name(namespace), tree::text(&namespace["status"]["phase"]).into(), table::created(namespace, now)]
}

fn validate(namespace: &Value, errors: &mut FieldErrors) {
    let path = Path::root("spec");
    let at = path.child("finalizers");
    for finalizer in tree::list(&namespace["spec"]["finalizers"]).iter().map(tree::text) {
        complain(names::qualified_name(finalizer), finalizer, at, errors);
        if !finalizer.contains('/') && finalizer != FINALIZER {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid(at, finalizer, why);
        }
    }
}

fn validate_status(new: &Value, _old: &Value, errors: &mut FieldErrors) {
    let phase = &new["status"]["phase"];
    let why = match (new["metadata"]["deletionTimestamp"].is_string(), tree::text(phase)) {
        (false, "Active") | (true, "Terminating") => return,
        (false, _) => "may only be 'Active' if `deletionTimestamp` is empty",
        (true, _) => "may only be 'Terminating' if `deletionTimestamp` is not empty",
    };
    errors.invalid("status.Phase", phase, why);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_namespace_is_active_labelled_and_finalized() {
        let mut namespace = json!({"metadata": {"name": "n"}, "status": {"phase": "Terminating"}});
        default(&mut namespace);
        prepare_create(&mut namespace);
        assert_eq!(
            namespace,
            json!({"metadata": {"name": "n", "labels": {"kubernetes.io/metadata.name": "n"}},
                "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}})
        );
        let mut update = json!({"metadata": {"name": "n"}, "spec": {}});
        prepare_update(&mut update, &namespace);
        assert_eq!(update["spec"], namespace["spec"]);
        assert_eq!(update["status"], namespace["status"]);
    }
}
