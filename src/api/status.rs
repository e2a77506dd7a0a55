//! The Status answer (metav1.Status) and the errors of fields, in upstream's wording.

use serde::{Deserialize, Serialize};

mod diff;
mod fields;

pub use diff::unified;
pub use fields::{BadValue, FieldErrors, Path, Shown, quote};

fn is_zero(code: &u16) -> bool {
    *code == 0
}

/// metav1.Status: what the API server answers when a request fails.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Always `Status`.
    pub kind: String,
    /// Always `v1`.
    pub api_version: String,
    /// ListMeta, empty.
    #[serde(default)]
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// `Success` or `Failure`.
    #[serde(default)]
    pub status: String,
    /// For humans.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// For machines: `NotFound`, `Conflict`, ...
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What the failure is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<StatusDetails>,
    /// HTTP status code; absent in a success.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub code: u16,
}

/// metav1.StatusDetails.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusDetails {
    /// Object name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Kind or resource.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Object uid.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Each cause of an invalid object.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<StatusCause>,
    /// Seconds after which to try again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<i32>,
}

/// metav1.StatusCause.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StatusCause {
    /// `FieldValueRequired`, `FieldValueInvalid`, ...
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// For humans.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Path of the field.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// The group and the plural name of a resource, as texts name it: `pods`, `deployments.apps`.
fn qualified(group: &str, plural: &str) -> String {
    if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") }
}

fn details(group: &str, kind: &str, name: &str) -> StatusDetails {
    StatusDetails { name: name.to_owned(), group: group.to_owned(), kind: kind.to_owned(), ..StatusDetails::default() }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

impl Status {
    /// A failure with any code, reason and message.
    pub fn failure(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self {
            kind: "Status".to_owned(),
            api_version: "v1".to_owned(),
            metadata: serde_json::Map::new(),
            status: "Failure".to_owned(),
            message: message.into(),
            reason: reason.to_owned(),
            details: None,
            code,
        }
    }

    /// The answer of a delete: which object went.
    pub fn success(group: &str, plural: &str, name: &str, uid: &str) -> Self {
        let mut status = Self::failure(0, "", "");
        status.status = "Success".to_owned();
        status.details = Some(StatusDetails { uid: uid.to_owned(), ..details(group, plural, name) });
        status
    }

    /// The same status with these details.
    pub fn with_details(mut self, details: StatusDetails) -> Self {
        self.details = Some(details);
        self
    }

    /// The same status, telling the client to wait this long; 0 says nothing.
    pub fn with_retry_after(mut self, seconds: i32) -> Self {
        self.details.get_or_insert_default().retry_after_seconds = (seconds > 0).then_some(seconds);
        self
    }

    /// Whether this is an answer of success.
    pub fn is_success(&self) -> bool {
        self.status == "Success"
    }

    /// 404 for an object.
    pub fn not_found(group: &str, plural: &str, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", qualified(group, plural));
        Self::failure(404, "NotFound", message).with_details(details(group, plural, name))
    }

    /// 404 for a path that names no resource.
    pub fn no_such_resource() -> Self {
        Self::failure(404, "NotFound", "the server could not find the requested resource")
            .with_details(StatusDetails::default())
    }

    /// 409 on create.
    pub fn already_exists(group: &str, plural: &str, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", qualified(group, plural));
        Self::failure(409, "AlreadyExists", message).with_details(details(group, plural, name))
    }

    /// 409 on create when no free name was found for a `generateName`.
    pub fn generate_name_conflict(group: &str, plural: &str, name: &str) -> Self {
        let message = format!(
            "{} \"{name}\" already exists, the server was not able to generate a unique name for the object",
            qualified(group, plural)
        );
        Self::failure(409, "AlreadyExists", message).with_details(details(group, plural, name)).with_retry_after(1)
    }

    /// 409 with the reason after the colon.
    pub fn conflict(group: &str, plural: &str, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", qualified(group, plural));
        Self::failure(409, "Conflict", message).with_details(details(group, plural, name))
    }

    /// 409 for an update of a stale object.
    pub fn modified(group: &str, plural: &str, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(group, plural, name, why)
    }

    /// 422 with a cause for each wrong field. `kind` is the object's kind, not its plural.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: FieldErrors) -> Self {
        let mut message = format!("{} \"{name}\" is invalid", qualified(group, kind));
        if let Some(list) = errors.aggregate() {
            message.push_str(": ");
            message.push_str(&list);
        }
        let mut details = details(group, kind, name);
        details.causes = errors.into_causes();
        Self::failure(422, "Invalid", message).with_details(details)
    }

    /// 403 on a resource. An empty name names the whole resource.
    pub fn forbidden(group: &str, plural: &str, name: &str, why: &str) -> Self {
        let message = match (plural.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {why}"),
            (false, true) => format!("{} is forbidden: {why}", qualified(group, plural)),
            (false, false) => format!("{} \"{name}\" is forbidden: {why}", qualified(group, plural)),
        };
        Self::failure(403, "Forbidden", message).with_details(details(group, plural, name))
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::failure(401, "Unauthorized", "Unauthorized")
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::failure(400, "BadRequest", message)
    }

    /// 405 for a path with a method that it has not.
    pub fn method_not_allowed() -> Self {
        Self::failure(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
            .with_details(StatusDetails::default())
    }

    /// 405 for a verb that the resource does not have.
    pub fn verb_not_supported(group: &str, plural: &str, verb: &str) -> Self {
        let message = format!("{verb} is not supported on resources of kind \"{}\"", qualified(group, plural));
        Self::failure(405, "MethodNotAllowed", message).with_details(details(group, plural, ""))
    }

    /// 406: nothing that the client accepts can be given.
    pub fn not_acceptable(available: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", available.join(", "));
        Self::failure(406, "NotAcceptable", message)
    }

    /// 415 for a body in an unknown format.
    pub fn unsupported_media_type(available: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            available.join(", ")
        );
        Self::failure(415, "UnsupportedMediaType", message)
    }

    /// 413.
    pub fn too_large(limit: usize) -> Self {
        Self::failure(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {limit}"))
    }

    /// 500 with the error's text.
    pub fn internal(error: impl std::fmt::Display) -> Self {
        let text = error.to_string();
        let mut details = StatusDetails::default();
        details.causes.push(StatusCause { message: text.clone(), ..StatusCause::default() });
        Self::failure(500, "InternalError", format!("Internal error occurred: {text}")).with_details(details)
    }

    /// 410 for a revision or a continue token that history no longer holds.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::failure(410, "Expired", message)
    }

    /// 410 for something that will not come back.
    pub fn gone(message: impl Into<String>) -> Self {
        Self::failure(410, "Gone", message)
    }

    /// 500 asking to try again: the operation could not be completed in time.
    pub fn server_timeout(group: &str, plural: &str, operation: &str, retry_after: i32) -> Self {
        let message = format!(
            "The {operation} operation against {} could not be completed at this time, please try again.",
            qualified(group, plural)
        );
        Self::failure(500, "ServerTimeout", message)
            .with_details(details(group, plural, operation))
            .with_retry_after(retry_after)
    }

    /// 504.
    pub fn timeout(message: &str, retry_after: i32) -> Self {
        Self::failure(504, "Timeout", format!("Timeout: {message}")).with_retry_after(retry_after)
    }

    /// 429.
    pub fn too_many_requests(message: impl Into<String>, retry_after: i32) -> Self {
        Self::failure(429, "TooManyRequests", message).with_retry_after(retry_after)
    }

    /// 503.
    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::failure(503, "ServiceUnavailable", message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_name_the_qualified_resource() {
        let cases = [
            (Status::not_found("apps", "deployments", "web"), "deployments.apps \"web\" not found"),
            (Status::already_exists("", "configmaps", "c"), "configmaps \"c\" already exists"),
            (
                Status::modified("", "pods", "p"),
                "Operation cannot be fulfilled on pods \"p\": the object has been modified; please apply your changes to the latest version and try again",
            ),
            (Status::forbidden("", "pods", "", "no"), "pods is forbidden: no"),
            (Status::forbidden("", "", "", "no"), "forbidden: no"),
            (Status::forbidden("apps", "deployments", "web", "no"), "deployments.apps \"web\" is forbidden: no"),
        ];
        for (status, expect) in cases {
            assert_eq!(status.message, expect);
        }
    }

    #[test]
    fn invalid_lists_each_cause_once_in_the_message() {
        let mut errors = FieldErrors::default();
        errors.required("spec.selector", "");
        let one = Status::invalid("apps", "Deployment", "x", errors);
        assert_eq!(one.message, "Deployment.apps \"x\" is invalid: spec.selector: Required value");

        let mut errors = FieldErrors::default();
        errors.required("spec.a", "");
        errors.required("spec.a", "");
        errors.invalid("spec.b", -1, "must be greater than or equal to 0");
        let two = Status::invalid("", "Pod", "x", errors);
        assert_eq!(
            two.message,
            "Pod \"x\" is invalid: [spec.a: Required value, spec.b: Invalid value: -1: must be greater than or equal to 0]"
        );
        let causes = two.details.expect("invalid has details").causes;
        assert_eq!(causes.len(), 3);
        assert_eq!(causes[2].reason, "FieldValueInvalid");
        assert_eq!(causes[2].field, "spec.b");
        assert_eq!(causes[2].message, "Invalid value: -1: must be greater than or equal to 0");
    }

    #[test]
    fn success_has_no_code() {
        let json = serde_json::to_string(&Status::success("", "pods", "p", "u")).expect("plain data");
        assert_eq!(
            json,
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Success","details":{"name":"p","kind":"pods","uid":"u"}}"#
        );
    }
}
