//! The AuthorizationConfiguration: which authorizers are asked, in which order; from a file or from the flags.

use super::conditions::Conditions;
use crate::flags::Flags;
use naru_api::meta::duration;
use naru_api::meta::names;
use naru_api::status::FieldErrors;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

const VERSIONS: [&str; 3] =
    ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1", "apiserver.config.k8s.io/v1alpha1"];
const TYPES: [&str; 5] = ["AlwaysAllow", "AlwaysDeny", "Node", "RBAC", "Webhook"];
/// Conditions of one webhook.
const MAX_CONDITIONS: usize = 64;
const USUAL_ALLOWED: Duration = Duration::from_secs(300);
const USUAL_REFUSED: Duration = Duration::from_secs(30);

/// One authorizer to be asked.
#[derive(Debug, Clone)]
pub(super) enum Mode {
    AlwaysAllow,
    AlwaysDeny,
    Node,
    Rbac,
    Webhook(WebhookMode),
}

/// How a webhook is asked.
#[derive(Debug, Clone)]
pub(super) struct WebhookMode {
    pub(super) kubeconfig: PathBuf,
    pub(super) version: String,
    pub(super) timeout: Duration,
    pub(super) allowed_life: Duration,
    pub(super) refused_life: Duration,
    /// Whether a webhook that does not answer denies.
    pub(super) denies_on_error: bool,
    /// Which questions it is asked.
    pub(super) conditions: Conditions,
}

/// Node and RBAC: what is usual.
pub(super) fn usual() -> Vec<Mode> {
    vec![Mode::Node, Mode::Rbac]
}

/// The modes that the flags name.
pub(super) fn of_flags(flags: &Flags) -> Result<Vec<Mode>, String> {
    let flags = &flags.authorization;
    let mut modes = Vec::new();
    for name in &flags.mode {
        modes.push(match name.as_str() {
            "AlwaysAllow" => Mode::AlwaysAllow,
            "AlwaysDeny" => Mode::AlwaysDeny,
            "Node" => Mode::Node,
            "RBAC" => Mode::Rbac,
            "Webhook" => {
                let Some(kubeconfig) = flags.webhook_config_file.clone() else {
                    return Err("authorization-mode Webhook's authorization config file not passed".to_owned());
                };
                Mode::Webhook(WebhookMode {
                    kubeconfig,
                    version: flags.webhook_version.clone().unwrap_or_else(|| "v1beta1".to_owned()),
                    timeout: Duration::from_secs(30),
                    allowed_life: flags.webhook_allowed_ttl.unwrap_or(USUAL_ALLOWED),
                    refused_life: flags.webhook_refused_ttl.unwrap_or(USUAL_REFUSED),
                    denies_on_error: false,
                    conditions: Conditions::default(),
                })
            }
            other => return Err(format!("authorization-mode {other:?} is not a valid mode")),
        });
    }
    if flags.webhook_config_file.is_some() && !flags.mode.iter().any(|mode| mode == "Webhook") {
        return Err("cannot specify authorization-webhook-config-file without mode Webhook".to_owned());
    }
    Ok(if modes.is_empty() { usual() } else { modes })
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Document {
    api_version: String,
    kind: String,
    authorizers: Vec<Entry>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Entry {
    r#type: String,
    name: String,
    webhook: Option<Webhook>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Webhook {
    #[serde(rename = "authorizedTTL")]
    authorized_ttl: String,
    cache_authorized_requests: Option<bool>,
    #[serde(rename = "unauthorizedTTL")]
    unauthorized_ttl: String,
    cache_unauthorized_requests: Option<bool>,
    timeout: String,
    subject_access_review_version: String,
    match_condition_subject_access_review_version: String,
    failure_policy: String,
    connection_info: ConnectionInfo,
    match_conditions: Vec<MatchCondition>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct ConnectionInfo {
    r#type: String,
    kube_config_file: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct MatchCondition {
    expression: String,
}

/// Reads and checks a document.
pub(super) fn parse(text: &str) -> Result<Vec<Mode>, String> {
    let document: Document = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    if document.kind != "AuthorizationConfiguration" || !VERSIONS.contains(&document.api_version.as_str()) {
        return Err(format!(
            "expected an AuthorizationConfiguration of {}, found {:?} of {:?}",
            VERSIONS[0], document.kind, document.api_version
        ));
    }
    let mut errors = FieldErrors::default();
    let modes = document.modes(&mut errors);
    errors.aggregate().map_or(Ok(modes), Err)
}

impl Document {
    fn modes(&self, errors: &mut FieldErrors) -> Vec<Mode> {
        if self.authorizers.is_empty() {
            errors.required("authorizers", "at least one authorization mode must be defined");
        }
        let mut modes = Vec::new();
        for (index, entry) in self.authorizers.iter().enumerate() {
            let path = format!("authorizers[{index}]");
            let earlier = &self.authorizers[..index];
            let kind = entry.r#type.as_str();
            if kind.is_empty() {
                errors.required(format!("{path}.type"), "");
                continue;
            }
            if !TYPES.contains(&kind) {
                errors.not_supported(format!("{path}.type"), kind, &TYPES);
                continue;
            }
            if kind != "Webhook" && earlier.iter().any(|other| other.r#type == kind) {
                errors.duplicate(format!("{path}.type"), kind);
                continue;
            }
            check_name(&format!("{path}.name"), &entry.name, earlier, errors);
            modes.extend(match (kind, &entry.webhook) {
                ("Webhook", Some(webhook)) => webhook.mode(&path, errors).map(Mode::Webhook),
                ("Webhook", None) => {
                    errors.required(format!("{path}.webhook"), "required when type=Webhook");
                    None
                }
                (_, Some(_)) => {
                    let text = "may only be specified when type=Webhook";
                    errors.invalid(format!("{path}.webhook"), "non-null", text);
                    None
                }
                ("AlwaysAllow", None) => Some(Mode::AlwaysAllow),
                ("AlwaysDeny", None) => Some(Mode::AlwaysDeny),
                ("Node", None) => Some(Mode::Node),
                _ => Some(Mode::Rbac),
            });
        }
        modes
    }
}

fn check_name(at: &str, name: &str, earlier: &[Entry], errors: &mut FieldErrors) {
    let wrong = names::dns_subdomain(name);
    if name.is_empty() {
        errors.required(at, "");
    } else if earlier.iter().any(|other| other.name == name) {
        errors.duplicate(at, name);
    } else if !wrong.is_empty() {
        errors.invalid(at, name, &format!("authorizer name is invalid: {}", wrong.join(", ")));
    }
}

fn one_of(at: String, value: &str, supported: &[&str], errors: &mut FieldErrors) {
    if value.is_empty() {
        errors.required(at, "");
    } else if !supported.contains(&value) {
        errors.not_supported(at, value, supported);
    }
}

impl Webhook {
    fn mode(&self, path: &str, errors: &mut FieldErrors) -> Option<WebhookMode> {
        let before = errors.len();
        let timeout = match self.timeout.as_str() {
            "" => {
                errors.required(format!("{path}.timeout"), "");
                None
            }
            text => {
                let read = duration::parse(text).filter(|t| !t.is_zero() && *t <= Duration::from_secs(30));
                if read.is_none() {
                    errors.invalid(format!("{path}.timeout"), text, "must be > 0s and <= 30s");
                }
                read
            }
        };
        let mut life = |field: &str, text: &str, kept: Option<bool>, usual: Duration| {
            let read = if text.is_empty() { Some(usual) } else { duration::parse(text) };
            if read.is_none() {
                errors.invalid(format!("{path}.{field}"), text, "must be > 0s");
            }
            let read = read.filter(|read| !read.is_zero()).unwrap_or(usual);
            if kept == Some(false) { Duration::ZERO } else { read }
        };
        let allowed_life = life("authorizedTTL", &self.authorized_ttl, self.cache_authorized_requests, USUAL_ALLOWED);
        let refused_life =
            life("unauthorizedTTL", &self.unauthorized_ttl, self.cache_unauthorized_requests, USUAL_REFUSED);
        let version = &self.subject_access_review_version;
        one_of(format!("{path}.subjectAccessReviewVersion"), version, &["v1", "v1beta1"], errors);
        let at = format!("{path}.matchConditionSubjectAccessReviewVersion");
        match self.match_condition_subject_access_review_version.as_str() {
            "" if self.match_conditions.is_empty() => {}
            "" => errors.required(at, "required if match conditions are specified"),
            version => one_of(at, version, &["v1"], errors),
        }
        one_of(format!("{path}.failurePolicy"), &self.failure_policy, &["NoOpinion", "Deny"], errors);
        let kubeconfig = self.connection_info.kubeconfig(&format!("{path}.connectionInfo"), errors);
        let conditions = self.conditions(path, errors);
        if errors.len() > before {
            return None;
        }
        Some(WebhookMode {
            kubeconfig: kubeconfig?,
            version: self.subject_access_review_version.clone(),
            timeout: timeout?,
            allowed_life,
            refused_life,
            denies_on_error: self.failure_policy == "Deny",
            conditions,
        })
    }

    fn conditions(&self, path: &str, errors: &mut FieldErrors) -> Conditions {
        let mut found = Conditions::default();
        let conditions = &self.match_conditions;
        if conditions.len() > MAX_CONDITIONS {
            errors.too_many(format!("{path}.matchConditions"), conditions.len(), MAX_CONDITIONS);
            return found;
        }
        for (index, condition) in conditions.iter().enumerate() {
            let at = format!("{path}.matchConditions[{index}].expression");
            let expression = condition.expression.as_str();
            if expression.trim().is_empty() {
                errors.required(at, "");
            } else if conditions[..index].iter().any(|other| other.expression == expression) {
                errors.duplicate(at, expression);
            } else {
                found.add(&at, expression, errors);
            }
        }
        found
    }
}

impl ConnectionInfo {
    fn kubeconfig(&self, path: &str, errors: &mut FieldErrors) -> Option<PathBuf> {
        let at = format!("{path}.kubeConfigFile");
        match self.r#type.as_str() {
            "" => errors.required(format!("{path}.type"), ""),
            "KubeConfigFile" => match self.kube_config_file.as_deref().unwrap_or_default() {
                "" => errors.required(at, ""),
                file if !Path::new(file).is_absolute() => errors.invalid(at, file, "must be an absolute path"),
                file => match std::fs::metadata(file) {
                    Err(error) => errors.invalid(at, file, &format!("error loading file: {error}")),
                    Ok(found) if !found.is_file() => errors.invalid(at, file, "must be a regular file"),
                    Ok(_) => return Some(file.into()),
                },
            },
            other => errors.not_supported(format!("{path}.type"), other, &["KubeConfigFile"]),
        }
        None
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn check(authorizers: &str, expected: Result<usize, &str>) {
        let text = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers: {authorizers}\n"
        );
        let found = parse(&text).map(|modes| modes.len());
        assert_eq!(found.as_ref().map_err(String::as_str), expected.as_ref().map_err(|text| *text));
    }

    #[test]
    fn authorizers_are_checked() {
        check("[{type: Node, name: node}, {type: RBAC, name: rbac}]", Ok(2));
        check("[]", Err("authorizers: Required value: at least one authorization mode must be defined"));
        check(
            "[{type: Nobody}, {type: RBAC, name: A}, {type: RBAC, name: b}]",
            Err(
                "[authorizers[0].type: Unsupported value: \"Nobody\": supported values: \"AlwaysAllow\", \"AlwaysDeny\", \"Node\", \"RBAC\", \"Webhook\", \
                 authorizers[1].name: Invalid value: \"A\": authorizer name is invalid: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*'), \
                 authorizers[2].type: Duplicate value: \"RBAC\"]",
            ),
        );
        check(
            "[{type: Webhook, name: w, webhook: {timeout: 31s, failurePolicy: Maybe, connectionInfo: {type: KubeConfigFile, kubeConfigFile: x}}}]",
            Err("[authorizers[0].timeout: Invalid value: \"31s\": must be > 0s and <= 30s, \
                 authorizers[0].subjectAccessReviewVersion: Required value, \
                 authorizers[0].failurePolicy: Unsupported value: \"Maybe\": supported values: \"NoOpinion\", \"Deny\", \
                 authorizers[0].connectionInfo.kubeConfigFile: Invalid value: \"x\": must be an absolute path]"),
        );
        let webhook = |rest: &str| {
            let all = "timeout: 3s, subjectAccessReviewVersion: v1, failurePolicy: Deny";
            format!(
                "[{{type: Webhook, name: w, webhook: {{{all}, connectionInfo: {{type: KubeConfigFile, kubeConfigFile: /dev/null}}, {rest}}}}}]"
            )
        };
        let file = "authorizers[0].connectionInfo.kubeConfigFile: Invalid value: \"/dev/null\": must be a regular file";
        check(
            &webhook(
                "matchConditions: [{expression: request.user == 'x'}, {expression: ' '}, {expression: request.user == 'x'}]",
            ),
            Err(&format!(
                "[authorizers[0].matchConditionSubjectAccessReviewVersion: Required value: required if match conditions are specified, {file}, \
                 authorizers[0].matchConditions[1].expression: Required value, \
                 authorizers[0].matchConditions[2].expression: Duplicate value: \"request.user == 'x'\"]"
            )),
        );
        check(
            &webhook(
                "matchConditionSubjectAccessReviewVersion: v1, matchConditions: [{expression: request.user}, {expression: request.usr == ''}]",
            ),
            Err(&format!(
                "[{file}, \
                 authorizers[0].matchConditions[0].expression: Invalid value: \"request.user\": must evaluate to bool but got string, \
                 authorizers[0].matchConditions[1].expression: Invalid value: \"request.usr == ''\": compilation failed: ERROR: <input>:1:8: undefined field 'usr'\n | request.usr == ''\n | .......^]"
            )),
        );
    }
}
