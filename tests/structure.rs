//! The shape of the tree: who may depend on whom, and that the documents name what exists.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Which members each member may use, beside `base`. `app` may use everything and nothing imports it.
const MAY_USE: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("api", &[]),
    ("store", &[]),
    ("runtime", &[]),
    ("libcni", &[]),
    ("client", &["api"]),
    ("apiserver", &["api", "store", "client"]),
    ("controllers", &["api", "client"]),
    ("scheduler", &["api", "client"]),
    ("network", &["api", "client"]),
    ("kubelet", &["api", "client", "runtime", "libcni", "network"]),
    ("kubectl", &["api", "client"]),
    ("simulated", &["api", "client"]),
];

fn dependencies(manifest: &str) -> Vec<String> {
    let section = manifest.split("[dependencies]").nth(1).unwrap_or_default();
    let section = section.split("\n[").next().unwrap_or_default();
    section
        .lines()
        .filter_map(|line| line.strip_prefix("naru-")?.split(['.', ' ', '=']).next())
        .map(String::from)
        .collect()
}

#[test]
fn members_depend_only_downwards() {
    let rules: BTreeMap<_, _> = MAY_USE.iter().copied().collect();
    for entry in fs::read_dir(root().join("src")).unwrap() {
        let path = entry.unwrap().path();
        let Ok(manifest) = fs::read_to_string(path.join("Cargo.toml")) else { continue };
        let member = path.file_name().unwrap().to_str().unwrap().to_string();
        if member == "app" {
            continue;
        }
        let allowed = rules.get(member.as_str()).unwrap_or_else(|| panic!("{member} has no rule in MAY_USE"));
        for used in dependencies(&manifest) {
            assert!(
                used == "base" || allowed.contains(&used.as_str()),
                "{member} must not depend on {used} (see docs/ARCHITECTURE.md)"
            );
        }
    }
}

#[test]
fn the_architecture_names_only_what_exists() {
    let text = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    let mut checked = 0;
    for word in text.split('`').skip(1).step_by(2) {
        let is_path =
            ["src/", "tests/", "scripts/", "docs/", "systemd/", "packaging/"].iter().any(|dir| word.starts_with(dir));
        if is_path && !word.contains(['<', '*', ' ']) {
            assert!(root().join(word).exists(), "docs/ARCHITECTURE.md names {word}, which does not exist");
            checked += 1;
        }
    }
    assert!(checked > 10, "only {checked} paths found: is the document still written with `paths`?");
}

/// Every source file opens by saying what lives there.
#[test]
fn every_file_says_what_lives_there() {
    fn walk(dir: &Path, missing: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, missing);
            } else if path.extension().is_some_and(|ext| ext == "rs")
                && !fs::read_to_string(&path).unwrap().starts_with("//!")
            {
                missing.push(path);
            }
        }
    }
    let mut missing = Vec::new();
    walk(&root().join("src"), &mut missing);
    walk(&root().join("tests"), &mut missing);
    assert!(missing.is_empty(), "these files do not open with a `//!` line: {missing:?}");
}
