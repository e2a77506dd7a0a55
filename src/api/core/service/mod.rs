//! Service: a stable address in front of pods.

pub mod families;
#[cfg(test)]
mod tests;
mod update;
mod validate;

pub use update::{needs_health_port, needs_node_port};

use crate::table;
use crate::tree::{self, int, list, some_text, text};
use serde_json::Value;

use crate::registry::{Action, Churn, Column, Resource, Rules, Scope, Subresource, verbs};

/// Services.
pub static SERVICES: Resource = Resource {
    group: "",
    version: "v1",
    kind: "Service",
    plural: "services",
    singular: "service",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &["svc"],
    categories: &["all"],
    type_name: "io.k8s.api.core.v1.Service",
    churn: Churn::Durable,
    subresources: &[
        Subresource {
            name: "proxy",
            gvk: ("", "v1", "ServiceProxyOptions"),
            verbs: verbs::PROXY,
            action: Action::Proxy,
        },
        Subresource::status("", "v1", "Service"),
    ],
    columns: &[
        Column::NAME,
        Column::new("Type", "string"),
        Column::new("Cluster-IP", "string"),
        Column::new("External-IP", "string"),
        Column::new("Port(s)", "string"),
        Column::new("Age", "string"),
        Column::wide("Selector", "string"),
    ],
    rules: Rules {
        name: crate::meta::names::dns_label,
        default,
        prepare_create: update::prepare_create,
        prepare_update: update::prepare_update,
        fields,
        row,
        // An update has more to say, and says it first.
        validate_create: validate::service,
        validate_update: validate::update,
        validate_status: validate::status,
        warnings: validate::warnings,
        ..Rules::NONE
    },
};

/// Client IP affinity lasts three hours unless said otherwise.
const AFFINITY_SECONDS: i64 = 10_800;

fn default(service: &mut Value) {
    let service = tree::object(service);
    let spec = tree::ensure(service, "spec");
    tree::default_zero(spec, "sessionAffinity", "None");
    tree::default_zero(spec, "type", "ClusterIP");
    match text(&spec["sessionAffinity"]) {
        "None" => {
            spec.remove("sessionAffinityConfig");
        }
        "ClientIP" => {
            let config = tree::ensure(spec, "sessionAffinityConfig");
            tree::default(tree::ensure(config, "clientIP"), "timeoutSeconds", AFFINITY_SECONDS);
        }
        _ => {}
    }
    for port in tree::items(spec, "ports") {
        tree::default_zero(port, "protocol", "TCP");
        let own = port.get("port").cloned().unwrap_or_else(|| 0.into());
        tree::default_zero(port, "targetPort", own);
    }
    let kind = text(&spec["type"]).to_owned();
    let external_ips = spec.get("externalIPs").is_some_and(|ips| !list(ips).is_empty());
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") || (kind == "ClusterIP" && external_ips) {
        tree::default_zero(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind != "ExternalName" {
        tree::default(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        tree::default(spec, "allocateLoadBalancerNodePorts", true);
        let balancer = tree::sub(service, "status").and_then(|s| tree::sub(s, "loadBalancer"));
        for ingress in balancer.into_iter().flat_map(|b| tree::items(b, "ingress")) {
            if ingress.get("ip").and_then(some_text).is_some() {
                tree::default(ingress, "ipMode", "VIP");
            }
        }
    }
}

fn fields(service: &Value) -> Vec<(&'static str, String)> {
    let spec = &service["spec"];
    vec![("spec.clusterIP", text(&spec["clusterIP"]).to_owned()), ("spec.type", text(&spec["type"]).to_owned())]
}

fn external_address(service: &Value) -> String {
    let spec = &service["spec"];
    let external: Vec<&str> = list(&spec["externalIPs"]).iter().map(text).collect();
    match text(&spec["type"]) {
        "ExternalName" => text(&spec["externalName"]).to_owned(),
        "LoadBalancer" => {
            let ingress = list(&service["status"]["loadBalancer"]["ingress"]).iter();
            let mut all: Vec<&str> = ingress
                .map(|i| some_text(&i["ip"]).unwrap_or(text(&i["hostname"])))
                .filter(|a| !a.is_empty())
                .collect();
            all.extend(external);
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        _ if external.is_empty() => "<none>".to_owned(),
        _ => external.join(","),
    }
}

fn ports(service: &Value) -> String {
    let ports: Vec<String> = list(&service["spec"]["ports"])
        .iter()
        .map(|p| {
            let (port, protocol) = (int(&p["port"]), text(&p["protocol"]));
            match int(&p["nodePort"]) {
                0 => format!("{port}/{protocol}"),
                node => format!("{port}:{node}/{protocol}"),
            }
        })
        .collect();
    if ports.is_empty() { "<none>".to_owned() } else { ports.join(",") }
}

fn row(service: &Value, now: i64) -> Vec<Value> {
    let spec = &service["spec"];
    let address = some_text(&spec["clusterIPs"][0]).unwrap_or(text(&spec["clusterIP"]));
    vec![
        table::name(service),
        text(&spec["type"]).into(),
        table::or_none(address),
        external_address(service).into(),
        ports(service).into(),
        table::created(service, now),
        table::labels(&spec["selector"]).into(),
    ]
}
