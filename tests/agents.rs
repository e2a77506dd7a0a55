//! More than one node: machines that join a server over a network of their own, and stay useful without it.

use crate::cluster::{Cluster, Host, NARU, PATIENCE};
use std::process::Child;
use std::time::Instant;

/// An agent on a machine of its own.
pub(crate) struct Agent {
    pub(crate) host: Host,
    pub(crate) name: &'static str,
    pub(crate) server: String,
    pub(crate) flags: Vec<String>,
    process: Option<Child>,
}

impl Agent {
    pub(crate) fn new(name: &'static str, address: &str, switch: &Host, flags: &[&str]) -> Self {
        let host = Host::machine("agent", name, address);
        host.plug(switch);
        let flags = flags.iter().map(ToString::to_string).collect();
        Self { host, name, server: "https://192.0.2.10:6443".to_owned(), flags, process: None }
    }

    pub(crate) fn command(&self, token: &str) -> std::process::Command {
        let mut command = self.host.command(NARU);
        command.args(["agent", "--server", &self.server, "--token", token, "--data-dir"]);
        command.arg(self.host.dir.join("data")).args(["--cgroup-root", &self.host.name]).args(&self.flags);
        command
    }

    pub(crate) fn up(&mut self, token: &str) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.host.dir.join("agent.log")).unwrap();
        self.process = Some(self.command(token).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    }

    pub(crate) fn down(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Ends the agent as its machine does when it goes down.
    pub(crate) fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let ended = std::process::Command::new("kill").args(["-TERM", &process.id().to_string()]).status().unwrap();
            assert!(ended.success() && process.wait().unwrap().success(), "{}", self.log());
        }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.host.dir.join("agent.log")).unwrap_or_default()
    }

    pub(crate) fn curl(&self, url: &str) -> String {
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
pub(crate) const SPREAD: &str = "
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

pub(crate) fn ready(c: &Cluster, node: &str) -> bool {
    c.get(&format!("node {node}"), "{.status.conditions[?(@.type=='Ready')].status}") == "True"
}

/// Waits for something on an agent's side.
pub(crate) fn eventually(agents: &[&Agent], what: &str, holds: impl Fn() -> bool) {
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
    let mut c = Cluster::prepare("tunnel", &["--disable-agent"]);
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
    c.kubectl(&["label", "pod", "hello", "app=hello"]);
    c.kubectl(&["expose", "pod", "hello", "--port=80", "--target-port=8080"]);
    eventually(&[&b], "the Service is reached", || {
        let answer = c.try_kubectl(&["get", "--raw", "/api/v1/namespaces/default/services/hello:80/proxy/"]);
        String::from_utf8_lossy(&answer.stdout).starts_with("Hello from hello")
    });
    let metrics = c.kubectl(&["get", "--raw", "/api/v1/nodes/node-b/proxy/metrics"]);
    assert!(metrics.contains("# TYPE"), "{metrics}");
    let _forward = Background(
        c.kubectl_command(&["port-forward", "pod/hello", "18080:8080"])
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap(),
    );
    eventually(&[&b], "the forwarded port answers", || {
        c.curl("http://127.0.0.1:18080/").starts_with("Hello from hello")
    });
}

/// A program that ends with the value.
pub(crate) struct Background(Child);

impl Background {
    /// Runs a shell line on a machine.
    pub(crate) fn start(host: &Host, line: &str) -> Self {
        Self(host.command("sh").args(["-c", &format!("exec {line}")]).spawn().unwrap())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Requests from one machine, one after another; each leaves a line.
pub(crate) struct Traffic {
    lines: std::path::PathBuf,
    _shell: Background,
}

impl Traffic {
    pub(crate) fn start(host: &Host, url: &str) -> Self {
        let lines = host.dir.join("traffic");
        let _ = std::fs::remove_file(&lines);
        let script = format!(
            "sh -c 'while :; do if curl -sS -m 60 \"{url}\" >/dev/null 2>>{0}.errors; then echo ok; else echo failed; fi >>{0}; done'",
            lines.display()
        );
        Self { _shell: Background::start(host, &script), lines }
    }

    /// The same over one connection, for as long as that lasts.
    pub(crate) fn over_one_connection(host: &Host, address: &str) -> Self {
        let (lines, script) = (host.dir.join("connection"), host.dir.join("connection.sh"));
        let text = format!(
            "exec 3<>/dev/tcp/{address}/80\n\
             while printf 'GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n' >&3; do\n\
             line=; until [[ $line == Hello* ]]; do read -r line <&3 || break 2; done\n\
             echo ok >>{0}; sleep 0.1\n\
             done\n\
             echo failed >>{0}\n",
            lines.display()
        );
        std::fs::write(&script, text).unwrap();
        Self { _shell: Background::start(host, &format!("bash {}", script.display())), lines }
    }

    pub(crate) fn count(&self, what: &str) -> usize {
        std::fs::read_to_string(&self.lines).unwrap_or_default().lines().filter(|line| *line == what).count()
    }

    /// Waits for so many more answers.
    pub(crate) fn go_on(&self, more: usize) {
        let enough = self.count("ok") + more;
        eventually(&[], "requests are answered", || self.count("ok") >= enough);
    }
}

/// Gives a machine an address of IPv6 beside the other.
pub(crate) fn add_ipv6(host: &Host, last: u8) {
    let line = format!(
        "ip addr add 2001:db8::{last}/64 dev uplink nodad && ip -6 route add default via 2001:db8::fe dev uplink"
    );
    assert!(host.sh(&line).status.success());
}

pub(crate) const BOTH_FAMILIES: [&str; 3] = [
    "--flannel-backend=host-gw",
    "--cluster-cidr=10.42.0.0/16,fd00:42::/56",
    "--service-cidr=10.43.0.0/16,fd00:43::/112",
];
