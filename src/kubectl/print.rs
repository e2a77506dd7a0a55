//! Output: tables as upstream lays them out.

use serde_json::Value;
use std::io::{self, Write};

/// How a table is shown.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TableStyle<'a> {
    pub(crate) wide: bool,
    pub(crate) namespaces: bool,
    pub(crate) headers: bool,
    pub(crate) labels: bool,
    /// Goes before names, such as `pod/`, when several types are shown.
    pub(crate) prefix: &'a str,
}

const GAP: usize = 3;

/// Writes a meta.k8s.io Table. Cells are padded to their column, but not the last one.
pub(crate) fn table(out: &mut impl Write, table: &Value, style: TableStyle<'_>) -> io::Result<()> {
    let columns: Vec<&Value> = table["columnDefinitions"].as_array().into_iter().flatten().collect();
    let shown: Vec<usize> =
        (0..columns.len()).filter(|&i| style.wide || columns[i]["priority"].as_i64().unwrap_or(0) == 0).collect();
    let mut lines: Vec<Vec<String>> = Vec::new();
    if style.headers {
        let names = shown.iter().map(|&i| columns[i]["name"].as_str().unwrap_or_default().to_uppercase());
        let namespace = style.namespaces.then(|| "NAMESPACE".to_owned());
        let labels = style.labels.then(|| "LABELS".to_owned());
        lines.push(namespace.into_iter().chain(names).chain(labels).collect());
    }
    for row in table["rows"].as_array().into_iter().flatten() {
        let meta = &row["object"]["metadata"];
        let cells = shown.iter().map(|&i| {
            let text = cell(&row["cells"][i]);
            if i == 0 { format!("{}{text}", style.prefix) } else { text }
        });
        let namespace = style.namespaces.then(|| meta["namespace"].as_str().unwrap_or_default().to_owned());
        let labels = style.labels.then(|| labels(&meta["labels"]));
        lines.push(namespace.into_iter().chain(cells).chain(labels).collect());
    }
    let count = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |i: usize| lines.iter().filter_map(|line| line.get(i)).map(|text| text.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count).map(|i| width(i) + GAP).collect();
    for line in &lines {
        let mut text = String::new();
        for (i, cell) in line.iter().enumerate() {
            text.push_str(cell);
            if i + 1 < line.len() {
                text.extend(std::iter::repeat_n(' ', widths[i] - cell.chars().count()));
            }
        }
        writeln!(out, "{text}")?;
    }
    Ok(())
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "<none>".to_owned(),
        // Only the first line: the rest would break the table.
        Value::String(text) => match text.split_once(['\n', '\r']) {
            Some((first, _)) => format!("{first}..."),
            None => text.clone(),
        },
        other => other.to_string(),
    }
}

fn labels(labels: &Value) -> String {
    let pairs = labels.as_object().into_iter().flatten();
    let text: Vec<String> = pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    if text.is_empty() { "<none>".to_owned() } else { text.join(",") }
}

/// JSON with four spaces, as upstream prints it.
pub(crate) fn json(out: &mut impl Write, value: &Value) -> anyhow::Result<()> {
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut *out, formatter);
    serde::Serialize::serialize(value, &mut serializer)?;
    writeln!(out)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    #[test]
    fn tables_are_laid_out_as_upstream_does() {
        let data = json!({
            "columnDefinitions": [{"name": "Name", "priority": 0}, {"name": "Ready", "priority": 0}, {"name": "IP", "priority": 1}],
            "rows": [
                {"cells": ["web", "1/1", null], "object": {"metadata": {"namespace": "default", "labels": {"a": "b", "c": "d"}}}},
                {"cells": ["a-longer-name", "0/1", "10.0.0.1"], "object": {"metadata": {"namespace": "x"}}},
            ]
        });
        let render = |style| {
            let mut out = Vec::new();
            table(&mut out, &data, style).unwrap();
            String::from_utf8(out).unwrap()
        };
        let plain = TableStyle { headers: true, ..TableStyle::default() };
        assert_eq!(render(plain), "NAME            READY\nweb             1/1\na-longer-name   0/1\n");
        assert_eq!(
            render(TableStyle { wide: true, namespaces: true, prefix: "pod/", ..plain }),
            "NAMESPACE   NAME                READY   IP\n\
             default     pod/web             1/1     <none>\n\
             x           pod/a-longer-name   0/1     10.0.0.1\n"
        );
        assert_eq!(
            render(TableStyle { labels: true, headers: false, ..plain }),
            "web             1/1   a=b,c=d\na-longer-name   0/1   <none>\n"
        );
    }
}
