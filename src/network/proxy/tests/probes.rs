//! Services of all kinds, as the informers show them, probed by connections through a real kernel.

use super::*;

impl Namespace {
    /// The same from an address of this host's choice.
    fn ask_as(&self, source: &str, address: &str) -> io::Result<String> {
        let (source, address): (SocketAddr, SocketAddr) = (source.parse().unwrap(), address.parse().unwrap());
        self.run(move || {
            use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
            let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            bind(&socket, &source)?;
            connect(&socket, &address)?;
            let mut stream = TcpStream::from(socket);
            stream.set_read_timeout(Some(WAIT))?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })
    }

    /// Answers every datagram with a name and the client's address.
    fn serve_udp(&self, name: &'static str, address: &'static str) {
        let socket = self.run(move || std::net::UdpSocket::bind(address).unwrap());
        thread::spawn(move || {
            let mut buffer = [0; 16];
            while let Ok((_, client)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(format!("{name} {}", client.ip()).as_bytes(), client);
            }
        });
    }

    /// What is answered to a datagram.
    fn ask_udp(&self, address: &str) -> io::Result<String> {
        let address: SocketAddr = address.parse().unwrap();
        self.run(move || {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
            socket.set_read_timeout(Some(WAIT))?;
            socket.connect(address)?;
            socket.send(b"x")?;
            let mut buffer = [0; 64];
            let length = socket.recv(&mut buffer)?;
            Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
        })
    }
}

#[test]
fn ports_of_the_host_differ_by_address_and_protocol() {
    let network = Network::new();
    network.b.serve_udp("b", "10.42.0.3:8080");
    let port = |address: &str, protocol, last: u8| {
        let frontend = Frontend { address: address.parse().unwrap(), protocol, port: 54_323 };
        (frontend, Backend { address: [10, 42, 0, last].into(), port: 8080 })
    };
    let mut ruleset = Ruleset::default();
    ruleset.serve_ports(
        &[
            port("127.0.0.1", Protocol::Tcp, 2),
            port("192.0.2.1", Protocol::Tcp, 3),
            port("192.0.2.1", Protocol::Udp, 3),
        ]
        .into(),
    );
    network.program(ruleset);
    // As the conformance suite asks: from the host, with the host's own address.
    assert_eq!(network.node.ask_as("192.0.2.1:0", "127.0.0.1:54323").unwrap(), "a 192.0.2.1");
    assert_eq!(network.node.ask_as("192.0.2.1:0", "192.0.2.1:54323").unwrap(), "b 192.0.2.1");
    assert_eq!(network.node.ask_udp("192.0.2.1:54323").unwrap(), "b 192.0.2.1");
    assert_eq!(network.outside.ask("192.0.2.1:54323").unwrap(), "b 192.0.2.2");
    assert_eq!(network.a.ask("192.0.2.1:54323").unwrap(), "b 10.42.0.2");
}

/// A Service with endpoints `a` on this node and `b` on another, on TCP and UDP.
struct Probe {
    name: &'static str,
    spec: Value,
    status: Value,
    endpoints: Value,
}

fn probe(name: &'static str, address: &str, spec: Value) -> Probe {
    let ports = json!([
        {"name": "tcp", "port": 80, "protocol": "TCP"},
        {"name": "udp", "port": 80, "protocol": "UDP"},
    ]);
    let mut all = json!({"type": "ClusterIP", "clusterIP": address, "ports": ports});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let endpoints = json!([
        {"addresses": ["10.42.0.2"], "nodeName": "here", "conditions": {"ready": true}},
        {"addresses": ["10.42.0.3"], "nodeName": "there", "conditions": {"ready": true}},
    ]);
    Probe { name, spec: all, status: json!({}), endpoints }
}

/// Services of all kinds, and what is to be seen of each.
fn probes() -> Vec<Probe> {
    let node_ports = |tcp: u16, udp: u16| {
        json!([
            {"name": "tcp", "port": 80, "protocol": "TCP", "nodePort": tcp},
            {"name": "udp", "port": 80, "protocol": "UDP", "nodePort": udp},
        ])
    };
    let ending =
        |ip: &str| json!({"addresses": [ip], "conditions": {"ready": false, "serving": true, "terminating": true}});
    let balanced = |ip: &str, mode: &str| json!({"loadBalancer": {"ingress": [{"ip": ip, "ipMode": mode}]}});
    let mut all = vec![
        probe("plain", "10.43.0.20", json!({})),
        probe("inside", "10.43.0.21", json!({"internalTrafficPolicy": "Local"})),
        probe("outer", "10.43.0.22", json!({"externalIPs": ["198.51.100.9"]})),
        probe("ports", "10.43.0.23", json!({"type": "NodePort", "ports": node_ports(30090, 30090)})),
        probe(
            "local",
            "10.43.0.24",
            json!({"type": "NodePort", "externalTrafficPolicy": "Local", "ports": node_ports(30091, 30091), "healthCheckNodePort": 30092}),
        ),
        probe("balanced", "10.43.0.25", json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ["192.0.2.0/24"]})),
        probe("elsewhere", "10.43.0.26", json!({"type": "LoadBalancer"})),
        probe("ending", "10.43.0.27", json!({})),
        probe("published", "10.43.0.28", json!({"publishNotReadyAddresses": true})),
        probe("near", "10.43.0.29", json!({"trafficDistribution": "PreferSameZone"})),
        probe("nearest", "10.43.0.30", json!({"trafficDistribution": "PreferSameNode"})),
        probe("sticky", "10.43.0.31", json!({"sessionAffinity": "ClientIP"})),
        probe("none", "10.43.0.32", json!({})),
        probe("headless", "None", json!({})),
    ];
    for probe in &mut all {
        match probe.name {
            "balanced" => probe.status = balanced("198.51.100.11", "VIP"),
            "elsewhere" => probe.status = balanced("198.51.100.12", "Proxy"),
            "ending" => probe.endpoints = json!([ending("10.42.0.3")]),
            "published" => {
                probe.endpoints =
                    json!([{"addresses": ["10.42.0.3"], "conditions": {"ready": true, "serving": false}}]);
            }
            "near" | "nearest" => {
                let hints = |zone, node| match probe.name {
                    "near" => json!({"forZones": [{"name": zone}]}),
                    _ => json!({"forZones": [{"name": zone}], "forNodes": [{"name": node}]}),
                };
                let zone = if probe.name == "near" { "z2" } else { "z1" };
                probe.endpoints[0]["hints"] = hints("z1", "here");
                probe.endpoints[1]["hints"] = hints(zone, "there");
            }
            "none" => probe.endpoints = json!([]),
            _ => {}
        }
    }
    all
}

/// Runs a proxy in the node's namespace with these Services until `done`, which is given the proxy.
fn with_proxy(network: &Network, probes: Vec<Probe>, done: std::sync::mpsc::Receiver<()>) -> mpsc::Receiver<()> {
    let (ready, is_ready) = mpsc::sync_channel(1);
    let job = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let is_up = ready.clone();
        runtime.block_on(async move {
            let (services, slices, nodes) = (Informer::detached(), Informer::detached(), Informer::detached());
            let node = json!({"metadata": {"name": "here", "labels": {ZONE: "z1"}}});
            nodes.apply(ObjectKey::new("", "here"), "1".to_owned(), Some(serde_json::from_value(node).unwrap()));
            for Probe { name, spec, status, endpoints } in probes {
                let service = json!({"metadata": {"namespace": "default", "name": name}, "spec": spec, "status": status});
                let service = serde_json::from_value(service).unwrap();
                services.apply(ObjectKey::new("default", name), "1".to_owned(), Some(service));
                let slice = json!({
                    "metadata": {"namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": name}},
                    "addressType": "IPv4", "endpoints": endpoints,
                    "ports": [{"name": "tcp", "port": 8080, "protocol": "TCP"}, {"name": "udp", "port": 8080, "protocol": "UDP"}],
                });
                let slice = serde_json::from_value(slice).unwrap();
                slices.apply(ObjectKey::new("default", name), "1".to_owned(), Some(slice));
            }
            services.mark_synced();
            slices.mark_synced();
            nodes.mark_synced();
            let config = ProxyConfig {
                table: "naru".to_owned(),
                node_name: "here".to_owned(),
                cluster_cidrs: vec![range("10.42.0.0/16")],
                service_cidrs: vec![range(SERVICES)],
                routed_v6: false,
                localhost_node_ports: false,
                answered_here: Vec::new(),
            };
            let shutdown = naru_base::Shutdown::new();
            let proxy = Proxy::start(services, slices, nodes, config, &shutdown);
            proxy.synced().await;
            is_up.send(()).unwrap();
            tokio::task::spawn_blocking(move || done.recv()).await.unwrap().unwrap();
            shutdown.trigger();
        });
        remove_table("naru").unwrap();
        assert!(!crate::nft::has_table("naru").unwrap());
        ready.send(()).unwrap();
    };
    network.node.jobs.send(Box::new(job)).unwrap();
    is_ready
}

#[test]
fn every_kind_of_service_is_probed() {
    let network = Network::new();
    network.a.serve_udp("a", "10.42.0.2:8080");
    network.b.serve_udp("b", "10.42.0.3:8080");
    network.outside.ip("route add 198.51.100.0/24 via 192.0.2.1");
    network.outside.ip("route add 10.43.0.0/16 via 192.0.2.1");
    network.node.ip("route add unreachable 198.51.100.12/32");
    let (finish, done) = mpsc::sync_channel(1);
    let events = with_proxy(&network, probes(), done);
    events.recv().unwrap();
    // Who answers by TCP and by UDP when a pod or the client outside asks so often that each endpoint would.
    let by_protocol = |from: &Namespace, address: &str| -> (String, String) {
        let names = |ask: &dyn Fn() -> io::Result<String>| -> String {
            let all: std::collections::BTreeSet<String> = (0..24)
                .map(|_| ask().map_or_else(|error| format!("{:?}", error.kind()), |text| text[..1].to_owned()))
                .collect();
            all.into_iter().collect::<Vec<_>>().join("")
        };
        (names(&|| from.ask(address)), names(&|| from.ask_udp(address)))
    };
    let answers = |from: &Namespace, address: &str| -> String {
        let (tcp, udp) = by_protocol(from, address);
        assert_eq!(tcp, udp, "{address}: both protocols are treated alike");
        tcp
    };
    for (what, address, expected) in [
        ("a plain Service is spread", "10.43.0.20:80", "ab"),
        ("a policy of local endpoints", "10.43.0.21:80", "a"),
        ("an external address from inside", "198.51.100.9:80", "ab"),
        ("a node port from inside", "192.0.2.1:30090", "ab"),
        ("an external policy is for those outside", "192.0.2.1:30091", "ab"),
        ("a balancer's address from inside", "10.43.0.25:80", "ab"),
        ("endpoints that end serve when there are no others", "10.43.0.27:80", "b"),
        ("unready endpoints that are published", "10.43.0.28:80", "b"),
        ("endpoints of the same zone", "10.43.0.29:80", "a"),
        ("endpoints of the same node", "10.43.0.30:80", "a"),
    ] {
        assert_eq!(answers(&network.a, address), expected, "{what}");
    }
    // Each port of a Service remembers for itself.
    let (tcp, udp) = by_protocol(&network.a, "10.43.0.31:80");
    assert!(tcp.len() == 1 && udp.len() == 1, "a client keeps its endpoint: {tcp} {udp}");
    assert!(network.a.refused("10.43.0.32:80"), "without endpoints");
    // The kernel sends only some of such answers.
    let refused = network.a.run(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        socket.connect("10.43.0.32:80").unwrap();
        let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
        (0..120).any(|_| socket.send(b"x").is_err_and(refused) || socket.recv(&mut [0; 8]).is_err_and(refused))
    });
    assert!(refused, "without endpoints");
    for (what, address, expected) in [
        ("an external address", "198.51.100.9:80", "ab"),
        ("a node port", "192.0.2.1:30090", "ab"),
        ("a node port with local endpoints", "192.0.2.1:30091", "a"),
        ("a balancer's address", "198.51.100.11:80", "ab"),
    ] {
        assert_eq!(answers(&network.outside, address), expected, "{what}");
    }
    assert_eq!(network.outside.ask("192.0.2.1:30091").unwrap(), "a 192.0.2.2", "the client's address is kept");
    assert_eq!(network.outside.ask_udp("192.0.2.1:30091").unwrap(), "a 192.0.2.2");
    assert_ne!(network.outside.ask("192.0.2.1:30090").unwrap(), "a 192.0.2.2");
    assert!(network.outside.ask("198.51.100.12:80").is_err(), "an address that somebody else balances is left to them");
    // A balancer asks whether the node has endpoints of its own.
    let page = network.outside.run(|| {
        let mut stream = TcpStream::connect("192.0.2.1:30092").unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        page
    });
    assert!(page.starts_with("HTTP/1.1 200 OK") && page.contains("\"localEndpoints\":1"), "{page}");
    finish.send(()).unwrap();
    events.recv().unwrap();
}

/// Runs a script in the namespace of this thread.
fn script(name: &str, arguments: &str) -> std::process::Child {
    let script = format!(concat!(env!("CARGO_MANIFEST_DIR"), "/proxy/tests/{}"), name);
    #[allow(clippy::disallowed_methods, reason = "tests speak by a script what the standard library does not")]
    let command =
        Command::new("python3").arg(script).args(arguments.split(' ')).stdout(std::process::Stdio::piped()).spawn();
    command.unwrap()
}

/// Runs the script that speaks SCTP.
fn sctp(arguments: &str) -> std::process::Child {
    script("sctp.py", arguments)
}

#[test]
fn what_fits_no_connection_does_not_reach_the_client() {
    let network = Network::new();
    network.program(rules(&[3], false));
    let connection = network.a.run(|| TcpStream::connect(VIP).unwrap());
    let port = connection.local_addr().unwrap().port();
    let mut listener = network.a.run(|| script("invalid.py", "listen 10.42.0.3"));
    let mut said = io::BufReader::new(listener.stdout.take().unwrap());
    let mut line = String::new();
    io::BufRead::read_line(&mut said, &mut line).unwrap();
    assert_eq!(line, "ready\n");
    let sender = network.b.run(move || script("invalid.py", &format!("send 10.42.0.3 8080 10.42.0.2 {port}")));
    assert!(sender.wait_with_output().unwrap().status.success());
    line.clear();
    io::BufRead::read_line(&mut said, &mut line).unwrap();
    assert!(listener.wait().unwrap().success());
    // One of the three might by chance be what the connection waits for.
    assert!(line.trim().parse::<u32>().unwrap() <= 1, "{line} with the endpoint's own address");
}

#[test]
fn associations_of_sctp_reach_the_endpoints() {
    let network = Network::new();
    if !network.node.run(kernel_carries_sctp) {
        // Such a kernel lets the packets through as they are, and the proxy says so.
        return;
    }
    let mut ruleset = rules(&[3], false);
    let frontends = std::mem::take(&mut ruleset.frontends).into_iter();
    ruleset.frontends = frontends.map(|(f, target)| (Frontend { protocol: Protocol::Sctp, ..f }, target)).collect();
    network.program(ruleset);
    for (from, host, port, seen) in [
        (&network.a, "10.43.0.9", 80, "10.42.0.2 8080"),
        (&network.node, "10.43.0.9", 80, "10.42.0.1 8080"),
        (&network.outside, "192.0.2.1", 30080, "10.42.0.1 8080"),
        (&network.outside, "192.0.2.1", 30081, "192.0.2.2 8080"),
    ] {
        let mut server = network.b.run(|| sctp("serve"));
        let mut output = io::BufReader::new(server.stdout.take().unwrap());
        let mut line = String::new();
        io::BufRead::read_line(&mut output, &mut line).unwrap();
        assert_eq!(line, "ready\n");
        let arguments = format!("ask {host} {port}");
        let answer = from.run(move || sctp(&arguments).wait_with_output().unwrap());
        assert_eq!(String::from_utf8_lossy(&answer.stdout), format!("{host} {port} 5555\n"));
        line.clear();
        io::BufRead::read_line(&mut output, &mut line).unwrap();
        assert_eq!(line, format!("{seen}\n"));
        server.wait().unwrap();
    }
}
