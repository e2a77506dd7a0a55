//! Containers that another OCI runtime makes: Debian's runc.

use crate::fixture::{Fixture, exit_of};
use crate::scenarios::started;
use naru_runtime::{ContainerState, ExecSpec, Mount, RuntimeError, SandboxSpec, SeccompProfile};
use std::time::Duration;

const RUNC: &str = "/usr/sbin/runc";

fn sandbox(fixture: &Fixture) -> SandboxSpec {
    SandboxSpec { handler: Some(RUNC.into()), ..fixture.sandbox("a") }
}

pub(crate) async fn another_runtime(fixture: Fixture) {
    if !std::fs::read_to_string("/proc/self/mounts").unwrap().lines().any(|line| line.contains(" cgroup")) {
        // Runc itself does not run without.
        return;
    }
    let runtime = fixture.open().await;
    let mut events = runtime.events();
    runtime.create_sandbox(sandbox(&fixture)).await.unwrap();
    std::fs::create_dir_all(fixture.path("volume")).unwrap();
    let script = "id; pwd; hostname; echo to-volume > /v/made; echo err >&2; \
                  cat /proc/self/status; trap 'echo stopped; exit 3' TERM; echo ready; while :; do sleep 0.05; done";
    let mut spec = fixture.shell("c", script);
    (spec.uid, spec.gid, spec.additional_gids) = (33, 33, vec![7]);
    spec.capabilities = vec!["CAP_NET_BIND_SERVICE".into()];
    spec.no_new_privileges = true;
    spec.seccomp = SeccompProfile::RuntimeDefault;
    spec.cwd = "/made/for/it".into();
    let volume = fixture.path("volume");
    std::os::unix::fs::chown(&volume, Some(33), None).unwrap();
    spec.mounts = vec![Mount { source: volume, destination: "/v".into(), ..Mount::default() }];
    started(&runtime, "a", spec).await;
    fixture.log_says("c", "F ready\n").await;
    let log = fixture.log("c");
    for text in [
        "uid=33(web) gid=33 groups=7,33",
        "F /made/for/it\n",
        "F host-a\n",
        "stderr F err\n",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "SigIgn:\t0000000000000000",
    ] {
        assert!(log.contains(text), "{text:?} not in {log}");
    }
    assert!(fixture.path("volume/made").exists());

    let command = ["sh", "-c", "id -u; echo $$ >&2; exit 4"].map(String::from);
    let probe = runtime.exec_probe("c", &command, Duration::from_secs(60)).await.unwrap();
    let said = String::from_utf8_lossy(&probe.output);
    assert!(probe.exit_code == 4 && said.lines().any(|line| line == "33"), "{probe:?}");
    let mut tty = ExecSpec { container: "c".into(), tty: true, tty_size: Some((91, 17)), ..ExecSpec::default() };
    tty.args =
        ["sh", "-c", "until [ \"$(stty size 2>/dev/null)\" = '17 91' ]; do sleep 0.02; done; stty size; echo $TERM"]
            .map(String::from)
            .into();
    let mut session = runtime.exec(tty).await.unwrap();
    let mut said = String::new();
    let _ = tokio::io::AsyncReadExt::read_to_string(session.stdout.as_mut().unwrap(), &mut said).await;
    assert!(said.contains("17 91") && said.contains("xterm"), "{said}");
    let mut missing = ExecSpec { container: "c".into(), ..ExecSpec::default() };
    missing.args = vec!["nothing".into()];
    let error = runtime.exec(missing).await.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(error.contains("executable file not found in $PATH"), "{error}");

    // Its processes outlive the agent, and it can still be stopped.
    let pid = runtime.container("c").unwrap().pid;
    drop(runtime);
    drop(events);
    let runtime = fixture.open().await;
    events = runtime.events();
    assert_eq!(runtime.container("c").unwrap().pid, pid);
    runtime.signal_container("c", libc::SIGTERM).await.unwrap();
    let exit = match runtime.container("c").unwrap().state {
        ContainerState::Exited(status) => status,
        _ => exit_of(&mut events, "c").await.status,
    };
    assert_eq!(exit.exit_code, 3);
    assert!(fixture.log("c").contains("F stopped\n"));
    runtime.remove_container("c").await.unwrap();

    let mut wrong = fixture.shell("d", "");
    wrong.args = vec!["nothing".into()];
    let error = runtime.create_container("a", wrong).await.unwrap_err();
    let text = "exec: \"nothing\": executable file not found in $PATH";
    assert!(matches!(&error, RuntimeError::Start(said) if said.contains(text)), "{error}");
    let mut terminal = fixture.shell("e", "tty; exit 6");
    terminal.tty = true;
    started(&runtime, "a", terminal).await;
    assert_eq!(exit_of(&mut events, "e").await.status.exit_code, 6);
    assert!(fixture.log("e").contains("F /dev/pts/0\n"), "{}", fixture.log("e"));
    // One that runs goes with its sandbox.
    started(&runtime, "a", fixture.shell("f", "sleep 1030")).await;
    runtime.remove_sandbox("a").await.unwrap();
}
