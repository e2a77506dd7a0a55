//! What changed in a part of an object, line by line, as the errors about immutable parts show it.

use crate::tree::{entries, list, text};
use serde_json::Value;

/// A value in the order in which it is shown.
#[derive(Debug, Clone)]
pub(super) enum Shown {
    /// A scalar, a list or a map; its keys are sorted.
    Plain(Value),
    /// Fields in their own order.
    Fields(Vec<(&'static str, Shown)>),
}

/// Lines around a change.
const CONTEXT: usize = 3;
/// Larger comparisons say nothing that a person would read.
const MAX_CELLS: usize = 1 << 20;

fn render(value: &Shown, depth: usize, out: &mut String) {
    let pad = |out: &mut String, n: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', n));
    };
    let wrap = |out: &mut String, open: char, close: char, items: Vec<(Option<&str>, Shown)>| {
        out.push(open);
        let none = items.is_empty();
        for (i, (key, item)) in items.iter().enumerate() {
            if i > 0 {
                out.push(',');
            }
            pad(out, depth + 1);
            if let Some(key) = key {
                out.push_str(&Value::from(*key).to_string());
                out.push_str(": ");
            }
            render(item, depth + 1, out);
        }
        if !none {
            pad(out, depth);
        }
        out.push(close);
    };
    match value {
        Shown::Fields(fields) => wrap(out, '{', '}', fields.iter().map(|(k, v)| (Some(*k), v.clone())).collect()),
        Shown::Plain(map @ Value::Object(_)) => {
            wrap(out, '{', '}', entries(map).map(|(k, v)| (Some(k.as_str()), Shown::Plain(v.clone()))).collect());
        }
        Shown::Plain(Value::Array(items)) => {
            wrap(out, '[', ']', items.iter().map(|v| (None, Shown::Plain(v.clone()))).collect());
        }
        Shown::Plain(scalar) => out.push_str(&scalar.to_string()),
    }
}

fn lines(value: &Shown) -> Vec<String> {
    let mut out = String::new();
    render(value, 0, &mut out);
    out.lines().map(str::to_owned).collect()
}

/// One line of an edit: its mark, and the line.
type Edit<'a> = (char, &'a str);

fn edits<'a>(old: &'a [String], new: &'a [String]) -> Vec<Edit<'a>> {
    let (rows, columns) = (old.len(), new.len());
    let mut longest = vec![vec![0u32; columns + 1]; rows + 1];
    for i in (0..rows).rev() {
        for j in (0..columns).rev() {
            longest[i][j] = match old[i] == new[j] {
                true => longest[i + 1][j + 1] + 1,
                false => longest[i + 1][j].max(longest[i][j + 1]),
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut all = Vec::new();
    while i < rows || j < columns {
        if i < rows && j < columns && old[i] == new[j] {
            all.push((' ', old[i].as_str()));
            (i, j) = (i + 1, j + 1);
        } else if i < rows && (j == columns || longest[i + 1][j] >= longest[i][j + 1]) {
            all.push(('-', old[i].as_str()));
            i += 1;
        } else {
            all.push(('+', new[j].as_str()));
            j += 1;
        }
    }
    all
}

fn range(start: usize, count: usize) -> String {
    match count {
        0 => format!("{start},0"),
        1 => format!("{}", start + 1),
        _ => format!("{},{count}", start + 1),
    }
}

/// The unified difference, without file names.
pub(super) fn unified(old: &Shown, new: &Shown) -> String {
    let (old, new) = (lines(old), lines(new));
    if old.len().saturating_mul(new.len()) > MAX_CELLS {
        return String::new();
    }
    let all = edits(&old, &new);
    let near = |at: usize| {
        let from = at.saturating_sub(CONTEXT);
        all[from..all.len().min(at + CONTEXT + 1)].iter().any(|(mark, _)| *mark != ' ')
    };
    let mut out = String::new();
    let (mut old_line, mut new_line, mut at) = (0, 0, 0);
    while at < all.len() {
        if !near(at) {
            (old_line, new_line, at) = (old_line + 1, new_line + 1, at + 1);
            continue;
        }
        let end = (at..all.len()).find(|n| !near(*n)).unwrap_or(all.len());
        let hunk = &all[at..end];
        let olds = hunk.iter().filter(|(mark, _)| *mark != '+').count();
        let news = hunk.iter().filter(|(mark, _)| *mark != '-').count();
        out.push_str(&format!("@@ -{} +{} @@\n", range(old_line, olds), range(new_line, news)));
        for (mark, line) in hunk {
            out.push_str(&format!("{mark}{line}\n"));
        }
        (old_line, new_line, at) = (old_line + olds, new_line + news, end);
    }
    out
}

fn plain(value: &Value) -> Shown {
    Shown::Plain(value.clone())
}

fn word(value: &Value) -> Shown {
    Shown::Plain(text(value).into())
}

fn reference(value: &Value, namespaced: bool) -> Shown {
    if !value.is_object() {
        return Shown::Plain(Value::Null);
    }
    let mut fields =
        vec![("APIGroup", plain(&value["apiGroup"])), ("Kind", word(&value["kind"])), ("Name", word(&value["name"]))];
    if namespaced {
        fields.push(("Namespace", plain(&value["namespace"])));
    }
    Shown::Fields(fields)
}

fn selector(value: &Value) -> Shown {
    if !value.is_object() {
        return Shown::Plain(Value::Null);
    }
    let mut fields = Vec::new();
    if value["matchLabels"].is_object() {
        fields.push(("matchLabels", plain(&value["matchLabels"])));
    }
    if !list(&value["matchExpressions"]).is_empty() {
        fields.push(("matchExpressions", plain(&value["matchExpressions"])));
    }
    Shown::Fields(fields)
}

/// The spec of a claim.
pub(super) fn claim_spec(spec: &Value) -> Shown {
    let resources = &spec["resources"];
    Shown::Fields(vec![
        ("AccessModes", plain(&spec["accessModes"])),
        ("Selector", selector(&spec["selector"])),
        (
            "Resources",
            Shown::Fields(vec![("Limits", plain(&resources["limits"])), ("Requests", plain(&resources["requests"]))]),
        ),
        ("VolumeName", word(&spec["volumeName"])),
        ("StorageClassName", plain(&spec["storageClassName"])),
        ("VolumeMode", plain(&spec["volumeMode"])),
        ("DataSource", reference(&spec["dataSource"], false)),
        ("DataSourceRef", reference(&spec["dataSourceRef"], true)),
        ("VolumeAttributesClassName", plain(&spec["volumeAttributesClassName"])),
    ])
}

/// The source of a volume: kinds in upstream's order, and the fields of the common ones as they are named there.
pub(super) fn volume_source(spec: &Value) -> Shown {
    const KINDS: [(&str, &str); 22] = [
        ("GCEPersistentDisk", "gcePersistentDisk"),
        ("AWSElasticBlockStore", "awsElasticBlockStore"),
        ("HostPath", "hostPath"),
        ("Glusterfs", "glusterfs"),
        ("NFS", "nfs"),
        ("RBD", "rbd"),
        ("Quobyte", "quobyte"),
        ("ISCSI", "iscsi"),
        ("FlexVolume", "flexVolume"),
        ("Cinder", "cinder"),
        ("CephFS", "cephfs"),
        ("FC", "fc"),
        ("Flocker", "flocker"),
        ("AzureFile", "azureFile"),
        ("VsphereVolume", "vsphereVolume"),
        ("AzureDisk", "azureDisk"),
        ("PhotonPersistentDisk", "photonPersistentDisk"),
        ("PortworxVolume", "portworxVolume"),
        ("ScaleIO", "scaleIO"),
        ("Local", "local"),
        ("StorageOS", "storageos"),
        ("CSI", "csi"),
    ];
    let one = |kind: &str, source: &Value| match kind {
        "hostPath" => Shown::Fields(vec![("Path", word(&source["path"])), ("Type", plain(&source["type"]))]),
        "nfs" => Shown::Fields(vec![
            ("Server", word(&source["server"])),
            ("Path", word(&source["path"])),
            ("ReadOnly", Shown::Plain(crate::tree::flag(&source["readOnly"]).into())),
        ]),
        "local" => Shown::Fields(vec![("Path", word(&source["path"])), ("FSType", plain(&source["fsType"]))]),
        _ => plain(source),
    };
    Shown::Fields(
        KINDS
            .iter()
            .map(|(name, kind)| {
                let source = &spec[*kind];
                (*name, if source.is_object() { one(kind, source) } else { Shown::Plain(Value::Null) })
            })
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_claim_that_grew() {
        let spec = |size: &str| {
            json!({"accessModes": ["ReadWriteMany"], "selector": {"matchLabels": {"type": "nfs"}},
                "resources": {"requests": {"storage": size}}, "storageClassName": "", "volumeMode": "Filesystem"})
        };
        assert_eq!(
            unified(&claim_spec(&spec("500Gi")), &claim_spec(&spec("1Ti"))),
            "@@ -10,7 +10,7 @@\n  \"Resources\": {\n   \"Limits\": null,\n   \"Requests\": {\n-   \"storage\": \"500Gi\"\n+   \"storage\": \"1Ti\"\n   }\n  },\n  \"VolumeName\": \"\",\n"
        );
    }

    #[test]
    fn a_volume_of_another_kind() {
        let (old, new) = (json!({"nfs": {"server": "s", "path": "/p"}}), json!({"hostPath": {"path": "/p"}}));
        let shown = unified(&volume_source(&old), &volume_source(&new));
        assert!(shown.starts_with("@@ -1,13 +1,12 @@\n {\n"), "{shown}");
        assert!(shown.contains("\n- \"NFS\": {\n") && shown.contains("\n+ \"HostPath\": {\n"), "{shown}");
    }
}
