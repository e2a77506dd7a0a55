//! The AdmissionConfiguration (`admission-control-config-file`): what plugins are told by files.

use naru_api::codec;
use naru_api::pod_security;
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;

/// What plugins were told.
#[derive(Debug, Clone, Default)]
pub(crate) struct Configuration {
    pub(crate) pod_security: pod_security::Configuration,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    api_version: String,
    kind: String,
    plugins: Vec<PluginConfiguration>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PluginConfiguration {
    name: String,
    /// Another file, beside this one unless it says otherwise.
    path: String,
    configuration: Value,
}

impl Configuration {
    /// Reads a file; nobody is told anything without one.
    pub(crate) fn read(file: Option<&Path>) -> Result<Self, String> {
        let Some(file) = file else { return Ok(Self::default()) };
        let document: Document =
            serde_json::from_value(load(file)?).map_err(|error| format!("{}: {error}", file.display()))?;
        if (document.kind.as_str(), document.api_version.as_str())
            != ("AdmissionConfiguration", "apiserver.config.k8s.io/v1")
        {
            let (kind, version) = (&document.kind, &document.api_version);
            return Err(format!("{}: no kind {kind:?} is registered for version {version:?}", file.display()));
        }
        let mut found = Self::default();
        for plugin in document.plugins {
            let configuration = match plugin.path.as_str() {
                "" => plugin.configuration,
                path => load(&file.parent().unwrap_or(Path::new("")).join(path))?,
            };
            match plugin.name.as_str() {
                "PodSecurity" => {
                    found.pod_security = pod_security::Configuration::parse(configuration)
                        .map_err(|error| format!("{}: PodSecurity: {error}", file.display()))?;
                }
                // Better than a limit that nobody keeps.
                name => return Err(format!("{}: plugin {name:?} cannot be configured here", file.display())),
            }
        }
        Ok(found)
    }
}

fn load(file: &Path) -> Result<Value, String> {
    let text = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
    codec::parse_yaml(&text).map_err(|error| format!("{}: {error}", file.display()))
}
