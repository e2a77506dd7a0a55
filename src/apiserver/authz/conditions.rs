//! Which questions a webhook is asked: expressions about the question, compiled when the configuration is read.

use super::Attributes;
use super::webhook::{field_requirements, label_requirements};
use crate::authn::User;
use naru_api::cel::{Environment, ObjectType, Program, Type, USUAL_LIMIT, Value};
use naru_api::status::FieldErrors;
use serde_json::{Value as Json, json};

/// All must hold.
#[derive(Debug, Clone, Default)]
pub(super) struct Conditions {
    programs: Vec<Program>,
}

fn strings() -> Type {
    Type::list(Type::String)
}

/// The question, as expressions see it.
fn environment() -> Environment {
    let requirement = ObjectType::named(
        "kubernetes.SelectorRequirement",
        [("key", Type::String), ("operator", Type::String), ("values", strings())],
    );
    let selector = |name: &str| {
        let requirements = Type::list(requirement.clone());
        ObjectType::named(name, [("rawSelector", Type::String), ("requirements", requirements)])
    };
    let texts = ["namespace", "verb", "group", "version", "resource", "subresource", "name"];
    let resource = texts.map(|name| (name, Type::String)).into_iter().chain([
        ("fieldSelector", selector("kubernetes.FieldSelectorAttributes")),
        ("labelSelector", selector("kubernetes.LabelSelectorAttributes")),
    ]);
    let other = [("path", Type::String), ("verb", Type::String)];
    let request = [
        ("resourceAttributes", ObjectType::named("kubernetes.ResourceAttributes", resource)),
        ("nonResourceAttributes", ObjectType::named("kubernetes.NonResourceAttributes", other)),
        ("user", Type::String),
        ("groups", strings()),
        ("extra", Type::map(Type::String, strings())),
        ("uid", Type::String),
    ];
    Environment::new([("request", ObjectType::named("kubernetes.SubjectAccessReviewSpec", request))])
}

impl Conditions {
    /// Adds an expression, or says why it is none.
    pub(super) fn add(&mut self, at: &str, expression: &str, errors: &mut FieldErrors) {
        match Program::compile(expression, &environment()) {
            Err(error) => errors.invalid(at, expression, &format!("compilation failed: {error}")),
            Ok(program) if *program.output() != Type::Bool => {
                errors.invalid(at, expression, &format!("must evaluate to bool but got {}", program.output()));
            }
            Ok(program) => self.programs.push(program),
        }
    }

    /// Whether the webhook is to be asked. One that does not hold decides, whatever became of the others.
    pub(super) fn hold(&self, user: &User, attributes: &Attributes<'_>) -> Result<bool, String> {
        if self.programs.is_empty() {
            return Ok(true);
        }
        let request = request(user, attributes);
        let given = [("request", Value::from(&request))];
        let mut errors = Vec::new();
        for program in &self.programs {
            let failed = match program.evaluate(&given, USUAL_LIMIT) {
                Ok(Value::Bool(true)) => continue,
                Ok(Value::Bool(false)) => return Ok(false),
                Ok(_) => "no bool".to_owned(),
                Err(error) => error.to_string(),
            };
            let source = program.source();
            errors.push(format!("cel evaluation error: expression '{source}' resulted in error: {failed}"));
        }
        super::aggregate(&errors).map_or(Ok(true), Err)
    }
}

/// All fields are there, the empty ones too, so that expressions need not ask.
fn request(user: &User, a: &Attributes<'_>) -> Json {
    let mut request = json!({ "user": user.name, "groups": user.groups, "extra": user.extra, "uid": user.uid });
    if !a.is_resource {
        request["nonResourceAttributes"] = json!({ "path": a.path, "verb": a.verb });
        return request;
    }
    let mut about = json!({ "namespace": a.namespace, "verb": a.verb, "group": a.group, "version": a.version,
        "resource": a.resource, "subresource": a.subresource, "name": a.name });
    for (name, requirements) in [("fieldSelector", field_requirements(a)), ("labelSelector", label_requirements(a))] {
        if !requirements.is_empty() {
            about[name] = json!({ "requirements": requirements });
        }
    }
    request["resourceAttributes"] = about;
    request
}

#[cfg(test)]
mod tests {
    use super::*;
    use naru_api::selector::FieldSelector;

    fn check(expressions: &[&str], expected: Result<bool, &str>) {
        let (mut conditions, mut errors) = (Conditions::default(), FieldErrors::default());
        for expression in expressions {
            conditions.add("at", expression, &mut errors);
        }
        assert_eq!(errors.messages(), Vec::<String>::new());
        let user = User::authenticated("jane", ["dev".to_owned()]);
        let fields = FieldSelector::parse("spec.nodeName=a").ok();
        let asked = Attributes {
            verb: "list",
            is_resource: true,
            version: "v1",
            resource: "pods",
            namespace: "kube-system",
            fields: fields.as_ref(),
            ..Attributes::default()
        };
        let found = conditions.hold(&user, &asked);
        assert_eq!(found.as_ref().map_err(String::as_str), expected.as_ref().map_err(|text| *text));
    }

    #[test]
    fn questions_are_chosen_by_expressions() {
        check(&[], Ok(true));
        check(&["has(request.resourceAttributes)", "request.resourceAttributes.namespace == 'kube-system'"], Ok(true));
        check(&["!('dev' in request.groups)"], Ok(false));
        check(&["has(request.nonResourceAttributes)"], Ok(false));
        check(
            &[
                "request.resourceAttributes.fieldSelector.requirements.exists(r, r.key == 'spec.nodeName' && r.values == ['a'])",
            ],
            Ok(true),
        );
        check(&["request.?resourceAttributes.labelSelector.hasValue()"], Ok(false));
        let failing = "request.nonResourceAttributes.path == '/x'";
        check(&[failing, "false"], Ok(false));
        check(
            &[failing, "true"],
            Err(
                "cel evaluation error: expression 'request.nonResourceAttributes.path == '/x'' resulted in error: no such key: nonResourceAttributes",
            ),
        );
    }
}
