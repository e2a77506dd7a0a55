//! Resource types: the built-in ones are known, others are asked for.

use crate::session::Session;
use naru_api::registry::{RESOURCES, Resource};
use naru_client::{Error, Query};
use serde_json::Value;

/// A type of objects as far as requests and output need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) kind: String,
    pub(crate) namespaced: bool,
    short_names: Vec<String>,
}

impl From<&Resource> for Kind {
    fn from(resource: &Resource) -> Self {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Self {
            group: resource.group.to_owned(),
            version: resource.version.to_owned(),
            plural: resource.plural.to_owned(),
            singular: resource.singular.to_owned(),
            kind: resource.kind.to_owned(),
            namespaced: resource.is_namespaced(),
            short_names: owned(resource.short_names),
        }
    }
}

impl Kind {
    /// As it stands before a name: `pod`, `deployment.apps`.
    pub(crate) fn label(&self) -> String {
        if self.group.is_empty() { self.singular.clone() } else { format!("{}.{}", self.singular, self.group) }
    }

    /// The path of the collection, or of one object.
    pub(crate) fn path(&self, namespace: Option<&str>, name: Option<&str>) -> String {
        let mut path = match self.group.as_str() {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        };
        if let (true, Some(namespace)) = (self.namespaced, namespace) {
            path.push_str("/namespaces/");
            path.push_str(&escape(namespace));
        }
        path.push('/');
        path.push_str(&self.plural);
        if let Some(name) = name {
            path.push('/');
            path.push_str(&escape(name));
        }
        path
    }

    pub(crate) fn list_uri(&self, namespace: Option<&str>, labels: &str, fields: &str) -> String {
        let mut query = Query::new(self.path(namespace, None));
        if !labels.is_empty() {
            query = query.set("labelSelector", labels);
        }
        if !fields.is_empty() {
            query = query.set("fieldSelector", fields);
        }
        query.build()
    }

    fn answers_to(&self, word: &str) -> bool {
        let (name, group) = match word.split_once('.') {
            Some((name, rest)) => (name, Some(rest)),
            None => (word, None),
        };
        let group_fits = match group {
            None => true,
            // `deployments.apps` or `deployments.v1.apps`.
            Some(group) => {
                group == self.group || group == format!("{}.{}", self.version, self.group).trim_end_matches('.')
            }
        };
        let lower = name.to_ascii_lowercase();
        group_fits && (lower == self.plural || lower == self.singular || self.short_names.contains(&lower))
    }
}

/// Names cannot hold most of these; what somebody typed can.
fn escape(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~' | b':');
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn built_in() -> impl Iterator<Item = Kind> {
    RESOURCES.iter().filter(|resource| resource.is_stored()).map(|resource| Kind::from(*resource))
}

/// The types that a word such as `po`, `deployments.apps` or `all` means.
pub(crate) async fn by_word(session: &Session, word: &str) -> anyhow::Result<Vec<Kind>> {
    // Each object once, also where it is served in several versions.
    let in_category: Vec<Kind> = RESOURCES
        .iter()
        .filter(|resource| resource.is_storage() && resource.categories.contains(&word))
        .map(|resource| Kind::from(*resource))
        .collect();
    if !in_category.is_empty() {
        return Ok(in_category);
    }
    if let Some(kind) = built_in().find(|kind| kind.answers_to(word)) {
        return Ok(vec![kind]);
    }
    let found = discover(session).await?.into_iter().find(|kind| kind.answers_to(word));
    found.map(|kind| vec![kind]).ok_or_else(|| anyhow::anyhow!("the server doesn't have a resource type {word:?}"))
}

/// The type of an object.
pub(crate) async fn of_object(session: &Session, object: &Value) -> anyhow::Result<Kind> {
    let api_version = object["apiVersion"].as_str().unwrap_or_default();
    let kind = object["kind"].as_str().unwrap_or_default();
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let fits = |candidate: &Kind| candidate.group == group && candidate.version == version && candidate.kind == kind;
    if let Some(found) = built_in().find(fits) {
        return Ok(found);
    }
    let found = discover_version(session, group, version).await?.into_iter().find(fits);
    found.ok_or_else(|| anyhow::anyhow!("no matches for kind {kind:?} in version {api_version:?}"))
}

async fn discover(session: &Session) -> Result<Vec<Kind>, Error> {
    let mut kinds = discover_version(session, "", "v1").await?;
    let groups = session.get("/apis".to_owned()).await?;
    for group in groups["groups"].as_array().into_iter().flatten() {
        let name = group["name"].as_str().unwrap_or_default();
        let version = group["preferredVersion"]["version"].as_str().unwrap_or_default();
        kinds.extend(discover_version(session, name, version).await?);
    }
    Ok(kinds)
}

async fn discover_version(session: &Session, group: &str, version: &str) -> Result<Vec<Kind>, Error> {
    let uri = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    let list = match session.get(uri).await {
        Ok(list) => list,
        Err(error) if naru_client::is_not_found(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let texts = |value: &Value| value.as_array().into_iter().flatten().map(text).collect();
    let resources = list["resources"].as_array().cloned().unwrap_or_default();
    let main = resources.iter().filter(|resource| !text(&resource["name"]).contains('/'));
    Ok(main
        .map(|resource| Kind {
            group: group.to_owned(),
            version: version.to_owned(),
            plural: text(&resource["name"]),
            singular: Some(text(&resource["singularName"]))
                .filter(|name| !name.is_empty())
                .unwrap_or(text(&resource["kind"]).to_lowercase()),
            kind: text(&resource["kind"]),
            namespaced: resource["namespaced"] == true,
            short_names: texts(&resource["shortNames"]),
        })
        .collect())
}

/// Types and names as they are given on the command line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) word: String,
    pub(crate) name: Option<String>,
}

/// `pods a b`, `pods,services`, `pod/a service/b`.
pub(crate) fn parse_targets(args: &[String]) -> anyhow::Result<Vec<Target>> {
    if args.iter().any(|arg| arg.contains('/')) {
        let pair = |arg: &String| match arg.split_once('/') {
            Some((word, name)) if !word.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Target { word: word.to_owned(), name: Some(name.to_owned()) })
            }
            _ => Err(anyhow::anyhow!(
                "there is no need to specify a resource type as a separate argument when passing arguments in resource/name form (e.g. 'kubectl get resource/<resource_name>' instead of 'kubectl get resource resource/<resource_name>'"
            )),
        };
        return args.iter().map(pair).collect();
    }
    let Some((words, names)) = args.split_first() else { return Ok(Vec::new()) };
    let mut targets = Vec::new();
    for word in words.split(',').filter(|word| !word.is_empty()) {
        let target = |name| Target { word: word.to_owned(), name };
        if names.is_empty() {
            targets.push(target(None));
        }
        targets.extend(names.iter().map(|name| target(Some(name.clone()))));
    }
    Ok(targets)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn check(args: &[&str], expect: &[(&str, Option<&str>)]) {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let found = parse_targets(&args).unwrap();
        let found: Vec<_> = found.iter().map(|target| (target.word.as_str(), target.name.as_deref())).collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn targets_are_read_as_upstream_reads_them() {
        check(&["pods"], &[("pods", None)]);
        check(&["nodes,pods,svc"], &[("nodes", None), ("pods", None), ("svc", None)]);
        check(&["pod", "a", "b"], &[("pod", Some("a")), ("pod", Some("b"))]);
        check(&["pod/a", "svc/b"], &[("pod", Some("a")), ("svc", Some("b"))]);
        assert!(parse_targets(&["pod".to_owned(), "pod/a".to_owned()]).is_err());
    }

    #[test]
    fn types_answer_to_all_their_names() {
        let find = |word: &str| built_in().find(|kind| kind.answers_to(word)).map(|kind| kind.label());
        for word in ["deploy", "deployment", "Deployments", "deployments.apps", "deployments.v1.apps"] {
            assert_eq!(find(word).as_deref(), Some("deployment.apps"), "{word}");
        }
        assert_eq!(find("po").as_deref(), Some("pod"));
        assert_eq!(find("pods.apps"), None);
    }

    #[test]
    fn paths_are_escaped() {
        let pods = built_in().find(|kind| kind.plural == "pods").unwrap();
        assert_eq!(pods.path(Some("a"), Some("x/../y")), "/api/v1/namespaces/a/pods/x%2F..%2Fy");
        let nodes = built_in().find(|kind| kind.plural == "nodes").unwrap();
        assert_eq!(nodes.path(Some("a"), None), "/api/v1/nodes");
    }
}
