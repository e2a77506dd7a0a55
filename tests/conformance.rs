//! What upstream's conformance tests ask of a control plane alone, played through by a client nobody here wrote.

use crate::clients::script;
use crate::cluster::Cluster;

/// The names that were played through to their ends.
fn played(test: &str, flags: &[&str], rest: &[&str]) -> Vec<String> {
    let mut c = Cluster::prepare(test, flags);
    c.up();
    let python = std::env::var("NARU_TEST_PYTHON").expect("scripts/test sets NARU_TEST_PYTHON");
    let printed = script(&c, &python, "conformance.py", rest);
    printed.lines().map(|line| line.strip_prefix("passed ").expect(line).to_owned()).collect()
}

#[test]
fn the_control_planes_names_are_played_through() {
    let names = played("conformance", &["--disable-agent"], &[]);
    assert!(names.len() >= 40, "{names:#?}");
    let mut once = names.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), names.len(), "each once");
}

#[test]
fn a_list_goes_on_when_its_version_is_gone() {
    let flags = ["--disable-agent", "--compaction-interval", "1s"];
    let names = played("compacted", &flags, &["soon"]);
    assert_eq!(names.len(), 1, "{names:?}");
}
