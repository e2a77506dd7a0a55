//! Every feature of Services, by connections between machines.

use super::{Machines, bracketed, curl, output};
use crate::cluster::Host;
use std::collections::BTreeSet;

/// Services over the same pods, or over the one on node-b, which is labelled.
const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: near}
spec: {trafficDistribution: PreferSameZone, selector: {app: hello}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: nearest}
spec: {trafficDistribution: PreferSameNode, selector: {app: hello}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: inside}
spec: {internalTrafficPolicy: Local, selector: {only: node-b}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: sticky}
spec: {type: NodePort, sessionAffinity: ClientIP, selector: {app: hello}, ports: [{port: 80, targetPort: 8080, nodePort: 30081}]}
---
apiVersion: v1
kind: Service
metadata: {name: balanced}
spec: {type: LoadBalancer, selector: {app: hello}, ports: [{port: 8000, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: beside}
spec: {type: LoadBalancer, loadBalancerClass: naru.io/nodes, selector: {app: hello}, ports: [{port: 8001, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: local}
spec: {type: LoadBalancer, externalTrafficPolicy: Local, selector: {only: node-b}, ports: [{port: 8002, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: guarded}
spec: {type: LoadBalancer, loadBalancerSourceRanges: [192.0.2.101/32], selector: {app: hello}, ports: [{port: 8003, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: outer}
spec: {externalIPs: [198.51.100.5], selector: {app: hello}, ports: [{port: 8004, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: elsewhere}
spec: {type: LoadBalancer, loadBalancerClass: example.com/other, selector: {app: hello}, ports: [{port: 8005, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: servers}
spec: {type: LoadBalancer, selector: {app: hello}, ports: [{port: 6443, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: names}
spec: {type: LoadBalancer, selector: {app: hello}, ports: [{port: 53, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: published}
spec: {publishNotReadyAddresses: true, selector: {app: lazy}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: unpublished}
spec: {selector: {app: lazy}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: lazy, labels: {app: lazy}}
spec:
  nodeName: node-d
  terminationGracePeriodSeconds: 600
  containers:
  - name: hello
    image: naru.local/self
    args: [hello, --port=8080]
    readinessProbe: {httpGet: {path: /, port: 9}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: ending}
spec: {selector: {app: ending}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: ending, labels: {app: ending}}
spec:
  nodeName: node-d
  terminationGracePeriodSeconds: 600
  containers:
  - name: hello
    image: naru.local/self
    args: [hello, --port=8080]
    lifecycle: {preStop: {sleep: {seconds: 600}}}
";

pub(super) fn pods_and_services_reach_one_another(m: &Machines) {
    let addresses = m.c.get("pods -l app=hello", "{.items[*].status.podIPs[*].ip}");
    let urls: Vec<String> = addresses.split_whitespace().map(|ip| format!("http://{}:8080/", bracketed(ip))).collect();
    assert_eq!(urls.len(), 8, "{addresses}");
    let clusters = m.c.get("service hello", "{.spec.clusterIPs[*]}");
    let services = clusters.split_whitespace().map(|ip| format!("http://{}/", bracketed(ip)));
    let ports = ["http://192.0.2.11:30080/".to_owned(), "http://[2001:db8::11]:30080/".to_owned()];
    let services: Vec<String> = services.chain(ports).collect();
    assert_eq!(services.len(), 4, "{clusters}");
    for host in m.hosts() {
        for url in &urls {
            let answer = curl(host, url);
            assert!(answer.starts_with("Hello from hello-"), "{} {url}: {answer}", host.name);
        }
        for url in &services {
            m.eventually("the Service answers", || curl(host, url).starts_with("Hello from hello-"));
        }
    }
}

/// Who answers when so many requests are sent that each endpoint would.
fn answering(m: &Machines, host: &Host, url: &str) -> BTreeSet<String> {
    let nodes = m.nodes_of_pods("app=hello");
    let line = format!("for i in $(seq 40); do curl -sS -m 30 '{url}'; done");
    output(host, &line).lines().map(|line| nodes.get(line).cloned().unwrap_or_else(|| line.to_owned())).collect()
}

fn expect(m: &Machines, what: &str, host: &Host, url: &str, nodes: &[&str]) {
    let wanted: BTreeSet<String> = nodes.iter().map(ToString::to_string).collect();
    m.eventually(&format!("{what}: {url} is answered by {nodes:?}"), || answering(m, host, url) == wanted);
}

fn balancers(m: &Machines, service: &str) -> String {
    m.c.get(&format!("service {service}"), "{.status.loadBalancer.ingress[*].ip}")
}

pub(super) fn every_feature_is_probed(m: &Machines) {
    for (node, zone) in [("node-a", "z1"), ("node-b", "z1"), ("node-d", "z2"), ("node-e", "z2")] {
        m.c.kubectl(&["label", "node", node, &format!("topology.kubernetes.io/zone={zone}")]);
    }
    let pods = m.nodes_of_pods("app=hello");
    let (words, _) = pods.iter().find(|(_, node)| *node == "node-b").unwrap();
    m.c.kubectl(&["label", "pod", words.trim_start_matches("Hello from "), "only=node-b"]);
    m.c.apply(SERVICES);
    let cluster = |service: &str| format!("http://{}/", m.c.get(&format!("service {service}"), "{.spec.clusterIP}"));
    let [a, b, d, e] = m.hosts()[..] else { panic!("four nodes") };
    let all = ["node-a", "node-b", "node-d", "node-e"];

    expect(m, "all endpoints are used", a, &cluster("hello"), &all);
    expect(m, "endpoints of the zone", b, &cluster("near"), &all[..2]);
    expect(m, "endpoints of the zone", e, &cluster("near"), &all[2..]);
    expect(m, "endpoints of the node", b, &cluster("nearest"), &all[1..2]);
    expect(m, "endpoints of the node", d, &cluster("nearest"), &all[2..3]);
    expect(m, "an internal policy", b, &cluster("inside"), &all[1..2]);
    let silent = || output(d, &format!("curl -s -m 2 {}; echo $?", cluster("inside"))) == "28";
    m.eventually("where there are no endpoints on the node, nothing is said", silent);
    affinity(m, e, &cluster("sticky"));
    affinity(m, &m.client, "http://192.0.2.12:30081/");
    addresses_of_balancers(m, &all);
    unready_and_ending(m, a, &cluster);
}

/// A client keeps its endpoint for as long as the Service says so.
fn affinity(m: &Machines, host: &Host, url: &str) {
    m.eventually("a client keeps its endpoint", || answering(m, host, url).len() == 1);
    m.c.kubectl(&["patch", "service", "sticky", "-p", r#"{"spec": {"sessionAffinity": "None"}}"#]);
    m.eventually("it may not do so any more", || answering(m, host, url).len() > 1);
    m.c.kubectl(&["patch", "service", "sticky", "-p", r#"{"spec": {"sessionAffinity": "ClientIP"}}"#]);
    m.eventually("a client keeps its endpoint again", || answering(m, host, url).len() == 1);
}

/// The nodes as load balancers.
fn addresses_of_balancers(m: &Machines, all: &[&str; 4]) {
    let everywhere = "192.0.2.10 192.0.2.11 192.0.2.12 192.0.2.13";
    for service in ["balanced", "beside", "guarded"] {
        m.eventually(&format!("{service} has addresses"), || balancers(m, service) == everywhere);
    }
    // Two Services share the addresses by their ports.
    expect(m, "a balancer", &m.client, "http://192.0.2.13:8000/", all);
    expect(m, "a balancer of the nodes' own class", &m.client, "http://192.0.2.12:8001/", all);
    m.eventually("only the node with an endpoint balances", || balancers(m, "local") == "192.0.2.11");
    m.eventually("the client's address is kept", || curl(&m.client, "http://192.0.2.11:8002/client") == "192.0.2.100");
    let port = m.c.get("service local", "{.spec.healthCheckNodePort}");
    let health = |last: u8| {
        let line = format!("curl -s -m 30 -o /dev/null -w '%{{http_code}}' http://192.0.2.{last}:{port}/healthz");
        output(&m.client, &line)
    };
    m.eventually("it is said which nodes have endpoints", || health(11) == "200" && health(12) == "503");
    // Only some clients may come.
    assert!(m.client.sh("ip addr add 192.0.2.101/24 dev uplink").status.success());
    let from = |last: u8| {
        let line = format!("curl -s -m 2 --interface 192.0.2.{last} http://192.0.2.12:8003/client; echo $?");
        output(&m.client, &line)
    };
    m.eventually("some clients are served, the others hear nothing", || {
        from(101).ends_with("\n0") && from(100) == "28"
    });
    assert!(m.client.sh("ip route add 198.51.100.5 via 192.0.2.12").status.success());
    expect(m, "an external address", &m.client, "http://198.51.100.5:8004/", all);
    // A port that somebody listens on is left alone, on the nodes where that is so.
    let why = |service: &str| {
        m.c.get(&format!("events --field-selector involvedObject.name={service}"), "{.items[*].message}")
    };
    m.eventually("naru's own ports are not taken, and the Service says why", || {
        balancers(m, "servers") == "192.0.2.11 192.0.2.12 192.0.2.13"
            && why("servers").contains("Node node-a cannot balance: a process of the host listens on port 6443/TCP")
    });
    m.eventually("nor those of other processes", || {
        balancers(m, "names") == "192.0.2.10 192.0.2.11 192.0.2.12"
            && why("names").contains("Node node-e cannot balance: a process of the host listens on port 53/TCP")
    });
    let mut second: serde_json::Value =
        serde_json::from_str(&m.c.kubectl(&["get", "service", "balanced", "-o", "json"])).unwrap();
    second["metadata"] = serde_json::json!({"name": "late"});
    second["spec"] =
        serde_json::json!({"type": "LoadBalancer", "ports": [{"port": 8000}], "selector": {"app": "hello"}});
    m.c.apply(&second.to_string());
    m.eventually("nor those of older Services", || {
        why("late").contains("port 8000/TCP is the Service default/balanced's")
    });
    for pending in ["elsewhere", "late"] {
        assert_eq!(balancers(m, pending), "", "{pending} is pending");
    }
    m.c.kubectl(&["label", "node", "node-e", "node.kubernetes.io/exclude-from-external-load-balancers=true"]);
    m.eventually("a node that is labelled so balances nothing", || {
        balancers(m, "balanced") == "192.0.2.10 192.0.2.11 192.0.2.12"
    });
    m.c.kubectl(&["label", "node", "node-e", "node.kubernetes.io/exclude-from-external-load-balancers-"]);
}

/// What is used of endpoints that are not ready, or end.
fn unready_and_ending(m: &Machines, host: &Host, cluster: &dyn Fn(&str) -> String) {
    m.eventually("unready endpoints that are published serve", || {
        curl(host, &cluster("published")) == "Hello from lazy"
    });
    let refused = |service: &str| output(host, &format!("curl -s -m 30 {}; echo $?", cluster(service))) == "7";
    m.eventually("those that are not are refused", || refused("unpublished"));
    m.eventually("the Service answers", || curl(host, &cluster("ending")) == "Hello from ending");
    m.c.kubectl(&["delete", "pod", "ending", "--wait=false"]);
    let slice = "endpointslices -l kubernetes.io/service-name=ending";
    m.eventually("the endpoint ends", || m.c.get(slice, "{.items[0].endpoints[0].conditions.terminating}") == "true");
    m.eventually("it serves while there is no other", || curl(host, &cluster("ending")) == "Hello from ending");
    m.c.kubectl(&["delete", "pod", "ending", "lazy", "--grace-period=0", "--force"]);
    m.eventually("nobody is left", || refused("ending"));
}
