//! Flags in files: YAML whose keys are the names of flags, put before the flags of the command line.

use anyhow::{Context, Result, bail};
use clap::CommandFactory;
use serde_json::{Map, Value};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The commands that take flags from a file.
const COMMANDS: [&str; 4] = ["server", "agent", "check-config", KILLALL];
/// Undoes what a server or an agent did with these flags, of which it knows some.
const KILLALL: &str = "killall";
/// What is read unless another file is named, if it is there.
const DEFAULT: &str = "/etc/naru/config.yaml";

/// Returns `argv` with the flags of its configuration inserted before its own, so that the command
/// line wins. A key may be absent from the command line and a list; then each entry becomes one flag.
pub(crate) fn expand(argv: Vec<OsString>) -> Result<Vec<OsString>> {
    expand_from(argv, Path::new(DEFAULT), std::env::var_os("NARU_CONFIG_FILE"))
}

fn expand_from(argv: Vec<OsString>, default: &Path, of_environment: Option<OsString>) -> Result<Vec<OsString>> {
    let command = argv.get(1).and_then(|word| word.to_str()).unwrap_or_default();
    if !COMMANDS.contains(&command) {
        return Ok(argv);
    }
    let named = named(&argv).or_else(|| of_environment.filter(|path| !path.is_empty()));
    let keys = keys(named.as_deref().map_or(default, Path::new), named.is_some())?;
    let flags = flags(command, keys)?;
    let at = 2.min(argv.len());
    let given = |flag: &str| {
        argv.iter().any(|arg| arg.to_str().is_some_and(|arg| arg == flag || arg.starts_with(&format!("{flag}="))))
    };
    let mut expanded: Vec<OsString> = argv.get(..at).unwrap_or_default().to_vec();
    expanded.extend(flags.into_iter().filter(|(flag, _)| !given(flag)).map(|(_, arg)| arg.into()));
    expanded.extend(argv.get(at..).unwrap_or_default().iter().cloned());
    Ok(expanded)
}

/// The file that the command line names.
fn named(argv: &[OsString]) -> Option<OsString> {
    let mut args = argv.iter().skip(2);
    while let Some(arg) = args.next() {
        let text = arg.to_str()?;
        if text == "--config" || text == "-c" {
            return args.next().cloned();
        }
        if let Some(path) = text.strip_prefix("--config=") {
            return Some(path.into());
        }
    }
    None
}

/// What a file says, and after it the files of the directory beside it (`config.yaml.d/*.yaml`), in the order of their
/// names: a later one replaces what an earlier one says, or adds to it where the key ends in `+`.
fn keys(path: &Path, must_be: bool) -> Result<Map<String, Value>> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".d");
    let entries = std::fs::read_dir(Path::new(&beside)).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|end| end == "yaml" || end == "yml"));
    files.sort();
    if must_be || path.exists() {
        files.insert(0, path.to_owned());
    }
    let mut keys = Map::new();
    for file in files {
        let of_file = || format!("configuration file {}", file.display());
        let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read the {}", of_file()))?;
        let value: Value = serde_saphyr::from_str(&text).context("not valid YAML").with_context(of_file)?;
        let said = match value {
            Value::Null => continue,
            Value::Object(said) => said,
            _ => bail!("{}: it must be a mapping from names of flags to values", of_file()),
        };
        for (key, value) in said {
            match key.strip_suffix('+') {
                Some(key) => add(keys.entry(key).or_insert(Value::Null), value),
                None => drop(keys.insert(key, value)),
            }
        }
    }
    Ok(keys)
}

fn add(to: &mut Value, more: Value) {
    let list = |value: Value| match value {
        Value::Null => Vec::new(),
        Value::Array(values) => values,
        one => vec![one],
    };
    let mut all = list(std::mem::take(to));
    all.extend(list(more));
    *to = Value::Array(all);
}

/// The flags of a command's configuration, each with the whole argument.
fn flags(name: &str, map: Map<String, Value>) -> Result<Vec<(String, String)>> {
    let command = crate::cli::Cli::command();
    let command = command.find_subcommand(name).context("the command takes flags from a file")?;
    let known: Vec<&str> = command.get_arguments().filter_map(|argument| argument.get_long()).collect();
    let mut flags = Vec::new();
    for (key, value) in map {
        if !known.contains(&key.as_str()) {
            if name == KILLALL {
                continue;
            }
            bail!("configuration file: {key}: there is no flag of this name (naru {name} --help lists them)");
        }
        let flag = format!("--{key}");
        let values = if let Value::Array(values) = value { values } else { vec![value] };
        for value in values {
            let argument = match value {
                Value::Bool(true) => flag.clone(),
                Value::Bool(false) => continue,
                Value::String(text) => format!("{flag}={text}"),
                Value::Number(number) => format!("{flag}={number}"),
                _ => bail!(
                    "configuration file: {key}: the value must be a string, a number, true, false or a list of these"
                ),
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
    fn a_bad_value_names_its_key() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("config.yaml");
        for (command, text) in [("server", "tls-san: {a: b}"), ("agent", "tls-san: bar")] {
            std::fs::write(&path, text)?;
            let error = flags(command, keys(&path, true)?).expect_err("it is wrong");
            assert!(error.to_string().starts_with("configuration file: tls-san:"), "{error}");
        }
        Ok(())
    }

    #[test]
    fn the_usual_file_is_read_if_it_is_there_and_those_beside_it() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let usual = dir.path().join("config.yaml");
        let check = |argv: &[&str], environment: Option<&Path>, expect: &[&str]| -> Result<()> {
            let argv = ["naru", "server"].iter().chain(argv).map(Into::into).collect();
            let expanded = expand_from(argv, &usual, environment.map(Into::into))?;
            let text: Vec<_> = expanded.iter().skip(2).filter_map(|arg| arg.to_str()).collect();
            assert_eq!(text, expect);
            Ok(())
        };
        check(&["--debug"], None, &["--debug"])?;
        std::fs::write(&usual, "node-name: usual\ntls-san: a\nnode-label: [x=1]\n")?;
        check(&[], None, &["--node-label=x=1", "--node-name=usual", "--tls-san=a"])?;
        // Later files replace what earlier ones say, or add to it.
        let beside = dir.path().join("config.yaml.d");
        std::fs::create_dir(&beside)?;
        std::fs::write(beside.join("20-b.yaml"), "tls-san+: [c]\nnode-label: [y=2]\n")?;
        std::fs::write(beside.join("10-a.yaml"), "tls-san+: b\nnode-name: a\n")?;
        std::fs::write(beside.join("30-no.txt"), "node-name: no\n")?;
        let all = ["--node-label=y=2", "--node-name=a", "--tls-san=a", "--tls-san=b", "--tls-san=c"];
        check(&[], None, &all)?;
        // The command line replaces all values of a flag.
        let mine = ["--node-label=y=2", "--node-name=a", "--tls-san=mine"];
        check(&["--tls-san=mine"], None, &mine)?;
        // The environment names another file, and the command line wins over it.
        let (second, third) = (dir.path().join("second.yaml"), dir.path().join("third.yaml"));
        std::fs::write(&second, "node-name: second\n")?;
        std::fs::write(&third, "node-name: third\n")?;
        check(&[], Some(&second), &["--node-name=second"])?;
        let flag = format!("--config={}", third.display());
        check(&[&flag], Some(&second), &["--node-name=third", &flag])?;
        // What is named must be there.
        assert!(check(&[], Some(&dir.path().join("missing")), &[]).is_err());
        Ok(())
    }
}
