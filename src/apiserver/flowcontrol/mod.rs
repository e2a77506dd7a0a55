//! Priority and fairness: each request is put into a flow by the FlowSchemas, takes seats of its priority
//! level while it runs, waits for them in a fair queue, and is refused (429) where there is no room to wait.
//!
//! Seats are lent at once rather than at intervals, so that nothing here runs on an idle server.

mod cost;
mod dump;
mod keep;
mod level;
mod rules;
mod seats;
#[cfg(test)]
mod tests;

pub(crate) use keep::{follow, writes};
pub(crate) use rules::Schema;
pub(crate) use seats::{Permit, Refusal};

use crate::authn::User;
use crate::metrics::Text;
use crate::pipeline::State;
use crate::request_info::{Query, RequestInfo};
use rules::Rules;
use seats::Seats;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// How long a request may wait for its seats: a quarter of what it may take.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// The flows and the seats.
#[derive(Debug)]
pub(crate) struct FlowControl {
    rules: RwLock<Arc<Rules>>,
    seats: Arc<Seats>,
}

impl FlowControl {
    /// Without any rules yet: everything enters until they are read. `seats` is what all levels share.
    pub(crate) fn new(seats: u32) -> Self {
        Self { rules: RwLock::default(), seats: Arc::new(Seats::new(seats)) }
    }

    /// The flow that a request belongs to.
    pub(crate) fn classify(&self, user: &User, info: &RequestInfo) -> Option<Arc<Schema>> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).find(user, info)
    }

    /// Waits for the request's seats. They are given back when the permit is dropped.
    pub(crate) async fn enter(
        &self,
        state: &State,
        schema: &Arc<Schema>,
        user: &User,
        info: &RequestInfo,
        query: &Query,
    ) -> Result<Permit, Refusal> {
        let seats = cost::seats(&state.cache, info, query);
        Seats::enter(&self.seats, schema, schema.distinguish(user, info), seats, LONGEST_WAIT).await
    }

    /// Takes over what the objects say.
    fn configure(&self, rules: Rules, levels: Vec<level::Spec>) {
        self.seats.configure(levels);
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }

    /// A table for debugging, by its name below `/debug/api_priority_and_fairness/`.
    pub(crate) fn dump(&self, table: &str) -> Option<String> {
        self.seats.dump(table)
    }

    /// Writes the metrics.
    pub(crate) fn render(&self, out: &mut Text) {
        self.seats.render(out);
    }
}
