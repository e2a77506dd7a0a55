//! Requests that are passed on to pods, services and nodes, and what is said before a stream begins.

use super::{Answer, PODS, Server, admin, pod};
use crate::authn::User;
use crate::dialer::{Destination, Dialer, Stream};
use crate::response::Reply;
use futures::future::BoxFuture;
use http::{HeaderMap, Method};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const POD_IP: &str = "10.42.0.5";

/// Leads to one backend, by whatever address of the pod's port 8080; nothing else listens.
#[derive(Debug)]
struct ToBackend(u16);

impl Dialer for ToBackend {
    fn dial(&self, to: Destination) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        let port = self.0;
        Box::pin(async move {
            assert_eq!((to.address.to_string().as_str(), to.node.as_deref()), (POD_IP, Some("n1")));
            if to.port != 8080 {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            Ok(Box::new(TcpStream::connect(("127.0.0.1", port)).await?) as Box<dyn Stream>)
        })
    }
}

/// Answers with the request itself, a page or a redirection.
async fn backend() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    naru_base::spawn("backend", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            loop {
                let length = stream.read(&mut buffer).await.unwrap();
                request.extend_from_slice(&buffer[..length]);
                let text = String::from_utf8_lossy(&request).into_owned();
                if length == 0
                    || text.ends_with("the end")
                    || (text.ends_with("\r\n\r\n") && !text.contains("content-length: 7"))
                {
                    break;
                }
            }
            let text = String::from_utf8_lossy(&request).into_owned();
            if text.contains("upgrade: websocket") {
                naru_base::spawn("echo", echo(stream, text));
                continue;
            }
            let (more, body) = match text.split(' ').nth(1).unwrap_or_default() {
                "/page" => ("Content-Type: text/html\r\n", "<a href=\"/x\">x</a>".to_owned()),
                "/moved" => ("Location: /elsewhere\r\nAccess-Control-Allow-Origin: *\r\n", String::new()),
                _ => ("Content-Type: text/plain\r\n", text),
            };
            let answer = format!("HTTP/1.1 200 OK\r\n{more}Content-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    port
}

/// Switches protocols, gives the request's head back and then whatever comes.
async fn echo(mut stream: TcpStream, head: String) {
    let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    stream.write_all(format!("{answer}{head}").as_bytes()).await.unwrap();
    let (mut from, mut to) = stream.split();
    tokio::io::copy(&mut from, &mut to).await.unwrap();
}

/// A server with a pod that listens on port 8080, and a Service in front of it.
async fn start() -> Server {
    let port = backend().await;
    let server = Server::start_with(|config| {
        config.dialer = Arc::new(ToBackend(port));
        let (user, uid, groups) = ("admin".to_owned(), String::new(), vec!["system:masters".to_owned()]);
        config.static_tokens = vec![crate::StaticToken { token: "secret".to_owned(), user, uid, groups }];
    })
    .await;
    let mut web = pod("web");
    web["spec"]["containers"][0]["ports"] = json!([{ "containerPort": 8080 }]);
    web["spec"]["nodeName"] = "n1".into();
    server.post(PODS, web).await.ok();
    let status = json!({"status": {"phase": "Running", "podIPs": [{"ip": POD_IP}], "podIP": POD_IP}});
    server.merge(&format!("{PODS}/web/status"), status).await.ok();
    let service = json!({"metadata": {"name": "web"}, "spec": {"ports": [{"name": "http", "port": 80}]}});
    server.post(SERVICES, service).await.ok();
    server
}

async fn publish(server: &Server, target: Value) {
    let endpoints = json!({"metadata": {"name": "web"}, "subsets": [{
        "addresses": [{"ip": POD_IP, "targetRef": target}], "ports": [{"name": "http", "port": 8080}]}]});
    server.put("/api/v1/namespaces/default/endpoints/web", endpoints).await.ok();
}

/// Code, headers and body of a proxied answer, or the refusal's message.
async fn ask(server: &Server, method: Method, uri: &str, body: &[u8]) -> (u16, HeaderMap, String) {
    let headers = [
        ("host", "api.example:6443"),
        ("cookie", "a=b"),
        ("impersonate-x", "y"),
        ("connection", "x-own"),
        ("x-own", "1"),
    ];
    match server.outcome(admin(), method, uri, &headers, body).await {
        Ok(Reply::Http(response)) => {
            let (parts, body) = response.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            (parts.status.as_u16(), parts.headers, String::from_utf8(body.to_vec()).unwrap())
        }
        Ok(_) => panic!("{uri} was not passed on"),
        Err(status) => (status.code, HeaderMap::new(), status.message),
    }
}

#[tokio::test]
async fn requests_reach_the_pod_as_they_are() {
    let server = start().await;
    let uri = format!("{PODS}/web:8080/proxy/a%20b/../c/?q=1&x=/y");
    let (code, _, seen) = ask(&server, Method::GET, &uri, b"").await;
    assert_eq!(code, 200);
    assert!(seen.starts_with("GET /c/?q=1&x=/y HTTP/1.1\r\n"), "{seen}");
    for header in ["host: api.example:6443\r\n", "cookie: a=b\r\n"] {
        assert!(seen.contains(header), "{seen}");
    }
    assert!(!seen.contains("impersonate-") && !seen.contains("x-own"), "{seen}");
    let (_, _, seen) = ask(&server, Method::PUT, &format!("{PODS}/http:web:8080/proxy/a"), b"the end").await;
    assert!(seen.starts_with("PUT /a HTTP/1.1\r\n") && seen.ends_with("the end"), "{seen}");
    let forwarded = format!("x-forwarded-uri: {PODS}/http:web:8080/proxy/a\r\n");
    assert!(seen.contains(&forwarded), "{seen}");
    // The first port of the pod, and its root by a path that ends with a slash.
    let (code, headers, _) = ask(&server, Method::GET, &format!("{PODS}/web/proxy?q=1"), b"").await;
    assert_eq!((code, headers["location"].to_str().unwrap()), (301, format!("{PODS}/web/proxy/?q=1").as_str()));
    let (_, _, seen) = ask(&server, Method::GET, &format!("{PODS}/web/proxy/"), b"").await;
    assert!(seen.starts_with("GET / HTTP/1.1\r\n"), "{seen}");
    let (_, _, seen) = ask(&server, Method::DELETE, &format!("{PODS}/web/proxy"), b"").await;
    assert!(seen.starts_with("DELETE / HTTP/1.1\r\n"), "{seen}");
}

#[tokio::test]
async fn links_lead_through_the_proxy_again() {
    let server = start().await;
    let (_, headers, _) = ask(&server, Method::GET, &format!("{PODS}/web/proxy/moved"), b"").await;
    assert_eq!(headers["location"], format!("{PODS}/web/proxy/elsewhere"));
    assert!(!headers.contains_key("access-control-allow-origin"));
    let (_, _, page) = ask(&server, Method::GET, &format!("{PODS}/web/proxy/page"), b"").await;
    assert_eq!(page, format!("<a href=\"{PODS}/web/proxy/x\">x</a>"));
}

#[tokio::test]
async fn services_lead_to_their_pods_and_nowhere_else() {
    let server = start().await;
    let get = async |path: &str| {
        let (code, _, text) = ask(&server, Method::GET, &format!("{SERVICES}/{path}/proxy/x"), b"").await;
        (code, text)
    };
    let none = (503, "no endpoints available for service \"web\"".to_owned());
    assert_eq!(get("web:http").await, (404, "endpoints \"web\" not found".to_owned()));
    publish(&server, json!({"kind": "Pod", "namespace": "default", "name": "web"})).await;
    for path in ["web:http", "web:80", "http:web:80"] {
        let (code, seen) = get(path).await;
        assert!(code == 200 && seen.starts_with("GET /x "), "{path} {seen}");
    }
    assert_eq!(get("web:81").await, (503, "no service port 81 found for service \"web\"".to_owned()));
    assert_eq!(get("web:other").await, none);
    assert_eq!(get("web").await, none);
    assert_eq!(get("a:b:c:d").await, (400, "invalid service request \"a:b:c:d\"".to_owned()));
    assert_eq!(get("gone:80").await, (404, "services \"gone\" not found".to_owned()));
    publish(&server, json!({"kind": "Pod", "namespace": "default", "name": "other"})).await;
    assert_eq!(get("web:http").await, none);
}

#[tokio::test]
async fn what_cannot_be_reached_is_said() {
    let server = start().await;
    let get = async |uri: &str| {
        let (code, _, text) = ask(&server, Method::GET, uri, b"").await;
        (code, text)
    };
    assert_eq!(
        get(&format!("{PODS}/web:81/proxy/")).await,
        (503, "error trying to reach service: dial tcp 10.42.0.5:81: connect: connection refused".to_owned())
    );
    assert_eq!(get(&format!("{PODS}/gone/proxy/")).await, (404, "pods \"gone\" not found".to_owned()));
    let own = json!({"status": {"podIPs": [{"ip": "127.0.0.1"}], "podIP": "127.0.0.1"}});
    server.merge(&format!("{PODS}/web/status"), own).await.ok();
    assert_eq!(get(&format!("{PODS}/web/proxy/")).await, (400, "address not allowed".to_owned()));
    assert_eq!(get("/api/v1/nodes/n1/proxy/metrics").await, (404, "nodes \"n1\" not found".to_owned()));
}

/// A connection over TLS to the server, which listens for it.
async fn connect(server: &Server) -> tokio_rustls::client::TlsStream<TcpStream> {
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let pem = certified.cert.pem();
    let tls =
        crate::tls_config(crate::CurrentCertificate::new(&pem, &certified.signing_key.serialize_pem()).unwrap(), &pem)
            .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let api = server.api.clone();
    naru_base::spawn("serve", async move {
        let _ = api.serve(listener, Arc::new(tls)).await;
    });
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(naru_client::https::any_server(&provider))
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from("127.0.0.1").unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, stream).await.unwrap()
}

#[tokio::test]
async fn an_upgrade_goes_through_with_what_follows() {
    let server = start().await;
    let mut client = connect(&server).await;
    let request = format!(
        "GET {PODS}/web:8080/proxy/socket HTTP/1.1\r\nHost: api.example\r\nAuthorization: Bearer secret\r\n\
         X-Forwarded-For: 192.0.2.7\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n"
    );
    client.write_all(request.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    while seen.windows(4).filter(|end| *end == b"\r\n\r\n").count() < 2 {
        assert_ne!(client.read_buf(&mut seen).await.unwrap(), 0, "{}", String::from_utf8_lossy(&seen));
    }
    let seen = String::from_utf8(seen).unwrap();
    let (answer, passed) = seen.split_once("\r\n\r\n").unwrap();
    assert!(answer.starts_with("HTTP/1.1 101 ") && answer.contains("upgrade: websocket"), "{answer}");
    assert!(passed.starts_with("GET /socket HTTP/1.1\r\n"), "{passed}");
    for header in ["host: api.example\r\n", "sec-websocket-key: k\r\n", "x-forwarded-for: 192.0.2.7, 127.0.0.1\r\n"] {
        assert!(passed.contains(header), "{passed}");
    }
    assert!(!passed.contains("authorization"), "{passed}");
    client.write_all(b"ping").await.unwrap();
    let mut pong = [0; 4];
    client.read_exact(&mut pong).await.unwrap();
    assert_eq!(&pong, b"ping");
}

#[tokio::test]
async fn headers_have_a_bound() {
    let server = start().await;
    // Far above it the connection ends while it reads; little above it everything has been read already.
    for (bytes, expect) in [(60_000, "HTTP/1.1 200 "), (70_000, "HTTP/1.1 431 "), (100_000, "HTTP/1.1 431 ")] {
        let mut client = connect(&server).await;
        let request = format!(
            "GET /version HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\nX-Long: {}\r\n\r\n",
            "x".repeat(bytes)
        );
        client.write_all(request.as_bytes()).await.unwrap();
        let mut seen = Vec::new();
        while seen.len() < expect.len() {
            assert_ne!(client.read_buf(&mut seen).await.unwrap(), 0, "{bytes}");
        }
        assert!(seen.starts_with(expect.as_bytes()), "{bytes}: {}", String::from_utf8_lossy(&seen));
    }
}

#[tokio::test]
async fn a_path_may_carry_a_script() {
    let server = start().await;
    for (bytes, expect) in [(20_000, "HTTP/1.1 200 "), (60_000, "HTTP/1.1 200 "), (62_000, "HTTP/1.1 414 ")] {
        let mut client = connect(&server).await;
        let script = "x".repeat(bytes);
        let request =
            format!("GET /version?command={script} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let mut seen = Vec::new();
        while seen.len() < expect.len() {
            assert_ne!(client.read_buf(&mut seen).await.unwrap(), 0, "{bytes}");
        }
        assert!(seen.starts_with(expect.as_bytes()), "{bytes}: {}", String::from_utf8_lossy(&seen));
    }
}

#[tokio::test]
async fn the_method_is_the_verb() {
    let server = start().await;
    let rules = json!([{"apiGroups": [""], "resources": ["pods/proxy"], "verbs": ["get"]}]);
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    server.post(&format!("{roles}/roles"), json!({"metadata": {"name": "r"}, "rules": rules})).await.ok();
    let binding = json!({"metadata": {"name": "r"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}]});
    server.post(&format!("{roles}/rolebindings"), binding).await.ok();
    let jane = || User::authenticated("jane", []);
    let uri = format!("{PODS}/web/proxy/x");
    assert!(server.outcome(jane(), Method::GET, &uri, &[], b"").await.is_ok());
    let refused = server.outcome(jane(), Method::POST, &uri, &[], b"").await.err().unwrap();
    assert_eq!(
        refused.message,
        "pods \"web\" is forbidden: User \"jane\" cannot create resource \"pods/proxy\" in API group \"\" in the namespace \"default\""
    );
}

#[tokio::test]
async fn streams_name_their_container() {
    let server = Server::start().await;
    let mut two = pod("two");
    two["spec"]["containers"] = json!([{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]);
    two["spec"]["initContainers"] = json!([{"name": "first", "image": "i"}]);
    server.post(PODS, two).await.ok();
    let message = |answer: Answer| answer.body["message"].as_str().unwrap_or_default().to_owned();
    let post = async |path: &str| message(server.post(&format!("{PODS}/two/{path}"), json!({})).await);
    let unnamed =
        "a container name must be specified for pod two, choose one of: [a b] or one of the init containers: [first]";
    assert_eq!(post("exec?command=x&stdout=1").await, unnamed);
    assert_eq!(post("attach?stdout=1").await, unnamed);
    assert_eq!(post("exec?command=x&container=c").await, "container c is not valid for pod two");
    assert_eq!(post("exec?command=x&container=a").await, "pod two does not have a host assigned");
    let log = async |query: &str| message(server.get(&format!("{PODS}/two/log?{query}")).await);
    assert_eq!(log("").await, unnamed);
    assert_eq!(log("container=a&tailLines=x").await, "strconv.ParseInt: parsing \"x\": invalid syntax");
    assert_eq!(
        log("container=a&tailLines=-1&limitBytes=0").await,
        "PodLogOptions \"two\" is invalid: [tailLines: Invalid value: -1: must be greater than or equal to 0, limitBytes: Invalid value: 0: must be greater than 0]"
    );
    server.get(&format!("{PODS}/two/log?container=a")).await.code_is(200);
}
