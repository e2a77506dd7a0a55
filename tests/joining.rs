//! What agents need to stay in a cluster: certificates that are renewed, servers that come and go, tokens; and what
//! they are told when something is wrong.

use crate::agents::{Agent, eventually, ready};
use crate::cluster::{Cluster, Host, NARU};
use std::process::{Child, Output, Stdio};

fn switch() -> Host {
    let switch = Host::machine("switch", "switch", "192.0.2.1");
    switch.make_switch();
    switch
}

/// A server with these flags, plugged in and running.
fn server(name: &str, switch: &Host, flags: &[&str]) -> Cluster {
    let mut c = Cluster::prepare(name, flags);
    c.host.plug(switch);
    c.up();
    c
}

fn token(c: &Cluster) -> String {
    std::fs::read_to_string(c.data_dir().join("server/token")).unwrap().trim().to_owned()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn hello(name: &str, node: &str) -> String {
    format!(
        r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "{name}"}}, "spec": {{"nodeName": "{node}",
        "containers": [{{"name": "hello", "image": "naru.local/self", "args": ["hello", "--port=8080"]}}]}}}}"#
    )
}

fn running(c: &Cluster, pod: &str) -> bool {
    c.get(&format!("pod {pod}"), "{.status.phase}") == "Running"
}

/// The first certificate of a file below a machine's data.
fn certificate(host: &Host, file: &str) -> String {
    std::fs::read_to_string(host.dir.join("data").join(file)).unwrap()
}

/// What a TLS server shows.
fn shown(host: &Host, address: &str) -> String {
    let line = format!("openssl s_client -connect {address} </dev/null 2>/dev/null | openssl x509");
    String::from_utf8_lossy(&host.sh(&line).stdout).into_owned()
}

#[test]
fn certificates_are_renewed_while_everything_runs() {
    let switch = switch();
    let c = server("renewal", &switch, &["--certificate-lifetime=20s"]);
    let mut b = Agent::new("node-b", "192.0.2.11", &switch, &[]);
    let kubeconfig = std::fs::read_to_string(c.kubeconfig()).unwrap();
    let of_api = shown(&c.host, "192.0.2.10:6443");
    assert!(of_api.contains("BEGIN CERTIFICATE"), "{of_api}");
    b.up(&token(&c));
    eventually(&[&b], "the node is Ready", || ready(&c, "node-b"));
    // On a machine that stands still for some seconds even the administrator's certificate may just have expired.
    let apply = |pod: &str| {
        eventually(&[&b], "a pod is made", || c.feed(&["apply", "-f", "-"], &hello(pod, "node-b")).status.success());
    };
    apply("hello");
    eventually(&[&b], "the pod runs", || running(&c, "hello"));
    let of_node = certificate(&b.host, "agent/tls/client-kubelet.crt");
    let of_node_api = shown(&c.host, "192.0.2.11:10250");
    // The second renewal is by what the first one gave.
    let renewed = || b.log().matches("certificates are renewed").count();
    eventually(&[&b], "the agent's certificates are renewed twice", || renewed() >= 2);
    eventually(&[&b], "the server's certificates are renewed twice", || {
        c.log().matches("the server's certificates are renewed").count() >= 2
    });
    // All that was there at first has expired.
    assert_ne!(certificate(&b.host, "agent/tls/client-kubelet.crt"), of_node);
    assert_ne!(shown(&c.host, "192.0.2.11:10250"), of_node_api);
    assert_ne!(shown(&c.host, "192.0.2.10:6443"), of_api);
    assert_ne!(std::fs::read_to_string(c.kubeconfig()).unwrap(), kubeconfig);
    // Logs and exec need the API server's certificate towards nodes, and the node's own.
    eventually(&[&b], "exec works", || {
        said(&c.try_kubectl(&["exec", "hello", "--", "/naru", "--version"])).contains("v1.36")
    });
    apply("later");
    eventually(&[&b], "another pod runs", || running(&c, "later"));
    eventually(&[&b], "the first pod is there and was never restarted", || {
        c.get("pod hello", "{.status.containerStatuses[0].restartCount}") == "0"
    });
}

/// Something that ends with the value.
struct Relay(Child);

impl Relay {
    /// Passes connections to port 6443 of a machine on to the server.
    fn start(host: &Host) -> Self {
        let script = "
import socket, threading
listener = socket.create_server(('192.0.2.20', 6443))
print('ready', flush=True)
def copy(a, b):
    try:
        while data := a.recv(65536): b.sendall(data)
    except OSError: pass
    finally:
        for s in (a, b):
            try: s.shutdown(socket.SHUT_RDWR)
            except OSError: pass
while True:
    client, _ = listener.accept()
    server = socket.create_connection(('192.0.2.10', 6443))
    for pair in ((client, server), (server, client)):
        threading.Thread(target=copy, args=pair, daemon=True).start()
";
        let mut child = host.command("python3").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_agent_goes_to_another_server_and_a_node_keeps_itself() {
    let switch = switch();
    let c = server("servers", &switch, &["--tls-san=192.0.2.20"]);
    // Another way to the server, which is all that the agent is told of.
    let other = Host::machine("relay", "relay", "192.0.2.20");
    other.plug(&switch);
    let relay = Relay::start(&other);
    let mut b = Agent::new("node-b", "192.0.2.11", &switch, &[]);
    b.server = "https://192.0.2.20:6443".to_owned();
    b.up(&token(&c));
    eventually(&[&b], "the node is Ready", || ready(&c, "node-b"));
    c.apply(&hello("hello", "node-b"));
    eventually(&[&b], "the pod runs", || running(&c, "hello"));
    let known = || std::fs::read_to_string(b.host.dir.join("data/agent/tls/servers.json")).unwrap_or_default();
    eventually(&[&b], "the cluster's servers are remembered", || known().contains("192.0.2.10:6443"));
    drop(relay);
    c.apply(&hello("second", "node-b"));
    eventually(&[&b], "the agent works without the server it was given", || running(&c, "second"));
    eventually(&[&b], "exec works", || {
        said(&c.try_kubectl(&["exec", "second", "--", "/naru", "--version"])).contains("v1.36")
    });

    // The machine gets another address, while its agent runs, and while it does not. The server that it was given is
    // still away.
    let uid = c.get("node node-b", "{.metadata.uid}");
    let address = c.get("pod hello", "{.status.podIP}");
    for (from, to, stopped) in [(11, 12, false), (12, 13, true)] {
        if stopped {
            b.down();
        }
        let moved = format!(
            "ip addr del 192.0.2.{from}/24 dev uplink && ip addr add 192.0.2.{to}/24 dev uplink && \
             ip route replace default via 192.0.2.254"
        );
        assert!(b.host.sh(&moved).status.success());
        if stopped {
            b.up(&token(&c));
        }
        eventually(&[&b], "the node is at its new address", || {
            c.get("node node-b", "{.status.addresses[?(@.type=='InternalIP')].address}") == format!("192.0.2.{to}")
        });
        assert_eq!(c.get("node node-b", "{.metadata.uid}"), uid);
        assert_eq!(c.get("pods", "{.items[*].status.containerStatuses[*].restartCount}"), "0 0");
        eventually(&[&b], "its pods are reached there", || {
            c.curl(&format!("http://{address}:8080/")).starts_with("Hello from hello")
        });
        eventually(&[&b], "exec works", || {
            said(&c.try_kubectl(&["exec", "hello", "--", "/naru", "--version"])).contains("v1.36")
        });
    }
    // A node that somebody deletes comes back when its agent starts.
    c.kubectl(&["delete", "node", "node-b"]);
    b.down();
    b.up(&token(&c));
    eventually(&[&b], "the deleted node is back", || ready(&c, "node-b"));
}

fn naru(host: &Host, args: &[&str]) -> Output {
    host.command(NARU).args(args).output().unwrap()
}

#[test]
fn who_may_not_join_is_told_why_and_check_config_says_so_before() {
    let switch = switch();
    let c = server("tokens", &switch, &["--disable-agent", "--agent-token=of-agents"]);
    let data_dir = c.data_dir().display().to_string();
    let kubeconfig = c.kubeconfig().display().to_string();
    let mut b = Agent::new("node-b", "192.0.2.11", &switch, &[]);
    let check = |agent: &Agent, token: &str| {
        let mut command = agent.host.command(NARU);
        command.args(["check-config", "--server", &agent.server, "--token", token, "--data-dir"]);
        let output = command.arg(agent.host.dir.join("data")).args(&agent.flags).output().unwrap();
        said(&output)
    };
    let refused = |agent: &Agent, token: &str, why: &[&str]| {
        let checked = check(agent, token);
        assert!(checked.lines().any(|line| line.starts_with("server") && line.contains("FAILED")), "{checked}");
        let output = agent.command(token).output().unwrap();
        assert!(!output.status.success());
        for text in [checked, said(&output)] {
            for why in why {
                assert!(text.contains(why), "{why}: {text}");
            }
        }
    };
    let first = token(&c);
    assert!(check(&b, &first).contains("takes this node"), "{}", check(&b, &first));
    assert!(check(&b, "of-agents").contains("takes this node"));

    // Wrong, of another cluster, expired, rotated.
    refused(&b, &first.replace("::server:", "::server:not"), &["wrong or has expired", "naru token create"]);
    let flipped =
        if first.contains("K100") { first.replacen("K100", "K101", 1) } else { format!("K100{}", &first[4..]) };
    refused(&b, &flipped, &["not of the cluster at https://192.0.2.10:6443"]);
    let create = |ttl: &str| {
        let made = naru(&c.host, &["token", "create", "--ttl", ttl, "--kubeconfig", &kubeconfig]);
        assert!(made.status.success(), "{}", said(&made));
        String::from_utf8_lossy(&made.stdout).trim().to_owned()
    };
    let (short, long) = (create("1s"), create("1h"));
    eventually(&[], "the short token expires", || !check(&b, &short).contains("takes this node"));
    refused(&b, &short, &["wrong or has expired"]);
    let rotated = naru(&c.host, &["token", "rotate", "--data-dir", &data_dir]);
    assert!(rotated.status.success(), "{}", said(&rotated));
    eventually(&[], "the running server takes the rotated token", || check(&b, &token(&c)).contains("takes this node"));
    assert_ne!(token(&c), first);
    refused(&b, &first, &["wrong or has expired"]);
    assert!(check(&b, "of-agents").contains("takes this node"));
    assert!(c.log().contains("the token is wrong or has expired"), "{}", c.log());
    let deleted = naru(&c.host, &["token", "delete", "--kubeconfig", &kubeconfig, &long]);
    assert!(said(&deleted).contains("deleted"), "{}", said(&deleted));
    refused(&b, &long, &["wrong or has expired"]);

    // Nothing has been left by all that was refused, and one that is good is enough.
    assert!(!b.host.dir.join("data/agent/tls/server-ca.crt").exists());
    b.up(&create("1h"));
    eventually(&[&b], "the node is Ready", || ready(&c, "node-b"));
    let twin = Agent::new("node-b", "192.0.2.13", &switch, &[]);
    refused(&twin, &token(&c), &["another machine is the node \"node-b\"", "--node-name"]);
    eventually(&[&b], "the node says so", || {
        c.get("node node-b", "{.status.conditions[?(@.type=='DuplicateName')].message}").contains("--node-name")
    });
    assert!(c.log().contains("another machine is the node"), "{}", c.log());
    // Nobody is the server but the server.
    let posing = Agent::new("kubernetes.default", "192.0.2.14", &switch, &["--node-name=kubernetes.default.svc"]);
    refused(&posing, &token(&c), &["is the server's own"]);
    // A machine belongs to one cluster.
    let stranger = server("stranger", &switch, &["--disable-agent"]);
    b.down();
    refused(&b, &token(&stranger), &["belongs to another cluster"]);
}

/// A host with all that can be in the way of a node, but for a port.
const TROUBLES: &str = "ip link set uplink mtu 1300 && ip addr add 10.42.7.1/24 dev wire && \
    nft add table ip filter && nft 'add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }' && \
    echo 0 >/proc/sys/net/ipv4/ip_forward && mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys";

#[test]
fn what_is_in_the_way_is_said_in_the_log_on_the_node_and_by_check_config() {
    let mut c = Cluster::prepare("troubles", &[]);
    let made = c.host.sh(TROUBLES);
    assert!(made.status.success(), "{}", said(&made));
    let wanted = [
        ("OverlappingRanges", "10.42.7.0/24 (wire) overlaps the pods' addresses 10.42.0.0/16"),
        ("SmallMTU", "takes packets of 1300 bytes only"),
        ("ForwardingOff", "net.ipv4.ip_forward is 0 and could not be set: run sysctl -w net.ipv4.ip_forward=1"),
        ("FirewallDrops", "the firewall's chain ip filter FORWARD drops packets that pods send and get"),
    ];
    let checked = c.host.command(NARU).args(["check-config", "--data-dir"]).arg(c.data_dir()).output().unwrap();
    assert!(!checked.status.success());
    let text = said(&checked);
    for (_, message) in wanted {
        assert!(text.lines().any(|line| line.contains("FAILED") && line.contains(message)), "{message}: {text}");
    }
    c.up();
    let condition = |c: &Cluster, field: &str| {
        c.get("node node-a", &format!("{{.status.conditions[?(@.type=='NetworkProblem')].{field}}}"))
    };
    c.eventually("the node says what is wrong", |c| condition(c, "status") == "True");
    let (message, log) = (condition(&c, "message"), c.log());
    for (_, wanted) in wanted {
        assert!(message.contains(wanted), "{wanted}: {message}");
        assert!(log.contains(wanted), "{wanted}: {log}");
    }
    assert_eq!(condition(&c, "reason"), wanted[0].0);
    // Ports that are in use, by the server that runs.
    let checked = c.host.command(NARU).args(["check-config", "--data-dir"]).arg(c.data_dir()).output().unwrap();
    let text = said(&checked);
    for what in ["port of the API", "port of the node"] {
        assert!(text.lines().any(|line| line.starts_with(what) && line.contains("FAILED")), "{what}: {text}");
    }
}

/// Plugins as distributions have them.
const BRIDGE: &str = r#"{"cniVersion": "1.0.0", "name": "theirs", "plugins": [
    {"type": "bridge", "bridge": "theirs0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
     "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.42.5.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}],
              "dataDir": "DIR/leases"}},
    {"type": "portmap", "capabilities": {"portMappings": true}},
    {"type": "tuning"}]}"#;

#[test]
fn a_network_of_others_is_used_as_soon_as_it_is_configured() {
    let mut c = Cluster::prepare("theirs", &["--flannel-backend=none"]);
    // The directory that all of them use, without leaving anything on this machine.
    let etc = format!(
        "mkdir -p {0}/etc/upper {0}/etc/work && \
         mount -t overlay overlay -o lowerdir=/etc,upperdir={0}/etc/upper,workdir={0}/etc/work /etc",
        c.host.dir.display()
    );
    let made = c.host.sh(&etc);
    assert!(made.status.success(), "{}", said(&made));
    c.up();
    let condition =
        |c: &Cluster, field: &str| c.get("node node-a", &format!("{{.status.conditions[?(@.type=='Ready')].{field}}}"));
    c.eventually("the node is not Ready", |c| condition(c, "status") == "False");
    assert_eq!(condition(&c, "reason"), "KubeletNotReady");
    assert_eq!(
        condition(&c, "message"),
        "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin \
         returns error: cni plugin not initialized"
    );
    let written = format!(
        "cat >/etc/cni/net.d/10-theirs.conflist <<'EOF'\n{}\nEOF",
        BRIDGE.replace("DIR", &c.host.dir.display().to_string())
    );
    assert!(c.host.sh(&written).status.success());
    c.eventually("the node is Ready", |c| condition(c, "status") == "True");
    for pod in ["one", "two"] {
        c.apply(&hello(pod, "node-a"));
    }
    c.eventually("the pods run", |c| running(c, "one") && running(c, "two"));
    c.kubectl(&["label", "pod", "one", "app=one"]);
    c.kubectl(&["expose", "pod", "one", "--port=80", "--target-port=8080"]);
    let address = c.get("pod one", "{.status.podIP}");
    assert!(address.starts_with("10.42.5."), "{address}");
    let service = c.get("service one", "{.spec.clusterIP}");
    for url in [format!("http://{address}:8080/"), format!("http://{service}/")] {
        c.eventually("the pod answers", |c| c.curl(&url).starts_with("Hello from one"));
    }
    // Its pods outlast a restart, and are detached by the plugins.
    c.down("-KILL");
    c.up();
    c.eventually("the node is Ready", |c| condition(c, "status") == "True");
    assert_eq!(c.get("pods", "{.items[*].status.podIP}").split(' ').next(), Some(address.as_str()));
    assert_eq!(c.get("pods", "{.items[*].status.containerStatuses[*].restartCount}"), "0 0");
    let leases = c.host.dir.join("leases/theirs");
    assert!(leases.join(&address).exists());
    c.kubectl(&["delete", "pod", "one", "--grace-period=1"]);
    c.eventually("its address is free again", |_| !leases.join(&address).exists());
    c.remove();
    let left = c.host.sh("ip -o link show master theirs0");
    assert!(left.stdout.is_empty(), "{}", said(&left));
}
