//! What the conformance suite asks of workloads and of the scheduler, name by name, on simulated nodes.

use crate::cluster::Cluster;

#[test]
fn the_names_of_workloads_and_of_the_scheduler_are_played() {
    let mut c = Cluster::prepare("played", &["--disable-agent", "--simulated-nodes", "3"]);
    c.up();
    c.eventually("the nodes are Ready", |c| {
        c.get("nodes", "{.items[*].status.conditions[?(@.type=='Ready')].status}") == "True True True"
    });
    let python = std::env::var("NARU_TEST_PYTHON").expect("scripts/test sets NARU_TEST_PYTHON");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/played/play.py");
    let played = c.host.command(&python).args(["-B", script]).arg(c.kubeconfig()).output().unwrap();
    let told = String::from_utf8_lossy(&played.stdout);
    assert!(played.status.success(), "{told}\n{}", String::from_utf8_lossy(&played.stderr));
    assert!(told.ends_with("82 of 82\n"), "{told}");
}
