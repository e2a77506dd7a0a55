//! `apply` and `create`.

use crate::cli::{ApplyArgs, CreateArgs};
use crate::manifests;
use crate::resources::{Kind, of_object};
use crate::session::{Session, http_method};
use crate::three_way::{Merge, patch};
use anyhow::{Context, bail};
use bytes::Bytes;
use naru_api::facts::type_by_gvk;
use naru_client::{Error, is_already_exists, is_conflict, is_not_found};
use serde_json::{Value, json};
use std::io::Write;

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const MANAGER: &str = "fieldManager=kubectl-client-side-apply&fieldValidation=Strict";
const CREATE_MANAGER: &str = "fieldManager=kubectl-create&fieldValidation=Strict";
/// Against a name that is created and deleted while it is being applied.
const ATTEMPTS: usize = 5;

pub(crate) async fn apply(session: &Session, args: &ApplyArgs) -> anyhow::Result<()> {
    let objects = manifests::read(&args.files)?;
    each(session, objects, async |kind, object| apply_one(session, &kind, object).await).await
}

/// Runs an action on each object; failures do not stop the others.
async fn each(
    session: &Session,
    objects: Vec<Value>,
    action: impl AsyncFn(Kind, Value) -> anyhow::Result<&'static str>,
) -> anyhow::Result<()> {
    let mut failures: Vec<anyhow::Error> = Vec::new();
    for mut object in objects {
        let result = async {
            let kind = of_object(session, &object).await?;
            place(&kind, &mut object, &session.namespace)?;
            let shown = format!("{}/{}", kind.label(), object["metadata"]["name"].as_str().unwrap_or_default());
            let done = action(kind, object).await?;
            writeln!(std::io::stdout(), "{shown} {done}").context("write the output")
        };
        failures.extend(result.await.err());
    }
    let last = failures.pop();
    for failure in failures {
        writeln!(std::io::stderr(), "{}", crate::session::explain(&failure))?;
    }
    last.map_or(Ok(()), Err)
}

/// Fills in the namespace, which must not contradict the one asked for.
fn place(kind: &Kind, object: &mut Value, namespace: &str) -> anyhow::Result<()> {
    let meta = &mut object["metadata"];
    let named = meta["name"].as_str().is_some_and(|name| !name.is_empty());
    if !named && meta["generateName"].as_str().is_none_or(str::is_empty) {
        bail!("resource name may not be empty");
    }
    if kind.namespaced && meta["namespace"].as_str().is_none_or(str::is_empty) {
        meta["namespace"] = namespace.into();
    }
    Ok(())
}

async fn apply_one(session: &Session, kind: &Kind, mut object: Value) -> anyhow::Result<&'static str> {
    if let Some(annotations) = object["metadata"]["annotations"].as_object_mut() {
        annotations.remove(LAST_APPLIED);
    } else if object["metadata"].get("annotations").is_some() {
        object["metadata"]["annotations"] = json!({});
    }
    let applied = format!("{}\n", with_annotations(object.clone()));
    object["metadata"]["annotations"][LAST_APPLIED] = applied.into();
    let namespace = object["metadata"]["namespace"].as_str().map(str::to_owned);
    let name = object["metadata"]["name"].as_str().context("apply needs a name")?.to_owned();
    let path = kind.path(namespace.as_deref(), Some(&name));
    for _ in 0..ATTEMPTS {
        let current = match session.get(path.clone()).await {
            Ok(current) => current,
            Err(error) if is_not_found(&error) => {
                match post(session, kind, namespace.as_deref(), &object, MANAGER).await {
                    Ok(_) => return Ok("created"),
                    Err(error) if is_already_exists(&error) => continue,
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error.into()),
        };
        let original = current["metadata"]["annotations"][LAST_APPLIED].as_str();
        let original: Value = original.and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null);
        let known = type_by_gvk(&kind.group, &kind.version, &kind.kind);
        let changes = patch(&original, &object, &current, known.map_or(Merge::Plain, Merge::Fields));
        if changes.is_empty() {
            return Ok("unchanged");
        }
        let content_type =
            if known.is_some() { "application/strategic-merge-patch+json" } else { "application/merge-patch+json" };
        let body = Bytes::from(serde_json::to_vec(&Value::Object(changes))?);
        match session.send(http_method("PATCH"), format!("{path}?{MANAGER}"), content_type, body).await {
            Ok(_) => return Ok("configured"),
            Err(error) if is_conflict(&error) || is_not_found(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bail!("{} {name:?} keeps changing; try again", kind.label())
}

/// Upstream records an empty map of annotations where there are none.
fn with_annotations(mut object: Value) -> Value {
    if object["metadata"]["annotations"].is_null() {
        object["metadata"]["annotations"] = json!({});
    }
    object
}

async fn post(
    session: &Session,
    kind: &Kind,
    namespace: Option<&str>,
    object: &Value,
    query: &str,
) -> Result<Value, Error> {
    let uri = format!("{}?{query}", kind.path(namespace, None));
    session.send(http_method("POST"), uri, "application/json", Bytes::from(object.to_string())).await
}

pub(crate) async fn create(session: &Session, args: &CreateArgs) -> anyhow::Result<()> {
    let words: Vec<&str> = args.what.iter().map(String::as_str).collect();
    let objects = match words.as_slice() {
        [] => manifests::read(&args.files)?,
        ["namespace" | "ns", name] => {
            vec![json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})]
        }
        ["namespace" | "ns", ..] => bail!("exactly one NAME is required, got {}", words.len() - 1),
        [other, ..] => bail!("cannot create {other:?} by name; use -f FILE"),
    };
    each(session, objects, async |kind, object| {
        let namespace = object["metadata"]["namespace"].as_str().map(str::to_owned);
        post(session, &kind, namespace.as_deref(), &object, CREATE_MANAGER).await?;
        Ok("created")
    })
    .await
}
