//! The server is killed again and again while pods come and go, images are fetched and removed: whatever it was
//! doing, the next one puts right. And the program is replaced under running pods.

use crate::cluster::{Cluster, NARU};

const ROUND: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {one: first}
---
apiVersion: v1
kind: Pod
metadata: {name: volumes-ROUND, labels: {round: 'ROUND'}}
spec:
  terminationGracePeriodSeconds: 1
  initContainers:
  - name: prepare
    image: REGISTRY/busybox:1
    command: [sh, -c, 'mkdir -p /data/part && echo inside >/data/part/f']
    volumeMounts: [{name: data, mountPath: /data}]
  containers:
  - name: c
    image: REGISTRY/busybox:1
    command: [sleep, '36000']
    lifecycle: {preStop: {exec: {command: [sleep, '0.2']}}}
    volumeMounts:
    - {name: data, mountPath: /part, subPath: part}
    - {name: memory, mountPath: /memory}
    - {name: settings, mountPath: /settings}
    - {name: web, mountPath: /web}
  volumes:
  - {name: data, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory}}
  - {name: settings, configMap: {name: settings}}
  - {name: web, image: {reference: 'REGISTRY/nginx:2'}}
---
apiVersion: v1
kind: Pod
metadata: {name: web-ROUND, labels: {round: 'ROUND'}}
spec:
  terminationGracePeriodSeconds: 1
  hostUsers: false
  containers:
  - {name: c, image: 'REGISTRY/nginx:1', ports: [{containerPort: 80, hostPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: short-ROUND, labels: {round: 'ROUND'}}
spec:
  restartPolicy: Never
  containers:
  - {name: c, image: 'REGISTRY/busybox:1', command: ['true']}
";

const LASTING: &str = "
apiVersion: v1
kind: Pod
metadata: {name: lasting}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: 'REGISTRY/busybox:1', command: [sleep, '36000']}
  - {name: d, image: 'REGISTRY/nginx:2'}
";

/// How often the server dies.
const ROUNDS: u32 = 6;

#[test]
fn a_server_killed_at_any_time_leaves_nothing_behind() {
    let mut c = Cluster::prepare("killing", &[]);
    let program = c.host.dir.join("naru");
    std::fs::copy(NARU, &program).unwrap();
    c.program = program;
    c.up();
    let registry = c.registry();
    c.apply(&LASTING.replace("REGISTRY", registry));
    c.kubectl(&["wait", "--for=condition=Ready", "pod/lasting", "--timeout=120s"]);
    let processes = lasting(&c);
    assert_eq!(processes.len(), 2, "{processes:?}");

    let mut state = 20_261_121_u32;
    for round in 0..ROUNDS {
        let number = round.to_string();
        c.apply(&ROUND.replace("REGISTRY", registry).replace("ROUND", &number));
        if round > 0 {
            let before = format!("round={}", round - 1);
            c.kubectl(&["delete", "pod", "-l", &before, "--wait=false"]);
        }
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // The moment is the test's input, and no outcome depends on it.
        std::thread::sleep(std::time::Duration::from_millis(u64::from(state >> 16) % 700));
        c.down("-KILL");
        if round % 3 == 2 {
            // The next server's images have to be fetched again.
            for image in ["nginx:1", "nginx:2"] {
                let data = c.data_dir().display().to_string();
                let name = format!("{registry}/{image}");
                let _ = c.host.command(&c.program).args(["image", "rm", "--data-dir", &data, &name]).output();
            }
        }
        if round % 2 == 1 {
            replace(&c, round);
        }
        c.up();
    }
    c.eventually("the last pods run", |c| {
        let phase = |pod: &str| c.get(&format!("pod {pod}-{}", ROUNDS - 1), "{.status.phase}");
        (phase("volumes"), phase("web"), phase("short")) == ("Running".into(), "Running".into(), "Succeeded".into())
    });
    assert_eq!(lasting(&c), processes, "the containers that ran all the time");
    let said = c.kubectl(&["exec", "lasting", "-c", "c", "--", "echo", "still here"]);
    assert_eq!(said, "still here\n");

    // A running server's program is replaced: what it starts next is the new one's.
    replace(&c, ROUNDS);
    c.apply(&LASTING.replace("REGISTRY", registry).replace("lasting", "newer"));
    c.kubectl(&["wait", "--for=condition=Ready", "pod/newer", "--timeout=120s"]);
    c.kubectl(&["delete", "pod", "--all", "--timeout=120s"]);
    let mut left = String::new();
    c.eventually("nothing is left", |c| {
        left = leftovers(c);
        left.is_empty() || {
            // Shown when the wait is given up.
            std::fs::write(c.host.dir.join("left"), &left).unwrap();
            false
        }
    });
    c.remove();
}

/// Puts another program in the place of the present one, as an upgrade does. It differs by a tail that nobody reads.
fn replace(c: &Cluster, round: u32) {
    use std::io::Write;
    let new = c.program.with_extension("new");
    std::fs::copy(NARU, &new).unwrap();
    let mut file = std::fs::OpenOptions::new().append(true).open(&new).unwrap();
    write!(file, "release {round}").unwrap();
    drop(file);
    std::fs::rename(new, &c.program).unwrap();
}

/// The containers of the pod that lives through everything, with their processes and when these began.
fn lasting(c: &Cluster) -> Vec<String> {
    let ids = c.get("pod lasting", "{.status.containerStatuses[*].containerID}");
    let of = |id: &str| {
        let id = id.trim_start_matches("naru://");
        let look = format!(
            "pids=$(find /sys/fs/cgroup -path '*{id}*' -name cgroup.procs -exec cat {{}} + | sort -nu | head -n 1); \
             echo {id} $pids $(cut -d' ' -f22 /proc/$pids/stat)"
        );
        String::from_utf8(c.host.sh(&look).stdout).unwrap().trim().to_owned()
    };
    ids.split(' ').map(of).collect()
}

/// Whatever pods, images and downloads left on the machine.
fn leftovers(c: &Cluster) -> String {
    let data = c.data_dir();
    let (data, root) = (data.display(), &c.host.name);
    let look = format!(
        "awk '$5 ~ \"{data}/(agent/pods|run)/\" {{print \"mount\", $5}}' /proc/self/mountinfo
         for dir in agent/pods agent/images.d/snapshots agent/images.d/ingest run/sandboxes run/rootfs; do
           find {data}/$dir -mindepth 1 -maxdepth 1 2>/dev/null
         done
         find /sys/fs/cgroup -type d -path '*{root}/kubepods*/pod*' 2>/dev/null
         ip -br link | cut -d' ' -f1 | grep '^veth' | grep -v wire
         find {data}/agent/cni -type f 2>/dev/null | grep -E '/[0-9]+\\.[0-9]+\\.[0-9]+\\.[0-9]+$'
         ps -eo args | grep '[s]him {data}/'
         true"
    );
    String::from_utf8(c.host.sh(&look).stdout).unwrap()
}
