//! PodTemplate: a template by itself, for controllers of others.

use super::pod;
use crate::meta::prepare::create as prepare_create;
use crate::registry::{Churn, Column, Resource, Rules, Scope, verbs};
use crate::status::{FieldErrors, Path};
use crate::table;
use crate::tree;
use serde_json::Value;

/// PodTemplates.
pub static POD_TEMPLATES: Resource = Resource {
    group: "",
    version: "v1",
    kind: "PodTemplate",
    plural: "podtemplates",
    singular: "podtemplate",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &[],
    categories: &[],
    type_name: "io.k8s.api.core.v1.PodTemplate",
    churn: Churn::Durable,
    subresources: &[],
    columns: &[
        Column::NAME,
        Column::new("Containers", "string"),
        Column::new("Images", "string"),
        Column::new("Pod Labels", "string"),
    ],
    rules: Rules { default, prepare_create, prepare_update, row, validate, warnings, ..Rules::NONE },
};

fn default(template: &mut Value) {
    pod::defaults::template(tree::object(template).entry("template").or_insert(Value::Null));
}

fn prepare_update(new: &mut Value, old: &Value) {
    tree::bump_generation(tree::object(new), old, |new, old| new.get("template") != Some(&old["template"]));
}

fn row(template: &Value, _now: i64) -> Vec<Value> {
    let [names, images] = table::containers(&template["template"]);
    vec![table::name(template), names, images, table::labels(&template["template"]["metadata"]["labels"]).into()]
}

fn validate(template: &Value, errors: &mut FieldErrors) {
    pod::validate::template(&template["template"], Path::root("template"), errors);
}

fn warnings(template: &Value) -> Vec<String> {
    pod::warnings::of_template(&template["template"], Path::root("template"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn templates_are_completed_checked_and_printed() {
        let mut template = json!({"metadata": {"name": "t"}, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "x"}]}}});
        default(&mut template);
        prepare_create(&mut template);
        assert_eq!(template["template"]["spec"]["restartPolicy"], "Always");
        assert_eq!(template["metadata"]["generation"], 1);
        assert_eq!(Value::from(row(&template, 0)), json!(["t", "c", "x", "a=b"]));
        let mut other = template.clone();
        other["template"]["spec"]["containers"] = json!([]);
        prepare_update(&mut other, &template);
        assert_eq!(other["metadata"]["generation"], 2);
        let mut errors = FieldErrors::default();
        validate(&other, &mut errors);
        assert_eq!(errors.messages(), ["template.spec.containers: Required value"]);
    }
}
