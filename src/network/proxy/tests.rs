//! The table in a real kernel: namespaces stand for a node, its pods and a client elsewhere.

#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::nft::Batch;
use naru_api::address::{Cidr, parse_cidr};
use naru_client::ObjectKey;
use serde_json::{Value, json};
use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc;
use std::thread;

const WAIT: Duration = Duration::from_secs(20);
const VIP: &str = "10.43.0.9:80";
const SERVICES: &str = "10.43.0.0/16";

mod probes;

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace, with a thread that lives in it.
struct Namespace {
    jobs: mpsc::SyncSender<Job>,
    thread_id: i32,
}

impl Namespace {
    fn new() -> Self {
        let (jobs, queue) = mpsc::sync_channel::<Job>(4);
        let (ready, started) = mpsc::sync_channel(1);
        thread::spawn(move || {
            #[allow(deprecated, reason = "only file descriptors make it unsafe, and those are not unshared")]
            rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).expect("these tests need root");
            ready.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            queue.into_iter().for_each(|job| job());
        });
        let thread_id = started.recv().unwrap();
        let namespace = Self { jobs, thread_id };
        namespace.ip("link set lo up");
        namespace
    }

    /// Runs in the namespace.
    fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, result) = mpsc::sync_channel(1);
        self.jobs.send(Box::new(move || drop(sender.send(job())))).unwrap();
        result.recv().expect("the job did not panic")
    }

    fn ip(&self, arguments: &str) {
        let line = arguments.to_owned();
        #[allow(clippy::disallowed_methods, reason = "tests build their networks with the ip program")]
        let output = self.run(move || Command::new("ip").args(line.split(' ')).output().unwrap());
        assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// The program `nft`, and whatever is built on its library, must be able to read what it finds.
    fn list_by_nft(&self) {
        #[allow(clippy::disallowed_methods, reason = "tests ask the nft program")]
        let output = self.run(|| Command::new("nft").args(["list", "ruleset"]).output().unwrap());
        let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && text.contains("table ip6 naru"), "{errors}\n{text}");
    }

    /// Answers every connection with a name and the client's address.
    fn serve(&self, name: &'static str, address: &'static str) {
        let listener = self.run(move || TcpListener::bind(address).unwrap());
        thread::spawn(move || {
            while let Ok((mut stream, client)) = listener.accept() {
                let _ = write!(stream, "{name} {}", client.ip());
            }
        });
    }

    /// What the server at an address answers.
    fn ask(&self, address: &str) -> io::Result<String> {
        let address: SocketAddr = address.parse().unwrap();
        self.run(move || {
            let mut stream = TcpStream::connect_timeout(&address, WAIT)?;
            stream.set_read_timeout(Some(WAIT))?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })
    }

    fn refused(&self, address: &str) -> bool {
        self.ask(address).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    }
}

/// A node with two routed pods, and a client on another network.
struct Network {
    node: Namespace,
    a: Namespace,
    b: Namespace,
    outside: Namespace,
}

impl Network {
    fn new() -> Self {
        let network =
            Self { node: Namespace::new(), a: Namespace::new(), b: Namespace::new(), outside: Namespace::new() };
        let node = &network.node;
        for (name, pod, last) in [("to-a", &network.a, 2), ("to-b", &network.b, 3)] {
            let (ip, ip6) = (format!("10.42.0.{last}"), format!("fd00:42::{last}"));
            node.ip(&format!("link add {name} type veth peer name eth0 netns {}", pod.thread_id));
            node.ip(&format!("addr add 10.42.0.1/32 dev {name}"));
            node.ip(&format!("link set {name} up"));
            node.ip(&format!("route add {ip}/32 dev {name}"));
            pod.ip(&format!("addr add {ip}/32 dev eth0"));
            pod.ip("link set eth0 up");
            pod.ip("route add 10.42.0.1/32 dev eth0");
            pod.ip("route add default via 10.42.0.1 dev eth0");
            node.ip(&format!("addr add fd00:42::1/128 dev {name} nodad"));
            node.ip(&format!("route add {ip6}/128 dev {name}"));
            pod.ip(&format!("addr add {ip6}/128 dev eth0 nodad"));
            pod.ip("route add fd00:42::1/128 dev eth0");
            pod.ip("route add default via fd00:42::1 dev eth0");
        }
        node.ip(&format!("link add out type veth peer name eth0 netns {}", network.outside.thread_id));
        node.ip("addr add 192.0.2.1/24 dev out");
        node.ip("link set out up");
        network.outside.ip("addr add 192.0.2.2/24 dev eth0");
        network.outside.ip("link set eth0 up");
        node.ip("route add default via 192.0.2.2");
        node.ip("addr add 2001:db8::1/64 dev out nodad");
        network.outside.ip("addr add 2001:db8::2/64 dev eth0 nodad");
        node.ip("route add default via 2001:db8::2");
        network.a.serve("a", "10.42.0.2:8080");
        network.b.serve("b", "10.42.0.3:8080");
        network.outside.serve("outside", "192.0.2.2:80");
        network.a.serve("a", "[fd00:42::2]:8080");
        network.b.serve("b", "[fd00:42::3]:8080");
        network.outside.serve("outside", "[2001:db8::2]:80");
        network
    }

    /// Puts a table in place on the node.
    fn program(&self, ruleset: Ruleset) -> Program {
        self.node.run(move || {
            let loopback = sysctl::prepare(sysctl::Wanted { loopback: true, v4: true, v6: true });
            Program::replace(base(loopback), ruleset).unwrap()
        })
    }

    fn update(&self, mut program: Program, ruleset: Ruleset) -> Program {
        self.node.run(move || {
            program.update(ruleset).unwrap();
            program
        })
    }
}

fn range(text: &str) -> Cidr {
    parse_cidr(text).unwrap()
}

fn base(loopback: bool) -> Base {
    let pods = ["10.42.0.0/16", "fd00:42::/56"].map(|range| parse_cidr(range).unwrap()).to_vec();
    Base { table: "naru".to_owned(), pods, loopback, routed_v6: false }
}

/// One Service on the cluster address and node port 30080.
fn rules(pods: &[u8], sticky: bool) -> Ruleset {
    rules_of(Family::V4, pods, sticky)
}

fn rules_of(family: Family, pods: &[u8], sticky: bool) -> Ruleset {
    let sticky = sticky.then_some(600);
    let pod = |last: u8| match family {
        Family::V4 => IpAddr::from([10, 42, 0, last]),
        Family::V6 => Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, last.into()).into(),
    };
    let backends: Vec<Backend> = pods.iter().map(|last| Backend { address: pod(*last), port: 8080 }).collect();
    let cluster = if family == Family::V4 { "10.43.0.9" } else { "fd00:43::9" };
    let target = |masquerade| {
        let (backends, sources) = (backends.clone(), Vec::new());
        Target { backends, sticky, masquerade, elsewhere: false, sources }
    };
    let front = |address: Option<&str>, port| Frontend {
        address: address.map_or(family.unspecified(), |text| text.parse().unwrap()),
        protocol: Protocol::Tcp,
        port,
    };
    let frontends = [
        (front(Some(cluster), 80), target(Masquerade::Outside)),
        (front(None, 30080), target(Masquerade::Always)),
        (front(None, 30081), target(Masquerade::Never)),
    ];
    Ruleset { frontends: frontends.into(), ..Ruleset::default() }
}

#[test]
fn connections_reach_the_endpoints() {
    let network = Network::new();
    network.program(rules(&[3], false));
    assert_eq!(network.a.ask(VIP).unwrap(), "b 10.42.0.2", "a pod sees which pod asks");
    assert_eq!(network.b.ask(VIP).unwrap(), "b 10.42.0.1", "a pod reaches itself");
    assert_eq!(network.node.ask(VIP).unwrap(), "b 10.42.0.1", "the host reaches the cluster address");
    assert_eq!(network.outside.ask("192.0.2.1:30080").unwrap(), "b 10.42.0.1");
    assert_eq!(network.outside.ask("192.0.2.1:30081").unwrap(), "b 192.0.2.2", "the client's address is kept");
    assert_eq!(network.a.ask("192.0.2.1:30080").unwrap(), "b 10.42.0.1");
    assert_eq!(network.b.ask("192.0.2.1:30080").unwrap(), "b 10.42.0.1");
    assert_eq!(network.node.ask("192.0.2.1:30080").unwrap(), "b 10.42.0.1");
    assert_eq!(network.node.ask("127.0.0.1:30080").unwrap(), "b 10.42.0.1", "node ports are on localhost, too");
    assert_eq!(network.a.ask("192.0.2.2:80").unwrap(), "outside 192.0.2.1", "pods leave with the node's address");
    assert_eq!(network.a.ask("10.42.0.3:8080").unwrap(), "b 10.42.0.2", "direct traffic is left alone");
}

#[test]
fn both_families_are_served_side_by_side() {
    let network = Network::new();
    let both = |pods: &[u8], sticky| {
        let mut all = rules(pods, sticky);
        all.frontends.extend(rules_of(Family::V6, pods, sticky).frontends);
        all
    };
    let (vip, node) = ("[fd00:43::9]:80", "[2001:db8::1]");
    let program = network.program(both(&[3], false));
    assert_eq!(network.a.ask(VIP).unwrap(), "b 10.42.0.2");
    assert_eq!(network.a.ask(vip).unwrap(), "b fd00:42::2", "a pod sees which pod asks");
    assert_eq!(network.b.ask(vip).unwrap(), "b fd00:42::1", "a pod reaches itself");
    assert_eq!(network.node.ask(vip).unwrap(), "b fd00:42::1", "the host reaches the cluster address");
    assert_eq!(network.outside.ask(&format!("{node}:30080")).unwrap(), "b fd00:42::1");
    assert_eq!(network.outside.ask(&format!("{node}:30081")).unwrap(), "b 2001:db8::2", "the client's address is kept");
    assert_eq!(network.a.ask(&format!("{node}:30080")).unwrap(), "b fd00:42::1");
    assert!(network.node.refused("[::1]:30080"));
    assert_eq!(network.a.ask("[2001:db8::2]:80").unwrap(), "outside 2001:db8::1", "pods leave with the node's address");
    assert_eq!(network.a.ask("[fd00:42::3]:8080").unwrap(), "b fd00:42::2", "direct traffic is left alone");
    let name = || network.node.ask(vip).unwrap().split(' ').next().unwrap().to_owned();
    let program = network.update(program, both(&[2], true));
    assert_eq!(name(), "a");
    let program = network.update(program, both(&[3, 2, 4, 5, 6, 7, 8, 9], true));
    for _ in 0..8 {
        assert_eq!(name(), "a", "the client keeps its endpoint");
    }
    network.node.list_by_nft();
    let program = network.update(program, both(&[3], true));
    assert_eq!(name(), "b", "one that is gone is not kept");
    let program = network.update(program, both(&[], false));
    assert!(network.a.refused(vip) && network.node.refused(vip) && network.a.refused(VIP));
    assert!(network.outside.refused(&format!("{node}:30080")));
    let mut guarded = rules_of(Family::V6, &[2], false);
    guarded.frontends.retain(|frontend, _| !frontend.is_node_port());
    guarded.frontends.values_mut().for_each(|target| target.sources = vec![range("2001:db8:1::/48")]);
    network.outside.ip("route add fd00:43::/112 via 2001:db8::1");
    network.update(program, guarded);
    assert_eq!(network.node.ask(vip).unwrap(), "a fd00:42::1", "the host itself is never kept out");
    let address: SocketAddr = vip.parse().unwrap();
    let silent = move || TcpStream::connect_timeout(&address, Duration::from_millis(300)).unwrap_err().kind();
    assert_eq!(network.outside.run(silent), io::ErrorKind::TimedOut);
}

#[test]
fn pods_that_the_network_outside_knows_keep_their_addresses() {
    let network = Network::new();
    network.outside.ip("route add fd00:42::/56 via 2001:db8::1");
    network.node.run(|| {
        sysctl::prepare(sysctl::Wanted { loopback: false, v4: true, v6: true });
        Program::replace(Base { routed_v6: true, ..base(false) }, Ruleset::default()).unwrap();
    });
    assert_eq!(network.a.ask("[2001:db8::2]:80").unwrap(), "outside fd00:42::2");
    assert_eq!(network.a.ask("192.0.2.2:80").unwrap(), "outside 192.0.2.1");
}

#[test]
fn connections_are_spread_and_changes_take_effect() {
    let network = Network::new();
    let program = network.program(rules(&[2, 3], false));
    let answers = |count| -> std::collections::BTreeSet<String> {
        (0..count).map(|_| network.node.ask(VIP).unwrap().split(' ').next().unwrap().to_owned()).collect()
    };
    assert_eq!(answers(60).len(), 2, "both get some");
    let program = network.update(program, rules(&[2], false));
    assert_eq!(answers(20), ["a".to_owned()].into());
    let program = network.update(program, rules(&[3, 2], true));
    assert_eq!(answers(20).len(), 1, "a client keeps its endpoint");
    let program = network.update(program, rules(&[3], true));
    assert_eq!(answers(5), ["b".to_owned()].into());
    network.update(program, Ruleset::default());
    // What is no Service is routed on, to somebody who has never heard of it.
    network.outside.ip("addr add 10.43.0.9/32 dev lo");
    network.outside.serve("nobody", "10.43.0.9:80");
    assert_eq!(answers(1), ["nobody".to_owned()].into());
}

#[test]
fn clients_keep_their_endpoint_for_a_time() {
    let network = Network::new();
    let with = |pods: &[u8], seconds| {
        let mut ruleset = rules(pods, true);
        ruleset.frontends.values_mut().for_each(|target| target.sticky = Some(seconds));
        ruleset
    };
    let name = || network.node.ask(VIP).unwrap().split(' ').next().unwrap().to_owned();
    let program = network.program(with(&[2], 600));
    assert_eq!(name(), "a");
    // The endpoint stays, though others come and the draw would be another.
    let program = network.update(program, with(&[3, 2, 4, 5, 6, 7, 8, 9], 600));
    for _ in 0..8 {
        assert_eq!(name(), "a");
    }
    let program = network.update(program, with(&[3], 600));
    assert_eq!(name(), "b", "one that is gone is not kept");
    let program = network.update(program, with(&[3, 2], 600));
    assert_eq!(name(), "b");
    // Forgotten after its time: what was remembered under a time of a second is drawn anew.
    let program = network.update(program, with(&[2], 1));
    assert_eq!(name(), "a");
    thread::sleep(Duration::from_millis(1_500));
    let program = network.update(program, with(&[3], 600));
    assert_eq!(name(), "b");
    // The new draw is one: it is not the same endpoint every time.
    network.update(program, with(&[3, 2], 1));
    let another = (0..40).any(|_| {
        thread::sleep(Duration::from_millis(1_500));
        name() == "a"
    });
    assert!(another, "a client comes to other endpoints in the end");
}

#[test]
fn guarded_addresses_let_in_whom_they_may_and_silence_is_kept() {
    let network = Network::new();
    let guarded = |sources: &[&str]| {
        let mut ruleset = rules(&[2], false);
        let (_, mut target) = ruleset.frontends.pop_first().unwrap();
        target.masquerade = Masquerade::Always;
        target.sources = sources.iter().map(|range| parse_cidr(range).unwrap()).collect();
        let address = "192.0.2.1".parse().unwrap();
        ruleset.frontends.insert(Frontend { address, protocol: Protocol::Tcp, port: 80 }, target);
        ruleset
    };
    let open = "192.0.2.1:80";
    let program = network.program(guarded(&["192.0.2.0/30"]));
    assert_eq!(network.outside.ask(open).unwrap(), "a 10.42.0.1");
    assert_eq!(network.node.ask(open).unwrap(), "a 10.42.0.1", "the host itself is never kept out");
    let program = network.update(program, guarded(&["198.51.100.0/24", "10.0.0.0/8"]));
    let address: SocketAddr = open.parse().unwrap();
    let silent = move || TcpStream::connect_timeout(&address, Duration::from_millis(300)).unwrap_err().kind();
    assert_eq!(network.outside.run(silent), io::ErrorKind::TimedOut);
    assert_eq!(network.b.ask(open).unwrap(), "a 10.42.0.1");
    let mut elsewhere = rules(&[], false);
    elsewhere.frontends.values_mut().for_each(|target| target.elsewhere = true);
    network.update(program, elsewhere);
    let address: SocketAddr = VIP.parse().unwrap();
    let silent = move || TcpStream::connect_timeout(&address, Duration::from_millis(300)).unwrap_err().kind();
    assert_eq!(network.a.run(silent), io::ErrorKind::TimedOut);
}

#[test]
fn a_policy_of_local_endpoints_is_for_those_outside() {
    let network = Network::new();
    let mut ruleset = rules(&[], false);
    ruleset.frontends.values_mut().for_each(|target| target.elsewhere = true);
    // Node port 30081, which has no endpoint here but one elsewhere.
    ruleset.inside = rules(&[3], false).frontends;
    ruleset.inside.retain(|frontend, _| frontend.port == 30_081);
    ruleset.inside.values_mut().for_each(|target| target.masquerade = Masquerade::Outside);
    network.program(ruleset);
    let port = "192.0.2.1:30081";
    assert_eq!(network.a.ask(port).unwrap(), "b 10.42.0.2");
    assert_eq!(network.node.ask(port).unwrap(), "b 10.42.0.1");
    let address: SocketAddr = port.parse().unwrap();
    let silent = move || TcpStream::connect_timeout(&address, Duration::from_millis(300)).unwrap_err().kind();
    assert_eq!(network.outside.run(silent), io::ErrorKind::TimedOut);
}

#[test]
fn udp_clients_are_led_away_from_endpoints_that_are_gone() {
    let network = Network::new();
    for (pod, name) in [(&network.a, "a"), (&network.b, "b")] {
        let socket = pod.run(|| std::net::UdpSocket::bind("[::]:8080").unwrap());
        thread::spawn(move || {
            let mut buffer = [0; 16];
            while let Ok((_, client)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(name.as_bytes(), client);
            }
        });
    }
    for (family, vip) in [(Family::V4, VIP), (Family::V6, "[fd00:43::9]:80")] {
        udp_clients_are_led_away(&network, family, vip);
    }
}

fn udp_clients_are_led_away(network: &Network, family: Family, vip: &str) {
    let udp = |pods: &[u8]| {
        let frontends = rules_of(family, pods, false).frontends.into_iter();
        let frontends = frontends.map(|(f, t)| (Frontend { protocol: Protocol::Udp, ..f }, t)).collect();
        Ruleset { frontends, ..Ruleset::default() }
    };
    let client = network.node.run(move || std::net::UdpSocket::bind((family.unspecified(), 0)).unwrap());
    client.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let client = std::sync::Arc::new(client);
    let ask = || -> Option<String> {
        let (client, mut buffer) = (client.clone(), [0; 16]);
        client.send_to(b"x", vip).unwrap();
        let length = client.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    let program = network.program(udp(&[2]));
    assert_eq!(ask().as_deref(), Some("a"));
    let program = network.update(program, udp(&[3]));
    assert_eq!(ask().as_deref(), Some("a"), "the kernel remembers the flow");
    let forgotten = {
        let (old, new) = (udp(&[2]), udp(&[3]));
        network.node.run(move || Stale::between(&old, &new).forget().unwrap())
    };
    assert_eq!(forgotten, 1);
    assert_eq!(ask().as_deref(), Some("b"));
    drop(program);
}

#[test]
fn services_without_endpoints_refuse() {
    let network = Network::new();
    let program = network.program(rules(&[], false));
    assert!(network.a.refused(VIP));
    assert!(network.node.refused(VIP));
    assert!(network.outside.refused("192.0.2.1:30080"));
    assert!(network.node.refused("192.0.2.1:30080"));
    let program = network.update(program, rules(&[2], false));
    assert_eq!(network.b.ask(VIP).unwrap(), "a 10.42.0.3");
    network.update(program, rules(&[], false));
    assert!(network.b.refused(VIP));
}

#[test]
fn a_host_without_a_default_route_reaches_services_too() {
    let network = Network::new();
    network.node.run(|| route::ensure(range(SERVICES)).unwrap());
    network.node.ip("route del default");
    network.program(rules(&[2], false));
    assert!(network.node.ask(VIP).is_err(), "the route was not needed, and not made");
    network.node.run(|| {
        route::ensure(range(SERVICES)).unwrap();
        route::ensure(range(SERVICES)).unwrap();
    });
    assert_eq!(network.node.ask(VIP).unwrap(), "a 10.42.0.1");
    assert_eq!(network.b.ask(VIP).unwrap(), "a 10.42.0.3");
    network.program(rules(&[], false));
    assert!(network.node.refused(VIP));
    network.node.run(|| {
        remove_table("naru").unwrap();
        remove_table("naru").unwrap();
    });
    assert!(network.node.ask(VIP).is_err_and(|error| error.kind() == io::ErrorKind::NetworkUnreachable));
    let (vip, services) = ("[fd00:43::9]:80", range("fd00:43::/112"));
    network.node.ip("-6 route del default");
    network.program(rules_of(Family::V6, &[2], false));
    assert!(network.node.ask(vip).is_err());
    network.node.run(move || {
        route::ensure(services).unwrap();
        route::ensure(services).unwrap();
    });
    assert!(network.node.ask(vip).unwrap().starts_with("a "));
    assert_eq!(network.b.ask(vip).unwrap(), "a fd00:42::3");
    network.node.run(|| remove_table("naru").unwrap());
    assert!(network.node.ask(vip).is_err_and(|error| error.kind() == io::ErrorKind::NetworkUnreachable));
}

#[test]
fn thousands_of_services_fit_into_one_batch() {
    let node = Namespace::new();
    let mut ruleset = Ruleset::default();
    for i in 0..5_000_u16 {
        let [high, low] = i.to_be_bytes();
        let backends = vec![
            Backend { address: [10, 42, high, low].into(), port: 80 },
            Backend { address: [10, 41, high, low].into(), port: 80 },
        ];
        let address = [10, 43, high, low].into();
        let (elsewhere, sources) = (false, Vec::new());
        let target = Target { backends, sticky: None, masquerade: Masquerade::Outside, elsewhere, sources };
        ruleset.frontends.insert(Frontend { address, protocol: Protocol::Udp, port: 53 }, target);
    }
    node.run(move || {
        let mut program = Program::replace(base(false), ruleset.clone()).unwrap();
        let last = *ruleset.frontends.last_key_value().unwrap().0;
        ruleset.frontends.remove(&last);
        program.update(ruleset.clone()).unwrap();
        program.update(ruleset).unwrap();
        assert_eq!(program.addresses().len(), 9_998);
    });
}

#[test]
fn a_refused_batch_changes_nothing_and_cleaning_up_leaves_nothing() {
    let node = Namespace::new();
    node.run(|| {
        let mut program = Program::replace(base(false), rules(&[2], false)).unwrap();
        program::remove("naru").unwrap();
        assert!(matches!(program.update(rules(&[3], false)), Err(Error::Refused(_))));
        program::remove("naru").unwrap();
        let mut gone = Batch::new("naru");
        gone.delete_table();
        assert!(matches!(gone.commit(), Err(Error::Refused(error)) if error.kind() == io::ErrorKind::NotFound));
    });
}

fn slice(pods: &[&str]) -> EndpointSliceView {
    let endpoints: Vec<Value> =
        pods.iter().map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}})).collect();
    serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "", "port": 8080}], "endpoints": endpoints,
    }))
    .unwrap()
}

#[test]
fn follows_the_informers_and_says_when_an_endpoint_is_out() {
    let network = Network::new();
    let (services, slices, nodes) = (Informer::detached(), Informer::detached(), Informer::detached());
    let service = json!({"metadata": {"namespace": "default", "name": "web"}, "spec": {"clusterIP": "10.43.0.9", "ports": [{"port": 80}]}});
    services.apply(ObjectKey::new("default", "web"), "1".to_owned(), Some(serde_json::from_value(service).unwrap()));
    let publish = {
        let slices = slices.clone();
        move |version: &str, pods: &[&str]| {
            slices.apply(ObjectKey::new("default", "web-1"), version.to_owned(), Some(slice(pods)))
        }
    };
    publish("1", &["10.42.0.2", "10.42.0.3"]);
    network.node.run(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let config = ProxyConfig {
                table: "naru".to_owned(),
                node_name: "node".to_owned(),
                cluster_cidrs: vec![range("10.42.0.0/16")],
                service_cidrs: vec![range(SERVICES)],
                routed_v6: false,
                localhost_node_ports: false,
                answered_here: Vec::new(),
            };
            let (sender, applied) = watch::channel(None);
            let (host_ports, of_ports) = watch::channel(BTreeMap::new());
            let (redirects, of_redirects) = watch::channel(BTreeMap::new());
            let metrics = Arc::<Metrics>::default();
            let (ports, to) = (Arc::new(host_ports), Arc::new(redirects));
            let proxy = Proxy { applied, host_ports: ports, redirects: to, metrics: metrics.clone() };
            let (host_ports, redirects) = (of_ports, of_redirects);
            let worker = Worker { services, slices, nodes, config, applied: sender, host_ports, redirects, metrics };
            let worker = naru_base::spawn("proxy", worker.follow());
            proxy.synced().await;
            let a = "10.42.0.2".parse().unwrap();
            assert!(!proxy.wait_dropped(a, Duration::from_millis(1)).await);
            publish("2", &["10.42.0.3"]);
            assert!(proxy.wait_dropped(a, WAIT).await);
            // The table goes without our being told: the next change puts it back.
            program::remove("naru").unwrap();
            publish("3", &["10.42.0.2"]);
            assert!(proxy.wait_dropped("10.42.0.3".parse().unwrap(), WAIT).await);
            // Somebody flushes it: it comes back without a change.
            let mut flush = Batch::new("naru");
            flush.delete_table();
            flush.commit_as_somebody_else().unwrap();
            assert!(!crate::nft::has_table("naru").unwrap());
            while !crate::nft::has_table("naru").unwrap() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            // A port that is another's leads to where we listen.
            let taken = Frontend { address: "10.43.0.10".parse().unwrap(), protocol: Protocol::Tcp, port: 53 };
            let b: IpAddr = "10.42.0.3".parse().unwrap();
            proxy.redirect([(taken, Backend { address: b, port: 8080 })]);
            let mut applied = proxy.applied.clone();
            applied.wait_for(|all| all.as_ref().is_some_and(|all| all.contains_key(&b))).await.unwrap();
            worker.abort();
        });
    });
    assert_eq!(network.b.ask(VIP).unwrap(), "a 10.42.0.3");
    assert_eq!(network.a.ask("10.43.0.10:53").unwrap(), "b 10.42.0.2");
}

#[test]
fn connections_outlive_the_table_and_its_return() {
    let network = Network::new();
    let listener = network.a.run(|| TcpListener::bind("10.42.0.2:9000").unwrap());
    let echo = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut byte = [0];
        while stream.read_exact(&mut byte).is_ok() {
            stream.write_all(&byte).unwrap();
        }
    });
    let mut to_9000 = rules(&[2], false);
    to_9000.frontends.values_mut().flat_map(|target| &mut target.backends).for_each(|backend| backend.port = 9000);
    let before = to_9000.clone();
    network.program(to_9000);
    let mut stream = network.outside.run(|| TcpStream::connect("192.0.2.1:30080").unwrap());
    stream.set_read_timeout(Some(WAIT)).unwrap();
    let mut still_there = || {
        let mut byte = [7];
        stream.write_all(&byte).unwrap();
        stream.read_exact(&mut byte).unwrap();
    };
    still_there();
    // A start after a crash: whole tables in place of those that are there.
    network.program(before.clone());
    still_there();
    // Another start, with the endpoint gone from the Service.
    network.program(rules(&[3], false));
    still_there();
    network.program(before);
    still_there();
    drop(stream);
    echo.join().unwrap();
}
