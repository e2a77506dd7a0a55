//! A program for `scripts/bench node`: creates, starts and deletes containers by the runtime alone, one at a time.
//! Usage: containers NARU ROOTFS TIMES; prints the median of the three steps together in milliseconds.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement that fails has no figure")]

use naru_runtime::{ContainerSpec, Runtime, RuntimeConfig, SandboxSpec};
use std::path::PathBuf;
use std::time::Instant;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut args = std::env::args().skip(1);
    let (naru, rootfs) = (PathBuf::from(args.next().unwrap()), PathBuf::from(args.next().unwrap()));
    let times: usize = args.next().unwrap().parse().unwrap();
    let directory = rootfs.with_extension("runtime");
    let group = format!("naru-bench-containers-{}", std::process::id());
    let config = RuntimeConfig {
        data_dir: directory.join("data"),
        run_dir: directory.join("run"),
        cgroup_root: Some(group),
        shim_exe: naru.clone(),
        self_exe: naru,
    };
    let runtime = Runtime::open(config).await.unwrap();
    runtime
        .create_sandbox(SandboxSpec {
            id: "bench".into(),
            cgroup_parent: "pods/bench".into(),
            ..SandboxSpec::default()
        })
        .await
        .unwrap();
    let mut taken = Vec::new();
    for number in 0..times {
        let spec = ContainerSpec {
            id: format!("c{number}"),
            rootfs: rootfs.clone(),
            args: vec!["/bin/busybox".into(), "sleep".into(), "1000".into()],
            ..ContainerSpec::default()
        };
        let begin = Instant::now();
        runtime.create_container("bench", spec).await.unwrap();
        runtime.start_container(&format!("c{number}")).await.unwrap();
        runtime.remove_container(&format!("c{number}")).await.unwrap();
        taken.push(begin.elapsed());
    }
    runtime.remove_sandbox("bench").await.unwrap();
    runtime.remove_cgroups(&[]).await.unwrap();
    taken.sort();
    println!("{:.1}", taken[times / 2].as_secs_f64() * 1e3);
}
