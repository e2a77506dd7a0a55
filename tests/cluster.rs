//! A cluster of its own for each test: `naru server` in fresh network and mount namespaces, with its
//! own data directory and cgroup subtree, driven by upstream's `kubectl`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long anything may take before a test gives up; generous, since tests share two cores.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The program under test.
pub(crate) const NARU: &str = env!("CARGO_BIN_EXE_naru");

/// Where the registry listens.
const ADDRESS: &str = "127.0.0.1:5000";

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Namespaces and a directory for one test. Everything in them ends with the value.
pub(crate) struct Host {
    pub(crate) dir: PathBuf,
    pub(crate) name: String,
    holder: Child,
}

impl Host {
    pub(crate) fn new(test: &str) -> Self {
        Self::machine(test, "node-a", "192.0.2.10")
    }

    /// A machine of this name and address.
    pub(crate) fn machine(test: &str, hostname: &str, address: &str) -> Self {
        let name = format!("naru-{}-{}-{}", test, std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&dir).unwrap();
        // The shell ends with its standard input, so nothing outlives a killed test run. A machine
        // has a name, an address and a default route; without them a node has nothing to register.
        let script = format!(
            "hostname {hostname} && ip link set lo up && ip link add uplink type veth peer name wire && \
             ip addr add {address}/24 dev uplink && ip link set uplink up && ip link set wire up && \
             ip route add default via 192.0.2.254 && echo ready && read -r _"
        );
        let mut holder = Command::new("unshare")
            .args(["--net", "--mount", "--uts", "--propagation", "private", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare runs (util-linux)");
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(holder.stdout.take().unwrap()), &mut line).unwrap();
        assert_eq!(line, "ready\n", "the namespaces could not be made: are the tests run as root?");
        Self { dir, name, holder }
    }

    /// Makes this one the switch that others are plugged into.
    pub(crate) fn make_switch(&self) {
        assert!(self.sh("ip link add switch type bridge && ip link set switch up").status.success());
    }

    /// Joins the machine's network to a switch.
    pub(crate) fn plug(&self, switch: &Host) {
        let port = format!("port{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let pid = switch.holder.id();
        let moved = self.sh(&format!("ip link set wire name {port} && ip link set {port} netns {pid}"));
        assert!(moved.status.success(), "{}", String::from_utf8_lossy(&moved.stderr));
        let joined = switch.sh(&format!("ip link set {port} master switch up"));
        assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    }

    /// A command inside the namespaces.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.holder.id().to_string(), "--net", "--mount", "--uts", "--"]).arg(program);
        command.current_dir(&self.dir).stdin(Stdio::null());
        command
    }

    /// The network namespace, as a file.
    pub(crate) fn netns(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.holder.id()))
    }

    /// Runs a shell line inside and returns its output whole.
    pub(crate) fn sh(&self, line: &str) -> Output {
        self.command("sh").args(["-c", line]).output().unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A running server.
pub(crate) struct Cluster {
    pub(crate) host: Host,
    server: Option<Child>,
    registry: Option<Child>,
    pub(crate) flags: Vec<String>,
    /// What is started as the server.
    pub(crate) program: PathBuf,
}

impl Cluster {
    /// Starts a server and waits until its node is Ready.
    pub(crate) fn start(test: &str) -> Self {
        let mut cluster = Self::prepare(test, &[]);
        cluster.up();
        cluster.eventually("the node is Ready", |c| {
            c.get("nodes", "{.items[*].status.conditions[?(@.type=='Ready')].status}") == "True"
        });
        cluster
    }

    /// A server in a virtual machine, which is the server's process here; its log is the machine's console.
    pub(crate) fn machine(test: &str) -> Self {
        let mut cluster = Self::prepare(test, &[]);
        let vm = std::env::var("NARU_TEST_VM").expect("scripts/test sets NARU_TEST_VM");
        let images = std::env::var("NARU_TEST_IMAGES").expect("scripts/test sets NARU_TEST_IMAGES");
        let dir = cluster.host.dir.clone();
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vm");
        let made = Command::new(scripts.join("image.sh")).args([&vm, &images, NARU]).arg(dir.join("disk")).output();
        let made = made.unwrap();
        assert!(made.status.success(), "image.sh: {}", String::from_utf8_lossy(&made.stderr));
        let mut command = cluster.host.command(scripts.join("boot.sh"));
        let child = command.args([&vm, &dir.display().to_string()]).stdout(Stdio::inherit()).spawn().unwrap();
        cluster.server = Some(child);
        let deadline = Instant::now() + 2 * PATIENCE;
        let kubeconfig = loop {
            let text = std::fs::read_to_string(dir.join("serial")).unwrap_or_default();
            if let Some((kubeconfig, _)) = text.split_once("# end") {
                break kubeconfig.to_owned();
            }
            assert!(Instant::now() < deadline, "the machine does not come up:\n{}", cluster.log());
            std::thread::sleep(Duration::from_millis(100));
        };
        std::fs::write(cluster.kubeconfig(), kubeconfig).unwrap();
        cluster.eventually("the server answers", |c| c.try_kubectl(&["get", "--raw=/readyz"]).status.success());
        cluster
    }

    /// A cluster that has not been started.
    pub(crate) fn prepare(test: &str, flags: &[&str]) -> Self {
        let flags = flags.iter().map(ToString::to_string).collect();
        Self { host: Host::new(test), server: None, registry: None, flags, program: NARU.into() }
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.host.dir.join("data")
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.host.dir.join("kubeconfig")
    }

    /// What the server has printed so far, over all its starts.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.host.dir.join("server.log")).unwrap_or_default()
    }

    /// The server's command line.
    pub(crate) fn server_command(&self) -> Command {
        let mut command = self.host.command(&self.program);
        command.arg("server").arg("--data-dir").arg(self.data_dir()).arg("--write-kubeconfig").arg(self.kubeconfig());
        command.arg("--cgroup-root").arg(&self.host.name).args(&self.flags);
        command
    }

    /// Starts the server and waits until it answers.
    pub(crate) fn up(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.host.dir.join("server.log")).unwrap();
        let child = self.server_command().stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        self.server = Some(child);
        let deadline = Instant::now() + PATIENCE;
        while !self.try_kubectl(&["get", "--raw=/readyz"]).status.success() {
            if let Some(status) = self.server.as_mut().unwrap().try_wait().unwrap() {
                panic!("the server ended ({status}):\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "the server does not answer:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The server's process id.
    pub(crate) fn pid(&self) -> u32 {
        // nsenter replaces itself by the program.
        self.server.as_ref().expect("the server runs").id()
    }

    /// Ends the server by a signal and waits for its end.
    pub(crate) fn down(&mut self, signal: &str) -> std::process::ExitStatus {
        let mut server = self.server.take().expect("the server runs");
        assert!(Command::new("kill").args([signal, &server.id().to_string()]).status().unwrap().success());
        server.wait().unwrap()
    }

    /// Puts a test image into the registry.
    pub(crate) fn push(&self, name: &str, tag: &str) {
        let images = std::env::var("NARU_TEST_IMAGES").expect("scripts/test sets NARU_TEST_IMAGES");
        let push = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images/push.sh");
        let output = self.host.command(&push).args([&images, ADDRESS, name, tag]).output().unwrap();
        assert!(output.status.success(), "push {name}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Starts Debian's registry on a loopback port of the namespace and fills it with the usual test images.
    pub(crate) fn registry(&mut self) -> &'static str {
        let config = self.host.dir.join("registry.yml");
        let storage = self.host.dir.join("registry");
        let text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {ADDRESS}}}\n",
            storage.display()
        );
        std::fs::File::create(&config).unwrap().write_all(text.as_bytes()).unwrap();
        let log = std::fs::File::create(self.host.dir.join("registry.log")).unwrap();
        let child = self
            .host
            .command("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.registry = Some(child.unwrap());
        self.eventually("the registry answers", |c| {
            c.host.sh(&format!("curl -fsS http://{ADDRESS}/v2/")).status.success()
        });
        for (name, tag) in [("nginx", "1"), ("nginx", "2"), ("busybox", "1")] {
            self.push(name, tag);
        }
        ADDRESS
    }

    /// `kubectl`, whatever comes of it.
    pub(crate) fn try_kubectl(&self, args: &[&str]) -> Output {
        self.kubectl_command(args).output().unwrap()
    }

    pub(crate) fn kubectl_command(&self, args: &[&str]) -> Command {
        let mut command = self.host.command("kubectl");
        command.env("KUBECONFIG", self.kubeconfig()).env("HOME", &self.host.dir).args(args);
        command
    }

    /// `kubectl`, which must succeed; returns what it printed.
    pub(crate) fn kubectl(&self, args: &[&str]) -> String {
        let output = self.try_kubectl(args);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "kubectl {args:?} failed: {}{text}\nserver:\n{}",
            String::from_utf8_lossy(&output.stderr),
            self.log()
        );
        text
    }

    /// `kubectl`, which must fail; returns what it complained.
    pub(crate) fn refused(&self, args: &[&str]) -> String {
        let output = self.try_kubectl(args);
        assert!(!output.status.success(), "kubectl {args:?} should have failed");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// `kubectl ARGS` with an object on its standard input.
    pub(crate) fn feed(&self, args: &[&str], input: &str) -> Output {
        let mut child = self
            .kubectl_command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::thread::scope(|scope| {
            // Beside the reading: whoever echoes its input would otherwise wait for us.
            scope.spawn(move || stdin.write_all(input.as_bytes()));
            child.wait_with_output().unwrap()
        })
    }

    /// Applies YAML, which must succeed.
    pub(crate) fn apply(&self, yaml: &str) {
        let output = self.feed(&["apply", "-f", "-"], yaml);
        assert!(output.status.success(), "apply: {}\n{}", String::from_utf8_lossy(&output.stderr), self.log());
    }

    /// A JSONPath of `kubectl get RESOURCE`; empty when that fails.
    pub(crate) fn get(&self, resource: &str, path: &str) -> String {
        let mut args = vec!["get"];
        args.extend(resource.split(' '));
        let path = format!("jsonpath={path}");
        args.extend(["-o", &path]);
        String::from_utf8_lossy(&self.try_kubectl(&args).stdout).into_owned()
    }

    /// Waits until something holds; shows the cluster's state when it never does.
    pub(crate) fn eventually(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            if Instant::now() >= deadline {
                let state =
                    self.try_kubectl(&["get", "nodes,pods,rs,services,endpointslices,events", "-A", "-o", "wide"]);
                panic!(
                    "gave up waiting until {what}\n{}{}\nserver:\n{}",
                    String::from_utf8_lossy(&state.stdout),
                    String::from_utf8_lossy(&state.stderr),
                    self.log()
                );
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// What curl gets, or nothing.
    pub(crate) fn curl(&self, url: &str) -> String {
        let output = self.host.command("curl").args(["-sS", "-m", "5", url]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Stops the server and everything it started.
    pub(crate) fn remove(&mut self) {
        if self.server.is_some() {
            self.down("-TERM");
        }
        let output = self.killall();
        assert!(output.status.success(), "killall: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn killall(&self) -> Output {
        let mut command = self.host.command(NARU);
        command.args(["killall", "--cgroup-root", &self.host.name, "--data-dir"]).arg(self.data_dir());
        command.output().unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
        if let Some(mut registry) = self.registry.take() {
            let _ = registry.kill();
            let _ = registry.wait();
        }
        let _ = self.killall();
    }
}
