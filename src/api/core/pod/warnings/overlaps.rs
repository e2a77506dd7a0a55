//! Files of a volume that are put where others are.

use crate::status::quote;
use crate::tree::{list, text};
use serde_json::Value;
use std::collections::BTreeSet;

/// Paths looked at; a volume with more is not said anything about.
const MAX_PATHS: usize = 1000;

/// Warnings about the volumes of a pod.
pub(super) fn warnings(volumes: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for volume in list(volumes) {
        let name = quote(text(&volume["name"]));
        for (field, kind, name_of) in
            [("configMap", "ConfigMap", "name"), ("secret", "Secret", "secretName"), ("downwardAPI", "DownwardAPI", "")]
        {
            let source = &volume[field];
            let shown = match name_of {
                "" => kind.to_owned(),
                name_of => format!("{kind} {}", quote(text(&source[name_of]))),
            };
            collisions(&paths(&source["items"]), &format!("volume {name} ({shown})"), &mut found);
        }
        projected(list(&volume["projected"]["sources"]), &name, &mut found);
    }
    found
}

fn paths(items: &Value) -> Vec<&str> {
    list(items).iter().map(|item| text(&item["path"])).collect()
}

/// Sources are held against themselves, and then against all those before them.
fn projected(sources: &[Value], volume: &str, found: &mut Vec<String>) {
    let mut before: BTreeSet<&str> = BTreeSet::new();
    for source in sources {
        let Some((paths, shown)) = source_paths(source) else {
            if source.as_object().is_none_or(serde_json::Map::is_empty) {
                found.push(format!("volume {volume} (Projected) has no sources provided"));
            }
            continue;
        };
        let what = format!("volume {volume} (Projected {shown})");
        collisions(&paths, &what, found);
        let unique: BTreeSet<&str> = paths.into_iter().collect();
        let mut together: Vec<&str> = unique.iter().chain(&before).copied().collect();
        together.sort_unstable();
        collisions(&together, &what, found);
        before.extend(unique);
    }
}

/// The files of a source, and how it is called.
fn source_paths(source: &Value) -> Option<(Vec<&str>, String)> {
    let named = |kind: &str, name: &Value| format!("{kind} {}", quote(text(name)));
    for (field, kind) in [("configMap", "ConfigMap"), ("secret", "Secret"), ("downwardAPI", "DownwardAPI")] {
        let items = &source[field]["items"];
        if !list(items).is_empty() {
            let shown = if field == "downwardAPI" { kind.to_owned() } else { named(kind, &source[field]["name"]) };
            return Some((paths(items), shown));
        }
    }
    let token = &source["serviceAccountToken"];
    if token.is_object() {
        return Some((vec![text(&token["path"])], "ServiceAccountToken".to_owned()));
    }
    let bundle = &source["clusterTrustBundle"];
    let name = if bundle["name"].is_string() { &bundle["name"] } else { &bundle["signerName"] };
    bundle.is_object().then(|| (vec![text(&bundle["path"])], named("ClusterTrustBundle", name)))
}

fn collisions(paths: &[&str], what: &str, found: &mut Vec<String>) {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for path in paths.iter().take(MAX_PATHS).map(|path| path.trim_end_matches('/')) {
        if let Some(other) = seen.iter().find(|other| collide(other, path)) {
            found.push(format!("{what}: overlapping paths: {} with {}", quote(path), quote(other)));
        }
        seen.insert(path);
    }
}

/// Whether one is the other's beginning; like upstream, without looking where a name ends.
fn collide(one: &str, other: &str) -> bool {
    let begins = |long: &str, short: &str| format!("{long}/").starts_with(short);
    !one.is_empty() && !other.is_empty() && (begins(one, other) || begins(other, one))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn files_in_the_way_of_others() {
        let items = |paths: &[&str]| Value::from_iter(paths.iter().map(|path| json!({ "path": path })));
        let volumes = json!([
            {"name": "a", "configMap": {"name": "m", "items": items(&["x", "y", "x/z"])}},
            {"name": "b", "secret": {"secretName": "s", "items": items(&["x/", "x"])}},
            {"name": "c", "downwardAPI": {"items": items(&["x", "y"])}},
            {"name": "d", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token"}},
                {"secret": {"name": "s", "items": items(&["token"])}},
                {},
            ]}},
        ]);
        assert_eq!(
            warnings(&volumes),
            [
                r#"volume "a" (ConfigMap "m"): overlapping paths: "x/z" with "x""#,
                r#"volume "b" (Secret "s"): overlapping paths: "x" with "x""#,
                r#"volume "d" (Projected Secret "s"): overlapping paths: "token" with "token""#,
                r#"volume "d" (Projected) has no sources provided"#,
            ]
        );
    }
}
