//! `--config FILE`: YAML whose keys are the names of flags, put before the flags of the command line.

use anyhow::{Context, Result, bail};
use clap::CommandFactory;
use serde_json::Value;
use std::ffi::OsString;
use std::path::Path;

/// The commands that take flags from a file.
const COMMANDS: [&str; 3] = ["server", "agent", "check-config"];

/// Returns `argv` with the flags of its `--config` file inserted before its own, so that the command
/// line wins. A key may be absent from the command line and a list; then each entry becomes one flag.
pub(crate) fn expand(argv: Vec<OsString>) -> Result<Vec<OsString>> {
    let Some(path) = config_path(&argv) else {
        return Ok(argv);
    };
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read the configuration file {}", path.to_string_lossy()))?;
    let command = argv.get(1).and_then(|word| word.to_str()).unwrap_or_default();
    let flags = flags(command, &text).with_context(|| format!("configuration file {}", Path::new(&path).display()))?;
    let at = 2.min(argv.len());
    let given = |flag: &str| {
        argv.iter().any(|arg| arg.to_str().is_some_and(|arg| arg == flag || arg.starts_with(&format!("{flag}="))))
    };
    let mut expanded: Vec<OsString> = argv.get(..at).unwrap_or_default().to_vec();
    expanded.extend(flags.into_iter().filter(|(flag, _)| !given(flag)).map(|(_, arg)| arg.into()));
    expanded.extend(argv.get(at..).unwrap_or_default().iter().cloned());
    Ok(expanded)
}

fn config_path(argv: &[OsString]) -> Option<OsString> {
    let mut args = argv.iter().skip(1);
    if !args.next().and_then(|arg| arg.to_str()).is_some_and(|word| COMMANDS.contains(&word)) {
        return None;
    }
    while let Some(arg) = args.next() {
        let text = arg.to_str()?;
        if text == "--config" || text == "-c" {
            return args.next().cloned();
        }
        if let Some(path) = text.strip_prefix("--config=") {
            return Some(path.into());
        }
    }
    std::env::var_os("NARU_CONFIG_FILE")
}

/// The flags of a command's configuration, each with the whole argument.
fn flags(name: &str, text: &str) -> Result<Vec<(String, String)>> {
    let value: Value = serde_saphyr::from_str(text).context("not valid YAML")?;
    let map = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Object(map) => map,
        _ => bail!("it must be a mapping from names of flags to values"),
    };
    let command = crate::cli::Cli::command();
    let command = command.find_subcommand(name).context("the command takes flags from a file")?;
    let known: Vec<&str> = command.get_arguments().filter_map(|argument| argument.get_long()).collect();
    let mut flags = Vec::new();
    for (key, value) in map {
        if !known.contains(&key.as_str()) {
            bail!("{key}: there is no flag of this name (naru {name} --help lists them)");
        }
        let flag = format!("--{key}");
        let values = if let Value::Array(values) = value { values } else { vec![value] };
        for value in values {
            let argument = match value {
                Value::Bool(true) => flag.clone(),
                Value::Bool(false) => continue,
                Value::String(text) => format!("{flag}={text}"),
                Value::Number(number) => format!("{flag}={number}"),
                _ => bail!("{key}: the value must be a string, a number, true, false or a list of these"),
            };
            flags.push((flag.clone(), argument));
        }
    }
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_wins_over_the_file() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("config.yaml");
        std::fs::write(&path, "node-name: from-file\ntls-san:\n  - a\n  - b\ndisable-agent: true\ndebug: false\n")?;
        let argv = ["naru", "server", "--config", path.to_str().context("utf-8")?, "--node-name=mine"];
        let expanded = expand(argv.iter().map(Into::into).collect())?;
        let text: Vec<_> = expanded.iter().filter_map(|arg| arg.to_str()).collect();
        assert_eq!(text.get(2..5).unwrap_or_default(), ["--disable-agent", "--tls-san=a", "--tls-san=b"]);
        assert!(!text.contains(&"--node-name=from-file"));
        Ok(())
    }

    #[test]
    fn a_bad_value_names_its_key() {
        let error = flags("server", "tls-san: {a: b}").expect_err("a mapping is no value");
        assert!(error.to_string().starts_with("tls-san:"), "{error}");
        let error = flags("agent", "tls-san: bar").expect_err("no flag has this name");
        assert!(error.to_string().starts_with("tls-san:"), "{error}");
    }
}
