//! `/token`: TokenRequest, short-lived tokens of service accounts.

use super::Call;
use super::body::{self, Expected};
use crate::admission::{self, Attributes, Operation};
use crate::authn::{Binding, Life};
use crate::clock;
use crate::objects;
use crate::response::{Failure, Outcome, Reply};
use naru_api::facts;
use naru_api::meta;
use naru_api::registry;
use naru_api::status::{FieldErrors, Status};
use serde_json::{Value, json};

const TYPE: &str = "io.k8s.api.authentication.v1.TokenRequest";
/// The shortest life a token may have.
const SHORTEST: i64 = 600;
/// The longest that may be asked for.
const LONGEST: i64 = 1 << 32;
/// What is issued without a wish.
const USUAL: i64 = 3600;
/// What clients of before tokens expired ask for, through the volume that admission gives every pod. Such a token
/// lives for a year, and is worth a warning after the time asked for.
const WARN_ONLY: i64 = 3607;
const EXTENDED: i64 = 365 * 24 * 3600;

/// POST of `/token`.
pub(super) async fn create(call: &Call) -> Outcome {
    let ty = facts::type_by_name(TYPE).ok_or_else(|| Box::new(Status::internal("no type TokenRequest")))?;
    let expected = Expected { group: "authentication.k8s.io", version: "v1", kind: "TokenRequest", ty };
    let mut request = body::decode(call, expected)?.value;
    let (name, namespace) = (call.info.name.as_str(), call.info.namespace.as_str());
    let account = call
        .state
        .cache
        .get(&registry::SERVICE_ACCOUNTS, Some(namespace), name)
        .ok_or_else(|| Box::new(Status::not_found("", "serviceaccounts", name)))?;
    let issuer = &call.state.authn.issuer;
    same_place(&request, name, namespace)?;
    let uid = meta::uid(&request).to_owned();
    if !uid.is_empty() && uid != account.uid() {
        let why = format!(
            "the UID in the token request ({uid}) does not match the UID of the service account ({})",
            account.uid()
        );
        return Err(Box::new(Status::conflict("authentication.k8s.io", "TokenRequest", name, &why)));
    }
    let mut seconds = request["spec"]["expirationSeconds"].as_i64().unwrap_or(USUAL);
    validate(seconds)?;
    let audiences: Vec<String> = match request["spec"]["audiences"].as_array() {
        Some(list) if !list.is_empty() => list.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => issuer.api_audiences().to_vec(),
    };
    let attributes = Attributes {
        operation: Operation::Create,
        resource: &registry::SERVICE_ACCOUNTS,
        subresource: "token",
        namespace: Some(namespace),
        name,
        user: &call.user,
        old: None,
        dry_run: call.dry_run()?,
        notes: &call.notes,
    };
    admission::admit(&call.state, &attributes, &mut request).await?;
    admission::validate(&call.state, &attributes, &request).await?;
    let binding = binding(call, &request["spec"]["boundObjectRef"])?;
    let now = clock::now_seconds();
    let flags = &call.state.config.flags.service_account;
    let longest = flags.max_token_expiration.and_then(|longest| i64::try_from(longest.as_secs()).ok());
    if let Some(longest) = longest.filter(|longest| seconds > *longest) {
        call.notes.warn(format!("requested expiration of {seconds} seconds shortened to {longest} seconds"));
        seconds = longest;
    }
    let for_server = audiences.iter().all(|audience| issuer.api_audiences().contains(audience));
    let of_pod = binding.as_ref().is_some_and(|binding| binding.kind == "pod");
    let extended = flags.extend_token_expiration.unwrap_or(true) && of_pod && for_server && seconds == WARN_ONLY;
    let life = if extended {
        Life { seconds: EXTENDED, warn_after: Some(seconds) }
    } else {
        Life { seconds, warn_after: None }
    };
    let id = objects::new_uid();
    call.notes.audit("authentication.kubernetes.io/issued-credential-id", format!("JTI={id}"));
    let token = issuer
        .issue(namespace, (name, account.uid()), &audiences, binding.as_ref(), now, life, &id)
        .map_err(|_| Box::new(Status::internal("the token could not be signed")))?;
    meta::set(&mut request, "name", name);
    meta::set(&mut request, "namespace", namespace);
    meta::set(&mut request, "uid", account.uid());
    meta::set(&mut request, "creationTimestamp", &clock::rfc3339(now));
    request["spec"]["audiences"] = audiences.into();
    request["spec"]["expirationSeconds"] = seconds.into();
    request["status"] = json!({ "token": token, "expirationTimestamp": clock::rfc3339(now + seconds) });
    Ok(Reply::json(201, naru_api::codec::canonical(&request)))
}

/// A name and namespace in the body are those of the path.
fn same_place(request: &Value, name: &str, namespace: &str) -> Result<(), Failure> {
    let given = [("name", meta::name(request), name), ("namespace", meta::namespace(request), namespace)];
    for (field, given, here) in given {
        if !given.is_empty() && given != here {
            let mut errors = FieldErrors::default();
            let why = format!("must match the service account {field} if specified");
            errors.invalid(format!("metadata.{field}"), given, &why);
            return Err(Box::new(Status::invalid("authentication.k8s.io", "TokenRequest", name, errors)));
        }
    }
    Ok(())
}

fn validate(seconds: i64) -> Result<(), Failure> {
    let mut errors = FieldErrors::default();
    if seconds < SHORTEST {
        errors.invalid("spec.expirationSeconds", seconds, "may not specify a duration less than 10 minutes");
    } else if seconds > LONGEST {
        errors.invalid("spec.expirationSeconds", seconds, "may not specify a duration larger than 2^32 seconds");
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(Box::new(Status::invalid("authentication.k8s.io", "TokenRequest", "", errors)))
}

/// The object that the token is bound to; it must exist, and a pod must run as the account.
fn binding(call: &Call, reference: &Value) -> Result<Option<Binding>, Failure> {
    if !reference.is_object() {
        return Ok(None);
    }
    let name = reference["name"].as_str().unwrap_or_default();
    let namespace = call.info.namespace.as_str();
    let version = reference["apiVersion"].as_str().unwrap_or_default();
    let wanted_kind = reference["kind"].as_str().unwrap_or_default();
    let (kind, resource, namespace) = match wanted_kind {
        "Pod" if !version.contains('/') => ("pod", &registry::PODS, Some(namespace)),
        "Secret" if !version.contains('/') => ("secret", &registry::SECRETS, Some(namespace)),
        "Node" if !version.contains('/') => ("node", &registry::NODES, None),
        other => {
            let version = if version.contains('/') { version.to_owned() } else { format!("/{version}") };
            let text = format!("cannot bind token to object of type {version}, Kind={other}");
            return Err(Box::new(Status::bad_request(text)));
        }
    };
    let found = call
        .state
        .cache
        .get(resource, namespace, name)
        .ok_or_else(|| Box::new(Status::not_found("", resource.plural, name)))?;
    let wanted = reference["uid"].as_str().unwrap_or_default();
    if !wanted.is_empty() && wanted != found.uid() {
        let why = format!(
            "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Box::new(Status::conflict("", wanted_kind, name, &why)));
    }
    let mut binding = Binding { kind, name: name.to_owned(), uid: found.uid().to_owned(), node: None };
    if kind == "pod" {
        let pod = objects::tree(&found)?;
        let account = pod["spec"]["serviceAccountName"].as_str().unwrap_or_default();
        if account != call.info.name {
            let text = format!(
                "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                call.info.name
            );
            return Err(Box::new(Status::bad_request(text)));
        }
        let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
        if !node.is_empty() {
            // A node that is not there (any more) is named all the same.
            let found = call.state.cache.get(&registry::NODES, None, node);
            binding.node = Some((node.to_owned(), found.map(|node| node.uid().to_owned()).unwrap_or_default()));
        }
    }
    Ok(Some(binding))
}
