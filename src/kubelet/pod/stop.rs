//! Stops one container: preStop hook, stop signal, grace period, SIGKILL.

use super::hooks;
use crate::engine::ContainerRuntime;
use crate::probe::run::Target;
use k8s_openapi::api::core::v1::LifecycleHandler;
use naru_runtime::{ContainerState, Event};
use std::time::Duration;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

/// What is left for the signal even if the hook used up the grace period.
const LEAST_AFTER_HOOK: Duration = Duration::from_secs(2);
/// How long a killed process may take to vanish before nobody waits for it any more.
const AFTER_KILL: Duration = Duration::from_secs(30);
const SIGKILL: i32 = 9;

/// What to stop and how.
#[derive(Debug)]
pub(crate) struct Stop {
    pub(crate) target: Target,
    pub(crate) signal: i32,
    pub(crate) hook: Option<LifecycleHandler>,
    /// When the grace period ends; it may be moved while waiting.
    pub(crate) deadline: watch::Receiver<Instant>,
}

/// What happened on the way.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Stopped {
    /// Why the hook failed.
    pub(crate) hook_error: Option<String>,
    /// It did not end by itself in time.
    pub(crate) killed: bool,
}

/// Stops a container; returns when it has ended.
pub(crate) async fn stop(mut stop: Stop) -> Stopped {
    let mut out = Stopped::default();
    let runtime = stop.target.runtime.clone();
    let id = stop.target.container_id.clone();
    let mut events = runtime.events();
    if let Some(hook) = stop.hook.take() {
        let limit = stop.deadline.borrow().saturating_duration_since(Instant::now());
        tokio::select! {
            result = hooks::run(&stop.target, &hook, limit) => out.hook_error = result.err(),
            () = reached(&mut stop.deadline, Instant::now()) => out.hook_error = Some("PreStopHook timed out".into()),
            () = ended(&*runtime, &id, &mut events) => return out,
        }
    }
    if let Err(error) = runtime.signal_container(&id, stop.signal).await {
        tracing::debug!(container = id, %error, "stop signal not sent");
    }
    let least = Instant::now() + LEAST_AFTER_HOOK;
    tokio::select! {
        () = ended(&*runtime, &id, &mut events) => return out,
        () = reached(&mut stop.deadline, least) => {}
    }
    out.killed = true;
    if let Err(error) = runtime.signal_container(&id, SIGKILL).await {
        tracing::debug!(container = id, %error, "kill signal not sent");
    }
    if tokio::time::timeout(AFTER_KILL, ended(&*runtime, &id, &mut events)).await.is_err() {
        tracing::warn!(container = id, "killed, but does not end");
    }
    out
}

/// Completes when both the deadline, wherever it is moved to, and `least` have passed.
async fn reached(deadline: &mut watch::Receiver<Instant>, least: Instant) {
    loop {
        let at = (*deadline.borrow_and_update()).max(least);
        tokio::select! {
            () = tokio::time::sleep_until(at) => return,
            changed = deadline.changed() => {
                if changed.is_err() {
                    tokio::time::sleep_until(at).await;
                    return;
                }
            }
        }
    }
}

/// Completes when the container has ended or is gone.
async fn ended(runtime: &dyn ContainerRuntime, id: &str, events: &mut broadcast::Receiver<Event>) {
    loop {
        let over = runtime.container(id).is_none_or(|info| matches!(info.state, ContainerState::Exited(_)));
        if over {
            return;
        }
        // After a lost or lagging event the state above is looked at again.
        loop {
            match events.recv().await {
                Ok(Event::Exit(exit)) if exit.container == id => return,
                Ok(Event::Exit(_)) => {}
                Ok(Event::SandboxLost { .. }) | Err(broadcast::error::RecvError::Lagged(_)) => break,
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::fake::FakeRuntime;
    use k8s_openapi::api::core::v1::{Container, ExecAction};
    use naru_runtime::{ContainerSpec, SandboxSpec};
    use std::sync::Arc;

    async fn running() -> Arc<FakeRuntime> {
        let runtime = Arc::new(FakeRuntime::default());
        runtime.create_sandbox(SandboxSpec { id: "s".into(), ..Default::default() }).await.unwrap();
        let spec = ContainerSpec { id: "c1".into(), name: "c".into(), ..Default::default() };
        runtime.create_container("s", spec).await.unwrap();
        runtime.start_container("c1").await.unwrap();
        runtime.calls.lock().unwrap().clear();
        runtime
    }

    fn job(runtime: &Arc<FakeRuntime>, grace: u64, hook: Option<LifecycleHandler>) -> (Stop, watch::Sender<Instant>) {
        let (sender, deadline) = watch::channel(Instant::now() + Duration::from_secs(grace));
        let target = Target {
            runtime: runtime.clone(),
            container_id: "c1".into(),
            container: Arc::new(Container::default()),
            pod_ip: None,
        };
        (Stop { target, signal: 3, hook, deadline }, sender)
    }

    #[tokio::test(start_paused = true)]
    async fn the_hook_comes_first_then_the_stop_signal() {
        let runtime = running().await;
        let exec = ExecAction { command: Some(vec!["bye".into()]) };
        let (job, _keep) = job(&runtime, 30, Some(LifecycleHandler { exec: Some(exec), ..Default::default() }));
        assert_eq!(stop(job).await, Stopped::default());
        assert_eq!(runtime.calls(), ["exec bye", "signal c 3"]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_listen_is_killed_when_the_grace_period_ends() {
        let runtime = running().await;
        *runtime.ignore_term.lock().unwrap() = true;
        let (job, _keep) = job(&runtime, 30, None);
        let begun = Instant::now();
        assert!(stop(job).await.killed);
        assert_eq!(begun.elapsed().as_secs(), 30);
        assert_eq!(runtime.calls(), ["signal c 3", "signal c 9"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_shorter_deadline_counts_at_once() {
        let runtime = running().await;
        *runtime.ignore_term.lock().unwrap() = true;
        let (job, deadline) = job(&runtime, 3600, None);
        let begun = Instant::now();
        let task = naru_base::spawn("stop", stop(job));
        tokio::time::sleep(Duration::from_secs(5)).await;
        deadline.send(Instant::now()).unwrap();
        assert!(task.await.unwrap().killed);
        assert_eq!(begun.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hook_eats_the_grace_period_but_leaves_two_seconds() {
        let runtime = running().await;
        *runtime.ignore_term.lock().unwrap() = true;
        let sleep = serde_json::from_value(serde_json::json!({"sleep": {"seconds": 60}})).unwrap();
        let (job, _keep) = job(&runtime, 10, Some(sleep));
        let begun = Instant::now();
        assert!(stop(job).await.killed);
        assert_eq!(begun.elapsed().as_secs(), 12);
    }
}
