//! Questions and answers: the specification's table, forwarding between two servers on loopback addresses.

#![allow(clippy::unwrap_used, reason = "tests")]

use super::cache::Key;
use super::forward::exchange;
use super::listen::Sockets;
use super::overrides::DnsConfigMap;
use super::resolver::{Resolver, Step, datagram};
use super::zone::{Sources, Zone, absolute};
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Record, RecordType};
use naru_base::Shutdown;
use naru_client::{Informer, ObjectKey};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

fn put<P: DeserializeOwned + Send + Sync + 'static>(
    informer: &Informer<P>,
    namespace: &str,
    name: &str,
    mut object: Value,
) {
    object["metadata"]["namespace"] = namespace.into();
    object["metadata"]["name"] = name.into();
    informer.apply(ObjectKey::new(namespace, name), String::new(), Some(serde_json::from_value(object).unwrap()));
}

fn empty() -> Sources {
    let sources = Sources {
        services: Informer::detached(),
        slices: Informer::detached(),
        namespaces: Informer::detached(),
        nodes: Informer::detached(),
    };
    sources.services.mark_synced();
    sources.slices.mark_synced();
    sources.namespaces.mark_synced();
    sources.nodes.mark_synced();
    sources
}

/// A cluster with one of each.
fn cluster() -> Sources {
    let sources = empty();
    put(&sources.namespaces, "", "ns", json!({}));
    let node = json!({"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.10"}]}});
    put(&sources.nodes, "", "node-a", node);
    let ports =
        json!([{"name": "http", "port": 80, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
    let web = json!({"spec": {"type": "ClusterIP", "clusterIP": "10.43.0.9", "clusterIPs": ["10.43.0.9", "fd00::9"], "ports": ports}});
    put(&sources.services, "ns", "web", web);
    put(&sources.services, "ns", "db", json!({"spec": {"type": "ClusterIP", "clusterIP": "None", "ports": ports}}));
    put(&sources.services, "ns", "idle", json!({"spec": {"type": "ClusterIP", "clusterIP": "None"}}));
    put(&sources.services, "ns", "far", json!({"spec": {"type": "ExternalName", "externalName": "far.example.org"}}));
    put(
        &sources.services,
        "ns",
        "near",
        json!({"spec": {"type": "ExternalName", "externalName": "web.ns.svc.cluster.local"}}),
    );
    put(
        &sources.services,
        "ns",
        "me",
        json!({"spec": {"type": "ExternalName", "externalName": "me.ns.svc.cluster.local"}}),
    );
    let slice = json!({
        "metadata": {"labels": {"kubernetes.io/service-name": "db", "service.kubernetes.io/headless": ""}},
        "addressType": "IPv4",
        "endpoints": [
            {"addresses": ["10.42.0.3"], "hostname": "db-0"},
            {"addresses": ["10.42.0.4"], "conditions": {"ready": true}},
            {"addresses": ["10.42.0.5"], "hostname": "db-2", "conditions": {"ready": false}},
        ],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    });
    put(&sources.slices, "ns", "db-1", slice);
    sources
}

/// Somebody who is no pod.
const NOBODY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 99));

fn resolver(sources: Sources, resolv_conf: &str) -> Resolver {
    let own: Vec<IpAddr> = vec!["10.43.0.10".parse().unwrap()];
    let zone = Zone::new(sources, absolute("cluster.local").unwrap(), own.clone());
    let pods = [("10.42.0.9", "ns"), ("127.0.0.1", "ns")].map(|(ip, ns)| (ip.parse().unwrap(), ns.to_owned()));
    let (_, namespaces) = tokio::sync::watch::channel(Arc::new(pods.into()));
    Resolver::new(zone, own, PathBuf::from(resolv_conf), namespaces)
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.add_query(Query::query(absolute(name).unwrap(), kind));
    message.to_vec().unwrap()
}

fn answer(resolver: &Resolver, name: &str, kind: RecordType) -> Option<Message> {
    answer_to(resolver, NOBODY, name, kind)
}

fn answer_to(resolver: &Resolver, client: IpAddr, name: &str, kind: RecordType) -> Option<Message> {
    match resolver.begin(&question(name, kind), client).0 {
        Step::Reply(message) => Some(*message),
        _ => None,
    }
}

fn text(records: &[Record]) -> Vec<String> {
    let mut lines: Vec<String> =
        records.iter().map(|record| format!("{} {}", record.record_type(), record.data)).collect();
    lines.sort();
    lines
}

/// What is answered: the code if it is not NOERROR, and the records; `elsewhere` if others must be asked.
fn check(name: &str, kind: RecordType, expected: &[&str]) {
    let resolver = resolver(cluster(), "/nonexistent");
    let lines = match answer(&resolver, name, kind) {
        None => vec!["elsewhere".to_owned()],
        Some(message) if message.metadata.response_code == ResponseCode::NoError => text(&message.answers),
        Some(message) => {
            assert_eq!(message.answers, []);
            assert_eq!(text(&message.authorities).len(), 1, "an absence has an authority");
            vec![message.metadata.response_code.to_str().to_owned()]
        }
    };
    assert_eq!(lines, expected, "{name} {kind}");
}

const NO_NAME: &[&str] = &["Non-Existent Domain"];

#[test]
fn services_with_an_address() {
    use RecordType::{A, AAAA, MX, SRV};
    check("web.ns.svc.cluster.local", A, &["A 10.43.0.9"]);
    check("WEB.ns.SVC.Cluster.Local", A, &["A 10.43.0.9"]);
    check("web.ns.svc.cluster.local", AAAA, &["AAAA fd00::9"]);
    check("web.ns.svc.cluster.local", MX, &[]);
    check("_http._tcp.web.ns.svc.cluster.local", SRV, &["SRV 0 100 80 web.ns.svc.cluster.local."]);
    check("_http._tcp.web.ns.svc.cluster.local", A, &[]);
    check("_tcp.web.ns.svc.cluster.local", SRV, &[]);
    check("_http._udp.web.ns.svc.cluster.local", SRV, NO_NAME);
    check(
        "web.ns.svc.cluster.local",
        SRV,
        &["SRV 0 50 53 web.ns.svc.cluster.local.", "SRV 0 50 80 web.ns.svc.cluster.local."],
    );
    check("nothing.ns.svc.cluster.local", A, NO_NAME);
    check("x.web.ns.svc.cluster.local", A, NO_NAME);
}

#[test]
fn headless_services() {
    use RecordType::{A, AAAA, SRV};
    check("db.ns.svc.cluster.local", A, &["A 10.42.0.3", "A 10.42.0.4"]);
    check("db.ns.svc.cluster.local", AAAA, &[]);
    check("db-0.db.ns.svc.cluster.local", A, &["A 10.42.0.3"]);
    check("10-42-0-4.db.ns.svc.cluster.local", A, &["A 10.42.0.4"]);
    check("db-2.db.ns.svc.cluster.local", A, NO_NAME);
    check(
        "_http._tcp.db.ns.svc.cluster.local",
        SRV,
        &["SRV 0 50 8080 10-42-0-4.db.ns.svc.cluster.local.", "SRV 0 50 8080 db-0.db.ns.svc.cluster.local."],
    );
    check("idle.ns.svc.cluster.local", A, NO_NAME);
}

#[test]
fn the_target_of_a_port_comes_with_its_addresses() {
    let resolver = resolver(cluster(), "/nonexistent");
    let message = answer(&resolver, "_http._tcp.db.ns.svc.cluster.local", RecordType::SRV).unwrap();
    assert_eq!(text(&message.additionals), ["A 10.42.0.3", "A 10.42.0.4"]);
}

#[test]
fn other_names_of_the_cluster() {
    use RecordType::{A, AAAA, NS, PTR, SOA, TXT};
    check("dns-version.cluster.local", TXT, &["TXT 1.1.0"]);
    check("10-42-0-3.ns.pod.cluster.local", A, &["A 10.42.0.3"]);
    check("fd00--3.ns.pod.cluster.local", AAAA, &["AAAA fd00::3"]);
    check("10-42-0-3.absent.pod.cluster.local", A, NO_NAME);
    check("ns.svc.cluster.local", A, &[]);
    check("absent.svc.cluster.local", A, NO_NAME);
    check("cluster.local", A, &[]);
    check("cluster.local", NS, &["NS ns.dns.cluster.local."]);
    check("ns.dns.cluster.local", A, &["A 10.43.0.10"]);
    check("cluster.local", SOA, &["SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5"]);
    check("node-a", A, &["A 192.0.2.10"]);
    check("9.0.43.10.in-addr.arpa", PTR, &["PTR web.ns.svc.cluster.local."]);
    check(&format!("9.{}d.f.ip6.arpa", "0.".repeat(29)), PTR, &["PTR web.ns.svc.cluster.local."]);
    check("3.0.42.10.in-addr.arpa", PTR, &["PTR db-0.db.ns.svc.cluster.local."]);
    check("8.0.43.10.in-addr.arpa", PTR, &["elsewhere"]);
    check("example.org", A, &["elsewhere"]);
}

#[test]
fn external_names_are_aliases() {
    use RecordType::{A, CNAME};
    check("far.ns.svc.cluster.local", A, &["elsewhere"]);
    check("far.ns.svc.cluster.local", CNAME, &["CNAME far.example.org."]);
    check("near.ns.svc.cluster.local", A, &["A 10.43.0.9", "CNAME web.ns.svc.cluster.local."]);
    let resolver = resolver(cluster(), "/nonexistent");
    let circle = answer(&resolver, "me.ns.svc.cluster.local", A).unwrap();
    assert_eq!(circle.metadata.response_code, ResponseCode::ServFail);
}

#[test]
fn what_is_no_question_is_refused_by_its_code() {
    let resolver = resolver(cluster(), "/nonexistent");
    let code = |bytes: &[u8]| match resolver.begin(bytes, NOBODY).0 {
        Step::Reply(message) => Some(message.metadata.response_code),
        _ => None,
    };
    assert_eq!(code(&[]), None);
    assert_eq!(code(&[0; 11]), None);
    assert_eq!(code(&[0, 7, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0xff]), Some(ResponseCode::FormErr));
    assert_eq!(code(&Message::query().to_vec().unwrap()), Some(ResponseCode::FormErr));
    assert_eq!(code(&question("cluster.local", RecordType::AXFR)), Some(ResponseCode::Refused));
    assert_eq!(code(&question("cluster.local", RecordType::ANY)), Some(ResponseCode::NotImp));
    let mut response = Message::query().into_response();
    response.add_query(Query::query(absolute("web.ns.svc.cluster.local").unwrap(), RecordType::A));
    assert_eq!(code(&response.to_vec().unwrap()), None);
}

#[test]
fn nothing_is_said_not_to_exist_before_the_caches_are_filled() {
    let sources = Sources { nodes: Informer::detached(), ..empty() };
    let resolver = resolver(sources, "/nonexistent");
    for name in ["web.ns.svc.cluster.local", "node-a", "9.0.43.10.in-addr.arpa"] {
        let message = answer(&resolver, name, RecordType::A).unwrap();
        assert_eq!(message.metadata.response_code, ResponseCode::ServFail, "{name}");
    }
    assert!(answer(&resolver, "www.example.org", RecordType::A).is_none(), "others know");
}

#[test]
fn a_long_answer_is_cut_to_the_datagram_with_a_sign() {
    let sources = cluster();
    let endpoints: Vec<Value> = (0..200).map(|n| json!({"addresses": [format!("10.42.1.{n}")]})).collect();
    let labels = json!({"kubernetes.io/service-name": "db", "service.kubernetes.io/headless": ""});
    put(&sources.slices, "ns", "db-2", json!({"metadata": {"labels": labels}, "endpoints": endpoints}));
    let message = answer(&resolver(sources, "/nonexistent"), "db.ns.svc.cluster.local", RecordType::A).unwrap();
    assert_eq!(message.answers.len(), 202);
    for (size, limit) in [(None, 512), (Some(100), 512), (Some(1232), 1232), (Some(65_000), 1232)] {
        let bytes = datagram(size, message.clone()).unwrap();
        let cut = Message::from_vec(&bytes).unwrap();
        assert!(bytes.len() <= limit && cut.metadata.truncation && cut.answers.len() > 10);
    }
}

/// A server on a loopback address of its own.
async fn serve(address: &str, resolver: Resolver, shutdown: &Shutdown) -> (Arc<Resolver>, SocketAddr) {
    let address: IpAddr = address.parse().unwrap();
    let sockets = Sockets::bind(address, 0).await.unwrap();
    let place = sockets.place().unwrap();
    let resolver = Arc::new(resolver);
    sockets.serve(&resolver, shutdown);
    (resolver, place)
}

async fn ask(place: SocketAddr, name: &str) -> (ResponseCode, Vec<String>) {
    let key = Key { name: absolute(name).unwrap(), kind: RecordType::A, dnssec: false };
    let answer = exchange(place, &key).await.unwrap();
    (answer.code, text(&answer.answers))
}

#[test]
fn a_pod_gets_at_once_what_its_search_list_leads_to() {
    use RecordType::{A, AAAA, SRV};
    let resolver = resolver(cluster(), "/nonexistent");
    let pod: IpAddr = "10.42.0.9".parse().unwrap();
    let lines = |name: &str, kind| answer_to(&resolver, pod, name, kind).map(|message| text(&message.answers));
    let found = |lines: &[&str]| Some(lines.iter().map(ToString::to_string).collect::<Vec<_>>());
    let web = "CNAME web.ns.svc.cluster.local.";
    assert_eq!(lines("web.ns.ns.svc.cluster.local", A), found(&["A 10.43.0.9", web]));
    assert_eq!(lines("web.ns.ns.svc.cluster.local", AAAA), found(&["AAAA fd00::9", web]));
    assert_eq!(lines("web.ns.svc.ns.svc.cluster.local", A), found(&["A 10.43.0.9", web]));
    assert_eq!(lines("node-a.ns.svc.cluster.local", A), found(&["A 192.0.2.10", "CNAME node-a."]));
    let near = "CNAME near.ns.svc.cluster.local.";
    assert_eq!(lines("near.ns.ns.svc.cluster.local", A), found(&["A 10.43.0.9", near, web]));
    // What only others know is asked there, once.
    assert_eq!(lines("www.example.org.ns.svc.cluster.local", A), None);
    // Other types, other namespaces and whoever is no pod get what the name says.
    assert_eq!(lines("web.ns.ns.svc.cluster.local", SRV), found(&[]));
    assert_eq!(lines("web.ns.other.svc.cluster.local", A), found(&[]));
    let message = answer(&resolver, "web.ns.ns.svc.cluster.local", A).unwrap();
    assert_eq!(message.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn a_search_goes_through_the_nodes_domains_without_the_client() {
    let shutdown = Shutdown::new();
    let far = resolver(empty(), "/nonexistent");
    far.configure(Some(&settings(json!({ "hosts": "192.0.2.7 www.example.org\n192.0.2.8 nas.lan" }))));
    let (far_resolver, far) = serve("127.0.0.1", far, &shutdown).await;
    let dir = std::env::temp_dir().join(format!("naru-dns-{}", std::process::id()));
    std::fs::write(&dir, "search lan\n").unwrap();
    let near = resolver(cluster(), dir.to_str().unwrap());
    near.configure(Some(&settings(json!({ "upstreamNameservers": format!("[\"{far}\"]") }))));
    let (_, near) = serve("127.0.0.1", near, &shutdown).await;
    let nas = (ResponseCode::NoError, vec!["A 192.0.2.8".to_owned(), "CNAME nas.lan.".to_owned()]);
    assert_eq!(ask(near, "nas.ns.svc.cluster.local").await, nas);
    // The far one has no answer for what it does not know, so that the search ends there: the client goes on.
    assert_eq!(ask(near, "www.example.org.ns.svc.cluster.local").await.0, ResponseCode::NXDomain);
    assert_eq!(ask(near, "www.example.org").await.0, ResponseCode::NoError);
    assert!(far_resolver.metrics.render(0).contains("coredns_dns_requests_total"));
    std::fs::remove_file(dir).unwrap();
    shutdown.trigger();
}

#[tokio::test]
async fn metrics_have_the_names_that_dashboards_know() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let shutdown = Shutdown::new();
    let (_, place) = serve("127.0.0.53", resolver(cluster(), "/nonexistent"), &shutdown).await;
    assert_eq!(ask(place, "web.ns.svc.cluster.local").await.1, ["A 10.43.0.9"]);
    let get = |path: &'static str| async move {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.53", 9153)).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).await.unwrap();
        page
    };
    let page = get("/metrics").await;
    for line in [
        "coredns_dns_requests_total{server=\"dns://:53\",zone=\".\",view=\"\",proto=\"udp\",family=\"1\",type=\"A\"} 1",
        "coredns_dns_responses_total{server=\"dns://:53\",zone=\".\",view=\"\",rcode=\"NOERROR\",plugin=\"\"} 1",
        "coredns_dns_response_size_bytes_count{server=\"dns://:53\",zone=\".\",view=\"\",proto=\"udp\"} 1",
        "coredns_cache_hits_total{server=\"dns://:53\",zones=\".\",view=\"\"} 0",
    ] {
        assert!(page.contains(line), "{line}\n{page}");
    }
    assert!(get("/").await.starts_with("HTTP/1.1 404 Not Found\r\n"));
    shutdown.trigger();
}

fn settings(data: Value) -> DnsConfigMap {
    serde_json::from_value(json!({ "data": data })).unwrap()
}

#[tokio::test]
async fn foreign_names_are_asked_elsewhere_remembered_and_kept_when_nobody_answers() {
    let shutdown = Shutdown::new();
    let stop_far = shutdown.child();
    let far = resolver(empty(), "/nonexistent");
    let many: String = (0..100).map(|n| format!("192.0.2.{n} many.example.org\n")).collect();
    far.configure(Some(&settings(json!({ "hosts": format!("192.0.2.7 far.example.org\n{many}") }))));
    let (_, far) = serve("127.0.0.1", far, &stop_far).await;
    let near = resolver(cluster(), "/nonexistent");
    near.configure(Some(&settings(json!({ "upstreamNameservers": format!("[\"{far}\"]") }))));
    let (_, near) = serve("127.0.0.1", near, &shutdown).await;

    let expected = (ResponseCode::NoError, vec!["A 192.0.2.7".to_owned(), "CNAME far.example.org.".to_owned()]);
    assert_eq!(ask(near, "far.ns.svc.cluster.local").await, expected);
    // Too long for a datagram: asked again by TCP, both from us and by us.
    assert_eq!(ask(near, "many.example.org").await.1.len(), 100);
    let (code, none) = ask(near, "absent.example.org").await;
    assert_eq!((code, none.len()), (ResponseCode::ServFail, 0));
    stop_far.trigger();
    assert_eq!(ask(near, "far.ns.svc.cluster.local").await, expected);
    shutdown.trigger();
}

#[tokio::test]
async fn a_resolver_that_asks_us_is_found_and_left_out() {
    let shutdown = Shutdown::new();
    let (first, here) = serve("127.0.0.1", resolver(cluster(), "/nonexistent"), &shutdown).await;
    let there = resolver(empty(), "/nonexistent");
    there.configure(Some(&settings(json!({ "upstreamNameservers": format!("[\"{here}\"]") }))));
    let (_, there) = serve("127.0.0.1", there, &shutdown).await;
    first.configure(Some(&settings(json!({ "upstreamNameservers": format!("[\"{there}\"]") }))));
    first.find_loops().await;
    let returned = first.metrics.probes_returned();
    assert!(returned > 0);
    let (code, _) = ask(here, "example.org").await;
    assert_eq!(code, ResponseCode::ServFail);
    assert_eq!(first.metrics.probes_returned(), returned);
    shutdown.trigger();
}
