//! StatefulSet: pods of one template with names, order and storage of their own.

use super::validate::{always_restarted, collisions, selected};
use crate::checks::{self, complain, non_negative};
use crate::core::{persistent_volume_claim as claims, pod};
use crate::meta::names;
use crate::meta::prepare::{create_with, update as prepare_update};
use crate::registry::{Churn, Column, Resource, Rules, Scope, Subresource, verbs};
use crate::status::{FieldErrors, Path};
use crate::table;
use crate::tree::{self, int, list, some_text, text};
use serde_json::{Value, json};

/// What an update of the spec may change.
const MUTABLE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

/// StatefulSets.
pub static STATEFUL_SETS: Resource = Resource {
    group: "apps",
    version: "v1",
    kind: "StatefulSet",
    plural: "statefulsets",
    singular: "statefulset",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &["sts"],
    categories: &["all"],
    type_name: "io.k8s.api.apps.v1.StatefulSet",
    churn: Churn::Durable,
    subresources: &[Subresource::SCALE, Subresource::status("apps", "v1", "StatefulSet")],
    columns: &[
        Column::NAME,
        Column::new("Ready", "string"),
        Column::new("Age", "string"),
        Column::wide("Containers", "string"),
        Column::wide("Images", "string"),
    ],
    rules: Rules {
        name: names::dns_label,
        default,
        prepare_create,
        prepare_update,
        row,
        validate,
        validate_create,
        validate_update,
        validate_status,
        warnings,
        ..Rules::NONE
    },
};

fn default(set: &mut Value) {
    let spec = tree::ensure(tree::object(set), "spec");
    tree::default_zero(spec, "podManagementPolicy", "OrderedReady");
    let strategy = tree::ensure(spec, "updateStrategy");
    if some_text(strategy.get("type").unwrap_or(&Value::Null)).is_none() {
        strategy.insert("type".to_owned(), "RollingUpdate".into());
        tree::ensure(strategy, "rollingUpdate");
    }
    if strategy["type"] == "RollingUpdate"
        && let Some(rolling) = tree::sub(strategy, "rollingUpdate")
    {
        tree::default(rolling, "partition", 0);
    }
    let retention = tree::ensure(spec, "persistentVolumeClaimRetentionPolicy");
    tree::default_zero(retention, "whenDeleted", "Retain");
    tree::default_zero(retention, "whenScaled", "Retain");
    tree::default(spec, "replicas", 1);
    tree::default(spec, "revisionHistoryLimit", 10);
    if let Some(template) = spec.get_mut("template") {
        pod::defaults::template(template);
    }
    for claim in tree::items(spec, "volumeClaimTemplates") {
        claim.insert("kind".to_owned(), "PersistentVolumeClaim".into());
        claim.insert("apiVersion".to_owned(), "v1".into());
        claims::default_spec(tree::ensure(claim, "spec"));
        tree::default_zero(tree::ensure(claim, "status"), "phase", "Pending");
    }
}

fn prepare_create(set: &mut Value) {
    create_with(set, json!({"replicas": 0, "availableReplicas": 0}));
}

fn row(set: &Value, now: i64) -> Vec<Value> {
    let [names, images] = table::containers(&set["spec"]["template"]);
    vec![
        table::name(set),
        format!("{}/{}", int(&set["status"]["readyReplicas"]), int(&set["spec"]["replicas"])).into(),
        table::created(set, now),
        names,
        images,
    ]
}

fn validate(set: &Value, errors: &mut FieldErrors) {
    let (spec, path) = (&set["spec"], Path::root("spec"));
    let (policy, at) = (text(&spec["podManagementPolicy"]), path.child("podManagementPolicy"));
    match policy {
        "" => errors.required(at, ""),
        "OrderedReady" | "Parallel" => {}
        other => errors.invalid(at, other, "must be 'OrderedReady' or 'Parallel'"),
    }
    strategy(&spec["updateStrategy"], path.child("updateStrategy"), errors);
    let (retention, at) =
        (&spec["persistentVolumeClaimRetentionPolicy"], path.child("persistentVolumeClaimRetentionPolicy"));
    for field in ["whenDeleted", "whenScaled"] {
        if retention.is_object() && !matches!(text(&retention[field]), "Retain" | "Delete") {
            errors.not_supported(at.child(field), text(&retention[field]), &["Retain", "Delete"]);
        }
    }
    non_negative(spec, "replicas", &path, errors);
    non_negative(spec, "minReadySeconds", &path, errors);
    non_negative(&spec["ordinals"], "start", &path.child("ordinals"), errors);
    let at = path.child("template");
    if super::validate::selector(spec, path, "statefulset", errors) {
        selected(&spec["selector"], &spec["template"], at, errors);
        pod::validate::template(&with_claims(spec), at, errors);
    } else {
        errors.invalid(path.child("selector"), &spec["selector"], "");
    }
    always_restarted(&spec["template"], at, "StatefulSet", errors);
}

/// The template with the volumes that each pod's claims will be.
fn with_claims(spec: &Value) -> Value {
    let mut template = spec["template"].clone();
    let claims: Vec<&str> =
        list(&spec["volumeClaimTemplates"]).iter().map(|claim| text(&claim["metadata"]["name"])).collect();
    if claims.is_empty() {
        return template;
    }
    let mut volumes: Vec<Value> = list(&template["spec"]["volumes"]).to_vec();
    volumes.retain(|volume| !claims.contains(&text(&volume["name"])));
    volumes.extend(claims.iter().map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}})));
    if let Some(pod) = template.get_mut("spec").and_then(Value::as_object_mut) {
        pod.insert("volumes".to_owned(), volumes.into());
    }
    template
}

fn strategy(strategy: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let (rolling, at) = (&strategy["rollingUpdate"], path.child("rollingUpdate"));
    match text(&strategy["type"]) {
        "" => errors.required(path, ""),
        "OnDelete" if rolling.is_object() => {
            errors.invalid(at, rolling, "only allowed for updateStrategy 'RollingUpdate'");
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            non_negative(rolling, "partition", &at, errors);
            let (unavailable, at) = (&rolling["maxUnavailable"], at.child("maxUnavailable"));
            checks::int_or_percent(unavailable, at, errors);
            if !unavailable.is_null() && checks::is_zero_part(unavailable) {
                errors.invalid(at, unavailable, "cannot be 0");
            }
            checks::at_most_all(unavailable, at, errors);
        }
        _ => errors.invalid(path, strategy, "must be 'RollingUpdate' or 'OnDelete'"),
    }
}

fn validate_create(set: &Value, errors: &mut FieldErrors) {
    // They never change, and older objects may have wrong ones.
    for_each_claim(set, |spec, path| claims::validate_spec(spec, path.child("spec"), errors));
    // Older objects may have any name here.
    if let Some(service) = some_text(&set["spec"]["serviceName"]) {
        let path = Path::root("spec");
        complain(names::dns_label(service), service, path.child("serviceName"), errors);
    }
}

/// The claims' specs, each with the path of its template.
fn for_each_claim(set: &Value, mut see: impl FnMut(&Value, Path<'_>)) {
    let path = Path::root("spec");
    let path = path.child("volumeClaimTemplates");
    for (i, claim) in list(&set["spec"]["volumeClaimTemplates"]).iter().enumerate() {
        see(&claim["spec"], path.index(i));
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let rest = |set: &Value| {
        let mut spec = set["spec"].clone();
        if let Some(spec) = spec.as_object_mut() {
            spec.retain(|field, _| !MUTABLE.contains(&field.as_str()));
        }
        spec
    };
    if rest(new) != rest(old) {
        let why = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
        errors.forbidden("spec", why);
    }
}

fn validate_status(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let (status, path) = (&new["status"], Path::root("status"));
    for field in [
        "replicas",
        "readyReplicas",
        "currentReplicas",
        "updatedReplicas",
        "availableReplicas",
        "observedGeneration",
        "collisionCount",
    ] {
        non_negative(status, field, &path, errors);
    }
    let count = |field: &str| int(&status[field]);
    for field in ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"] {
        if count(field) > count("replicas") {
            errors.invalid(path.child(field), count(field), "cannot be greater than status.replicas");
        }
    }
    if count("availableReplicas") > count("readyReplicas") {
        let why = "cannot be greater than status.readyReplicas";
        errors.invalid(path.child("availableReplicas"), count("availableReplicas"), why);
    }
    collisions(new, old, errors);
}

fn warnings(set: &Value) -> Vec<String> {
    let mut found = super::validate::warnings(set);
    if int(&set["spec"]["revisionHistoryLimit"]) < 0 {
        found.push(
            "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended"
                .to_owned(),
        );
    }
    for_each_claim(set, |spec, path| found.extend(claims::spec_warnings(spec, path)));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(spec: Value) -> Value {
        let mut set = json!({"metadata": {"name": "web"}, "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "a", "image": "x"}]}}}});
        crate::patch::merge(&mut set["spec"], &spec);
        default(&mut set);
        set
    }

    fn errors_of(spec: Value) -> Vec<String> {
        let mut errors = FieldErrors::default();
        validate(&set(spec.clone()), &mut errors);
        validate_create(&set(spec), &mut errors);
        errors.messages()
    }

    #[test]
    fn a_minimal_set_is_completed() {
        let claims = json!([{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}]);
        let minimal = set(json!({ "volumeClaimTemplates": claims }));
        let spec = &minimal["spec"];
        assert_eq!(spec["podManagementPolicy"], "OrderedReady");
        assert_eq!(spec["updateStrategy"], json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}));
        assert_eq!(
            spec["persistentVolumeClaimRetentionPolicy"],
            json!({"whenDeleted": "Retain", "whenScaled": "Retain"})
        );
        assert_eq!((int(&spec["replicas"]), int(&spec["revisionHistoryLimit"])), (1, 10));
        assert_eq!(
            spec["volumeClaimTemplates"][0],
            json!({"kind": "PersistentVolumeClaim", "apiVersion": "v1", "metadata": {"name": "data"},
                "spec": {"accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem"}, "status": {"phase": "Pending"}})
        );
        let typed = set(json!({"updateStrategy": {"type": "RollingUpdate"}}));
        assert_eq!(typed["spec"]["updateStrategy"], json!({"type": "RollingUpdate"}));
    }

    #[test]
    fn containers_may_mount_the_claims() {
        let mounts = |volume: &str| {
            let claim = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
            json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": claim}], "template": {"spec": {"containers": [
                {"name": "a", "image": "x", "volumeMounts": [{"name": volume, "mountPath": "/d"}]}]}}})
        };
        assert_eq!(errors_of(mounts("data")), [""; 0]);
        assert_eq!(
            errors_of(mounts("other")),
            ["spec.template.spec.containers[0].volumeMounts[0].name: Not found: \"other\""]
        );
    }

    #[test]
    fn claims_are_judged_as_claims() {
        let claim = json!({"accessModes": ["Odd"], "resources": {"requests": {"storage": "100m"}}});
        let spec = json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": claim}, {"metadata": {"name": "x"}}]});
        assert_eq!(
            errors_of(spec.clone()),
            [
                "spec.volumeClaimTemplates[0].spec.accessModes: Unsupported value: \"Odd\": supported values: \"ReadOnlyMany\", \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"",
                "spec.volumeClaimTemplates[1].spec.accessModes: Required value: at least 1 access mode is required",
                "spec.volumeClaimTemplates[1].spec.resources[storage]: Required value",
            ]
        );
        assert_eq!(
            warnings(&set(spec)),
            [
                "spec.volumeClaimTemplates[0].resources.requests[storage]: fractional byte value \"100m\" is invalid, must be an integer"
            ]
        );
    }

    #[test]
    fn several_pods_may_be_unavailable_at_once_but_not_none() {
        let errors = |limit: Value| {
            let rolling = json!({"partition": 0, "maxUnavailable": limit});
            errors_of(json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": rolling}}))
        };
        for fine in [json!(2), json!("30%"), json!("100%"), Value::Null] {
            assert_eq!(errors(fine), [""; 0]);
        }
        let at = "spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value";
        assert_eq!(errors(json!(0)), [format!("{at}: 0: cannot be 0")]);
        assert_eq!(errors(json!("0%")), [format!("{at}: \"0%\": cannot be 0")]);
        assert_eq!(errors(json!("101%")), [format!("{at}: \"101%\": must not be greater than 100%")]);
    }

    #[test]
    fn what_can_be_wrong() {
        assert_eq!(errors_of(json!({})), [""; 0]);
        let bad = json!({
            "podManagementPolicy": "Odd",
            "updateStrategy": {"type": "OnDelete", "rollingUpdate": {"partition": 1}},
            "persistentVolumeClaimRetentionPolicy": {"whenScaled": "Odd"},
            "replicas": -1, "minReadySeconds": -2, "ordinals": {"start": -3}, "serviceName": "a.b",
            "selector": {"matchLabels": {"app": "other"}},
            "template": {"spec": {"restartPolicy": "OnFailure", "activeDeadlineSeconds": 1}},
        });
        assert_eq!(
            errors_of(bad),
            [
                "spec.podManagementPolicy: Invalid value: \"Odd\": must be 'OrderedReady' or 'Parallel'",
                "spec.updateStrategy.rollingUpdate: Invalid value: {\"partition\":1}: only allowed for updateStrategy 'RollingUpdate'",
                "spec.persistentVolumeClaimRetentionPolicy.whenScaled: Unsupported value: \"Odd\": supported values: \"Retain\", \"Delete\"",
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
                "spec.minReadySeconds: Invalid value: -2: must be greater than or equal to 0",
                "spec.ordinals.start: Invalid value: -3: must be greater than or equal to 0",
                "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`",
                "spec.template.spec.restartPolicy: Unsupported value: \"OnFailure\": supported values: \"Always\"",
                "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in StatefulSet is not Supported",
                "spec.serviceName: Invalid value: \"a.b\": must not contain dots",
            ]
        );
        assert_eq!(
            errors_of(json!({"selector": {"matchLabels": null}})),
            ["spec.selector: Invalid value: {}: empty selector is invalid for statefulset"]
        );
        assert_eq!(
            errors_of(json!({"updateStrategy": {"type": "Odd"}})),
            ["spec.updateStrategy: Invalid value: {\"type\":\"Odd\"}: must be 'RollingUpdate' or 'OnDelete'"]
        );
    }

    #[test]
    fn only_some_fields_may_change() {
        let old = set(json!({}));
        let errors = |change: Value| {
            let mut errors = FieldErrors::default();
            validate_update(&set(change), &old, &mut errors);
            errors.messages()
        };
        assert_eq!(errors(json!({"replicas": 3, "revisionHistoryLimit": 2, "minReadySeconds": 1})), [""; 0]);
        assert_eq!(
            errors(json!({"serviceName": "x"})),
            [
                "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
            ]
        );
    }

    #[test]
    fn status_and_rows() {
        let mut set = set(json!({"replicas": 3, "revisionHistoryLimit": -1}));
        set["status"] = json!({"replicas": 1, "readyReplicas": 2, "availableReplicas": 3, "collisionCount": 1});
        assert_eq!(Value::from(row(&set, 0)), json!(["web", "2/3", "<unknown>", "a", "x"]));
        assert_eq!(warnings(&set).len(), 1);
        let mut errors = FieldErrors::default();
        validate_status(&set, &json!({"status": {"collisionCount": 2}}), &mut errors);
        assert_eq!(
            errors.messages(),
            [
                "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas",
                "status.availableReplicas: Invalid value: 3: cannot be greater than status.replicas",
                "status.availableReplicas: Invalid value: 3: cannot be greater than status.readyReplicas",
                "status.collisionCount: Invalid value: 1: cannot be decremented",
            ]
        );
    }
}
