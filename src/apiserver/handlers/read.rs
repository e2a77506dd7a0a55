//! Reads objects and lists.

use super::{Call, render};
use crate::cache::{CacheError, Continue, ListAt, Selection};
use crate::response::{Failure, Outcome};
use naru_api::registry::Resource;
use naru_api::selector::{FieldSelector, LabelSelector};
use naru_api::status::{FieldErrors, Status, StatusCause, StatusDetails};

/// GET of one object.
pub(super) fn get(call: &Call, resource: &'static Resource) -> Outcome {
    let name = call.info.name.as_str();
    let object = call
        .state
        .cache
        .get(resource, call.namespace(resource), name)
        .ok_or_else(|| Box::new(Status::not_found(resource.group, resource.plural, name)))?;
    render::object(call, resource, 200, object.json().clone())
}

/// GET of a collection.
pub(super) async fn list(call: &Call, resource: &'static Resource) -> Outcome {
    let selection = selection(call, resource)?;
    let limit = number(call, "limit")?.unwrap_or(0);
    let limit = usize::try_from(limit).unwrap_or(0);
    let listing = call
        .state
        .cache
        .list(resource, &selection, limit, list_at(call)?)
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

/// The `resourceVersion` parameter; `None` when it is not given.
pub(super) fn resource_version(call: &Call) -> Result<Option<i64>, Failure> {
    match call.query.get("resourceVersion") {
        None | Some("") => Ok(None),
        Some(text) => text.parse::<i64>().ok().filter(|revision| *revision >= 0).map(Some).ok_or_else(|| {
            let mut errors = FieldErrors::default();
            errors.invalid("resourceVersion", text, "strconv.ParseUint: invalid syntax");
            Box::new(Status::invalid("meta.k8s.io", "ListOptions", "", errors))
        }),
    }
}

/// Which state a list wants, by `resourceVersion`, `resourceVersionMatch` and `continue`.
fn list_at(call: &Call) -> Result<ListAt, Failure> {
    let wanted = resource_version(call)?;
    let matching = call.query.get("resourceVersionMatch").unwrap_or_default();
    let token = call.query.get("continue").unwrap_or_default();
    let mut errors = FieldErrors::default();
    if call.query.get("sendInitialEvents").is_some() {
        errors.forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list");
    }
    if !matching.is_empty() {
        if !matches!(matching, "Exact" | "NotOlderThan") {
            errors.not_supported("resourceVersionMatch", matching, &["Exact", "NotOlderThan", ""]);
        } else if wanted.is_none() {
            errors.forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            );
        } else if !token.is_empty() {
            errors.forbidden("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided");
        } else if matching == "Exact" && wanted == Some(0) {
            errors.forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"",
            );
        }
    }
    if !errors.is_empty() {
        return Err(Box::new(Status::invalid("meta.k8s.io", "ListOptions", "", errors)));
    }
    if !token.is_empty() {
        if wanted.is_some_and(|revision| revision != 0) {
            return Err(Box::new(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            )));
        }
        let token = Continue::decode(token).map_err(|error| Box::new(Status::bad_request(error.to_string())))?;
        return Ok(ListAt::Continue(token));
    }
    Ok(match wanted {
        None | Some(0) => ListAt::Newest,
        Some(revision) if matching == "Exact" => ListAt::Exact(revision),
        // With a limit and no match, the version is exact, as it was before the parameter existed.
        Some(revision) if matching.is_empty() && number(call, "limit")?.unwrap_or(0) > 0 => ListAt::Exact(revision),
        Some(revision) => ListAt::NotOlderThan(revision),
    })
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
        let unknown = || Box::new(Status::bad_request(format!("field label not supported: {field}")));
        stored.map(str::to_owned).ok_or_else(unknown)
    })
}

/// A cache's refusal as a Status.
pub(super) fn cache_failure(error: &CacheError) -> Failure {
    let text = error.to_string();
    Box::new(match error {
        CacheError::Expired { .. } => Status::expired(text),
        CacheError::ContinueExpired { inconsistent } => {
            let mut status = Status::expired(text);
            status.metadata.insert("continue".to_owned(), inconsistent.as_str().into());
            status
        }
        CacheError::TooLarge { .. } => {
            let mut status = Status::timeout(&text, 1);
            let details = status.details.get_or_insert_with(StatusDetails::default);
            details.causes.push(StatusCause {
                reason: "ResourceVersionTooLarge".to_owned(),
                message: "Too large resource version".to_owned(),
                field: String::new(),
            });
            status
        }
        CacheError::Closed => Status::service_unavailable(text),
        CacheError::Store(_) => Status::internal(text),
    })
}
