//! Ownership as clients see it: worked examples of upstream's behaviour, and laws.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::facts::type_by_gvk;
use crate::registry::{CONFIG_MAPS, DEPLOYMENTS, PODS, Resource, SERVICES};
use proptest::prelude::*;
use serde_json::{Value, json};

const NOW: &str = "2026-01-02T03:04:05Z";
const LATER: &str = "2026-01-02T03:04:06Z";

fn writer<'a>(manager: &'a str, api_version: &'a str) -> Writer<'a> {
    Writer { manager, api_version, subresource: "", now: NOW, ignored: Ignored::NOTHING }
}

fn applied(
    resource: &'static Resource,
    live: Option<&Value>,
    config: Value,
    manager: &str,
) -> Result<Value, ApplyError> {
    let version = resource.api_version();
    apply(&BuiltIn(resource), live, config, &writer(manager, &version), false)
}

fn forced(resource: &'static Resource, live: &Value, config: Value, manager: &str) -> Value {
    let version = resource.api_version();
    apply(&BuiltIn(resource), Some(live), config, &writer(manager, &version), true).unwrap()
}

fn updated(resource: &'static Resource, old: Option<&Value>, mut new: Value, manager: &str) -> Value {
    let version = resource.api_version();
    update(&BuiltIn(resource), old, &mut new, &writer(manager, &version));
    new
}

/// Who owns what: `manager Operation` and the paths.
fn owners(object: &Value) -> Vec<(String, Vec<String>)> {
    let managers = Managers::decode(&object["metadata"]["managedFields"]).unwrap();
    managers
        .entries
        .iter()
        .map(|e| (format!("{}{}", e.manager, if e.applied { "" } else { " (update)" }), e.set.paths()))
        .collect()
}

#[track_caller]
fn check_owners(object: &Value, expect: &[(&str, &[&str])]) {
    let expect: Vec<(String, Vec<String>)> =
        expect.iter().map(|(m, p)| ((*m).to_owned(), p.iter().map(|p| (*p).to_owned()).collect())).collect();
    assert_eq!(owners(object), expect);
}

fn place(kind: (&str, &str, &str)) -> FactsPlace {
    FactsPlace::root(type_by_gvk(kind.0, kind.1, kind.2).unwrap())
}

#[test]
fn a_created_deployment_is_owned_as_upstream_writes_it() {
    let deployment = json!({"kind": "Deployment", "apiVersion": "apps/v1",
        "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {
                "containers": [{"name": "c", "image": "i", "resources": {}, "ports": [{"containerPort": 80, "protocol": "TCP"}]}],
                "tolerations": [{"key": "a"}],
                "securityContext": {},
            }},
        },
        "status": {},
    });
    let created = updated(&DEPLOYMENTS, None, deployment, "kubectl-create");
    let container = "k:{\"name\":\"c\"}";
    let expect = json!([{
        "manager": "kubectl-create", "operation": "Update", "apiVersion": "apps/v1", "time": NOW, "fieldsType": "FieldsV1",
        "fieldsV1": {
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {
                "f:replicas": {},
                "f:selector": {},
                "f:strategy": {"f:type": {}, "f:rollingUpdate": {".": {}, "f:maxSurge": {}}},
                "f:template": {
                    "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                    "f:spec": {
                        "f:containers": {container: {".": {}, "f:name": {}, "f:image": {}, "f:resources": {},
                            "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}, "f:protocol": {}}}}},
                        "f:tolerations": {},
                        "f:securityContext": {},
                    },
                },
            },
        },
    }]);
    assert_eq!(created["metadata"]["managedFields"], expect);
}

#[test]
fn sets_of_configurations() {
    let check = |kind, config: Value, expect: &[&str]| {
        assert_eq!(field_set(&config, place(kind)).paths(), expect, "{config}");
    };
    let pod = ("", "v1", "Pod");
    check(
        pod,
        json!({"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 53}],
            "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}], "args": ["a"]}]}}),
        &[
            ".spec.containers[name=\"c\"]",
            ".spec.containers[name=\"c\"].args",
            ".spec.containers[name=\"c\"].env[name=\"A\"]",
            ".spec.containers[name=\"c\"].env[name=\"A\"].name",
            ".spec.containers[name=\"c\"].env[name=\"A\"].valueFrom.fieldRef",
            ".spec.containers[name=\"c\"].name",
            ".spec.containers[name=\"c\"].ports[containerPort=53,protocol=\"TCP\"]",
            ".spec.containers[name=\"c\"].ports[containerPort=53,protocol=\"TCP\"].containerPort",
            ".spec.containers[name=\"c\"].ports[containerPort=53,protocol=\"UDP\"]",
            ".spec.containers[name=\"c\"].ports[containerPort=53,protocol=\"UDP\"].containerPort",
            ".spec.containers[name=\"c\"].ports[containerPort=53,protocol=\"UDP\"].protocol",
        ],
    );
    check(
        pod,
        json!({"metadata": {"finalizers": ["a/b"], "ownerReferences": [{"uid": "u", "name": "x"}]},
            "spec": {"nodeSelector": {"a": "b"}, "emptyDir": null, "tolerations": [{"key": "a"}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
        &[
            ".metadata.finalizers[=\"a/b\"]",
            ".metadata.ownerReferences[uid=\"u\"]",
            ".spec.emptyDir",
            ".spec.nodeSelector",
            ".spec.tolerations",
            ".status.conditions[type=\"Ready\"]",
            ".status.conditions[type=\"Ready\"].status",
            ".status.conditions[type=\"Ready\"].type",
        ],
    );
    check(("", "v1", "ConfigMap"), json!({"data": {"a": "1"}, "binaryData": {}}), &[".binaryData", ".data.a"]);
    check(
        ("", "v1", "Service"),
        json!({"spec": {"selector": {"a": "b"}, "ports": [{"port": 80}]}}),
        &[".spec.ports[port=80,protocol=\"TCP\"]", ".spec.ports[port=80,protocol=\"TCP\"].port", ".spec.selector"],
    );
}

#[test]
fn updates_take_what_they_change() {
    let one = updated(&CONFIG_MAPS, None, json!({"metadata": {"uid": "u"}, "data": {"a": "1", "b": "1"}}), "one");
    let mut changed = one.clone();
    changed["data"] = json!({"a": "2", "b": "1", "c": "1"});
    let two = updated(&CONFIG_MAPS, Some(&one), changed, "two");
    check_owners(&two, &[("one (update)", &[".data", ".data.b"]), ("two (update)", &[".data.a", ".data.c"])]);
    // What is gone is nobody's, and who owns nothing is not listed.
    let mut shrunk = two.clone();
    shrunk["data"] = json!({"a": "2", "c": "1"});
    let three = updated(&CONFIG_MAPS, Some(&two), shrunk, "three");
    check_owners(&three, &[("one (update)", &[".data"]), ("two (update)", &[".data.a", ".data.c"])]);
    let mut same = three.clone();
    same["metadata"]["managedFields"] = Value::Null;
    assert_eq!(updated(&CONFIG_MAPS, Some(&three), same, "four"), three);
}

#[test]
fn managed_fields_are_the_clients_to_reset_and_to_write() {
    let one = updated(&CONFIG_MAPS, None, json!({"metadata": {"uid": "u"}, "data": {"a": "1"}}), "one");
    for reset in [json!([]), json!([{}])] {
        let mut cleared = one.clone();
        cleared["metadata"]["managedFields"] = reset;
        let cleared = updated(&CONFIG_MAPS, Some(&one), cleared, "two");
        assert_eq!(cleared["metadata"], json!({"uid": "u"}));
        // Nobody is recorded until somebody applies.
        let mut changed = cleared.clone();
        changed["data"]["a"] = "2".into();
        let changed = updated(&CONFIG_MAPS, Some(&cleared), changed, "two");
        assert_eq!(changed["metadata"], json!({"uid": "u"}));
        let applied = applied(&CONFIG_MAPS, Some(&changed), json!({"data": {"b": "1"}}), "three").unwrap();
        check_owners(&applied, &[("three", &[".data.b"]), ("before-first-apply (update)", &[".data", ".data.a"])]);
    }
    let mut renamed = one.clone();
    renamed["metadata"]["managedFields"][0]["manager"] = "uno".into();
    let renamed = updated(&CONFIG_MAPS, Some(&one), renamed, "two");
    check_owners(&renamed, &[("uno (update)", &[".data", ".data.a"])]);
    let mut broken = one.clone();
    broken["metadata"]["managedFields"][0]["operation"] = "Guess".into();
    assert_eq!(updated(&CONFIG_MAPS, Some(&one), broken, "two"), one);
}

#[test]
fn only_so_many_updaters_are_kept() {
    let mut object = updated(&CONFIG_MAPS, None, json!({"metadata": {"uid": "u"}, "data": {}}), "m0");
    for n in 1..=12 {
        let mut next = object.clone();
        next["data"][format!("k{n}")] = "v".into();
        object = updated(&CONFIG_MAPS, Some(&object), next, &format!("m{n:02}"));
    }
    let owners = owners(&object);
    assert_eq!(owners.len(), 10);
    assert_eq!(owners[0].0, "ancient-changes (update)");
    assert!(owners[0].1.contains(&".data.k1".to_owned()));
}

#[test]
fn conflicts_name_manager_and_place() {
    let live = updated(
        &DEPLOYMENTS,
        None,
        json!({"metadata": {"uid": "u"}, "spec": {"replicas": 1, "paused": true}}),
        "kubectl-edit",
    );
    let config = json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": 2}});
    let error = applied(&DEPLOYMENTS, Some(&live), config.clone(), "me").unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"kubectl-edit\" using apps/v1: .spec.replicas"
    );
    let mine = forced(&DEPLOYMENTS, &live, config, "me");
    check_owners(&mine, &[("me", &[".spec.replicas"]), ("kubectl-edit (update)", &[".spec.paused"])]);
    let config = json!({"spec": {"replicas": 3, "paused": false}});
    let error = applied(&DEPLOYMENTS, Some(&mine), config, "other").unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 2 conflicts: conflicts with \"kubectl-edit\" using apps/v1:\n- .spec.paused\nconflicts with \"me\":\n- .spec.replicas"
    );
    // The same value is shared, not fought about.
    let shared = applied(&DEPLOYMENTS, Some(&mine), json!({"spec": {"replicas": 2}}), "other").unwrap();
    assert_eq!(shared["spec"], mine["spec"]);
    let who: Vec<_> = owners(&shared).into_iter().filter(|(_, p)| p.contains(&".spec.replicas".to_owned())).collect();
    assert_eq!(who.len(), 2);
}

#[test]
fn what_is_not_applied_any_more_goes() {
    let first = applied(
        &PODS,
        None,
        json!({"metadata": {"name": "p", "labels": {"a": "1", "b": "1"}}, "spec": {"containers": [{"name": "x", "image": "1"}, {"name": "y", "image": "1"}]}}),
        "me",
    )
    .unwrap();
    let mut touched = first.clone();
    touched["spec"]["containers"][1]["stdin"] = true.into();
    touched["metadata"]["labels"]["c"] = "1".into();
    let touched = updated(&PODS, Some(&first), touched, "other");
    let second = applied(
        &PODS,
        Some(&touched),
        json!({"metadata": {"name": "p", "labels": {"a": "1"}}, "spec": {"containers": [{"name": "x"}]}}),
        "me",
    )
    .unwrap();
    assert_eq!(second["metadata"]["labels"], json!({"a": "1", "c": "1"}));
    assert_eq!(second["spec"]["containers"], json!([{"name": "x"}]));
    check_owners(
        &second,
        &[
            ("me", &[".metadata.labels.a", ".spec.containers[name=\"x\"]", ".spec.containers[name=\"x\"].name"]),
            ("other (update)", &[".metadata.labels.c"]),
        ],
    );
    // What another applier owns too stays.
    let both = applied(&PODS, Some(&second), json!({"metadata": {"labels": {"a": "1"}}}), "two").unwrap();
    let left = applied(&PODS, Some(&both), json!({"spec": {"containers": [{"name": "x"}]}}), "me").unwrap();
    assert_eq!(left["metadata"]["labels"], json!({"a": "1", "c": "1"}));
}

#[test]
fn lists_merge_in_the_applied_order() {
    let check = |live: &[&str], config: &[&str], expect: &[&str]| {
        let list = |names: &[&str]| json!({"metadata": {"finalizers": names}});
        let mut merged = list(live);
        merge(&mut merged, &list(config), place(("", "v1", "Pod")));
        assert_eq!(merged, list(expect), "{live:?} {config:?}");
    };
    check(&["a", "x", "b", "y"], &["b", "a"], &["x", "b", "y", "a"]);
    check(&["x"], &["c"], &["x", "c"]);
    check(&["a", "x"], &["c", "a"], &["c", "a", "x"]);
    check(&["a", "b", "c"], &["c", "b", "a"], &["c", "b", "a"]);
    check(&["a", "b", "c"], &["d", "b"], &["a", "d", "b", "c"]);
    check(&[], &["b", "a"], &["b", "a"]);
    check(&["a", "b"], &[], &["a", "b"]);
}

#[test]
fn configurations_that_do_not_fit_say_why() {
    let check = |config: Value, expect: &str| {
        let mut config = config;
        config["apiVersion"] = "v1".into();
        config["kind"] = "Pod".into();
        config["metadata"] = json!({"name": "p", "namespace": "n"});
        let error = applied(&PODS, None, config, "me").unwrap_err();
        assert_eq!(error.to_string(), format!("failed to create typed patch object (n/p; /v1, Kind=Pod): {expect}"));
    };
    check(json!({"spec": {"foo": 1}}), ".spec.foo: field not declared in schema");
    check(json!({"spec": {"containers": {"a": "b"}}}), ".spec.containers: expected list, got &{map[a:b]}");
    check(json!({"spec": {"priority": "x"}}), ".spec.priority: expected numeric (int or float), got string");
    check(
        json!({"spec": {"nodeName": 1, "hostIPC": "x"}}),
        "errors:\n  .spec.hostIPC: expected boolean, got &{x}\n  .spec.nodeName: expected string, got &value.valueUnstructured{Value:1}",
    );
    check(
        json!({"spec": {"containers": [{"name": "a"}, {"name": "a"}]}}),
        ".spec.containers: duplicate entries for key [name=\"a\"]",
    );
    check(
        json!({"spec": {"containers": [{"image": "a"}]}}),
        ".spec.containers: element 0: associative list with keys has an element that omits all key fields [\"name\"] (and doesn't have default values for any key fields)",
    );
    let managed = json!({"metadata": {"managedFields": [{}]}});
    assert_eq!(applied(&PODS, None, managed, "me").unwrap_err().to_string(), "metadata.managedFields must be nil");
}

#[test]
fn kubectl_takes_over_from_client_side_apply() {
    let last =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1", "b": "1"}});
    let live = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"uid": "u", "name": "c", "annotations": {"kubectl.kubernetes.io/last-applied-configuration": last.to_string()}},
        "data": {"a": "1", "b": "1"}});
    let live = updated(&CONFIG_MAPS, None, live, "kubectl-client-side-apply");
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "2"}});
    assert!(applied(&CONFIG_MAPS, Some(&live), config.clone(), "somebody").is_err());
    let taken = applied(&CONFIG_MAPS, Some(&live), config.clone(), "kubectl").unwrap();
    assert_eq!(taken["data"], json!({"a": "2", "b": "1"}));
    let annotation =
        taken["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"].as_str().unwrap();
    assert_eq!(annotation, format!("{config}\n"));
    // What somebody else has changed since is not kubectl's.
    let mut edited = live.clone();
    edited["data"]["a"] = "3".into();
    let edited = updated(&CONFIG_MAPS, Some(&live), edited, "editor");
    let error = applied(&CONFIG_MAPS, Some(&edited), config, "kubectl").unwrap_err();
    assert_eq!(error.to_string(), "Apply failed with 1 conflict: conflict with \"editor\" using v1: .data.a");
}

#[test]
fn replicas_are_owned_through_scale_and_object_alike() {
    let deployment =
        updated(&DEPLOYMENTS, None, json!({"metadata": {"uid": "u"}, "spec": {"replicas": 1, "paused": true}}), "one");
    let managed = &deployment["metadata"]["managedFields"];
    let scale = to_scale(managed).unwrap();
    assert_eq!(scale[0]["apiVersion"], "autoscaling/v1");
    assert_eq!(scale[0]["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(to_parent(managed, &scale, "apps/v1").as_ref(), Some(managed));
    let stolen = json!([{"manager": "two", "operation": "Update", "apiVersion": "autoscaling/v1", "subresource": "scale", "time": LATER,
        "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:replicas": {}}}}]);
    let parent = json!({"metadata": {"managedFields": to_parent(managed, &stolen, "apps/v1")}});
    check_owners(&parent, &[("one (update)", &[".spec.paused"]), ("two (update)", &[".spec.replicas"])]);
    assert_eq!(parent["metadata"]["managedFields"][1]["apiVersion"], "apps/v1");
}

#[test]
fn time_stamps_alone_are_no_change() {
    let a = updated(&SERVICES, None, json!({"spec": {"ports": [{"port": 80, "protocol": "TCP"}]}}), "one");
    let mut b = a["metadata"]["managedFields"].clone();
    b[0]["time"] = LATER.into();
    assert!(same_but_times(&a["metadata"]["managedFields"], &b));
    b[0]["manager"] = "two".into();
    assert!(!same_but_times(&a["metadata"]["managedFields"], &b));
}

#[test]
fn what_a_part_cannot_change_it_does_not_own() {
    let all = decode_fields(&json!({
        "f:metadata": {"f:labels": {"f:a": {}}, "f:ownerReferences": {}, "f:deletionTimestamp": {}},
        "f:spec": {
            "f:replicas": {}, "f:ephemeralContainers": {},
            "f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:name": {}, "f:resources": {}, "f:resizePolicy": {}}},
        },
        "f:status": {"f:conditions": {}, "f:certificate": {}},
    }))
    .unwrap();
    let kept = |group: &str, plural: &str, subresource: &str| {
        let version = "v1";
        let resource = crate::registry::find(group, version, plural).unwrap();
        let mut set = all.clone();
        Ignored::of(resource, subresource).filter(&mut set);
        let fields = encode_fields(&set);
        let mut kept = Vec::new();
        for (part, inner) in fields.as_object().unwrap() {
            kept.extend(inner.as_object().unwrap().keys().map(|key| format!("{part}.{key}").replace("f:", "")));
        }
        kept.sort();
        kept.join(" ")
    };
    let spec = "spec.containers spec.ephemeralContainers spec.replicas";
    let metadata = "metadata.deletionTimestamp metadata.labels metadata.ownerReferences";
    let status = "status.certificate status.conditions";
    for (group, plural, subresource, expect) in [
        ("", "configmaps", "", format!("{metadata} {spec} {status}")),
        ("", "pods", "", format!("{metadata} {spec}")),
        ("", "pods", "status", format!("metadata.labels {status}")),
        ("", "pods", "ephemeralcontainers", "spec.ephemeralContainers".to_owned()),
        ("", "pods", "resize", "spec.containers".to_owned()),
        ("", "nodes", "status", format!("{metadata} {status}")),
        ("", "namespaces", "finalize", format!("{metadata} {spec}")),
        ("apps", "deployments", "status", format!("metadata.deletionTimestamp metadata.ownerReferences {status}")),
        ("apps", "statefulsets", "status", format!("{metadata} {status}")),
        ("certificates.k8s.io", "certificatesigningrequests", "", metadata.to_owned()),
        ("certificates.k8s.io", "certificatesigningrequests", "status", format!("{metadata} status.certificate")),
        ("certificates.k8s.io", "certificatesigningrequests", "approval", format!("{metadata} status.conditions")),
        ("flowcontrol.apiserver.k8s.io", "flowschemas", "status", status.to_owned()),
        ("storage.k8s.io", "volumeattachments", "status", status.to_owned()),
        ("resource.k8s.io", "resourceclaims", "status", format!("{metadata} {status}")),
    ] {
        assert_eq!(kept(group, plural, subresource), expect, "{plural}/{subresource}");
    }
    let mut set = all.clone();
    Ignored::of(&PODS, "resize").filter(&mut set);
    let container = json!({"k:{\"name\":\"c\"}": {"f:resources": {}, "f:resizePolicy": {}}});
    assert_eq!(encode_fields(&set), json!({"f:spec": {"f:containers": container}}));
}

#[test]
fn a_granular_field_of_an_atomic_type_has_many_owners() {
    let volumes = crate::registry::find("", "v1", "persistentvolumes").unwrap();
    let config = |claim: Value| json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "a"}, "spec": {"claimRef": claim}});
    let live = applied(volumes, None, config(json!({"name": "c", "namespace": "d"})), "one").unwrap();
    let after = applied(volumes, Some(&live), config(json!({"uid": "u"})), "two").unwrap();
    assert_eq!(after["spec"]["claimRef"], json!({"name": "c", "namespace": "d", "uid": "u"}));
}

fn config() -> impl Strategy<Value = Value> {
    let texts = || prop::collection::btree_map("[a-d]", "[0-2]", 0..4);
    let ports = prop::collection::btree_map(0..3i64, "[x-z]", 0..3);
    let containers = prop::collection::btree_map("[a-c]", (prop::option::of("[0-2]"), ports), 0..3);
    let finalizers = prop::collection::btree_set("[a-d]/x", 0..3);
    (texts(), finalizers, prop::option::of("[0-2]"), containers, texts()).prop_map(
        |(labels, finalizers, node, containers, selector)| {
            let containers: Vec<Value> = containers
                .into_iter()
                .map(|(name, (image, ports))| {
                    let ports: Vec<Value> = ports
                        .into_iter()
                        .map(|(port, name)| json!({"containerPort": port + 80, "protocol": "TCP", "name": name}))
                        .collect();
                    json!({"name": name, "image": image, "ports": ports})
                })
                .collect();
            let mut config = json!({
                "metadata": {"labels": labels, "finalizers": finalizers},
                "spec": {"nodeName": node, "containers": containers, "nodeSelector": selector},
            });
            without_nothing(&mut config);
            config
        },
    )
}

/// Takes nulls and empty containers out, which a client would not write.
fn without_nothing(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(without_nothing);
            map.retain(|_, v| !(v.is_null() || v == &json!({}) || v == &json!([])));
        }
        Value::Array(list) => list.iter_mut().for_each(without_nothing),
        _ => {}
    }
}

fn set_of(object: &Value, manager: &str) -> Set {
    let managers = Managers::decode(&object["metadata"]["managedFields"]).unwrap();
    managers.entries.into_iter().find(|e| e.manager == manager).map(|e| e.set).unwrap_or_default()
}

fn without_managers(object: &Value) -> Value {
    let mut object = object.clone();
    object["metadata"]["managedFields"] = Value::Null;
    without_nothing(&mut object);
    object
}

fn owned(config: &Value) -> Set {
    let mut set = field_set(config, place(("", "v1", "Pod")));
    set.cut_place(&["metadata"]);
    set
}

proptest! {
    #[test]
    fn applying_twice_is_applying_once(start in config(), mine in config()) {
        let live = updated(&PODS, None, start, "start");
        let once = forced(&PODS, &live, mine.clone(), "me");
        let twice = applied(&PODS, Some(&once), mine, "me").unwrap();
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn an_applier_owns_what_it_sent(start in config(), first in config(), second in config()) {
        let live = updated(&PODS, None, start, "start");
        let live = forced(&PODS, &live, first, "me");
        let live = forced(&PODS, &live, second.clone(), "me");
        prop_assert_eq!(set_of(&live, "me"), owned(&second));
        // What it sent is what is there.
        let difference = compare(Some(&second), &live, place(("", "v1", "Pod")));
        prop_assert!(difference.removed.is_empty());
        prop_assert!(difference.changed.intersection(&owned(&second)).is_empty());
    }

    #[test]
    fn who_sends_nothing_leaves_nothing(start in config(), mine in config()) {
        let before = applied(&PODS, None, start, "start").unwrap();
        let with = match applied(&PODS, Some(&before), mine, "me") {
            Ok(with) => with,
            Err(_) => return Ok(()),
        };
        let after = applied(&PODS, Some(&with), json!({}), "me").unwrap();
        prop_assert_eq!(set_of(&after, "me"), Set::default());
        prop_assert_eq!(without_managers(&after), without_managers(&before));
    }

    #[test]
    fn force_moves_what_differs(first in config(), second in config()) {
        let live = applied(&PODS, None, first, "one").unwrap();
        let after = forced(&PODS, &live, second.clone(), "two");
        let changed = compare(Some(&live), &after, place(("", "v1", "Pod"))).changed;
        prop_assert!(set_of(&after, "one").intersection(&changed).is_empty());
        prop_assert_eq!(set_of(&after, "two"), owned(&second));
    }

    #[test]
    fn the_order_of_disjoint_appliers_does_not_matter(start in config(), one in config(), two in config()) {
        let mut two = two;
        remove(&mut two, &owned(&one), place(("", "v1", "Pod")));
        without_nothing(&mut two);
        prop_assume!(two.is_object() && owned(&one).intersection(&owned(&two)).is_empty());
        // The order of lists is the last applier's to give.
        let sorted = |object: &Value| {
            let mut object = without_managers(object);
            for list in ["/metadata/finalizers", "/spec/containers"] {
                if let Some(list) = object.pointer_mut(list).and_then(Value::as_array_mut) {
                    list.sort_by_key(Value::to_string);
                }
            }
            object
        };
        let live = applied(&PODS, None, start, "start").unwrap();
        let ab = forced(&PODS, &forced(&PODS, &live, one.clone(), "one"), two.clone(), "two");
        let ba = forced(&PODS, &forced(&PODS, &live, two, "two"), one, "one");
        prop_assert_eq!(sorted(&ab), sorted(&ba));
        for manager in ["one", "two", "start"] {
            prop_assert_eq!(set_of(&ab, manager), set_of(&ba, manager));
        }
    }

    #[test]
    fn a_difference_is_told_completely(old in config(), new in config()) {
        let place = place(("", "v1", "Pod"));
        let difference = compare(Some(&old), &new, place);
        prop_assert_eq!(difference.is_empty(), old == new);
        prop_assert!(field_set(&old, place).contains(&difference.removed.intersection(&field_set(&old, place))));
        prop_assert_eq!(decode_fields(&encode_fields(&difference.changed)).unwrap(), difference.changed);
    }

    #[test]
    fn an_updater_owns_what_it_changed(old in config(), new in config()) {
        let mut old = old;
        // Where nobody owns anything nobody is recorded.
        old["metadata"]["labels"]["first"] = "1".into();
        old["metadata"]["uid"] = "u".into();
        let live = updated(&PODS, None, old.clone(), "one");
        let mut next = new;
        next["metadata"]["uid"] = "u".into();
        let after = updated(&PODS, Some(&live), next.clone(), "two");
        let mut changed = compare(Some(&old), &next, place(("", "v1", "Pod"))).changed;
        changed.cut_place(&["metadata"]);
        prop_assert_eq!(set_of(&after, "two"), changed.clone());
        prop_assert!(set_of(&after, "one").intersection(&changed).is_empty());
    }
}
