//! What happened to a pod while its worker was busy. Filled from anywhere, emptied by the worker.

use super::slot::StartResult;
use crate::probe::{Report, state::ProbeKind};
use k8s_openapi::api::core::v1::Pod;
use naru_runtime::Exit;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// A probing task's report about one run of a container.
#[derive(Debug)]
pub(crate) struct ProbeReport {
    pub(crate) container: String,
    pub(crate) container_id: String,
    pub(crate) kind: ProbeKind,
    pub(crate) report: Report,
}

/// Why a pod has to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Eviction {
    /// What it is counted under.
    pub(crate) signal: &'static str,
    /// What is said about it.
    pub(crate) message: String,
}

/// News, each list bounded by the number of containers and probes that can report.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// The pod as it is now.
    pub(crate) pod: Option<Arc<Pod>>,
    /// The pod is no longer in the API.
    pub(crate) gone: bool,
    /// Containers that ended.
    pub(crate) exits: Vec<Exit>,
    /// Starts that came to an end.
    pub(crate) starts: Vec<(String, StartResult)>,
    /// Containers whose stop came to an end.
    pub(crate) stops: Vec<String>,
    /// Probes.
    pub(crate) probes: Vec<ProbeReport>,
    /// The sandbox died.
    pub(crate) sandbox_lost: Option<String>,
    /// It takes more than it may.
    pub(crate) evict: Option<Eviction>,
    /// Events were missed; look at the runtime again.
    pub(crate) resync: bool,
}

/// A pod's mailbox.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    news: Mutex<News>,
    wake: Notify,
}

impl Inbox {
    fn news(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds news and wakes the worker.
    pub(crate) fn put(&self, add: impl FnOnce(&mut News)) {
        add(&mut self.news());
        self.wake.notify_one();
    }

    /// Wakes the worker to look at everything again.
    pub(crate) fn poke(&self) {
        self.wake.notify_one();
    }

    /// Takes all news.
    pub(crate) fn take(&self) -> News {
        std::mem::take(&mut *self.news())
    }

    /// Waits until there may be news.
    pub(crate) async fn wait(&self) {
        self.wake.notified().await;
    }
}
