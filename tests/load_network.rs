//! What `scripts/bench network` asks of the service proxy and the DNS.

use super::{Failure, JSON, Session, Target, median};
use hyper::Method;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
/// The machine's own address, as scripts/bench sets it up.
const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 10));
/// The Service whose endpoint moves, and the one in front of pods.
const MOVING: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 43, 255, 1));
const HELLO: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 43, 255, 2));
const DNS: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(10, 43, 0, 10)), 53);
/// Clients at the same time.
const CLIENTS: usize = 16;
/// Questions on their way at the same time.
const WINDOW: usize = 256;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

fn service(name: &str, address: Option<IpAddr>, selector: Value, target: u16) -> Value {
    let ports = json!([{"port": 80, "targetPort": target}]);
    let mut spec = json!({ "ports": ports, "selector": selector });
    if let Some(address) = address {
        spec["clusterIP"] = address.to_string().into();
    }
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

fn slice(name: &str, addresses: &[IpAddr], port: u16) -> Value {
    let endpoints: Vec<Value> =
        addresses.iter().map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}})).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name}},
        "ports": [{"name": "", "port": port, "protocol": "TCP"}], "endpoints": endpoints,
    })
}

async fn create(session: &mut Session, path: &str, object: &Value) -> Result<(), Failure> {
    session.call(Method::POST, path, JSON, object.to_string()).await.map(drop)
}

/// Makes so many Services with two endpoints each; the seconds it took.
pub(super) async fn services(target: &Target, count: usize) -> Result<f64, Failure> {
    let begin = Instant::now();
    let mut tasks = Vec::new();
    for client in 0..CLIENTS {
        let mut session = target.connect().await?;
        tasks.push(naru_base::spawn("client", async move {
            for number in (client..count).step_by(CLIENTS) {
                let name = format!("bench-{number}");
                create(&mut session, SERVICES, &service(&name, None, Value::Null, 8080)).await?;
                let [_, _, high, low] = u32::try_from(number).unwrap_or_default().to_be_bytes();
                let addresses = [IpAddr::from([10, 42, 128 + high, low]), IpAddr::from([10, 42, 160 + high, low])];
                create(&mut session, SLICES, &slice(&name, &addresses, 8080)).await?;
            }
            Ok::<(), Failure>(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(begin.elapsed().as_secs_f64())
}

/// From the answer to the write of an EndpointSlice until a new connection reaches the endpoint that it names: the
/// median, in milliseconds.
pub(super) async fn change(target: &Target, times: usize) -> Result<f64, Failure> {
    let mut ports = Vec::new();
    for mark in [b'a', b'b'] {
        let listener = TcpListener::bind((HERE, 0))?;
        ports.push((mark, listener.local_addr()?.port()));
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let _ = stream.write_all(&[mark]);
            }
        });
    }
    let mut session = target.connect().await?;
    create(&mut session, SERVICES, &service("moving", Some(MOVING), Value::Null, 80)).await?;
    create(&mut session, SLICES, &slice("moving", &[HERE], ports[0].1)).await?;
    let mut taken = Vec::new();
    for number in 1..=times {
        let (mark, port) = ports[number % 2];
        let object = slice("moving", &[HERE], port);
        session.call(Method::PUT, &format!("{SLICES}/moving-1"), JSON, object.to_string()).await?;
        let begin = Instant::now();
        while reached(SocketAddr::new(MOVING, 80)) != Some(mark) {
            if begin.elapsed() > PATIENCE {
                return Err("the endpoint is never reached".into());
            }
        }
        taken.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    Ok(median(taken))
}

fn reached(address: SocketAddr) -> Option<u8> {
    let mut byte = [0];
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    stream.read_exact(&mut byte).ok()?;
    Some(byte[0])
}

/// One request over a connection of its own.
fn request(address: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(std::io::Error::other(answer)) }
}

/// How much longer a request takes through a ClusterIP than to the pod itself, in per cent: medians of so many
/// requests of each kind, in turn.
pub(super) async fn detour(target: &Target, times: usize) -> Result<f64, Failure> {
    let mut session = target.connect().await?;
    let path = "/api/v1/namespaces/default/pods?labelSelector=app%3Dhello";
    let pods: Value = serde_json::from_slice(&session.call(Method::GET, path, JSON, String::new()).await?)?;
    let pod: IpAddr = pods["items"][0]["status"]["podIP"].as_str().unwrap_or_default().parse()?;
    let ways = [SocketAddr::new(pod, 8080), SocketAddr::new(HELLO, 80)];
    let mut taken = [Vec::new(), Vec::new()];
    for _ in 0..times {
        for (way, taken) in ways.iter().zip(&mut taken) {
            let begin = Instant::now();
            request(*way)?;
            taken.push(begin.elapsed().as_secs_f64());
        }
    }
    let [direct, through] = taken.map(median);
    Ok((through / direct - 1.0) * 100.0)
}

/// The Service in front of the pods of `hello`.
pub(super) async fn front(target: &Target) -> Result<f64, Failure> {
    let mut session = target.connect().await?;
    create(&mut session, SERVICES, &service("hello", Some(HELLO), json!({"app": "hello"}), 8080)).await?;
    Ok(0.0)
}

/// A question for the address of a Service.
fn question(id: u16, name: &str) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap_or_default());
        message.extend_from_slice(label.as_bytes());
    }
    message.extend_from_slice(&[0, 0, 1, 0, 1]);
    message
}

/// Answers a second of the DNS to one client that always has some questions waiting.
pub(super) fn answers(total: usize) -> Result<f64, Failure> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(DNS)?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    let (mut sent, mut answered, mut waiting) = (0_usize, 0_usize, 0_usize);
    let mut buffer = [0; 512];
    let begin = Instant::now();
    while answered < total {
        while waiting < WINDOW {
            let name = format!("bench-{}.default.svc.cluster.local", sent % 1000);
            socket.send(&question(u16::try_from(sent % 65_536)?, &name))?;
            sent += 1;
            waiting += 1;
        }
        match socket.recv(&mut buffer) {
            Ok(length) if length > 12 && buffer[3] & 15 == 0 && buffer[7] == 1 => {
                answered += 1;
                waiting -= 1;
            }
            Ok(_) => return Err("a wrong answer".into()),
            // What was dropped is asked again.
            Err(_) => waiting = 0,
        }
        if begin.elapsed() > 30 * PATIENCE {
            return Err("the answers do not come".into());
        }
    }
    Ok(answered as f64 / begin.elapsed().as_secs_f64())
}

/// Requests through the Service of `hello` for so many seconds, four at the same time; how many failed. What was asked
/// goes to the error output.
pub(super) fn traffic(seconds: usize) -> Result<f64, Failure> {
    let until = Instant::now() + Duration::from_secs(seconds as u64);
    let (done, failed) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while Instant::now() < until {
                    if request(SocketAddr::new(HELLO, 80)).is_err() {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(2));
                }
            });
        }
    });
    writeln!(std::io::stderr(), "{}", done.into_inner())?;
    Ok(failed.into_inner() as f64)
}
