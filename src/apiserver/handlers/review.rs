//! Reviews: questions that are answered and forgotten.

use super::Call;
use super::body::{self, Expected};
use crate::authn::User;
use crate::authz::{Attributes, Verdict, aggregate};
use crate::response::{Failure, Outcome, Reply};
use naru_api::codec;
use naru_api::registry::Resource;
use naru_api::selector::{FieldRequirement, FieldSelector, LabelSelector};
use naru_api::status::{FieldErrors, Status};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// POST of a review.
pub(super) async fn create(call: &Call, resource: &'static Resource) -> Outcome {
    let body::Object { mut value, warnings } = body::decode(call, Expected::object(resource)?)?;
    if let Some(namespace) = call.namespace(resource) {
        naru_api::meta::set(&mut value, "namespace", namespace);
    }
    let mut errors = FieldErrors::default();
    (resource.rules.validate)(&value, &mut errors);
    if !errors.is_empty() {
        return Err(Box::new(Status::invalid(resource.group, resource.kind, "", errors)));
    }
    let user = call.user.clone();
    match resource.kind {
        "SelfSubjectAccessReview" => value["status"] = access(call, &value["spec"], &user).await,
        "SubjectAccessReview" | "LocalSubjectAccessReview" => {
            let subject = subject(&value["spec"]);
            value["status"] = access(call, &value["spec"], &subject).await;
        }
        "SelfSubjectRulesReview" => value["status"] = rules(call, &value["spec"], &user)?,
        "SelfSubjectReview" => {
            value["metadata"] = json!({ "creationTimestamp": crate::clock::now_rfc3339() });
            value["status"] = json!({ "userInfo": user_info(&user) });
        }
        "TokenReview" => value["status"] = token(call, &value["spec"]).await?,
        _ => return Err(Box::new(Status::method_not_allowed())),
    }
    if !value["metadata"].is_object() {
        value["metadata"] = json!({});
    }
    Ok(Reply::json(201, codec::canonical(&value)).with_warnings(warnings))
}

fn subject(spec: &Value) -> User {
    let strings = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let name = spec["user"].as_str().unwrap_or_default();
    let groups = strings(&spec["groups"]);
    let extra: BTreeMap<String, Vec<String>> = spec["extra"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, values)| (key.to_ascii_lowercase(), strings(values)))
        .collect();
    let uid = spec["uid"].as_str().unwrap_or_default().to_owned();
    User { name: name.to_owned(), uid, groups, extra }
}

async fn access(call: &Call, spec: &Value, user: &User) -> Value {
    let about_resource = spec["resourceAttributes"].is_object();
    let about = &spec[if about_resource { "resourceAttributes" } else { "nonResourceAttributes" }];
    let text = |field: &str| about[field].as_str().unwrap_or_default();
    let (fields, labels) = (field_selector(&about["fieldSelector"]), label_selector(&about["labelSelector"]));
    let attributes = Attributes {
        verb: text("verb"),
        is_resource: about_resource,
        group: text("group"),
        version: text("version"),
        resource: text("resource"),
        subresource: text("subresource"),
        namespace: text("namespace"),
        name: text("name"),
        path: text("path"),
        fields: fields.as_ref(),
        labels: labels.as_ref(),
    };
    let decision = call.state.authz.authorize(&call.state.cache, user, &attributes).await;
    let mut status = json!({ "allowed": decision.is_allowed() });
    if decision.verdict == Verdict::Deny {
        status["denied"] = true.into();
    }
    if !decision.reason.is_empty() {
        status["reason"] = decision.reason.clone().into();
    }
    if let Some(error) = decision.error() {
        status["evaluationError"] = error.into();
    }
    status
}

/// What a review's field selector limits. Requirements that no field selector can state are left out: they only
/// narrow, so that the answer is about more, never about less.
fn field_selector(selector: &Value) -> Option<FieldSelector> {
    if let Some(raw) = selector["rawSelector"].as_str().filter(|raw| !raw.is_empty()) {
        return FieldSelector::parse(raw).ok();
    }
    let requirement = |one: &Value| {
        let equal = match one["operator"].as_str()? {
            "In" => true,
            "NotIn" => false,
            _ => return None,
        };
        let [value] = one["values"].as_array()?.as_slice() else { return None };
        Some(FieldRequirement { field: one["key"].as_str()?.to_owned(), equal, value: value.as_str()?.to_owned() })
    };
    let requirements: Vec<_> = selector["requirements"].as_array()?.iter().filter_map(requirement).collect();
    Some(FieldSelector::of(requirements))
}

/// The same by labels.
fn label_selector(selector: &Value) -> Option<LabelSelector> {
    if let Some(raw) = selector["rawSelector"].as_str().filter(|raw| !raw.is_empty()) {
        return LabelSelector::parse(raw).ok();
    }
    selector["requirements"].as_array()?;
    LabelSelector::from_object(&json!({ "matchExpressions": selector["requirements"] })).ok()
}

fn rules(call: &Call, spec: &Value, user: &User) -> Result<Value, Failure> {
    let namespace = spec["namespace"].as_str().unwrap_or_default();
    if namespace.is_empty() {
        return Err(Box::new(Status::bad_request("no namespace on request")));
    }
    let listed = call.state.authz.rules_for(&call.state.cache, user, namespace);
    let (mut plain, mut about_resources) = (Vec::new(), Vec::new());
    for rule in &listed.rules {
        let value = rule.to_value();
        if rule.non_resource_urls.is_empty() { about_resources.push(value) } else { plain.push(value) }
    }
    let mut status =
        json!({ "resourceRules": about_resources, "nonResourceRules": plain, "incomplete": listed.incomplete });
    if let Some(error) = aggregate(&listed.errors) {
        status["evaluationError"] = error.into();
    }
    Ok(status)
}

fn user_info(user: &User) -> Value {
    let mut info = json!({ "username": user.name, "groups": user.groups });
    if !user.uid.is_empty() {
        info["uid"] = user.uid.clone().into();
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

async fn token(call: &Call, spec: &Value) -> Result<Value, Failure> {
    let token = spec["token"].as_str().unwrap_or_default();
    if token.is_empty() {
        return Err(Box::new(Status::bad_request("token is required for TokenReview in authentication")));
    }
    let wanted: Vec<String> =
        spec["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    let authn = &call.state.authn;
    let audiences = if wanted.is_empty() { authn.issuer.api_audiences() } else { &wanted };
    Ok(match authn.token(&call.state.cache, token, audiences).await {
        Ok(Some(answer)) => {
            json!({ "authenticated": true, "user": user_info(&answer.user), "audiences": answer.audiences })
        }
        Ok(None) => json!({ "user": {}, "error": "invalid bearer token" }),
        Err(error) => json!({ "user": {}, "error": error }),
    })
}
