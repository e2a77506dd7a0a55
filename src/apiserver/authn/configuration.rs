//! The AuthenticationConfiguration: identity providers and what anonymous requests may see, from a file or from the
//! `oidc-*` flags.

use crate::flags::{Flags, OidcFlags};
use naru_api::status::FieldErrors;
use serde::Deserialize;
use std::path::Path;

const VERSIONS: [&str; 3] =
    ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1", "apiserver.config.k8s.io/v1alpha1"];

/// Said of every expression: nothing evaluates them yet.
const NO_EXPRESSIONS: &str = "CEL expressions are not supported yet; use claim and prefix";

/// The document.
#[derive(Debug, Clone, Default, Deserialize, PartialEq)]
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
#[derive(Debug, Clone, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Provider {
    pub(super) issuer: Issuer,
    pub(super) claim_validation_rules: Vec<ClaimRule>,
    pub(super) claim_mappings: Mappings,
    user_validation_rules: Vec<UserRule>,
    /// The signature algorithms of its tokens, from the flags; empty: all that are safe.
    #[serde(skip)]
    pub(super) algorithms: Vec<String>,
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
    egress_selector_type: String,
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
        let configuration: Self = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
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
        let configuration = Self { jwt: vec![provider], ..Self::default() };
        let mut errors = FieldErrors::default();
        configuration.validate(own, &mut errors);
        errors.aggregate().map_or(Ok(configuration), Err)
    }

    fn validate(&self, own: &[String], errors: &mut FieldErrors) {
        const MOST: usize = 64;
        if self.jwt.len() > MOST {
            errors.too_many("jwt", self.jwt.len(), MOST);
            return;
        }
        for (index, provider) in self.jwt.iter().enumerate() {
            let path = format!("jwt[{index}]");
            provider.validate(&path, own, errors);
            let earlier = &self.jwt[..index];
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
    fn validate(&self, path: &str, own: &[String], errors: &mut FieldErrors) {
        self.issuer.validate(&format!("{path}.issuer"), own, errors);
        for (index, rule) in self.claim_validation_rules.iter().enumerate() {
            let at = format!("{path}.claimValidationRules[{index}]");
            match (rule.claim.is_empty(), rule.expression.is_empty()) {
                (false, false) => errors.invalid(at, rule.claim.as_str(), "claim and expression can't both be set"),
                (true, true) => errors.required(at, "claim or expression is required"),
                (true, false) => errors.invalid(format!("{at}.expression"), rule.expression.as_str(), NO_EXPRESSIONS),
                (false, true) => {
                    if !rule.message.is_empty() {
                        let text = "may not be specified when claim is set";
                        errors.invalid(format!("{at}.message"), rule.message.as_str(), text);
                    }
                    if self.claim_validation_rules[..index].iter().any(|other| other.claim == rule.claim) {
                        errors.duplicate(format!("{at}.claim"), rule.claim.as_str());
                    }
                }
            }
        }
        self.claim_mappings.validate(&format!("{path}.claimMappings"), errors);
        for (index, rule) in self.user_validation_rules.iter().enumerate() {
            let at = format!("{path}.userValidationRules[{index}].expression");
            match rule.expression.as_str() {
                "" => errors.required(at, ""),
                expression => errors.invalid(at, expression, NO_EXPRESSIONS),
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
    fn validate(&self, path: &str, errors: &mut FieldErrors) {
        self.username.validate(&format!("{path}.username"), true, errors);
        self.groups.validate(&format!("{path}.groups"), false, errors);
        let at = format!("{path}.uid");
        match (self.uid.claim.is_empty(), self.uid.expression.is_empty()) {
            (false, false) => errors.invalid(&at, "", "claim and expression can't both be set"),
            (_, false) => errors.invalid(format!("{at}.expression"), self.uid.expression.as_str(), NO_EXPRESSIONS),
            _ => {}
        }
        for (index, extra) in self.extra.iter().enumerate() {
            let at = format!("{path}.extra[{index}]");
            if extra.key.is_empty() {
                errors.required(format!("{at}.key"), "");
            }
            match extra.value_expression.as_str() {
                "" => errors.required(format!("{at}.valueExpression"), ""),
                expression => errors.invalid(format!("{at}.valueExpression"), expression, NO_EXPRESSIONS),
            }
        }
    }
}

impl Mapping {
    fn validate(&self, path: &str, required: bool, errors: &mut FieldErrors) {
        match (self.claim.is_empty(), self.expression.is_empty()) {
            (false, false) => errors.invalid(path, "", "claim and expression can't both be set"),
            (true, true) if required => errors.required(path, "claim or expression is required"),
            (true, true) => {}
            (true, false) => {
                if let Some(prefix) = &self.prefix {
                    let text = "may not be specified when expression is set";
                    errors.invalid(format!("{path}.prefix"), prefix.as_str(), text);
                }
                errors.invalid(format!("{path}.expression"), self.expression.as_str(), NO_EXPRESSIONS);
            }
            (false, true) if self.prefix.is_none() => {
                let text =
                    "prefix is required when claim is set. It can be set to an empty string to disable prefixing";
                errors.required(format!("{path}.prefix"), text);
            }
            (false, true) => {}
        }
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
        user_validation_rules: Vec::new(),
        algorithms,
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
        check(
            "{issuer: {url: 'https://x', audiences: [a]}, claimMappings: {username: {expression: claims.sub}}}",
            "jwt[0].claimMappings.username.expression: Invalid value: \"claims.sub\": CEL expressions are not supported yet; use claim and prefix",
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
