//! Kills, losses, delays and cuts.

use super::{Machines, bracketed, curl, output};
use crate::agents::{Background, Traffic, eventually, ready};
use crate::cluster::{Host, NARU};

/// A pod that would rather be on node-b, and leaves it as soon as that is away.
const ROAMER: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: roamer}
spec:
  replicas: 1
  selector: {matchLabels: {app: roamer}}
  template:
    metadata: {labels: {app: roamer}}
    spec:
      affinity:
        nodeAffinity:
          preferredDuringSchedulingIgnoredDuringExecution:
          - weight: 100
            preference: {matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [node-b]}]}
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 1}
      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 1}
      containers:
      - name: hello
        image: naru.local/self
        args: [hello, --port=8080]
";

/// Drops all or some of what comes to a machine.
fn drop_arriving(host: &Host, which: &str) {
    let line = format!(
        "nft add table inet trouble && nft add chain inet trouble in '{{ type filter hook prerouting priority -500; }}' && \
         nft add rule inet trouble in iifname uplink {which} drop"
    );
    assert!(host.sh(&line).status.success());
}

fn end_trouble(host: &Host) {
    assert!(host.sh("nft delete table inet trouble").status.success());
}

/// The Service's address for clients within the cluster, and as a URL.
fn service(m: &Machines) -> (String, String) {
    let ip = m.c.get("service hello", "{.spec.clusterIPs[0]}");
    (ip.clone(), format!("http://{}/", bracketed(&ip)))
}

pub(super) fn agent_and_server_are_killed_under_traffic(m: &mut Machines) {
    let (ip, url) = service(m);
    // A machine asks by one address only: each writes into files of its own.
    let traffic = [
        Traffic::start(&m.agents[1].host, &url),
        Traffic::start(&m.agents[2].host, "http://192.0.2.11:30080/"),
        Traffic::start(&m.client, "http://[2001:db8::12]:30080/"),
    ];
    let go_on = |more| traffic.iter().for_each(|traffic| traffic.go_on(more));
    let connection = Traffic::over_one_connection(&m.agents[0].host, &ip);
    connection.go_on(5);
    go_on(20);
    m.agents[0].down();
    go_on(30);
    connection.go_on(5);
    m.agents[0].up(&m.token);
    let log = m.agents[0].host.dir.join("agent.log");
    eventually(&[&m.agents[0]], "the agent has started again", || {
        std::fs::read_to_string(&log).unwrap_or_default().matches(" is Ready after ").count() == 2
    });
    connection.go_on(5);
    m.c.down("-KILL");
    go_on(30);
    m.c.up();
    go_on(20);
    connection.go_on(5);
    assert_eq!(connection.count("failed"), 0, "a connection outlives agent and server");
    for traffic in &traffic {
        assert_eq!(traffic.count("failed"), 0, "of {} requests", traffic.count("ok"));
    }
    m.eventually("no node was given up", || super::NODES.iter().all(|node| ready(&m.c, node)));
    assert_eq!(m.c.get("pods -l app=hello", "{.items[*].status.containerStatuses[*].restartCount}"), "0 0 0 0");
}

pub(super) fn rules_that_somebody_removes_come_back(m: &Machines) {
    let ips = m.c.get("service hello", "{.spec.clusterIPs[*]}");
    let urls: Vec<String> = ips.split_whitespace().map(|ip| format!("http://{}/", bracketed(ip))).collect();
    let host = &m.agents[1].host;
    let others = output(host, "nft list table inet others");
    assert!(others.contains("tcp dport 9"), "{others}");
    let answers = || urls.iter().all(|url| curl(host, url).starts_with("Hello"));
    // What others have is left alone; what others remove of ours is put back. The last is what nftables.service does
    // when it is restarted.
    for line in
        ["nft delete table ip naru && nft delete table ip6 naru", "nft flush table ip naru", "nft flush ruleset"]
    {
        assert!(host.sh(line).status.success());
        m.eventually("the Service answers in both families", answers);
        assert_eq!(output(host, "nft list table inet others"), if line.ends_with("ruleset") { "" } else { &others });
    }
}

pub(super) fn a_machine_is_cut_off_and_returns(m: &Machines) {
    let (_, url) = service(m);
    m.c.apply(ROAMER);
    let running_on = |pod: &str| m.c.get(&format!("pod {pod}"), "{.status.phase} {.spec.nodeName}");
    m.eventually("the pod runs where it likes to", || {
        running_on(&m.c.get("pods -l app=roamer", "{.items[0].metadata.name}")) == "Running node-b"
    });
    let first = m.c.get("pods -l app=roamer", "{.items[0].metadata.name}");
    let address = format!("http://{}:8080/", m.c.get(&format!("pod {first}"), "{.status.podIP}"));
    let [b, d, e] = [&m.agents[0].host, &m.agents[1].host, &m.agents[2].host];
    m.eventually("the pod answers", || curl(b, &address).starts_with("Hello"));
    drop_arriving(b, "");
    // Until the server has noticed, two others have troubles of their own.
    loss_and_delay(m, d, e);
    m.eventually("the pod runs elsewhere", || {
        let path = "{range .items[*]}{.status.phase} {.spec.nodeName}{'\\n'}{end}";
        m.c.get("pods -l app=roamer", path)
            .lines()
            .any(|line| line.starts_with("Running ") && !line.ends_with(" node-b"))
    });
    assert!(curl(b, &address).starts_with("Hello"), "what is cut off goes on");
    let ready_on = "{.items[*].endpoints[?(@.conditions.ready==true)].nodeName}";
    m.eventually("the Service no longer leads there", || {
        !m.c.get("endpointslices -l kubernetes.io/service-name=hello", ready_on).contains("node-b")
    });
    // It takes a moment until the proxies have heard of it.
    m.eventually("the dataplane has followed", || {
        let line = format!("for i in $(seq 30); do curl -s -m 3 -o /dev/null {url} || exit 1; done; echo all");
        output(d, &line) == "all"
    });
    let traffic = Traffic::start(d, &url);
    traffic.go_on(50);
    assert_eq!(traffic.count("failed"), 0);
    end_trouble(b);
    m.eventually("the node is back, without the pod that others replaced", || {
        ready(&m.c, "node-b") && running_on(&first).is_empty() && curl(b, &address).is_empty()
    });
    m.eventually("and serves again", || {
        m.c.get("endpointslices -l kubernetes.io/service-name=hello", ready_on).contains("node-b")
    });
    traffic.go_on(20);
    assert_eq!(traffic.count("failed"), 0, "its return harms nobody");
}

/// One machine loses every twentieth packet, another is a long way off.
fn loss_and_delay(m: &Machines, lossy: &Host, far: &Host) {
    let pod_on = |node: &str| {
        let pods = m.c.get("pods -l app=hello", "{range .items[*]}{.spec.nodeName} {.status.podIP}{'\\n'}{end}");
        let mut lines = pods.lines().filter_map(|line| line.split_once(' '));
        lines.find(|(of, _)| *of == node).map(|(_, ip)| format!("http://{ip}:8080/")).unwrap()
    };
    drop_arriving(lossy, "numgen random mod 20 == 0");
    let (relay, port) = lengthen(m, far, 100);
    let traffic = [Traffic::start(lossy, &pod_on("node-e")), Traffic::start(far, &pod_on("node-a"))];
    traffic.iter().for_each(|traffic| traffic.go_on(10));
    for traffic in &traffic {
        assert_eq!(traffic.count("failed"), 0, "what is lost is sent again");
    }
    let took = output(far, &format!("curl -sS -m 30 -o /dev/null -w '%{{time_connect}}' {}", pod_on("node-a")));
    assert!(took.parse::<f64>().unwrap() >= 0.2, "there and back: {took}");
    assert!(ready(&m.c, "node-d") && ready(&m.c, "node-e"), "a slow network is no reason to give a node up");
    drop(traffic);
    drop(relay);
    assert!(m.switch.sh(&format!("ip link del far0 && ip link set {port} master switch")).status.success());
    end_trouble(lossy);
}

/// Takes a machine off the switch and puts a relay between them, which holds everything for so many milliseconds each
/// way. The port that was the machine's comes with it.
fn lengthen(m: &Machines, host: &Host, milliseconds: u32) -> (Background, String) {
    let link = output(host, "ip -o link show uplink");
    let peer = link.split_once("uplink@if").and_then(|(_, rest)| rest.split_once(':')).map_or("", |(peer, _)| peer);
    let port = output(&m.switch, &format!("ip -o link | sed -n 's/^{peer}: \\([^@:]*\\).*/\\1/p'"));
    let line = format!(
        "ip link add far0 type veth peer name far1 && ip link set far0 up && ip link set far1 master switch up && \
         ip link set {port} nomaster"
    );
    assert!(m.switch.sh(&line).status.success(), "{link} {port}");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/network/relay.py");
    let relay = Background::start(&m.switch, &format!("python3 {script} {port} far0 {milliseconds} >/dev/null"));
    (relay, port)
}

/// A node that is taken apart leaves nothing, and what was others' is still there.
pub(super) fn nothing_is_left(m: &mut Machines) {
    let agent = &mut m.agents[0];
    agent.down();
    let host = &agent.host;
    let mut killall = host.command(NARU);
    killall.args(["killall", "--cgroup-root", &host.name, "--data-dir"]).arg(host.dir.join("data"));
    assert!(killall.output().unwrap().status.success());
    let rules = "ip rule | grep -Ev '^(0|32766|32767):'; ip -6 rule | grep -Ev '^(0|32766):'";
    let data = host.dir.join("data");
    let left = output(
        host,
        &format!(
            "nft list tables | grep naru; ip -o addr | grep -E '10[.]4[23]|fd00:4'; ip route | grep 10[.]4[23]; \
             ip -6 route | grep fd00:4; ip -o link | grep -E 'naru|veth'; ss -Hltn | grep -E ':(10250|10256|53)'; \
             {rules}; grep {data} /proc/self/mounts; ip netns list; find /sys/fs/cgroup -path '*/{name}/*' -type d",
            data = data.display(),
            name = host.name,
        ),
    );
    assert_eq!(left, "");
    assert!(output(host, "nft list table inet others").contains("tcp dport 9"));
}
