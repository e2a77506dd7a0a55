//! Health check ports of Services: a balancer outside asks there whether this node has endpoints of its own.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Response, StatusCode};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Checks answered at once on one port; more wait in the listen queue.
const AT_ONCE: usize = 32;

/// What is said about one Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Health {
    pub(super) namespace: String,
    pub(super) name: String,
    /// Endpoints on this node that are ready.
    pub(super) endpoints: usize,
}

impl Health {
    fn answer(&self) -> Response<Full<Bytes>> {
        let status = if self.endpoints > 0 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let body = serde_json::json!({
            "service": { "namespace": self.namespace, "name": self.name },
            "localEndpoints": self.endpoints,
            "serviceProxyHealthy": true,
        });
        let mut response = Response::new(Full::new(body.to_string().into()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert("x-load-balancing-endpoint-weight", self.endpoints.into());
        response
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
            match listen(number).await {
                Ok(listener) => {
                    let (sender, receiver) = watch::channel(health);
                    let task = naru_base::spawn("health-check-port", {
                        crate::http::serve(listener, AT_ONCE, move |_: &_| receiver.borrow().answer())
                    });
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

/// Of both families where the kernel has IPv6.
pub(super) async fn listen(port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

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
