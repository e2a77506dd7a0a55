//! Running a plugin: parameters in its environment, configuration on its standard input, the result on its output.

use super::Kept;
use super::configuration::plugin_type;
use crate::CniError;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How long a plugin may take.
const LIMIT: Duration = Duration::from_secs(120);
/// The largest answer that is read.
const MAX_OUTPUT: u64 = 1 << 20;

/// One call of a plugin.
pub(super) struct Call<'a> {
    /// `ADD` or `DEL`.
    pub(super) command: &'static str,
    pub(super) kept: &'a Kept,
    pub(super) plugin: &'a Value,
    /// What the plugin before, or the attaching, gave.
    pub(super) previous: Option<&'a Value>,
}

/// Runs the plugin and gives its result, which is null where there is none.
pub(super) async fn run(call: &Call<'_>, bin_dirs: &[PathBuf]) -> Result<Value, CniError> {
    let name = plugin_type(call.plugin).unwrap_or_default();
    let failed = |reason: String| {
        let verb = call.command.to_ascii_lowercase();
        CniError::Plugin(format!("plugin type={name:?} failed ({verb}): {reason}"))
    };
    let output = execute(call, name, bin_dirs).await.map_err(failed)?;
    if output.text.trim_ascii().is_empty() && output.success {
        return Ok(Value::Null);
    }
    let answer: Value = match serde_json::from_slice(&output.text) {
        Ok(answer) => answer,
        Err(_) if !output.success => {
            let said = String::from_utf8_lossy(&output.complaint).trim().to_owned();
            return Err(failed(format!("netplugin failed with no error message: {said:?}")));
        }
        Err(error) => return Err(failed(format!("its answer cannot be read: {error}"))),
    };
    if output.success {
        return Ok(answer);
    }
    let details = answer["details"].as_str().filter(|details| !details.is_empty());
    let message = answer["msg"].as_str().unwrap_or_default();
    Err(failed(details.map_or_else(|| message.to_owned(), |details| format!("{message}; {details}"))))
}

struct Output {
    success: bool,
    text: Vec<u8>,
    complaint: Vec<u8>,
}

async fn execute(call: &Call<'_>, name: &str, bin_dirs: &[PathBuf]) -> Result<Output, String> {
    let path: Vec<String> = bin_dirs.iter().map(|dir| dir.display().to_string()).collect();
    let program = bin_dirs.iter().map(|dir| dir.join(name)).find(|program| program.is_file());
    let program = program.ok_or_else(|| format!("failed to find plugin {name:?} in path [{}]", path.join(" ")))?;
    let kept = call.kept;
    let netns = if kept.netns.exists() { kept.netns.as_path() } else { Path::new("") };
    let mut command = tokio::process::Command::new(&program);
    command
        .env("CNI_COMMAND", call.command)
        .env("CNI_CONTAINERID", &kept.container_id)
        .env("CNI_NETNS", netns)
        .env("CNI_IFNAME", &kept.if_name)
        .env("CNI_ARGS", &kept.args)
        .env("CNI_PATH", path.join(":"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| format!("{}: {error}", program.display()))?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let input = configuration(call).to_string();
    let work = async {
        let write = async {
            if let Some(mut stdin) = stdin {
                // A plugin that does not read what it is asked may still answer.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
        };
        let (mut text, mut complaint) = (Vec::new(), Vec::new());
        let read = async {
            if let Some(stdout) = stdout {
                stdout.take(MAX_OUTPUT).read_to_end(&mut text).await?;
            }
            Ok::<_, std::io::Error>(())
        };
        let hear = async {
            if let Some(stderr) = stderr {
                stderr.take(MAX_OUTPUT).read_to_end(&mut complaint).await?;
            }
            Ok::<_, std::io::Error>(())
        };
        let ((), read, heard) = tokio::join!(write, read, hear);
        read.and(heard).map_err(|error| error.to_string())?;
        let status = child.wait().await.map_err(|error| error.to_string())?;
        Ok(Output { success: status.success(), text, complaint })
    };
    tokio::time::timeout(LIMIT, work).await.map_err(|_| format!("it took longer than {} s", LIMIT.as_secs()))?
}

/// What a plugin reads: its part of the configuration, the network's name and version, and the result so far.
fn configuration(call: &Call<'_>) -> Value {
    let list = &call.kept.list;
    let mut config = call.plugin.clone();
    config["name"] = json!(list.name);
    config["cniVersion"] = json!(list.cni_version);
    if let Some(previous) = call.previous {
        config["prevResult"] = previous.clone();
    }
    config
}
