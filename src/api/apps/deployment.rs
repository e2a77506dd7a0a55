//! Deployment: a ReplicaSet for each revision of a template, rolled over gently.

use crate::core::pod;
use crate::registry::{Action, Churn, Column, Resource, Rules, Scope, Subresource, verbs};
use crate::table;
use crate::tree::{self, int};
use serde_json::{Value, json};

/// Deployments.
pub static DEPLOYMENTS: Resource = Resource {
    group: "apps",
    version: "v1",
    kind: "Deployment",
    plural: "deployments",
    singular: "deployment",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &["deploy"],
    categories: &["all"],
    type_name: "io.k8s.api.apps.v1.Deployment",
    churn: Churn::Durable,
    subresources: &[
        Subresource {
            name: "scale",
            gvk: ("autoscaling", "v1", "Scale"),
            verbs: verbs::GET_PATCH_UPDATE,
            action: Action::Scale,
        },
        Subresource {
            name: "status",
            gvk: ("apps", "v1", "Deployment"),
            verbs: verbs::GET_PATCH_UPDATE,
            action: Action::Status,
        },
    ],
    columns: &[
        Column::NAME,
        Column::new("Ready", "string"),
        Column::new("Up-to-date", "string"),
        Column::new("Available", "string"),
        Column::new("Age", "string"),
        Column::wide("Containers", "string"),
        Column::wide("Images", "string"),
        Column::wide("Selector", "string"),
    ],
    rules: Rules { default, prepare_create, prepare_update, row, ..Rules::NONE },
};

fn default(deployment: &mut Value) {
    let spec = tree::ensure(tree::object(deployment), "spec");
    tree::default(spec, "replicas", 1);
    tree::default(spec, "revisionHistoryLimit", 10);
    tree::default(spec, "progressDeadlineSeconds", 600);
    let strategy = tree::ensure(spec, "strategy");
    tree::default_zero(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        let rolling = tree::ensure(strategy, "rollingUpdate");
        tree::default(rolling, "maxUnavailable", "25%");
        tree::default(rolling, "maxSurge", "25%");
    }
    if let Some(template) = spec.get_mut("template") {
        pod::defaults::template(template);
    }
}

fn prepare_create(deployment: &mut Value) {
    let deployment = tree::object(deployment);
    deployment.insert("status".to_owned(), json!({}));
    tree::ensure(deployment, "metadata").insert("generation".to_owned(), 1.into());
}

fn prepare_update(new: &mut Value, old: &Value) {
    let deployment = tree::object(new);
    tree::keep_status(deployment, old);
    tree::bump_generation(deployment, old, |new, old| {
        let annotations = new.get("metadata").map_or(&Value::Null, |m| &m["annotations"]);
        new.get("spec") != Some(&old["spec"]) || *annotations != old["metadata"]["annotations"]
    });
}

fn row(deployment: &Value, now: i64) -> Vec<Value> {
    let (spec, status) = (&deployment["spec"], &deployment["status"]);
    let [names, images] = table::containers(&spec["template"]);
    vec![
        table::name(deployment),
        format!("{}/{}", int(&status["readyReplicas"]), int(&spec["replicas"])).into(),
        int(&status["updatedReplicas"]).into(),
        int(&status["availableReplicas"]).into(),
        table::created(deployment, now),
        names,
        images,
        table::selector(&spec["selector"]).into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minimal_deployment_is_completed() {
        let mut deployment = json!({"spec": {"template": {"spec": {"containers": []}}}});
        default(&mut deployment);
        let spec = &deployment["spec"];
        assert_eq!(spec["replicas"], 1);
        assert_eq!(spec["revisionHistoryLimit"], 10);
        assert_eq!(spec["progressDeadlineSeconds"], 600);
        assert_eq!(
            spec["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
        );
        assert_eq!(spec["template"]["spec"]["restartPolicy"], "Always");
        let mut recreate = json!({"spec": {"strategy": {"type": "Recreate"}, "replicas": 0}});
        default(&mut recreate);
        assert_eq!(recreate["spec"]["strategy"], json!({"type": "Recreate"}));
        assert_eq!(recreate["spec"]["replicas"], 0);
    }

    #[test]
    fn generation_follows_spec_and_annotations() {
        let old = json!({"metadata": {"generation": 1}, "spec": {"replicas": 1}, "status": {"replicas": 1}});
        let mut labels = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"replicas": 1}, "status": {}});
        prepare_update(&mut labels, &old);
        assert_eq!(labels["metadata"]["generation"], 1);
        assert_eq!(labels["status"], old["status"]);
        let mut annotated = json!({"metadata": {"annotations": {"a": "b"}}, "spec": {"replicas": 1}});
        prepare_update(&mut annotated, &old);
        assert_eq!(annotated["metadata"]["generation"], 2);
    }

    #[test]
    fn rows_of_deployments() {
        let deployment = json!({"metadata": {"name": "web"}, "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}},
            "template": {"spec": {"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]}}},
            "status": {"readyReplicas": 1, "updatedReplicas": 2, "availableReplicas": 1}});
        let expect = json!(["web", "1/2", 2, 1, "<unknown>", "a,b", "x,y", "app=web"]);
        assert_eq!(Value::from(row(&deployment, 0)), expect);
    }
}
