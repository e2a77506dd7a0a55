//! What limit ranges make of pods and claims: defaults for what is not said, and bounds.

use crate::quantity::Quantity;
use crate::quota::{Amounts, parse, pod_limits, pod_requests};
use crate::tree::{self, entries, list, text};
use serde_json::{Map, Value};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// Completes the containers of a new pod with the defaults of a range, and says so in an annotation.
pub fn set_defaults(range: &Value, pod: &mut Value) {
    let mut defaults: (Map<String, Value>, Map<String, Value>) = Default::default();
    for item in list(&range["spec"]["limits"]).iter().filter(|item| item["type"] == "Container") {
        let of = |part: &str| entries(&item[part]).map(|(k, v)| (k.clone(), v.clone())).collect::<Vec<_>>();
        defaults.0.extend(of("defaultRequest"));
        defaults.1.extend(of("default"));
    }
    let mut set: Vec<String> = Vec::new();
    if let Some(spec) = tree::sub(tree::object(pod), "spec") {
        for (field, what) in [("containers", "container"), ("initContainers", "init container")] {
            for container in tree::items(spec, field) {
                let name = container.get("name").map(text).unwrap_or_default().to_owned();
                for (part, word, defaults) in [("requests", "request", &defaults.0), ("limits", "limit", &defaults.1)] {
                    let added = fill(container, part, defaults);
                    if !added.is_empty() {
                        set.push(format!("{} {word} for {what} {name}", added.join(", ")));
                    }
                }
            }
        }
    }
    if !set.is_empty() {
        let metadata = tree::ensure(tree::object(pod), "metadata");
        let text = format!("LimitRanger plugin set: {}", set.join("; "));
        tree::ensure(metadata, "annotations").insert(ANNOTATION.to_owned(), text.into());
    }
}

/// Adds what is missing; the names of it, in order.
fn fill(container: &mut Map<String, Value>, part: &str, defaults: &Map<String, Value>) -> Vec<String> {
    if defaults.is_empty() {
        return Vec::new();
    }
    let amounts = tree::ensure(tree::ensure(container, "resources"), part);
    let mut added: Vec<String> = Vec::new();
    for (name, amount) in defaults.iter().filter(|(_, amount)| amount.is_string()) {
        if !amounts.contains_key(name) {
            amounts.insert(name.clone(), amount.clone());
            added.push(name.clone());
        }
    }
    added.sort();
    added
}

/// What of a range a pod violates. What an old pod had already is not asked about again.
pub fn pod_violations(range: &Value, pod: &Value, old: Option<&Value>) -> Vec<String> {
    let mut wrong = Vec::new();
    for item in list(&range["spec"]["limits"]) {
        match text(&item["type"]) {
            "Container" => {
                for field in ["containers", "initContainers"] {
                    for container in list(&pod["spec"][field]) {
                        let before = old.and_then(|old| {
                            list(&old["spec"][field]).iter().find(|before| before["name"] == container["name"])
                        });
                        bounds(item, &of_container(container), before.map(of_container).as_ref(), &mut wrong);
                    }
                }
            }
            "Pod" => bounds(item, &of_pod(pod), old.map(of_pod).as_ref(), &mut wrong),
            _ => {}
        }
    }
    wrong
}

/// What of a range a claim violates.
pub fn claim_violations(range: &Value, claim: &Value, old: Option<&Value>) -> Vec<String> {
    let requests = |claim: &Value| parse(&claim["spec"]["resources"]["requests"]);
    let (now, before) = (requests(claim), old.map(requests));
    let mut wrong = Vec::new();
    for item in list(&range["spec"]["limits"]).iter().filter(|item| item["type"] == "PersistentVolumeClaim") {
        let changed =
            |name: &String| before.as_ref().is_none_or(|old| !old.contains_key(name) || old.get(name) != now.get(name));
        for (name, bound) in parse(&item["min"]).iter().filter(|(name, _)| changed(name)) {
            wrong.extend(below(item, name, *bound, now.get(name), None));
        }
        for (name, bound) in parse(&item["max"]).iter().filter(|(name, _)| changed(name)) {
            wrong.extend(match now.get(name) {
                None => Some(bounded("maximum", item, name, *bound, ".  No request is specified")),
                Some(request) if request > bound => {
                    Some(bounded("maximum", item, name, *bound, &format!(", but request is {request}")))
                }
                _ => None,
            });
        }
    }
    wrong
}

/// Requests and limits.
type Asked = (Amounts, Amounts);

fn of_container(container: &Value) -> Asked {
    (parse(&container["resources"]["requests"]), parse(&container["resources"]["limits"]))
}

fn of_pod(pod: &Value) -> Asked {
    (pod_requests(&pod["spec"]), pod_limits(&pod["spec"]))
}

fn bounds(item: &Value, now: &Asked, before: Option<&Asked>, wrong: &mut Vec<String>) {
    let changed = |name: &String| {
        before.is_none_or(|before| before.0.get(name) != now.0.get(name) || before.1.get(name) != now.1.get(name))
    };
    let of = |part: &str| parse(&item[part]).into_iter().filter(|(name, _)| changed(name)).collect::<Vec<_>>();
    for (name, bound) in of("min") {
        wrong.extend(below(item, &name, bound, now.0.get(&name), now.1.get(&name)));
    }
    for (name, bound) in of("max") {
        wrong.extend(above(item, &name, bound, now.0.get(&name), now.1.get(&name)));
    }
    for (name, bound) in of("maxLimitRequestRatio") {
        wrong.extend(ratio(item, &name, bound, now.0.get(&name), now.1.get(&name)));
    }
}

fn bounded(word: &str, item: &Value, name: &str, bound: Quantity, why: &str) -> String {
    format!("{word} {name} usage per {} is {bound}{why}", text(&item["type"]))
}

fn below(
    item: &Value,
    name: &str,
    bound: Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let say = |why: &str| Some(bounded("minimum", item, name, bound, why));
    match (request, limit) {
        (None, _) => say(".  No request is specified"),
        (Some(request), _) if bound > *request => say(&format!(", but request is {request}")),
        (_, Some(limit)) if bound > *limit => say(&format!(", but limit is {limit}")),
        _ => None,
    }
}

fn above(
    item: &Value,
    name: &str,
    bound: Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let say = |why: &str| Some(bounded("maximum", item, name, bound, why));
    match (request, limit) {
        (_, None) => say(".  No limit is specified"),
        (_, Some(limit)) if *limit > bound => say(&format!(", but limit is {limit}")),
        (Some(request), _) if *request > bound => say(&format!(", but request is {request}")),
        _ => None,
    }
}

fn ratio(
    item: &Value,
    name: &str,
    bound: Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let kind = text(&item["type"]);
    let say = |why: &str| Some(format!("{name} max limit to request ratio per {kind} is {bound}, but {why}"));
    let Some(request) = request.filter(|request| !request.is_zero()) else {
        return say("no request is specified or request is 0");
    };
    let Some(limit) = limit.filter(|limit| !limit.is_zero()) else {
        return say("no limit is specified or limit is 0");
    };
    let ratio = limit.ratio(*request);
    if ratio > bound.ratio(Quantity::from_value(1)) { say(&format!("provided ratio is {ratio:.6}")) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(resources: Value) -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "resources": resources}]}})
    }

    fn range(item: Value) -> Value {
        json!({"spec": {"limits": [item]}})
    }

    #[test]
    fn defaults_fill_what_is_missing() {
        let range = range(
            json!({"type": "Container", "default": {"cpu": "1", "memory": "2Gi"}, "defaultRequest": {"cpu": "100m"}}),
        );
        let mut object = pod(json!({"limits": {"cpu": "2"}}));
        set_defaults(&range, &mut object);
        let resources = &object["spec"]["containers"][0]["resources"];
        assert_eq!(*resources, json!({"limits": {"cpu": "2", "memory": "2Gi"}, "requests": {"cpu": "100m"}}));
        assert_eq!(
            object["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu request for container c; memory limit for container c"
        );
    }

    #[test]
    fn bounds_of_containers_and_pods() {
        let check = |item: Value, resources: Value, expect: &[&str]| {
            assert_eq!(pod_violations(&range(item), &pod(resources), None), expect);
        };
        let asked = json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "1"}});
        check(json!({"type": "Container", "min": {"cpu": "50m"}, "max": {"cpu": "1"}}), asked.clone(), &[]);
        check(
            json!({"type": "Container", "min": {"cpu": "200m"}, "max": {"cpu": "500m"}, "maxLimitRequestRatio": {"cpu": "3"}}),
            asked.clone(),
            &[
                "minimum cpu usage per Container is 200m, but request is 100m",
                "maximum cpu usage per Container is 500m, but limit is 1",
                "cpu max limit to request ratio per Container is 3, but provided ratio is 10.000000",
            ],
        );
        check(
            json!({"type": "Pod", "min": {"memory": "1Gi"}, "max": {"memory": "1Gi"}}),
            asked,
            &[
                "minimum memory usage per Pod is 1Gi.  No request is specified",
                "maximum memory usage per Pod is 1Gi.  No limit is specified",
            ],
        );
    }

    #[test]
    fn what_does_not_change_is_not_asked_about() {
        let old = pod(json!({"requests": {"cpu": "10m", "memory": "1Mi"}}));
        let new = pod(json!({"requests": {"cpu": "10m", "memory": "2Mi"}}));
        let range = range(json!({"type": "Container", "min": {"cpu": "1", "memory": "1Gi"}}));
        assert_eq!(
            pod_violations(&range, &new, Some(&old)),
            ["minimum memory usage per Container is 1Gi, but request is 2Mi"]
        );
    }

    #[test]
    fn claims() {
        let claim = json!({"spec": {"resources": {"requests": {"storage": "5Gi"}}}});
        let range =
            range(json!({"type": "PersistentVolumeClaim", "min": {"storage": "10Gi"}, "max": {"storage": "1Gi"}}));
        assert_eq!(
            claim_violations(&range, &claim, None),
            [
                "minimum storage usage per PersistentVolumeClaim is 10Gi, but request is 5Gi",
                "maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 5Gi",
            ]
        );
        assert_eq!(claim_violations(&range, &claim, Some(&claim)), [""; 0]);
    }
}
