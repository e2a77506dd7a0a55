//! A pod's life against a runtime that only remembers.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::fake::World;
use serde_json::{Value, json};

fn pod(spec: Value) -> Pod {
    serde_json::from_value(
        json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u1", "generation": 1}, "spec": spec}),
    )
    .unwrap()
}

struct Running {
    inbox: Arc<Inbox>,
    task: tokio::task::JoinHandle<()>,
}

fn start(world: &World, pod: &Pod) -> Running {
    let inbox = Arc::new(Inbox::default());
    let worker =
        Worker::new(world.shared.clone(), Arc::new(pod.clone()), inbox.clone(), Arc::default(), world.shutdown.child());
    let task = spawn("pod", worker.run(world.shutdown.clone()));
    // What the dispatcher does: bring every event to the pod.
    let (mut events, to) = (world.shared.config.runtime.events(), inbox.clone());
    spawn("events", async move {
        while let Ok(event) = events.recv().await {
            if let naru_runtime::Event::Exit(exit) = event {
                to.put(|news| news.exits.push(exit));
            }
        }
    });
    Running { inbox, task }
}

async fn calls(world: &World, expect: &[&str]) {
    world.until(&format!("{expect:?}"), |w| (w.runtime.calls().len() >= expect.len()).then_some(())).await;
    assert_eq!(world.runtime.calls(), expect);
}

fn delete(running: &Running, mut pod: Pod) {
    pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::now()));
    pod.metadata.deletion_grace_period_seconds = Some(30);
    running.inbox.put(|news| news.pod = Some(Arc::new(pod)));
}

#[tokio::test]
async fn from_creation_to_deletion() {
    let world = World::new();
    let pod =
        pod(json!({"initContainers": [{"name": "i", "image": "a:1"}], "containers": [{"name": "m", "image": "a:1"}]}));
    let running = start(&world, &pod);
    calls(&world, &["create sandbox", "create i", "start i"]).await;
    world.runtime.exit(&world.runtime.newest("i").unwrap(), 0);
    world.until("running", |w| (w.status()["phase"] == "Running").then_some(())).await;
    let ready = |w: &World| {
        let conditions = w.status()["conditions"].clone();
        conditions.as_array()?.iter().find(|c| c["type"] == "Ready" && c["status"] == "True").map(|_| ())
    };
    world.until("ready", ready).await;
    let status = world.status();
    assert_eq!(status["podIP"], "10.42.0.5");
    assert_eq!(status["hostIP"], "192.0.2.1");
    assert_eq!(status["initContainerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
    assert!(status["containerStatuses"][0]["containerID"].as_str().unwrap().starts_with("naru://"));
    assert_eq!(status["containerStatuses"][0]["imageID"], "docker.io/library/a:1@sha256:2");

    delete(&running, pod);
    let options = world.until("deleted", World::deleted).await;
    assert_eq!(options["gracePeriodSeconds"], 0);
    assert_eq!(options["preconditions"]["uid"], "u1");
    let calls = world.runtime.calls();
    assert_eq!(&calls[3..], ["create m", "start m", "signal m 15", "remove sandbox"]);
    let last = world.status();
    assert_eq!(last["containerStatuses"][0]["state"]["terminated"]["exitCode"], 143);
    assert_eq!(last["phase"], "Failed");
    running.task.await.unwrap();
    assert!(!world.shared.config.pod_dir("u1").exists());
}

#[tokio::test]
async fn the_first_restart_is_immediate_and_the_second_waits() {
    let world = World::new();
    let pod = pod(json!({"containers": [{"name": "m", "image": "a:1"}]}));
    let running = start(&world, &pod);
    calls(&world, &["create sandbox", "create m", "start m"]).await;
    let first = world.runtime.newest("m").unwrap();
    world.runtime.exit(&first, 1);
    let count = |w: &World, n: i32| (w.status()["containerStatuses"][0]["restartCount"] == n).then_some(());
    world.until("restarted", |w| count(w, 1)).await;
    let second = world.runtime.newest("m").unwrap();
    assert_ne!(first, second);
    let status = |id: &str| naru_runtime::ExitStatus {
        exit_code: 1,
        signal: None,
        oom_killed: false,
        finished_at_ns: i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(0) + id.len() as i64,
    };
    let exit = naru_runtime::Exit { sandbox: String::new(), container: second.clone(), status: status(&second) };
    running.inbox.put(|news| news.exits.push(exit));
    let waiting =
        |w: &World| w.status()["containerStatuses"][0]["state"]["waiting"]["message"].as_str().map(str::to_owned);
    let message = world.until("crash loop", waiting).await;
    assert_eq!(message, "back-off 10s restarting failed container=m pod=p_ns(u1)");
    assert_eq!(world.status()["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 1);
    assert_eq!(world.status()["phase"], "Running");
    // Another image has not failed yet: it starts at once, and then waits as the first did.
    let mut again = pod;
    again.spec.as_mut().unwrap().containers[0].image = Some("a:2".into());
    running.inbox.put(|news| news.pod = Some(Arc::new(again)));
    world.until("restarted with another image", |w| count(w, 2)).await;
    let third = world.runtime.newest("m").unwrap();
    let exit = naru_runtime::Exit { sandbox: String::new(), container: third.clone(), status: status(&third) };
    running.inbox.put(|news| news.exits.push(exit));
    let message = world.until("crash loop of another image", waiting).await;
    assert_eq!(message, "back-off 10s restarting failed container=m pod=p_ns(u1)");
}

#[tokio::test]
async fn a_pod_stays_ready_while_a_changed_container_is_replaced() {
    let world = World::new();
    let mut pod = pod(json!({"containers": [{"name": "m", "image": "a:1"}]}));
    let running = start(&world, &pod);
    let restarts = |w: &World, n: i32| (w.status()["containerStatuses"][0]["restartCount"] == n).then_some(());
    let is_ready = |c: &serde_json::Value| c["type"] == "Ready" && c["status"] == "True";
    let ready = |w: &World| w.status()["conditions"].as_array()?.iter().any(is_ready).then_some(());
    world.until("ready", ready).await;
    let told = world.api.sent("PATCH").len();
    pod.spec.as_mut().unwrap().containers[0].image = Some("a:2".into());
    running.inbox.put(|news| news.pod = Some(Arc::new(pod)));
    world.until("another run", |w| restarts(w, 1)).await;
    for (_, patch) in world.api.sent("PATCH").split_off(told) {
        let conditions = patch["status"]["conditions"].as_array().cloned().unwrap_or_default();
        assert!(conditions.iter().all(|c| c["status"] != "False"), "{patch}");
    }
    let container = &world.status()["containerStatuses"][0];
    assert_eq!((&container["ready"], &container["image"]), (&json!(true), &json!("docker.io/library/a:2")));
    assert!(container["lastState"]["terminated"]["finishedAt"].is_string(), "{container}");
}

#[tokio::test]
async fn what_was_made_and_not_started_goes_with_its_root() {
    let world = World::new();
    let runtime = &world.shared.config.runtime;
    let labels = BTreeMap::from([(labels::POD_UID.to_owned(), "u1".to_owned())]);
    let sandbox = naru_runtime::SandboxSpec { id: "s".into(), labels, ..Default::default() };
    runtime.create_sandbox(sandbox).await.unwrap();
    let container = naru_runtime::ContainerSpec { id: "stillborn".into(), name: "m".into(), ..Default::default() };
    runtime.create_container("s", container).await.unwrap();
    start(&world, &pod(json!({"containers": [{"name": "m", "image": "a:1"}]})));
    world.until("running", |w| (w.status()["phase"] == "Running").then_some(())).await;
    assert_eq!(*world.images.removed.lock().unwrap(), ["stillborn"]);
    assert_ne!(world.runtime.newest("m").as_deref(), Some("stillborn"));
}

#[tokio::test]
async fn what_runs_is_adopted_and_not_restarted() {
    let world = World::new();
    let mut pod = pod(json!({"containers": [{"name": "m", "image": "a:1"}]}));
    let first = start(&world, &pod);
    world.until("running", |w| (w.status()["phase"] == "Running").then_some(())).await;
    let id = world.runtime.newest("m").unwrap();
    // The agent goes away; the pod stays.
    first.task.abort();
    pod.status = Some(serde_json::from_value(world.status()).unwrap());
    let running = start(&world, &pod);
    delete(&running, pod);
    world.until("deleted", World::deleted).await;
    assert_eq!(world.runtime.calls(), ["create sandbox", "create m", "start m", "signal m 15", "remove sandbox"]);
    let terminated = world.status()["containerStatuses"][0].clone();
    assert_eq!(terminated["restartCount"], 0);
    assert_eq!(terminated["containerID"], format!("naru://{id}"));
}

#[tokio::test]
async fn after_a_reboot_everything_starts_again_and_is_counted() {
    let world = World::new();
    let mut pod = pod(json!({"containers": [{"name": "m", "image": "a:1"}]}));
    pod.status = Some(
        serde_json::from_value(json!({"phase": "Running", "podIPs": [{"ip": "10.42.0.9"}], "containerStatuses": [{
            "name": "m", "image": "a:1", "imageID": "x", "ready": true, "started": true, "restartCount": 2,
            "containerID": "naru://old", "state": {"running": {"startedAt": "2024-01-01T00:00:00Z"}}, "lastState": {}}]}))
        .unwrap(),
    );
    start(&world, &pod);
    let again = |w: &World| {
        let status = w.status()["containerStatuses"][0].clone();
        (status["restartCount"] == 3 && status["state"]["running"].is_object()).then_some(status)
    };
    let status = world.until("started again", again).await;
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 255);
    assert_eq!(status["lastState"]["terminated"]["reason"], "Unknown");
    assert_eq!(status["lastState"]["terminated"]["containerID"], "naru://old");
}

#[tokio::test]
async fn a_completed_pod_is_cleaned_up_and_stays() {
    let world = World::new();
    let pod = pod(json!({"restartPolicy": "Never", "containers": [{"name": "m", "image": "a:1"}]}));
    let running = start(&world, &pod);
    calls(&world, &["create sandbox", "create m", "start m"]).await;
    world.runtime.exit(&world.runtime.newest("m").unwrap(), 0);
    calls(&world, &["create sandbox", "create m", "start m", "remove sandbox"]).await;
    assert_eq!(world.status()["phase"], "Succeeded");
    assert_eq!(world.deleted(), None);
    delete(&running, pod);
    world.until("deleted", World::deleted).await;
    running.task.await.unwrap();
}

#[tokio::test]
async fn an_image_that_does_not_exist_is_backed_off() {
    let world = World::new();
    let pod = pod(json!({"containers": [{"name": "m", "image": "absent"}]}));
    start(&world, &pod);
    let waiting = |reason: &'static str| {
        move |w: &World| {
            let waiting = w.status()["containerStatuses"][0]["state"]["waiting"].clone();
            (waiting["reason"] == reason).then(|| waiting["message"].as_str().unwrap().to_owned())
        }
    };
    let why = "rpc error: code = NotFound desc = absent: not found";
    assert_eq!(world.until("error", waiting("ErrImagePull")).await, why);
    let text = format!("Back-off pulling image \"absent\": ErrImagePull: {why}");
    assert_eq!(world.until("back-off", waiting("ImagePullBackOff")).await, text);
    assert_eq!(world.status()["phase"], "Pending");
}

#[tokio::test]
async fn a_missing_config_map_holds_the_pod_back() {
    let world = World::new();
    let pod = pod(json!({"containers": [{"name": "m", "image": "a:1", "envFrom": [{"configMapRef": {"name": "c"}}]}]}));
    start(&world, &pod);
    let waiting = |w: &World| {
        let waiting = w.status()["containerStatuses"][0]["state"]["waiting"].clone();
        (waiting["reason"] == "CreateContainerConfigError").then_some(waiting)
    };
    assert_eq!(world.until("config error", waiting).await["message"], "configmap \"c\" not found");
}

#[tokio::test]
async fn new_resources_are_given_to_the_running_container() {
    let world = World::new();
    let with = |cpu: &str| {
        pod(json!({"containers": [{"name": "m", "image": "a:1",
            "resources": {"requests": {"cpu": cpu}, "limits": {"cpu": cpu}}}]}))
    };
    let running = start(&world, &with("1"));
    world.until("running", |w| (w.status()["phase"] == "Running").then_some(())).await;
    running.inbox.put(|news| news.pod = Some(Arc::new(with("2"))));
    let given = |w: &World| (w.status()["containerStatuses"][0]["resources"]["limits"]["cpu"] == "2").then_some(());
    world.until("resized", given).await;
    assert_eq!(world.runtime.calls()[3..], ["update m Some(200000) Some(-1)"]);
    assert_eq!(world.status()["containerStatuses"][0]["restartCount"], 0);
}

#[tokio::test]
async fn an_ephemeral_container_comes_later_and_runs_once() {
    let world = World::new();
    let mut pod = pod(json!({"containers": [{"name": "m", "image": "a:1"}]}));
    let running = start(&world, &pod);
    world.until("running", |w| (w.status()["phase"] == "Running").then_some(())).await;
    let main = world.runtime.newest("m").unwrap();
    pod.spec.as_mut().unwrap().ephemeral_containers =
        serde_json::from_value(json!([{"name": "e", "image": "a:1", "targetContainerName": "m"}])).unwrap();
    running.inbox.put(|news| news.pod = Some(Arc::new(pod)));
    let state = |w: &World| w.status()["ephemeralContainerStatuses"][0]["state"].clone();
    world.until("it runs", |w| state(w).get("running").map(|_| ())).await;
    let id = world.runtime.newest("e").unwrap();
    assert_eq!(world.runtime.specs.lock().unwrap()[&id].processes_of, Some(main));
    world.runtime.exit(&id, 1);
    world.until("it ended", |w| state(w).get("terminated").map(|_| ())).await;
    assert_eq!(world.status()["phase"], "Running");
    assert!(!world.runtime.calls()[5..].iter().any(|call| call == "create e"), "it runs once");
}

#[tokio::test]
async fn one_container_takes_the_whole_pod_with_it() {
    let world = World::new();
    let rule = json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]);
    let pod = pod(json!({"restartPolicy": "Never",
        "initContainers": [{"name": "i", "image": "a:1"}],
        "containers": [{"name": "m", "image": "a:1"},
            {"name": "w", "image": "a:1", "restartPolicy": "Never", "restartPolicyRules": rule}]}));
    let running = start(&world, &pod);
    calls(&world, &["create sandbox", "create i", "start i"]).await;
    world.runtime.exit(&world.runtime.newest("i").unwrap(), 0);
    world.until("running", |w| (w.status()["phase"] == "Running").then_some(())).await;
    let whole = |w: &World, value: &str| {
        let conditions = w.status()["conditions"].as_array().cloned().unwrap_or_default();
        conditions.into_iter().find(|c| c["type"] == "AllContainersRestarting" && c["status"] == value)
    };
    world.until("a condition from the beginning", |w| whole(w, "False")).await;
    let started = |w: &World, name: &str| w.runtime.calls().contains(&format!("start {name}")).then_some(());
    world.until("m and w run", |w| started(w, "m").and(started(w, "w"))).await;
    // The main container does not listen, so the restart can be watched.
    *world.runtime.ignore_term.lock().unwrap() = true;
    world.runtime.exit(&world.runtime.newest("w").unwrap(), 42);
    let condition = world.until("the restart is told", |w| whole(w, "True")).await;
    assert_eq!(condition["reason"], "RestartAllContainersStarted");
    let again = |w: &World| (w.runtime.calls().iter().filter(|c| *c == "start i").count() == 2).then_some(());
    world.until("the init container runs again", again).await;
    world.runtime.exit(&world.runtime.newest("i").unwrap(), 0);
    let counts = |w: &World| {
        let status = w.status();
        let count = |list: &str, i: usize| status[list][i]["restartCount"].as_i64();
        let counts = [count("initContainerStatuses", 0), count("containerStatuses", 0), count("containerStatuses", 1)];
        (counts == [Some(1); 3] && whole(w, "False").is_some()).then_some(())
    };
    world.until("all are counted", counts).await;
    assert_eq!(world.runtime.calls().iter().filter(|c| c.contains("sandbox")).count(), 1);
    *world.runtime.ignore_term.lock().unwrap() = false;
    delete(&running, pod);
    world.until("deleted", World::deleted).await;
}

#[tokio::test]
async fn a_pod_that_would_change_the_machine_is_rejected() {
    let world = World::new();
    let pod = pod(json!({"containers": [{"name": "m", "image": "a:1"}],
        "securityContext": {"sysctls": [{"name": "kernel.core_pattern", "value": "|/x"}]}}));
    start(&world, &pod);
    world.until("rejected", |w| (w.status()["phase"] == "Failed").then_some(())).await;
    assert_eq!(world.status()["reason"], "SysctlForbidden");
    let message = "Pod was rejected: forbidden sysctl: \"kernel.core_pattern\" not allowlisted";
    assert_eq!(world.status()["message"], message);
    assert!(world.runtime.calls().is_empty());
}

#[tokio::test]
async fn a_pod_as_a_whole_is_bounded_and_resized() {
    let world = World::new();
    let with = |memory: &str| {
        pod(json!({"resources": {"limits": {"cpu": "1", "memory": memory}, "requests": {"cpu": "1", "memory": memory}},
            "containers": [{"name": "m", "image": "a:1"}, {"name": "n", "image": "a:1"}]}))
    };
    let running = start(&world, &with("64Mi"));
    world.until("running", |w| (w.status()["phase"] == "Running").then_some(())).await;
    let resized = world.runtime.cgroups.lock().unwrap().iter().any(|(path, _)| path == "kubepods/podu1");
    assert!(!resized, "nobody has asked for it");
    let limits = world.runtime.sandbox_limits.lock().unwrap().clone();
    assert_eq!((limits.cpu_quota, limits.memory_limit), (Some(100_000), Some(64 << 20)));
    running.inbox.put(|news| news.pod = Some(Arc::new(with("32Mi"))));
    let given = |w: &World| (w.status()["resources"]["limits"]["memory"] == "32Mi").then_some(());
    world.until("resized", given).await;
    let of_pod =
        |(path, limits): &(String, naru_runtime::Resources)| (path == "kubepods/podu1").then_some(limits.memory_limit);
    let cgroups = world.runtime.cgroups.lock().unwrap();
    // The wider limit first, then the one that is wanted.
    assert_eq!(cgroups.iter().filter_map(of_pod).collect::<Vec<_>>(), [Some(64 << 20), Some(32 << 20)]);
}
