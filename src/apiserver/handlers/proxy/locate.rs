//! Where pods, services and nodes are to be found.

use super::Target;
use crate::dialer::{Destination, Trust};
use crate::handlers::{Call, node_proxy};
use crate::objects;
use crate::response::Failure;
use naru_api::registry::{self, Resource};
use naru_api::status::Status;
use serde_json::Value;
use std::net::IpAddr;

/// `NAME`, `NAME:PORT` or `SCHEME:NAME:PORT`.
#[derive(Debug, PartialEq, Eq)]
struct Named<'a> {
    https: bool,
    name: &'a str,
    port: &'a str,
}

impl<'a> Named<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match parts[..] {
            [name] => ("", name, ""),
            [name, port] => ("", name, port),
            [scheme, name, port] => (scheme, name, port),
            _ => return None,
        };
        let known = matches!(scheme, "" | "http" | "https");
        (known && !name.is_empty()).then_some(Self { https: scheme == "https", name, port })
    }

    fn trust(&self) -> Trust {
        if self.https { Trust::Unverified } else { Trust::Plain }
    }

    fn usual_port(&self) -> u16 {
        if self.https { 443 } else { 80 }
    }
}

/// What the request is meant for.
pub(super) fn locate(call: &Call, resource: &'static Resource) -> Result<Target, Failure> {
    let what = resource.singular;
    let named = Named::parse(&call.info.name)
        .ok_or_else(|| Box::new(Status::bad_request(format!("invalid {what} request {:?}", call.info.name))))?;
    match resource.plural {
        "pods" => pod(call, &named),
        "services" => service(call, &named),
        _ => node(call, &named),
    }
}

fn get(call: &Call, resource: &'static Resource, name: &str) -> Result<Value, Failure> {
    let found = call
        .state
        .cache
        .get(resource, call.namespace(resource), name)
        .ok_or_else(|| Box::new(Status::not_found(resource.group, resource.plural, name)))?;
    objects::tree(&found)
}

fn items<'a>(object: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    object[field].as_array().into_iter().flatten()
}

/// What is neither of this host nor for many may be reached.
fn is_allowed(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !link_local && !address.is_unspecified() && !address.is_loopback() && !address.is_multicast()
}

fn not_allowed() -> Failure {
    Box::new(Status::bad_request("address not allowed"))
}

fn number(port: &str) -> Result<u16, Failure> {
    let wrong = || {
        Box::new(Status::service_unavailable(format!(
            "error trying to reach service: dial tcp: lookup tcp/{port}: unknown port"
        )))
    };
    port.parse().map_err(|_| wrong())
}

/// The pod's first port unless another is named.
fn pod(call: &Call, named: &Named<'_>) -> Result<Target, Failure> {
    let pod = get(call, &registry::PODS, named.name)?;
    let mut declared = items(&pod["spec"], "containers").flat_map(|container| items(container, "ports"));
    let first = declared.next().and_then(|port| u16::try_from(port["containerPort"].as_u64()?).ok());
    let port = match named.port {
        "" => first.unwrap_or(named.usual_port()),
        port => number(port)?,
    };
    let address = items(&pod["status"], "podIPs").next().and_then(|ip| ip["ip"].as_str()?.parse::<IpAddr>().ok());
    let address = address.filter(|address| is_allowed(*address)).ok_or_else(not_allowed)?;
    let node = pod["spec"]["nodeName"].as_str().map(str::to_owned);
    Ok(Target { to: Destination { node, address, port }, trust: named.trust() })
}

/// Any ready endpoint of the port, which is named or numbered.
fn service(call: &Call, named: &Named<'_>) -> Result<Target, Failure> {
    let mut port_name = named.port.to_owned();
    if let Ok(wanted) = named.port.parse::<i64>() {
        let service = get(call, &registry::SERVICES, named.name)?;
        let port = items(&service["spec"], "ports").find(|port| port["port"] == wanted);
        let text = format!("no service port {wanted} found for service {:?}", named.name);
        let port = port.ok_or_else(|| Box::new(Status::service_unavailable(text)))?;
        port_name = port["name"].as_str().unwrap_or_default().to_owned();
    }
    let endpoints = get(call, &registry::ENDPOINTS, named.name)?;
    let mut found: Vec<Destination> = Vec::new();
    for subset in items(&endpoints, "subsets") {
        let mut ports = items(subset, "ports");
        let port = ports.find(|port| port["name"].as_str().unwrap_or_default() == port_name);
        let port = port.and_then(|port| u16::try_from(port["port"].as_u64()?).ok());
        let Some(port) = port else { continue };
        found.extend(items(subset, "addresses").filter_map(|address| endpoint(call, address, port)));
    }
    if found.is_empty() {
        let text = format!("no endpoints available for service {:?}", named.name);
        return Err(Box::new(Status::service_unavailable(text)));
    }
    let to = found.swap_remove(rand::random_range(0..found.len()));
    Ok(Target { to, trust: named.trust() })
}

/// An address counts only while it is that of the pod it names: whoever may write Endpoints may not lead the
/// server anywhere.
fn endpoint(call: &Call, address: &Value, port: u16) -> Option<Destination> {
    let (ip, pod) = (address["ip"].as_str()?, &address["targetRef"]);
    if pod["namespace"] != call.info.namespace {
        return None;
    }
    let pod = get(call, &registry::PODS, pod["name"].as_str()?).ok()?;
    items(&pod["status"], "podIPs").find(|of_pod| of_pod["ip"] == ip)?;
    let node = pod["spec"]["nodeName"].as_str().map(str::to_owned);
    Some(Destination { node, address: ip.parse().ok()?, port })
}

/// The kubelet, unless another port is named.
fn node(call: &Call, named: &Named<'_>) -> Result<Target, Failure> {
    let to = node_proxy::kubelet_of(call, named.name)?;
    if named.port.is_empty() || named.port == to.port.to_string() {
        return Ok(Target { to, trust: Trust::Kubelet });
    }
    if !is_allowed(to.address) {
        return Err(not_allowed());
    }
    Ok(Target { to: Destination { port: number(named.port)?, ..to }, trust: named.trust() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_have_a_scheme_and_a_port() {
        let check = |text: &str, expect: Option<(bool, &str, &str)>| {
            assert_eq!(Named::parse(text).map(|n| (n.https, n.name, n.port)), expect, "{text}");
        };
        check("web", Some((false, "web", "")));
        check("web:80", Some((false, "web", "80")));
        check("web:", Some((false, "web", "")));
        check("https:web:", Some((true, "web", "")));
        check("http:web:metrics", Some((false, "web", "metrics")));
        for wrong in ["", ":80", "ftp:web:1", "a:b:c:d"] {
            check(wrong, None);
        }
    }

    #[test]
    fn addresses_of_the_host_itself_are_not_reached() {
        for (address, allowed) in [
            ("10.0.0.1", true),
            ("fd00::1", true),
            ("127.0.0.1", false),
            ("::1", false),
            ("169.254.169.254", false),
            ("fe80::1", false),
            ("0.0.0.0", false),
            ("224.0.0.1", false),
        ] {
            assert_eq!(is_allowed(address.parse().expect("an address")), allowed, "{address}");
        }
    }
}
