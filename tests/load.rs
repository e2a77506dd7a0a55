//! A load program for `scripts/bench`: drives the API over HTTP/2 and prints one figure.
//!
//! Usage: load KUBECONFIG MODE [ARGUMENTS]; see `main` for the modes.

mod load_control;
mod load_network;

use base64::Engine;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use tokio::sync::Semaphore;

type Failure = Box<dyn Error + Send + Sync>;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const JSON: &str = "application/json";

/// Where to connect, and as whom.
struct Target {
    authority: String,
    tls: Arc<rustls::ClientConfig>,
}

impl Target {
    fn from_kubeconfig(path: &str) -> Result<Self, Failure> {
        let value: serde_json::Value = serde_saphyr::from_str(&std::fs::read_to_string(path)?)?;
        let text = |pointer: &str| {
            value.pointer(pointer).and_then(|v| v.as_str()).ok_or(format!("kubeconfig lacks {pointer}"))
        };
        let pem = |pointer: &str| -> Result<Vec<u8>, Failure> {
            Ok(base64::engine::general_purpose::STANDARD.decode(text(pointer)?)?)
        };
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&pem("/clusters/0/cluster/certificate-authority-data")?)?)?;
        let chain = vec![CertificateDer::from_pem_slice(&pem("/users/0/user/client-certificate-data")?)?];
        let key = PrivateKeyDer::from_pem_slice(&pem("/users/0/user/client-key-data")?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let server = text("/clusters/0/cluster/server")?;
        let authority = server.strip_prefix("https://").ok_or("the server's URL must start with https://")?;
        Ok(Self { authority: authority.to_string(), tls: Arc::new(tls) })
    }

    /// A connection of its own.
    async fn connect(&self) -> Result<Session, Failure> {
        let stream = tokio::net::TcpStream::connect(self.authority.parse::<std::net::SocketAddr>()?).await?;
        stream.set_nodelay(true)?;
        let connector = tokio_rustls::TlsConnector::from(self.tls.clone());
        let stream = connector.connect(ServerName::try_from("localhost")?, stream).await?;
        let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(8 << 20)
            .initial_connection_window_size(16 << 20)
            .handshake(TokioIo::new(stream))
            .await?;
        naru_base::spawn("connection", connection);
        Ok(Session { sender, authority: self.authority.clone() })
    }
}

/// One client.
struct Session {
    sender: SendRequest<Full<Bytes>>,
    authority: String,
}

impl Session {
    async fn send(
        &mut self,
        method: Method,
        path: &str,
        media: (&str, &str),
        body: String,
    ) -> Result<Response<Incoming>, Failure> {
        let (content, accept) = media;
        let request = Request::builder()
            .method(method)
            .uri(format!("https://{}{path}", self.authority))
            .header("content-type", content)
            .header("accept", accept)
            .body(Full::new(Bytes::from(body)))?;
        Ok(self.sender.send_request(request).await?)
    }

    /// The whole answer, which must be a success.
    async fn call(&mut self, method: Method, path: &str, content: &str, body: String) -> Result<Bytes, Failure> {
        let response = self.send(method, path, (content, JSON), body).await?;
        whole(response).await
    }
}

async fn whole(response: Response<Incoming>) -> Result<Bytes, Failure> {
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    if !matches!(status, StatusCode::OK | StatusCode::CREATED) {
        return Err(format!("{status}: {}", String::from_utf8_lossy(&body)).into());
    }
    Ok(body)
}

/// A ConfigMap of 1 KiB.
fn map(name: &str) -> String {
    let data = "x".repeat(1024);
    format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}},"data":{{"a":"{data}"}}}}"#)
}

/// A pod of 10 KB that no scheduler looks at.
fn pod(name: &str) -> String {
    let note = "y".repeat(9_000);
    format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}","annotations":{{"note":"{note}"}}}},"spec":{{"schedulerName":"nobody","containers":[{{"name":"c","image":"example.com/i:1"}}]}}}}"#
    )
}

/// What each of many clients does with one number after another.
#[derive(Clone, Copy)]
enum Kind {
    Create,
    Get,
    Merge,
    Apply,
    Pod,
}

impl Kind {
    async fn run(self, session: &mut Session, number: usize) -> Result<(), Failure> {
        let name = format!("load-{number}");
        // Changes go round the same hundred objects, so that some meet.
        let few = format!("load-{}", number % 100);
        match self {
            Self::Create => session.call(Method::POST, MAPS, JSON, map(&name)).await,
            Self::Get => session.call(Method::GET, &format!("{MAPS}/{few}"), JSON, String::new()).await,
            Self::Merge => {
                let body = format!(r#"{{"data":{{"n":"{number}"}}}}"#);
                session.call(Method::PATCH, &format!("{MAPS}/{few}"), "application/merge-patch+json", body).await
            }
            Self::Apply => {
                let path = format!("{MAPS}/{few}?fieldManager=load&force=true");
                let body = format!(
                    r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{few}"}},"data":{{"s":"{number}"}}}}"#
                );
                session.call(Method::PATCH, &path, "application/apply-patch+yaml", body).await
            }
            Self::Pod => session.call(Method::POST, PODS, JSON, pod(&name)).await,
        }
        .map(drop)
    }
}

/// Requests a second of so many clients, each with its own connection.
async fn rate(target: &Arc<Target>, kind: Kind, clients: usize, total: usize) -> Result<f64, Failure> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut sessions = Vec::new();
    for _ in 0..clients {
        sessions.push(target.connect().await?);
    }
    let begin = Instant::now();
    let mut tasks = Vec::new();
    for mut session in sessions {
        let next = next.clone();
        tasks.push(naru_base::spawn("client", async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= total {
                    return Ok::<(), Failure>(());
                }
                kind.run(&mut session, number).await?;
            }
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(total as f64 / begin.elapsed().as_secs_f64())
}

/// The median of so many lists, in milliseconds.
async fn list(target: &Target, accept: &str, times: usize) -> Result<f64, Failure> {
    let mut session = target.connect().await?;
    let mut taken = Vec::new();
    for _ in 0..times {
        let begin = Instant::now();
        whole(session.send(Method::GET, MAPS, (JSON, accept), String::new()).await?).await?;
        taken.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    Ok(median(taken))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Starts watchers that give a permit for each event.
async fn watchers(target: &Target, count: usize) -> Result<Arc<Semaphore>, Failure> {
    let seen = Arc::new(Semaphore::new(0));
    let mut session = target.connect().await?;
    let list = session.call(Method::GET, &format!("{MAPS}?limit=1"), JSON, String::new()).await?;
    let list: serde_json::Value = serde_json::from_slice(&list)?;
    let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    for _ in 0..count {
        let mut session = target.connect().await?;
        let path = format!("{MAPS}?watch=true&resourceVersion={version}");
        let mut body = session.send(Method::GET, &path, (JSON, JSON), String::new()).await?.into_body();
        let seen = seen.clone();
        naru_base::spawn("watcher", async move {
            // The connection ends with its sender.
            let _session = session;
            while let Some(Ok(frame)) = body.frame().await {
                let data = frame.into_data().unwrap_or_default();
                seen.add_permits(data.iter().filter(|byte| **byte == b'\n').count());
            }
        });
    }
    Ok(seen)
}

async fn wait_for(seen: &Semaphore, events: usize) -> Result<(), Failure> {
    seen.acquire_many(u32::try_from(events)?).await?.forget();
    Ok(())
}

/// From a create's start until the last watcher has it: the median, in milliseconds.
async fn latency(target: &Target, count: usize, times: usize) -> Result<f64, Failure> {
    let seen = watchers(target, count).await?;
    let mut session = target.connect().await?;
    let mut taken = Vec::new();
    for number in 0..times {
        let begin = Instant::now();
        session.call(Method::POST, MAPS, JSON, map(&format!("seen-{number}"))).await?;
        wait_for(&seen, count).await?;
        taken.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    Ok(median(taken))
}

/// Seconds until every watcher has every create.
async fn fan_out(target: &Target, count: usize, creates: usize) -> Result<f64, Failure> {
    let seen = watchers(target, count).await?;
    let begin = Instant::now();
    let mut tasks = Vec::new();
    for client in 0..16 {
        let mut session = target.connect().await?;
        tasks.push(naru_base::spawn("client", async move {
            for number in (client..creates).step_by(16) {
                session.call(Method::POST, MAPS, JSON, map(&format!("fan-{number}"))).await?;
            }
            Ok::<(), Failure>(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    wait_for(&seen, count * creates).await?;
    Ok(begin.elapsed().as_secs_f64())
}

/// Seconds that it takes to delete all ConfigMaps.
async fn delete_all(target: &Target) -> Result<f64, Failure> {
    let mut session = target.connect().await?;
    let begin = Instant::now();
    session.call(Method::DELETE, MAPS, JSON, String::new()).await?;
    Ok(begin.elapsed().as_secs_f64())
}

async fn figure(target: Arc<Target>, mode: &str, numbers: &[usize]) -> Result<f64, Failure> {
    let metadata = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    match (mode, numbers) {
        ("create", &[clients, total]) => rate(&target, Kind::Create, clients, total).await,
        ("get", &[clients, total]) => rate(&target, Kind::Get, clients, total).await,
        ("merge", &[clients, total]) => rate(&target, Kind::Merge, clients, total).await,
        ("apply", &[clients, total]) => rate(&target, Kind::Apply, clients, total).await,
        ("pods", &[clients, total]) => rate(&target, Kind::Pod, clients, total).await,
        ("list", &[times]) => list(&target, JSON, times).await,
        ("list-metadata", &[times]) => list(&target, metadata, times).await,
        ("list-protobuf", &[times]) => list(&target, "application/vnd.kubernetes.protobuf", times).await,
        ("latency", &[watchers, times]) => latency(&target, watchers, times).await,
        ("fan-out", &[watchers, creates]) => fan_out(&target, watchers, creates).await,
        ("delete-all", []) => delete_all(&target).await,
        _ => control(&target, mode, numbers).await,
    }
}

/// The figures of `scripts/bench control`.
async fn control(target: &Target, mode: &str, numbers: &[usize]) -> Result<f64, Failure> {
    use load_control::{Kind, choices, choosing, deploy, namespace, nodes, remove, roll, writes};
    match (mode, numbers) {
        ("nodes", &[count]) => nodes(target, count).await,
        ("deploy", &[pods]) => deploy(target, "many", pods, Kind::Plain).await,
        ("deploy-small", &[pods]) => deploy(target, "some", pods, Kind::Plain).await,
        ("deploy-apart", &[pods]) => deploy(target, "apart", pods, Kind::Apart).await,
        ("roll-small", &[pods]) => roll(target, "some", pods).await,
        ("remove", []) => remove(target, "many").await,
        ("namespace", &[objects]) => namespace(target, objects).await,
        ("writes", []) => writes(target).await,
        ("choosing", []) => choosing(target).await,
        ("choices", []) => choices(target).await,
        _ => network(target, mode, numbers).await,
    }
}

/// The figures of `scripts/bench network`.
async fn network(target: &Target, mode: &str, numbers: &[usize]) -> Result<f64, Failure> {
    use load_network::{answers, change, detour, front, services, traffic};
    match (mode, numbers) {
        ("services", &[count]) => services(target, count).await,
        ("change", &[times]) => change(target, times).await,
        ("front", []) => front(target).await,
        ("detour", &[times]) => detour(target, times).await,
        ("answers", &[total]) => answers(total),
        ("traffic", &[seconds]) => traffic(seconds),
        _ => Err("usage: load KUBECONFIG create|get|merge|apply|pods CLIENTS REQUESTS | list[-metadata|-protobuf] TIMES | latency WATCHERS TIMES | fan-out WATCHERS CREATES | delete-all | nodes COUNT | deploy[-small|-apart] PODS | roll-small PODS | remove | namespace OBJECTS | writes | choosing | choices | services COUNT | change TIMES | front | detour TIMES | answers TOTAL | traffic SECONDS".into()),
    }
}

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (kubeconfig, mode) = (args.first().ok_or("no kubeconfig")?, args.get(1).ok_or("no mode")?);
    let numbers: Vec<usize> = args.iter().skip(2).map(|text| text.parse()).collect::<Result<_, _>>()?;
    let target = Arc::new(Target::from_kubeconfig(kubeconfig)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let figure = runtime.block_on(figure(target, mode, &numbers))?;
    use std::io::Write;
    writeln!(std::io::stdout(), "{figure:.2}")?;
    Ok(())
}
