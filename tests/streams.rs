//! exec, attach, cp and port-forward by upstream's `kubectl`, over WebSockets and over SPDY.

use crate::cluster::Cluster;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Output, Stdio};

const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: REGISTRY/busybox:1, command: [sh, -c, 'ln -sf busybox /bin/tar; exec sleep 36000']}
---
apiVersion: v1
kind: Pod
metadata: {name: ticker}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: REGISTRY/busybox:1
    command: [sh, -c, 'i=0; while true; do i=$((i+1)); echo tick $i; sleep 0.1; done']
---
apiVersion: v1
kind: Pod
metadata: {name: shell}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: REGISTRY/busybox:1, command: [sh], stdin: true, tty: true}
---
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: REGISTRY/nginx:1}
";

/// `kubectl` by one of the two ways of streaming.
struct Way<'a> {
    cluster: &'a Cluster,
    websockets: &'static str,
}

impl Way<'_> {
    fn command(&self, args: &[&str]) -> std::process::Command {
        let mut command = self.cluster.kubectl_command(args);
        command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", self.websockets);
        command.env("KUBECTL_PORT_FORWARD_WEBSOCKETS", self.websockets);
        command
    }

    fn feed(&self, args: &[&str], input: &[u8]) -> Output {
        let mut command = self.command(args);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || stdin.write_all(input));
            child.wait_with_output().unwrap()
        })
    }

    fn start(&self, args: &[&str]) -> Child {
        self.command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn exec(&self) {
        let output = self.feed(&["exec", "-i", "client", "--", "sh", "-c", "cat; echo err >&2; exit 3"], b"hello");
        assert_eq!((output.stdout.as_slice(), output.status.code()), (&b"hello"[..], Some(3)));
        assert!(output.stderr.starts_with(b"err\n"), "{}", String::from_utf8_lossy(&output.stderr));
        let bytes: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let output = self.feed(&["exec", "-i", "client", "--", "cat"], &bytes);
        assert!(output.stdout == bytes, "{} of {} bytes came back", output.stdout.len(), bytes.len());
        // A terminal of the client's size, by a terminal that `script` gives the client.
        let kubectl = format!(
            "stty rows 33 cols 99; KUBECONFIG={} kubectl exec -it client -- sh -c 'for i in $(seq 100); do stty size 2>&1 | grep 33 && break; sleep 0.1; done'",
            self.cluster.kubeconfig().display()
        );
        let mut script = self.cluster.host.command("script");
        script.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", self.websockets).env("HOME", &self.cluster.host.dir);
        let output = script.args(["-qec", &kubectl, "/dev/null"]).stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("33 99"), "{text} {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Input that ends, and an exit code that comes back through the pod's status.
    fn run(&self) {
        let registry = "127.0.0.1:5000";
        let image = format!("--image={registry}/busybox:1");
        let name = format!("run-{}", self.websockets);
        let script = "cat; echo done; exit 4";
        let args = ["run", &name, "--rm", "-i", "--quiet", &image, "--restart=Never", "--", "sh", "-c", script];
        let output = self.feed(&args, b"some input\n");
        assert_eq!(output.status.code(), Some(4), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.starts_with("some input\ndone\n"), "{text}");
    }

    fn attach(&self) {
        let mut watching = self.start(&["attach", "ticker"]);
        let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines().map(Result::unwrap);
        let number = |line: String| line.strip_prefix("tick ").unwrap().parse::<u32>().unwrap();
        let mut last = number(lines.next().unwrap());
        for _ in 0..5 {
            let next = number(lines.next().unwrap());
            assert_eq!(next, last + 1, "a line is missing");
            last = next;
        }
        watching.kill().unwrap();
        watching.wait().unwrap();
        // The container's terminal goes on after a client has gone.
        for word in ["first", "second"] {
            let mut shell = self.start(&["attach", "-i", "shell"]);
            let mut stdin = shell.stdin.take().unwrap();
            writeln!(stdin, "echo $((6*7)) {word}").unwrap();
            let found = BufReader::new(shell.stdout.take().unwrap())
                .lines()
                .map(Result::unwrap)
                .any(|line| line.contains(&format!("42 {word}")));
            assert!(found);
            shell.kill().unwrap();
            shell.wait().unwrap();
        }
        // Who has nothing more to say has left, and the container goes on.
        for word in ["third", "fourth"] {
            let output = self.feed(&["attach", "-i", "shell"], format!("echo {word}\n").as_bytes());
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }

    fn copy(&self) {
        let (here, back) = (self.cluster.host.dir.join("blob"), self.cluster.host.dir.join("back"));
        let bytes: Vec<u8> = (0..700_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
        std::fs::write(&here, &bytes).unwrap();
        for (from, to) in [(here.to_str().unwrap(), "client:/tmp/blob"), ("client:/tmp/blob", back.to_str().unwrap())] {
            let output = self.command(&["cp", from, to]).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        assert!(std::fs::read(&back).unwrap() == bytes, "the copy differs");
    }

    fn forward(&self) {
        let mut forwarding = self.start(&["port-forward", "pod/web", ":80", "--address=127.0.0.1"]);
        let mut line = String::new();
        let mut stdout = BufReader::new(forwarding.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let address = line.split(' ').nth(2).unwrap_or_else(|| panic!("{line:?}")).to_owned();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..3 {
                        assert_eq!(self.cluster.curl(&format!("http://{address}/")), "Welcome to nginx!\n");
                    }
                });
            }
        });
        forwarding.kill().unwrap();
        forwarding.wait().unwrap();
        // A port where nobody listens is a clear error.
        let mut refused = self.start(&["port-forward", "pod/web", ":81", "--address=127.0.0.1"]);
        let mut stdout = BufReader::new(refused.stdout.take().unwrap());
        line.clear();
        stdout.read_line(&mut line).unwrap();
        let address = line.split(' ').nth(2).unwrap().to_owned();
        assert_eq!(self.cluster.curl(&format!("http://{address}/")), "");
        let said = BufReader::new(refused.stderr.take().unwrap())
            .lines()
            .map(Result::unwrap)
            .find(|line| line.contains("an error occurred forwarding"))
            .unwrap_or_default();
        assert!(said.contains("connection refused"), "{said}");
        // Newer clients end by themselves then; older ones go on.
        let _ = refused.kill();
        refused.wait().unwrap();
    }
}

#[test]
fn streams_work_over_websockets_and_spdy() {
    let mut c = Cluster::start("streams");
    let registry = c.registry();
    c.apply(&PODS.replace("REGISTRY", registry));
    c.kubectl(&["wait", "--for=condition=Ready", "pod", "--all", "--timeout=120s"]);
    for websockets in ["true", "false"] {
        let way = Way { cluster: &c, websockets };
        way.exec();
        way.run();
        way.attach();
        way.copy();
        way.forward();
    }
    let refused = c.refused(&["exec", "client", "-c", "nobody", "--", "true"]);
    assert!(refused.contains("container nobody is not valid for pod client"), "{refused}");
}
