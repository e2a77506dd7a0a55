//! Profile files in the format of the OCI runtime specification.

use super::{Action, Comparison, Condition, Rules};
use serde::Deserialize;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// More is not read.
const MAX_PROFILE: u64 = 4 << 20;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u16>,
    #[serde(default)]
    syscalls: Vec<Syscalls>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Syscalls {
    names: Vec<String>,
    action: String,
    errno_ret: Option<u16>,
    args: Option<Vec<Argument>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

pub(super) fn read(path: &Path) -> Result<Rules, String> {
    parse(&bytes(path)?)
}

/// A profile as it is.
pub(super) fn text(path: &Path) -> Result<serde_json::Value, String> {
    serde_json::from_slice(&bytes(path)?).map_err(|error| error.to_string())
}

fn bytes(path: &Path) -> Result<Vec<u8>, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut text = Vec::new();
    file.take(MAX_PROFILE).read_to_end(&mut text).map_err(|error| error.to_string())?;
    Ok(text)
}

fn parse(text: &[u8]) -> Result<Rules, String> {
    let profile: Profile = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let default = action(&profile.default_action, profile.default_errno_ret)?;
    let mut rules = Rules::new(default);
    for entry in &profile.syscalls {
        let action = action(&entry.action, entry.errno_ret)?;
        let conditions = entry.args.iter().flatten().map(condition).collect::<Result<Vec<_>, _>>()?;
        if action != default {
            entry.names.iter().for_each(|name| rules.add(name, conditions.clone(), action));
        }
    }
    Ok(rules)
}

fn action(name: &str, errno: Option<u16>) -> Result<Action, String> {
    match name {
        "SCMP_ACT_ALLOW" => Ok(Action::Allow),
        "SCMP_ACT_ERRNO" => Ok(Action::Errno(errno.unwrap_or(libc::EPERM as u16))),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Ok(Action::KillThread),
        "SCMP_ACT_KILL_PROCESS" => Ok(Action::KillProcess),
        "SCMP_ACT_TRAP" => Ok(Action::Trap),
        "SCMP_ACT_LOG" => Ok(Action::Log),
        other => Err(format!("action {other:?} is not supported")),
    }
}

fn condition(argument: &Argument) -> Result<Condition, String> {
    if argument.index > 5 {
        return Err(format!("there is no argument {}", argument.index));
    }
    let comparison = match argument.op.as_str() {
        "SCMP_CMP_EQ" => Comparison::Equal(argument.value),
        "SCMP_CMP_NE" => Comparison::NotEqual(argument.value),
        "SCMP_CMP_GT" => Comparison::Greater(argument.value),
        "SCMP_CMP_GE" => Comparison::GreaterOrEqual(argument.value),
        "SCMP_CMP_LT" => Comparison::Less(argument.value),
        "SCMP_CMP_LE" => Comparison::LessOrEqual(argument.value),
        "SCMP_CMP_MASKED_EQ" => Comparison::MaskedEqual(argument.value, argument.value_two),
        other => return Err(format!("comparison {other:?} is not known")),
    };
    Ok(Condition { argument: argument.index, comparison })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_read_and_nonsense_refused() {
        let rules = parse(
            br#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],"syscalls":[
                {"names":["mkdirat","no_such_call"],"action":"SCMP_ACT_ERRNO","errnoRet":13,
                 "args":[{"index":2,"value":511,"valueTwo":448,"op":"SCMP_CMP_MASKED_EQ"}]}]}"#,
        )
        .unwrap();
        assert_eq!(rules.default, Action::Allow);
        let number = super::super::names::number("mkdirat").unwrap();
        let condition = Condition { argument: 2, comparison: Comparison::MaskedEqual(511, 448) };
        assert_eq!(rules.calls[&number], [(vec![condition], Action::Errno(13))]);
        assert_eq!(rules.calls.len(), 1);
        assert!(parse(br#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#).is_err());
        assert!(parse(b"{").is_err());
    }
}
