//! Somebody else decides: SubjectAccessReview by webhook.

use super::configuration::WebhookMode;
use super::{Attributes, Decision, Verdict};
use crate::authn::User;
use crate::expiring::{self, Expiring};
use crate::outbound::{Reviewer, SetupError};
use naru_api::selector::Operator;
use serde_json::{Value, json};

/// Answers that are remembered.
const MAX_ANSWERS: usize = 8192;
/// What the asker chose may be this long in all, or the answer is not remembered.
const MAX_REMEMBERED: usize = 10_000;

/// The webhook.
#[derive(Debug)]
pub(super) struct AccessWebhook {
    reviewer: Reviewer,
    mode: WebhookMode,
    answers: Expiring<Decision>,
}

impl AccessWebhook {
    /// From its configuration.
    pub(super) fn new(mode: WebhookMode) -> Result<Self, SetupError> {
        let reviewer = Reviewer::from_kubeconfig(&mode.kubeconfig, mode.timeout)?;
        Ok(Self { reviewer, mode, answers: Expiring::new(MAX_ANSWERS) })
    }

    /// What the webhook says.
    pub(super) async fn authorize(&self, user: &User, attributes: &Attributes<'_>) -> Decision {
        match self.mode.conditions.hold(user, attributes) {
            Ok(true) => {}
            Ok(false) => return Decision::no_opinion(""),
            Err(error) => return self.failed(error),
        }
        let spec = spec(user, attributes, self.mode.version == "v1beta1");
        let key = expiring::key(spec.to_string().as_bytes());
        if let Some(decision) = self.answers.get(&key) {
            return decision;
        }
        let review = json!({
            "apiVersion": format!("authorization.k8s.io/{}", self.mode.version),
            "kind": "SubjectAccessReview",
            "metadata": { "creationTimestamp": null },
            "spec": spec,
            "status": { "allowed": false },
        });
        let answer = match self.reviewer.ask(&review).await {
            Ok(answer) => answer,
            Err(error) => return self.failed(error.to_string()),
        };
        let decision = judge(&answer["status"]);
        if size(attributes) < MAX_REMEMBERED {
            let life =
                if answer["status"]["allowed"] == true { self.mode.allowed_life } else { self.mode.refused_life };
            self.answers.put(key, decision.clone(), life);
        }
        decision
    }

    /// What counts when it cannot be asked.
    fn failed(&self, error: String) -> Decision {
        let verdict = if self.mode.denies_on_error { Verdict::Deny } else { Verdict::NoOpinion };
        Decision { verdict, reason: String::new(), errors: vec![error] }
    }
}

fn judge(status: &Value) -> Decision {
    let (allowed, denied) = (status["allowed"] == true, status["denied"] == true);
    let reason = status["reason"].as_str().unwrap_or_default().to_owned();
    let (verdict, errors) = match (allowed, denied) {
        (true, true) => {
            let text = "webhook subject access review returned both allow and deny response";
            (Verdict::Deny, vec![text.to_owned()])
        }
        (_, true) => (Verdict::Deny, Vec::new()),
        (true, _) => (Verdict::Allow, Vec::new()),
        _ => (Verdict::NoOpinion, Vec::new()),
    };
    Decision { verdict, reason, errors }
}

/// How much of a question its asker chose.
fn size(a: &Attributes<'_>) -> usize {
    [a.namespace, a.verb, a.group, a.version, a.resource, a.subresource, a.name, a.path].iter().map(|t| t.len()).sum()
}

/// The question. The old version calls the groups `group`.
fn spec(user: &User, a: &Attributes<'_>, old: bool) -> Value {
    let mut spec = serde_json::Map::new();
    let texts = |fields: &[(&str, &str)]| -> Value {
        let said = fields.iter().filter(|(_, value)| !value.is_empty());
        said.map(|(name, value)| ((*name).to_owned(), Value::from(*value))).collect::<serde_json::Map<_, _>>().into()
    };
    if a.is_resource {
        let mut about = texts(&[
            ("namespace", a.namespace),
            ("verb", a.verb),
            ("group", a.group),
            ("version", a.version),
            ("resource", a.resource),
            ("subresource", a.subresource),
            ("name", a.name),
        ]);
        let (fields, labels) = (field_requirements(a), label_requirements(a));
        if !fields.is_empty() {
            about["fieldSelector"] = json!({ "requirements": fields });
        }
        if !labels.is_empty() {
            about["labelSelector"] = json!({ "requirements": labels });
        }
        spec.insert("resourceAttributes".to_owned(), about);
    } else {
        spec.insert("nonResourceAttributes".to_owned(), texts(&[("path", a.path), ("verb", a.verb)]));
    }
    spec.insert("user".to_owned(), user.name.clone().into());
    if !user.groups.is_empty() {
        spec.insert(if old { "group" } else { "groups" }.to_owned(), user.groups.clone().into());
    }
    if !user.extra.is_empty() {
        spec.insert("extra".to_owned(), json!(user.extra));
    }
    if !user.uid.is_empty() {
        spec.insert("uid".to_owned(), user.uid.clone().into());
    }
    spec.into()
}

pub(super) fn field_requirements(a: &Attributes<'_>) -> Vec<Value> {
    let requirements = a.fields.map(naru_api::selector::FieldSelector::requirements).unwrap_or_default();
    let one = |one: &naru_api::selector::FieldRequirement| json!({ "key": one.field, "operator": if one.equal { "In" } else { "NotIn" }, "values": [one.value] });
    requirements.iter().map(one).collect()
}

/// What has no operator in reviews is left out: the question is then about more, never about less.
pub(super) fn label_requirements(a: &Attributes<'_>) -> Vec<Value> {
    let requirements = a.labels.map(naru_api::selector::LabelSelector::requirements).unwrap_or_default();
    let one = |one: &naru_api::selector::Requirement| {
        let operator = match one.operator {
            Operator::Equals | Operator::In => "In",
            Operator::NotEquals | Operator::NotIn => "NotIn",
            Operator::Exists => "Exists",
            Operator::DoesNotExist => "DoesNotExist",
            Operator::GreaterThan | Operator::LessThan => return None,
        };
        let mut requirement = json!({ "key": one.key, "operator": operator });
        if !one.values.is_empty() {
            requirement["values"] = one.values.clone().into();
        }
        Some(requirement)
    };
    requirements.iter().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use naru_api::selector::{FieldSelector, LabelSelector};

    #[test]
    fn questions_have_upstreams_form() {
        let fields = FieldSelector::parse("spec.nodeName=a,x!=b").ok();
        let labels = LabelSelector::parse("app=web,tier,n>1").ok();
        let mut user = User::authenticated("jane", []);
        user.uid = "7".to_owned();
        let mut asked = Attributes { verb: "list", is_resource: true, version: "v1", ..Attributes::default() };
        asked.resource = "pods";
        (asked.fields, asked.labels) = (fields.as_ref(), labels.as_ref());
        assert_eq!(
            spec(&user, &asked, false),
            json!({ "user": "jane", "uid": "7", "groups": ["system:authenticated"], "resourceAttributes": {
                "verb": "list", "version": "v1", "resource": "pods",
                "fieldSelector": { "requirements": [
                    { "key": "spec.nodeName", "operator": "In", "values": ["a"] },
                    { "key": "x", "operator": "NotIn", "values": ["b"] }] },
                "labelSelector": { "requirements": [
                    { "key": "app", "operator": "In", "values": ["web"] },
                    { "key": "tier", "operator": "Exists" }] } } })
        );
        let path = Attributes { verb: "get", path: "/x", ..Attributes::default() };
        let old = spec(&User::authenticated("jane", []), &path, true);
        let plain = json!({ "path": "/x", "verb": "get" });
        assert_eq!(old, json!({ "user": "jane", "group": ["system:authenticated"], "nonResourceAttributes": plain }));
    }

    #[test]
    fn both_answers_at_once_deny() {
        let verdict = |status: Value| judge(&status).verdict;
        assert_eq!(verdict(json!({ "allowed": true })), Verdict::Allow);
        assert_eq!(verdict(json!({ "allowed": true, "denied": true })), Verdict::Deny);
        assert_eq!(verdict(json!({ "allowed": false, "reason": "no" })), Verdict::NoOpinion);
    }
}
