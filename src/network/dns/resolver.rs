//! One question's way: static hosts, the cluster's zone, and at last other resolvers.

use super::cache::{Answer, Key};
use super::forward::{DATAGRAM, Forwarder, exchange, unique_name};
use super::metrics::Metrics;
use super::overrides::{DnsConfigMap, Overrides, name_servers, search_domains};
use super::search::{Namespaces, Search};
use super::zone::{Lookup, Zone, addresses, alias};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::Notify;

/// Names that may stand for one another in one answer.
const MAX_ALIASES: usize = 8;
/// How often the node's resolv.conf is looked at, and only when somebody asks.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Bytes of a datagram for clients that name no size.
const PLAIN_DATAGRAM: u16 = 512;

/// Answers questions.
#[derive(Debug)]
pub(super) struct Resolver {
    zone: Zone,
    forwarder: Forwarder,
    /// Addresses on which we answer: a resolver that has one of them is ourselves.
    own: Vec<IpAddr>,
    resolv_conf: PathBuf,
    /// Leaf lock.
    settings: RwLock<Settings>,
    /// A name that we sent out; it must not come back.
    probe: RwLock<Option<Name>>,
    /// Other resolvers are to be used, which may send our questions back.
    changed: Notify,
    search: Search,
    pub(super) metrics: Metrics,
}

#[derive(Debug, Default)]
struct Settings {
    overrides: Arc<Overrides>,
    /// The node's resolvers.
    node: Arc<Vec<SocketAddr>>,
    /// The domains in which the node, and so its pods, look for names.
    searches: Arc<Vec<Name>>,
    /// When resolv.conf was looked at, and how old it was then.
    looked: Option<(Instant, Option<SystemTime>)>,
    /// A resolver that sends our questions back.
    looping: Vec<SocketAddr>,
}

/// How a question goes on.
#[derive(Debug)]
pub(super) enum Step {
    /// Answered.
    Reply(Box<Message>),
    /// Others must be asked.
    Ask(Box<Asking>),
    /// Not a question.
    Ignore,
}

/// A question that others must answer.
#[derive(Debug)]
pub(super) struct Asking {
    request: Message,
    aliases: Vec<Record>,
    key: Key,
    /// What the name stands for if it is not this: the rest of the client's search list.
    others: VecDeque<Name>,
    /// The name that the client asked for first in its search list, and nobody has.
    searched: Option<Name>,
}

impl Resolver {
    pub(super) fn new(zone: Zone, own: Vec<IpAddr>, resolv_conf: PathBuf, namespaces: Namespaces) -> Self {
        Self {
            changed: Notify::new(),
            search: Search::new(namespaces, zone.apex()),
            zone,
            forwarder: Forwarder::new(),
            own,
            resolv_conf,
            settings: RwLock::default(),
            probe: RwLock::default(),
            metrics: Metrics::default(),
        }
    }

    /// Takes in the ConfigMap, or its absence.
    pub(super) fn configure(&self, config: Option<&DnsConfigMap>) {
        let overrides = Overrides::read(config.unwrap_or(&DnsConfigMap::default()));
        for problem in &overrides.problems {
            tracing::warn!("ConfigMap kube-system/naru-dns, {problem}");
        }
        let mut settings = self.settings.write().unwrap_or_else(PoisonError::into_inner);
        settings.overrides = Arc::new(overrides);
        settings.looping.clear();
        self.changed.notify_one();
    }

    /// Answers what can be answered at once. Beside it: the size of datagrams that the client takes, if it says so.
    pub(super) fn begin(&self, bytes: &[u8], client: IpAddr) -> (Step, Option<u16>) {
        match Message::from_vec(bytes) {
            Ok(request) if request.metadata.message_type == MessageType::Response => (Step::Ignore, None),
            Ok(request) => {
                let payload = request.edns.as_ref().map(Edns::max_payload);
                (self.admit(request, client), payload)
            }
            Err(_) => (malformed(bytes), None),
        }
    }

    fn admit(&self, request: Message, client: IpAddr) -> Step {
        let question = match request.queries.as_slice() {
            _ if request.metadata.op_code != OpCode::Query => return refuse(&request, ResponseCode::NotImp),
            _ if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) => {
                return refuse(&request, ResponseCode::BADVERS);
            }
            [question] => question.clone(),
            _ => return refuse(&request, ResponseCode::FormErr),
        };
        match question.query_type {
            _ if question.query_class != DNSClass::IN => return refuse(&request, ResponseCode::Refused),
            RecordType::AXFR | RecordType::IXFR => return refuse(&request, ResponseCode::Refused),
            RecordType::ANY => return refuse(&request, ResponseCode::NotImp),
            _ => {}
        }
        // Before the caches are filled nothing of the cluster can be said not to exist; others' names can be asked for.
        if !self.zone.is_known() && self.zone.may_know(&question.name) {
            return refuse(&request, ResponseCode::ServFail);
        }
        self.resolve(request, &question, client)
    }

    fn resolve(&self, request: Message, question: &Query, client: IpAddr) -> Step {
        let dnssec = request.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
        let overrides = self.settings.read().unwrap_or_else(PoisonError::into_inner).overrides.clone();
        let kind = question.query_type;
        let mut aliases = Vec::new();
        let mut name = question.name.clone();
        for _ in 0..MAX_ALIASES {
            let lookup = match overrides.hosts.get(&name) {
                Some(found) => addresses(&name, kind, found),
                None => self.zone.lookup(&name, kind),
            };
            let authorities = || vec![self.zone.authority()];
            let answer = match lookup {
                Lookup::Found { answers, additionals } => Answer { answers, additionals, ..Answer::default() },
                Lookup::NoData => Answer { authorities: authorities(), ..Answer::default() },
                Lookup::NoName if aliases.is_empty() && matches!(kind, RecordType::A | RecordType::AAAA) => {
                    match self.go_on_searching(&overrides, &name, kind, client) {
                        Found::Here(other) => {
                            self.metrics.searched();
                            aliases.push(alias(&name, &other));
                            name = other;
                            continue;
                        }
                        Found::Elsewhere(mut others) => {
                            let Some(first) = others.pop_front() else { continue };
                            let (searched, key) = (Some(name), Key { name: first, kind, dnssec });
                            return Step::Ask(Box::new(Asking { request, aliases, key, others, searched }));
                        }
                        Found::Nowhere => self.no_name(),
                    }
                }
                Lookup::NoName => {
                    Answer { code: ResponseCode::NXDomain, authorities: authorities(), ..Answer::default() }
                }
                Lookup::Alias(record, target) => {
                    aliases.push(*record);
                    if kind != RecordType::CNAME {
                        name = target;
                        continue;
                    }
                    Answer::default()
                }
                Lookup::NotOurs => {
                    let key = Key { name, kind, dnssec };
                    let cached = self.forwarder.cached(&key);
                    self.metrics.looked_in_cache(cached.is_some());
                    return match cached {
                        Some(answer) => Step::Reply(Box::new(respond(&request, aliases, answer, false))),
                        None => {
                            let (others, searched) = (VecDeque::new(), None);
                            Step::Ask(Box::new(Asking { request, aliases, key, others, searched }))
                        }
                    };
                }
            };
            return Step::Reply(Box::new(respond(&request, aliases, answer, true)));
        }
        refuse(&request, ResponseCode::ServFail)
    }

    fn no_name(&self) -> Answer {
        let authorities = vec![self.zone.authority()];
        Answer { code: ResponseCode::NXDomain, authorities, ..Answer::default() }
    }

    /// What a client's search list leads to behind its first name, which nobody has.
    fn go_on_searching(&self, overrides: &Overrides, name: &Name, kind: RecordType, client: IpAddr) -> Found {
        let mut names: VecDeque<Name> = self.search.after(name, client, || self.searches()).into();
        while let Some(name) = names.front() {
            if overrides.hosts.contains_key(name) {
                return Found::Here(name.clone());
            }
            match self.zone.lookup(name, kind) {
                Lookup::NoName => {}
                Lookup::NotOurs => return Found::Elsewhere(names),
                Lookup::Found { .. } | Lookup::NoData | Lookup::Alias(..) => return Found::Here(name.clone()),
            }
            names.pop_front();
        }
        Found::Nowhere
    }

    /// Asks others.
    pub(super) async fn finish(&self, asking: Asking) -> Message {
        let Asking { request, mut aliases, mut key, mut others, searched } = asking;
        let came_back = self.probe.read().unwrap_or_else(PoisonError::into_inner).as_ref() == Some(&key.name);
        if came_back {
            self.metrics.probe_returned();
            return respond(&request, aliases, Answer::code(ResponseCode::Refused), false);
        }
        loop {
            let answer = self.ask_others(key.clone()).await;
            let Some(searched) = &searched else { return respond(&request, aliases, answer, false) };
            match answer.code {
                ResponseCode::NoError => {
                    self.metrics.searched();
                    aliases.push(alias(searched, &key.name));
                    return respond(&request, aliases, answer, false);
                }
                ResponseCode::NXDomain => match others.pop_front() {
                    Some(name) => key.name = name,
                    None => return respond(&request, aliases, self.no_name(), true),
                },
                // The client goes on by itself, and gets to see what failed.
                _ => return respond(&request, aliases, self.no_name(), true),
            }
        }
    }

    async fn ask_others(&self, key: Key) -> Answer {
        if let Some(answer) = self.forwarder.cached(&key) {
            return answer;
        }
        let servers = self.servers(&key.name);
        if servers.is_empty() {
            return Answer::code(ResponseCode::ServFail);
        }
        let started = Instant::now();
        let (answer, stale) = self.forwarder.ask(&servers, key).await;
        self.metrics.forwarded(started.elapsed());
        if stale {
            self.metrics.served_stale();
        }
        answer
    }

    /// Who is to be asked about a name.
    fn servers(&self, name: &Name) -> Vec<SocketAddr> {
        let settings = self.settings.read().unwrap_or_else(PoisonError::into_inner);
        let (overrides, looping) = (settings.overrides.clone(), settings.looping.clone());
        drop(settings);
        let servers = match (overrides.stub(name), overrides.upstreams.as_slice()) {
            (Some(stub), _) => Arc::new(stub.to_vec()),
            (None, []) => self.node_servers(),
            (None, upstreams) => Arc::new(upstreams.to_vec()),
        };
        servers.iter().filter(|server| !looping.contains(server)).copied().collect()
    }

    fn searches(&self) -> Arc<Vec<Name>> {
        self.node_servers();
        self.settings.read().unwrap_or_else(PoisonError::into_inner).searches.clone()
    }

    /// The node's resolvers, read again when the file has changed.
    fn node_servers(&self) -> Arc<Vec<SocketAddr>> {
        let now = Instant::now();
        let mut settings = self.settings.write().unwrap_or_else(PoisonError::into_inner);
        if let Some((looked, _)) = settings.looked
            && now.duration_since(looked) < LOOK_AGAIN
        {
            return settings.node.clone();
        }
        let modified = std::fs::metadata(&self.resolv_conf).and_then(|file| file.modified()).ok();
        if settings.looked.is_none_or(|(_, before)| before != modified) {
            let text = std::fs::read_to_string(&self.resolv_conf).unwrap_or_default();
            let mut servers = name_servers(&text);
            servers.retain(|server| !self.own.contains(&server.ip()));
            if servers.is_empty() {
                let path = self.resolv_conf.display();
                tracing::warn!("{path} names no resolver but this one: only the cluster's names are known");
            }
            settings.node = Arc::new(servers);
            settings.searches = Arc::new(search_domains(&text));
            settings.looping.clear();
            self.changed.notify_one();
        }
        settings.looked = Some((now, modified));
        settings.node.clone()
    }

    /// Finds resolvers that ask us what we asked them whenever there are others, and leaves them out from then on.
    pub(super) async fn watch_for_loops(&self) {
        loop {
            // Reading the node's resolvers for the first time counts as a change that needs no second look.
            self.node_servers();
            let _ = tokio::time::timeout(Duration::ZERO, self.changed.notified()).await;
            self.find_loops().await;
            self.changed.notified().await;
        }
    }

    pub(super) async fn find_loops(&self) {
        let overrides = self.settings.read().unwrap_or_else(PoisonError::into_inner).overrides.clone();
        let root = [Name::root()];
        for domain in overrides.stubs.iter().map(|(domain, _)| domain).chain(&root) {
            self.find_loops_below(domain).await;
        }
        *self.probe.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    async fn find_loops_below(&self, domain: &Name) {
        let Some(name) = unique_name(domain) else { return };
        for server in self.servers(&name) {
            let Some(name) = unique_name(domain) else { return };
            *self.probe.write().unwrap_or_else(PoisonError::into_inner) = Some(name.clone());
            let before = self.metrics.probes_returned();
            let key = Key { name, kind: RecordType::HINFO, dnssec: false };
            // What it answers does not matter, only whether the question reaches us.
            let _ = exchange(server, &key).await;
            if self.metrics.probes_returned() > before {
                tracing::warn!(
                    "forwarding loop: the resolver {server} sends questions back to the cluster's DNS and is left \
                     out; name others in --resolv-conf, or in upstreamNameservers of ConfigMap kube-system/naru-dns"
                );
                self.settings.write().unwrap_or_else(PoisonError::into_inner).looping.push(server);
            }
        }
    }

    /// Answers of others that are remembered.
    pub(super) fn remembered(&self) -> usize {
        self.forwarder.remembered()
    }
}

/// The answer to a question.
fn respond(request: &Message, aliases: Vec<Record>, answer: Answer, authoritative: bool) -> Message {
    let mut response = Message::response(request.metadata.id, request.metadata.op_code);
    let metadata = &mut response.metadata;
    metadata.recursion_desired = request.metadata.recursion_desired;
    metadata.checking_disabled = request.metadata.checking_disabled;
    metadata.recursion_available = true;
    metadata.authoritative = authoritative;
    metadata.authentic_data = answer.authentic;
    metadata.response_code = answer.code;
    response.queries.clone_from(&request.queries);
    response.answers = aliases;
    response.answers.extend(answer.answers);
    response.authorities = answer.authorities;
    response.additionals = answer.additionals;
    if let Some(asked) = &request.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(DATAGRAM).set_version(0).set_dnssec_ok(asked.flags().dnssec_ok);
        response.set_edns(edns);
    }
    response
}

fn refuse(request: &Message, code: ResponseCode) -> Step {
    Step::Reply(Box::new(respond(request, Vec::new(), Answer::code(code), false)))
}

/// Where a search list leads.
enum Found {
    /// To this name of ours.
    Here(Name),
    /// To the first of these that others know.
    Elsewhere(VecDeque<Name>),
    /// To nothing.
    Nowhere,
}

/// Something with a header at least gets an answer.
fn malformed(bytes: &[u8]) -> Step {
    const RESPONSE: u8 = 0x80;
    match bytes {
        [high, low, flags, ..] if bytes.len() >= 12 && flags & RESPONSE == 0 => {
            let id = u16::from_be_bytes([*high, *low]);
            Step::Reply(Box::new(Message::error_msg(id, OpCode::Query, ResponseCode::FormErr)))
        }
        _ => Step::Ignore,
    }
}

/// Encodes an answer for a datagram: what does not fit is left out, and the client told so. Some answers are
/// better than none for clients that never ask by TCP.
pub(super) fn datagram(request_size: Option<u16>, mut response: Message) -> Option<Vec<u8>> {
    let limit = request_size.unwrap_or(PLAIN_DATAGRAM).clamp(PLAIN_DATAGRAM, DATAGRAM).into();
    loop {
        let bytes = response.to_vec().ok()?;
        if bytes.len() <= limit {
            return Some(bytes);
        }
        if !response.additionals.is_empty() {
            response.additionals.clear();
        } else if response.answers.is_empty() {
            response = response.truncate();
        } else {
            response.metadata.truncation = true;
            let keep = (response.answers.len() * limit / bytes.len()).min(response.answers.len() - 1);
            response.answers.truncate(keep);
        }
    }
}
