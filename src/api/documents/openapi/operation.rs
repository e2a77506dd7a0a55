//! One operation: its parameters, body and answers.

use super::parameters;
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
    /// `list`, `create`, `deletecollection`, `read`, `replace`, `patch`, `delete`, `connect`, `watch`, `watchlist`.
    pub(super) verb: &'static str,
    /// The last part of the operation id.
    pub(super) name: &'a str,
    /// What it acts on.
    pub(super) gvk: (&'a str, &'a str, &'a str),
    /// What it does.
    pub(super) description: String,
    /// Bodies.
    pub(super) body: Body,
    /// The path's own parameters: `name`, `namespace`.
    pub(super) path: &'a [Value],
}

impl Operation<'_> {
    pub(super) fn build(&self, naming: &Naming) -> Value {
        let (group, version, kind) = self.gvk;
        let mut out = Map::new();
        let id_verb = match self.verb {
            "deletecollection" => "delete",
            "watchlist" => "watch",
            "log" => "read",
            other => other,
        };
        out.insert("operationId".into(), Value::from(format!("{id_verb}{}{}", naming.id, self.name)));
        out.insert("tags".into(), json!([naming.tag]));
        out.insert("description".into(), Value::from(self.description.as_str()));
        out.insert("x-kubernetes-action".into(), Value::from(self.action()));
        out.insert("x-kubernetes-group-version-kind".into(), json!({"group": group, "version": version, "kind": kind}));
        let mut list = parameters::of(self.verb, kind);
        list.extend_from_slice(self.path);
        list.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
        out.insert("parameters".into(), Value::from(list));
        if let Some(body) = self.request_body() {
            out.insert("requestBody".into(), body);
        }
        out.insert("responses".into(), self.responses());
        Value::Object(out)
    }

    /// `x-kubernetes-action`, which clients match on.
    fn action(&self) -> &'static str {
        match self.verb {
            "create" => "post",
            "read" | "log" => "get",
            "replace" => "put",
            other => other,
        }
    }

    fn request_body(&self) -> Option<Value> {
        let any = |name: &str| json!({"*/*": {"schema": reference(name)}});
        match self.verb {
            "create" | "replace" => self.body.input.map(|name| json!({"content": any(name), "required": true})),
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

    fn responses(&self) -> Value {
        let answer = |description: &str| match self.body.output {
            None if self.verb == "connect" => {
                json!({"description": description, "content": {"*/*": {"schema": {"type": "string"}}}})
            }
            // A log is text; upstream's document offers it as it offers objects, and clients are generated from that.
            None => {
                let schema = json!({"type": "string"});
                let mut content = contents(&schema);
                content["text/plain"] = json!({"schema": schema});
                json!({"description": description, "content": content})
            }
            Some(name) => {
                let schema = reference(name);
                let mut content = contents(&schema);
                if matches!(self.verb, "list" | "watch" | "watchlist") {
                    for media in ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"] {
                        content[media] = json!({"schema": schema});
                    }
                }
                json!({"description": description, "content": content})
            }
        };
        let mut out = json!({"200": answer("OK"), "401": {"description": "Unauthorized"}});
        match self.verb {
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
}

/// A schema in every encoding of objects.
fn contents(schema: &Value) -> Value {
    let schema = json!({"schema": schema});
    json!({"application/json": schema, "application/yaml": schema, "application/vnd.kubernetes.protobuf": schema})
}

/// An operation that asks for one document about the API, of a type in the facts.
pub(super) fn document(id: &str, tag: &str, description: &str, ty: &str) -> Value {
    json!({
        "operationId": id,
        "tags": [tag],
        "description": description,
        "responses": {
            "200": {"description": "OK", "content": contents(&reference(ty))},
            "401": {"description": "Unauthorized"},
        },
    })
}

/// An operation that asks for some text.
pub(super) fn text(id: &str, tag: &str, description: &str, media: &str, schema: &Value) -> Value {
    json!({
        "operationId": id,
        "tags": [tag],
        "description": description,
        "responses": {
            "200": {"description": "OK", "content": {media: {"schema": schema}}},
            "401": {"description": "Unauthorized"},
        },
    })
}
