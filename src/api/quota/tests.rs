//! What counts for what, and what does not fit.

use super::*;
use crate::registry::{self, Resource};
use serde_json::{Value, json};

fn quota(hard: Value, used: Value, spec: Value) -> Value {
    json!({"metadata": {"name": "q"}, "spec": spec, "status": {"hard": hard, "used": used}})
}

fn pod(resources: Value) -> Value {
    json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "resources": resources}]}})
}

fn create(resource: &'static Resource, object: &Value, quotas: &[Value]) -> Result<Vec<String>, String> {
    let request = Request { operation: Operation::Create, resource, subresource: "", object, old: None, now: 0 };
    let charges = charge(&request, quotas).map_err(|refusal| refusal.to_string())?;
    Ok(charges.iter().map(|charge| show(&charge.amounts)).collect())
}

#[test]
fn pods_count_until_they_end() {
    let quotas = [quota(json!({"pods": "1", "count/pods": "5"}), json!({"pods": "0", "count/pods": "0"}), json!({}))];
    let mut object = pod(json!({}));
    assert_eq!(create(&registry::PODS, &object, &quotas), Ok(vec!["count/pods=1,pods=1".to_owned()]));
    object["status"] = json!({"phase": "Failed"});
    assert_eq!(create(&registry::PODS, &object, &quotas), Ok(vec!["count/pods=1".to_owned()]));
    assert!(!usage(&registry::PODS, &object, 0).contains_key("pods"));
}

#[test]
fn what_is_exceeded_is_named() {
    let object = pod(json!({"requests": {"cpu": "600m", "memory": "1Gi"}, "limits": {"cpu": "1"}}));
    let quotas = [quota(
        json!({"requests.cpu": "1", "limits.cpu": "5", "requests.memory": "1Gi"}),
        json!({"requests.cpu": "500m", "limits.cpu": "0", "requests.memory": "512Mi"}),
        json!({}),
    )];
    let expect = "exceeded quota: q, requested: requests.cpu=600m,requests.memory=1Gi, used: requests.cpu=500m,requests.memory=512Mi, limited: requests.cpu=1,requests.memory=1Gi";
    assert_eq!(create(&registry::PODS, &object, &quotas), Err(expect.to_owned()));
}

#[test]
fn containers_say_what_they_want() {
    let object = pod(json!({"requests": {"cpu": "1"}}));
    let quotas =
        [quota(json!({"limits.cpu": "5", "memory": "1Gi"}), json!({"limits.cpu": "0", "memory": "0"}), json!({}))];
    let expect = "failed quota: q: must specify limits.cpu for: c; memory for: c";
    assert_eq!(create(&registry::PODS, &object, &quotas), Err(expect.to_owned()));
    let fresh = [quota(json!({"pods": "5"}), json!({}), json!({}))];
    let expect = "status unknown for quota: q, resources: pods";
    assert_eq!(create(&registry::PODS, &object, &fresh), Err(expect.to_owned()));
}

#[test]
fn scopes() {
    let best_effort = pod(json!({}));
    let burstable = pod(json!({"requests": {"cpu": "1"}}));
    let mut bounded = burstable.clone();
    bounded["spec"]["activeDeadlineSeconds"] = 5.into();
    bounded["spec"]["priorityClassName"] = "high".into();
    let mut far = best_effort.clone();
    far["spec"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] =
        json!([{"namespaces": ["x"], "topologyKey": "k"}]);
    let counts = |spec: Value, object: &Value| {
        matches(&quota(json!({"pods": "1"}), json!({"pods": "0"}), spec), &registry::PODS, object)
    };
    let scope = |name: &str| json!({"scopes": [name]});
    let by_class = |operator: &str, values: Value| {
        json!({"scopeSelector": {"matchExpressions": [
        {"scopeName": "PriorityClass", "operator": operator, "values": values}]}})
    };
    assert!(counts(scope("BestEffort"), &best_effort) && !counts(scope("BestEffort"), &burstable));
    assert!(counts(scope("NotBestEffort"), &burstable) && !counts(scope("NotBestEffort"), &best_effort));
    assert!(counts(scope("Terminating"), &bounded) && !counts(scope("Terminating"), &burstable));
    assert!(counts(scope("NotTerminating"), &burstable) && !counts(scope("NotTerminating"), &bounded));
    assert!(counts(scope("CrossNamespacePodAffinity"), &far) && !counts(scope("CrossNamespacePodAffinity"), &bounded));
    assert!(counts(by_class("In", json!(["high"])), &bounded) && !counts(by_class("In", json!(["high"])), &burstable));
    assert!(
        counts(by_class("NotIn", json!(["low"])), &bounded) && counts(by_class("DoesNotExist", json!([])), &burstable)
    );
}

#[test]
fn services_and_plain_counts() {
    let quotas = [quota(
        json!({"services": "1", "services.nodeports": "1", "count/configmaps": "3", "configmaps": "3"}),
        json!({"services": "0", "services.nodeports": "0", "count/configmaps": "0", "configmaps": "0"}),
        json!({}),
    )];
    let service = json!({"metadata": {}, "spec": {"type": "LoadBalancer", "ports": [{"port": 1}, {"port": 2}]}});
    let expect =
        "exceeded quota: q, requested: services.nodeports=2, used: services.nodeports=0, limited: services.nodeports=1";
    assert_eq!(create(&registry::SERVICES, &service, &quotas), Err(expect.to_owned()));
    let object = json!({"metadata": {"name": "c"}});
    assert_eq!(
        create(&registry::CONFIG_MAPS, &object, &quotas),
        Ok(vec!["configmaps=1,count/configmaps=1".to_owned()])
    );
    let scoped =
        [quota(json!({"count/configmaps": "3"}), json!({"count/configmaps": "0"}), json!({"scopes": ["Terminating"]}))];
    assert_eq!(create(&registry::CONFIG_MAPS, &object, &scoped), Ok(vec![]));
}

#[test]
fn updates_are_charged_the_difference() {
    let quotas = [quota(json!({"services.nodeports": "2"}), json!({"services.nodeports": "1"}), json!({}))];
    let old = json!({"spec": {"type": "NodePort", "ports": [{"port": 1}]}});
    let new = json!({"spec": {"type": "NodePort", "ports": [{"port": 1}, {"port": 2}]}});
    let request = |object, old| Request {
        operation: Operation::Update,
        resource: &registry::SERVICES,
        subresource: "",
        object,
        old: Some(old),
        now: 0,
    };
    let charges = charge(&request(&new, &old), &quotas).expect("fits");
    let charged = charges[0].apply(&quotas[0]);
    assert_eq!(charged["status"]["used"], json!({"services.nodeports": "2"}));
    assert_eq!(refund(&charged, &charges[0].amounts), quotas[0]);
    assert_eq!(charge(&request(&old, &new), &quotas), Ok(vec![]));
}
