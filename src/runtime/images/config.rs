//! What an image says about the containers made from it.

use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

/// The `config` part of an image's configuration. Lists that were null are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    /// User and optionally group, by name or number: `user`, `uid`, `user:group`.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Environment as `NAME=value`.
    #[serde(deserialize_with = "or_default")]
    pub env: Vec<String>,
    /// Program and first arguments.
    #[serde(deserialize_with = "or_default")]
    pub entrypoint: Vec<String>,
    /// Arguments after the entrypoint, or the program if there is none.
    #[serde(deserialize_with = "or_default")]
    pub cmd: Vec<String>,
    /// Working directory; empty means `/`.
    #[serde(deserialize_with = "or_default")]
    pub working_dir: String,
    /// Signal that asks the container to end, such as `SIGQUIT` or `3`; empty means SIGTERM.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// Ports such as `80/tcp`.
    #[serde(deserialize_with = "or_default")]
    pub exposed_ports: BTreeMap<String, serde_json::Value>,
    /// Paths that hold data of the container's own.
    #[serde(deserialize_with = "or_default")]
    pub volumes: BTreeMap<String, serde_json::Value>,
    /// Labels.
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
}

impl ImageConfig {
    /// The number of the stop signal, SIGTERM if the image names none (or none that exists).
    pub fn stop_signal_number(&self) -> i32 {
        parse_signal(&self.stop_signal).unwrap_or(libc::SIGTERM)
    }
}

/// Parses `SIGQUIT`, `QUIT`, `3` or `SIGRTMIN+3`.
pub(super) fn parse_signal(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        let offset = if offset.is_empty() { 0 } else { offset.strip_prefix('+')?.parse::<i32>().ok()? };
        // 34 is what glibc and musl leave as the first real-time signal.
        return (0..=30).contains(&offset).then_some(34 + offset);
    }
    if let Some(offset) = name.strip_prefix("RTMAX") {
        let offset = if offset.is_empty() { 0 } else { offset.strip_prefix('-')?.parse::<i32>().ok()? };
        return (0..=14).contains(&offset).then_some(64 - offset);
    }
    format!("SIG{name}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
}

/// The whole configuration blob, as far as it matters here.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct ConfigFile {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) architecture: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) os: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) config: ImageConfig,
    pub(super) rootfs: RootFs,
}

/// The layers, as digests of the uncompressed archives.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct RootFs {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) diff_ids: Vec<String>,
}

/// Builders write `null` where they mean nothing.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn nulls_and_missing_fields_are_empty() {
        let file: ConfigFile = serde_json::from_str(
            r#"{"architecture":"amd64","config":{"Env":null,"Cmd":["sh"],"Entrypoint":null,"StopSignal":"SIGQUIT"},"rootfs":{"type":"layers","diff_ids":null}}"#,
        )
        .unwrap();
        assert_eq!(file.config.cmd, ["sh"]);
        assert!(file.config.env.is_empty() && file.config.entrypoint.is_empty() && file.rootfs.diff_ids.is_empty());
        assert_eq!(file.config.stop_signal_number(), libc::SIGQUIT);
    }

    #[test]
    fn signals_are_read_by_name_and_number() {
        for (text, expect) in [
            ("SIGTERM", Some(15)),
            ("quit", Some(3)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("0", None),
            ("SIGNOPE", None),
            ("", None),
        ] {
            assert_eq!(parse_signal(text), expect, "{text}");
        }
    }
}
