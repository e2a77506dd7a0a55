//! Values of `fieldRef` and `resourceFieldRef`, shared by environment and downward API volumes.

use super::resources;
use k8s_openapi::api::core::v1::{Container, ObjectFieldSelector, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use naru_api::status::quote;
use std::collections::BTreeMap;

/// What the node adds to a pod's own fields.
#[derive(Debug, Clone, Default)]
pub struct NodeFacts {
    /// Addresses of the node.
    pub host_ips: Vec<String>,
    /// Addresses of the pod, empty until its network is up.
    pub pod_ips: Vec<String>,
    /// What a limit that is not set stands for.
    pub allocatable: BTreeMap<String, Quantity>,
}

/// Why a reference has no value.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FieldError {
    /// The path is none that the downward API knows.
    #[error("unsupported fieldPath: {0}")]
    Unsupported(String),
    /// The resource is none that the downward API knows.
    #[error("unsupported container resource : {0}")]
    Resource(String),
    /// No container has the name.
    #[error("container {0} not found")]
    Container(String),
    /// The divisor is zero or no quantity.
    #[error("invalid divisor {0:?}")]
    Divisor(String),
}

/// The value of a `fieldRef`.
pub fn field_value(pod: &Pod, facts: &NodeFacts, selector: &ObjectFieldSelector) -> Result<String, FieldError> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let path = selector.field_path.as_str();
    if let Some((map, key)) = split_subscript(path) {
        let map = match map {
            "metadata.labels" => &meta.labels,
            "metadata.annotations" => &meta.annotations,
            _ => return Err(FieldError::Unsupported(path.into())),
        };
        return Ok(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    let empty = BTreeMap::new();
    Ok(match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "metadata.labels" => format_map(meta.labels.as_ref().unwrap_or(&empty)),
        "metadata.annotations" => format_map(meta.annotations.as_ref().unwrap_or(&empty)),
        "spec.nodeName" => spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default(),
        "status.hostIP" => facts.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => facts.host_ips.join(","),
        "status.podIP" => facts.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => facts.pod_ips.join(","),
        _ => return Err(FieldError::Unsupported(path.into())),
    })
}

/// Splits `metadata.labels['key']` into map and key.
fn split_subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// Labels or annotations in the format of downward API files: sorted `key="value"` lines.
pub fn format_map(map: &BTreeMap<String, String>) -> String {
    map.iter().map(|(key, value)| format!("{key}={}", quote(value))).collect::<Vec<_>>().join("\n")
}

/// The value of a `resourceFieldRef`; `default_container` is used when the selector names none.
pub fn resource_value(
    pod: &Pod,
    facts: &NodeFacts,
    selector: &ResourceFieldSelector,
    default_container: Option<&str>,
) -> Result<String, FieldError> {
    let name = selector.container_name.as_deref().filter(|n| !n.is_empty()).or(default_container).unwrap_or_default();
    let container = find_container(pod, name).ok_or_else(|| FieldError::Container(name.into()))?;
    let (kind, resource) =
        selector.resource.split_once('.').ok_or_else(|| FieldError::Resource(selector.resource.clone()))?;
    let lists = container.resources.as_ref();
    let quantity = match kind {
        "limits" => lists
            .and_then(|r| r.limits.as_ref())
            .and_then(|l| l.get(resource))
            .filter(|q| resources::milli(q) != 0)
            .or_else(|| facts.allocatable.get(resource)),
        "requests" => lists.and_then(|r| r.requests.as_ref()).and_then(|l| l.get(resource)),
        _ => return Err(FieldError::Resource(selector.resource.clone())),
    };
    if !(matches!(resource, "cpu" | "memory" | "ephemeral-storage") || resource.starts_with("hugepages-")) {
        return Err(FieldError::Resource(selector.resource.clone()));
    }
    let milli = quantity.map_or(0, resources::milli);
    let divisor = match selector.divisor.as_ref() {
        Some(q) if !matches!(q.0.as_str(), "" | "0") => resources::milli(q),
        _ => 1000,
    };
    if divisor <= 0 {
        return Err(FieldError::Divisor(selector.divisor.as_ref().map(|q| q.0.clone()).unwrap_or_default()));
    }
    Ok(milli.div_euclid(divisor).saturating_add(i128::from(milli.rem_euclid(divisor) != 0)).to_string())
}

fn find_container<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    let spec = pod.spec.as_ref()?;
    spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|c| c.name == name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"b": "2", "a": "say \"hi\"\n"}},
            "spec": {"nodeName": "n1", "serviceAccountName": "sa", "containers": [
                {"name": "c", "resources": {"limits": {"cpu": "1500m"}, "requests": {"memory": "10Mi"}}}]}
        }))
        .unwrap()
    }

    fn facts() -> NodeFacts {
        NodeFacts {
            host_ips: vec!["192.0.2.1".into()],
            pod_ips: vec!["10.42.0.5".into(), "fd00::5".into()],
            allocatable: BTreeMap::from([("memory".into(), Quantity("1Gi".into()))]),
        }
    }

    fn field(path: &str) -> Result<String, FieldError> {
        field_value(&pod(), &facts(), &ObjectFieldSelector { field_path: path.into(), ..Default::default() })
    }

    #[test]
    fn fields_of_the_pod() {
        assert_eq!(field("metadata.name").unwrap(), "p");
        assert_eq!(field("metadata.labels['b']").unwrap(), "2");
        assert_eq!(field("metadata.annotations['none']").unwrap(), "");
        assert_eq!(field("metadata.labels").unwrap(), "a=\"say \\\"hi\\\"\\n\"\nb=\"2\"");
        assert_eq!(field("status.podIPs").unwrap(), "10.42.0.5,fd00::5");
        assert_eq!(field("spec.nodeName").unwrap(), "n1");
        assert_eq!(field("spec.foo"), Err(FieldError::Unsupported("spec.foo".into())));
    }

    fn resource(resource: &str, divisor: &str) -> String {
        let selector = ResourceFieldSelector {
            resource: resource.into(),
            divisor: Some(Quantity(divisor.into())),
            container_name: None,
        };
        resource_value(&pod(), &facts(), &selector, Some("c")).unwrap()
    }

    #[test]
    fn resources_are_divided_and_rounded_up() {
        assert_eq!(resource("limits.cpu", "0"), "2");
        assert_eq!(resource("limits.cpu", "1m"), "1500");
        assert_eq!(resource("requests.memory", "1Mi"), "10");
        assert_eq!(resource("limits.memory", "1Mi"), "1024");
        assert_eq!(resource("requests.cpu", "1"), "0");
    }
}
