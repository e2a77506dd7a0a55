//! The audit Policy: which requests are told of, how much, and at which stages.

use super::Stage;
use crate::authz::Attributes;
use naru_api::codec;
use naru_api::meta::names;
use naru_api::status::{FieldErrors, Path};
use serde::Deserialize;
use serde_json::Value;

/// How much is told of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    None,
    Metadata,
    Request,
    RequestResponse,
}

const LEVELS: [&str; 4] = ["None", "Metadata", "Request", "RequestResponse"];
const STAGES: [&str; 4] = ["RequestReceived", "ResponseStarted", "ResponseComplete", "Panic"];

impl Level {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "None" => Level::None,
            "Metadata" => Level::Metadata,
            "Request" => Level::Request,
            "RequestResponse" => Level::RequestResponse,
            _ => return None,
        })
    }

    /// Its name in events.
    pub(super) fn name(self) -> &'static str {
        match self {
            Level::None => "None",
            Level::Metadata => "Metadata",
            Level::Request => "Request",
            Level::RequestResponse => "RequestResponse",
        }
    }
}

/// What the policy says of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Applied {
    pub(super) level: Level,
    omitted: Vec<String>,
    pub(super) omit_managed_fields: bool,
}

impl Applied {
    /// Whether nothing is told at this stage.
    pub(super) fn omits(&self, stage: Stage) -> bool {
        self.omitted.iter().any(|omitted| omitted == stage.name())
    }
}

/// A policy.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Policy {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<String>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Rule {
    level: String,
    users: Vec<String>,
    user_groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<GroupResources>,
    namespaces: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    omit_stages: Vec<String>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct GroupResources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

/// Why a policy cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PolicyError {
    #[error("failed decoding: {0}")]
    Decode(String),
    #[error("unknown group version field {0} in policy")]
    Kind(String),
    #[error("{0}")]
    Invalid(String),
    #[error("loaded illegal policy with 0 rules")]
    Empty,
}

impl Policy {
    /// Reads a policy, YAML or JSON.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, PolicyError> {
        let value = codec::parse_yaml(text).map_err(|error| PolicyError::Decode(error.to_string()))?;
        let policy: Self = serde_json::from_value(value).map_err(|error| PolicyError::Decode(error.to_string()))?;
        if (policy.api_version.as_str(), policy.kind.as_str()) != ("audit.k8s.io/v1", "Policy") {
            return Err(PolicyError::Kind(format!("{}, Kind={}", policy.api_version, policy.kind)));
        }
        let mut errors = FieldErrors::default();
        policy.validate(&mut errors);
        if let Some(text) = errors.aggregate() {
            return Err(PolicyError::Invalid(text));
        }
        if policy.rules.is_empty() {
            return Err(PolicyError::Empty);
        }
        Ok(policy)
    }

    fn validate(&self, errors: &mut FieldErrors) {
        validate_stages(&self.omit_stages, Path::root("omitStages"), errors);
        let rules = Path::root("rules");
        for (i, rule) in self.rules.iter().enumerate() {
            rule.validate(rules.index(i), errors);
        }
    }

    /// What the first rule that fits says; without one, nothing is told.
    pub(crate) fn applied(&self, user: Option<(&str, &[String])>, attributes: &Attributes<'_>) -> Applied {
        let rule = self.rules.iter().find(|rule| rule.fits(user, attributes));
        let mut omitted = self.omit_stages.clone();
        omitted.extend(rule.iter().flat_map(|rule| rule.omit_stages.iter().cloned()));
        Applied {
            level: rule.and_then(|rule| Level::parse(&rule.level)).unwrap_or(Level::None),
            omitted,
            omit_managed_fields: rule.and_then(|rule| rule.omit_managed_fields).unwrap_or(self.omit_managed_fields),
        }
    }
}

fn validate_stages(stages: &[String], at: Path<'_>, errors: &mut FieldErrors) {
    for (i, stage) in stages.iter().enumerate().filter(|(_, stage)| !STAGES.contains(&stage.as_str())) {
        errors.invalid(at.index(i), stage.as_str(), &format!("allowed stages are {}", STAGES.join(",")));
    }
}

impl Rule {
    fn validate(&self, at: Path<'_>, errors: &mut FieldErrors) {
        match self.level.as_str() {
            "" => errors.required(at.child("level"), ""),
            level if Level::parse(level).is_none() => errors.not_supported(at.child("level"), level, &LEVELS),
            _ => {}
        }
        let urls = at.child("nonResourceURLs");
        for (i, url) in self.non_resource_urls.iter().enumerate().filter(|(_, url)| *url != "*") {
            if !url.starts_with('/') {
                let why = "non-resource URL rules must begin with a '/' character";
                errors.invalid(urls.index(i), url.as_str(), why);
            }
            if url.strip_suffix('*').unwrap_or(url).contains('*') {
                let why = "non-resource URL wildcards '*' must be the final character of the rule";
                errors.invalid(urls.index(i), url.as_str(), why);
            }
        }
        let resources = at.child("resources");
        for one in &self.resources {
            let wrong = names::dns_subdomain(&one.group);
            if !matches!(one.group.as_str(), "" | "*") && !wrong.is_empty() {
                errors.invalid(resources.child("group"), one.group.as_str(), &wrong.join(","));
            }
            if !one.resource_names.is_empty() && one.resources.is_empty() {
                let why = "using resourceNames requires at least one resource";
                errors.invalid(resources.child("resourceNames"), Value::from(one.resource_names.clone()), why);
            }
        }
        validate_stages(&self.omit_stages, at.child("omitStages"), errors);
        let of_resources = !self.resources.is_empty() || !self.namespaces.is_empty();
        if of_resources && !self.non_resource_urls.is_empty() {
            let why = "rules cannot apply to both regular resources and non-resource URLs";
            errors.invalid(urls, Value::from(self.non_resource_urls.clone()), why);
        }
    }

    fn fits(&self, user: Option<(&str, &[String])>, attributes: &Attributes<'_>) -> bool {
        let (name, groups) = user.unwrap_or(("", &[]));
        let has = |list: &[String], value: &str| list.is_empty() || list.iter().any(|one| one == value);
        if !self.users.is_empty() && user.is_none() || !has(&self.users, name) || !has(&self.verbs, attributes.verb) {
            return false;
        }
        if !self.user_groups.is_empty() && !groups.iter().any(|group| self.user_groups.contains(group)) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return attributes.is_resource
                && has(&self.namespaces, attributes.namespace)
                && (self.resources.is_empty() || self.resources.iter().any(|one| one.fits(attributes)));
        }
        if !self.non_resource_urls.is_empty() {
            return !attributes.is_resource && self.non_resource_urls.iter().any(|url| path_fits(url, attributes.path));
        }
        true
    }
}

fn path_fits(url: &str, path: &str) -> bool {
    url == "*" || url == path || url.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

impl GroupResources {
    fn fits(&self, attributes: &Attributes<'_>) -> bool {
        if self.group != "*" && self.group != attributes.group {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        if !self.resource_names.is_empty() && !self.resource_names.iter().any(|name| name == attributes.name) {
            return false;
        }
        let whole = attributes.full_resource();
        self.resources.iter().any(|resource| {
            resource == "*"
                || *resource == whole
                || (!attributes.subresource.is_empty() && resource.strip_prefix("*/") == Some(attributes.subresource))
                || resource.strip_suffix("/*") == Some(attributes.resource)
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn policy(rules: &str) -> Result<Policy, PolicyError> {
        Policy::parse(format!("apiVersion: audit.k8s.io/v1\nkind: Policy\n{rules}").as_bytes())
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let policy = policy(
            "omitStages: [RequestReceived]\n\
             rules:\n\
             - {level: None, users: ['system:kube-proxy'], verbs: [watch]}\n\
             - {level: Request, resources: [{group: '', resources: [pods/log, '*/status']}], omitManagedFields: true}\n\
             - {level: Metadata, resources: [{group: '', resources: [configmaps], resourceNames: [a]}], namespaces: [ns]}\n\
             - {level: RequestResponse, userGroups: [ops], omitStages: [Panic]}\n\
             - {level: Metadata, nonResourceURLs: ['/healthz*']}\n",
        )
        .unwrap();
        let asked = |user: &str, groups: &[&str], verb: &'static str, resource: &str, sub: &str, name: &str| {
            let groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
            let attributes = Attributes {
                verb,
                is_resource: true,
                resource,
                subresource: sub,
                namespace: "ns",
                name,
                ..Attributes::default()
            };
            policy.applied(Some((user, &groups)), &attributes)
        };
        assert_eq!(asked("system:kube-proxy", &[], "watch", "pods", "", "").level, Level::None);
        let log = asked("u", &[], "get", "pods", "log", "p");
        assert_eq!((log.level, log.omit_managed_fields), (Level::Request, true));
        assert!(log.omits(Stage::RequestReceived) && !log.omits(Stage::Panic));
        assert_eq!(asked("u", &[], "update", "nodes", "status", "n").level, Level::Request);
        assert_eq!(asked("u", &[], "get", "pods", "", "p").level, Level::None);
        assert_eq!(asked("u", &[], "get", "configmaps", "", "a").level, Level::Metadata);
        assert_eq!(asked("u", &[], "get", "configmaps", "", "b").level, Level::None);
        let ops = asked("u", &["ops"], "get", "secrets", "", "b");
        assert!(ops.level == Level::RequestResponse && ops.omits(Stage::Panic));
        let plain = |path| policy.applied(None, &Attributes { verb: "get", path, ..Attributes::default() }).level;
        assert_eq!((plain("/healthz/ping"), plain("/version")), (Level::Metadata, Level::None));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let refused = |rules: &str, expect: &str| assert_eq!(policy(rules).unwrap_err().to_string(), expect);
        refused("rules: []", "loaded illegal policy with 0 rules");
        refused("rules: [{}]", "rules[0].level: Required value");
        refused(
            "rules: [{level: All}]",
            "rules[0].level: Unsupported value: \"All\": supported values: \"None\", \"Metadata\", \"Request\", \"RequestResponse\"",
        );
        refused(
            "rules: [{level: None, omitStages: [Foo], nonResourceURLs: ['/a*b']}]",
            "[rules[0].nonResourceURLs[0]: Invalid value: \"/a*b\": non-resource URL wildcards '*' must be the final character of the rule, rules[0].omitStages[0]: Invalid value: \"Foo\": allowed stages are RequestReceived,ResponseStarted,ResponseComplete,Panic]",
        );
        assert_eq!(
            Policy::parse(b"apiVersion: audit.k8s.io/v2\nkind: Policy").unwrap_err().to_string(),
            "unknown group version field audit.k8s.io/v2, Kind=Policy in policy"
        );
    }
}
