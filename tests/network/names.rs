//! Names, asked for by `dig`: the table of the DNS specification, and names of others.

use super::{Machines, output, serve_names};
use crate::cluster::Host;

const NAMES: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: names}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: names}
spec:
  clusterIP: 10.43.0.77
  ports: [{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}]
---
apiVersion: v1
kind: Service
metadata: {name: far, namespace: names}
spec: {type: ExternalName, externalName: www.example.org}
---
apiVersion: v1
kind: Service
metadata: {name: near, namespace: names}
spec: {type: ExternalName, externalName: web.names.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: idle, namespace: names}
spec: {clusterIP: None, selector: {app: idle}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: group, namespace: names}
spec: {clusterIP: None, selector: {app: member}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: member, namespace: names, labels: {app: member}}
spec:
  hostname: first
  subdomain: group
  nodeName: node-b
  terminationGracePeriodSeconds: 1
  containers: [{name: hello, image: naru.local/self, args: [hello, --port=8080]}]
";

/// The answer's records without their TTLs, sorted; what the answer says if it has none.
pub(super) fn dig(host: &Host, flags: &str, question: &str) -> String {
    let server = if flags.starts_with('@') { "" } else { "@10.43.0.10" };
    let text = output(host, &format!("dig {server} +noall +answer +comments +tries=1 +time=60 {flags} {question}"));
    let mut records: Vec<String> = text
        .lines()
        .filter(|line| !line.starts_with(';') && !line.is_empty())
        .map(|line| line.split_whitespace().skip(3).collect::<Vec<_>>().join(" "))
        .collect();
    let status = text.split_once("status: ").and_then(|(_, rest)| rest.split_once(',')).map_or("no answer", |(s, _)| s);
    records.sort();
    if records.is_empty() { status.to_owned() } else { records.join("; ") }
}

pub(super) fn the_table_of_the_specification(m: &Machines) {
    m.c.apply(NAMES);
    m.eventually("the pod runs", || m.c.get("pod member -n names", "{.status.phase}") == "Running");
    let pod = m.c.get("pod member -n names", "{.status.podIP}");
    let pod6 = m.c.get("pod member -n names", "{.status.podIPs[1].ip}");
    let below = |name: &str| format!("{name}.names.svc.cluster.local");
    let dashed = pod.replace('.', "-");
    let reversed = |ip: &str| ip.split('.').rev().collect::<Vec<_>>().join(".") + ".in-addr.arpa";
    let target = below("web") + ".";
    let table = [
        (below("web") + " A", "A 10.43.0.77".to_owned()),
        ("WEB.Names.svc.CLUSTER.local A".to_owned(), "A 10.43.0.77".to_owned()),
        (below("web") + " AAAA", "NOERROR".to_owned()),
        (below("web") + " MX", "NOERROR".to_owned()),
        (below("web") + " ANY", "NOTIMP".to_owned()),
        (below("web") + " SRV", format!("SRV 0 50 53 {target}; SRV 0 50 80 {target}")),
        (below("_http._tcp.web") + " SRV", format!("SRV 0 100 80 {target}")),
        (below("_dns._udp.web") + " SRV", format!("SRV 0 100 53 {target}")),
        (below("_http._udp.web") + " SRV", "NXDOMAIN".to_owned()),
        (reversed("10.43.0.77") + " PTR", format!("PTR {target}")),
        (below("group") + " A", format!("A {pod}")),
        (below("group") + " AAAA", "NOERROR".to_owned()),
        (below("first.group") + " A", format!("A {pod}")),
        (below("second.group") + " A", "NXDOMAIN".to_owned()),
        (below("_http._tcp.group") + " SRV", format!("SRV 0 100 8080 {}.", below("first.group"))),
        (reversed(&pod) + " PTR", format!("PTR {}.", below("first.group"))),
        (below("idle") + " A", "NXDOMAIN".to_owned()),
        (below("absent") + " A", "NXDOMAIN".to_owned()),
        (below("far") + " CNAME", "CNAME www.example.org.".to_owned()),
        (below("far") + " A", "A 203.0.113.9; CNAME www.example.org.".to_owned()),
        (below("near") + " A", format!("A 10.43.0.77; CNAME {target}")),
        (format!("{dashed}.names.pod.cluster.local A"), format!("A {pod}")),
        (format!("{}.names.pod.cluster.local AAAA", pod6.replace(':', "-")), format!("AAAA {pod6}")),
        (format!("{dashed}.absent.pod.cluster.local A"), "NXDOMAIN".to_owned()),
        ("names.svc.cluster.local A".to_owned(), "NOERROR".to_owned()),
        ("dns-version.cluster.local TXT".to_owned(), "TXT \"1.1.0\"".to_owned()),
        ("kubernetes.default.svc.cluster.local A".to_owned(), "A 10.43.0.1".to_owned()),
        ("hello.default.svc.cluster.local AAAA".to_owned(), {
            let ips = m.c.get("service hello", "{.spec.clusterIPs[*]}");
            format!("AAAA {}", ips.split_whitespace().find(|ip| ip.contains(':')).unwrap())
        }),
    ];
    for (number, host) in m.hosts().into_iter().enumerate() {
        // The other family and the other transport need no more than one look at each name.
        let flags = ["", "+tcp", "@fd00:43::a", ""][number];
        for (question, expected) in &table {
            m.eventually(&format!("{question} {flags} is {expected} on node {number}"), || {
                dig(host, flags, question) == *expected
            });
        }
    }
    let log = m.agents[2].log();
    assert!(log.contains("the cluster's DNS listens on port"), "port 53 is somebody else's there: {log}");
}

/// How often the resolver elsewhere has been asked for a name.
fn asked(m: &Machines, name: &str) -> usize {
    std::fs::read_to_string(m.client.dir.join("asked")).unwrap_or_default().matches(name).count()
}

pub(super) fn names_of_others(m: &mut Machines) {
    let host = m.hosts()[2];
    let www = "www.example.org A";
    m.eventually("names of others are asked for", || dig(host, "", www) == "A 203.0.113.9");
    let before = asked(m, "example");
    assert_eq!(dig(host, "+tcp", www), "A 203.0.113.9");
    assert_eq!(asked(m, "example"), before, "what is remembered is not asked for again");
    assert_eq!(dig(host, "", "absent.example.org A"), "NXDOMAIN");
    // A client that names its own size, one that names none, and one of another version.
    for flags in ["+bufsize=4096", "+noedns", "+edns=0 +nsid +cookie"] {
        assert_eq!(dig(host, flags, www), "A 203.0.113.9", "{flags}");
    }
    assert_eq!(dig(host, "+edns=1 +noednsnegotiation", www), "BADVERS");
    // Settings for all nodes.
    let config = r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "naru-dns", "namespace": "kube-system"},
        "data": {"hosts": "192.0.2.77 printer.office # the big one", "stubDomains": "{\"lan\": [\"192.0.2.100\"]}",
        "upstreamNameservers": "[\"192.0.2.99\"]"}}"#;
    m.c.apply(config);
    m.eventually("a static host", || dig(host, "", "printer.office A") == "A 192.0.2.77");
    m.eventually("a domain with a resolver of its own", || dig(host, "", "nas.lan A") == "A 203.0.113.10");
    assert_eq!(dig(host, "", "other.example.org A"), "SERVFAIL", "all other names are asked for where nobody answers");
    assert_eq!(dig(host, "", www), "A 203.0.113.9", "but what is remembered holds");
    m.c.kubectl(&["delete", "configmap", "naru-dns", "-n", "kube-system"]);
    m.eventually("the node's resolvers are asked again", || dig(host, "", "printer.office A") == "NXDOMAIN");
    let metrics = output(host, "curl -sS -m 30 http://10.43.0.10:9153/metrics");
    for name in [
        "coredns_dns_requests_total",
        "coredns_dns_responses_total",
        "coredns_cache_hits_total",
        "coredns_proxy_request_duration_seconds_count",
    ] {
        assert!(metrics.contains(name), "{name}\n{metrics}");
    }
    // The cluster's names do not depend on the server, nor on other resolvers.
    drop(m.upstream.take());
    m.c.down("-KILL");
    for host in m.hosts().into_iter().skip(1) {
        assert_eq!(dig(host, "", "web.names.svc.cluster.local A"), "A 10.43.0.77");
        assert_eq!(dig(host, "", "absent.names.svc.cluster.local A"), "NXDOMAIN");
    }
    machines_that_come_up_alone(m);
    m.upstream = Some(serve_names(&m.client));
    m.c.up();
}

/// While the server is away two machines reboot: all that the kernel had of ours is gone, on one of them port 53 is
/// somebody else's.
fn machines_that_come_up_alone(m: &mut Machines) {
    for number in [1, 2] {
        let agent = &mut m.agents[number];
        agent.stop();
        let gone = agent.host.sh("nft delete table ip naru && nft delete table ip6 naru && ip route flush proto 111 && \
                                  ip -6 route flush proto 111 && ip addr flush dev lo && ip addr add 127.0.0.1/8 dev lo && ip addr add ::1/128 dev lo");
        assert!(gone.status.success(), "{}", String::from_utf8_lossy(&gone.stderr));
        agent.up(&m.token);
    }
    for number in [1, 2] {
        let host = &m.agents[number].host;
        let answers = |question: &str, answer: &str| {
            m.eventually(&format!("{question} is {answer} without the server"), || dig(host, "", question) == answer);
        };
        answers("web.names.svc.cluster.local A", "A 10.43.0.77");
        answers("absent.names.svc.cluster.local A", "NXDOMAIN");
        let ips = dig(host, "", "hello.default.svc.cluster.local A");
        let url = format!("http://{}/", ips.trim_start_matches("A "));
        m.eventually("the Service leads to pods of all machines", || {
            let pods: std::collections::BTreeSet<String> = (0..40).map(|_| super::curl(host, &url)).collect();
            pods.len() == 4 && pods.iter().all(|answer| answer.starts_with("Hello"))
        });
    }
}
