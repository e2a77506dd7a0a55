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
    check(
        json!({"spec": {"containers": ["a"]}}),
        failed("list element types are not identical: [[map[name:a] map[name:b]] [a]]"),
    );
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
    for (directive, what) in
        [("$deleteFromPrimitiveList", "primitive list"), ("$setElementOrder", "setElementOrder list")]
    {
        let text = format!("invalid patch format of {what}");
        check(json!({"metadata": {directive: ["x"]}}), PatchError::Malformed(text));
    }
    check(
        json!({"metadata": {"labels": {"$patch": "merge", "x": "y"}}}),
        failed("unknown patch type: merge in map: map[$patch:merge x:y]"),
    );
    check(
        json!({"spec": {"containers": [{"$patch": "merge", "name": "a"}]}}),
        failed("merging lists cannot yet be specified in the patch"),
    );
    check(
        json!({"spec": {"containers": [{"$patch": "explode"}]}}),
        failed("unknown patch type: explode in map: map[$patch:explode]"),
    );
    check(
        json!({"spec": {"containers": [{"$patch": "replace"}, {"image": "x"}]}}),
        failed("map: map[image:x] does not contain declared merge key: name"),
    );
    check(
        json!({"spec": {"$setElementOrder/containers": "x"}}),
        failed("expected a []interface {}, but received a string"),
    );
    check(
        json!({"spec": {"$setElementOrder/containers": [{"name": "a"}], "containers": "x"}}),
        failed("expected a []interface {}, but received a string"),
    );
    check(
        json!({"spec": {"$setElementOrder/containers": [{"name": "a"}], "containers": ["x"]}}),
        failed("expected a map[string]interface {}, but received a string"),
    );
    check(
        json!({"spec": {"$setElementOrder/containers": [{"image": "a"}], "containers": [{"name": "a"}]}}),
        failed("map: map[image:a] does not contain declared merge key: name"),
    );
    check(
        json!({"spec": {"$retainKeys": "x"}}),
        PatchError::Malformed("invalid patch format of retainKeys".to_owned()),
    );
}

#[test]
fn directives_one_by_one() {
    let labels = |map: Value| json!({"metadata": {"labels": map}});
    let finalizers = |list: Value| json!({"metadata": {"finalizers": list}});
    let names = |names: &[&str]| Value::from(names.iter().map(|n| json!({"name": n})).collect::<Vec<_>>());
    let ports = |list: Value| containers(&json!([{"name": "a", "ports": list}]));
    let volume = |fields: Value| json!({"spec": {"volumes": [fields]}});
    for (target, patch, expect) in [
        // Maps.
        (labels(json!({"a": "1"})), labels(json!({"$patch": "delete"})), labels(json!({}))),
        (labels(json!({"a": "1"})), labels(json!({"$patch": "replace"})), labels(json!({}))),
        (labels(json!({"a": "1"})), labels(json!({"a": null, "b": null, "c": "3"})), labels(json!({"c": "3"}))),
        (json!({"metadata": {}}), labels(json!({"$patch": "replace", "a": "1"})), json!({"metadata": {}})),
        (json!({"metadata": {}}), labels(json!({"$patch": "delete"})), json!({"metadata": {}})),
        (json!({"metadata": {}}), labels(json!({"a": null, "b": "2"})), labels(json!({"b": "2"}))),
        (labels(json!({"a": "1"})), json!({"metadata": {"labels": null}}), json!({"metadata": {}})),
        // Lists with a key.
        (containers(&names(&["a", "b"])), containers(&json!([])), containers(&names(&["a", "b"]))),
        (
            containers(&names(&["a", "b"])),
            containers(&json!([{"$patch": "delete", "name": "nope"}])),
            containers(&names(&["a", "b"])),
        ),
        (
            containers(&names(&["a", "b"])),
            containers(&json!([{"name": "c"}, {"$patch": "replace"}, {"$patch": "delete", "name": "a"}])),
            containers(&names(&["c"])),
        ),
        (containers(&names(&["a"])), containers(&json!([{"$patch": "replace"}])), containers(&json!([]))),
        (json!({"spec": {}}), containers(&json!([{"$patch": "delete", "name": "a"}])), containers(&json!([]))),
        (
            ports(json!([{"containerPort": 1}, {"containerPort": 2}])),
            ports(json!([{"containerPort": 1, "$patch": "delete"}, {"containerPort": 3}])),
            ports(json!([{"containerPort": 3}, {"containerPort": 2}])),
        ),
        // Lists that are replaced, and of scalars.
        (
            containers(&json!([{"name": "a", "command": ["x", "y"]}])),
            containers(&json!([{"name": "a", "command": ["z"]}])),
            containers(&json!([{"name": "a", "command": ["z"]}])),
        ),
        (finalizers(json!(["x", "y"])), finalizers(json!(["z", "y"])), finalizers(json!(["z", "x", "y"]))),
        (
            finalizers(json!(["x", "y", "z"])),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["y", "nope"]}}),
            finalizers(json!(["x", "z"])),
        ),
        (
            finalizers(json!(["x"])),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": "x"}}),
            finalizers(json!(["x"])),
        ),
        (
            finalizers(json!(["x", "y"])),
            json!({"metadata": {"$setElementOrder/finalizers": ["z", "y", "x"], "finalizers": ["z"],
                "$deleteFromPrimitiveList/finalizers": ["x"]}}),
            finalizers(json!(["z", "y"])),
        ),
        // Orders: an element only the server knows stays before the neighbour that it was before.
        (
            containers(&names(&["a", "s", "b"])),
            json!({"spec": {"$setElementOrder/containers": names(&["b", "a"])}}),
            containers(&names(&["s", "b", "a"])),
        ),
        (
            containers(&names(&["a", "b", "s"])),
            json!({"spec": {"$setElementOrder/containers": names(&["b", "a"])}}),
            containers(&names(&["b", "a", "s"])),
        ),
        (
            json!({"spec": {}}),
            json!({"spec": {"$setElementOrder/containers": names(&["b", "a"])}}),
            json!({"spec": {}}),
        ),
        (
            containers(&names(&["a", "b"])),
            json!({"spec": {"$setElementOrder/containers": names(&["b"]), "containers": [{"$patch": "delete", "name": "a"}]}}),
            containers(&names(&["b"])),
        ),
        // What is retained.
        (
            volume(json!({"name": "v", "hostPath": {"path": "/"}})),
            volume(json!({"name": "v", "$retainKeys": ["name", "emptyDir"], "emptyDir": {}, "hostPath": null})),
            volume(json!({"name": "v", "emptyDir": {}})),
        ),
    ] {
        check(POD, &target, &patch, &expect);
    }
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

    #[test]
    fn both_orders_are_kept(target in pod_tree(), patch in pod_tree()) {
        let ty = type_by_gvk("", "v1", "Pod").unwrap();
        let mut merged = target.clone();
        strategic(&mut merged, &patch, ty).unwrap();
        let (old, sent, new) = (names_of(&target), names_of(&patch), names_of(&merged));
        // Elements of the patch come in its order, those only the server knows in the server's.
        prop_assert_eq!(&only(&new, |name| sent.contains(name)), &sent);
        prop_assert_eq!(only(&new, |name| !sent.contains(name)), only(&old, |name| !sent.contains(name)));
        prop_assert!(new.iter().all(|name| sent.contains(name) || old.contains(name)));
    }

    #[test]
    fn the_order_of_disjoint_patches_does_not_matter(target in pod_tree(), one in pod_tree(), two in pod_tree()) {
        let ty = type_by_gvk("", "v1", "Pod").unwrap();
        let taken = names_of(&one);
        let mut two = two;
        two["spec"]["containers"].as_array_mut().unwrap().retain(|c| !taken.contains(&c["name"].to_string()));
        let labels = one["metadata"]["labels"].as_object().unwrap();
        two["metadata"]["labels"].as_object_mut().unwrap().retain(|key, _| !labels.contains_key(key));
        let both = |first: &Value, second: &Value| {
            let mut object = target.clone();
            strategic(&mut object, first, ty).unwrap();
            strategic(&mut object, second, ty).unwrap();
            // The order of a list is the last patch's to give.
            object["spec"]["containers"].as_array_mut().unwrap().sort_by_key(|c| c["name"].to_string());
            object
        };
        prop_assert_eq!(both(&one, &two), both(&two, &one));
    }

    #[test]
    fn what_is_deleted_is_gone_and_nothing_else(target in pod_tree(), doomed in "[a-d]") {
        let ty = type_by_gvk("", "v1", "Pod").unwrap();
        let mut patched = target.clone();
        strategic(&mut patched, &containers(&json!([{"$patch": "delete", "name": doomed}])), ty).unwrap();
        let mut expect = target;
        expect["spec"]["containers"].as_array_mut().unwrap().retain(|c| c["name"] != json!(doomed));
        prop_assert_eq!(patched, expect);
    }
}

fn names_of(object: &Value) -> Vec<String> {
    object["spec"]["containers"].as_array().unwrap().iter().map(|c| c["name"].to_string()).collect()
}

fn only(names: &[String], keep: impl Fn(&String) -> bool) -> Vec<String> {
    names.iter().filter(|name| keep(name)).cloned().collect()
}
