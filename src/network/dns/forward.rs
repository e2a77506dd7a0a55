//! Questions that others answer: the node's resolvers, or those of a stub domain.

use super::cache::{Answer, Cache, Key};
use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::Name;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;

/// Questions that wait for others at the same time; beyond it they fail at once.
const MAX_WAITING: usize = 1000;
/// How long one resolver may take: with all attempts less than the 5 s after which clients ask again, so that they
/// learn of a failure.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How long a client waits for a new answer when there is an old one (RFC 8767).
const STALE_AFTER: Duration = Duration::from_millis(1800);
/// Attempts for one question, over all resolvers.
const ATTEMPTS: usize = 3;
/// The largest datagram asked for: it passes every path in one piece.
pub(super) const DATAGRAM: u16 = 1232;

/// Asks other resolvers, and remembers what they said.
#[derive(Debug)]
pub(super) struct Forwarder {
    cache: Cache,
    waiting: Semaphore,
    /// The resolver that answered last, as an index into whichever list is used.
    preferred: AtomicUsize,
}

impl Forwarder {
    pub(super) fn new() -> Self {
        Self { cache: Cache::default(), waiting: Semaphore::new(MAX_WAITING), preferred: AtomicUsize::new(0) }
    }

    /// What is remembered.
    pub(super) fn cached(&self, key: &Key) -> Option<Answer> {
        self.cache.get(key, Instant::now())
    }

    /// Answers remembered.
    pub(super) fn remembered(&self) -> usize {
        self.cache.len()
    }

    /// Asks the resolvers one after another. When none answers, what was true before is true again. Beside the answer:
    /// whether it is such an old one.
    pub(super) async fn ask(&self, servers: &[SocketAddr], key: Key) -> (Answer, bool) {
        let answer = match self.waiting.try_acquire() {
            Ok(_permit) if self.cache.stale(&key, Instant::now()).is_some() => {
                tokio::time::timeout(STALE_AFTER, self.try_all(servers, &key)).await.ok().flatten()
            }
            Ok(_permit) => self.try_all(servers, &key).await,
            Err(_) => None,
        };
        let now = Instant::now();
        match answer {
            Some(answer) if answer.code != ResponseCode::ServFail => {
                self.cache.put(key, &answer, now);
                (answer, false)
            }
            failed => match self.cache.stale(&key, now) {
                Some(stale) => (stale, true),
                None => {
                    let failed = failed.unwrap_or_else(|| Answer::code(ResponseCode::ServFail));
                    self.cache.put(key, &failed, now);
                    (failed, false)
                }
            },
        }
    }

    async fn try_all(&self, servers: &[SocketAddr], key: &Key) -> Option<Answer> {
        let first = self.preferred.load(Ordering::Relaxed);
        let mut last = None;
        for attempt in 0..ATTEMPTS {
            let index = first.wrapping_add(attempt);
            let server = servers.get(index.checked_rem(servers.len())?)?;
            match exchange(*server, key).await {
                Ok(answer) if !matches!(answer.code, ResponseCode::ServFail | ResponseCode::Refused) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Some(answer);
                }
                Ok(answer) => last = Some(answer),
                Err(error) => tracing::debug!(%server, %error, "a resolver did not answer"),
            }
        }
        last
    }
}

/// Asks one resolver, by TCP if the answer is too long for a datagram.
pub(super) async fn exchange(server: SocketAddr, key: &Key) -> io::Result<Answer> {
    let mut request = Message::query();
    request.metadata.recursion_desired = true;
    request.add_query(Query::query(key.name.clone(), key.kind));
    let mut edns = Edns::new();
    edns.set_max_payload(DATAGRAM).set_version(0).set_dnssec_ok(key.dnssec);
    request.set_edns(edns);
    let bytes = request.to_vec().map_err(io::Error::other)?;
    let response = tokio::time::timeout(PATIENCE, by_datagram(server, &request, &bytes)).await??;
    let response = match response.metadata.truncation {
        true => tokio::time::timeout(PATIENCE, by_stream(server, &request, &bytes)).await??,
        false => response,
    };
    Ok(Answer {
        code: response.metadata.response_code,
        answers: response.answers,
        authorities: response.authorities,
        additionals: response.additionals,
        authentic: response.metadata.authentic_data,
    })
}

async fn by_datagram(server: SocketAddr, request: &Message, bytes: &[u8]) -> io::Result<Message> {
    let any = match server {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    // A port of its own for each question is what makes forged answers hard.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(response) = matching(request, &buffer[..length]) {
            return Ok(response);
        }
    }
}

async fn by_stream(server: SocketAddr, request: &Message, bytes: &[u8]) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], bytes].concat()).await?;
    let mut buffer = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut buffer).await?;
    matching(request, &buffer).ok_or_else(|| io::Error::other("the answer is to another question"))
}

/// The answer to this very question, or nothing.
fn matching(request: &Message, bytes: &[u8]) -> Option<Message> {
    let response = Message::from_vec(bytes).ok()?;
    let same_question = |asked: &[Query], said: &[Query]| match (asked, said) {
        ([asked], [said]) => asked.name == said.name && asked.query_type == said.query_type,
        // Some answer errors without the question.
        _ => said.is_empty() && response.metadata.response_code != ResponseCode::NoError,
    };
    (response.metadata.id == request.metadata.id && same_question(&request.queries, &response.queries))
        .then_some(response)
}

/// A name that nobody has, by which a question that comes back is known.
pub(super) fn unique_name(domain: &Name) -> Option<Name> {
    let name = Name::from_ascii(format!("{}.{}", rand::random::<u64>(), rand::random::<u64>())).ok()?;
    name.append_domain(domain).ok()
}
