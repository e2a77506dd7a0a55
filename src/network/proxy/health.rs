//! Health check ports of Services: a balancer outside asks there whether this node has endpoints of its own.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

/// Checks answered at once on one port; more wait in the listen queue.
const AT_ONCE: usize = 32;
/// A request's head beyond this size is not read to its end.
const MAX_HEAD: usize = 8 * 1024;
/// How long a client may take over its request.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is said about one Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Health {
    pub(super) namespace: String,
    pub(super) name: String,
    /// Endpoints on this node that are ready.
    pub(super) endpoints: usize,
}

impl Health {
    fn answer(&self) -> String {
        let (code, reason) = if self.endpoints > 0 { (200, "OK") } else { (503, "Service Unavailable") };
        let body = serde_json::json!({
            "service": { "namespace": self.namespace, "name": self.name },
            "localEndpoints": self.endpoints,
            "serviceProxyHealthy": true,
        });
        let body = body.to_string();
        format!(
            "HTTP/1.1 {code} {reason}\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\n\
             X-Load-Balancing-Endpoint-Weight: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.endpoints,
            body.len()
        )
    }
}

struct Port {
    health: watch::Sender<Health>,
    task: JoinHandle<()>,
}

impl Drop for Port {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The ports that are served.
#[derive(Default)]
pub(super) struct HealthPorts {
    ports: BTreeMap<u16, Port>,
}

impl HealthPorts {
    /// Serves these ports and no others.
    pub(super) async fn set(&mut self, wanted: BTreeMap<u16, Health>) {
        self.ports.retain(|port, _| wanted.contains_key(port));
        for (number, health) in wanted {
            if let Some(port) = self.ports.get(&number) {
                port.health.send_replace(health);
                continue;
            }
            match TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, number))).await {
                Ok(listener) => {
                    let (sender, receiver) = watch::channel(health);
                    let task = naru_base::spawn("health-check-port", serve(listener, receiver));
                    self.ports.insert(number, Port { health: sender, task });
                }
                Err(error) => {
                    let Health { namespace, name, .. } = health;
                    tracing::warn!(%error, "no health check of the Service {namespace}/{name} on port {number}");
                }
            }
        }
    }
}

async fn serve(listener: TcpListener, health: watch::Receiver<Health>) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: that passes.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let answer = health.borrow().answer();
        naru_base::spawn("health-check", async move {
            let _ = tokio::time::timeout(PATIENCE, converse(stream, &answer)).await;
            drop(place);
        });
    }
}

/// Reads a request, whatever it asks for, and answers.
async fn converse(mut stream: TcpStream, answer: &str) -> std::io::Result<()> {
    let mut head = Vec::with_capacity(1024);
    let mut buffer = [0; 1024];
    while head.len() < MAX_HEAD && !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            break;
        }
        head.extend_from_slice(&buffer[..length]);
    }
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    async fn ask(port: u16) -> std::io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    #[tokio::test]
    async fn ports_say_whether_endpoints_are_here() {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let wanted =
            |endpoints| BTreeMap::from([(port, Health { namespace: "d".into(), name: "web".into(), endpoints })]);
        let mut ports = HealthPorts::default();
        ports.set(wanted(2)).await;
        let answer = ask(port).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("Endpoint-Weight: 2\r\n"), "{answer}");
        let body = answer.split("\r\n\r\n").nth(1).unwrap();
        let expect = serde_json::json!({"service": {"namespace": "d", "name": "web"}, "localEndpoints": 2, "serviceProxyHealthy": true});
        assert_eq!(serde_json::from_str::<serde_json::Value>(body).unwrap(), expect);
        ports.set(wanted(0)).await;
        assert!(ask(port).await.unwrap().starts_with("HTTP/1.1 503 Service Unavailable\r\n"));
    }
}
