//! A server and three agents, and a client beside them: what goes on between machines, and goes on when they fail.

mod faults;
mod ipv6;
mod names;
mod services;

use crate::agents::{Agent, BOTH_FAMILIES, Background, SPREAD, add_ipv6, eventually, ready};
use crate::cluster::{Cluster, Host};
use std::collections::BTreeMap;

const NODES: [&str; 4] = ["node-a", "node-b", "node-d", "node-e"];

/// The machines of the test.
struct Machines {
    c: Cluster,
    agents: Vec<Agent>,
    /// One that is no node.
    client: Host,
    /// Answers for the names of the world.
    upstream: Option<Background>,
    switch: Host,
    token: String,
    /// A DNS server of the last machine's, on port 53 of all addresses.
    _port_53: Background,
}

impl Machines {
    fn start() -> Self {
        let switch = Host::machine("switch", "switch", "192.0.2.1");
        switch.make_switch();
        let client = Host::machine("client", "client", "192.0.2.100");
        client.plug(&switch);
        add_ipv6(&client, 100);
        let upstream = Some(serve_names(&client));
        let mut c = Cluster::prepare("network", &BOTH_FAMILIES);
        c.host.plug(&switch);
        add_ipv6(&c.host, 10);
        name_resolver(&c.host);
        c.up();
        let token = std::fs::read_to_string(c.data_dir().join("server/token")).unwrap().trim().to_owned();
        let names = NODES.into_iter().skip(1).zip(11..);
        let mut agents: Vec<Agent> = names
            .map(|(name, last)| {
                let agent = Agent::new(name, &format!("192.0.2.{last}"), &switch, &[]);
                add_ipv6(&agent.host, last);
                name_resolver(&agent.host);
                // Somebody else's, which nobody may touch.
                let rules = "nft add table inet others && nft add chain inet others in '{ type filter hook input priority 7; }' \
                             && nft add rule inet others in tcp dport 9 counter drop";
                assert!(agent.host.sh(rules).status.success());
                agent
            })
            .collect();
        let listener = "perl -MIO::Socket::INET -e '$u = IO::Socket::INET->new(Proto => \"udp\", LocalPort => 53) or die; \
                        $t = IO::Socket::INET->new(Proto => \"tcp\", LocalPort => 53, Listen => 5) or die; sleep 3600'";
        let port_53 = Background::start(&agents[2].host, listener);
        eventually(&[], "the port is taken", || output(&agents[2].host, "ss -Hltn sport = :53").contains(":53"));
        agents.iter_mut().for_each(|agent| agent.up(&token));
        let machines = Self { c, agents, client, upstream, switch, token, _port_53: port_53 };
        machines.eventually("all nodes are Ready", || NODES.iter().all(|node| ready(&machines.c, node)));
        let ranges = machines.c.get("nodes", "{.items[*].spec.podCIDRs[1]}");
        let own = ranges.split_whitespace().filter(|range| range.starts_with("fd00:42:") && range.ends_with("/64"));
        assert_eq!(own.count(), 4, "each node has a range of both families: {ranges}");
        machines
    }

    fn eventually(&self, what: &str, holds: impl Fn() -> bool) {
        eventually(&self.agents.iter().collect::<Vec<_>>(), what, holds);
    }

    /// The machines that are nodes.
    fn hosts(&self) -> Vec<&Host> {
        [&self.c.host].into_iter().chain(self.agents.iter().map(|agent| &agent.host)).collect()
    }

    /// The nodes' pods of this label, by the words in which they answer.
    fn nodes_of_pods(&self, label: &str) -> BTreeMap<String, String> {
        let path = "{range .items[*]}{.metadata.name} {.spec.nodeName}{'\\n'}{end}";
        let pods = self.c.get(&format!("pods -l {label}"), path);
        let line = |line: &str| line.split_once(' ').map(|(pod, node)| (format!("Hello from {pod}"), node.to_owned()));
        pods.lines().filter_map(line).collect()
    }
}

/// A line's output, without its last end of line.
fn output(host: &Host, line: &str) -> String {
    String::from_utf8_lossy(&host.sh(line).stdout).trim_end().to_owned()
}

fn curl(host: &Host, url: &str) -> String {
    output(host, &format!("curl -sS -m 30 '{url}'"))
}

/// An address as URLs have it.
fn bracketed(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

fn serve_names(client: &Host) -> Background {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/network/upstream.py");
    let asked = client.dir.join("asked");
    let upstream = Background::start(client, &format!("python3 {script} 192.0.2.100 > {}", asked.display()));
    eventually(&[], "the resolver is up", || std::fs::read_to_string(&asked).is_ok_and(|text| text.contains("ready")));
    upstream
}

/// Gives a machine the client as its resolver.
fn name_resolver(host: &Host) {
    let resolv = host.dir.join("node-resolv.conf");
    std::fs::write(&resolv, "nameserver 192.0.2.100\n").unwrap();
    assert!(host.sh(&format!("mount --bind {} /etc/resolv.conf", resolv.display())).status.success());
}

#[test]
fn four_machines_are_one_cluster_whatever_fails() {
    let mut machines = Machines::start();
    machines.c.apply(&SPREAD.replace("replicas: 3", "replicas: 4").replace(
        "spec: {selector: {app: hello}, ports: [{port: 80, targetPort: 8080}]}",
        "spec: {type: NodePort, ipFamilyPolicy: RequireDualStack, selector: {app: hello}, \
         ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}",
    ));
    machines.eventually("a pod is ready on each node", || {
        machines.c.get("deployment hello", "{.status.readyReplicas}") == "4"
    });
    services::pods_and_services_reach_one_another(&machines);
    services::every_feature_is_probed(&machines);
    names::the_table_of_the_specification(&machines);
    names::names_of_others(&mut machines);
    faults::agent_and_server_are_killed_under_traffic(&mut machines);
    faults::rules_that_somebody_removes_come_back(&machines);
    faults::a_machine_is_cut_off_and_returns(&machines);
    faults::nothing_is_left(&mut machines);
}
