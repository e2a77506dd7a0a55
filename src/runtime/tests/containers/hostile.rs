//! Containers that mean harm: the others go on, and nothing of the machine is changed.

use crate::fixture::{Fixture, exit_of};
use crate::scenarios::started;
use naru_runtime::{ExecSpec, Resources};
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// More than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A sandbox whose container does nothing, and answers.
async fn bystander(runtime: &naru_runtime::Runtime, fixture: &Fixture) {
    runtime.create_sandbox(fixture.sandbox("other")).await.unwrap();
    started(runtime, "other", fixture.shell("calm", "sleep 1012")).await;
}

async fn answers(runtime: &naru_runtime::Runtime) {
    let said = runtime.exec_probe("calm", &["echo".into(), "here".into()], PATIENCE).await.unwrap();
    assert_eq!((said.exit_code, said.output.as_slice()), (0, b"here\n".as_slice()));
}

pub(crate) async fn fork_bomb(fixture: Fixture) {
    let runtime = fixture.open().await;
    bystander(&runtime, &fixture).await;
    let limits = Resources { pids_limit: Some(50), ..Resources::default() };
    // Without a controller that counts there is nothing to stop it: then it is a small one.
    let counted = runtime.apply_cgroup("limits", &limits).await.unwrap().is_empty();
    runtime.remove_cgroup("limits").await.unwrap();
    let mut sandbox = fixture.sandbox("a");
    sandbox.resources = limits;
    runtime.create_sandbox(sandbox).await.unwrap();
    let depth = if counted { 1000 } else { 6 };
    let script = format!("b() {{ [ $1 = 0 ] || {{ b $(($1-1)) & b $(($1-1)) & sleep 1013; }}; }}; echo up; b {depth}");
    started(&runtime, "a", fixture.shell("bomb", &script)).await;
    fixture.log_says("bomb", "up").await;
    if counted {
        fixture.log_says("bomb", "can't fork").await;
        assert!(runtime.cgroup_stats("poda").await.unwrap().pids <= 50);
    }
    answers(&runtime).await;
    runtime.remove_sandbox("a").await.unwrap();
    answers(&runtime).await;
    runtime.remove_sandbox("other").await.unwrap();
}

pub(crate) async fn log_flood(fixture: Fixture) {
    let runtime = fixture.open().await;
    bystander(&runtime, &fixture).await;
    runtime.create_sandbox(fixture.sandbox("a")).await.unwrap();
    let flood = "while :; do echo 0123456789012345678901234567890123456789; done & while :; do printf x; done";
    started(&runtime, "a", fixture.shell("flood", flood)).await;
    // Somebody who looks, and takes nothing.
    let _observer = runtime.attach("flood").await.unwrap();
    fixture.log_says("flood", "0123456789").await;
    answers(&runtime).await;
    // Of the same shim, too.
    let said = runtime.exec_probe("flood", &["echo".into(), "still".into()], PATIENCE).await.unwrap();
    assert_eq!(said.output, b"still\n");
    runtime.signal_container("flood", libc::SIGKILL).await.unwrap();
    runtime.remove_sandbox("a").await.unwrap();
    runtime.remove_sandbox("other").await.unwrap();
}

/// Orphans become children of the first process of a shared process namespace, which does not keep them as zombies.
pub(crate) async fn zombies(fixture: Fixture) {
    let runtime = fixture.open().await;
    let mut sandbox = fixture.sandbox("a");
    sandbox.share_pid = true;
    runtime.create_sandbox(sandbox).await.unwrap();
    let script = "for i in 1 2 3 4 5 6 7 8; do (sh -c 'sleep 0.01; exit' & ); done; echo orphaned; sleep 1014";
    started(&runtime, "a", fixture.shell("c", script)).await;
    fixture.log_says("c", "orphaned").await;
    loop {
        let said = runtime.exec_probe("c", &["ps".into()], PATIENCE).await.unwrap();
        let text = String::from_utf8_lossy(&said.output).into_owned();
        if !text.contains("sleep 0.01") && !text.contains('Z') && !text.contains("[sh]") {
            break;
        }
    }
    runtime.remove_sandbox("a").await.unwrap();
}

/// A container whose programs lead back to the one that runs them cannot change that one.
pub(crate) async fn exec_of_a_replaced_program(fixture: Fixture) {
    let runtime = fixture.open().await;
    let mut events = runtime.events();
    let this = std::env::current_exe().unwrap();
    let before = std::fs::read(&this).unwrap();
    runtime.create_sandbox(fixture.sandbox("a")).await.unwrap();
    // The root file system is the container's own: a program in it becomes a script whose interpreter is whoever
    // executes it, and somebody waits for a chance to write there.
    let script = "echo '#!/proc/self/exe' > /tmp/evil; busybox chmod 755 /tmp/evil; echo ready; \
        while [ ! -e /tmp/stop ]; do for p in /proc/[0-9]*; do \
        [ $p = /proc/1 ] || [ $p = /proc/$$ ] || echo overwritten 2>/dev/null > $p/exe; done; done 2>/dev/null; echo done";
    started(&runtime, "a", fixture.shell("c", script)).await;
    fixture.log_says("c", "ready").await;
    for _ in 0..5 {
        let spec = ExecSpec { container: "c".into(), args: vec!["/tmp/evil".into()], ..ExecSpec::default() };
        // Whatever comes of it.
        if let Ok(mut session) = runtime.exec(spec).await {
            let _ = tokio::time::timeout(PATIENCE, session.wait()).await.unwrap();
            let mut text = Vec::new();
            session.stdout.take().unwrap().read_to_end(&mut text).await.unwrap();
        }
    }
    runtime.exec_probe("c", &["sh".into(), "-c".into(), "echo > /tmp/stop".into()], PATIENCE).await.unwrap();
    assert_eq!(exit_of(&mut events, "c").await.status.exit_code, 0);
    assert!(std::fs::read(&this).unwrap() == before, "the program of the machine was changed");
    runtime.remove_sandbox("a").await.unwrap();
}
