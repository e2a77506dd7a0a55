//! The units in `systemd/`, on a machine whose first process is systemd: started, killed, stopped, booted again.

use crate::cluster::{Cluster, NARU};
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};

/// A machine with systemd, in the network of a cluster's host.
struct Machine {
    dir: PathBuf,
    boot: Child,
}

impl Machine {
    fn boot(c: &Cluster) -> Self {
        let dir = c.host.dir.join(format!("{}-machine", c.host.name));
        std::fs::create_dir(&dir).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/systemd/boot.sh");
        let log = std::fs::File::create(c.host.dir.join("boot.log")).unwrap();
        let mut command = c.host.command(script);
        // The machine ends with this pipe.
        command.arg(&dir).arg(NARU).stdin(Stdio::piped()).stdout(log.try_clone().unwrap()).stderr(log);
        let machine = Self { dir, boot: command.spawn().unwrap() };
        machine.wait(c);
        machine
    }

    /// Waits until systemd answers.
    fn wait(&self, c: &Cluster) {
        c.eventually("the machine is up", |_| {
            let state = self.run(&["systemctl", "is-system-running"]);
            ["running", "degraded"].contains(&String::from_utf8_lossy(&state.stdout).trim())
        });
    }

    /// The number of its first process.
    fn init(&self) -> String {
        std::fs::read_to_string(self.dir.join("init")).unwrap_or_default().trim().to_owned()
    }

    /// Runs a program on the machine, whatever comes of it.
    fn run(&self, args: &[&str]) -> Output {
        #[allow(clippy::disallowed_methods, reason = "tests drive machines with programs")]
        let mut command = std::process::Command::new("nsenter");
        command.args(["-t", &self.init(), "--all", "--root", "--wd=/", "--"]).args(args);
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// A program that must succeed; gives what it printed.
    fn must(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let journal =
            || String::from_utf8_lossy(&self.run(&["journalctl", "-u", "naru", "-n", "50"]).stdout).into_owned();
        assert!(output.status.success(), "{args:?}: {said}{}\n{}", String::from_utf8_lossy(&output.stderr), journal());
        said
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.boot.stdin.take());
        let _ = self.boot.wait();
    }
}

const POD: &str = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "hello"}, "spec": {"containers": [
    {"name": "hello", "image": "naru.local/self", "args": ["hello", "--port=8080"],
     "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1}}]}}"#;

#[test]
fn the_unit_starts_comes_back_stops_and_outlasts_a_reboot() {
    let c = Cluster::prepare("units", &[]);
    let machine = Machine::boot(&c);
    std::os::unix::fs::symlink(machine.dir.join("data/kubeconfig"), c.kubeconfig()).unwrap();
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    for unit in ["naru.service", "naru-agent.service"] {
        let (from, to) = (units.join(unit), format!("/etc/systemd/system/{unit}"));
        machine.must(&["cp", from.to_str().unwrap(), &to]);
        machine.must(&["systemd-analyze", "verify", &to]);
    }
    // The usual file of configuration.
    machine.must(&["sh", "-c", "echo 'write-kubeconfig: /var/lib/naru/kubeconfig' >/etc/naru/config.yaml"]);
    machine.must(&["systemctl", "daemon-reload"]);
    machine.must(&["systemctl", "enable", "--now", "naru"]);
    let ready = |c: &Cluster| c.get("pod hello", "{.status.conditions[?(@.type=='Ready')].status}") == "True";
    c.eventually("the node is Ready", |c| {
        c.get("nodes", "{.items[*].status.conditions[?(@.type=='Ready')].status}") == "True"
    });
    c.apply(POD);
    c.eventually("the pod is ready", ready);
    let container = |c: &Cluster| c.get("pod hello", "{.status.containerStatuses[0].containerID}");
    let address = c.get("pod hello", "{.status.podIP}");
    let answers =
        |c: &Cluster, address: &str| c.curl(&format!("http://{address}:8080/")).starts_with("Hello from hello");
    let first = container(&c);

    // Killed, it is started again, and the pod has not noticed.
    machine.must(&["systemctl", "kill", "--kill-who=main", "--signal=KILL", "naru"]);
    c.eventually("the server is started again", |_| {
        machine.must(&["systemctl", "show", "--property=NRestarts", "--value", "naru"]).trim() != "0"
    });
    assert!(answers(&c, &address));
    c.eventually("it answers", |c| c.try_kubectl(&["get", "--raw=/readyz"]).status.success());
    machine.must(&["systemctl", "restart", "naru"]);
    c.eventually("the pod is ready", ready);
    assert_eq!(container(&c), first);

    // Stopped, it is stopped, and the pod goes on.
    machine.must(&["systemctl", "stop", "naru"]);
    assert_eq!(String::from_utf8_lossy(&machine.run(&["systemctl", "is-active", "naru"]).stdout).trim(), "inactive");
    assert!(!c.try_kubectl(&["get", "--raw=/readyz"]).status.success());
    assert!(answers(&c, &address));
    machine.must(&["systemctl", "start", "naru"]);
    c.eventually("it answers", |c| c.try_kubectl(&["get", "--raw=/readyz"]).status.success());
    assert_eq!(container(&c), first);

    // After a boot all of it comes by itself.
    let before = machine.init();
    machine.run(&["systemctl", "reboot"]);
    c.eventually("the machine boots", |_| !machine.init().is_empty() && machine.init() != before);
    machine.wait(&c);
    c.eventually("the pod runs in another container", |c| ready(c) && container(c) != first);
    let address = c.get("pod hello", "{.status.podIP}");
    c.eventually("it answers", |c| answers(c, &address));
    machine.must(&["systemctl", "stop", "naru"]);
    machine.must(&["naru", "killall"]);
}
