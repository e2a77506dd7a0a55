//! A sandbox as the agent sees it: the connection to its shim, kept up, and what is known from it.

use super::connection::{Connection, Reply};
use crate::error::{Result, RuntimeError};
use crate::proc;
use crate::protocol::{Answer, Call, Message, StateFile, VERSION};
use crate::spec::{ContainerInfo, ContainerState, Event, Exit, SandboxInfo, SandboxSpec};
use naru_base::Backoff;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{broadcast, watch};

/// How long the shim may take for anything. It waits for killed processes for 5 s in the worst case.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a live shim may be out of reach before it counts as lost.
const RECONNECT: Duration = Duration::from_secs(10);

/// Whether there is somebody to talk to.
#[derive(Debug, Clone)]
pub(super) enum Link {
    Connecting,
    Up(Arc<Connection>),
    Lost,
}

/// A sandbox as the agent sees it.
#[derive(Debug)]
pub(super) struct Sandbox {
    pub(super) spec: SandboxSpec,
    pub(super) directory: PathBuf,
    pub(super) state: StateFile,
    containers: Mutex<Vec<ContainerInfo>>,
    link: watch::Sender<Link>,
    removing: AtomicBool,
    events: broadcast::Sender<Event>,
}

impl Sandbox {
    pub(super) fn new(
        spec: SandboxSpec,
        directory: PathBuf,
        state: StateFile,
        events: broadcast::Sender<Event>,
    ) -> Arc<Self> {
        let link = watch::Sender::new(Link::Connecting);
        let (containers, removing) = (Mutex::new(Vec::new()), AtomicBool::new(false));
        Arc::new(Self { spec, directory, state, containers, link, removing, events })
    }

    pub(super) fn containers(&self) -> MutexGuard<'_, Vec<ContainerInfo>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn info(&self) -> SandboxInfo {
        let shm_path = if self.spec.host_ipc { "/dev/shm".into() } else { self.directory.join("shm") };
        SandboxInfo {
            id: self.spec.id.clone(),
            labels: self.spec.labels.clone(),
            pid: self.state.holder_pid,
            netns_path: format!("/proc/{}/ns/net", self.state.holder_pid).into(),
            shm_path,
            created_at_ns: self.state.created_at_ns,
            lost: matches!(*self.link.borrow(), Link::Lost),
            containers: self.containers().clone(),
        }
    }

    /// Whether the shim's process lives.
    pub(super) fn is_alive(&self) -> bool {
        proc::start_time(self.state.pid) == Some(self.state.start_time)
    }

    pub(super) fn lost_error(&self, reason: &str) -> RuntimeError {
        RuntimeError::Shim { sandbox: self.spec.id.clone(), reason: reason.to_owned() }
    }

    /// Asks the shim, waiting for a connection if need be.
    pub(super) async fn call(&self, call: Call) -> Result<(Answer, Reply)> {
        let connection = self.connection().await?;
        let mut reply = match connection.call(call, PATIENCE).await {
            Err(RuntimeError::Shim { reason, .. }) => return Err(self.lost_error(&reason)),
            other => other?,
        };
        let answer = std::mem::replace(&mut reply.result, Ok(Answer::Done))?;
        Ok((answer, reply))
    }

    async fn connection(&self) -> Result<Arc<Connection>> {
        let mut link = self.link.subscribe();
        let settled = link.wait_for(|link| !matches!(link, Link::Connecting));
        match tokio::time::timeout(RECONNECT, settled).await {
            Ok(Ok(link)) => match &*link {
                Link::Up(connection) => Ok(Arc::clone(connection)),
                Link::Connecting | Link::Lost => Err(self.lost_error("has died")),
            },
            _ => Err(self.lost_error("does not answer")),
        }
    }

    /// Completes once the connection is up, or is known never to be.
    pub(super) async fn settled(&self) {
        // The sender lives as long as `self`.
        let _ = self.link.subscribe().wait_for(|link| !matches!(link, Link::Connecting)).await;
    }

    /// The connection's end, after the shim was told to stop.
    pub(super) async fn closed(&self) {
        let _ = self.link.subscribe().wait_for(|link| matches!(link, Link::Lost)).await;
    }

    /// From now on the shim's end is no news.
    pub(super) fn set_removing(&self) {
        self.removing.store(true, Ordering::Relaxed);
    }

    /// Keeps the connection up as long as the shim lives; then says that it is lost.
    pub(super) async fn supervise(self: Arc<Self>) {
        let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(500));
        let mut since = tokio::time::Instant::now();
        while self.is_alive() && since.elapsed() < RECONNECT {
            match self.serve_once().await {
                Ok(()) => {
                    backoff.reset();
                    since = tokio::time::Instant::now();
                }
                Err(error) => tracing::debug!(sandbox = self.spec.id, %error, "shim not reached"),
            }
            self.link.send_replace(Link::Connecting);
            if self.is_alive() {
                tokio::time::sleep(backoff.next_delay()).await;
            }
        }
        self.link.send_replace(Link::Lost);
        if !self.removing.load(Ordering::Relaxed) {
            tracing::warn!(sandbox = self.spec.id, "shim lost");
            self.give_up().await;
        }
    }

    /// Connects, catches up with the state and reads until the connection ends.
    async fn serve_once(self: &Arc<Self>) -> Result<()> {
        let opened = Connection::open(&self.directory).await;
        let connection = Arc::new(opened.map_err(|error| self.lost_error(&error.to_string()))?);
        let reading = connection.read(|message| self.note(message));
        tokio::pin!(reading);
        let hello = connection.call(Call::Hello { version: VERSION }, RECONNECT);
        tokio::select! {
            biased;
            end = &mut reading => return end.map_err(|error| self.lost_error(&error.to_string())),
            reply = hello => drop(reply?.result?),
        }
        self.link.send_replace(Link::Up(Arc::clone(&connection)));
        // How it ended does not matter, only whether the shim still lives.
        let _ = reading.await;
        Ok(())
    }

    /// Takes note of a message, in the order in which the shim sent them.
    fn note(&self, message: &Message) {
        match message {
            Message::Reply { result: Ok(Answer::Hello { containers, .. }), .. } => self.catch_up(containers),
            Message::Reply { result: Ok(Answer::Container(info)), .. } => {
                let mut containers = self.containers();
                match containers.iter_mut().find(|c| c.id == info.id) {
                    Some(known) => *known = (**info).clone(),
                    None => containers.push((**info).clone()),
                }
            }
            Message::Exit { container, status } => {
                let mut containers = self.containers();
                if let Some(known) = containers.iter_mut().find(|c| c.id == *container) {
                    known.state = ContainerState::Exited(status.clone());
                    known.pid = 0;
                }
                drop(containers);
                self.publish_exit(container, status);
            }
            Message::Reply { .. } | Message::ExecExit { .. } | Message::Unknown => {}
        }
    }

    /// Takes the shim's word for everything, and reports exits that were missed.
    fn catch_up(&self, now: &[ContainerInfo]) {
        let before = std::mem::replace(&mut *self.containers(), now.to_vec());
        for container in now {
            let known = before.iter().find(|c| c.id == container.id);
            if let (ContainerState::Exited(status), Some(known)) = (&container.state, known)
                && !matches!(known.state, ContainerState::Exited(_))
            {
                self.publish_exit(&container.id, status);
            }
        }
    }

    fn publish_exit(&self, container: &str, status: &crate::spec::ExitStatus) {
        let exit = Exit { sandbox: self.spec.id.clone(), container: container.to_owned(), status: status.clone() };
        // Nobody may be listening.
        let _ = self.events.send(Event::Exit(exit));
    }

    /// Forgets a container that has been removed.
    pub(super) fn forget(&self, container: &str) {
        self.containers().retain(|c| c.id != container);
    }

    /// Without its shim nobody would see the containers' ends or read their output: kills them.
    async fn give_up(self: &Arc<Self>) {
        let sandbox = Arc::clone(self);
        let killed = tokio::task::spawn_blocking(move || super::cleanup::kill(&sandbox.directory));
        if let Err(error) = killed.await {
            tracing::warn!(%error, "containers of a lost shim not killed");
        }
        let status = crate::spec::ExitStatus {
            exit_code: 137,
            signal: Some(libc::SIGKILL),
            oom_killed: false,
            finished_at_ns: proc::now_ns(),
        };
        for container in self.containers().iter_mut() {
            if !matches!(container.state, ContainerState::Exited(_)) {
                container.state = ContainerState::Exited(status.clone());
                container.pid = 0;
            }
        }
        let _ = self.events.send(Event::SandboxLost { sandbox: self.spec.id.clone() });
    }
}
