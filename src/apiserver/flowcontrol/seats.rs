//! The seats of all levels under one lock, and the requests that hold or await them.
//!
//! A level below its nominal number of seats comes before those that borrow. A seat is lent while its owner
//! has no use for it, and comes back when the borrower's request ends; what a level may not lend stays free.

use super::dump;
use super::level::{Family, Level, Spec, Waiting, divide};
use super::rules::Schema;
use crate::metrics::Text;
use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// A request that may not run now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// When to try again.
    pub(crate) retry_after_seconds: u32,
}

/// All seats.
#[derive(Debug)]
pub(super) struct Seats {
    state: Mutex<State>,
    hasher: RandomState,
}

#[derive(Debug)]
struct State {
    total: u32,
    levels: BTreeMap<Arc<str>, Level>,
    /// Requests waiting on all levels.
    waiting: usize,
    next_id: u64,
}

/// Seats held. Dropping it gives them back.
#[derive(Debug)]
pub(crate) struct Permit {
    seats: Arc<Seats>,
    schema: Arc<Schema>,
    width: u32,
    queue: Option<usize>,
    started: Instant,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        let mut state = self.seats.state();
        if let Some(level) = state.levels.get_mut(&self.schema.level) {
            level.finish(&self.schema.name, self.width, self.queue, took);
            if level.retired && level.is_idle() {
                state.levels.remove(&self.schema.level);
            }
        }
        state.dispatch();
    }
}

/// A place in a queue. Dropping it gives the place up, or the seats if they were given meanwhile.
struct Place {
    seats: Arc<Seats>,
    schema: Arc<Schema>,
    id: u64,
    width: u32,
    seated: oneshot::Receiver<usize>,
}

impl Place {
    /// Ends the waiting: the seats if they were given, or how the refusal goes.
    fn end(&mut self, reason: &'static str) -> Result<Permit, Refusal> {
        let mut state = self.seats.state();
        let refused = state.levels.get_mut(&self.schema.level).and_then(|level| {
            level.remove(self.id)?;
            Some(level.refuse(&self.schema.name, reason, Instant::now()))
        });
        if refused.is_some() {
            state.waiting -= 1;
        }
        drop(state);
        match refused {
            Some(retry_after_seconds) => Err(Refusal { retry_after_seconds }),
            None => match self.seated.try_recv() {
                Ok(queue) => Ok(self.permit(queue)),
                Err(_) => Err(Refusal { retry_after_seconds: 1 }),
            },
        }
    }

    fn permit(&self, queue: usize) -> Permit {
        Permit {
            seats: Arc::clone(&self.seats),
            schema: Arc::clone(&self.schema),
            width: self.width,
            queue: Some(queue),
            started: Instant::now(),
        }
    }
}

/// A `Place` that has not been ended.
struct Waiter(Option<Place>);

impl Drop for Waiter {
    fn drop(&mut self) {
        if let Some(mut place) = self.0.take() {
            drop(place.end("cancelled"));
        }
    }
}

impl Seats {
    pub(super) fn new(total: u32) -> Self {
        let state = State { total, levels: BTreeMap::new(), waiting: 0, next_id: 0 };
        Self { state: Mutex::new(state), hasher: RandomState::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over the levels that there are now.
    pub(super) fn configure(&self, specs: Vec<Spec>) {
        let mut state = self.state();
        let limits = divide(state.total, &specs);
        for level in state.levels.values_mut() {
            level.retired = true;
        }
        for (spec, limits) in specs.into_iter().zip(limits) {
            match state.levels.get_mut(&spec.name) {
                Some(level) => level.configure(spec, limits),
                None => drop(state.levels.insert(Arc::clone(&spec.name), Level::new(spec, limits))),
            }
        }
        state.levels.retain(|_, level| !level.retired || !level.is_idle());
        state.dispatch();
    }

    /// Waits for seats.
    pub(super) async fn enter(
        seats: &Arc<Self>,
        schema: &Arc<Schema>,
        distinguisher: &str,
        width: u32,
        patience: Duration,
    ) -> Result<Permit, Refusal> {
        let (place, patience) = match Self::arrive(seats, schema, distinguisher, width) {
            Arrival::Seated(permit) => return Ok(permit),
            Arrival::Refused(refusal) => return Err(refusal),
            Arrival::Waiting(place) => (place, patience),
        };
        let mut waiter = Waiter(Some(place));
        let seated = match &mut waiter.0 {
            Some(place) => tokio::time::timeout(patience, &mut place.seated).await,
            None => return Err(Refusal { retry_after_seconds: 1 }),
        };
        let Some(mut place) = waiter.0.take() else { return Err(Refusal { retry_after_seconds: 1 }) };
        match seated {
            Ok(Ok(queue)) => Ok(place.permit(queue)),
            _ => place.end("time-out"),
        }
    }

    fn arrive(seats: &Arc<Self>, schema: &Arc<Schema>, distinguisher: &str, width: u32) -> Arrival {
        let now = Instant::now();
        let mut state = seats.state();
        // Only until the rules have been read, or when the level has just gone.
        let Some(level) = state.levels.get(&schema.level) else {
            drop(state);
            return Arrival::Seated(permit(seats, schema, 0, now));
        };
        let width = level.width(width);
        let at_once = level.spec.exempt || (level.waiting == 0 && state.fits(level, width));
        let id = state.next_id + 1;
        let State { levels, waiting, next_id, .. } = &mut *state;
        let Some(level) = levels.get_mut(&schema.level) else {
            return Arrival::Refused(Refusal { retry_after_seconds: 1 });
        };
        if at_once {
            level.start(&schema.name, width, None, Duration::ZERO);
            drop(state);
            return Arrival::Seated(permit(seats, schema, width, now));
        }
        *next_id = id;
        let (wake, seated) = oneshot::channel();
        let request = Waiting {
            id,
            schema: Arc::clone(&schema.name),
            distinguisher: distinguisher.into(),
            seats: width,
            since: now,
            wake,
        };
        let flow = seats.hasher.hash_one((&*schema.name, distinguisher));
        match level.enqueue(request, flow) {
            Err(reason) => {
                let retry_after_seconds = level.refuse(&schema.name, reason, now);
                Arrival::Refused(Refusal { retry_after_seconds })
            }
            Ok(()) => {
                *waiting += 1;
                drop(state);
                let (seats, schema) = (Arc::clone(seats), Arc::clone(schema));
                Arrival::Waiting(Place { seats, schema, id, width, seated })
            }
        }
    }

    /// A table of what there is now; `None` when there is none of that name.
    pub(super) fn dump(&self, table: &str) -> Option<String> {
        dump::table(table, self.state().levels.values())
    }

    /// Writes the metrics under upstream's names.
    pub(super) fn render(&self, out: &mut Text) {
        const PREFIX: &str = "apiserver_flowcontrol_";
        let state = self.state();
        for (name, kind, family, help) in FAMILIES {
            let name = format!("{PREFIX}{name}");
            out.family(&name, kind, help);
            for level in state.levels.values() {
                level.render_flows(*family, &name, out);
            }
        }
        for (name, help, value) in LIMITS {
            let name = format!("{PREFIX}{name}");
            out.family(&name, "gauge", help);
            for level in state.levels.values() {
                out.sample(&name, &[("priority_level", &*level.spec.name)], value(level));
            }
        }
    }
}

/// Families that are kept for each flow: name, type, content, help.
const FAMILIES: &[(&str, &str, Family, &str)] = &[
    ("dispatched_requests_total", "counter", Family::Dispatched, "Requests that got their seats."),
    ("rejected_requests_total", "counter", Family::Refused, "Requests that were refused, by reason."),
    ("current_executing_requests", "gauge", Family::Executing, "Requests that hold seats."),
    ("current_executing_seats", "gauge", Family::ExecutingSeats, "Seats that are held."),
    ("current_inqueue_requests", "gauge", Family::Waiting, "Requests that wait in queues."),
    ("current_inqueue_seats", "gauge", Family::WaitingSeats, "Seats that are waited for."),
    ("request_wait_duration_seconds", "histogram", Family::Waited, "How long requests waited for their seats."),
    ("request_execution_seconds", "histogram", Family::Executed, "How long requests held their seats."),
];

type Number = fn(&Level) -> u32;

/// Numbers of each level: name, help, value.
const LIMITS: &[(&str, &str, Number)] = &[
    ("nominal_limit_seats", "Seats that a level is meant to have.", |level| level.limits.nominal),
    ("lower_limit_seats", "Seats that a level does not lend.", |level| level.limits.lower),
    ("upper_limit_seats", "Seats that a level may have with borrowed ones.", |level| level.limits.upper),
    ("current_limit_seats", "Seats that a level may have now.", |level| level.limits.upper),
    ("request_concurrency_limit", "Seats that a level is meant to have.", |level| level.limits.nominal),
    ("request_concurrency_in_use", "Seats that are held on a level.", |level| level.executing),
];

enum Arrival {
    Seated(Permit),
    Waiting(Place),
    Refused(Refusal),
}

fn permit(seats: &Arc<Seats>, schema: &Arc<Schema>, width: u32, started: Instant) -> Permit {
    Permit { seats: Arc::clone(seats), schema: Arc::clone(schema), width, queue: None, started }
}

impl State {
    /// Whether a level may take so many more seats now.
    fn fits(&self, level: &Level, seats: u32) -> bool {
        let after = level.executing + seats;
        if after <= level.limits.lower {
            return true;
        }
        // A level without any seats is a jail. What is wider than its whole level runs alone.
        if level.limits.upper == 0 {
            return false;
        }
        if after > level.limits.upper && level.executing > 0 {
            return false;
        }
        let others = self.levels.values().filter(|other| !std::ptr::eq(*other, level));
        let taken = |other: &Level| {
            let used = if other.spec.exempt { other.executing.min(other.limits.nominal) } else { other.executing };
            used.max(other.limits.lower)
        };
        let taken: u32 = others.map(taken).sum();
        taken.saturating_add(after) <= self.total || level.executing == 0
    }

    /// Gives free seats to who waits: levels below their nominal number first, the emptier the sooner.
    fn dispatch(&mut self) {
        while self.waiting > 0 {
            let mut order: Vec<(f64, &Arc<str>)> = self
                .levels
                .iter()
                .filter(|(_, level)| level.waiting > 0)
                .map(|(name, level)| (f64::from(level.executing) / f64::from(level.limits.nominal.max(1)), name))
                .collect();
            order.sort_by(|a, b| a.0.total_cmp(&b.0));
            let chosen = order.into_iter().find_map(|(_, name)| {
                let level = self.levels.get(name)?;
                let (queue, seats) = level.next()?;
                (level.spec.exempt || self.fits(level, seats)).then(|| (Arc::clone(name), queue))
            });
            let Some((name, queue)) = chosen else { return };
            let Some(level) = self.levels.get_mut(&name) else { return };
            let Some(waiting) = level.pop(queue) else { return };
            self.waiting -= 1;
            // Who has just given up leaves the seats to the next.
            if !waiting.wake.is_closed() {
                level.start(&waiting.schema, waiting.seats, Some(queue), waiting.since.elapsed());
                if waiting.wake.send(queue).is_err() {
                    level.finish(&waiting.schema, waiting.seats, Some(queue), Duration::ZERO);
                }
            }
        }
    }
}
