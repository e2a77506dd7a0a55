//! What is said about Services that are wrong, and about some that are right.

use super::*;
use crate::status::FieldErrors;
use serde_json::json;

#[track_caller]
fn check(spec: Value, expect: &[&str]) {
    let mut object = json!({ "spec": spec });
    default(&mut object);
    update::prepare_create(&mut object);
    let mut errors = FieldErrors::default();
    validate::service(&object, &mut errors);
    assert_eq!(errors.messages(), expect);
}

#[test]
fn good_services() {
    check(json!({"ports": [{"port": 80}], "selector": {"app": "web"}}), &[]);
    check(json!({"clusterIP": "None"}), &[]);
    check(json!({"type": "ExternalName", "externalName": "example.com."}), &[]);
    let balancer = json!({"type": "LoadBalancer", "sessionAffinity": "ClientIP", "ports": [{"port": 80, "targetPort": "http"}],
        "loadBalancerSourceRanges": [" 10.0.0.0/8 "]});
    check(balancer, &[]);
}

#[test]
fn bad_services() {
    check(json!({}), &["spec.ports: Required value"]);
    check(
        json!({"type": "Foo", "ports": [{"port": 0}]}),
        &[
            "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.type: Unsupported value: \"Foo\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
        ],
    );
    check(
        json!({"ports": [{"port": 80}, {"port": 80, "name": "a", "nodePort": 30000}]}),
        &[
            "spec.ports[0].name: Required value",
            "spec.ports[1].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
            "spec.ports[1]: Duplicate value: {\"Name\":\"\",\"Protocol\":\"TCP\",\"AppProtocol\":null,\"Port\":80,\"TargetPort\":0,\"NodePort\":0}",
        ],
    );
    check(
        json!({"clusterIP": "1.2.3", "ports": [{"port": 80, "targetPort": "a_b"}], "externalIPs": ["127.0.0.1"]}),
        &[
            "spec.ports[0].targetPort: Invalid value: \"a_b\": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
            "spec.clusterIPs[0]: Invalid value: \"1.2.3\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
        ],
    );
}

#[test]
fn addresses_and_families_fit() {
    let ports = json!([{"port": 80}]);
    check(
        json!({"ports": ports, "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "10.0.0.2"], "ipFamilies": ["IPv6"]}),
        &[
            "spec.clusterIPs: Invalid value: [\"10.0.0.1\",\"10.0.0.2\"]: may specify no more than one IP for each IP family",
            "spec.clusterIPs[0]: Invalid value: \"10.0.0.1\": expected an IPv6 value as indicated by `ipFamilies[0]`",
        ],
    );
    check(
        json!({"ports": ports, "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4", "IPv4", "x"], "ipFamilyPolicy": "y"}),
        &[
            "spec.clusterIPs: Invalid value: [\"10.0.0.1\"]: must be empty when `clusterIP` is not specified",
            "spec.ipFamilies[1]: Duplicate value: \"IPv4\"",
            "spec.ipFamilies[2]: Unsupported value: \"x\": supported values: \"IPv4\", \"IPv6\"",
            "spec.ipFamilyPolicy: Unsupported value: \"y\": supported values: \"PreferDualStack\", \"RequireDualStack\", \"SingleStack\"",
        ],
    );
}

#[test]
fn what_a_type_does_not_have() {
    check(
        json!({"type": "ExternalName", "clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"}),
        &[
            "spec.clusterIPs: Forbidden: may not be set for ExternalName services",
            "spec.ipFamilies: Forbidden: may not be set for ExternalName services",
            "spec.ipFamilyPolicy: Forbidden: may not be set for ExternalName services",
            "spec.externalName: Required value",
        ],
    );
    check(
        json!({"ports": [{"port": 80}], "loadBalancerSourceRanges": ["x"], "allocateLoadBalancerNodePorts": false,
            "loadBalancerClass": "a/b", "externalTrafficPolicy": "Local", "healthCheckNodePort": 1}),
        &[
            "spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
            "spec.LoadBalancerSourceRanges[0]: Invalid value: \"x\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            "spec.allocateLoadBalancerNodePorts: Forbidden: may only be used when `type` is 'LoadBalancer'",
            "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'",
            "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
            "spec.healthCheckNodePort: Invalid value: 1: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        ],
    );
    check(
        json!({"type": "LoadBalancer", "clusterIP": "None", "ports": [{"port": 10250}], "externalTrafficPolicy": "Local"}),
        &[
            "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for LoadBalancer services",
            "spec.healthCheckNodePort: Required value",
        ],
    );
}

#[test]
fn addresses_stay() {
    let spec = |more: Value| {
        let mut object = json!({"spec": {"type": "ClusterIP", "ports": [{"port": 80}]}});
        object["spec"].as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        default(&mut object);
        object
    };
    let check = |old: Value, new: Value, expect: &[&str]| {
        let mut errors = FieldErrors::default();
        validate::update(&spec(new), &spec(old), &mut errors);
        assert_eq!(errors.messages(), expect);
    };
    let one = json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]});
    check(
        one.clone(),
        json!({"clusterIP": "10.0.0.2", "clusterIPs": ["10.0.0.2"]}),
        &["spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"],
    );
    check(one, json!({}), &["spec.clusterIPs[0]: Invalid value: null: primary clusterIP can not be unset"]);
    let class = |name: &str| json!({"type": "LoadBalancer", "loadBalancerClass": name});
    check(class("a/b"), class("a/c"), &["spec.loadBalancerClass: Invalid value: \"a/c\": may not change once set"]);
}

#[test]
fn statuses_name_addresses_of_balancers() {
    let check = |kind: &str, ingress: Value, expect: &[&str]| {
        let object = json!({"spec": {"type": kind}, "status": {"loadBalancer": {"ingress": [ingress]}}});
        let mut errors = FieldErrors::default();
        validate::status(&object, &object, &mut errors);
        assert_eq!(errors.messages(), expect);
    };
    check("LoadBalancer", json!({"ip": "192.0.2.1", "ipMode": "VIP"}), &[]);
    check(
        "ClusterIP",
        json!({}),
        &["status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is 'LoadBalancer'"],
    );
    check(
        "LoadBalancer",
        json!({"hostname": "1.2.3.4", "ipMode": "VIP"}),
        &[
            "status.loadBalancer.ingress[0].ipMode: Forbidden: may not be specified when `ip` is not set",
            "status.loadBalancer.ingress[0].hostname: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
        ],
    );
}

#[test]
fn advice() {
    let service = json!({"metadata": {"annotations": {"service.kubernetes.io/topology-aware-hints": "auto"}},
        "spec": {"type": "ClusterIP", "clusterIPs": ["2001:DB8::1"], "externalIPs": ["192.0.2.1"], "externalName": "x",
            "sessionAffinity": "None", "trafficDistribution": "PreferClose"}});
    assert_eq!(
        validate::warnings(&service),
        [
            "annotation service.kubernetes.io/topology-aware-hints is deprecated, please use service.kubernetes.io/topology-mode instead",
            "spec.clusterIPs[0]: IPv6 address \"2001:DB8::1\" should be in RFC 5952 canonical format (\"2001:db8::1\")",
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters",
            "spec.externalName is ignored when spec.type is not \"ExternalName\"",
            "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"",
        ]
    );
}

#[test]
fn defaults_of_a_node_port_service() {
    let mut service = json!({"spec": {"type": "NodePort", "ports": [{"port": 80}, {"port": 81, "targetPort": "web", "protocol": "UDP"}]}});
    default(&mut service);
    assert_eq!(
        service["spec"],
        json!({"type": "NodePort", "sessionAffinity": "None", "externalTrafficPolicy": "Cluster",
            "internalTrafficPolicy": "Cluster", "ports": [
                {"port": 80, "protocol": "TCP", "targetPort": 80},
                {"port": 81, "protocol": "UDP", "targetPort": "web"}]})
    );
}

#[test]
fn rows_of_services() {
    let service = json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "clusterIP": "10.0.0.1",
        "ports": [{"port": 80, "nodePort": 30000, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}],
        "selector": {"app": "web", "tier": "x"}}});
    let expect = json!(["s", "NodePort", "10.0.0.1", "<none>", "80:30000/TCP,53/UDP", "<unknown>", "app=web,tier=x"]);
    assert_eq!(Value::from(row(&service, 0)), expect);
    let pending = json!({"spec": {"type": "LoadBalancer"}});
    assert_eq!(row(&pending, 0)[3], "<pending>");
}
