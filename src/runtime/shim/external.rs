//! Containers made by another OCI runtime, a program with the command line that runc has: create, start, exec, kill
//! and delete go through it. Its processes become this process's children when the program ends.

use super::capability;
use super::launch::reset_signals;
use super::oci;
use crate::protocol::{Fault, FaultKind};
use crate::spec::ContainerSpec;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// More of what a program logs is not read.
const MAX_LOG: u64 = 64 << 10;
/// Where such programs look for others.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A container of another runtime.
#[derive(Debug, Clone)]
pub(super) struct External {
    program: PathBuf,
    /// The runtime's own state, for the containers of this sandbox.
    root: PathBuf,
    /// For this container: configuration, numbers of processes, the program's log.
    bundle: PathBuf,
    id: String,
}

/// The three standard streams of a process to be.
pub(super) type Streams = (Option<OwnedFd>, Option<OwnedFd>, Option<OwnedFd>);

impl External {
    pub(super) fn new(program: &Path, sandbox: &Path, containers: &Path, id: &str) -> std::io::Result<Self> {
        let bundle = containers.join(id);
        fs::create_dir_all(&bundle)?;
        Ok(Self { program: program.to_owned(), root: sandbox.join("runtime"), bundle, id: id.to_owned() })
    }

    /// Makes the container; its first process waits for [`External::start`].
    pub(super) fn create(&self, config: &Value, console: Option<&Path>, streams: Streams) -> Result<u32, Fault> {
        let path = self.bundle.join("config.json");
        fs::write(&path, config.to_string()).map_err(|error| Fault::failed(format!("{}: {error}", path.display())))?;
        let mut command = self.command("create");
        command.arg("--bundle").arg(&self.bundle);
        self.run_process(command, console, streams, &[&self.id])
    }

    pub(super) fn start(&self) -> Result<(), Fault> {
        self.run(self.command("start").arg(&self.id)).map_err(|text| Fault::new(FaultKind::Start, text))
    }

    pub(super) fn signal(&self, signal: i32) -> Result<(), Fault> {
        self.run(self.command("kill").arg(&self.id).arg(signal.to_string())).map_err(Fault::failed)
    }

    /// Ends what is left of the container, as far as the runtime knows of it.
    pub(super) fn delete(&self) {
        if let Err(error) = self.run(self.command("delete").arg("--force").arg(&self.id)) {
            tracing::debug!(container = self.id, error, "not deleted by its runtime");
        }
    }

    /// Runs a command in the container: its number.
    pub(super) fn exec(&self, process: &Value, console: Option<&Path>, streams: Streams) -> Result<u32, Fault> {
        let path = self.bundle.join("process.json");
        fs::write(&path, process.to_string()).map_err(|error| Fault::failed(error.to_string()))?;
        let mut command = self.command("exec");
        command.arg("--detach").arg("--process").arg(&path);
        self.run_process(command, console, streams, &[&self.id])
    }

    fn log(&self) -> PathBuf {
        self.bundle.join("runtime.log")
    }

    fn command(&self, verb: &str) -> Command {
        let _ = fs::remove_file(self.log());
        let mut command = Command::new(&self.program);
        command.env_clear().env("PATH", PATH).current_dir("/");
        command.arg("--root").arg(&self.root).arg("--log").arg(self.log()).args(["--log-format", "json"]);
        command.arg(verb).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // What this process ignores, the container must not.
        // SAFETY: only system calls on integers, in a child of a process of one thread.
        unsafe {
            command.pre_exec(|| {
                reset_signals();
                Ok(())
            })
        };
        command
    }

    fn run_process(
        &self,
        mut command: Command,
        console: Option<&Path>,
        (stdin, stdout, stderr): Streams,
        arguments: &[&str],
    ) -> Result<u32, Fault> {
        let pid_file = self.bundle.join("pid");
        let _ = fs::remove_file(&pid_file);
        command.arg("--pid-file").arg(&pid_file);
        // Addresses of sockets are short: the directory goes by a descriptor of this process.
        let console = console.and_then(|path| Some((path.parent()?, path.file_name()?.to_str()?)));
        let console = console.map(|(directory, name)| crate::sys::short_path(directory, name)).transpose();
        let console = console.map_err(|error| Fault::failed(format!("console: {error}")))?;
        if let Some((_, path)) = &console {
            let seen = path.to_string_lossy().replace("/self/", &format!("/{}/", std::process::id()));
            command.arg("--console-socket").arg(seen);
        }
        for (fd, set) in [
            (stdin, Command::stdin as fn(&mut Command, Stdio) -> &mut Command),
            (stdout, Command::stdout),
            (stderr, Command::stderr),
        ] {
            if let Some(fd) = fd {
                set(&mut command, fd.into());
            }
        }
        self.run(command.args(arguments)).map_err(|text| Fault::new(FaultKind::Start, text))?;
        let text = fs::read_to_string(&pid_file).unwrap_or_default();
        text.trim().parse().map_err(|_| Fault::failed(format!("{} wrote no process id", self.program.display())))
    }

    fn run(&self, command: &mut Command) -> Result<(), String> {
        let program = self.program.display();
        match command.status() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(self.last_error().unwrap_or_else(|| format!("{program}: {status}"))),
            Err(error) => Err(format!("{program}: {error}")),
        }
    }

    /// What the program logged as its error.
    fn last_error(&self) -> Option<String> {
        let mut text = String::new();
        File::open(self.log()).ok()?.take(MAX_LOG).read_to_string(&mut text).ok()?;
        let lines = text.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let found = lines.into_iter().find(|line| line["level"] == "error" || line["level"] == "fatal")?;
        found["msg"].as_str().map(str::to_owned)
    }
}

/// What another runtime has to be told beside the configuration that ours takes, which does the rest itself.
pub(super) fn complete(config: &mut Value, spec: &ContainerSpec, nodes: &[oci::Node], held: capability::Set) {
    let process = &mut config["process"];
    process["env"] = json!(with_path(&spec.env));
    process["noNewPrivileges"] = spec.no_new_privileges.into();
    process["capabilities"] = capabilities(held);
    if let Some(score) = spec.oom_score_adj {
        process["oomScoreAdj"] = score.into();
    }
    let linux = &mut config["linux"];
    let shim = std::process::id();
    if let Some(namespaces) = linux["namespaces"].as_array_mut() {
        for (kind, name) in [("network", "net"), ("ipc", "ipc"), ("uts", "uts")] {
            namespaces.push(json!({"type": kind, "path": format!("/proc/{shim}/ns/{name}")}));
        }
    }
    let all = json!({"allow": spec.privileged, "access": "rwm"});
    let own = nodes.iter().map(|node| {
        json!({"allow": true, "type": if node.block { "b" } else { "c" }, "major": node.major, "minor": node.minor,
            "access": node.permissions})
    });
    linux["resources"] = json!({"devices": std::iter::once(all).chain(own).collect::<Vec<_>>()});
}

/// A command's process, as `exec` takes it.
pub(super) fn process(spec: &ContainerSpec, exec: &crate::spec::ExecSpec, held: capability::Set) -> Value {
    let env = if exec.env.is_empty() { &spec.env } else { &exec.env };
    let cwd = exec.cwd.as_ref().unwrap_or(&spec.cwd);
    let mut process = json!({
        "terminal": exec.tty,
        "user": {"uid": exec.uid.unwrap_or(spec.uid), "gid": exec.gid.unwrap_or(spec.gid),
            "additionalGids": oci::groups(spec)},
        "args": exec.args, "env": with_path(env), "cwd": if cwd.is_empty() { "/" } else { cwd },
        "capabilities": capabilities(held), "noNewPrivileges": spec.no_new_privileges,
    });
    if let Some(profile) = &spec.apparmor {
        process["apparmorProfile"] = profile.as_str().into();
    }
    if exec.tty
        && let Some(env) = process["env"].as_array_mut()
    {
        env.push("TERM=xterm".into());
    }
    if let Some((columns, rows)) = exec.tty_size {
        process["consoleSize"] = json!({"width": columns, "height": rows});
    }
    process
}

fn capabilities(held: capability::Set) -> Value {
    json!({"bounding": held.names(), "effective": held.names(), "permitted": held.names(), "inheritable": []})
}

fn with_path(env: &[String]) -> Vec<String> {
    let mut env = env.to_vec();
    if !env.iter().any(|variable| variable.starts_with("PATH=")) {
        env.push(format!("PATH={PATH}"));
    }
    env
}
