//! `/etc/hosts`, `/etc/resolv.conf` and host names of pods: pure text from the pod and the node.

use k8s_openapi::api::core::v1::{HostAlias, Pod, PodSpec};
use std::fmt::Write as _;

/// Longest host name that the kernel takes.
const HOSTNAME_MAX: usize = 63;
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;

/// The contents of a resolv.conf.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolv {
    /// Name servers.
    pub nameservers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options such as `ndots:5`.
    pub options: Vec<String>,
}

impl Resolv {
    /// Reads a resolv.conf; the last `search` or `domain` line counts.
    pub fn parse(text: &str) -> Self {
        let mut out = Self::default();
        for line in text.lines() {
            let mut words = line.split(['#', ';']).next().unwrap_or_default().split_whitespace();
            match words.next() {
                Some("nameserver") => out.nameservers.extend(words.next().map(Into::into)),
                Some("search" | "domain") => {
                    out.searches =
                        words.map(|w| if w == "." { w.into() } else { w.trim_end_matches('.').into() }).collect();
                }
                Some("options") => out.options = words.map(Into::into).collect(),
                _ => {}
            }
        }
        out
    }

    /// Writes a resolv.conf.
    pub fn render(&self) -> String {
        let mut out = String::new();
        if !self.searches.is_empty() {
            let _ = writeln!(out, "search {}", self.searches.join(" "));
        }
        for server in &self.nameservers {
            let _ = writeln!(out, "nameserver {server}");
        }
        if !self.options.is_empty() {
            let _ = writeln!(out, "options {}", self.options.join(" "));
        }
        out
    }
}

/// What the cluster offers.
#[derive(Debug, Clone, Default)]
pub struct ClusterDns {
    /// Addresses of the cluster's DNS, none if there is none.
    pub servers: Vec<String>,
    /// Domain of the cluster.
    pub domain: String,
    /// The node's own configuration.
    pub host: Resolv,
}

/// The resolv.conf of a pod by its DNS policy and configuration.
pub fn resolv(pod: &Pod, cluster: &ClusterDns) -> Resolv {
    let fallback = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&fallback);
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let host_network = spec.host_network == Some(true);
    let use_cluster = match policy {
        "ClusterFirst" => !host_network,
        "ClusterFirstWithHostNet" => true,
        _ => false,
    } && !cluster.servers.is_empty();
    let mut out = if policy == "None" {
        Resolv::default()
    } else if use_cluster {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let domain = &cluster.domain;
        let mut searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
        searches.extend(cluster.host.searches.iter().cloned());
        Resolv { nameservers: cluster.servers.clone(), searches, options: vec!["ndots:5".into()] }
    } else {
        cluster.host.clone()
    };
    if let Some(config) = &spec.dns_config {
        append(&mut out.nameservers, config.nameservers.iter().flatten());
        append(&mut out.searches, config.searches.iter().flatten());
        for option in config.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            out.options.retain(|o| o.split(':').next() != Some(name));
            out.options.push(match option.value.as_deref().filter(|v| !v.is_empty()) {
                Some(value) => format!("{name}:{value}"),
                None => name.clone(),
            });
        }
    }
    dedupe(&mut out.searches);
    out.nameservers.truncate(MAX_NAMESERVERS);
    out.searches.truncate(MAX_SEARCHES);
    out
}

fn append<'a>(list: &mut Vec<String>, more: impl Iterator<Item = &'a String>) {
    for item in more {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

fn dedupe(list: &mut Vec<String>) {
    let mut seen = std::collections::HashSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

/// Short host name and, with a subdomain, the domain.
pub fn hostname(pod: &Pod, cluster_domain: &str) -> (String, Option<String>) {
    let fallback = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&fallback);
    let name = match spec.hostname.as_deref().filter(|h| !h.is_empty()) {
        Some(name) => name.to_owned(),
        None => {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let cut = name.char_indices().nth(HOSTNAME_MAX).map_or(name.len(), |(at, _)| at);
            name[..cut].trim_end_matches(['-', '.']).to_owned()
        }
    };
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let domain =
        spec.subdomain.as_deref().filter(|s| !s.is_empty()).map(|s| format!("{s}.{namespace}.svc.{cluster_domain}"));
    (name, domain)
}

/// The hosts file of a pod with a network of its own.
pub fn hosts(pod: &Pod, ips: &[String], cluster_domain: &str) -> String {
    let mut out = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    let (name, domain) = hostname(pod, cluster_domain);
    for ip in ips {
        let _ = match &domain {
            Some(domain) => writeln!(out, "{ip}\t{name}.{domain}\t{name}"),
            None => writeln!(out, "{ip}\t{name}"),
        };
    }
    out + &aliases(pod)
}

/// The hosts file of a pod in the node's network: the node's own with the pod's aliases.
pub fn host_network_hosts(pod: &Pod, host_file: &str) -> String {
    let mut out = String::from("# Kubernetes-managed hosts file (host network).\n");
    out.push_str(host_file);
    out + &aliases(pod)
}

fn aliases(pod: &Pod) -> String {
    let aliases: &[HostAlias] = pod.spec.as_ref().and_then(|s| s.host_aliases.as_deref()).unwrap_or_default();
    if aliases.is_empty() {
        return String::new();
    }
    let mut out = String::from("\n# Entries added by HostAliases.\n");
    for alias in aliases {
        let _ =
            writeln!(out, "{}\t{}", alias.ip, alias.hostnames.iter().flatten().cloned().collect::<Vec<_>>().join("\t"));
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        let mut spec = spec;
        spec["containers"] = json!([]);
        serde_json::from_value(json!({"metadata": {"name": "web-0", "namespace": "ns"}, "spec": spec})).unwrap()
    }

    fn cluster() -> ClusterDns {
        ClusterDns {
            servers: vec!["10.43.0.10".into()],
            domain: "cluster.local".into(),
            host: Resolv::parse("# c\ndomain old\nsearch lan. example.com\nnameserver 192.0.2.53\noptions edns0\n"),
        }
    }

    fn check(spec: serde_json::Value, expect: &str) {
        assert_eq!(resolv(&pod(spec.clone()), &cluster()).render(), expect, "{spec}");
    }

    const CLUSTER: &str = "search ns.svc.cluster.local svc.cluster.local cluster.local lan example.com\nnameserver 10.43.0.10\noptions ndots:5\n";
    const HOST: &str = "search lan example.com\nnameserver 192.0.2.53\noptions edns0\n";

    #[test]
    fn policies_choose_the_servers() {
        check(json!({}), CLUSTER);
        check(json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true}), HOST);
        check(json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}), CLUSTER);
        check(json!({"dnsPolicy": "Default"}), HOST);
        check(
            json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.2.3.4"], "searches": ["a", "b"],
                   "options": [{"name": "ndots", "value": "2"}, {"name": "rotate"}]}}),
            "search a b\nnameserver 1.2.3.4\noptions ndots:2 rotate\n",
        );
    }

    #[test]
    fn own_options_override() {
        let resolv = resolv(&pod(json!({"dnsConfig": {"options": [{"name": "ndots", "value": "1"}]}})), &cluster());
        assert_eq!(resolv.options, ["ndots:1"]);
    }

    #[test]
    fn hosts_files() {
        let text = hosts(
            &pod(json!({"subdomain": "sub", "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]})),
            &["10.42.0.5".into()],
            "cluster.local",
        );
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with(
            "10.42.0.5\tweb-0.sub.ns.svc.cluster.local\tweb-0\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"
        ));
        let text = host_network_hosts(&pod(json!({})), "127.0.0.1 localhost\n");
        assert_eq!(text, "# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n");
    }

    #[test]
    fn long_names_make_valid_host_names() {
        let mut pod = pod(json!({}));
        pod.metadata.name = Some(format!("{}-.x", "a".repeat(61)));
        assert_eq!(hostname(&pod, "d").0, "a".repeat(61));
    }
}
