//! Strategic merge patch as clients use it.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::facts::type_by_gvk;
use proptest::prelude::*;
use serde_json::json;

fn check(kind: (&str, &str, &str), target: &Value, patch: &Value, expect: &Value) {
    let mut result = target.clone();
    strategic(&mut result, patch, type_by_gvk(kind.0, kind.1, kind.2).unwrap()).unwrap();
    assert_eq!(&result, expect, "{target} patched by {patch}");
}

const POD: (&str, &str, &str) = ("", "v1", "Pod");

fn containers(list: &Value) -> Value {
    json!({"spec": {"containers": list}})
}

#[test]
fn lists_merge_by_key() {
    check(
        POD,
        &containers(&json!([{"name": "a", "image": "1"}, {"name": "b", "image": "2"}])),
        &containers(&json!([{"name": "b", "image": "3"}, {"name": "c", "image": "4"}])),
        &containers(&json!([{"name": "a", "image": "1"}, {"name": "b", "image": "3"}, {"name": "c", "image": "4"}])),
    );
    check(
        POD,
        &containers(&json!([{"name": "a", "ports": [{"containerPort": 80, "name": "x"}], "args": ["1"]}])),
        &containers(
            &json!([{"name": "a", "ports": [{"containerPort": 80, "hostPort": 1}, {"containerPort": 81}], "args": ["2"]}]),
        ),
        &containers(
            &json!([{"name": "a", "ports": [{"containerPort": 80, "name": "x", "hostPort": 1}, {"containerPort": 81}], "args": ["2"]}]),
        ),
    );
}

#[test]
fn directives_delete_and_replace() {
    let two = containers(&json!([{"name": "a"}, {"name": "b"}]));
    check(POD, &two, &containers(&json!([{"name": "a", "$patch": "delete"}])), &containers(&json!([{"name": "b"}])));
    check(POD, &two, &containers(&json!([{"$patch": "replace"}, {"name": "c"}])), &containers(&json!([{"name": "c"}])));
    check(
        POD,
        &json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
        &json!({"metadata": {"labels": {"$patch": "replace", "c": "3"}}}),
        &json!({"metadata": {"labels": {"c": "3"}}}),
    );
    check(
        POD,
        &json!({"metadata": {"labels": {"a": "1"}, "finalizers": ["x", "y"]}}),
        &json!({"metadata": {"labels": {"a": null, "b": "2"}, "$deleteFromPrimitiveList/finalizers": ["x"]}}),
        &json!({"metadata": {"labels": {"b": "2"}, "finalizers": ["y"]}}),
    );
    check(
        POD,
        &json!({"metadata": {"finalizers": ["x"]}}),
        &json!({"metadata": {"finalizers": ["y", "x"]}}),
        &json!({"metadata": {"finalizers": ["y", "x"]}}),
    );
}

#[test]
fn retained_keys_clear_the_others() {
    check(
        ("apps", "v1", "Deployment"),
        &json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}),
        &json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
        &json!({"spec": {"strategy": {"type": "Recreate"}}}),
    );
    check(
        POD,
        &json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}),
        &json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "configMap"], "configMap": {"name": "c"}}]}}),
        &json!({"spec": {"volumes": [{"name": "v", "configMap": {"name": "c"}}]}}),
    );
}

#[test]
fn element_order_is_the_patch_s() {
    let order = |names: &[&str]| Value::from(names.iter().map(|n| json!({"name": n})).collect::<Vec<_>>());
    let server = containers(&json!([{"name": "s"}, {"name": "a"}, {"name": "b"}]));
    check(
        POD,
        &server,
        &json!({"spec": {"$setElementOrder/containers": order(&["n", "b", "a"]), "containers": [{"name": "n"}]}}),
        &containers(&json!([{"name": "n"}, {"name": "s"}, {"name": "b"}, {"name": "a"}])),
    );
    check(
        POD,
        &server,
        &json!({"spec": {"$setElementOrder/containers": order(&["b", "a"])}}),
        &containers(&json!([{"name": "s"}, {"name": "b"}, {"name": "a"}])),
    );
}

#[test]
fn new_content_comes_without_directives() {
    check(
        POD,
        &json!({}),
        &json!({"spec": {"$setElementOrder/containers": [{"name": "a"}], "nodeName": null,
            "containers": [{"name": "a", "env": [{"name": "x", "$patch": "delete"}]}]}}),
        &json!({"spec": {"containers": [{"name": "a", "env": []}]}}),
    );
}

#[test]
fn without_an_order_the_patch_s_own_counts() {
    check(
        POD,
        &containers(&json!([{"name": "a"}, {"name": "s"}, {"name": "b"}])),
        &containers(&json!([{"name": "n"}, {"name": "b"}, {"name": "a", "image": "1"}])),
        &containers(&json!([{"name": "n"}, {"name": "s"}, {"name": "b"}, {"name": "a", "image": "1"}])),
    );
}

#[test]
fn what_contradicts_itself_is_an_error() {
    let check = |patch: Value, expect: PatchError| {
        let mut target =
            json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        let error = strategic(&mut target, &patch, type_by_gvk("", "v1", "Pod").unwrap());
        assert_eq!(error, Err(expect), "{patch}");
    };
    let failed = |text: &str| PatchError::Failed(text.to_owned());
    check(
        json!({"metadata": {"labels": {"$patch": "explode", "x": "y"}}}),
        failed("unknown patch type: explode in map: map[$patch:explode x:y]"),
    );
    check(
        json!({"spec": {"containers": [{"$patch": "delete"}]}}),
        failed("map: map[$patch:delete] does not contain declared merge key: name"),
    );
    check(json!({"spec": {"containers": ["a"]}}), failed("expected a map[string]interface {}, but received a string"));
    check(
        json!({"spec": {"$setElementOrder/containers": [{"name": "a"}, {"name": "b"}], "containers": [{"name": "b"}, {"name": "a"}]}}),
        failed(
            "The order in patch list:\n[map[name:b] map[name:a]]\n doesn't match $setElementOrder list:\n[map[name:a] map[name:b]]\n",
        ),
    );
    check(
        json!({"spec": {"$retainKeys": ["nodeName"], "hostname": "x"}}),
        PatchError::Malformed("invalid patch format of retainKeys".to_owned()),
    );
    check(
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": "x"}}),
        PatchError::Malformed("invalid patch format of primitive list".to_owned()),
    );
}

#[test]
fn a_missing_merge_key_is_an_error() {
    let mut target = containers(&json!([{"name": "a"}]));
    let error = strategic(&mut target, &containers(&json!([{"image": "x"}])), type_by_gvk("", "v1", "Pod").unwrap());
    assert_eq!(error.unwrap_err().to_string(), "map: map[image:x] does not contain declared merge key: name");
}

fn pod_tree() -> impl Strategy<Value = Value> {
    let container = ("[a-d]", prop::option::of("[x-z]"), prop::collection::vec(1..4i64, 0..3)).prop_map(
        |(name, image, mut ports)| {
            ports.sort_unstable();
            ports.dedup();
            let ports: Vec<Value> = ports.into_iter().map(|p| json!({"containerPort": p})).collect();
            (name.clone(), json!({"name": name, "image": image.unwrap_or_default(), "ports": ports}))
        },
    );
    let labels = prop::collection::btree_map("[a-c]", "[0-9]", 0..3);
    (prop::collection::vec(container, 0..4), labels).prop_map(|(list, labels)| {
        let mut seen = std::collections::BTreeSet::new();
        let list: Vec<Value> = list.into_iter().filter(|(n, _)| seen.insert(n.clone())).map(|(_, c)| c).collect();
        json!({"metadata": {"labels": labels}, "spec": {"containers": list}})
    })
}

proptest! {
    #[test]
    fn applying_twice_is_applying_once(mut target in pod_tree(), patch in pod_tree()) {
        let ty = type_by_gvk("", "v1", "Pod").unwrap();
        strategic(&mut target, &patch, ty).unwrap();
        let once = target.clone();
        strategic(&mut target, &patch, ty).unwrap();
        prop_assert_eq!(&target, &once);
        // Every element of the patch is there afterwards.
        for container in patch["spec"]["containers"].as_array().unwrap() {
            let found = once["spec"]["containers"].as_array().unwrap().iter().any(|c| c["name"] == container["name"]);
            prop_assert!(found);
        }
    }
}
