//! The shim's one loop: requests, output, ends of processes.

use super::connection::{Connection, Incoming};
use super::container::{Container, READ_SIZE, exit_code};
use super::trace::ShimLog;
use super::{Pod, exec, namespaces};
use crate::protocol::{Answer, Call, Fault, FaultKind, Message, Request, SOCKET, STATE_FILE, VERSION};
use crate::spec::{ContainerSpec, ExecSpec};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long processes get to vanish after SIGKILL.
const KILL_PATIENCE: Duration = Duration::from_secs(5);
/// How often output that nobody takes is looked at, in milliseconds.
const HELD_MS: libc::c_int = 1000;
/// Agents connected at once; more are turned away.
const MAX_CONNECTIONS: usize = 16;

/// The shim's state.
#[derive(Debug)]
pub(super) struct Server {
    pod: Pod,
    log: ShimLog,
    listener: UnixListener,
    signals: RawFd,
    connections: Vec<Connection>,
    next_connection: u64,
    /// In the order of creation.
    containers: Vec<Container>,
    /// Running commands by pid.
    execs: BTreeMap<i32, Exec>,
    next_exec: u64,
    stopping: bool,
}

#[derive(Debug)]
struct Exec {
    id: u64,
    connection: u64,
}

/// What a descriptor of the poll set stands for.
#[derive(Debug, Clone, Copy)]
enum Source {
    Signals,
    Listener,
    Connection(usize),
    Output(usize, usize),
    Taps(usize),
}

type Outcome = Result<(Answer, Vec<OwnedFd>), Fault>;

impl Server {
    pub(super) fn new(pod: Pod, log: ShimLog, listener: UnixListener, signals: RawFd) -> Self {
        Self {
            pod,
            log,
            listener,
            signals,
            connections: Vec::new(),
            next_connection: 1,
            containers: Vec::new(),
            execs: BTreeMap::new(),
            next_exec: 1,
            stopping: false,
        }
    }

    pub(super) fn log_file(&self) -> &File {
        self.log.file()
    }

    /// Serves until told to stop.
    pub(super) fn run(&mut self) -> ExitCode {
        let mut scratch = vec![0; READ_SIZE];
        while !self.stopping {
            let ready = match self.poll() {
                Ok(ready) => ready,
                Err(error) => {
                    tracing::error!(%error, "poll failed");
                    return ExitCode::FAILURE;
                }
            };
            // From the last to the first, so that removing one leaves the numbers of the others alone;
            // output therefore comes before requests, and ends of processes last.
            for source in ready.into_iter().rev() {
                match source {
                    Source::Output(container, output) => {
                        self.containers[container].read_output(output, &mut scratch);
                    }
                    Source::Taps(container) => self.containers[container].serve_taps(),
                    Source::Connection(index) => self.serve(index, &mut scratch),
                    Source::Listener => self.accept(),
                    Source::Signals => self.reap(),
                }
            }
            for container in self.containers.iter_mut().filter(|c| c.is_held()) {
                container.serve_taps();
            }
            self.drop_broken_connections();
        }
        self.close()
    }

    fn poll(&self) -> io::Result<Vec<Source>> {
        let mut sources = vec![Source::Signals, Source::Listener];
        let mut fds = vec![pollfd(self.signals, libc::POLLIN), pollfd(self.listener.as_raw_fd(), libc::POLLIN)];
        for (index, connection) in self.connections.iter().enumerate() {
            let out = if connection.wants_to_send() { libc::POLLOUT } else { 0 };
            fds.push(pollfd(connection.fd(), libc::POLLIN | out));
            sources.push(Source::Connection(index));
        }
        for (index, container) in self.containers.iter().enumerate() {
            for tap in &container.taps {
                // Without an event asked for, the kernel still tells that the reader has gone.
                fds.push(pollfd(tap.fd().as_raw_fd(), if tap.is_full() { libc::POLLOUT } else { 0 }));
                sources.push(Source::Taps(index));
            }
            if container.is_held() {
                continue;
            }
            for (number, output) in container.outputs.iter().enumerate() {
                fds.push(pollfd(output.fd.as_raw_fd(), libc::POLLIN));
                sources.push(Source::Output(index, number));
            }
        }
        // Somebody who takes nothing is noticed only by looking.
        let timeout = if self.containers.iter().any(Container::is_held) { HELD_MS } else { -1 };
        loop {
            // SAFETY: a live array of the stated length.
            if unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout) } >= 0 {
                break;
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        Ok(fds.iter().zip(sources).filter(|(fd, _)| fd.revents != 0).map(|(_, source)| source).collect())
    }

    fn accept(&mut self) {
        while let Ok((socket, _)) = self.listener.accept() {
            if self.connections.len() < MAX_CONNECTIONS
                && let Ok(connection) = Connection::new(self.next_connection, socket)
            {
                self.connections.push(connection);
                self.next_connection += 1;
            }
        }
    }

    fn serve(&mut self, index: usize, scratch: &mut [u8]) {
        self.connections[index].flush();
        for incoming in self.connections[index].receive(scratch) {
            let (id, outcome) = match incoming {
                Incoming::Request(Request { id, call }) => (id, self.handle(index, call)),
                Incoming::Unsupported { id } => {
                    (id, Err(Fault::new(FaultKind::Unsupported, "the shim is too old for this")))
                }
            };
            let (result, fds) = match outcome {
                Ok((answer, fds)) => (Ok(answer), fds),
                Err(fault) => (Err(fault), Vec::new()),
            };
            self.connections[index].send(&Message::Reply { id, fds: fds.len(), result }, fds);
        }
    }

    fn handle(&mut self, connection: usize, call: Call) -> Outcome {
        let done = |()| (Answer::Done, Vec::new());
        match call {
            Call::Hello { version: _ } => {
                self.connections[connection].introduced = true;
                let containers = self.containers.iter().map(|c| c.info(&self.pod.spec.id)).collect();
                Ok((Answer::Hello { version: VERSION, containers }, Vec::new()))
            }
            Call::Create { spec } => self.create(*spec),
            Call::Start { container } => self.start(&container),
            Call::Signal { container, signal } => self.signal(&container, signal).map(done),
            Call::Remove { container } => self.remove(&container).map(done),
            Call::Exec { spec } => self.exec(connection, &spec),
            Call::KillExec { exec } => {
                self.kill_execs(|e| e.id == exec);
                Ok(done(()))
            }
            Call::ReopenLog { container } => self.find(&container)?.reopen_log().map(done),
            Call::Attach { container } => {
                let (tty, stdin, fds) = self.find(&container)?.attach()?;
                Ok((Answer::Attached { tty, stdin }, fds))
            }
            Call::CloseStdin { container } => {
                self.find(&container)?.close_stdin();
                Ok(done(()))
            }
            Call::Stop {} => self.stop().map(done),
        }
    }

    fn find(&mut self, id: &str) -> Result<&mut Container, Fault> {
        let found = self.containers.iter_mut().find(|c| c.spec.id == id);
        found.ok_or_else(|| Fault::new(FaultKind::NoContainer, id))
    }

    fn create(&mut self, spec: ContainerSpec) -> Outcome {
        if self.containers.iter().any(|c| c.spec.id == spec.id) {
            return Err(Fault::new(FaultKind::Exists, spec.id));
        }
        let pid_holder = match (&spec.processes_of, self.pod.pause) {
            (_, Some(pause)) => Some(pause),
            (Some(target), None) if !self.pod.spec.host_pid => match self.find(target)?.pid {
                0 => return Err(Fault::new(FaultKind::NotRunning, target.clone())),
                pid => Some(pid),
            },
            _ => None,
        };
        let container = Container::create(&self.pod, &mut self.log, spec, pid_holder);
        release_memory();
        let container = container?;
        let info = container.info(&self.pod.spec.id);
        self.containers.push(container);
        Ok((Answer::Container(Box::new(info)), Vec::new()))
    }

    fn start(&mut self, id: &str) -> Outcome {
        let sandbox = self.pod.spec.id.clone();
        let container = self.find(id)?;
        if let Err(fault) = container.start() {
            if fault.kind == FaultKind::Start {
                // It never ran: leave nothing that would have to be removed.
                let _ = self.remove(id);
            }
            return Err(fault);
        }
        Ok((Answer::Container(Box::new(container.info(&sandbox))), Vec::new()))
    }

    fn signal(&mut self, id: &str, signal: i32) -> Result<(), Fault> {
        let container = self.find(id)?;
        let Ok(pid) = i32::try_from(container.pid) else { return Ok(()) };
        if pid == 0 {
            return Ok(());
        }
        if let Some(external) = &container.external {
            return external.signal(signal);
        }
        // SAFETY: a child of ours that has not been waited for, so the number is still its own.
        if unsafe { libc::kill(pid, signal) } != 0 {
            return Err(Fault::failed(format!("signal {signal}: {}", io::Error::last_os_error())));
        }
        Ok(())
    }

    fn remove(&mut self, id: &str) -> Result<(), Fault> {
        let Some(index) = self.containers.iter().position(|c| c.spec.id == id) else { return Ok(()) };
        let container = &self.containers[index];
        container.cgroup.kill();
        if let Some(pid) = i32::try_from(container.pid).ok().filter(|pid| *pid > 0) {
            // SAFETY: as in `signal`. For machines without any cgroup.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        let gone = self.wait_for(|server| server.containers[index].pid == 0);
        if !gone || !self.containers[index].clean_up(KILL_PATIENCE) {
            return Err(Fault::failed(format!("processes of container {id:?} survive SIGKILL")));
        }
        self.containers.remove(index);
        release_memory();
        Ok(())
    }

    /// Reaps until something is so, within [`KILL_PATIENCE`].
    fn wait_for(&mut self, so: impl Fn(&Self) -> bool) -> bool {
        let start = Instant::now();
        while !so(self) {
            if start.elapsed() > KILL_PATIENCE {
                return false;
            }
            // An end of a child shows at the descriptor; the bound is for what shows otherwise.
            let _ = crate::sys::wait_readable(self.signals, 20);
            self.reap();
        }
        true
    }

    fn exec(&mut self, connection: usize, spec: &ExecSpec) -> Outcome {
        let started = exec::start(self.find(&spec.container)?, spec)?;
        let id = self.next_exec;
        self.next_exec += 1;
        self.execs.insert(started.pid, Exec { id, connection: self.connections[connection].id });
        Ok((Answer::Exec { exec: id }, started.fds))
    }

    fn kill_execs(&self, which: impl Fn(&Exec) -> bool) {
        for pid in self.execs.iter().filter(|(_, exec)| which(exec)).map(|(pid, _)| *pid) {
            // SAFETY: a child of ours that has not been waited for. Its session first, since it leads one.
            unsafe {
                libc::kill(-pid, libc::SIGKILL);
                libc::kill(pid, libc::SIGKILL);
            }
        }
    }

    /// Takes note of every child that has ended, orphans of containers included.
    fn reap(&mut self) {
        let mut drain = [0_u8; 128];
        // SAFETY: reads into a buffer of the stated length; what it says is asked again below.
        while unsafe { libc::read(self.signals, drain.as_mut_ptr().cast(), drain.len()) } > 0 {}
        loop {
            let mut status = 0;
            // SAFETY: writes one integer.
            let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
            if pid <= 0 {
                return;
            }
            self.child_ended(pid, status);
        }
    }

    fn child_ended(&mut self, pid: i32, status: i32) {
        if let Some(exec) = self.execs.remove(&pid) {
            let message = Message::ExecExit { exec: exec.id, exit_code: exit_code(status) };
            if let Some(connection) = self.connections.iter_mut().find(|c| c.id == exec.connection) {
                connection.send(&message, Vec::new());
            }
        } else if let Some(container) = self.containers.iter_mut().find(|c| i64::from(c.pid) == i64::from(pid)) {
            let status = container.exited(status);
            let message = Message::Exit { container: container.spec.id.clone(), status };
            for connection in self.connections.iter_mut().filter(|c| c.introduced) {
                connection.send(&message, Vec::new());
            }
        } else if self.pod.pause.is_some_and(|pause| i64::from(pause) == i64::from(pid)) {
            // Every container in the shared process namespace dies with it and is reported.
            self.pod.pause = None;
        }
    }

    fn drop_broken_connections(&mut self) {
        for index in (0..self.connections.len()).rev() {
            if self.connections[index].broken {
                let connection = self.connections.remove(index);
                // Nobody can read their output or learn how they end.
                self.kill_execs(|exec| exec.connection == connection.id);
            }
        }
    }

    fn stop(&mut self) -> Result<(), Fault> {
        let ids: Vec<String> = self.containers.iter().map(|c| c.spec.id.clone()).collect();
        let failed: Vec<Fault> = ids.iter().filter_map(|id| self.remove(id).err()).collect();
        if let Some(fault) = failed.into_iter().next() {
            return Err(fault);
        }
        self.stopping = true;
        Ok(())
    }

    fn close(&mut self) -> ExitCode {
        if let Some(pid) = self.pod.pause.and_then(|pid| i32::try_from(pid).ok()) {
            // SAFETY: a child of ours that has not been waited for.
            unsafe {
                libc::kill(pid, libc::SIGKILL);
                libc::waitpid(pid, std::ptr::null_mut(), 0);
            }
        }
        if !self.pod.spec.host_ipc {
            namespaces::unmount_shm(&self.pod.shm());
        }
        for name in [SOCKET, STATE_FILE] {
            let _ = std::fs::remove_file(self.pod.directory.join(name));
        }
        for connection in &mut self.connections {
            connection.flush_finally();
        }
        ExitCode::SUCCESS
    }
}

fn pollfd(fd: RawFd, events: libc::c_short) -> libc::pollfd {
    libc::pollfd { fd, events, revents: 0 }
}

/// Gives back what libcontainer needed for a moment.
fn release_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: returns free pages of the C library's heap to the system.
    unsafe {
        libc::malloc_trim(0);
    }
}
