//! IngressClass: which controller answers for Ingresses of this class.

use crate::checks::{complain, domain_prefixed_path, required};
use crate::meta::names;
use crate::meta::prepare::{create as prepare_create, update_spec as prepare_update};
use crate::registry::{Churn, Column, Resource, Rules, Scope, verbs};
use crate::status::{FieldErrors, Path};
use crate::table;
use crate::tree::{self, some_text, text};
use serde_json::Value;

/// IngressClasses.
pub static INGRESS_CLASSES: Resource = Resource {
    group: "networking.k8s.io",
    version: "v1",
    kind: "IngressClass",
    plural: "ingressclasses",
    singular: "ingressclass",
    scope: Scope::Cluster,
    verbs: verbs::ALL,
    short_names: &[],
    categories: &[],
    type_name: "io.k8s.api.networking.v1.IngressClass",
    churn: Churn::Durable,
    subresources: &[],
    columns: &[
        Column::NAME,
        Column::new("Controller", "string"),
        Column::new("Parameters", "string"),
        Column::new("Age", "string"),
    ],
    rules: Rules { default, prepare_create, prepare_update, row, validate, validate_update, ..Rules::NONE },
};

const MAX_CONTROLLER: usize = 250;

fn default(class: &mut Value) {
    let spec = tree::ensure(tree::object(class), "spec");
    if let Some(parameters) = tree::sub(spec, "parameters") {
        tree::default(parameters, "scope", "Cluster");
    }
}

fn parameters(parameters: &Value) -> Value {
    if !parameters.is_object() {
        return "<none>".into();
    }
    let mut shown = text(&parameters["kind"]).to_owned();
    if let Some(group) = parameters["apiGroup"].as_str() {
        shown = format!("{shown}.{group}");
    }
    format!("{shown}/{}", text(&parameters["name"])).into()
}

fn row(class: &Value, now: i64) -> Vec<Value> {
    let spec = &class["spec"];
    vec![
        table::name(class),
        text(&spec["controller"]).into(),
        parameters(&spec["parameters"]),
        table::created(class, now),
    ]
}

fn validate(class: &Value, errors: &mut FieldErrors) {
    let (spec, path) = (&class["spec"], Path::root("spec"));
    let at = path.child("controller");
    if required(&spec["controller"], at, errors) {
        let controller = text(&spec["controller"]);
        if controller.len() > MAX_CONTROLLER {
            errors.too_long(at, MAX_CONTROLLER);
        }
        domain_prefixed_path(controller, at, errors);
    }
    if spec["parameters"].is_object() {
        reference(&spec["parameters"], path.child("parameters"), errors);
    }
}

/// Group, kind and name of a reference to an object of any kind.
pub(super) fn typed_reference(reference: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    if let Some(group) = reference["apiGroup"].as_str() {
        complain(names::dns_subdomain(group), group, path.child("apiGroup"), errors);
    }
    for field in ["kind", "name"] {
        if required(&reference[field], path.child(field), errors) {
            complain(names::path_segment(text(&reference[field])), &reference[field], path.child(field), errors);
        }
    }
}

fn reference(reference: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    typed_reference(reference, path, errors);
    let namespace = reference["namespace"].as_str();
    match reference["scope"].as_str() {
        None => errors.required(path.child("scope"), ""),
        Some("Namespace") => match namespace {
            None => errors.required(path.child("namespace"), "`parameters.scope` is set to 'Namespace'"),
            Some(name) => complain(names::dns_label(name), name, path.child("namespace"), errors),
        },
        Some("Cluster") => {
            if namespace.is_some() {
                errors.forbidden(path.child("namespace"), "`parameters.scope` is set to 'Cluster'");
            }
        }
        Some(other) => errors.not_supported(path.child("scope"), other, &["Cluster", "Namespace"]),
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let (new, old) = (&new["spec"]["controller"], &old["spec"]["controller"]);
    if some_text(new) != some_text(old) {
        errors.immutable("spec.controller", new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn errors_of(spec: Value) -> Vec<String> {
        let mut class = json!({ "spec": spec });
        default(&mut class);
        let mut errors = FieldErrors::default();
        validate(&class, &mut errors);
        errors.messages()
    }

    #[test]
    fn controllers_are_domain_prefixed() {
        assert_eq!(errors_of(json!({"controller": "example.com/ingress"})), [""; 0]);
        assert_eq!(errors_of(json!({})), ["spec.controller: Required value"]);
        assert_eq!(
            errors_of(json!({"controller": "nginx"})),
            [r#"spec.controller: Invalid value: "nginx": must be a domain-prefixed path (such as "acme.io/foo")"#]
        );
        assert_eq!(
            errors_of(json!({"controller": "a.b/c d"})),
            [format!("spec.controller: Invalid value: \"c d\": {}", crate::checks::BAD_PATH)]
        );
        let long = format!("a/{}", "b".repeat(MAX_CONTROLLER));
        assert_eq!(
            errors_of(json!({"controller": long})),
            ["spec.controller: Too long: may not be more than 250 bytes"]
        );
        let mut errors = FieldErrors::default();
        validate_update(&json!({"spec": {"controller": "a/b"}}), &json!({"spec": {"controller": "a/c"}}), &mut errors);
        assert_eq!(errors.messages(), [r#"spec.controller: Invalid value: "a/b": field is immutable"#]);
    }

    #[test]
    fn parameters_have_a_scope() {
        let check = |parameters: Value, expect: &[&str]| {
            let expect: Vec<String> = expect.iter().map(|e| format!("spec.parameters.{e}")).collect();
            assert_eq!(errors_of(json!({"controller": "a/b", "parameters": parameters})), expect);
        };
        check(json!({"apiGroup": "x.io", "kind": "Gateway", "name": "g"}), &[]);
        check(json!({"kind": "a/b"}), &["kind: Invalid value: \"a/b\": may not contain '/'", "name: Required value"]);
        check(
            json!({"kind": "G", "name": "g", "scope": "Namespace"}),
            &["namespace: Required value: `parameters.scope` is set to 'Namespace'"],
        );
        check(
            json!({"kind": "G", "name": "g", "namespace": "n"}),
            &["namespace: Forbidden: `parameters.scope` is set to 'Cluster'"],
        );
        check(
            json!({"kind": "G", "name": "g", "scope": "X"}),
            &[r#"scope: Unsupported value: "X": supported values: "Cluster", "Namespace""#],
        );
    }

    #[test]
    fn rows_of_classes() {
        let class = json!({"metadata": {"name": "c"}, "spec": {"controller": "a/b",
            "parameters": {"apiGroup": "x.io", "kind": "Gateway", "name": "g"}}});
        assert_eq!(row(&class, 0), ["c", "a/b", "Gateway.x.io/g", "<unknown>"]);
        assert_eq!(parameters(&Value::Null), "<none>");
    }
}
