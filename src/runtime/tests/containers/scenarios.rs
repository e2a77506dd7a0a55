//! What is tried.

use crate::fixture::{Fixture, Scenario, exit_of};
use crate::{handlers, hostile, users};
use naru_runtime::{ContainerState, Event, ExecSpec, Mount, Resources, Runtime, RuntimeError, SeccompProfile};
use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// All tests by name.
pub(crate) const ALL: &[(&str, Scenario)] = &[
    ("run_logs_and_exit_code", |f| Box::pin(run_logs_and_exit_code(f))),
    ("identity_and_environment", |f| Box::pin(identity_and_environment(f))),
    ("programs_that_cannot_run", |f| Box::pin(programs_that_cannot_run(f))),
    ("exec_without_terminal", |f| Box::pin(exec_without_terminal(f))),
    ("exec_with_terminal", |f| Box::pin(exec_with_terminal(f))),
    ("exec_probe_is_bounded", |f| Box::pin(exec_probe_is_bounded(f))),
    ("containers_share_the_network", |f| Box::pin(containers_share_the_network(f))),
    ("containers_share_processes", |f| Box::pin(containers_share_processes(f))),
    ("container_with_terminal", |f| Box::pin(container_with_terminal(f))),
    ("signals_and_background_children", |f| Box::pin(signals_and_background_children(f))),
    ("adoption", |f| Box::pin(adoption(f))),
    ("adoption_after_kill_of_the_agent", |f| Box::pin(adoption_after_kill_of_the_agent(f))),
    ("kill_of_the_agent_at_any_point", |f| Box::pin(kill_of_the_agent_at_any_point(f))),
    ("lost_shim", |f| Box::pin(lost_shim(f))),
    ("stale_state_is_cleaned_up", |f| Box::pin(stale_state_is_cleaned_up(f))),
    ("mounts_and_read_only_root", |f| Box::pin(mounts_and_read_only_root(f))),
    ("limits_and_out_of_memory", |f| Box::pin(limits_and_out_of_memory(f))),
    ("system_call_filters", |f| Box::pin(system_call_filters(f))),
    ("log_rotation", |f| Box::pin(log_rotation(f))),
    ("ten_at_once", |f| Box::pin(ten_at_once(f))),
    ("own_users", |f| Box::pin(users::own_users(f))),
    ("own_users_share_processes", |f| Box::pin(users::own_users_share_processes(f))),
    ("another_runtime", |f| Box::pin(handlers::another_runtime(f))),
    ("fork_bomb", |f| Box::pin(hostile::fork_bomb(f))),
    ("log_flood", |f| Box::pin(hostile::log_flood(f))),
    ("zombies", |f| Box::pin(hostile::zombies(f))),
    ("exec_of_a_replaced_program", |f| Box::pin(hostile::exec_of_a_replaced_program(f))),
];

pub(crate) async fn started(runtime: &Runtime, sandbox: &str, spec: naru_runtime::ContainerSpec) {
    let id = spec.id.clone();
    runtime.create_container(sandbox, spec).await.unwrap();
    runtime.start_container(&id).await.unwrap();
}

async fn run_logs_and_exit_code(fixture: Fixture) {
    let runtime = fixture.open().await;
    let mut events = runtime.events();
    let info = runtime.create_sandbox(fixture.sandbox("a")).await.unwrap();
    assert!(info.netns_path.exists());
    let spec = fixture.shell("c", "echo out; echo err >&2; hostname; printf last; exit 3");
    let made = runtime.create_container("a", spec.clone()).await.unwrap();
    assert_eq!(made.state, ContainerState::Created);
    assert!(matches!(runtime.create_container("a", spec).await, Err(RuntimeError::Exists(_))));
    runtime.start_container("c").await.unwrap();
    let exit = exit_of(&mut events, "c").await;
    assert_eq!((exit.status.exit_code, exit.status.signal), (3, None));
    let log = fixture.log("c");
    for line in ["stdout F out\n", "stderr F err\n", "stdout F host-a\n", "stdout P last\n"] {
        assert!(log.contains(line), "{log}");
    }
    assert!(matches!(runtime.container("c").unwrap().state, ContainerState::Exited(_)));
    runtime.remove_container("c").await.unwrap();
    runtime.remove_container("c").await.unwrap();
    assert_eq!(runtime.container("c"), None);
    runtime.remove_sandbox("a").await.unwrap();
    runtime.remove_sandbox("a").await.unwrap();
    assert!(!fixture.path("run/sandboxes/a").exists());
}

async fn identity_and_environment(fixture: Fixture) {
    let runtime = fixture.open().await;
    let mut events = runtime.events();
    runtime.create_sandbox(fixture.sandbox("a")).await.unwrap();
    let mut spec = fixture.shell(
        "c",
        "id; pwd; echo home=$HOME b=$B; cat /proc/self/status | cat; echo hi > /dev/stdout; trap; kill -l PIPE",
    );
    (spec.uid, spec.gid, spec.additional_gids) = (33, 33, vec![7, 8]);
    spec.cwd = "/made/for/it".into();
    spec.env.push("B=2".into());
    spec.capabilities = vec!["CAP_NET_BIND_SERVICE".into(), "CAP_SYS_MODULE".into()];
    spec.no_new_privileges = true;
    started(&runtime, "a", spec).await;
    exit_of(&mut events, "c").await;
    let log = fixture.log("c");
    for text in [
        "uid=33(web) gid=33 groups=7,8,33",
        "F /made/for/it\n",
        "home=/var/www b=2",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000010400",
        "CapInh:\t0000000000000000",
        "NoNewPrivs:\t1",
        "SigIgn:\t0000000000000000",
        "SigBlk:\t0000000000000000",
        "F hi\n",
    ] {
        assert!(log.contains(text), "{text:?} not in {log}");
    }
    let exec = runtime.exec_probe("c", &["id".into()], Duration::from_secs(20)).await;
    assert!(matches!(exec, Err(RuntimeError::NotRunning(_))), "{exec:?}");
    runtime.remove_sandbox("a").await.unwrap();
}

async fn programs_that_cannot_run(fixture: Fixture) {
    let runtime = fixture.open().await;
    runtime.create_sandbox(fixture.sandbox("a")).await.unwrap();
    let cases = [
        ("foo", "exec: \"foo\": executable file not found in $PATH"),
        ("/foo", "exec: \"/foo\": stat /foo: no such file or directory"),
        ("/etc/passwd", "exec: \"/etc/passwd\": permission denied"),
        ("/bin/badinterp", "exec /bin/badinterp: no such file or directory"),
    ];
    for (program, text) in cases {
        let mut spec = fixture.shell("c", "");
        spec.args = vec![program.into()];
        let outcome = match runtime.create_container("a", spec).await {
            Ok(_) => runtime.start_container("c").await.map(drop),
            Err(error) => Err(error),
        };
        assert!(matches!(&outcome, Err(RuntimeError::Start(said)) if said == text), "{outcome:?}");
        assert_eq!(runtime.container("c"), None);
    }
    let mut spec = fixture.shell("c", "");
    spec.mounts.push(Mount { source: "/nowhere".into(), destination: "/x".into(), ..Mount::default() });
    let outcome = runtime.create_container("a", spec).await;
    assert!(matches!(&outcome, Err(RuntimeError::Start(said)) if said.contains("/nowhere")), "{outcome:?}");
    runtime.remove_sandbox("a").await.unwrap();
}

async fn exec_without_terminal(fixture: Fixture) {
    let runtime = fixture.open().await;
    runtime.create_sandbox(fixture.sandbox("a")).await.unwrap();
    let mut container = fixture.shell("c", "sleep 1000");
    container.env.push("FROM=container".into());
    started(&runtime, "a", container).await;
    let mut spec = ExecSpec { container: "c".into(), stdin: true, ..ExecSpec::default() };
    spec.args = ["sh", "-c", "cat; echo $FROM; id -u; echo $$ >&2; exit 7"].map(String::from).into();
    let mut session = runtime.exec(spec.clone()).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    stdin.write_all(b"typed\n").await.unwrap();
    drop(stdin);
    assert_eq!(session.wait().await.unwrap(), 7);
    let (mut out, mut err) = (String::new(), String::new());
    session.stdout.take().unwrap().read_to_string(&mut out).await.unwrap();
    session.stderr.take().unwrap().read_to_string(&mut err).await.unwrap();
    assert_eq!(out, "typed\ncontainer\n0\n");
    assert!(err.trim().parse::<u32>().unwrap() < 20, "a pid of the container's namespace: {err}");
    spec.args = vec!["nothing".into()];
    let outcome = runtime.exec(spec.clone()).await;
    let text = "exec: \"nothing\": executable file not found in $PATH";
    assert!(matches!(&outcome, Err(RuntimeError::Start(said)) if said == text), "{outcome:?}");
    // Dropping the session ends the command.
    spec.args = ["sh", "-c", "echo begun; exec sleep 1001"].map(String::from).into();
    let mut session = runtime.exec(spec).await.unwrap();
    let mut stdout = session.stdout.take().unwrap();
    stdout.read_u8().await.unwrap();
    drop(session);
    stdout.read_to_string(&mut out).await.unwrap();
    runtime.remove_sandbox("a").await.unwrap();
}

async fn exec_with_terminal(fixture: Fixture) {
    let runtime = fixture.open().await;
    runtime.create_sandbox(fixture.sandbox("a")).await.unwrap();
    started(&runtime, "a", fixture.shell("c", "sleep 1000")).await;
    let spec = ExecSpec {
        container: "c".into(),
        args: ["sh", "-c", "tty; stty size; read x; stty size; echo got $x"].map(String::from).into(),
        tty: true,
        tty_size: Some((81, 25)),
        stdin: true,
        ..ExecSpec::default()
    };
    let mut session = runtime.exec(spec).await.unwrap();
    let (mut stdin, mut stdout) = (session.stdin.take().unwrap(), session.stdout.take().unwrap());
    assert!(session.stderr.is_none());
    let mut text = String::new();
    while !text.contains("25 81") {
        text.push(stdout.read_u8().await.unwrap().into());
    }
    assert!(text.contains("/dev/pts/0"), "{text}");
    session.resize(100, 40);
    stdin.write_all(b"word\n").await.unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).await.unwrap();
    assert!(rest.contains("40 100") && rest.contains("got word"), "{rest}");
    assert_eq!(session.wait().await.unwrap(), 0);
    runtime.remove_sandbox("a").await.unwrap();
}

async fn exec_probe_is_bounded(fixture: Fixture) {
    let runtime = fixture.open().await;
    runtime.create_sandbox(fixture.sandbox("a")).await.unwrap();
    started(&runtime, "a", fixture.shell("c", "sleep 1000")).await;
    let probe = |script: &str| ["sh", "-c", script].map(String::from);
    let long = Duration::from_secs(40);
    let said = runtime.exec_probe("c", &probe("echo no; exit 1"), long).await.unwrap();
    assert_eq!((said.exit_code, said.output.as_slice()), (1, b"no\n".as_slice()));
    // A child left behind holds the pipe; the probe does not wait for it.
    let said = runtime.exec_probe("c", &probe("sleep 1002 & echo ok"), long).await.unwrap();
    assert_eq!((said.exit_code, said.output.as_slice()), (0, b"ok\n".as_slice()));
    let said = runtime.exec_probe("c", &probe("cat /bin/busybox; exit 0"), long).await.unwrap();
    assert_eq!(said.output.len(), 10 * 1024);
    let outcome = runtime.exec_probe("c", &probe("sleep 1003"), Duration::from_millis(300)).await;
    assert!(matches!(outcome, Err(RuntimeError::Timeout(_))), "{outcome:?}");
    runtime.remove_sandbox("a").await.unwrap();
}

async fn containers_share_the_network(fixture: Fixture) {
    let runtime = fixture.open().await;
    let mut events = runtime.events();
    runtime.create_sandbox(fixture.sandbox("a")).await.unwrap();
    started(&runtime, "a", fixture.shell("server", "nc -l -p 80 -e echo hello")).await;
    let client = "until nc 127.0.0.1 80; do sleep 0.01; done; echo x > /dev/shm/x";
    started(&runtime, "a", fixture.shell("client", client)).await;
    exit_of(&mut events, "client").await;
    assert_eq!(fixture.log("client").matches("stdout F hello\n").count(), 1);
    assert!(runtime.sandbox("a").unwrap().shm_path.join("x").exists());
    let host = std::fs::read_link("/proc/self/ns/net").unwrap();
    assert_ne!(std::fs::read_link(runtime.sandbox("a").unwrap().netns_path).unwrap(), host);
    runtime.remove_sandbox("a").await.unwrap();
    let mut shared = fixture.sandbox("b");
    (shared.host_network, shared.host_ipc, shared.host_pid) = (true, true, true);
    let info = runtime.create_sandbox(shared).await.unwrap();
    assert_eq!(std::fs::read_link(info.netns_path).unwrap(), host);
    started(&runtime, "b", fixture.shell("c", "readlink() { busybox readlink $1; }; readlink /proc/self/ns/pid")).await;
    exit_of(&mut events, "c").await;
    let pid_namespace = std::fs::read_link("/proc/self/ns/pid").unwrap();
    assert!(fixture.log("c").contains(pid_namespace.to_str().unwrap()));
    runtime.remove_sandbox("b").await.unwrap();
}

async fn containers_share_processes(fixture: Fixture) {
    let runtime = fixture.open().await;
    let mut events = runtime.events();
    let mut sandbox = fixture.sandbox("a");
    sandbox.share_pid = true;
    runtime.create_sandbox(sandbox).await.unwrap();
    started(&runtime, "a", fixture.shell("one", "sleep 1004")).await;
    started(&runtime, "a", fixture.shell("two", "ps; sleep 1005 & ")).await;
    let exit = exit_of(&mut events, "two").await;
    assert_eq!(exit.status.exit_code, 0);
    let log = fixture.log("two");
    assert!(log.contains("sleep 1004") && log.contains("pause"), "{log}");
    runtime.remove_container("two").await.unwrap();
    runtime.remove_sandbox("a").await.unwrap();
}

async fn container_with_terminal(fixture: Fixture) {
    let runtime = fixture.open().await;
    let mut events = runtime.events();
    runtime.create_sandbox(fixture.sandbox("a")).await.unwrap();
    let mut spec = fixture.shell("c", "tty; echo x > /dev/console; echo y > $(tty); exit 5");
    (spec.tty, spec.uid) = (true, 33);
    started(&runtime, "a", spec).await;
    assert_eq!(exit_of(&mut events, "c").await.status.exit_code, 5);
    let log = fixture.log("c");
    assert!(log.contains("stdout F /dev/pts/0\n") && log.contains("F x\n") && log.contains("F y\n"), "{log}");
    runtime.remove_sandbox("a").await.unwrap();
}

async fn signals_and_background_children(fixture: Fixture) {
    let runtime = fixture.open().await;
    let mut events = runtime.events();
    runtime.create_sandbox(fixture.sandbox("a")).await.unwrap();
    started(&runtime, "a", fixture.shell("c", "trap 'echo bye; exit 9' TERM; echo up; while :; do sleep 0.05; done"))
        .await;
    fixture.log_says("c", "up").await;
    runtime.signal_container("c", libc::SIGTERM).await.unwrap();
    assert_eq!(exit_of(&mut events, "c").await.status.exit_code, 9);
    assert!(fixture.log("c").contains("bye"));
    runtime.signal_container("c", libc::SIGTERM).await.unwrap();
    started(&runtime, "a", fixture.shell("d", "sleep 1006 & exec sleep 1007")).await;
    runtime.signal_container("d", libc::SIGKILL).await.unwrap();
    let status = exit_of(&mut events, "d").await.status;
    assert_eq!((status.exit_code, status.signal, status.oom_killed), (137, Some(libc::SIGKILL), false));
    // Created and never started.
    runtime.create_container("a", fixture.shell("e", "true")).await.unwrap();
    runtime.remove_container("e").await.unwrap();
    runtime.remove_sandbox("a").await.unwrap();
}

async fn adoption(fixture: Fixture) {
    let runtime = fixture.open().await;
    let info = runtime.create_sandbox(fixture.sandbox("a")).await.unwrap();
    started(&runtime, "a", fixture.shell("stays", "n=0; while :; do echo $((n=n+1)); sleep 0.02; done")).await;
    started(&runtime, "a", fixture.shell("ends", "cat /tmp/go; while [ ! -e /tmp/go ]; do sleep 0.01; done; exit 4"))
        .await;
    let before = runtime.sandbox("a").unwrap();
    drop(runtime);
    std::fs::write(fixture.path("rootfs/tmp/go"), "").unwrap();
    fixture.log_says("stays", "stdout F 5\n").await;
    let runtime = fixture.open().await;
    let after = runtime.sandbox("a").unwrap();
    assert_eq!((after.pid, &after.labels, after.created_at_ns), (info.pid, &info.labels, info.created_at_ns));
    let pid = |sandbox: &naru_runtime::SandboxInfo| sandbox.containers.iter().find(|c| c.id == "stays").unwrap().pid;
    assert_eq!(pid(&before), pid(&after));
    while !matches!(&runtime.container("ends").unwrap().state, ContainerState::Exited(s) if s.exit_code == 4) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    runtime.exec_probe("stays", &["id".into()], Duration::from_secs(30)).await.unwrap();
    let log = fixture.log("stays");
    let numbers: Vec<u32> = log.lines().map(|l| l.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
    runtime.remove_sandbox("a").await.unwrap();
}

/// Another process that has a sandbox made, says so and waits to be killed.
pub(crate) fn agent_process(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let (path, cgroup_root) = (args.next().unwrap(), args.next().unwrap().into_string().unwrap());
    let fixture = Fixture { directory: path.into(), cgroup_root };
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    tokio.block_on(async {
        let runtime = fixture.open().await;
        if args.next().is_some() {
            return storm(&runtime, &fixture).await;
        }
        runtime.create_sandbox(fixture.sandbox("a")).await.unwrap();
        started(&runtime, "a", fixture.shell("c", "sleep 1008")).await;
        println!("{}", runtime.container("c").unwrap().pid);
        std::future::pending::<()>().await;
    });
    ExitCode::SUCCESS
}

async fn adoption_after_kill_of_the_agent(fixture: Fixture) {
    use tokio::io::{AsyncBufReadExt, BufReader};
    let mut agent = tokio::process::Command::new(std::env::current_exe().unwrap())
        .arg("agent")
        .arg(&fixture.directory)
        .arg(&fixture.cgroup_root)
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(agent.stdout.take().unwrap()).read_line(&mut line).await.unwrap();
    agent.kill().await.unwrap();
    let runtime = fixture.open().await;
    let container = runtime.container("c").unwrap();
    assert_eq!((container.pid.to_string().as_str(), container.state), (line.trim(), ContainerState::Running));
    runtime.remove_sandbox("a").await.unwrap();
}

async fn lost_shim(fixture: Fixture) {
    let runtime = fixture.open().await;
    let mut events = runtime.events();
    let info = runtime.create_sandbox(fixture.sandbox("a")).await.unwrap();
    started(&runtime, "a", fixture.shell("c", "sleep 1009")).await;
    let pid = nix::unistd::Pid::from_raw(info.pid.try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL).unwrap();
    while events.recv().await.unwrap() != (Event::SandboxLost { sandbox: "a".into() }) {}
    assert!(runtime.sandbox("a").unwrap().lost);
    assert!(matches!(runtime.container("c").unwrap().state, ContainerState::Exited(_)));
    let outcome = runtime.exec_probe("c", &["id".into()], Duration::from_secs(20)).await;
    assert!(matches!(outcome, Err(RuntimeError::Shim { .. })), "{outcome:?}");
    runtime.remove_container("c").await.unwrap();
    runtime.remove_sandbox("a").await.unwrap();
    assert!(!fixture.path("run/sandboxes/a").exists());
}

async fn stale_state_is_cleaned_up(fixture: Fixture) {
    let runtime = fixture.open().await;
    let info = runtime.create_sandbox(fixture.sandbox("a")).await.unwrap();
    started(&runtime, "a", fixture.shell("c", "sleep 1010")).await;
    drop(runtime);
    // As after a reboot: the state names a process that is not the shim.
    let pid = nix::unistd::Pid::from_raw(info.pid.try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL).unwrap();
    while std::fs::exists(format!("/proc/{pid}")).unwrap() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    std::fs::create_dir_all(fixture.path("run/sandboxes/half-made")).unwrap();
    let runtime = fixture.open().await;
    assert_eq!(runtime.sandboxes(), []);
    assert_eq!(std::fs::read_dir(fixture.path("run/sandboxes")).unwrap().count(), 0);
}

async fn mounts_and_read_only_root(fixture: Fixture) {
    let runtime = fixture.open().await;
    let mut events = runtime.events();
    runtime.create_sandbox(fixture.sandbox("a")).await.unwrap();
    std::fs::create_dir_all(fixture.path("volume")).unwrap();
    let script = "echo a > /new; echo b > /rw/new && echo written; echo c > /ro/new; \
                  ls -A /proc/acpi /sys/firmware; echo 1 > /proc/sys/kernel/domainname; echo done";
    let mut spec = fixture.shell("c", script);
    spec.readonly_rootfs = true;
    let at = |destination: &str, readonly| Mount {
        source: fixture.path("volume"),
        destination: destination.into(),
        readonly,
        ..Mount::default()
    };
    spec.mounts = vec![at("/rw", false), at("/ro", true)];
    started(&runtime, "a", spec).await;
    exit_of(&mut events, "c").await;
    let log = fixture.log("c");
    assert!(log.contains("F written\n") && log.contains("F done\n"), "{log}");
    assert_eq!(log.matches("Read-only file system").count(), 3, "{log}");
    assert!(fixture.path("volume/new").exists());
    runtime.remove_sandbox("a").await.unwrap();
}

async fn limits_and_out_of_memory(fixture: Fixture) {
    let runtime = fixture.open().await;
    let mut events = runtime.events();
    runtime.create_sandbox(fixture.sandbox("a")).await.unwrap();
    let mut spec = fixture.shell("c", "exit 0");
    spec.resources = Resources {
        memory_limit: Some(16 << 20),
        cpu_shares: Some(512),
        cpu_period: Some(100_000),
        cpu_quota: Some(200_000),
        pids_limit: Some(50),
        ..Resources::default()
    };
    // Whether this machine offers all that.
    let limited = runtime.apply_cgroup("limits", &spec.resources).await.unwrap().is_empty();
    runtime.remove_cgroup("limits").await.unwrap();
    if limited {
        spec.args[2] = "x=0123456789abcdef; while :; do x=$x$x; done".into();
    }
    started(&runtime, "a", spec).await;
    let status = exit_of(&mut events, "c").await.status;
    assert_eq!((status.oom_killed, status.signal == Some(libc::SIGKILL)), (limited, limited), "{status:?}");
    started(&runtime, "a", fixture.shell("d", "sleep 1011")).await;
    if limited {
        // What a container may use it can read, and not change.
        let look = "cat /sys/fs/cgroup/pids/pids.current /sys/fs/cgroup/pids.current 2>/dev/null; \
            echo 5 > /sys/fs/cgroup/pids/pids.max";
        let look = ["sh".into(), "-c".into(), look.into()];
        let said = runtime.exec_probe("d", &look, Duration::from_secs(20)).await.unwrap();
        let said = String::from_utf8_lossy(&said.output).into_owned();
        assert!(said.starts_with(|c: char| c.is_ascii_digit()) && said.contains("Read-only file system"), "{said}");
    }
    let stats = runtime.stats("d").await.unwrap();
    if limited {
        assert!(stats.memory_usage_bytes > 0 && stats.pids == 1, "{stats:?}");
        let less = Resources { pids_limit: Some(1), ..Resources::default() };
        runtime.update_resources("d", less).await.unwrap();
        let outcome = runtime.exec_probe("d", &["id".into()], Duration::from_secs(20)).await;
        assert!(matches!(outcome, Err(RuntimeError::Start(_))), "{outcome:?}");
    }
    runtime.remove_sandbox("a").await.unwrap();
}

async fn log_rotation(fixture: Fixture) {
    let runtime = fixture.open().await;
    runtime.create_sandbox(fixture.sandbox("a")).await.unwrap();
    started(&runtime, "a", fixture.shell("c", "n=0; while :; do echo $((n=n+1)); sleep 0.01; done")).await;
    fixture.log_says("c", "F 3\n").await;
    std::fs::rename(fixture.path("c.log"), fixture.path("c.log.1")).unwrap();
    runtime.reopen_log("c").await.unwrap();
    fixture.log_says("c", "stdout F").await;
    let old = std::fs::read_to_string(fixture.path("c.log.1")).unwrap();
    let number = |line: &str| line.rsplit(' ').next().unwrap().parse::<u32>().unwrap();
    let log = fixture.log("c");
    assert_eq!(number(log.lines().next().unwrap()), number(old.lines().last().unwrap()) + 1);
    runtime.remove_sandbox("a").await.unwrap();
}

async fn ten_at_once(fixture: Fixture) {
    let runtime = fixture.open().await;
    let fixture = &fixture;
    let pods = (0..10).map(|number| {
        let runtime = runtime.clone();
        async move {
            let (sandbox, container) = (format!("s{number}"), format!("c{number}"));
            let mut events = runtime.events();
            runtime.create_sandbox(fixture.sandbox(&sandbox)).await.unwrap();
            started(&runtime, &sandbox, fixture.shell(&container, &format!("echo {number}; exit {number}"))).await;
            let exit = exit_of(&mut events, &container).await;
            assert_eq!(exit.status.exit_code, number);
            assert_eq!(fixture.log(&container), format!("stdout F {number}\n"));
            runtime.remove_sandbox(&sandbox).await.unwrap();
        }
    });
    futures::future::join_all(pods).await;
    assert_eq!(runtime.sandboxes(), []);
}

async fn system_call_filters(fixture: Fixture) {
    let runtime = fixture.open().await;
    let mut events = runtime.events();
    runtime.create_sandbox(fixture.sandbox("a")).await.unwrap();
    std::fs::write(
        fixture.path("profile.json"),
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
            {"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":28}]}"#,
    )
    .unwrap();
    let script = "busybox grep -E 'Seccomp:|NoNewPrivs|CapEff' /proc/self/status; busybox unshare -i true; \
                  busybox mkdir /tmp/x && echo made; echo piped | cat; sleep 1012";
    for (no_new_privileges, uid) in [(true, 33), (false, 0)] {
        let id = format!("default-{uid}");
        let mut spec = fixture.shell(&id, script);
        (spec.seccomp, spec.uid, spec.no_new_privileges) = (SeccompProfile::RuntimeDefault, uid, no_new_privileges);
        started(&runtime, "a", spec).await;
        fixture.log_says(&id, "F piped").await;
        let log = fixture.log(&id);
        assert!(log.contains("Seccomp:\t2") && log.contains("unshare(0x8000000): Operation not permitted"), "{log}");
        assert!(log.contains(&format!("NoNewPrivs:\t{}", u32::from(no_new_privileges))), "{log}");
        assert_eq!(log.contains("CapEff:\t00000000a80425fb"), uid == 0, "{log}");
        // A command run later is under the same filter.
        let args = ["busybox", "grep", "Seccomp:", "/proc/self/status"].map(String::from);
        let said = runtime.exec_probe(&id, &args, Duration::from_secs(30)).await.unwrap();
        assert_eq!(said.output, b"Seccomp:\t2\n");
    }
    let mut spec = fixture.shell("file", "busybox mkdir /tmp/y; exit 0");
    spec.seccomp = SeccompProfile::Localhost(fixture.path("profile.json"));
    started(&runtime, "a", spec.clone()).await;
    exit_of(&mut events, "file").await;
    assert!(fixture.log("file").contains("No space left on device"), "{}", fixture.log("file"));
    (spec.id, spec.seccomp) = ("missing".into(), SeccompProfile::Localhost("/nowhere.json".into()));
    let outcome = runtime.create_container("a", spec).await;
    assert!(matches!(&outcome, Err(RuntimeError::Invalid(said)) if said.contains("/nowhere.json")), "{outcome:?}");
    runtime.remove_sandbox("a").await.unwrap();
}

/// Makes sandboxes with containers as fast as it can, and says each one.
async fn storm(runtime: &Runtime, fixture: &Fixture) {
    let pods = (0..8).map(async |number| {
        let (sandbox, container) = (format!("s{number}"), format!("c{number}"));
        println!("{sandbox}");
        runtime.create_sandbox(fixture.sandbox(&sandbox)).await.unwrap();
        println!("{container}");
        started(runtime, &sandbox, fixture.shell(&container, "sleep 1013")).await;
        println!("started");
    });
    futures::future::join_all(pods).await;
    std::future::pending::<()>().await;
}

async fn kill_of_the_agent_at_any_point(fixture: Fixture) {
    use tokio::io::{AsyncBufReadExt, BufReader};
    for lines in [1, 8, 9, 12, 16, 20] {
        let mut agent = tokio::process::Command::new(std::env::current_exe().unwrap())
            .arg("agent")
            .arg(&fixture.directory)
            .arg(&fixture.cgroup_root)
            .arg("storm")
            .stdout(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut said = BufReader::new(agent.stdout.take().unwrap()).lines();
        for _ in 0..lines {
            said.next_line().await.unwrap();
        }
        agent.kill().await.unwrap();
        let runtime = fixture.open().await;
        for sandbox in runtime.sandboxes() {
            assert!(!sandbox.lost);
            started(&runtime, &sandbox.id, fixture.shell(&format!("more-{}", sandbox.id), "sleep 1014")).await;
            runtime.remove_sandbox(&sandbox.id).await.unwrap();
        }
        assert_eq!(std::fs::read_dir(fixture.path("run/sandboxes")).unwrap().count(), 0);
    }
}
