//! Documents about the API itself, as pure functions over the registry: discovery and OpenAPI.

pub mod discovery;
pub mod openapi;

use crate::registry::Resource;

/// Every group-version in upstream's order of preference; those that are not served are left out of the
/// documents.
pub const GROUP_VERSIONS: &[(&str, &str)] = &[
    ("", "v1"),
    ("apiregistration.k8s.io", "v1"),
    ("apps", "v1"),
    ("events.k8s.io", "v1"),
    ("authentication.k8s.io", "v1"),
    ("authorization.k8s.io", "v1"),
    ("autoscaling", "v2"),
    ("autoscaling", "v1"),
    ("batch", "v1"),
    ("certificates.k8s.io", "v1"),
    ("networking.k8s.io", "v1"),
    ("policy", "v1"),
    ("rbac.authorization.k8s.io", "v1"),
    ("storage.k8s.io", "v1"),
    ("admissionregistration.k8s.io", "v1"),
    ("apiextensions.k8s.io", "v1"),
    ("scheduling.k8s.io", "v1"),
    ("coordination.k8s.io", "v1"),
    ("node.k8s.io", "v1"),
    ("discovery.k8s.io", "v1"),
    ("resource.k8s.io", "v1"),
    ("flowcontrol.apiserver.k8s.io", "v1"),
    // Not stored by anybody: computed from what the nodes say.
    ("metrics.k8s.io", "v1beta1"),
];

/// The group-versions that some resource is served in, in order.
pub fn served(resources: &[&Resource]) -> Vec<(&'static str, &'static str)> {
    let has = |group: &str, version: &str| resources.iter().any(|r| r.group == group && r.version == version);
    GROUP_VERSIONS.iter().copied().filter(|(group, version)| has(group, version)).collect()
}

/// The resources of a group-version, by name.
pub fn resources_of<'a>(resources: &[&'a Resource], group: &str, version: &str) -> Vec<&'a Resource> {
    let mut list: Vec<_> = resources.iter().copied().filter(|r| r.group == group && r.version == version).collect();
    list.sort_by_key(|r| r.plural);
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::RESOURCES;

    #[test]
    fn every_resource_is_in_a_group_version_that_is_listed() {
        for resource in RESOURCES {
            assert!(GROUP_VERSIONS.contains(&(resource.group, resource.version)), "{}", resource.plural);
        }
    }

    #[test]
    fn group_versions_come_in_upstreams_order() {
        let facts = include_str!("../facts/api-resources.txt").lines().filter_map(|line| line.strip_prefix("GV "));
        // Metrics come from an add-on elsewhere, so they are not in the facts.
        let own = GROUP_VERSIONS.iter().filter(|(group, _)| *group != "metrics.k8s.io");
        let own = own.map(|(group, version)| crate::meta::join_api_version(group, version));
        assert!(facts.eq(own));
    }
}
