//! Other OCI runtimes of this machine, which RuntimeClasses name as their handlers.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Programs with runc's command line that are handlers when they are there, with the handlers' names.
const KNOWN: [(&str, &str); 5] = [
    ("crun", "crun"),
    ("nvidia", "nvidia-container-runtime"),
    ("runc", "runc"),
    ("runsc", "runsc"),
    ("youki", "youki"),
];
/// Where they are looked for.
const DIRECTORIES: [&str; 7] =
    ["/usr/local/nvidia/toolkit", "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// The handlers by name: what is found, and what `NAME=PATH` say.
pub(crate) fn find(flags: &[String]) -> Result<BTreeMap<String, PathBuf>> {
    let places = DIRECTORIES.map(Path::new);
    let mut handlers = BTreeMap::new();
    for (name, program) in KNOWN {
        let found = places.iter().map(|place| place.join(program)).find(|path| runs(path));
        handlers.extend(found.map(|path| (name.to_owned(), path)));
    }
    for flag in flags {
        let (name, path) = flag.split_once('=').with_context(|| format!("--runtime-handler {flag}: not NAME=PATH"))?;
        let wrong = naru_api::meta::names::dns_label(name);
        ensure!(wrong.is_empty(), "--runtime-handler {flag}: {}", wrong.join("; "));
        let path = PathBuf::from(path);
        ensure!(path.is_absolute() && runs(&path), "--runtime-handler {flag}: there is no such program");
        handlers.insert(name.to_owned(), path);
    }
    Ok(handlers)
}

fn runs(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn handlers_are_programs_with_names() {
        let of = |flag: &str| find(&[flag.to_owned()]).map_err(|error| error.to_string());
        assert_eq!(of("mine=/bin/sh").unwrap()["mine"], Path::new("/bin/sh"));
        assert!(of("mine").unwrap_err().contains("not NAME=PATH"));
        for flag in ["Mine=/bin/sh", "mine=/nowhere", "mine=sh", "mine=/etc/passwd"] {
            assert!(of(flag).is_err(), "{flag}");
        }
    }
}
