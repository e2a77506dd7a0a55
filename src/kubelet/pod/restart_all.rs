//! Restarts a whole pod in place: a container that ends as a rule of its says takes all others with it, and
//! everything begins again, init containers first. Sandbox, addresses and volumes stay.

use super::plan::{self, Kind};
use super::slot::{Run, Slot};
use super::worker::Worker;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

/// What becomes of the whole pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum WholePod {
    /// No container may restart the others.
    #[default]
    Fixed,
    /// One may, and has not.
    Restartable,
    /// All containers are being stopped, or wait for their new beginning.
    Restarting,
}

/// Whether a rule of some container can restart all of them.
pub(super) fn is_possible(pod: &Pod) -> bool {
    plan::containers(pod).any(|(c, _)| c.restart_policy_rules.iter().flatten().any(|r| r.action == plan::RESTART_ALL))
}

/// How a slot's current run ended, if that restarts everything.
fn trigger(slot: &Slot) -> Option<Timestamp> {
    if slot.kind == Kind::Ephemeral || slot.outlived {
        return None;
    }
    let exit = slot.run.as_ref()?.exit.as_ref()?;
    let matches = plan::rule(&slot.container, exit.exit_code).is_some_and(|rule| rule.action == plan::RESTART_ALL);
    matches.then(|| exit.finished_at.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0))
}

impl Worker {
    pub(super) fn whole_pod(&self) -> WholePod {
        match (self.restarting_all, is_possible(&self.pod)) {
            (true, _) => WholePod::Restarting,
            (false, true) => WholePod::Restartable,
            (false, false) => WholePod::Fixed,
        }
    }

    /// Takes the next step of a restart of all containers; true while nothing else may be done.
    pub(super) fn restart_all(&mut self, now: Timestamp) -> bool {
        let Some((source, finished)) = self.slots.iter().enumerate().find_map(|(i, s)| Some((i, trigger(s)?))) else {
            self.restarting_all = false;
            return false;
        };
        self.restarting_all = true;
        for index in 0..self.slots.len() {
            let name = self.slots[index].container.name.clone();
            self.stop_at_once(index, &format!("Stopping container {name}, all containers of the pod are restarted"));
        }
        if self.slots.iter().any(|s| s.busy.is_some() || s.run.as_ref().is_some_and(Run::is_running)) {
            return true;
        }
        // Who takes the others along again and again is slowed down as if it were alone.
        if let Some(left) = self.slots[source].crash.remaining(finished, now) {
            let name = self.slots[source].container.name.clone();
            let delay = self.slots[source].crash.delay().unwrap_or(left);
            self.note_crash_loop(&name, delay);
            self.retry_at = Some(now + left);
            return true;
        }
        self.slots[source].crash.advance(finished, now);
        for slot in self.slots.iter_mut().filter(|s| s.kind != Kind::Ephemeral) {
            slot.outlived = slot.run.is_some();
            slot.waiting = None;
            slot.next_waiting = None;
            slot.blocked_until = None;
        }
        self.retry_at = None;
        self.restarting_all = false;
        false
    }
}
