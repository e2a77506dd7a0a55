//! The expressions of an identity provider: compiled when its configuration is read, asked for every token.

use super::User;
use naru_api::cel::{Environment, EvalError, ObjectType, Program, Type, USUAL_LIMIT, Value};
use naru_api::status::FieldErrors;
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeMap;
use std::fmt::Display;

/// A rule with what is said when it does not hold.
type Rule = (Program, String);

/// What a provider's configuration computes, rather than takes from a claim.
#[derive(Debug, Clone, Default)]
pub(super) struct Expressions {
    pub(super) username: Option<Program>,
    pub(super) groups: Option<Program>,
    pub(super) uid: Option<Program>,
    pub(super) extra: Vec<(String, Program)>,
    pub(super) claim_rules: Vec<Rule>,
    pub(super) user_rules: Vec<Rule>,
}

fn string_lists() -> Type {
    Type::map(Type::String, Type::list(Type::String))
}

/// An expression about a token's claims.
pub(super) fn of_claims(
    at: impl Display,
    source: &str,
    wanted: Option<&Type>,
    errors: &mut FieldErrors,
) -> Option<Program> {
    let claims = Type::map(Type::String, Type::Dyn);
    compile(at, source, &Environment::new([("claims", claims)]), wanted, errors)
}

/// A condition on the user that came out.
pub(super) fn of_user(at: impl Display, source: &str, errors: &mut FieldErrors) -> Option<Program> {
    let user = ObjectType::named(
        "kubernetes.UserInfo",
        [
            ("username", Type::String),
            ("uid", Type::String),
            ("groups", Type::list(Type::String)),
            ("extra", string_lists()),
        ],
    );
    compile(at, source, &Environment::new([("user", user)]), Some(&Type::Bool), errors)
}

fn compile(
    at: impl Display,
    source: &str,
    environment: &Environment,
    wanted: Option<&Type>,
    errors: &mut FieldErrors,
) -> Option<Program> {
    match Program::compile(source, environment) {
        Err(error) => errors.invalid(at, source, &format!("compilation failed: {error}")),
        Ok(program) => match wanted.filter(|wanted| *wanted != program.output()) {
            Some(wanted) => errors.invalid(at, source, &format!("must evaluate to {wanted}")),
            None => return Some(program),
        },
    }
    None
}

impl Expressions {
    /// Whether an address names the user without anybody asking if it was verified.
    pub(super) fn trusts_unverified_email(&self) -> bool {
        let uses = |program: &Program, claim: &str| program.selects(Some("claims"), claim);
        let verified = |program: &Program| uses(program, "email_verified");
        self.username.as_ref().is_some_and(|name| uses(name, "email") && !verified(name))
            && !self.extra.iter().any(|(_, program)| verified(program))
            && !self.claim_rules.iter().any(|(program, _)| verified(program))
    }

    /// The name, where an expression gives it.
    pub(super) fn username(&self, claims: &Map<String, Json>) -> Result<Option<String>, String> {
        let Some(program) = &self.username else { return Ok(None) };
        let failed = |reason: String| format!("oidc: error evaluating username claim expression: {reason}");
        match about_claims(program, claims, text).map_err(failed)? {
            None => Err(failed("username claim expression must return a string".to_owned())),
            Some(name) if name.is_empty() => Err("oidc: empty username via CEL expression is not allowed".to_owned()),
            name => Ok(name),
        }
    }

    /// The groups, where an expression gives them.
    pub(super) fn groups(&self, claims: &Map<String, Json>) -> Result<Option<Vec<String>>, String> {
        let Some(program) = &self.groups else { return Ok(None) };
        let found = about_claims(program, claims, texts).and_then(|found| found);
        found.map(Some).map_err(|reason| format!("oidc: error evaluating group claim expression: {reason}"))
    }

    /// The uid, where an expression gives it.
    pub(super) fn uid(&self, claims: &Map<String, Json>) -> Result<Option<String>, String> {
        let Some(program) = &self.uid else { return Ok(None) };
        let failed = |reason: String| format!("oidc: error evaluating uid claim expression: {reason}");
        let found = about_claims(program, claims, text).map_err(failed)?;
        found.map(Some).ok_or_else(|| failed("uid claim expression must return a string".to_owned()))
    }

    /// What else is said about the user; nothing is said by what is empty.
    pub(super) fn extra(&self, claims: &Map<String, Json>) -> Result<BTreeMap<String, Vec<String>>, String> {
        let mut extra = BTreeMap::new();
        for (key, program) in &self.extra {
            let found = about_claims(program, claims, texts)?;
            let found = found.map_err(|reason| {
                format!("oidc: error evaluating extra claim expression: {}: {reason}", program.source())
            })?;
            if !found.is_empty() {
                extra.insert(key.clone(), found);
            }
        }
        Ok(extra)
    }

    /// Whether the token's claims are as they must be.
    pub(super) fn check_claims(&self, claims: &Map<String, Json>) -> Result<(), String> {
        let found = self.claim_rules.iter().try_for_each(|rule| holds(rule, "claims", Value::Object(claims)));
        found.map_err(|reason| format!("oidc: error evaluating claim validation expression: {reason}"))
    }

    /// Whether the user is as it must be. Its groups are those that the provider gives.
    pub(super) fn check_user(&self, user: &User, groups: &[String]) -> Result<(), String> {
        if self.user_rules.is_empty() {
            return Ok(());
        }
        let user = json!({ "username": user.name, "uid": user.uid, "groups": groups, "extra": user.extra });
        let found = self.user_rules.iter().try_for_each(|rule| holds(rule, "user", Value::from(&user)));
        found.map_err(|reason| format!("oidc: error evaluating user info validation rule: {reason}"))
    }
}

fn failed(program: &Program, error: &EvalError) -> String {
    format!("expression '{}' resulted in error: {error}", program.source())
}

fn about_claims<T>(program: &Program, claims: &Map<String, Json>, read: fn(&Value<'_>) -> T) -> Result<T, String> {
    let given = [("claims", Value::Object(claims))];
    let found = program.evaluate(&given, USUAL_LIMIT);
    found.map(|value| read(&value)).map_err(|error| failed(program, &error))
}

fn holds((program, message): &Rule, name: &str, value: Value<'_>) -> Result<(), String> {
    let given = [(name, value)];
    match program.evaluate(&given, USUAL_LIMIT) {
        Ok(Value::Bool(true)) => Ok(()),
        Ok(Value::Bool(false)) => Err(format!("validation expression '{}' failed: {message}", program.source())),
        Ok(_) => Err("validation expression must return a boolean".to_owned()),
        Err(error) => Err(failed(program, &error)),
    }
}

fn text(value: &Value<'_>) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone().into_owned()),
        _ => None,
    }
}

/// A text or a list of texts, without the empty ones.
fn texts(value: &Value<'_>) -> Result<Vec<String>, String> {
    let found = match (value.elements(), value) {
        (_, Value::Null) => Some(Vec::new()),
        (Some(elements), _) => elements.iter().map(text).collect(),
        (None, one) => text(one).map(|one| vec![one]),
    };
    let found = found.ok_or("expression must return a string or a list of strings")?;
    Ok(found.into_iter().filter(|one| !one.is_empty()).collect())
}
