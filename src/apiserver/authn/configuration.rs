//! The AuthenticationConfiguration: identity providers and what anonymous requests may see, from a file or from the
//! `oidc-*` flags.

use super::expressions::{self, Expressions};
use crate::flags::{Flags, OidcFlags};
use naru_api::cel::{Program, Type};
use naru_api::meta::names;
use naru_api::status::FieldErrors;
use serde::Deserialize;
use std::path::Path;

const VERSIONS: [&str; 3] =
    ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1", "apiserver.config.k8s.io/v1alpha1"];

/// The document.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Configuration {
    api_version: String,
    kind: String,
    pub(super) jwt: Vec<Provider>,
    pub(super) anonymous: Option<Anonymous>,
}

/// Who may come without credentials.
#[derive(Debug, Clone, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Anonymous {
    pub(super) enabled: bool,
    pub(super) conditions: Vec<Condition>,
}

/// A path that is open.
#[derive(Debug, Clone, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Condition {
    pub(super) path: String,
}

/// One identity provider.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Provider {
    pub(super) issuer: Issuer,
    pub(super) claim_validation_rules: Vec<ClaimRule>,
    pub(super) claim_mappings: Mappings,
    user_validation_rules: Vec<UserRule>,
    /// The signature algorithms of its tokens, from the flags; empty: all that are safe.
    #[serde(skip)]
    pub(super) algorithms: Vec<String>,
    /// What its expressions became.
    #[serde(skip)]
    pub(super) expressions: Expressions,
}

/// Where its documents are, and for whom its tokens are.
#[derive(Debug, Clone, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Issuer {
    pub(super) url: String,
    #[serde(rename = "discoveryURL")]
    pub(super) discovery_url: Option<String>,
    pub(super) certificate_authority: String,
    pub(super) audiences: Vec<String>,
    audience_match_policy: String,
    pub(super) egress_selector_type: String,
}

/// A claim that must have a value.
#[derive(Debug, Clone, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct ClaimRule {
    pub(super) claim: String,
    pub(super) required_value: String,
    expression: String,
    message: String,
}

/// A rule about the user that came out.
#[derive(Debug, Clone, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct UserRule {
    expression: String,
    message: String,
}

/// Which claims make the user.
#[derive(Debug, Clone, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Mappings {
    pub(super) username: Mapping,
    pub(super) groups: Mapping,
    pub(super) uid: Mapping,
    extra: Vec<Extra>,
}

/// A claim with what goes before its value.
#[derive(Debug, Clone, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Mapping {
    pub(super) claim: String,
    pub(super) prefix: Option<String>,
    expression: String,
}

/// An extra fact about the user.
#[derive(Debug, Clone, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Extra {
    key: String,
    value_expression: String,
}

impl Configuration {
    /// Reads and checks a document. `own` are the issuers of service account tokens, which no provider may be.
    pub(super) fn parse(text: &str, own: &[String]) -> Result<Self, String> {
        let mut configuration: Self = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        if configuration.kind != "AuthenticationConfiguration"
            || !VERSIONS.contains(&configuration.api_version.as_str())
        {
            return Err(format!(
                "expected an AuthenticationConfiguration of {}, found {:?} of {:?}",
                VERSIONS[0], configuration.kind, configuration.api_version
            ));
        }
        let mut errors = FieldErrors::default();
        configuration.validate(own, &mut errors);
        match errors.aggregate() {
            None => Ok(configuration),
            Some(errors) => Err(errors),
        }
    }

    /// What the `oidc-*` flags say; no provider without them.
    pub(super) fn of_flags(flags: &Flags, own: &[String]) -> Result<Self, String> {
        let Some(provider) = provider_of_flags(&flags.oidc)? else { return Ok(Self::default()) };
        let mut configuration = Self { jwt: vec![provider], ..Self::default() };
        let mut errors = FieldErrors::default();
        configuration.validate(own, &mut errors);
        errors.aggregate().map_or(Ok(configuration), Err)
    }

    fn validate(&mut self, own: &[String], errors: &mut FieldErrors) {
        const MOST: usize = 64;
        if self.jwt.len() > MOST {
            errors.too_many("jwt", self.jwt.len(), MOST);
            return;
        }
        for index in 0..self.jwt.len() {
            let path = format!("jwt[{index}]");
            let (earlier, rest) = self.jwt.split_at_mut(index);
            let provider = &mut rest[0];
            provider.validate(&path, own, errors);
            if earlier.iter().any(|other| other.issuer.url == provider.issuer.url) {
                errors.duplicate(format!("{path}.issuer.url"), provider.issuer.url.as_str());
            }
            let Some(url) = provider.issuer.discovery_url.as_deref().filter(|url| !url.is_empty()) else { continue };
            if earlier.iter().any(|other| other.issuer.discovery_url.as_deref() == Some(url)) {
                errors.duplicate(format!("{path}.issuer.discoveryURL"), url);
            }
        }
        if let Some(anonymous) = &self.anonymous
            && !anonymous.enabled
            && !anonymous.conditions.is_empty()
        {
            errors.invalid_whole("anonymous.conditions", "enabled should be set to true when conditions are defined");
        }
    }
}

impl Provider {
    fn validate(&mut self, path: &str, own: &[String], errors: &mut FieldErrors) {
        self.issuer.validate(&format!("{path}.issuer"), own, errors);
        let mut found = Expressions::default();
        self.validate_claim_rules(path, &mut found, errors);
        let at = format!("{path}.claimMappings");
        self.claim_mappings.validate(&at, &mut found, errors);
        if found.trusts_unverified_email() {
            errors.invalid(
                format!("{at}.username.expression"),
                self.claim_mappings.username.expression.as_str(),
                "claims.email_verified must be used in claimMappings.username.expression or claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression",
            );
        }
        for (index, rule) in self.user_validation_rules.iter().enumerate() {
            let at = format!("{path}.userValidationRules[{index}].expression");
            let expression = rule.expression.as_str();
            if expression.is_empty() {
                errors.required(at, "");
            } else if self.user_validation_rules[..index].iter().any(|other| other.expression == expression) {
                errors.duplicate(at, expression);
            } else if let Some(program) = expressions::of_user(at, expression, errors) {
                found.user_rules.push((program, rule.message.clone()));
            }
        }
        self.expressions = found;
    }

    fn validate_claim_rules(&self, path: &str, found: &mut Expressions, errors: &mut FieldErrors) {
        for (index, rule) in self.claim_validation_rules.iter().enumerate() {
            let at = format!("{path}.claimValidationRules[{index}]");
            let earlier = &self.claim_validation_rules[..index];
            match (rule.claim.is_empty(), rule.expression.is_empty()) {
                (false, false) => errors.invalid(at, rule.claim.as_str(), "claim and expression can't both be set"),
                (true, true) => errors.required(at, "claim or expression is required"),
                (true, false) => {
                    if !rule.required_value.is_empty() {
                        let text = "may not be specified when expression is set";
                        errors.invalid(format!("{at}.requiredValue"), rule.required_value.as_str(), text);
                    }
                    let (at, expression) = (format!("{at}.expression"), rule.expression.as_str());
                    if earlier.iter().any(|other| other.expression == expression) {
                        errors.duplicate(at, expression);
                    } else if let Some(program) = expressions::of_claims(at, expression, Some(&Type::Bool), errors) {
                        found.claim_rules.push((program, rule.message.clone()));
                    }
                }
                (false, true) => {
                    if !rule.message.is_empty() {
                        let text = "may not be specified when claim is set";
                        errors.invalid(format!("{at}.message"), rule.message.as_str(), text);
                    }
                    if earlier.iter().any(|other| other.claim == rule.claim) {
                        errors.duplicate(format!("{at}.claim"), rule.claim.as_str());
                    }
                }
            }
        }
    }
}

impl Issuer {
    fn validate(&self, path: &str, own: &[String], errors: &mut FieldErrors) {
        let at = format!("{path}.url");
        if self.url.is_empty() {
            errors.required(&at, "");
        } else {
            if own.contains(&self.url) {
                let text = format!("URL must not overlap with disallowed issuers: [{}]", own.join(" "));
                errors.invalid(&at, self.url.as_str(), &text);
            }
            validate_url(&at, &self.url, errors);
        }
        if let Some(url) = self.discovery_url.as_deref().filter(|url| !url.is_empty()) {
            let at = format!("{path}.discoveryURL");
            if !self.url.is_empty() && self.url.trim_end_matches('/') == url.trim_end_matches('/') {
                errors.invalid(&at, url, "discoveryURL must be different from URL");
            }
            validate_url(&at, url, errors);
        }
        self.validate_audiences(path, errors);
        if !self.certificate_authority.is_empty()
            && let Err(reason) = crate::server::certificates(&self.certificate_authority)
        {
            errors.invalid(format!("{path}.certificateAuthority"), "<omitted>", &reason);
        }
        if !matches!(self.egress_selector_type.as_str(), "" | "controlplane" | "cluster") {
            let text = "egress selector must be either controlplane or cluster";
            errors.invalid(format!("{path}.egressSelectorType"), self.egress_selector_type.as_str(), text);
        }
    }

    fn validate_audiences(&self, path: &str, errors: &mut FieldErrors) {
        let at = format!("{path}.audiences");
        if self.audiences.is_empty() {
            return errors.required(&at, &format!("at least one {at} is required"));
        }
        for (index, audience) in self.audiences.iter().enumerate() {
            if audience.is_empty() {
                errors.required(format!("{at}[{index}]"), "");
            }
            if self.audiences[..index].contains(audience) {
                errors.duplicate(format!("{at}[{index}]"), audience.as_str());
            }
        }
        let policy = self.audience_match_policy.as_str();
        let text = match self.audiences.len() {
            1 if !matches!(policy, "" | "MatchAny") => {
                "audienceMatchPolicy must be empty or MatchAny for single audience"
            }
            2.. if policy != "MatchAny" => "audienceMatchPolicy must be MatchAny for multiple audiences",
            _ => return,
        };
        errors.invalid(format!("{path}.audienceMatchPolicy"), policy, text);
    }
}

fn validate_url(at: &str, url: &str, errors: &mut FieldErrors) {
    // http::Uri drops fragments and refuses some URLs that have one: looked at in the text.
    let (before, fragment) = url.split_once('#').unwrap_or((url, ""));
    let uri: http::Uri = match before.parse() {
        Ok(uri) => uri,
        Err(error) => return errors.invalid(at, url, &format!("parse {url:?}: {error}")),
    };
    if uri.scheme_str() != Some("https") {
        errors.invalid(at, url, "URL scheme must be https");
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        errors.invalid(at, url, "URL must not contain a username or password");
    }
    if uri.query().is_some_and(|query| !query.is_empty()) {
        errors.invalid(at, url, "URL must not contain a query");
    }
    if !fragment.is_empty() {
        errors.invalid(at, url, "URL must not contain a fragment");
    }
}

impl Mappings {
    fn validate(&self, path: &str, found: &mut Expressions, errors: &mut FieldErrors) {
        found.username = self.username.validate(&format!("{path}.username"), true, errors);
        found.groups = self.groups.validate(&format!("{path}.groups"), false, errors);
        let at = format!("{path}.uid");
        match (self.uid.claim.is_empty(), self.uid.expression.as_str()) {
            (_, "") => {}
            (false, _) => errors.invalid(&at, "", "claim and expression can't both be set"),
            (true, expression) => {
                found.uid = expressions::of_claims(format!("{at}.expression"), expression, None, errors);
            }
        }
        for (index, extra) in self.extra.iter().enumerate() {
            let at = format!("{path}.extra[{index}]");
            extra.validate_key(&format!("{at}.key"), errors);
            if self.extra[..index].iter().any(|other| other.key == extra.key) {
                errors.duplicate(format!("{at}.key"), extra.key.as_str());
                continue;
            }
            let at = format!("{at}.valueExpression");
            match extra.value_expression.as_str() {
                "" => errors.required(at, ""),
                expression => {
                    let program = expressions::of_claims(at, expression, None, errors);
                    found.extra.extend(program.map(|program| (extra.key.clone(), program)));
                }
            }
        }
    }
}

impl Extra {
    /// Keys belong to somebody's domain, and not to Kubernetes'.
    fn validate_key(&self, at: &str, errors: &mut FieldErrors) {
        let key = self.key.as_str();
        let (domain, path) = key.split_once('/').unwrap_or((key, ""));
        if key.is_empty() {
            errors.required(at, "");
        } else if !key.contains('/') || domain.is_empty() || path.is_empty() {
            errors.invalid(at, key, "must be a domain-prefixed path (such as \"acme.io/foo\")");
        } else {
            for text in names::dns_subdomain(domain) {
                errors.invalid(at, domain, &text);
            }
            let good = |c: char| c.is_ascii_alphanumeric() || "/-._~%!$&'()*+,;=:".contains(c);
            if !path.chars().all(good) {
                let text = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
                errors.invalid(at, path, text);
            }
        }
        if key != key.to_lowercase() {
            errors.invalid(at, key, "must be lowercase");
        }
        let ours = |name: &str| domain == name || domain.ends_with(&format!(".{name}"));
        if !path.is_empty() && (ours("k8s.io") || ours("kubernetes.io")) {
            let text = "k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use";
            errors.invalid(at, key, text);
        }
    }
}

impl Mapping {
    fn validate(&self, path: &str, required: bool, errors: &mut FieldErrors) -> Option<Program> {
        match (self.claim.is_empty(), self.expression.is_empty()) {
            (false, false) => errors.invalid(path, "", "claim and expression can't both be set"),
            (true, true) if required => errors.required(path, "claim or expression is required"),
            (true, true) => {}
            (true, false) => {
                if let Some(prefix) = &self.prefix {
                    let text = "may not be specified when expression is set";
                    errors.invalid(format!("{path}.prefix"), prefix.as_str(), text);
                }
                return expressions::of_claims(format!("{path}.expression"), &self.expression, None, errors);
            }
            (false, true) if self.prefix.is_none() => {
                let text =
                    "prefix is required when claim is set. It can be set to an empty string to disable prefixing";
                errors.required(format!("{path}.prefix"), text);
            }
            (false, true) => {}
        }
        None
    }
}

/// The one provider that flags can describe.
fn provider_of_flags(flags: &OidcFlags) -> Result<Option<Provider>, String> {
    let (Some(url), Some(client)) = (&flags.issuer_url, &flags.client_id) else { return Ok(None) };
    let certificate_authority = match &flags.ca_file {
        Some(path) => read(path)?,
        None => String::new(),
    };
    let username = flags.username_claim.clone().unwrap_or_else(|| "sub".to_owned());
    let prefix = match flags.username_prefix.as_deref() {
        // A dash says: none.
        Some("-") => String::new(),
        Some(prefix) if !prefix.is_empty() => prefix.to_owned(),
        _ if username == "email" => String::new(),
        // Names of two providers never mean the same user.
        _ => format!("{url}#"),
    };
    let groups = flags.groups_claim.clone().unwrap_or_default();
    let group_prefix = (!groups.is_empty()).then(|| flags.groups_prefix.clone().unwrap_or_default());
    let rule = |(claim, value): &(String, String)| ClaimRule {
        claim: claim.clone(),
        required_value: value.clone(),
        ..ClaimRule::default()
    };
    let mut algorithms = flags.signing_algs.clone();
    if algorithms.is_empty() {
        algorithms.push("RS256".to_owned());
    }
    Ok(Some(Provider {
        issuer: Issuer {
            url: url.clone(),
            certificate_authority,
            audiences: vec![client.clone()],
            ..Issuer::default()
        },
        claim_validation_rules: flags.required_claim.iter().map(rule).collect(),
        claim_mappings: Mappings {
            username: Mapping { claim: username, prefix: Some(prefix), expression: String::new() },
            groups: Mapping { claim: groups, prefix: group_prefix, expression: String::new() },
            ..Mappings::default()
        },
        algorithms,
        ..Provider::default()
    }))
}

/// A whole file, with its name in the error.
pub(super) fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn check(jwt: &str, expected: &str) {
        let text =
            format!("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- {jwt}\n");
        let found = Configuration::parse(&text, &["https://own".to_owned()]).err().unwrap_or_default();
        assert_eq!(found, expected);
    }

    const GOOD: &str = "audiences: [a]}, claimMappings: {username: {claim: sub, prefix: ''}}";

    #[test]
    fn providers_are_checked() {
        check(&format!("{{issuer: {{url: 'https://x', {GOOD}}}"), "");
        check(&format!("{{issuer: {{url: '', {GOOD}}}"), "jwt[0].issuer.url: Required value");
        check(
            &format!("{{issuer: {{url: 'http://u:p@x?q#f', {GOOD}}}"),
            "[jwt[0].issuer.url: Invalid value: \"http://u:p@x?q#f\": URL scheme must be https, \
             jwt[0].issuer.url: Invalid value: \"http://u:p@x?q#f\": URL must not contain a username or password, \
             jwt[0].issuer.url: Invalid value: \"http://u:p@x?q#f\": URL must not contain a query, \
             jwt[0].issuer.url: Invalid value: \"http://u:p@x?q#f\": URL must not contain a fragment]",
        );
        check(
            &format!("{{issuer: {{url: 'https://own', {GOOD}}}"),
            "jwt[0].issuer.url: Invalid value: \"https://own\": URL must not overlap with disallowed issuers: [https://own]",
        );
        check(
            "{issuer: {url: 'https://x', audiences: [a, b]}, claimMappings: {username: {claim: sub}}}",
            "[jwt[0].issuer.audienceMatchPolicy: Invalid value: \"\": audienceMatchPolicy must be MatchAny for multiple audiences, \
             jwt[0].claimMappings.username.prefix: Required value: prefix is required when claim is set. It can be set to an empty string to disable prefixing]",
        );
    }

    #[test]
    fn expressions_are_compiled_when_they_are_read() {
        let with = |rest: &str| format!("{{issuer: {{url: 'https://x', audiences: [a]}}, {rest}}}");
        check(&with("claimMappings: {username: {expression: claims.sub}}"), "");
        check(
            &with("claimMappings: {username: {expression: claim.sub}, groups: {expression: '[', prefix: ''}}"),
            "[jwt[0].claimMappings.username.expression: Invalid value: \"claim.sub\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'claim' (in container '')\n | claim.sub\n | ^, \
             jwt[0].claimMappings.groups.prefix: Invalid value: \"\": may not be specified when expression is set, \
             jwt[0].claimMappings.groups.expression: Invalid value: \"[\": compilation failed: ERROR: <input>:1:2: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}\n | [\n | .^]",
        );
        check(
            &with("claimMappings: {username: {expression: claims.email}}"),
            "jwt[0].claimMappings.username.expression: Invalid value: \"claims.email\": claims.email_verified must be used in claimMappings.username.expression or claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression",
        );
        check(
            &with(
                "claimMappings: {username: {expression: claims.email}}, claimValidationRules: [{expression: 'claims.?email_verified.orValue(true) == true'}]",
            ),
            "",
        );
        check(
            &with(
                "claimMappings: {username: {expression: claims.sub}}, claimValidationRules: [{expression: claims.ok}, {expression: 'true', requiredValue: x}, {expression: 'true'}], userValidationRules: [{expression: user.name == ''}, {}]",
            ),
            "[jwt[0].claimValidationRules[0].expression: Invalid value: \"claims.ok\": must evaluate to bool, \
             jwt[0].claimValidationRules[1].requiredValue: Invalid value: \"x\": may not be specified when expression is set, \
             jwt[0].claimValidationRules[2].expression: Duplicate value: \"true\", \
             jwt[0].userValidationRules[0].expression: Invalid value: \"user.name == ''\": compilation failed: ERROR: <input>:1:5: undefined field 'name'\n | user.name == ''\n | ....^, \
             jwt[0].userValidationRules[1].expression: Required value]",
        );
        check(
            &with(
                "claimMappings: {username: {expression: claims.sub}, extra: [{key: foo, valueExpression: claims.a}, {key: x.k8s.io/a}, {key: A.io/b, valueExpression: claims.b}]}",
            ),
            "[jwt[0].claimMappings.extra[0].key: Invalid value: \"foo\": must be a domain-prefixed path (such as \"acme.io/foo\"), \
             jwt[0].claimMappings.extra[1].key: Invalid value: \"x.k8s.io/a\": k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use, \
             jwt[0].claimMappings.extra[1].valueExpression: Required value, \
             jwt[0].claimMappings.extra[2].key: Invalid value: \"A.io\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*'), \
             jwt[0].claimMappings.extra[2].key: Invalid value: \"A.io/b\": must be lowercase]",
        );
    }

    #[test]
    fn unknown_fields_and_other_kinds_are_refused() {
        let good = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n";
        assert!(Configuration::parse(good, &[]).is_ok());
        assert!(Configuration::parse(&format!("{good}colour: red\n"), &[]).unwrap_err().contains("colour"));
        assert!(Configuration::parse("kind: Pod\napiVersion: v1\n", &[]).is_err());
        let anonymous = format!("{good}anonymous: {{enabled: false, conditions: [{{path: /x}}]}}\n");
        assert!(Configuration::parse(&anonymous, &[]).unwrap_err().starts_with("anonymous.conditions: Invalid value"));
    }
}
