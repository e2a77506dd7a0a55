//! What objects count against the quotas of their namespace, and whether they fit.
//!
//! Pure, so that admission (which charges) and the quota controller (which counts again) agree.

mod amounts;
mod check;
mod scopes;
mod usage;

pub use amounts::{Amounts, parse, pod_limits, pod_requests, show};
pub use check::{Charge, Operation, Refusal, Request, charge, refund};
pub use scopes::matches;
pub use usage::{matching, usage};

#[cfg(test)]
mod tests;
