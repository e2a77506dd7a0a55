//! One operation: its parameters, body and answers.

use super::paths::Naming;
use super::schema::{META, reference};
use serde_json::{Map, Value, json};

/// Type names of what goes in and comes out.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Body {
    /// Request body.
    pub(super) input: Option<&'static str>,
    /// Answer.
    pub(super) output: Option<&'static str>,
}

/// An operation to describe.
#[derive(Debug)]
pub(super) struct Operation<'a> {
    /// `list`, `create`, `deletecollection`, `read`, `replace`, `patch`, `delete`, `connect`.
    pub(super) verb: &'static str,
    /// The last part of the operation id.
    pub(super) name: &'a str,
    /// What it acts on.
    pub(super) gvk: (&'a str, &'a str, &'a str),
    /// Bodies.
    pub(super) body: Body,
}

impl Operation<'_> {
    pub(super) fn build(&self, naming: &Naming) -> Value {
        build(naming, self)
    }

    /// `x-kubernetes-action`, which clients match on.
    fn action(&self) -> &'static str {
        match self.verb {
            "create" => "post",
            "read" => "get",
            "replace" => "put",
            other => other,
        }
    }
}

/// A parameter in the path.
pub(super) fn path_parameter(name: &str, description: &str) -> Value {
    json!({"name": name, "in": "path", "required": true, "description": description,
        "schema": {"type": "string", "uniqueItems": true}})
}

/// A parameter in the query.
pub(super) fn query(name: &str, kind: &str) -> Value {
    json!({"name": name, "in": "query", "schema": {"type": kind, "uniqueItems": true}})
}

const LIST: &[(&str, &str)] = &[
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const WRITE: &[(&str, &str)] = &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
const PATCH: &[(&str, &str)] =
    &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string"), ("force", "boolean")];
const DELETE: &[(&str, &str)] = &[
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];
const DELETE_COLLECTION: &[(&str, &str)] = &[
    ("continue", "string"),
    ("dryRun", "string"),
    ("fieldSelector", "string"),
    ("gracePeriodSeconds", "integer"),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
];

fn parameters(verb: &str) -> &'static [(&'static str, &'static str)] {
    match verb {
        "list" => LIST,
        "create" | "replace" => WRITE,
        "patch" => PATCH,
        "delete" => DELETE,
        "deletecollection" => DELETE_COLLECTION,
        _ => &[],
    }
}

/// Describes an operation.
pub(super) fn build(naming: &Naming, operation: &Operation<'_>) -> Value {
    let (group, version, kind) = operation.gvk;
    let mut out = Map::new();
    let id_verb = if operation.verb == "deletecollection" { "delete" } else { operation.verb };
    out.insert("operationId".into(), Value::from(format!("{id_verb}{}{}", naming.id, operation.name)));
    out.insert("tags".into(), json!([naming.tag]));
    out.insert("x-kubernetes-action".into(), Value::from(operation.action()));
    out.insert("x-kubernetes-group-version-kind".into(), json!({"group": group, "version": version, "kind": kind}));
    let list: Vec<Value> = parameters(operation.verb).iter().map(|(name, kind)| query(name, kind)).collect();
    if !list.is_empty() {
        out.insert("parameters".into(), Value::from(list));
    }
    if let Some(body) = request_body(operation) {
        out.insert("requestBody".into(), body);
    }
    out.insert("responses".into(), responses(operation));
    Value::Object(out)
}

fn request_body(operation: &Operation<'_>) -> Option<Value> {
    let any = |name: &str| json!({"*/*": {"schema": reference(name)}});
    match operation.verb {
        "create" | "replace" => operation.body.input.map(|name| json!({"content": any(name), "required": true})),
        "delete" | "deletecollection" => Some(json!({"content": any(&format!("{META}DeleteOptions"))})),
        "patch" => {
            let patch = json!({"schema": reference(&format!("{META}Patch"))});
            let kinds = [
                "application/apply-patch+yaml",
                "application/json-patch+json",
                "application/merge-patch+json",
                "application/strategic-merge-patch+json",
            ];
            let content: Map<String, Value> = kinds.iter().map(|k| ((*k).to_owned(), patch.clone())).collect();
            Some(json!({"content": content, "required": true}))
        }
        _ => None,
    }
}

fn responses(operation: &Operation<'_>) -> Value {
    let status = format!("{META}Status");
    let output = match operation.verb {
        "delete" | "deletecollection" => Some(status.as_str()),
        _ => operation.body.output,
    };
    let answer = |description: &str| match output {
        None => json!({"description": description, "content": {"*/*": {"schema": {"type": "string"}}}}),
        Some(name) => {
            let schema = json!({"schema": reference(name)});
            let mut content = json!({
                "application/json": schema, "application/yaml": schema,
                "application/vnd.kubernetes.protobuf": schema,
            });
            if operation.verb == "list" {
                content["application/json;stream=watch"] = schema;
            }
            json!({"description": description, "content": content})
        }
    };
    let mut out = json!({"200": answer("OK"), "401": {"description": "Unauthorized"}});
    match operation.verb {
        "create" => {
            out["201"] = answer("Created");
            out["202"] = answer("Accepted");
        }
        "replace" | "patch" => out["201"] = answer("Created"),
        "delete" => out["202"] = answer("Accepted"),
        _ => {}
    }
    out
}

/// Lists the resources of a group-version.
pub(super) fn resources(naming: &Naming) -> Value {
    let schema = json!({"schema": reference(&format!("{META}APIResourceList"))});
    let content = json!({"application/json": schema});
    json!({
        "operationId": format!("get{}APIResources", naming.id),
        "tags": [naming.tag],
        "description": "get available resources",
        "responses": {"200": {"description": "OK", "content": content}, "401": {"description": "Unauthorized"}},
    })
}
