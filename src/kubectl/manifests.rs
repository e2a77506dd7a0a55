//! Reads objects from files, directories and stdin.

use crate::cli::Files;
use anyhow::{Context, bail};
use naru_api::codec::parse_yaml;
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Larger than any sensible set of objects.
const MAX_BYTES: u64 = 64 << 20;
const MAX_DEPTH: usize = 32;

/// All objects of the files in order; lists are taken apart.
pub(crate) fn read(files: &Files) -> anyhow::Result<Vec<Value>> {
    if files.filename.is_empty() {
        bail!("must specify --filename");
    }
    let mut objects = Vec::new();
    for path in &files.filename {
        if path == Path::new("-") {
            read_from(&mut std::io::stdin().lock(), "STDIN", &mut objects)?;
            continue;
        }
        let meta =
            path.metadata().with_context(|| format!("the path {:?} cannot be read", path.display().to_string()))?;
        let mut found = Vec::new();
        if meta.is_dir() {
            list(path, files.recursive, MAX_DEPTH, &mut found)?;
        } else {
            found.push(path.clone());
        }
        for path in found {
            let mut file = std::fs::File::open(&path).with_context(|| path.display().to_string())?;
            read_from(&mut file, &path.display().to_string(), &mut objects)?;
        }
    }
    if objects.is_empty() {
        bail!("no objects passed");
    }
    Ok(objects)
}

fn list(dir: &Path, recursive: bool, depth: usize, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    let mut paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            if recursive && depth > 0 {
                list(&path, recursive, depth - 1, found)?;
            }
        } else if path
            .extension()
            .and_then(|ext| ext.to_str())
            .is_some_and(|ext| matches!(ext, "yaml" | "yml" | "json"))
        {
            found.push(path);
        }
    }
    Ok(())
}

fn read_from(source: &mut impl Read, name: &str, objects: &mut Vec<Value>) -> anyhow::Result<()> {
    let mut text = String::new();
    source.take(MAX_BYTES).read_to_string(&mut text).with_context(|| format!("error reading {name}"))?;
    objects.extend(self::objects(&text, name)?);
    Ok(())
}

/// The objects of a text in order; lists are taken apart. `name` stands in errors.
pub fn objects(text: &str, name: &str) -> anyhow::Result<Vec<Value>> {
    let mut objects = Vec::new();
    for object in parse(text).map_err(|error| anyhow::anyhow!("error parsing {name}: {error}"))? {
        flatten(object, name, &mut objects)?;
    }
    Ok(objects)
}

fn flatten(object: Value, name: &str, objects: &mut Vec<Value>) -> anyhow::Result<()> {
    let kind = object["kind"].as_str().unwrap_or_default();
    if kind.ends_with("List")
        && let Some(items) = object["items"].as_array()
    {
        return items.iter().try_for_each(|item| flatten(item.clone(), name, objects));
    }
    if kind.is_empty() {
        bail!("error validating {name:?}: error validating data: kind not set");
    }
    if object["apiVersion"].as_str().unwrap_or_default().is_empty() {
        bail!("error validating {name:?}: error validating data: apiVersion not set");
    }
    objects.push(object);
    Ok(())
}

/// The documents of a text. Lines in errors count from its beginning.
fn parse(text: &str) -> Result<Vec<Value>, naru_api::codec::DecodeError> {
    let mut documents = Vec::new();
    let (mut document, mut first_line) = (String::new(), 0);
    let mut finish = |document: &str, first_line: usize| {
        if document.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
            return Ok(());
        }
        // Empty lines in front keep the numbers right.
        let value = parse_yaml(format!("{}{document}", "\n".repeat(first_line)).as_bytes())?;
        if !value.is_null() {
            documents.push(value);
        }
        Ok(())
    };
    for (number, line) in text.lines().enumerate() {
        let separator =
            line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r']));
        if separator {
            finish(&document, first_line)?;
            (document, first_line) = (String::new(), number + 1);
        } else {
            document.push_str(line);
            document.push('\n');
        }
    }
    finish(&document, first_line)?;
    Ok(documents)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    #[test]
    fn documents_are_told_apart_and_lists_taken_apart() {
        let text = "# only a comment\n---\nkind: A\napiVersion: v1\ntext: |\n  --- not a separator\n---\n---\n{\"kind\":\"BList\",\"items\":[{\"kind\":\"B\",\"apiVersion\":\"v1\"}]}\n";
        let mut objects = Vec::new();
        read_from(&mut text.as_bytes(), "x", &mut objects).unwrap();
        assert_eq!(objects[0], json!({"kind": "A", "apiVersion": "v1", "text": "--- not a separator\n"}));
        assert_eq!(objects[1], json!({"kind": "B", "apiVersion": "v1"}));
        assert_eq!(objects.len(), 2);
    }

    #[test]
    fn errors_tell_the_line_in_the_file() {
        let error = parse("kind: A\n---\nkind: B\nmetadata:\n  name: x\n bad: 1\n").unwrap_err().to_string();
        assert!(error.starts_with("error converting YAML to JSON: yaml: line 6, column "), "{error}");
        let error = read_from(&mut "apiVersion: v1\n".as_bytes(), "f.yaml", &mut Vec::new()).unwrap_err().to_string();
        assert_eq!(error, "error validating \"f.yaml\": error validating data: kind not set");
    }
}
