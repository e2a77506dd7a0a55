//! One priority level: its share of the seats, and its queues, fair among flows.
//!
//! Each queue has a virtual time up to which it has been served: what its requests took, in seat seconds. The
//! queue that is furthest behind is served next. One that was idle starts where the others are, so that
//! nobody saves up.

use super::rules::{int, text};
use crate::metrics::{Histogram, Text};
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// What a request is taken to last until it is known, in seconds.
pub(super) const GUESS: f64 = 0.003;
/// Buckets of waiting and execution times, in seconds.
const SECONDS: &[f64] = &[0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];
/// Flows of deleted schemas are forgotten beyond this number.
const FLOWS: usize = 256;

/// What an object says of a level.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Spec {
    pub(super) name: Arc<str>,
    pub(super) exempt: bool,
    shares: u32,
    lendable_percent: u32,
    borrowing_limit_percent: Option<u32>,
    /// Queues, hand and length; `None` refuses instead of queuing.
    queuing: Option<Queuing>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Queuing {
    queues: usize,
    hand: usize,
    length: usize,
}

impl Spec {
    /// What a PriorityLevelConfiguration says.
    pub(super) fn of(object: &Value) -> Self {
        let spec = &object["spec"];
        let exempt = text(&spec["type"]) == "Exempt";
        let part = if exempt { &spec["exempt"] } else { &spec["limited"] };
        let number = |value: &Value| u32::try_from(int(value)).unwrap_or(0);
        let queuing = &part["limitResponse"]["queuing"];
        let size = |name: &str| usize::try_from(int(&queuing[name])).unwrap_or(0).max(1);
        Self {
            name: text(&object["metadata"]["name"]).into(),
            exempt,
            shares: number(&part["nominalConcurrencyShares"]),
            lendable_percent: number(&part["lendablePercent"]).min(100),
            borrowing_limit_percent: part["borrowingLimitPercent"].as_i64().map(|p| u32::try_from(p).unwrap_or(0)),
            queuing: (text(&part["limitResponse"]["type"]) == "Queue").then(|| Queuing {
                queues: size("queues"),
                hand: size("handSize").min(size("queues")),
                length: size("queueLengthLimit"),
            }),
        }
    }
}

/// Seats of each level: what it is meant to have, what nobody else gets of it, what it may have at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) nominal: u32,
    pub(super) lower: u32,
    pub(super) upper: u32,
}

/// Divides the seats among the levels.
pub(super) fn divide(total: u32, specs: &[Spec]) -> Vec<Limits> {
    let shares: u64 = specs.iter().map(|spec| u64::from(spec.shares)).sum();
    let nominal = |spec: &Spec| {
        u32::try_from((u64::from(total) * u64::from(spec.shares)).div_ceil(shares.max(1))).unwrap_or(total)
    };
    let percent = |of: u32, percent: u32| u32::try_from((u64::from(of) * u64::from(percent) + 50) / 100).unwrap_or(of);
    let lendable = |spec: &Spec| percent(nominal(spec), spec.lendable_percent);
    let all: u32 = specs.iter().map(lendable).sum();
    let limits = |spec: &Spec| {
        let (nominal, lendable) = (nominal(spec), lendable(spec));
        let others = all - lendable;
        let borrowed = spec.borrowing_limit_percent.map_or(others, |limit| percent(nominal, limit).min(others));
        Limits { nominal, lower: nominal - lendable, upper: nominal.saturating_add(borrowed) }
    };
    specs.iter().map(limits).collect()
}

/// A request that waits for its seats.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) id: u64,
    pub(super) schema: Arc<str>,
    /// What tells its flow from others of the schema.
    pub(super) distinguisher: Box<str>,
    pub(super) seats: u32,
    pub(super) since: Instant,
    pub(super) wake: oneshot::Sender<usize>,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) waiting: VecDeque<Waiting>,
    /// Requests that came from here and run.
    pub(super) running: u32,
    /// Their seats.
    pub(super) executing: u32,
    /// Seat seconds up to which it has been served.
    pub(super) served: f64,
}

impl Queue {
    fn load(&self) -> u32 {
        self.executing + self.waiting.iter().map(|waiting| waiting.seats).sum::<u32>()
    }
}

/// What is counted for the requests of one schema on one level.
#[derive(Debug)]
struct Flow {
    dispatched: u64,
    refused: BTreeMap<&'static str, u64>,
    executing: u32,
    executing_seats: u32,
    waiting: u32,
    waiting_seats: u32,
    waited: Histogram,
    executed: Histogram,
}

impl Default for Flow {
    fn default() -> Self {
        Self {
            dispatched: 0,
            refused: BTreeMap::new(),
            executing: 0,
            executing_seats: 0,
            waiting: 0,
            waiting_seats: 0,
            waited: Histogram::new(SECONDS),
            executed: Histogram::new(SECONDS),
        }
    }
}

/// How many requests of a level run, ran, or did not.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) executing: u32,
    pub(super) dispatched: u64,
    pub(super) rejected: u64,
    pub(super) timed_out: u64,
    pub(super) cancelled: u64,
}

/// A level's state.
#[derive(Debug)]
pub(super) struct Level {
    pub(super) spec: Spec,
    pub(super) limits: Limits,
    /// Whether its object is gone; it lasts until its requests have ended.
    pub(super) retired: bool,
    pub(super) executing: u32,
    pub(super) waiting: usize,
    queues: Vec<Queue>,
    /// Where the queue served last stood.
    virtual_time: f64,
    flows: BTreeMap<Arc<str>, Flow>,
    back_off: BackOff,
}

impl Level {
    pub(super) fn new(spec: Spec, limits: Limits) -> Self {
        let queues = spec.queuing.map_or(0, |queuing| queuing.queues);
        Self {
            spec,
            limits,
            retired: false,
            executing: 0,
            waiting: 0,
            queues: std::iter::repeat_with(Queue::default).take(queues).collect(),
            virtual_time: 0.0,
            flows: BTreeMap::new(),
            back_off: BackOff::default(),
        }
    }

    /// Takes over a changed object. Who waits in a queue that is no more waits in another.
    pub(super) fn configure(&mut self, spec: Spec, limits: Limits) {
        (self.limits, self.retired) = (limits, false);
        let queues = spec.queuing.map_or(usize::from(self.waiting > 0), |queuing| queuing.queues);
        self.spec = spec;
        if queues < self.queues.len() {
            for (number, queue) in self.queues.split_off(queues).into_iter().enumerate() {
                if let Some(heir) = self.queues.get_mut(number % queues.max(1)) {
                    heir.waiting.extend(queue.waiting);
                }
            }
        }
        self.queues.resize_with(queues.max(self.queues.len()), Queue::default);
    }

    /// No request may take more than about a seventh of its level.
    pub(super) fn width(&self, seats: u32) -> u32 {
        let hand = self.spec.queuing.map_or(1, |queuing| u32::try_from(queuing.hand).unwrap_or(1));
        let widest = self.limits.nominal.saturating_mul(15).div_ceil(100).min(self.limits.nominal / hand.max(1));
        if self.spec.exempt { seats } else { seats.min(widest.max(1)) }
    }

    fn flow(&mut self, schema: &Arc<str>) -> &mut Flow {
        if self.flows.len() >= FLOWS {
            self.flows.retain(|_, flow| flow.executing > 0 || flow.waiting > 0);
        }
        self.flows.entry(Arc::clone(schema)).or_default()
    }

    /// Gives seats to a request, which waited in `queue` if it did.
    pub(super) fn start(&mut self, schema: &Arc<str>, seats: u32, queue: Option<usize>, waited: Duration) {
        self.executing += seats;
        if let Some(queue) = queue.and_then(|queue| self.queues.get_mut(queue)) {
            queue.running += 1;
            queue.executing += seats;
            self.virtual_time = self.virtual_time.max(queue.served);
            queue.served += f64::from(seats) * GUESS;
        }
        let flow = self.flow(schema);
        flow.dispatched += 1;
        flow.executing += 1;
        flow.executing_seats += seats;
        flow.waited.observe(waited);
    }

    /// Takes the seats back.
    pub(super) fn finish(&mut self, schema: &Arc<str>, seats: u32, queue: Option<usize>, took: Duration) {
        self.executing = self.executing.saturating_sub(seats);
        if let Some(queue) = queue.and_then(|queue| self.queues.get_mut(queue)) {
            queue.running = queue.running.saturating_sub(1);
            queue.executing = queue.executing.saturating_sub(seats);
            queue.served += f64::from(seats) * (took.as_secs_f64() - GUESS);
        }
        let flow = self.flow(schema);
        flow.executing = flow.executing.saturating_sub(1);
        flow.executing_seats = flow.executing_seats.saturating_sub(seats);
        flow.executed.observe(took);
    }

    /// Lets a request wait in the least loaded queue of its hand. `Err` says why it may not.
    pub(super) fn enqueue(&mut self, waiting: Waiting, flow_hash: u64) -> Result<(), &'static str> {
        let Some(queuing) = self.spec.queuing else { return Err("concurrency-limit") };
        let hand = deal(flow_hash, self.queues.len(), queuing.hand);
        let Some(at) = hand.into_iter().min_by_key(|at| self.queues[*at].load()) else { return Err("queue-full") };
        let queue = &mut self.queues[at];
        if queue.waiting.len() >= queuing.length {
            return Err("queue-full");
        }
        if queue.waiting.is_empty() && queue.executing == 0 {
            queue.served = queue.served.max(self.virtual_time);
        }
        let (schema, seats) = (Arc::clone(&waiting.schema), waiting.seats);
        queue.waiting.push_back(waiting);
        self.waiting += 1;
        let flow = self.flow(&schema);
        flow.waiting += 1;
        flow.waiting_seats += seats;
        Ok(())
    }

    /// The queue to be served next, and the seats that its first request needs.
    pub(super) fn next(&self) -> Option<(usize, u32)> {
        let behind = |queue: &Queue| queue.served;
        let waiting = self.queues.iter().enumerate().filter(|(_, queue)| !queue.waiting.is_empty());
        let (at, queue) = waiting.min_by(|(_, a), (_, b)| behind(a).total_cmp(&behind(b)))?;
        Some((at, queue.waiting.front()?.seats))
    }

    /// Takes the first request of a queue out of it.
    pub(super) fn pop(&mut self, queue: usize) -> Option<Waiting> {
        let waiting = self.queues.get_mut(queue)?.waiting.pop_front()?;
        self.left(&waiting);
        Some(waiting)
    }

    /// Takes a request that gave up out of its queue; `None` when it is in none any more.
    pub(super) fn remove(&mut self, id: u64) -> Option<Waiting> {
        let found = self.queues.iter_mut().find_map(|queue| {
            let at = queue.waiting.iter().position(|waiting| waiting.id == id)?;
            queue.waiting.remove(at)
        });
        if let Some(waiting) = &found {
            self.left(waiting);
        }
        found
    }

    fn left(&mut self, waiting: &Waiting) {
        self.waiting -= 1;
        let flow = self.flow(&waiting.schema);
        flow.waiting = flow.waiting.saturating_sub(1);
        flow.waiting_seats = flow.waiting_seats.saturating_sub(waiting.seats);
    }

    /// Counts a refusal, and says after how many seconds to try again.
    pub(super) fn refuse(&mut self, schema: &Arc<str>, reason: &'static str, now: Instant) -> u32 {
        *self.flow(schema).refused.entry(reason).or_default() += 1;
        self.back_off.refused(now)
    }

    /// The queues, in order.
    pub(super) fn queues(&self) -> impl Iterator<Item = &Queue> {
        self.queues.iter()
    }

    /// Requests of all flows.
    pub(super) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for flow in self.flows.values() {
            counts.executing += flow.executing;
            counts.dispatched += flow.dispatched;
            for (reason, count) in &flow.refused {
                *match *reason {
                    "time-out" => &mut counts.timed_out,
                    "cancelled" => &mut counts.cancelled,
                    _ => &mut counts.rejected,
                } += count;
            }
        }
        counts
    }

    pub(super) fn is_idle(&self) -> bool {
        self.executing == 0 && self.waiting == 0
    }

    /// Writes one family of the metrics that are kept for each flow.
    pub(super) fn render_flows(&self, family: Family, name: &str, out: &mut Text) {
        for (schema, flow) in &self.flows {
            let labels = [("priority_level", &*self.spec.name), ("flow_schema", &**schema)];
            match family {
                Family::Dispatched => out.sample(name, &labels, flow.dispatched),
                Family::Executing => out.sample(name, &labels, flow.executing),
                Family::ExecutingSeats => out.sample(name, &labels, flow.executing_seats),
                Family::Waiting => out.sample(name, &labels, flow.waiting),
                Family::WaitingSeats => out.sample(name, &labels, flow.waiting_seats),
                Family::Refused => {
                    for (reason, count) in &flow.refused {
                        out.sample(name, &[labels[0], labels[1], ("reason", reason)], *count);
                    }
                }
                Family::Waited => out.histogram(name, &[labels[0], labels[1], ("execute", "true")], &flow.waited),
                Family::Executed => out.histogram(name, &[labels[0], labels[1], ("type", "regular")], &flow.executed),
            }
        }
    }
}

/// What is told of each flow.
#[derive(Debug, Clone, Copy)]
pub(super) enum Family {
    Dispatched,
    Executing,
    ExecutingSeats,
    Waiting,
    WaitingSeats,
    Refused,
    Waited,
    Executed,
}

/// After how many seconds refused clients may return: longer while many are refused.
#[derive(Debug)]
struct BackOff {
    seconds: u32,
    refused: u32,
    since: Option<Instant>,
}

impl Default for BackOff {
    fn default() -> Self {
        Self { seconds: 1, refused: 0, since: None }
    }
}

impl BackOff {
    const LONGEST: u32 = 32;

    fn refused(&mut self, now: Instant) -> u32 {
        let since = *self.since.get_or_insert(now);
        let passed = u32::try_from(now.duration_since(since).as_secs()).unwrap_or(u32::MAX);
        if passed >= self.seconds {
            // Three in each second say that the last answer sent them back too soon.
            self.seconds = match self.refused / passed.max(1) {
                0 => self.seconds.saturating_sub(passed / self.seconds),
                1..3 => self.seconds,
                _ => self.seconds + 1,
            }
            .clamp(1, Self::LONGEST);
            (self.refused, self.since) = (0, Some(now));
        }
        self.refused += 1;
        self.seconds
    }
}

/// Deals `hand` different numbers below `deck`, always the same for the same hash.
pub(super) fn deal(mut hash: u64, deck: usize, hand: usize) -> Vec<usize> {
    let mut dealt: Vec<usize> = Vec::with_capacity(hand);
    for taken in 0..hand.min(deck) {
        let left = (deck - taken) as u64;
        let mut card = (hash % left) as usize;
        hash /= left;
        // The card'th of those that are left.
        let mut sorted = dealt.clone();
        sorted.sort_unstable();
        for held in sorted {
            if held <= card {
                card += 1;
            }
        }
        dealt.push(card);
    }
    dealt
}
