//! Approves the requests that nodes make for their own client certificates, where they may.

use super::{condition, is_issued, name, with_condition};
use crate::Context;
use naru_api::certificates::subject::{KUBELET_CLIENT, Subject, check_kubelet_client};
use naru_api::registry;
use naru_client::{Client, Error, Next, is_not_found};
use serde_json::{Map, Value, json};

/// A kind of request: the subresource that the user must be allowed to create, and what is said then.
const KINDS: [(&str, &str); 2] = [
    ("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview."),
    ("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview."),
];

pub(crate) fn start(context: &Context) {
    let client = context.client.clone();
    super::run(context, move |request| {
        let client = client.clone();
        async move { reconcile(&client, &request).await }
    });
}

async fn reconcile(client: &Client, request: &Value) -> Result<Next, Error> {
    let decided = is_issued(request) || condition(request, "Approved").or(condition(request, "Denied")).is_some();
    if decided {
        return Ok(Next::Done);
    }
    for (subresource, message) in kinds(request) {
        if !may(client, request, subresource).await? {
            continue;
        }
        let approved = with_condition(request, "Approved", "AutoApproved", message);
        let (resource, name) = (&registry::CERTIFICATE_SIGNING_REQUESTS, name(request));
        match client.update_sub::<Value>(resource, None, name, Some("approval"), &approved).await {
            Err(error) if !is_not_found(&error) => return Err(error),
            _ => return Ok(Next::Done),
        }
    }
    Ok(Next::Done)
}

/// The kinds that the request is of.
fn kinds(request: &Value) -> &'static [(&'static str, &'static str)] {
    let Ok(subject) = Subject::of(request) else { return &[] };
    if request["spec"]["signerName"] != KUBELET_CLIENT || check_kubelet_client(request, &subject).is_err() {
        return &[];
    }
    if request["spec"]["username"] == subject.common_name { &KINDS } else { &KINDS[1..] }
}

async fn may(client: &Client, request: &Value, subresource: &str) -> Result<bool, Error> {
    let mut spec = Map::new();
    for (field, from) in [("user", "username"), ("uid", "uid"), ("groups", "groups"), ("extra", "extra")] {
        if let Some(value) = request["spec"].get(from) {
            spec.insert(field.to_owned(), value.clone());
        }
    }
    spec.insert(
        "resourceAttributes".to_owned(),
        json!({"group": "certificates.k8s.io", "resource": "certificatesigningrequests", "verb": "create",
            "subresource": subresource}),
    );
    let review = json!({"spec": spec});
    let review: Value = client.create(&registry::SUBJECT_ACCESS_REVIEWS, None, &review).await?;
    Ok(review["status"]["allowed"] == true)
}
