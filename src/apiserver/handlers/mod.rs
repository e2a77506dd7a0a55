//! From a parsed request to the handler that answers it.

mod apply;
mod binding;
mod body;
mod component_status;
mod create;
mod delete;
mod delete_options;
mod eviction;
mod list_options;
mod managed;
pub(crate) mod metrics_api;
mod node_proxy;
mod patch;
mod plain;
mod proxy;
mod read;
mod render;
mod review;
mod scale;
mod token;
mod update;
mod watch;

use crate::admission::Notes;
use crate::authn::User;
use crate::pipeline::State;
use crate::request_info::{Query, RequestInfo};
use crate::response::{Failure, Outcome, Reply};
use bytes::Bytes;
use http::{HeaderMap, Method};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use naru_api::facts::{self, Type};
use naru_api::meta::Verb;
use naru_api::registry::{self, Action, Resource};
use naru_api::status::Status;
use serde_json::json;
use std::net::IpAddr;
use std::sync::Arc;

/// One authorized request with its body.
pub(crate) struct Call {
    pub(crate) state: Arc<State>,
    pub(crate) user: Arc<User>,
    pub(crate) method: Method,
    pub(crate) info: RequestInfo,
    pub(crate) query: Query,
    pub(crate) raw_query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// The body of a request that is passed on: it is not read here.
    pub(crate) incoming: Option<Incoming>,
    pub(crate) upgrade: Option<OnUpgrade>,
    /// Whose connection it came by; `None` inside the process.
    pub(crate) client: Option<IpAddr>,
    /// What admission has to say beside its answer.
    pub(crate) notes: Arc<Notes>,
}

impl Call {
    /// The namespace of a namespaced resource's request, `None` for cluster scope and all namespaces.
    pub(crate) fn namespace(&self, resource: &Resource) -> Option<&str> {
        (resource.is_namespaced() && !self.info.namespace.is_empty()).then_some(self.info.namespace.as_str())
    }

    /// Whether nothing may be written; 400 for unknown values.
    pub(crate) fn dry_run(&self) -> Result<bool, Failure> {
        dry_run(self.query.all("dryRun"))
    }
}

/// Reads `dryRun` values.
pub(crate) fn dry_run<'a>(values: impl Iterator<Item = &'a str>) -> Result<bool, Failure> {
    let mut dry = false;
    for value in values {
        match value {
            "" => {}
            "All" => dry = true,
            other => {
                return Err(Box::new(Status::bad_request(format!(
                    "invalid dryRun value: Unsupported value: {other:?}: supported values: \"All\""
                ))));
            }
        }
    }
    Ok(dry)
}

/// The facts of a resource's objects.
pub(crate) fn type_of(resource: &Resource) -> Result<&'static Type, Failure> {
    facts::type_by_name(resource.type_name)
        .ok_or_else(|| Box::new(Status::internal(format!("no type {}", resource.type_name))))
}

/// Whether a patch is a server-side apply.
pub(crate) fn is_apply(headers: &HeaderMap) -> bool {
    let content_type = headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    content_type.is_some_and(|value| value.starts_with("application/apply-patch"))
}

/// Finds the handler and runs it. The futures are boxed: some are large, and streams are deep.
pub(crate) async fn dispatch(call: Call) -> Outcome {
    if !call.info.is_resource {
        return plain::handle(&call).await;
    }
    if metrics_api::is_meant(&call) {
        return Box::pin(metrics_api::handle(&call)).await;
    }
    let info = &call.info;
    let Some(resource) = registry::find(&info.group, &info.version, &info.resource) else {
        return if is_list_of_definitions(info) { Ok(no_definitions(&call)) } else { plain::not_found(&call) };
    };
    if !resource.is_namespaced() && !info.namespace.is_empty() && resource.plural != "namespaces" {
        return Err(Box::new(Status::no_such_resource()));
    }
    if resource.is_namespaced() && info.namespace.is_empty() {
        let whole = matches!(info.verb, "list" | "watch") && info.subresource.is_empty();
        // An object of a namespaced resource has no path without its namespace.
        if !whole {
            let exists = call.method == Method::POST || info.verb == "deletecollection";
            let status = if exists { Status::method_not_allowed() } else { Status::no_such_resource() };
            // Reviews name their namespace in the body or not at all.
            if resource.is_stored() || !exists {
                return Err(Box::new(status));
            }
        }
    }
    if info.subresource.is_empty() {
        // What is only created, and not kept, has no columns either.
        render::check_accept(&call, !resource.columns.is_empty())?;
        body::check_write_options(&call)?;
        return whole(call, resource).await;
    }
    let subresource = resource.subresource(&info.subresource).ok_or_else(|| Box::new(Status::no_such_resource()))?;
    if subresource.action == Action::Proxy {
        return Box::pin(proxy::proxy(call, resource, subresource.gvk.2)).await;
    }
    if !matches!(subresource.action, Action::Log | Action::Exec | Action::Attach | Action::PortForward) {
        let has_table = !matches!(subresource.action, Action::Binding | Action::Token | Action::Eviction);
        render::check_accept(&call, has_table)?;
        body::check_write_options(&call)?;
    }
    sub(call, resource, subresource.action, subresource.verbs).await
}

/// kubectl asks whether a kind that cannot be patched (a review, a binding) is a custom one before it sends one.
fn is_list_of_definitions(info: &RequestInfo) -> bool {
    let meant = ("apiextensions.k8s.io", "v1", "customresourcedefinitions", "list");
    (info.group.as_str(), info.version.as_str(), info.resource.as_str(), info.verb) == meant
}

/// There are none.
fn no_definitions(call: &Call) -> Reply {
    let revision = call.state.store.revision().to_string();
    let list = json!({ "kind": "CustomResourceDefinitionList", "apiVersion": "apiextensions.k8s.io/v1",
        "metadata": { "resourceVersion": revision }, "items": [] });
    Reply::json(200, list.to_string().into_bytes())
}

async fn whole(call: Call, resource: &'static Resource) -> Outcome {
    let has = |verb: Verb| resource.verbs.contains(&verb);
    if std::ptr::eq(resource, &registry::COMPONENT_STATUSES) && matches!(call.info.verb, "get" | "list") {
        return component_status::get(&call);
    }
    match call.info.verb {
        "create" if std::ptr::eq(resource, &registry::BINDINGS) => Box::pin(binding::bind(&call)).await,
        "create" if !resource.is_stored() && call.info.name.is_empty() => review::create(&call, resource).await,
        "create" if has(Verb::Create) && call.info.name.is_empty() => Box::pin(create::create(&call, resource)).await,
        // `watch` on one name is a watch of the collection, selected by name.
        "watch" if has(Verb::Watch) => watch::watch(&call, resource).await,
        "list" if has(Verb::List) => read::list(&call, resource).await,
        "get" if has(Verb::Get) => read::get(&call, resource).await,
        "update" if has(Verb::Update) && !call.info.name.is_empty() => Box::pin(update::update(&call, resource)).await,
        "patch" if has(Verb::Patch) && !call.info.name.is_empty() => Box::pin(patch::patch(&call, resource)).await,
        "delete" if has(Verb::Delete) => Box::pin(delete::delete(&call, resource)).await,
        "deletecollection" if has(Verb::DeleteCollection) => Box::pin(delete::delete_collection(&call, resource)).await,
        _ => Err(Box::new(Status::method_not_allowed())),
    }
}

async fn sub(call: Call, resource: &'static Resource, action: Action, verbs: &[Verb]) -> Outcome {
    let allowed = match call.info.verb {
        "get" => verbs.contains(&Verb::Get),
        "create" => verbs.contains(&Verb::Create),
        "update" => verbs.contains(&Verb::Update),
        "patch" => verbs.contains(&Verb::Patch),
        "delete" => verbs.contains(&Verb::Delete),
        _ => false,
    };
    if !allowed {
        return Err(Box::new(Status::method_not_allowed()));
    }
    match action {
        Action::Status => match call.info.verb {
            "get" => read::get(&call, resource).await,
            "update" => Box::pin(update::update_status(&call, resource)).await,
            _ => Box::pin(patch::patch_status(&call, resource)).await,
        },
        Action::Approval => match call.info.verb {
            "get" => read::get(&call, resource).await,
            "update" => Box::pin(update::update_approval(&call, resource)).await,
            _ => Box::pin(patch::patch_approval(&call, resource)).await,
        },
        Action::Scale => Box::pin(scale::handle(&call, resource)).await,
        Action::Piece(piece) => match call.info.verb {
            "get" => read::get(&call, resource).await,
            "update" => Box::pin(update::update_piece(&call, resource, piece)).await,
            _ => Box::pin(patch::patch_piece(&call, resource, piece)).await,
        },
        Action::Finalize => Box::pin(update::finalize(&call, resource)).await,
        Action::Binding => Box::pin(binding::bind(&call)).await,
        Action::Token => Box::pin(token::create(&call)).await,
        Action::Log | Action::Exec | Action::Attach | Action::PortForward => {
            Box::pin(node_proxy::proxy(call, resource, action)).await
        }
        Action::Eviction => Box::pin(eviction::evict(&call)).await,
        Action::Proxy => Err(Box::new(Status::method_not_allowed())),
    }
}
