//! Reads objects and lists.

use super::list_options::{self, ListOptions};
use super::{Call, render};
use crate::cache::{CacheError, Selection};
use crate::objects;
use crate::response::{Failure, Outcome};
use naru_api::registry::Resource;
use naru_api::selector::{FieldSelector, LabelSelector};
use naru_api::status::{Status, StatusCause, StatusDetails};

/// GET of one object.
pub(super) async fn get(call: &Call, resource: &'static Resource) -> Outcome {
    let version = list_options::get_version(call)?;
    call.state.cache.wait_until_fresh(version).await.map_err(|error| cache_failure(&error))?;
    let name = call.info.name.as_str();
    let object = call
        .state
        .cache
        .get(resource, call.namespace(resource), name)
        .ok_or_else(|| objects::absent(&call.state, resource, call.namespace(resource), name))?;
    render::object(call, resource, 200, object.json())
}

/// GET of a collection.
pub(super) async fn list(call: &Call, resource: &'static Resource) -> Outcome {
    let selection = selection(call, resource)?;
    let options = ListOptions::of(call)?;
    let listing = call
        .state
        .cache
        .list(resource, &selection, options.limit(), options.list_at()?)
        .await
        .map_err(|error| cache_failure(&error))?;
    render::list(call, resource, &listing)
}

/// A whole number among the parameters.
pub(super) fn number(call: &Call, parameter: &str) -> Result<Option<i64>, Failure> {
    match call.query.get(parameter) {
        None | Some("") => Ok(None),
        Some(text) => text
            .parse()
            .map(Some)
            .map_err(|_| Box::new(Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")))),
    }
}

/// Namespace, name and selectors of a list or watch.
pub(super) fn selection(call: &Call, resource: &'static Resource) -> Result<Selection, Failure> {
    let labels = call.query.get("labelSelector").unwrap_or_default();
    let fields = call.query.get("fieldSelector").unwrap_or_default();
    let labels = LabelSelector::parse(labels).map_err(|error| Box::new(Status::bad_request(error.to_string())))?;
    // A watch of one name, in the deprecated form, is a selection by name.
    let by_name = match call.info.verb == "watch" && !call.info.name.is_empty() && fields.is_empty() {
        true => format!("metadata.name={}", call.info.name),
        false => fields.to_owned(),
    };
    let fields = FieldSelector::parse(&by_name).map_err(|error| Box::new(Status::bad_request(error.to_string())))?;
    let fields = stored_fields(call, resource, fields)?;
    Ok(Selection::new(call.namespace(resource), labels, fields))
}

/// The selector by the stored version's fields. Only those that the kind indexes can be selected by.
fn stored_fields(call: &Call, resource: &'static Resource, fields: FieldSelector) -> Result<FieldSelector, Failure> {
    fields.renamed(|field| {
        let stored = resource.stored_field(field).filter(|field| call.state.cache.can_select_by(resource, field));
        // Kinds without fields of their own share one text.
        let unknown = || {
            Box::new(Status::bad_request(match call.state.cache.has_own_fields(resource) {
                true => format!("field label not supported: {field}"),
                false => {
                    format!("{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
                }
            }))
        };
        stored.map(str::to_owned).ok_or_else(unknown)
    })
}

/// A cache's refusal as a Status.
pub(super) fn cache_failure(error: &CacheError) -> Failure {
    let text = error.to_string();
    Box::new(match error {
        CacheError::Expired { .. } | CacheError::ListExpired => Status::expired(text),
        CacheError::ContinueExpired { inconsistent } => {
            let mut status = Status::expired(text);
            status.metadata.insert("continue".to_owned(), inconsistent.as_str().into());
            status
        }
        CacheError::TooLarge { retry_seconds, .. } => {
            let mut status = Status::timeout(&text, *retry_seconds);
            let details = status.details.get_or_insert_with(StatusDetails::default);
            details.causes.push(StatusCause {
                reason: "ResourceVersionTooLarge".to_owned(),
                message: "Too large resource version".to_owned(),
                field: String::new(),
            });
            status
        }
        CacheError::Closed => Status::service_unavailable(text),
        CacheError::Unreadable { .. } | CacheError::Store(_) => Status::internal(text),
    })
}
