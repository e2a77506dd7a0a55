//! Checks that claims, classes and slices share.

use super::qualified::c_identifier;
use crate::cel::{Environment, ObjectType, Program, Type};
use crate::checks::{complain, one_of};
use crate::meta::names;
use crate::status::{FieldErrors, Path};
use crate::storage::driver_name;
use crate::tree::{list, some_text, text};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::LazyLock;

pub(super) const MAX_SELECTORS: usize = 32;
pub(super) const MAX_CONFIGS: usize = 32;
const MAX_EXPRESSION_BYTES: usize = 10 * 1024;
const MAX_PARAMETER_BYTES: usize = 10 * 1024;
const MAX_CONDITIONS: usize = 4;
pub(super) const MAX_TAINTS: usize = 16;
const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "None"];

/// Looks at each item, unless there are too many of them.
pub(super) fn items(
    value: &Value,
    max: usize,
    path: Path<'_>,
    errors: &mut FieldErrors,
    mut check: impl FnMut(&Value, Path<'_>, &mut FieldErrors),
) {
    let all = list(value);
    if all.len() > max {
        return errors.too_many(path, all.len(), max);
    }
    for (i, item) in all.iter().enumerate() {
        check(item, path.index(i), errors);
    }
}

/// The same for items that differ in what `key` makes of them.
pub(super) fn set(
    value: &Value,
    max: usize,
    key: impl Fn(&Value) -> &str,
    path: Path<'_>,
    errors: &mut FieldErrors,
    check: impl FnMut(&Value, Path<'_>, &mut FieldErrors),
) {
    items(value, max, path, errors, check);
    if list(value).len() <= max {
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        for (i, item) in list(value).iter().enumerate() {
            if !seen.insert(key(item)) {
                errors.duplicate(path.index(i), key(item));
            }
        }
    }
}

/// The name of a request, a device or a counter.
pub(super) fn label(value: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    complain(names::dns_label(text(value)), text(value), path, errors);
}

/// The name of a pool: subdomains separated by slashes.
pub(super) fn pool(value: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let Some(name) = some_text(value) else { return errors.required(path, "") };
    if name.len() > names::SUBDOMAIN_MAX {
        errors.too_long(path, names::SUBDOMAIN_MAX);
    }
    for part in name.split('/') {
        complain(names::dns_subdomain(part), part, path, errors);
    }
}

/// What a selector's expression may ask of a device.
static ENVIRONMENT: LazyLock<Environment> = LazyLock::new(|| {
    let of_domains = |of| Type::map(Type::String, Type::map(Type::String, of));
    let fields = [
        ("driver", Type::String),
        ("attributes", of_domains(Type::Dyn)),
        ("capacity", of_domains(Type::Opaque("kubernetes.Quantity"))),
        ("allowMultipleAllocations", Type::Bool),
    ];
    Environment::new([("device", ObjectType::named("kubernetes.DRADevice", fields))])
});

/// An expression about a device that says yes or no.
fn expression(source: &str, path: Path<'_>, errors: &mut FieldErrors) {
    match Program::compile(source, &ENVIRONMENT) {
        Err(error) => errors.invalid(path, source, &format!("compilation failed: {error}")),
        Ok(program) => match program.output() {
            Type::Bool | Type::Dyn => {}
            other => errors.invalid(path, source, &format!("must evaluate to bool or the unknown type, not {other}")),
        },
    }
}

/// Selectors by expression, which are bounded and must compile.
pub(super) fn selectors(value: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    items(value, MAX_SELECTORS, path, errors, |selector, path, errors| {
        let at = path.child("cel");
        if !selector["cel"].is_object() {
            errors.required(at, "");
        } else if text(&selector["cel"]["expression"]).len() > MAX_EXPRESSION_BYTES {
            errors.too_long(at.child("expression"), MAX_EXPRESSION_BYTES);
        } else {
            expression(text(&selector["cel"]["expression"]), at.child("expression"), errors);
        }
    });
}

/// Parameters for a driver that nobody else reads.
pub(super) fn config(config: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let (opaque, at) = (&config["opaque"], path.child("opaque"));
    if !opaque.is_object() {
        return errors.required(at, "");
    }
    driver_name(&opaque["driver"], at.child("driver"), errors);
    raw(&opaque["parameters"], MAX_PARAMETER_BYTES, at.child("parameters"), errors);
}

/// An object of any kind, bounded.
pub(super) fn raw(value: &Value, max_bytes: usize, path: Path<'_>, errors: &mut FieldErrors) {
    if value.is_null() {
        errors.required(path, "");
    } else if value.to_string().len() > max_bytes {
        errors.too_long(path, max_bytes);
    } else if !value.is_object() {
        errors.invalid(path, "<value omitted>", "must be a valid JSON object");
    }
}

fn label_name(value: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    complain(names::qualified_name(text(value)), text(value), path, errors);
}

/// A device's taint.
pub(super) fn taint(taint: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    label_name(&taint["key"], path.child("key"), errors);
    let value = text(&taint["value"]);
    complain(names::label_value(value), value, path.child("value"), errors);
    match some_text(&taint["effect"]) {
        None => errors.required(path.child("effect"), ""),
        Some(_) => one_of(&taint["effect"], path.child("effect"), &EFFECTS, errors),
    }
}

/// What a request tolerates.
pub(super) fn toleration(toleration: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    if some_text(&toleration["key"]).is_some() {
        label_name(&toleration["key"], path.child("key"), errors);
    }
    let value = text(&toleration["value"]);
    match text(&toleration["operator"]) {
        "Exists" if !value.is_empty() => {
            errors.invalid(path.child("value"), value, "must be empty for operator `Exists`");
        }
        "Exists" => {}
        "Equal" => complain(names::label_value(value), value, path.child("value"), errors),
        "" => errors.required(path.child("operator"), ""),
        other => errors.not_supported(path.child("operator"), other, &["Equal", "Exists"]),
    }
    if some_text(&toleration["effect"]).is_some() {
        one_of(&toleration["effect"], path.child("effect"), &EFFECTS, errors);
    }
}

/// Conditions that must be met before a pod is bound, and those that say that they never will be.
pub(super) fn binding(object: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let (wanted, failed) = (&object["bindingConditions"], &object["bindingFailureConditions"]);
    let (at, failed_at) = (path.child("bindingConditions"), path.child("bindingFailureConditions"));
    set(wanted, MAX_CONDITIONS, text, at, errors, label_name);
    set(failed, MAX_CONDITIONS, text, failed_at, errors, label_name);
    for (i, condition) in list(failed).iter().enumerate().filter(|(_, c)| list(wanted).contains(c)) {
        let why = "bindingFailureConditions must not overlap with bindingConditions";
        errors.invalid(failed_at.index(i), condition, why);
    }
    match (list(wanted).is_empty(), list(failed).is_empty()) {
        (true, false) => errors.invalid(at, wanted, "bindingConditions are required to use bindingFailureConditions"),
        (false, true) => {
            errors.invalid(failed_at, failed, "bindingFailureConditions are required to use bindingConditions");
        }
        _ => {}
    }
}

/// `name` or `example.com/name`.
pub(super) fn qualified(name: &str, path: Path<'_>, errors: &mut FieldErrors) {
    match name.split_once('/') {
        None => c_identifier(name, path, errors),
        Some((_, rest)) if rest.contains('/') => {
            errors.invalid(path, name, "must not contain more than one slash");
        }
        Some((domain, rest)) => {
            match domain {
                "" => errors.invalid(path, "", "the domain must not be empty"),
                domain => driver_name(&domain.into(), path, errors),
            }
            match rest {
                "" => errors.invalid(path, "", "the name must not be empty"),
                rest => c_identifier(rest, path, errors),
            }
        }
    }
}

/// `example.com/name`.
pub(super) fn fully_qualified(name: &str, path: Path<'_>, errors: &mut FieldErrors) {
    qualified(name, path, errors);
    if !name.contains('/') {
        errors.invalid(path, name, "a fully qualified name must be a domain and a name separated by a slash");
    }
}
