//! Tests with real namespaces: one serves as the host, others as pods.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

/// A network namespace that lives as long as this does.
struct Namespace {
    file: File,
    path: PathBuf,
}

impl Namespace {
    fn new() -> Self {
        let make = move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        };
        let file = std::thread::spawn(make).join().unwrap();
        let path = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file)));
        Self { file, path }
    }

    /// Runs something in the namespace, in a thread of its own.
    fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        };
        std::thread::scope(|scope| scope.spawn(inside).join().unwrap())
    }
}

/// Runs a test with a namespace as the host's.
fn with_host<F: Future<Output = ()>>(test: impl FnOnce(NetworkConfig) -> F + Send) {
    let host = Namespace::new();
    host.run(|| {
        let state = tempfile::tempdir().unwrap();
        let config = NetworkConfig {
            name: "pods".to_owned(),
            state_dir: state.path().to_owned(),
            pod_cidrs: vec!["10.77.0.0/24".to_owned()],
            mtu: None,
        };
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test(config));
    });
}

fn attachment(id: &str, namespace: &Namespace) -> Attachment {
    Attachment { container_id: id.to_owned(), netns: namespace.path.clone(), ifname: "eth0".to_owned() }
}

/// A server that greets once, in a namespace.
fn greet_at(namespace: &Namespace, address: IpAddr) -> SocketAddr {
    let listener = namespace.run(|| TcpListener::bind((address, 0)).unwrap());
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || listener.accept().unwrap().0.write_all(b"hello").unwrap());
    at
}

fn hear(at: SocketAddr) -> std::io::Result<(String, IpAddr)> {
    let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(5))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok((text, stream.local_addr()?.ip()))
}

#[test]
fn pods_and_the_host_reach_each_other() {
    with_host(async |config| {
        let (a, b) = (Namespace::new(), Namespace::new());
        let network = Network::open(config).await.unwrap();
        let host = Netlink::here().unwrap();
        host.up("lo").await.unwrap();
        let host_address: IpAddr = "192.0.2.1".parse().unwrap();
        host.add_address(host.index("lo").await.unwrap(), host_address).await.unwrap();
        let in_a = network.add(&attachment("a", &a)).await.unwrap().addresses().next().unwrap();
        let result = network.add(&attachment("b", &b)).await.unwrap();
        let in_b = result.addresses().next().unwrap();
        assert_ne!(in_a, in_b);
        assert_eq!(result.ips[0].address, format!("{in_b}/32"));
        assert_eq!((result.interfaces[1].name.as_str(), result.interfaces[1].mtu), ("eth0", Some(1500)));
        // Pod to pod with its own address, host to pod, pod to host, and the pod to itself.
        let at = greet_at(&b, in_b);
        assert_eq!(a.run(|| hear(at)).unwrap(), ("hello".to_owned(), in_a));
        let at = greet_at(&b, in_b);
        assert_eq!(hear(at).unwrap(), ("hello".to_owned(), host_address));
        let listener = TcpListener::bind((host_address, 0)).unwrap();
        let at = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || listener.accept().unwrap().0.write_all(b"host").unwrap());
        assert_eq!(a.run(|| hear(at)).unwrap(), ("host".to_owned(), in_a));
        server.join().unwrap();
        let at = greet_at(&a, "127.0.0.1".parse().unwrap());
        assert_eq!(a.run(|| hear(at)).unwrap().0, "hello");
    });
}

#[test]
fn attaching_and_detaching_can_be_repeated() {
    with_host(async |config| {
        let pod = Namespace::new();
        let network = Network::open(config.clone()).await.unwrap();
        let first = network.add(&attachment("a", &pod)).await.unwrap();
        // Also after a restart.
        let network = Network::open(config).await.unwrap();
        assert_eq!(network.add(&attachment("a", &pod)).await.unwrap(), first);
        network.check(&attachment("a", &pod)).await.unwrap();
        // Somebody took the route away: it is noticed, and another ADD repairs it.
        let host = Netlink::here().unwrap();
        host.delete(&first.interfaces[0].name).await.unwrap();
        let error = network.check(&attachment("a", &pod)).await.unwrap_err().to_string();
        assert!(error.contains("does not exist"), "{error}");
        network.add(&attachment("a", &pod)).await.unwrap();
        network.check(&attachment("a", &pod)).await.unwrap();
        for _ in 0..2 {
            network.del(&attachment("a", &pod)).await.unwrap();
        }
        assert!(network.result("a", "eth0").is_none());
        assert!(matches!(network.check(&attachment("a", &pod)).await, Err(CniError::Check(_))));
    });
}

#[test]
fn what_dead_pods_left_is_removed() {
    with_host(async |config| {
        let network = Network::open(config.clone()).await.unwrap();
        let kept = Namespace::new();
        network.add(&attachment("kept", &kept)).await.unwrap();
        let gone = {
            let pod = Namespace::new();
            network.add(&attachment("gone", &pod)).await.unwrap()
        };
        assert_eq!(std::fs::read_dir(config.state_dir.join("pods/results")).unwrap().count(), 2);
        network.retain(&HashSet::from(["kept".to_owned()])).await.unwrap();
        network.check(&attachment("kept", &kept)).await.unwrap();
        assert_eq!(std::fs::read_dir(config.state_dir.join("pods/results")).unwrap().count(), 1);
        assert!(Netlink::here().unwrap().index(&gone.interfaces[0].name).await.is_err());
        // A namespace that does not exist gets nothing, and keeps no address.
        let nowhere = Attachment { netns: PathBuf::from("/nowhere"), ..attachment("x", &kept) };
        let error = network.add(&nowhere).await.unwrap_err().to_string();
        assert!(error.starts_with("failed to open netns \"/nowhere\""), "{error}");
        let leases = std::fs::read_dir(config.state_dir.join("pods/leases")).unwrap();
        assert_eq!(leases.flatten().filter(|entry| entry.file_name().to_str().unwrap().starts_with("10.")).count(), 1);
    });
}

#[test]
fn both_address_families_work() {
    with_host(async |mut config| {
        config.pod_cidrs.push("fd77::/112".to_owned());
        config.mtu = Some(1400);
        let (a, b) = (Namespace::new(), Namespace::new());
        let network = Network::open(config).await.unwrap();
        let in_a: Vec<IpAddr> = network.add(&attachment("a", &a)).await.unwrap().addresses().collect();
        let result = network.add(&attachment("b", &b)).await.unwrap();
        assert_eq!(result.interfaces[0].mtu, Some(1400));
        for (i, address) in result.addresses().enumerate() {
            let at = greet_at(&b, address);
            assert_eq!(a.run(|| hear(at)).unwrap(), ("hello".to_owned(), in_a[i]));
        }
        network.check(&attachment("a", &a)).await.unwrap();
    });
}

#[test]
fn names_cannot_leave_the_directory() {
    for (id, ifname) in [("", "eth0"), ("../x", "eth0"), ("a", "../e"), ("a", "a-name-too-long-for-linux")] {
        let bad = Attachment { container_id: id.to_owned(), netns: PathBuf::new(), ifname: ifname.to_owned() };
        assert!(check_names(&bad).is_err(), "{id} {ifname}");
    }
}

#[test]
fn the_plugin_attaches_as_a_program_would() {
    let (host, pod) = (Namespace::new(), Namespace::new());
    let state = tempfile::tempdir().unwrap();
    let config = serde_json::json!({"cniVersion": "1.1.0", "name": "pods", "type": "ptp",
        "ipam": {"type": "host-local", "subnet": "10.78.0.0/24", "dataDir": state.path()}});
    let call = |command: &str| {
        host.run(|| {
            let variable = |name: &str| match name {
                "CNI_COMMAND" => Some(command.to_owned()),
                "CNI_CONTAINERID" => Some("a".to_owned()),
                "CNI_IFNAME" => Some("eth0".to_owned()),
                "CNI_NETNS" => Some(pod.path.display().to_string()),
                _ => None,
            };
            let mut output = Vec::new();
            crate::plugin_main("ptp", variable, config.to_string().as_bytes(), &mut output);
            String::from_utf8(output).unwrap()
        })
    };
    let result: serde_json::Value = serde_json::from_str(&call("ADD")).unwrap();
    assert_eq!(result["ips"][0]["address"], "10.78.0.2/32");
    assert_eq!(result["interfaces"][1]["sandbox"], pod.path.display().to_string());
    assert_eq!(call("CHECK"), "");
    assert_eq!(call("DEL"), "");
    assert!(call("CHECK").contains("a is not attached"));
}
