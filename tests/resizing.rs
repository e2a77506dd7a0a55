//! Resizes of running pods as the conformance suite asks for them: many containers at once, both directions, back again,
//! by patch and by replacement. Played on the cluster of another test.

use crate::cluster::Cluster;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// Requested and limited processors and memory, as they are written; nothing where it is empty.
type Wish = [&'static str; 4];

struct Play {
    pod: &'static str,
    before: &'static [Wish],
    after: &'static [Wish],
    back: bool,
}

/// The values are the suite's: those of the second container are 2m and 2Mi above the first's, and so on.
const PLAYS: [Play; 5] = [
    Play {
        pod: "net-increase",
        before: &[["20m", "20m", "35Mi", "35Mi"], ["22m", "22m", "37Mi", "37Mi"], ["24m", "24m", "39Mi", "39Mi"]],
        after: &[["25m", "25m", "40Mi", "40Mi"], ["27m", "27m", "42Mi", "42Mi"], ["19m", "19m", "34Mi", "34Mi"]],
        back: true,
    },
    Play {
        pod: "net-decrease",
        before: &[["20m", "20m", "35Mi", "35Mi"], ["22m", "22m", "37Mi", "37Mi"], ["24m", "24m", "39Mi", "39Mi"]],
        after: &[["25m", "25m", "40Mi", "40Mi"], ["17m", "17m", "32Mi", "32Mi"], ["19m", "19m", "34Mi", "34Mi"]],
        back: true,
    },
    Play {
        pod: "both-ways",
        before: &[["20m", "20m", "35Mi", "35Mi"], ["22m", "22m", "37Mi", "37Mi"], ["24m", "24m", "39Mi", "39Mi"]],
        after: &[["25m", "25m", "35Mi", "35Mi"], ["17m", "17m", "42Mi", "42Mi"], ["29m", "29m", "44Mi", "44Mi"]],
        back: true,
    },
    Play {
        pod: "added",
        before: &[
            ["20m", "", "", ""],
            ["", "", "35Mi", ""],
            ["20m", "", "35Mi", ""],
            ["20m", "", "", ""],
            ["", "", "35Mi", ""],
        ],
        after: &[
            ["25m", "35m", "", ""],
            ["", "", "30Mi", "50Mi"],
            ["20m", "", "30Mi", ""],
            ["15m", "", "35Mi", ""],
            ["20m", "", "40Mi", ""],
        ],
        back: false,
    },
    Play { pod: "equivalents", before: &[["2m", "10m", "", ""]], after: &[["1m", "5m", "", ""]], back: true },
];

fn resources([cpu, cpu_limit, memory, memory_limit]: &Wish) -> Value {
    let mut out = json!({});
    for (kind, name, amount) in [
        ("requests", "cpu", cpu),
        ("requests", "memory", memory),
        ("limits", "cpu", cpu_limit),
        ("limits", "memory", memory_limit),
    ] {
        if !amount.is_empty() {
            out[kind][name] = json!(amount);
        }
    }
    out
}

fn containers(wishes: &[Wish], image: Option<&str>) -> Value {
    let of = |(index, wish): (usize, &Wish)| {
        let mut container = json!({"name": format!("c{}", index + 1), "resources": resources(wish)});
        if let Some(image) = image {
            container["image"] = json!(image);
            container["command"] = json!(["sleep", "36000"]);
        }
        container
    };
    wishes.iter().enumerate().map(of).collect()
}

/// Plays all of it.
pub(crate) fn play(c: &Cluster, registry: &str) {
    let image = format!("{registry}/busybox:1");
    let pod = |name: &str, wishes: &[Wish]| {
        let spec = json!({"containers": containers(wishes, Some(&image)), "terminationGracePeriodSeconds": 0});
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
    };
    let mut pods: Vec<Value> = PLAYS.iter().map(|play| pod(play.pod, play.before)).collect();
    pods.push(pod("replaced", &[["20m", "", "35Mi", ""]]));
    c.apply(&json!({"apiVersion": "v1", "kind": "List", "items": pods}).to_string());
    let names: Vec<String> = PLAYS.iter().map(|play| format!("pod/{}", play.pod)).collect();
    let mut wait = vec!["wait", "--for=condition=Ready", "--timeout=120s", "pod/replaced"];
    wait.extend(names.iter().map(String::as_str));
    c.kubectl(&wait);
    let patch = |name: &str, wishes: &[Wish]| {
        let patch = json!({"spec": {"containers": containers(wishes, None)}}).to_string();
        c.kubectl(&["patch", "pod", name, "--subresource", "resize", "--patch", &patch]);
    };
    PLAYS.iter().for_each(|play| patch(play.pod, play.after));
    replace(c);
    PLAYS.iter().for_each(|play| actuated(c, play.pod, play.after, 2));
    PLAYS.iter().filter(|play| play.back).for_each(|play| patch(play.pod, play.before));
    PLAYS.iter().filter(|play| play.back).for_each(|play| actuated(c, play.pod, play.before, 3));
    let mut delete = vec!["delete", "--timeout=60s", "pod/replaced"];
    delete.extend(names.iter().map(String::as_str));
    c.kubectl(&delete);
}

fn read(c: &Cluster, pod: &str, path: &str) -> Value {
    let uri = format!("/api/v1/namespaces/default/pods/{pod}{path}");
    serde_json::from_str(&c.kubectl(&["get", "--raw", &uri])).unwrap()
}

/// By the other verb; what is read from the subresource is the pod itself.
fn replace(c: &Cluster) {
    let mut pod = read(c, "replaced", "");
    let wish = ["25m", "", "40Mi", ""];
    pod["spec"]["containers"][0]["resources"] = resources(&wish);
    let put =
        c.feed(&["replace", "--raw", "/api/v1/namespaces/default/pods/replaced/resize", "-f", "-"], &pod.to_string());
    assert!(put.status.success(), "{}", String::from_utf8_lossy(&put.stderr));
    actuated(c, "replaced", &[wish], 2);
    c.eventually("both are the same", |c| read(c, "replaced", "") == read(c, "replaced", "/resize"));
}

/// Waits until the pod has what it was given: as its status says, and as the kernel does.
fn actuated(c: &Cluster, pod: &str, wishes: &[Wish], generation: i64) {
    c.eventually("the resize is done", |c| {
        let pod = read(c, pod, "");
        let has = |index: usize, wish: &Wish| {
            let wanted = resources(wish);
            let status = &pod["status"]["containerStatuses"][index];
            pod["spec"]["containers"][index]["resources"] == wanted
                && status["resources"] == wanted
                && status["restartCount"] == 0
        };
        let conditions = pod["status"]["conditions"].as_array().unwrap();
        wishes.iter().enumerate().all(|(index, wish)| has(index, wish))
            && pod["status"]["observedGeneration"] == generation
            && conditions.iter().all(|condition| !condition["type"].as_str().unwrap().starts_with("PodResize"))
            && conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    });
    let pod_object = read(c, pod, "");
    assert_eq!(pod_object["metadata"]["generation"], generation, "{pod}");
    let mut script = String::new();
    for status in pod_object["status"]["containerStatuses"].as_array().unwrap() {
        let id = status["containerID"].as_str().unwrap().trim_start_matches("naru://");
        let _ = write!(
            script,
            "for file in cpu.shares cpu.cfs_quota_us memory.limit_in_bytes; do \
             echo $(cat $(find /sys/fs/cgroup -path '*{id}/'$file)); done; "
        );
    }
    let found = String::from_utf8(c.host.sh(&script).stdout).unwrap();
    let found: Vec<&str> = found.lines().collect();
    for (index, [cpu, cpu_limit, _, memory_limit]) in wishes.iter().enumerate() {
        let milli = |text: &str| text.trim_end_matches('m').parse::<i64>().unwrap();
        let mebi = |text: &str| text.trim_end_matches("Mi").parse::<i64>().unwrap() << 20;
        let shares = if cpu.is_empty() { 2 } else { (milli(cpu) * 1024 / 1000).max(2) };
        // The kernel's least quota is a hundredth of the period.
        let quota = (!cpu_limit.is_empty()).then(|| (milli(cpu_limit) * 100).max(1000));
        let memory = (!memory_limit.is_empty()).then(|| mebi(memory_limit));
        let said = &found[index * 3..index * 3 + 3];
        // A machine without the controllers of version 1 has no such files.
        let is = |said: &str, wanted: i64| said.is_empty() || said.parse() == Ok(wanted);
        assert!(is(said[0], shares) && is(said[1], quota.unwrap_or(-1)), "{pod} c{}: {said:?}", index + 1);
        assert!(memory.is_none_or(|bytes| is(said[2], bytes)), "{pod} c{}: {said:?}", index + 1);
    }
}
