//! A cluster without IPv4: machines, pods and Services have addresses of IPv6 alone.

use super::{curl, names::dig, output};
use crate::agents::{Agent, SPREAD, add_ipv6, eventually, ready};
use crate::cluster::{Cluster, Host, NARU};
use std::collections::BTreeSet;

const NODES: [&str; 3] = ["node-a", "node-b", "node-d"];
const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: port}
spec: {type: NodePort, selector: {app: hello}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}
---
apiVersion: v1
kind: Service
metadata: {name: balanced}
spec: {type: LoadBalancer, selector: {app: hello}, ports: [{port: 8000, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: group}
spec: {clusterIP: None, selector: {app: hello}, ports: [{name: http, port: 8080}]}
";

/// Leaves a machine its address of IPv6 alone.
fn only_ipv6(host: &Host, last: u8) {
    add_ipv6(host, last);
    assert!(host.sh("ip -4 addr flush dev uplink && ip -4 route flush default").status.success());
}

#[test]
fn three_machines_are_a_cluster_without_ipv4() {
    let switch = Host::machine("switch", "switch", "192.0.2.1");
    switch.make_switch();
    let client = Host::machine("client", "client", "192.0.2.100");
    client.plug(&switch);
    only_ipv6(&client, 100);
    let mut c = Cluster::prepare("ipv6", &["--cluster-cidr=fd00:42::/56", "--service-cidr=fd00:43::/112"]);
    c.host.plug(&switch);
    only_ipv6(&c.host, 10);
    c.up();
    let token = std::fs::read_to_string(c.data_dir().join("server/token")).unwrap().trim().to_owned();
    let mut agents: Vec<Agent> = [("node-b", 11), ("node-d", 12)]
        .into_iter()
        .map(|(name, last)| {
            let mut agent = Agent::new(name, &format!("192.0.2.{last}"), &switch, &[]);
            only_ipv6(&agent.host, last);
            agent.server = "https://[2001:db8::10]:6443".to_owned();
            agent.up(&token);
            agent
        })
        .collect();
    let waiting: Vec<&Agent> = agents.iter().collect();
    eventually(&waiting, "all nodes are Ready", || NODES.iter().all(|node| ready(&c, node)));
    c.apply(SPREAD);
    c.apply(SERVICES);
    eventually(&waiting, "a pod is ready on each node", || c.get("deployment hello", "{.status.readyReplicas}") == "3");
    let hosts: Vec<&Host> = [&c.host].into_iter().chain(agents.iter().map(|agent| &agent.host)).collect();
    pods_services_and_names(&c, &waiting, &hosts);
    let pod = c.get("pods -l app=hello --field-selector spec.nodeName=node-d", "{.items[0].metadata.name}");
    assert!(c.kubectl(&["exec", &pod, "--", "/naru", "--version"]).contains("v1.36"));
    c.kubectl(&["logs", &pod]);
    eventually(&waiting, "node ports answer those outside", || {
        curl(&client, "http://[2001:db8::12]:30080/").starts_with("Hello")
    });
    eventually(&waiting, "each node's address balances", || {
        let addresses = c.get("service balanced", "{.status.loadBalancer.ingress[*].ip}");
        let mut all = addresses.split_whitespace();
        addresses.split_whitespace().count() == 3
            && all.all(|ip| curl(&client, &format!("http://[{ip}]:8000/")).starts_with("Hello"))
    });
    let b = &mut agents[0];
    b.down();
    let mut killall = b.host.command(NARU);
    killall.args(["killall", "--cgroup-root", &b.host.name, "--data-dir"]).arg(b.host.dir.join("data"));
    assert!(killall.output().unwrap().status.success());
    let left = output(
        &b.host,
        "nft list tables | grep naru; ip -o addr | grep fd00:4; ip -6 route | grep fd00:4; ip -6 neigh | grep fd00:4; \
         ip -o link | grep -E 'naru|veth'; ss -Hltn | grep -E ':(10250|53)'",
    );
    assert_eq!(left, "", "a node that is taken apart leaves nothing");
}

fn pods_services_and_names(c: &Cluster, agents: &[&Agent], hosts: &[&Host]) {
    let pods = c.get("pods -l app=hello", "{.items[*].status.podIPs[*].ip}");
    let pods: BTreeSet<&str> = pods.split_whitespace().collect();
    assert!(pods.len() == 3 && pods.iter().all(|ip| ip.starts_with("fd00:42:")), "{pods:?}");
    let service = c.get("service hello", "{.spec.clusterIPs[*]}");
    assert!(service.starts_with("fd00:43::"), "{service}");
    let names: BTreeSet<String> = pods.iter().map(|ip| format!("AAAA {ip}")).collect();
    for host in hosts {
        for ip in &pods {
            let answer = curl(host, &format!("http://[{ip}]:8080/"));
            assert!(answer.starts_with("Hello"), "{ip}: {answer}");
        }
        eventually(agents, "the Service leads to all pods", || {
            let answers: BTreeSet<String> = (0..30).map(|_| curl(host, &format!("http://[{service}]/"))).collect();
            answers.len() == 3 && answers.iter().all(|answer| answer.starts_with("Hello"))
        });
        assert_eq!(output(host, "curl -sSk -m 30 'https://[fd00:43::1]/readyz'"), "ok", "the API server's Service");
        let asked = |question: &str| dig(host, "@fd00:43::a", question);
        eventually(agents, "names are answered", || {
            asked("hello.default.svc.cluster.local AAAA") == format!("AAAA {service}")
        });
        assert_eq!(asked("hello.default.svc.cluster.local A"), "NOERROR");
        let group = asked("group.default.svc.cluster.local AAAA");
        assert_eq!(group.split("; ").map(str::to_owned).collect::<BTreeSet<_>>(), names);
    }
    let reversed = dig(hosts[1], "@fd00:43::a", &format!("-x {service}"));
    assert_eq!(reversed, "PTR hello.default.svc.cluster.local.");
}
