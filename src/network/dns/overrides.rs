//! What people set: static hosts and other resolvers, by the ConfigMap `kube-system/naru-dns`, and the
//! node's own resolvers.

use super::zone::absolute;
use hickory_proto::rr::Name;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

/// Port of resolvers that are named without one.
const PORT: u16 = 53;
/// Lines of `hosts` that are read.
const MAX_HOSTS: usize = 10_000;

/// The ConfigMap as far as it matters here.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, serde::Serialize)]
#[serde(default)]
pub struct DnsConfigMap {
    /// `hosts` (lines of hosts(5)), `stubDomains` (JSON: domain to resolvers) and `upstreamNameservers`
    /// (JSON: resolvers instead of the node's), the last two as in kube-dns.
    pub data: Option<BTreeMap<String, String>>,
}

/// The settings, read.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Overrides {
    /// Names with fixed addresses.
    pub(super) hosts: HashMap<Name, Vec<IpAddr>>,
    /// Domains with resolvers of their own, the longest first.
    pub(super) stubs: Vec<(Name, Vec<SocketAddr>)>,
    /// Resolvers instead of the node's; none: the node's.
    pub(super) upstreams: Vec<SocketAddr>,
    /// What could not be read, for the log.
    pub(super) problems: Vec<String>,
}

impl Overrides {
    pub(super) fn read(config: &DnsConfigMap) -> Self {
        let mut read = Self::default();
        for (key, text) in config.data.iter().flatten() {
            match key.as_str() {
                "hosts" => read.read_hosts(text),
                "stubDomains" => read.read_stubs(text),
                "upstreamNameservers" => match serde_json::from_str::<Vec<String>>(text) {
                    Ok(servers) => read.upstreams = read.servers(key, &servers),
                    Err(error) => read.problems.push(format!("{key}: not a JSON list of addresses: {error}")),
                },
                _ => read
                    .problems
                    .push(format!("{key}: not known; there are hosts, stubDomains and upstreamNameservers")),
            }
        }
        read
    }

    fn read_hosts(&mut self, text: &str) {
        for line in text.lines().take(MAX_HOSTS) {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let Some(first) = words.next() else { continue };
            let Ok(address) = first.parse::<IpAddr>() else {
                self.problems.push(format!("hosts: {first:?} is not an address"));
                continue;
            };
            for word in words {
                match absolute(word) {
                    Some(name) => self.hosts.entry(name).or_default().push(address),
                    None => self.problems.push(format!("hosts: {word:?} is not a name")),
                }
            }
        }
    }

    fn read_stubs(&mut self, text: &str) {
        let stubs = match serde_json::from_str::<BTreeMap<String, Vec<String>>>(text) {
            Ok(stubs) => stubs,
            Err(error) => {
                self.problems.push(format!("stubDomains: not a JSON map of domains to lists of addresses: {error}"));
                return;
            }
        };
        for (domain, servers) in &stubs {
            let servers = self.servers("stubDomains", servers);
            match absolute(domain) {
                Some(name) if !servers.is_empty() => self.stubs.push((name, servers)),
                _ => self.problems.push(format!("stubDomains: {domain:?} has no usable name or resolver")),
            }
        }
        self.stubs.sort_by_key(|(name, _)| std::cmp::Reverse(name.num_labels()));
    }

    fn servers(&mut self, key: &str, texts: &[String]) -> Vec<SocketAddr> {
        let mut servers = Vec::new();
        for text in texts {
            match server(text) {
                Some(address) => servers.push(address),
                None => self.problems.push(format!("{key}: {text:?} is not an address, or an address and port")),
            }
        }
        servers
    }

    /// The resolvers of the domain that a name is in.
    pub(super) fn stub(&self, name: &Name) -> Option<&[SocketAddr]> {
        self.stubs.iter().find(|(domain, _)| domain.zone_of(name)).map(|(_, servers)| servers.as_slice())
    }
}

fn server(text: &str) -> Option<SocketAddr> {
    text.parse().ok().or_else(|| text.parse().ok().map(|address: IpAddr| SocketAddr::new(address, PORT)))
}

/// The domains that a resolv.conf(5) has names looked for in; the last line of them counts.
pub(super) fn search_domains(resolv_conf: &str) -> Vec<Name> {
    let lines = resolv_conf.lines().map(|line| line.split_whitespace());
    let mut searches = lines.rev().filter_map(|mut words| match words.next() {
        Some("search" | "domain") => Some(words.filter(|word| *word != ".").filter_map(absolute).collect()),
        _ => None,
    });
    searches.next().unwrap_or_default()
}

/// The resolvers that a resolv.conf(5) names.
pub(super) fn name_servers(resolv_conf: &str) -> Vec<SocketAddr> {
    let words = resolv_conf.lines().map(|line| line.split_whitespace());
    words
        .filter_map(|mut words| words.next().filter(|word| *word == "nameserver").and_then(|_| server(words.next()?)))
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Overrides {
        let data = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Overrides::read(&DnsConfigMap { data: Some(data) })
    }

    #[test]
    fn settings_are_read() {
        let read = read(&[
            ("hosts", "# mine\n192.0.2.1 nas nas.lan # the box\n\n2001:db8::1 nas"),
            ("stubDomains", r#"{"lan": ["192.0.2.53"], "deep.lan": ["192.0.2.54:5353"]}"#),
            ("upstreamNameservers", r#"["9.9.9.9"]"#),
        ]);
        assert_eq!(read.problems, [""; 0]);
        assert_eq!(read.hosts[&absolute("NAS").unwrap()].len(), 2);
        assert_eq!(read.stub(&absolute("x.lan").unwrap()).unwrap(), ["192.0.2.53:53".parse().unwrap()]);
        assert_eq!(read.stub(&absolute("x.deep.lan").unwrap()).unwrap(), ["192.0.2.54:5353".parse().unwrap()]);
        assert_eq!(read.stub(&absolute("example.org").unwrap()), None);
        assert_eq!(read.upstreams, ["9.9.9.9:53".parse().unwrap()]);
    }

    #[test]
    fn what_cannot_be_read_is_named_and_the_rest_holds() {
        let read = read(&[
            ("hosts", "here nas\n192.0.2.1 nas"),
            ("stubDomains", r#"{"lan": ["somewhere"]}"#),
            ("upstreamNameservers", "9.9.9.9"),
            ("Corefile", "."),
        ]);
        assert_eq!(read.hosts.len(), 1);
        let keys: Vec<&str> = read.problems.iter().map(|text| text.split(':').next().unwrap()).collect();
        assert_eq!(keys, ["Corefile", "hosts", "stubDomains", "stubDomains", "upstreamNameservers"]);
    }

    #[test]
    fn name_servers_of_resolv_conf() {
        let text =
            "search lan\nnameserver 127.0.0.53\n nameserver 2001:db8::53\nnameserver nonsense\noptions ndots:1\n";
        assert_eq!(search_domains(text), [absolute("lan").unwrap()]);
        assert_eq!(name_servers(text), ["127.0.0.53:53".parse().unwrap(), "[2001:db8::53]:53".parse().unwrap()]);
    }
}
