//! Asks a container: by HTTP, TCP, gRPC or a command. Also used for lifecycle hooks.

use super::state::Outcome;
use crate::engine::ContainerRuntime;
use crate::pod::backoff::go_millis;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, ExecAction, HTTPGetAction, Probe, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use naru_runtime::RuntimeError;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// What of an answer's body is shown.
const BODY_LIMIT: usize = 10 * 1024;
/// How often a probe is sent elsewhere at most.
const REDIRECTS: u32 = 10;

/// Whom to ask.
#[derive(Debug, Clone)]
pub struct Target {
    /// The runtime, for commands.
    pub runtime: Arc<dyn ContainerRuntime>,
    /// Id of the container.
    pub container_id: String,
    /// Its specification, for port names.
    pub container: Arc<Container>,
    /// Address of the pod.
    pub pod_ip: Option<IpAddr>,
}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    scheme: String,
    /// Without brackets.
    host: String,
    port: u16,
    /// And query.
    path: String,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.authority(), self.path)
    }
}

impl Place {
    fn authority(&self) -> String {
        format!("{}:{}", bracketed(&self.host), self.port)
    }

    /// Where a `Location` leads, and whether it is relative to this place.
    fn join(&self, location: &str) -> Option<(Self, bool)> {
        let location = location.split('#').next().unwrap_or_default();
        let scheme_relative = location.strip_prefix("//").map(|rest| format!("{}://{rest}", self.scheme));
        let absolute = scheme_relative.as_deref().unwrap_or(location);
        let has_scheme = absolute.split(['/', '?']).next().is_some_and(|first| first.ends_with(':'));
        if !has_scheme {
            let (path, _) = self.path.split_once('?').unwrap_or((&self.path, ""));
            let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
            let path = match location.as_bytes().first() {
                None => self.path.clone(),
                Some(b'/') => location.to_owned(),
                Some(b'?') => format!("{path}{location}"),
                Some(_) => format!("{directory}/{location}"),
            };
            return Some((Self { path, ..self.clone() }, true));
        }
        let uri: http::Uri = absolute.parse().ok()?;
        let scheme = uri.scheme_str()?.to_lowercase();
        let port = match (uri.port_u16(), scheme.as_str()) {
            (Some(port), _) => port,
            (None, "http") => 80,
            (None, "https") => 443,
            _ => return None,
        };
        let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
        let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned();
        Some((Self { scheme, host, port, path }, false))
    }
}

/// What a server said.
#[derive(Debug)]
struct Answer {
    status: u16,
    /// Where else to ask.
    location: Option<String>,
    body: Bytes,
}

/// Runs one probe.
pub async fn probe(target: &Target, probe: &Probe, timeout: Duration) -> Outcome {
    if let Some(action) = &probe.exec {
        exec(target, action, timeout).await
    } else if let Some(action) = &probe.http_get {
        http_get(target, action, timeout, "kube-probe/1.36").await
    } else if let Some(action) = &probe.tcp_socket {
        tcp(target, action, timeout).await
    } else if let Some(action) = &probe.grpc {
        let port = IntOrString::Int(action.port);
        match (host(target, None), self::port(&target.container, &port)) {
            (Ok(host), Ok(port)) => {
                let place = format!("{}:{port}", bracketed(&host));
                let service = action.service.as_deref().unwrap_or_default();
                super::grpc::check(dial(&host, port), &place, service, timeout).await
            }
            (Err(error), _) | (_, Err(error)) => Outcome::Unknown(error),
        }
    } else {
        Outcome::Unknown(format!("missing probe handler for {}", target.container.name))
    }
}

async fn exec(target: &Target, action: &ExecAction, timeout: Duration) -> Outcome {
    let args = action.command.clone().unwrap_or_default();
    match target.runtime.exec_probe(&target.container_id, &args, timeout).await {
        Ok(result) => {
            let text = String::from_utf8_lossy(&result.output).trim().to_owned();
            if result.exit_code == 0 { Outcome::Success } else { Outcome::Failure(text) }
        }
        Err(RuntimeError::Timeout(after)) => {
            Outcome::Failure(format!("command timed out: {:?} timed out after {}", args.join(" "), go_millis(after)))
        }
        Err(error) => Outcome::Unknown(error.to_string()),
    }
}

/// Resolves a port by number or by the name of a container port.
pub fn port(container: &Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|p| p.name.as_deref() == Some(name))
            .map(|p| p.container_port)
            .or_else(|| name.parse().ok()),
    };
    match (number, port) {
        (Some(number), _) if (1..65536).contains(&number) => Ok(number as u16),
        (_, IntOrString::String(name)) => Err(format!("couldn't find port: {name:?}")),
        (_, IntOrString::Int(number)) => Err(format!("invalid port number: {number}")),
    }
}

/// The host to dial: as given, or the pod's address.
fn host(target: &Target, given: Option<&str>) -> Result<String, String> {
    match given.filter(|h| !h.is_empty()) {
        Some(host) => Ok(host.to_owned()),
        None => target.pod_ip.map(|ip| ip.to_string()).ok_or_else(|| "pod has no address yet".to_owned()),
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// Dials `host:port`; the error reads as users know it.
async fn dial(host: &str, port: u16) -> Result<TcpStream, String> {
    let place = format!("{}:{port}", bracketed(host));
    let ip: IpAddr = match host {
        "localhost" => IpAddr::from([127, 0, 0, 1]),
        host => host.parse().map_err(|_| format!("dial tcp: lookup {host}: no such host"))?,
    };
    TcpStream::connect((ip, port)).await.map_err(|error| {
        let reason = match error.kind() {
            std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
            std::io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
            std::io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
            std::io::ErrorKind::ConnectionReset => "connection reset by peer".to_owned(),
            _ => error.to_string(),
        };
        format!("dial tcp {place}: connect: {reason}")
    })
}

async fn tcp(target: &Target, action: &TCPSocketAction, timeout: Duration) -> Outcome {
    let (host, port) = match (host(target, action.host.as_deref()), port(&target.container, &action.port)) {
        (Ok(host), Ok(port)) => (host, port),
        (Err(error), _) | (_, Err(error)) => return Outcome::Unknown(error),
    };
    match tokio::time::timeout(timeout, dial(&host, port)).await {
        Ok(Ok(_)) => Outcome::Success,
        Ok(Err(error)) => Outcome::Failure(error),
        Err(_) => Outcome::Failure(format!("dial tcp {}:{port}: i/o timeout", bracketed(&host))),
    }
}

/// Sends a GET; 200 to 399 is a success.
pub async fn http_get(target: &Target, action: &HTTPGetAction, timeout: Duration, agent: &str) -> Outcome {
    let (host, port) = match (host(target, action.host.as_deref()), port(&target.container, &action.port)) {
        (Ok(host), Ok(port)) => (host, port),
        (Err(error), _) | (_, Err(error)) => return Outcome::Unknown(error),
    };
    let scheme = action.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
    let path = action.path.as_deref().unwrap_or("/");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let place = Place { scheme, host, port, path };
    match tokio::time::timeout(timeout, follow(action, &place, agent)).await {
        Ok(Ok(answer)) => match answer.status {
            200..300 => Outcome::Success,
            300..400 => {
                let body = String::from_utf8_lossy(&answer.body);
                Outcome::Warning(format!("Probe terminated redirects, Response body: {body}"))
            }
            status => Outcome::Failure(format!("HTTP probe failed with statuscode: {status}")),
        },
        Ok(Err(error)) => Outcome::Failure(error),
        Err(_) => Outcome::Failure(format!(
            "Get \"{place}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        )),
    }
}

/// Asks, and goes where the answers lead as long as that is the same host.
async fn follow(action: &HTTPGetAction, first: &Place, agent: &str) -> Result<Answer, String> {
    let mut place = first.clone();
    let mut named = action.http_headers.iter().flatten().any(|h| h.name.eq_ignore_ascii_case("host"));
    let mut asked = 0;
    loop {
        asked += 1;
        let failed = |error| format!("Get \"{place}\": {error}");
        let answer = ask(action, &place, named, agent).await.map_err(failed)?;
        let Some(location) = answer.location.as_deref() else { return Ok(answer) };
        let Some((next, relative)) = place.join(location) else {
            return Err(failed(format!("failed to parse Location header {location:?}")));
        };
        if next.host != first.host {
            return Ok(answer);
        }
        if asked >= REDIRECTS {
            return Err(failed(format!("stopped after {REDIRECTS} redirects")));
        }
        // The probe's own name for the host is good for this server alone.
        named &= relative;
        place = next;
    }
}

async fn ask(action: &HTTPGetAction, place: &Place, named: bool, agent: &str) -> Result<Answer, String> {
    let stream = dial(&place.host, place.port).await?;
    let request = request(action, place, named, agent)?;
    if place.scheme == "https" {
        send(insecure_tls(stream, &place.host).await?, request).await
    } else {
        send(stream, request).await
    }
}

fn request(
    action: &HTTPGetAction,
    place: &Place,
    named: bool,
    agent: &str,
) -> Result<http::Request<Empty<Bytes>>, String> {
    let mut builder = http::Request::get(&place.path);
    let headers = || action.http_headers.iter().flatten().filter(|h| named || !h.name.eq_ignore_ascii_case("host"));
    let given = |name: &str| headers().any(|h| h.name.eq_ignore_ascii_case(name));
    let host = place.authority();
    for header in headers() {
        builder = builder.header(&header.name, &header.value);
    }
    for (name, value) in [("host", host.as_str()), ("user-agent", agent), ("accept", "*/*"), ("connection", "close")] {
        if !given(name) {
            builder = builder.header(name, value);
        }
    }
    builder.body(Empty::new()).map_err(|error| error.to_string())
}

async fn send<S>(stream: S, request: http::Request<Empty<Bytes>>) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(|error| describe(&error))?;
        let status = answer.status().as_u16();
        let location = answer.headers().get(http::header::LOCATION).filter(|_| matches!(status, 301..=303 | 307 | 308));
        let location = location.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        // The body says nothing about health; read a little so that the peer is not cut off.
        let body =
            Limited::new(answer.into_body(), BODY_LIMIT).collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        Ok(Answer { status, location, body })
    };
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        result = &mut exchange => result,
        // The peer may close right after its answer, which is then waiting to be taken.
        _ = connection => exchange.await,
    }
}

fn describe(error: &hyper::Error) -> String {
    if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        "EOF".into()
    } else {
        error.to_string()
    }
}

async fn insecure_tls(stream: TcpStream, host: &str) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    let name = rustls_pki_types::ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    tokio_rustls::TlsConnector::from(super::tls::any_certificate())
        .connect(name, stream)
        .await
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::fake::FakeRuntime;
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn target(runtime: Arc<FakeRuntime>) -> Target {
        let container: Container =
            serde_json::from_value(json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]})).unwrap();
        Target {
            runtime,
            container_id: "id".into(),
            container: Arc::new(container),
            pod_ip: Some(IpAddr::from([127, 0, 0, 1])),
        }
    }

    async fn ask(probe_json: serde_json::Value) -> Outcome {
        let target = target(Arc::new(FakeRuntime::default()));
        probe(&target, &serde_json::from_value(probe_json).unwrap(), Duration::from_secs(5)).await
    }

    async fn serve(answer: &'static str) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        naru_base::spawn("test server", async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 1024];
            let _ = stream.read(&mut buffer).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        });
        port
    }

    #[tokio::test]
    async fn http_statuses_decide() {
        let port = serve("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(ask(json!({"httpGet": {"port": port, "path": "/healthz"}})).await, Outcome::Success);
        let port = serve("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(
            ask(json!({"httpGet": {"port": port}})).await,
            Outcome::Failure("HTTP probe failed with statuscode: 503".into())
        );
    }

    /// Answers as often as there are answers, and says what was asked.
    async fn serve_in_turn(answers: Vec<String>) -> (u16, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = naru_base::spawn("test server", async move {
            let mut asked = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = [0; 1024];
                let read = stream.read(&mut buffer).await.unwrap();
                let head = String::from_utf8_lossy(&buffer[..read]);
                let host = head.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
                asked.push(format!("{} {host}", head.split(' ').nth(1).unwrap()));
                let _ = stream.write_all(answer.as_bytes()).await;
            }
            asked
        });
        (port, asked)
    }

    fn redirect(to: &str) -> String {
        format!("HTTP/1.1 307 Temporary Redirect\r\nlocation: {to}\r\ncontent-length: 4\r\n\r\naway")
    }

    #[tokio::test]
    async fn redirects_are_followed_on_the_same_host() {
        let well = || "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_owned();
        let bad = "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n".to_owned();
        let (port, asked) = serve_in_turn(vec![redirect("/b/c?x=http://y/z"), redirect("d"), bad]).await;
        let probe = json!({"httpGet": {"port": port, "path": "a", "httpHeaders": [{"name": "Host", "value": "me"}]}});
        let failure = Outcome::Failure("HTTP probe failed with statuscode: 500".into());
        assert_eq!(ask(probe).await, failure);
        assert_eq!(asked.await.unwrap(), ["/a me", "/b/c?x=http://y/z me", "/b/d me"]);

        let (other, asked) = serve_in_turn(vec![well()]).await;
        let (port, _) = serve_in_turn(vec![redirect(&format!("http://127.0.0.1:{other}"))]).await;
        let probe = json!({"httpGet": {"port": port, "httpHeaders": [{"name": "Host", "value": "me"}]}});
        assert_eq!(ask(probe).await, Outcome::Success);
        assert_eq!(asked.await.unwrap(), [format!("/ 127.0.0.1:{other}")]);

        let (port, _) = serve_in_turn(vec![redirect("http://192.0.2.1/")]).await;
        let warning = Outcome::Warning("Probe terminated redirects, Response body: away".into());
        assert_eq!(ask(json!({"httpGet": {"port": port}})).await, warning);

        let (port, asked) = serve_in_turn(vec![redirect("/"); 10]).await;
        let failure = format!("Get \"http://127.0.0.1:{port}/\": stopped after 10 redirects");
        assert_eq!(ask(json!({"httpGet": {"port": port}})).await, Outcome::Failure(failure));
        assert_eq!(asked.await.unwrap().len(), 10);
    }

    #[tokio::test]
    async fn refused_connections_read_as_users_know_them() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        assert_eq!(
            ask(json!({"tcpSocket": {"port": port}})).await,
            Outcome::Failure(format!("dial tcp 127.0.0.1:{port}: connect: connection refused"))
        );
        assert_eq!(
            ask(json!({"httpGet": {"port": port, "path": "x"}})).await,
            Outcome::Failure(format!(
                "Get \"http://127.0.0.1:{port}/x\": dial tcp 127.0.0.1:{port}: connect: connection refused"
            ))
        );
    }

    #[test]
    fn ports_by_name_or_number() {
        let container = target(Arc::new(FakeRuntime::default())).container;
        assert_eq!(port(&container, &IntOrString::String("web".into())), Ok(8080));
        assert_eq!(port(&container, &IntOrString::String("81".into())), Ok(81));
        assert_eq!(port(&container, &IntOrString::Int(0)), Err("invalid port number: 0".into()));
        assert_eq!(port(&container, &IntOrString::String("no".into())), Err("couldn't find port: \"no\"".into()));
    }
}
