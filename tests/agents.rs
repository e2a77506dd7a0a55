//! More than one node: machines that join a server over a network of their own, and stay useful without it.

use crate::cluster::{Cluster, Host, NARU, PATIENCE};
use std::process::Child;
use std::time::Instant;

/// An agent on a machine of its own.
struct Agent {
    host: Host,
    name: &'static str,
    flags: Vec<String>,
    process: Option<Child>,
}

impl Agent {
    fn new(name: &'static str, address: &str, switch: &Host, flags: &[&str]) -> Self {
        let host = Host::machine("agent", name, address);
        host.plug(switch);
        Self { host, name, flags: flags.iter().map(ToString::to_string).collect(), process: None }
    }

    fn command(&self, token: &str) -> std::process::Command {
        let mut command = self.host.command(NARU);
        command.args(["agent", "--server", "https://192.0.2.10:6443", "--token", token, "--data-dir"]);
        command.arg(self.host.dir.join("data")).args(["--cgroup-root", &self.host.name]).args(&self.flags);
        command
    }

    fn up(&mut self, token: &str) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.host.dir.join("agent.log")).unwrap();
        self.process = Some(self.command(token).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    }

    fn down(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.host.dir.join("agent.log")).unwrap_or_default()
    }

    fn curl(&self, url: &str) -> String {
        let output = self.host.command("curl").args(["-sS", "-m", "5", url]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.down();
        let mut command = self.host.command(NARU);
        command.args(["killall", "--cgroup-root", &self.host.name, "--data-dir"]).arg(self.host.dir.join("data"));
        let _ = command.output();
    }
}

/// One pod on each node, behind a Service.
const SPREAD: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: hello}
spec:
  replicas: 3
  selector: {matchLabels: {app: hello}}
  template:
    metadata: {labels: {app: hello}}
    spec:
      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
          - {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: hello}}}
      containers:
      - name: hello
        image: naru.local/self
        args: [hello, --port=8080]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: hello}
spec: {selector: {app: hello}, ports: [{port: 80, targetPort: 8080}]}
";

fn ready(c: &Cluster, node: &str) -> bool {
    c.get(&format!("node {node}"), "{.status.conditions[?(@.type=='Ready')].status}") == "True"
}

/// Waits for something on an agent's side.
fn eventually(agents: &[&Agent], what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        let logs: Vec<String> = agents.iter().map(|agent| format!("{}:\n{}", agent.name, agent.log())).collect();
        assert!(Instant::now() < deadline, "gave up waiting until {what}\n{}", logs.join("\n"));
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

#[test]
fn machines_join_and_pods_reach_one_another() {
    let switch = Host::machine("switch", "switch", "192.0.2.1");
    switch.make_switch();
    let mut c = Cluster::prepare("join", &[]);
    c.host.plug(&switch);
    c.up();
    let token = std::fs::read_to_string(c.data_dir().join("server/token")).unwrap().trim().to_owned();

    let mut b = Agent::new("node-b", "192.0.2.11", &switch, &[]);
    let mut d = Agent::new("node-d", "192.0.2.12", &switch, &[]);

    // Bad input first: nothing of it leaves a node.
    let wrong = b.command(&token.replace("::server:", "::server:not")).output().unwrap();
    let text = String::from_utf8_lossy(&wrong.stderr).into_owned() + &String::from_utf8_lossy(&wrong.stdout);
    assert!(!wrong.status.success() && text.contains("token is wrong"), "{text}");
    let flipped =
        if token.contains("K100") { token.replacen("K100", "K101", 1) } else { format!("K100{}", &token[4..]) };
    let wrong = b.command(&flipped).output().unwrap();
    let text = String::from_utf8_lossy(&wrong.stderr).into_owned() + &String::from_utf8_lossy(&wrong.stdout);
    assert!(!wrong.status.success() && text.contains("not of the cluster"), "{text}");

    b.up(&token);
    d.up(&token);
    eventually(&[&b, &d], "all nodes are Ready", || ["node-a", "node-b", "node-d"].iter().all(|node| ready(&c, node)));
    let twin = Agent::new("node-b", "192.0.2.13", &switch, &[]).command(&token).output().unwrap();
    let text = String::from_utf8_lossy(&twin.stderr).into_owned() + &String::from_utf8_lossy(&twin.stdout);
    assert!(!twin.status.success() && text.contains("--node-name"), "{text}");

    c.apply(SPREAD);
    eventually(&[&b, &d], "a pod is ready on each node", || {
        c.get("deployment hello", "{.status.readyReplicas}") == "3"
    });
    let nodes = c.get("pods -l app=hello", "{.items[*].spec.nodeName}");
    let mut nodes: Vec<&str> = nodes.split_whitespace().collect();
    nodes.sort_unstable();
    assert_eq!(nodes, ["node-a", "node-b", "node-d"]);
    let addresses = c.get("pods -l app=hello", "{.items[*].status.podIP}");
    for address in addresses.split_whitespace() {
        let url = format!("http://{address}:8080/");
        for answer in [c.curl(&url), b.curl(&url), d.curl(&url)] {
            assert!(answer.starts_with("Hello from hello-"), "{url}: {answer}");
        }
    }
    let service = format!("http://{}/", c.get("service hello", "{.spec.clusterIP}"));
    eventually(&[&b, &d], "the Service answers everywhere", || {
        [c.curl(&service), b.curl(&service), d.curl(&service)].iter().all(|answer| answer.starts_with("Hello"))
    });
    // Logs and exec on a node that is not the server's.
    let pod = c.get("pods -l app=hello --field-selector spec.nodeName=node-b", "{.items[0].metadata.name}");
    assert!(c.kubectl(&["exec", &pod, "--", "/naru", "--version"]).contains("v1.36"));
    c.kubectl(&["logs", &pod]);

    // Without the server pods and Services go on, also across a restart of the agent.
    c.down("-KILL");
    assert!(b.curl(&service).starts_with("Hello"));
    b.down();
    assert!(b.curl(&service).starts_with("Hello"));
    b.up(&token);
    c.up();
    eventually(&[&b, &d], "the nodes are Ready again", || ready(&c, "node-b") && ready(&c, "node-d"));
    assert_eq!(c.get("pods -l app=hello", "{.items[*].status.containerStatuses[*].restartCount}"), "0 0 0");

    // A deleted node comes back without ceremony.
    c.kubectl(&["delete", "node", "node-d"]);
    d.down();
    d.up(&token);
    eventually(&[&d], "the deleted node is back", || ready(&c, "node-d"));
}

#[test]
fn a_node_that_cannot_be_dialled_is_reached_through_its_tunnel() {
    let switch = Host::machine("switch", "switch", "192.0.2.1");
    switch.make_switch();
    let mut c = Cluster::prepare("tunnel", &[]);
    c.host.plug(&switch);
    c.up();
    let token = std::fs::read_to_string(c.data_dir().join("server/token")).unwrap().trim().to_owned();
    // Its own address is known to nobody else, as behind a router at home.
    let mut b = Agent::new("node-b", "192.0.2.11", &switch, &["--node-ip", "198.51.100.7"]);
    assert!(b.host.sh("ip addr add 198.51.100.7/32 dev uplink").status.success());
    b.up(&token);
    eventually(&[&b], "the node is Ready", || ready(&c, "node-b"));
    let pod = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "hello"}, "spec": {"nodeName": "node-b",
        "containers": [{"name": "hello", "image": "naru.local/self", "args": ["hello", "--port=8080"]}]}}"#;
    c.apply(pod);
    eventually(&[&b], "the pod runs", || c.get("pod hello", "{.status.phase}") == "Running");
    assert!(c.curl("https://198.51.100.7:10250/").is_empty(), "the server cannot dial the node");
    assert!(c.kubectl(&["exec", "hello", "--", "/naru", "--version"]).contains("v1.36"));
    c.kubectl(&["logs", "hello"]);
    let answer = c.kubectl(&["get", "--raw", "/api/v1/namespaces/default/pods/hello:8080/proxy/"]);
    assert!(answer.starts_with("Hello from hello"), "{answer}");
}
