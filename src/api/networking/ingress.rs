//! Ingress: HTTP hosts and paths, and the Services behind them.

use crate::checks::{complain, required};
use crate::meta::names;
use crate::meta::prepare::{create_with, update as prepare_update};
use crate::registry::{Action, Churn, Column, Resource, Rules, Scope, Subresource, verbs};
use crate::status::{FieldErrors, Path};
use crate::tree::{self, is_empty, list, some_text, text};
use crate::{address, checks, table};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Ingresses.
pub static INGRESSES: Resource = Resource {
    group: "networking.k8s.io",
    version: "v1",
    kind: "Ingress",
    plural: "ingresses",
    singular: "ingress",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &["ing"],
    categories: &[],
    type_name: "io.k8s.api.networking.v1.Ingress",
    churn: Churn::Durable,
    subresources: &[Subresource {
        name: "status",
        gvk: ("networking.k8s.io", "v1", "Ingress"),
        verbs: verbs::GET_PATCH_UPDATE,
        action: Action::Status,
    }],
    columns: &[
        Column::NAME,
        Column::new("Class", "string"),
        Column::new("Hosts", "string"),
        Column::new("Address", "string"),
        Column::new("Ports", "string"),
        Column::new("Age", "string"),
    ],
    rules: Rules {
        prepare_create,
        prepare_update,
        row,
        validate,
        validate_create,
        validate_status,
        warnings,
        ..Rules::NONE
    },
};

/// How a class was named before there was a field for it.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

fn prepare_create(ingress: &mut Value) {
    create_with(ingress, json!({"loadBalancer": {}}));
}

/// So many hosts are named; the others are counted.
const SHOWN: usize = 3;

fn hosts(spec: &Value) -> String {
    let hosts: Vec<&str> = list(&spec["rules"]).iter().filter_map(|r| some_text(&r["host"])).collect();
    match hosts.len() {
        0 => "*".to_owned(),
        n if n > SHOWN => format!("{} + {} more...", hosts[..SHOWN].join(","), n - SHOWN),
        _ => hosts.join(","),
    }
}

fn row(ingress: &Value, now: i64) -> Vec<Value> {
    let spec = &ingress["spec"];
    let addresses: BTreeSet<&str> = list(&ingress["status"]["loadBalancer"]["ingress"])
        .iter()
        .filter_map(|i| some_text(&i["ip"]).or(some_text(&i["hostname"])))
        .collect();
    vec![
        table::name(ingress),
        spec["ingressClassName"].as_str().unwrap_or("<none>").into(),
        hosts(spec).into(),
        Vec::from_iter(addresses).join(",").into(),
        if is_empty(&spec["tls"]) { "80" } else { "80, 443" }.into(),
        table::created(ingress, now),
    ]
}

fn validate(ingress: &Value, errors: &mut FieldErrors) {
    let (spec, path) = (&ingress["spec"], Path::root("spec"));
    let backend_of_all = &spec["defaultBackend"];
    if is_empty(&spec["rules"]) && !backend_of_all.is_object() {
        errors.invalid(path, &spec["rules"], "either `defaultBackend` or `rules` must be specified");
    }
    if backend_of_all.is_object() {
        backend(backend_of_all, path.child("defaultBackend"), errors);
    }
    let rules = path.child("rules");
    for (i, one) in list(&spec["rules"]).iter().enumerate() {
        rule(one, rules.index(i), errors);
    }
    let tls = path.child("tls");
    for (i, one) in list(&spec["tls"]).iter().enumerate() {
        let item = tls.index(i);
        let hosts = item.child("hosts");
        for (n, name) in list(&one["hosts"]).iter().enumerate() {
            host(text(name), hosts.index(n), errors);
        }
        if let Some(secret) = some_text(&one["secretName"]) {
            complain(names::dns_subdomain(secret), secret, item.child("secretName"), errors);
        }
    }
    if let Some(class) = spec["ingressClassName"].as_str() {
        complain(names::dns_subdomain(class), class, path.child("ingressClassName"), errors);
    }
}

/// The annotation of old may stay, but a new Ingress cannot contradict itself.
fn validate_create(ingress: &Value, errors: &mut FieldErrors) {
    let annotation = ingress["metadata"]["annotations"][CLASS_ANNOTATION].as_str();
    let field = ingress["spec"]["ingressClassName"].as_str();
    if let (Some(annotation), Some(field)) = (annotation, field)
        && annotation != field
    {
        let path = Path::root("annotations");
        errors.invalid(
            path.child(CLASS_ANNOTATION),
            annotation,
            "must match `ingressClassName` when both are specified",
        );
    }
}

fn host(host: &str, path: Path<'_>, errors: &mut FieldErrors) {
    let wrong = if host.contains('*') { names::wildcard_subdomain(host) } else { names::dns_subdomain(host) };
    complain(wrong, host, path, errors);
}

fn rule(rule: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    if let Some(name) = some_text(&rule["host"]) {
        not_an_address(name, path.child("host"), errors);
        host(name, path.child("host"), errors);
    }
    let http = &rule["http"];
    if !http.is_object() {
        return;
    }
    let at = path.child("http");
    let paths = at.child("paths");
    if is_empty(&http["paths"]) {
        errors.required(paths, "");
    }
    for (i, one) in list(&http["paths"]).iter().enumerate() {
        http_path(one, paths.index(i), errors);
    }
}

fn not_an_address(name: &str, path: Path<'_>, errors: &mut FieldErrors) {
    if address::parse(name).is_some() {
        errors.invalid(path, name, "must be a DNS name, not an IP address");
    }
}

fn http_path(route: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let (url, at) = (text(&route["path"]), path.child("path"));
    let absolute = url.starts_with('/');
    match route["pathType"].as_str() {
        None => {
            errors.required(path.child("pathType"), "pathType must be specified");
            return;
        }
        Some("Exact" | "Prefix") => {
            if !absolute {
                errors.invalid(at, url, "must be an absolute path");
            }
            for bad in ["//", "/./", "/../", "%2f", "%2F"].iter().filter(|bad| url.contains(**bad)) {
                errors.invalid(at, url, &format!("must not contain '{bad}'"));
            }
            for bad in ["/..", "/."].iter().filter(|bad| url.ends_with(**bad)) {
                errors.invalid(at, url, &format!("cannot end with '{bad}'"));
            }
        }
        Some("ImplementationSpecific") => {
            if !url.is_empty() && !absolute {
                errors.invalid(at, url, "must be an absolute path");
            }
        }
        Some(other) => {
            errors.not_supported(path.child("pathType"), other, &["Exact", "ImplementationSpecific", "Prefix"]);
        }
    }
    backend(&route["backend"], path.child("backend"), errors);
}

fn backend(backend: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let (resource, service) = (&backend["resource"], &backend["service"]);
    match (resource.is_object(), service.is_object()) {
        (true, true) => errors.invalid(path, "", "cannot set both resource and service backends"),
        (true, false) => super::ingress_class::typed_reference(resource, path.child("resource"), errors),
        (false, true) => service_backend(service, path, errors),
        (false, false) => errors.invalid(path, "", "resource or service backend is required"),
    }
}

fn service_backend(service: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let at = path.child("service");
    if required(&service["name"], at.child("name"), errors) {
        complain(names::dns_label(text(&service["name"])), &service["name"], at.child("name"), errors);
    }
    let port = at.child("port");
    let (name, number) = (some_text(&service["port"]["name"]), &service["port"]["number"]);
    match (name, tree::int(number) != 0) {
        (Some(_), true) => errors.invalid(path, "", "cannot set both port name & port number"),
        (Some(name), false) => complain(names::port_name(name), name, port.child("name"), errors),
        (None, true) => checks::port_number(number, port.child("number"), errors),
        (None, false) => errors.required(path, "port name or number is required"),
    }
}

fn validate_status(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let known = list(&old["status"]["loadBalancer"]["ingress"]);
    let path = Path::root("status");
    let balancer = path.child("loadBalancer");
    let at = balancer.child("ingress");
    for (i, point) in list(&new["status"]["loadBalancer"]["ingress"]).iter().enumerate() {
        let item = at.index(i);
        // An address that was accepted once stays acceptable.
        if let Some(ip) = some_text(&point["ip"]).filter(|ip| !known.iter().any(|k| k["ip"] == *ip)) {
            address::check(ip, item.child("ip"), errors);
        }
        if let Some(name) = some_text(&point["hostname"]) {
            complain(names::dns_subdomain(name), name, item.child("hostname"), errors);
            not_an_address(name, item.child("hostname"), errors);
        }
    }
}

fn warnings(ingress: &Value) -> Vec<String> {
    let annotated = ingress["metadata"]["annotations"][CLASS_ANNOTATION].is_string()
        && !ingress["spec"]["ingressClassName"].is_string();
    let text = format!("annotation \"{CLASS_ANNOTATION}\" is deprecated, please use 'spec.ingressClassName' instead");
    if annotated { vec![text] } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors_of(spec: Value) -> Vec<String> {
        let mut errors = FieldErrors::default();
        validate(&json!({ "spec": spec }), &mut errors);
        errors.messages()
    }

    fn service() -> Value {
        json!({"service": {"name": "web", "port": {"number": 80}}})
    }

    #[test]
    fn new_ingresses_have_no_address_and_count_generations() {
        let mut ingress = json!({"metadata": {"name": "i"}, "spec": {"defaultBackend": service()}, "status": {"loadBalancer": {"ingress": [{"ip": "1.1.1.1"}]}}});
        prepare_create(&mut ingress);
        assert_eq!(ingress["status"], json!({"loadBalancer": {}}));
        assert_eq!(ingress["metadata"]["generation"], 1);
        let mut new = ingress.clone();
        new["spec"]["ingressClassName"] = "c".into();
        prepare_update(&mut new, &ingress);
        assert_eq!(new["metadata"]["generation"], 2);
        assert_eq!(errors_of(new["spec"].clone()), [""; 0]);
    }

    #[test]
    fn hosts_and_secrets() {
        assert_eq!(
            errors_of(json!({})),
            ["spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"]
        );
        let check = |host: &str, expect: &[&str]| {
            let got: Vec<String> = errors_of(json!({"rules": [{"host": host}]}))
                .iter()
                .map(|m| m.split(": a ").next().unwrap_or("").to_owned())
                .collect();
            assert_eq!(got, expect);
        };
        check("a.example.com", &[]);
        check("*.example.com", &[]);
        check("1.2.3.4", &[r#"spec.rules[0].host: Invalid value: "1.2.3.4": must be a DNS name, not an IP address"#]);
        check("*example.com", &[r#"spec.rules[0].host: Invalid value: "*example.com""#]);
        check("A", &[r#"spec.rules[0].host: Invalid value: "A""#]);
        let wrong = errors_of(
            json!({"defaultBackend": service(), "ingressClassName": "A", "tls": [{"hosts": ["*"], "secretName": "A"}]}),
        );
        let fields: Vec<&str> = wrong.iter().map(|m| m.split(": ").next().unwrap_or("")).collect();
        assert_eq!(fields, ["spec.tls[0].hosts[0]", "spec.tls[0].secretName", "spec.ingressClassName"]);
        assert!(wrong[0].contains("a wildcard DNS-1123 subdomain must start with '*.'"), "{wrong:?}");
    }

    #[test]
    fn paths() {
        let check = |route: Value, expect: &[&str]| {
            let mut route = route;
            route["backend"] = service();
            let expect: Vec<String> = expect.iter().map(|e| format!("spec.rules[0].http.paths[0].{e}")).collect();
            assert_eq!(errors_of(json!({"rules": [{"http": {"paths": [route]}}]})), expect);
        };
        check(json!({"path": "/", "pathType": "Prefix"}), &[]);
        check(json!({"pathType": "ImplementationSpecific"}), &[]);
        check(json!({"path": "/"}), &["pathType: Required value: pathType must be specified"]);
        check(json!({"path": "a", "pathType": "Exact"}), &[r#"path: Invalid value: "a": must be an absolute path"#]);
        check(
            json!({"path": "/a//b/..", "pathType": "Exact"}),
            &[
                r#"path: Invalid value: "/a//b/..": must not contain '//'"#,
                r#"path: Invalid value: "/a//b/..": cannot end with '/..'"#,
            ],
        );
        check(
            json!({"path": "/", "pathType": "X"}),
            &[r#"pathType: Unsupported value: "X": supported values: "Exact", "ImplementationSpecific", "Prefix""#],
        );
        assert_eq!(errors_of(json!({"rules": [{"http": {}}]})), ["spec.rules[0].http.paths: Required value"]);
    }

    #[test]
    fn backends() {
        let check = |backend: Value, expect: &[&str]| {
            let expect: Vec<String> = expect.iter().map(|e| format!("spec.defaultBackend{e}")).collect();
            assert_eq!(errors_of(json!({"defaultBackend": backend})), expect);
        };
        check(json!({"service": {"name": "1web", "port": {"name": "http"}}}), &[]);
        check(json!({"resource": {"apiGroup": "x.io", "kind": "Bucket", "name": "b"}}), &[]);
        check(json!({}), &[r#": Invalid value: "": resource or service backend is required"#]);
        check(
            json!({"service": {}, "resource": {}}),
            &[r#": Invalid value: "": cannot set both resource and service backends"#],
        );
        check(
            json!({"service": {"name": "", "port": {}}}),
            &[".service.name: Required value", ": Required value: port name or number is required"],
        );
        check(
            json!({"service": {"name": "a", "port": {"name": "x", "number": 1}}}),
            &[r#": Invalid value: "": cannot set both port name & port number"#],
        );
        check(
            json!({"service": {"name": "a", "port": {"number": 70000}}}),
            &[".service.port.number: Invalid value: 70000: must be between 1 and 65535, inclusive"],
        );
        check(json!({"resource": {}}), &[".resource.kind: Required value", ".resource.name: Required value"]);
    }

    #[test]
    fn class_and_status() {
        let ingress = json!({"metadata": {"annotations": {CLASS_ANNOTATION: "a"}}, "spec": {"ingressClassName": "b"}});
        let mut errors = FieldErrors::default();
        validate_create(&ingress, &mut errors);
        assert_eq!(
            errors.messages(),
            [
                r#"annotations.kubernetes.io/ingress.class: Invalid value: "a": must match `ingressClassName` when both are specified"#
            ]
        );
        assert!(warnings(&ingress).is_empty());
        assert_eq!(
            warnings(&json!({"metadata": ingress["metadata"]})),
            [r#"annotation "kubernetes.io/ingress.class" is deprecated, please use 'spec.ingressClassName' instead"#]
        );
        let status = |point: Value| json!({"status": {"loadBalancer": {"ingress": [point]}}});
        let mut errors = FieldErrors::default();
        validate_status(&status(json!({"ip": "x", "hostname": "1.2.3.4"})), &json!({}), &mut errors);
        assert_eq!(
            errors.messages(),
            [
                r#"status.loadBalancer.ingress[0].ip: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"#,
                r#"status.loadBalancer.ingress[0].hostname: Invalid value: "1.2.3.4": must be a DNS name, not an IP address"#,
            ]
        );
    }

    #[test]
    fn rows_of_ingresses() {
        let rules: Vec<Value> = ["a", "b", "c", "d"].iter().map(|h| json!({ "host": h })).collect();
        let ingress = json!({"metadata": {"name": "i"}, "spec": {"ingressClassName": "x", "rules": rules, "tls": [{}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "2.2.2.2"}, {"hostname": "1.example"}]}}});
        assert_eq!(row(&ingress, 0), ["i", "x", "a,b,c + 1 more...", "1.example,2.2.2.2", "80, 443", "<unknown>"]);
        assert_eq!(row(&json!({"metadata": {"name": "i"}}), 0)[1..5], ["<none>", "*", "", "80"]);
    }
}
