//! The built-in plugins as programs: parameters by environment and stdin, the answer on stdout.

use crate::CniError;
use crate::ipam::{HostLocal, Range};
use crate::netlink::Netlink;
use crate::network::{Attachment, Network, NetworkConfig};
use crate::types::{CniResult, IpConfig};
use serde::Deserialize;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Versions of the specification whose results have this shape, newest last.
const VERSIONS: &[&str] = &["1.0.0", "1.1.0"];
const DEFAULT_STATE: &str = "/var/lib/cni/networks";
/// A configuration is some lines.
const MAX_INPUT: u64 = 1 << 20;

/// The names under which the binary is a plugin.
pub const PLUGINS: &[&str] = &["ptp", "host-local", "loopback"];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default)]
    cni_version: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    mtu: Option<u32>,
    #[serde(default)]
    ipam: Ipam,
    #[serde(default, rename = "cni.dev/valid-attachments")]
    valid: Vec<ValidAttachment>,
    #[serde(default)]
    prev_result: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Ipam {
    subnet: Option<String>,
    ranges: Vec<Vec<SubnetConfig>>,
    data_dir: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct SubnetConfig {
    subnet: String,
}

#[derive(Debug, Deserialize)]
struct ValidAttachment {
    #[serde(rename = "containerID")]
    container_id: String,
}

impl Config {
    /// One range for each set: the first of several alternatives.
    fn cidrs(&self) -> Vec<String> {
        let sets = self.ipam.ranges.iter().filter_map(|set| Some(set.first()?.subnet.clone()));
        self.ipam.subnet.iter().cloned().chain(sets).collect()
    }

    fn state_dir(&self) -> PathBuf {
        self.ipam.data_dir.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_STATE))
    }
}

/// Runs a plugin. `variable` looks up the environment; the result or the error goes to `output`.
pub fn plugin_main(
    plugin: &str,
    variable: impl Fn(&str) -> Option<String>,
    input: impl Read,
    mut output: impl Write,
) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let answer = match runtime {
        Ok(runtime) => runtime.block_on(run(plugin, &variable, input)),
        Err(source) => Err(CniError::Io { action: "start", path: PathBuf::from(plugin), source }),
    };
    let (text, code) = match answer {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(result)) => (result, ExitCode::SUCCESS),
        Err(error) => {
            (json!({"cniVersion": "1.1.0", "code": error.code(), "msg": error.to_string()}), ExitCode::FAILURE)
        }
    };
    match writeln!(output, "{text}") {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

async fn run(
    plugin: &str,
    variable: &impl Fn(&str) -> Option<String>,
    input: impl Read,
) -> Result<Option<Value>, CniError> {
    let command = need(variable, "CNI_COMMAND")?;
    if command == "VERSION" {
        return Ok(Some(json!({"cniVersion": "1.1.0", "supportedVersions": VERSIONS})));
    }
    let mut text = String::new();
    input.take(MAX_INPUT).read_to_string(&mut text).map_err(CniError::io("read", "stdin"))?;
    let config: Config = serde_json::from_str(&text).map_err(|error| CniError::Config(error.to_string()))?;
    if !VERSIONS.contains(&config.cni_version.as_str()) {
        let (found, known) = (&config.cni_version, VERSIONS.join(", "));
        return Err(CniError::Version(format!(
            "incompatible CNI versions: config is {found:?}, plugin supports {known}"
        )));
    }
    if config.name.is_empty() || config.name.contains('/') || config.name.starts_with('.') {
        return Err(CniError::Config(format!("invalid network name {:?}", config.name)));
    }
    let result = match plugin {
        "ptp" => ptp(&command, variable, &config).await?,
        "host-local" => host_local(&command, variable, &config)?,
        "loopback" => loopback(&command, variable, &config).await?,
        other => return Err(CniError::Config(format!("no plugin {other:?}"))),
    };
    Ok(result.map(|mut result| {
        result["cniVersion"] = config.cni_version.clone().into();
        result
    }))
}

fn need(variable: &impl Fn(&str) -> Option<String>, name: &str) -> Result<String, CniError> {
    let value = variable(name).filter(|value| !value.is_empty());
    value.ok_or_else(|| CniError::Environment(format!("required env variables [{name}] missing")))
}

fn attachment(variable: &impl Fn(&str) -> Option<String>, netns_needed: bool) -> Result<Attachment, CniError> {
    let netns = if netns_needed { need(variable, "CNI_NETNS")? } else { variable("CNI_NETNS").unwrap_or_default() };
    Ok(Attachment {
        container_id: need(variable, "CNI_CONTAINERID")?,
        netns: PathBuf::from(netns),
        ifname: need(variable, "CNI_IFNAME")?,
    })
}

fn unknown(command: &str) -> CniError {
    CniError::Environment(format!("unknown CNI_COMMAND: {command}"))
}

async fn ptp(
    command: &str,
    variable: &impl Fn(&str) -> Option<String>,
    config: &Config,
) -> Result<Option<Value>, CniError> {
    let network = Network::open(NetworkConfig {
        name: config.name.clone(),
        state_dir: config.state_dir(),
        pod_cidrs: config.cidrs(),
        mtu: config.mtu.filter(|mtu| *mtu > 0),
    });
    let network = network.await?;
    match command {
        "ADD" => Ok(Some(encode(&network.add(&attachment(variable, true)?).await?))),
        "DEL" => network.del(&attachment(variable, false)?).await.map(|()| None),
        "CHECK" => network.check(&attachment(variable, true)?).await.map(|()| None),
        "GC" => {
            let keep = config.valid.iter().map(|valid| valid.container_id.clone()).collect();
            network.retain(&keep).await.map(|()| None)
        }
        "STATUS" => Ok(None),
        other => Err(unknown(other)),
    }
}

fn host_local(
    command: &str,
    variable: &impl Fn(&str) -> Option<String>,
    config: &Config,
) -> Result<Option<Value>, CniError> {
    let ranges = config.cidrs().iter().map(|cidr| Range::parse(cidr)).collect::<Result<Vec<_>, _>>()?;
    if ranges.is_empty() {
        return Err(CniError::Config("no IP ranges specified".to_owned()));
    }
    let ipam = HostLocal::open(&config.state_dir().join(&config.name), ranges.clone())?;
    match command {
        "ADD" => {
            let attachment = attachment(variable, false)?;
            let addresses = ipam.allocate(&attachment.container_id, &attachment.ifname)?;
            let ip = |(address, range): (&std::net::IpAddr, &Range)| IpConfig {
                interface: None,
                address: format!("{address}/{}", range.prefix()),
                gateway: Some(range.gateway()),
            };
            let ips = addresses.iter().zip(&ranges).map(ip).collect();
            Ok(Some(encode(&CniResult { ips, ..CniResult::default() })))
        }
        "DEL" => {
            let attachment = attachment(variable, false)?;
            ipam.release(&attachment.container_id, &attachment.ifname).map(|()| None)
        }
        "GC" => {
            let keep = config.valid.iter().map(|valid| valid.container_id.clone()).collect();
            ipam.retain(&keep).map(|()| None)
        }
        "CHECK" | "STATUS" => Ok(None),
        other => Err(unknown(other)),
    }
}

async fn loopback(
    command: &str,
    variable: &impl Fn(&str) -> Option<String>,
    config: &Config,
) -> Result<Option<Value>, CniError> {
    match command {
        "ADD" | "CHECK" => {
            let netns = need(variable, "CNI_NETNS")?;
            let pod = Netlink::inside(std::path::Path::new(&netns)).await?;
            pod.up("lo").await?;
            if command == "CHECK" {
                return Ok(None);
            }
            // In a chain, what came before is handed on.
            if let Some(previous) = &config.prev_result {
                return Ok(Some(previous.clone()));
            }
            let lo = crate::types::Interface {
                name: "lo".to_owned(),
                mac: "00:00:00:00:00:00".to_owned(),
                mtu: None,
                sandbox: netns,
            };
            let ips = vec![IpConfig { interface: Some(0), address: "127.0.0.1/8".to_owned(), gateway: None }];
            Ok(Some(encode(&CniResult { interfaces: vec![lo], ips, ..CniResult::default() })))
        }
        // The interface goes with its namespace.
        "DEL" | "GC" | "STATUS" => Ok(None),
        other => Err(unknown(other)),
    }
}

fn encode(result: &CniResult) -> Value {
    serde_json::to_value(result).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn call(plugin: &str, variables: &[(&str, &str)], config: &Value) -> (bool, Value) {
        let variable =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let mut output = Vec::new();
        let code = plugin_main(plugin, variable, config.to_string().as_bytes(), &mut output);
        let answer = if output.is_empty() { Value::Null } else { serde_json::from_slice(&output).unwrap() };
        (format!("{code:?}") == format!("{:?}", ExitCode::SUCCESS), answer)
    }

    #[test]
    fn versions_are_told() {
        let (ok, answer) = call("ptp", &[("CNI_COMMAND", "VERSION")], &json!({}));
        assert!(ok);
        assert_eq!(answer["supportedVersions"], json!(["1.0.0", "1.1.0"]));
    }

    #[test]
    fn host_local_gives_and_frees_addresses() {
        let dir = tempfile::tempdir().unwrap();
        let config = json!({"cniVersion": "1.0.0", "name": "net", "type": "x",
            "ipam": {"type": "host-local", "dataDir": dir.path(), "ranges": [[{"subnet": "10.9.0.0/24"}]]}});
        let call = |command, id| {
            call(
                "host-local",
                &[("CNI_COMMAND", command), ("CNI_CONTAINERID", id), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", "/x")],
                &config,
            )
        };
        let (ok, first) = call("ADD", "a");
        assert!(ok);
        assert_eq!(first["cniVersion"], "1.0.0");
        assert_eq!(first["ips"], json!([{"address": "10.9.0.2/24", "gateway": "10.9.0.1"}]));
        assert_eq!(call("ADD", "a").1, first);
        assert_eq!(call("ADD", "b").1["ips"][0]["address"], "10.9.0.3/24");
        assert_eq!(call("DEL", "a"), (true, Value::Null));
        assert_eq!(call("DEL", "a"), (true, Value::Null));
    }

    #[test]
    fn mistakes_have_the_codes_of_the_specification() {
        let config = json!({"cniVersion": "1.1.0", "name": "net"});
        for (variables, config, code) in [
            (vec![], config.clone(), 4),
            (vec![("CNI_COMMAND", "ADD")], json!({"cniVersion": "0.1.0", "name": "net"}), 1),
            (vec![("CNI_COMMAND", "ADD")], json!({"cniVersion": "1.1.0", "name": "../x"}), 7),
            (vec![("CNI_COMMAND", "ADD")], json!("x"), 7),
            (vec![("CNI_COMMAND", "ADD")], config.clone(), 7),
        ] {
            let (ok, answer) = call("host-local", &variables, &config);
            assert!(!ok);
            assert_eq!(answer["code"], code, "{answer}");
        }
        let (_, answer) = call("loopback", &[("CNI_COMMAND", "NOPE")], &config);
        assert_eq!(answer["msg"], "unknown CNI_COMMAND: NOPE");
    }
}
