//! Configurations of networks in files.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A configuration is some lines.
const MAX_FILE: u64 = 1 << 20;
/// How the names of files with configurations end.
const EXTENSIONS: [&str; 3] = ["conf", "conflist", "json"];

/// A network: plugins that are run one after the other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct List {
    /// Version of the specification.
    #[serde(default = "oldest")]
    pub cni_version: String,
    /// The network's name.
    pub name: String,
    /// The plugins' configurations.
    pub plugins: Vec<Value>,
}

fn oldest() -> String {
    "0.2.0".to_owned()
}

/// The first configuration that can be used, in the order of the files' names.
pub(super) fn read(dirs: &[PathBuf]) -> Option<Arc<List>> {
    dirs.iter().find_map(|dir| {
        let mut files: Vec<PathBuf> = std::fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path()).collect();
        files.retain(|file| file.extension().is_some_and(|end| EXTENSIONS.iter().any(|known| end == *known)));
        files.sort();
        files.iter().find_map(|file| match read_file(file) {
            Ok(list) => Some(Arc::new(list)),
            Err(reason) => {
                tracing::warn!("{} is no configuration of a network: {reason}", file.display());
                None
            }
        })
    })
}

fn read_file(path: &Path) -> Result<List, String> {
    if std::fs::metadata(path).map_err(|error| error.to_string())?.len() > MAX_FILE {
        return Err("it is too long".to_owned());
    }
    parse(&std::fs::read(path).map_err(|error| error.to_string())?)
}

fn parse(text: &[u8]) -> Result<List, String> {
    let value: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    // A single plugin stands for a list of one.
    let list = if value.get("plugins").is_some() {
        value
    } else {
        serde_json::json!({
            "cniVersion": value.get("cniVersion").and_then(Value::as_str).unwrap_or("0.2.0"),
            "name": value["name"].clone(),
            "plugins": [value],
        })
    };
    let list: List = serde_json::from_value(list).map_err(|error| error.to_string())?;
    if list.name.is_empty() || list.name.contains('/') {
        return Err(format!("{:?} is no name of a network", list.name));
    }
    if list.plugins.is_empty() {
        return Err("it has no plugins".to_owned());
    }
    let wrong = |plugin: &&Value| plugin_type(plugin).is_none_or(|name| name.is_empty() || name.contains('/'));
    match list.plugins.iter().find(wrong) {
        Some(_) => Err("a plugin has no type".to_owned()),
        None => Ok(list),
    }
}

/// The name of a plugin's program.
pub(super) fn plugin_type(plugin: &Value) -> Option<&str> {
    plugin["type"].as_str()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_single_plugin_is_a_list_of_one() {
        let list = parse(br#"{"cniVersion": "1.0.0", "name": "n", "type": "bridge"}"#).unwrap();
        assert_eq!((list.cni_version.as_str(), list.plugins.len()), ("1.0.0", 1));
        assert_eq!(plugin_type(&list.plugins[0]), Some("bridge"));
    }

    #[test]
    fn what_cannot_be_used_is_passed_over() {
        for wrong in [
            r#"{"name": "n"}"#,
            r#"{"name": "", "type": "bridge"}"#,
            r#"{"name": "n", "plugins": []}"#,
            r#"{"name": "n", "plugins": [{"type": "../sh"}]}"#,
            "nonsense",
        ] {
            assert!(parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let dirs = [first.path().to_owned(), second.path().to_owned()];
        assert_eq!(read(&dirs), None);
        std::fs::write(second.path().join("10-b.conf"), r#"{"name": "b", "type": "x"}"#).unwrap();
        assert_eq!(read(&dirs).unwrap().name, "b");
        std::fs::write(first.path().join("10-broken.conflist"), "{").unwrap();
        std::fs::write(first.path().join("20-a.conflist"), r#"{"name": "a", "plugins": [{"type": "x"}]}"#).unwrap();
        std::fs::write(first.path().join("05-old.conflist.bak"), r#"{"name": "c", "type": "x"}"#).unwrap();
        assert_eq!(read(&dirs).unwrap().name, "a");
    }
}
