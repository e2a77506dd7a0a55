//! PriorityLevelConfiguration: how many requests of a level run at once, and what the others do.

use crate::meta::prepare::{create_with, update as prepare_update};
use crate::registry::{Action, Churn, Column, Resource, Rules, Scope, Subresource, verbs};
use crate::status::{FieldErrors, Path};
use crate::table;
use crate::tree::{self, int, text};
use serde_json::{Value, json};

/// PriorityLevelConfigurations.
pub static PRIORITY_LEVEL_CONFIGURATIONS: Resource = Resource {
    group: "flowcontrol.apiserver.k8s.io",
    version: "v1",
    kind: "PriorityLevelConfiguration",
    plural: "prioritylevelconfigurations",
    singular: "prioritylevelconfiguration",
    scope: Scope::Cluster,
    verbs: verbs::ALL,
    short_names: &[],
    categories: &[],
    type_name: "io.k8s.api.flowcontrol.v1.PriorityLevelConfiguration",
    churn: Churn::Durable,
    subresources: &[Subresource {
        name: "status",
        gvk: ("flowcontrol.apiserver.k8s.io", "v1", "PriorityLevelConfiguration"),
        verbs: verbs::GET_PATCH_UPDATE,
        action: Action::Status,
    }],
    columns: &[
        Column::NAME,
        Column::new("Type", "string"),
        Column::new("NominalConcurrencyShares", "string"),
        Column::new("Queues", "string"),
        Column::new("HandSize", "string"),
        Column::new("QueueLengthLimit", "string"),
        Column::new("Age", "string"),
    ],
    rules: Rules {
        default,
        prepare_create,
        prepare_update,
        row,
        validate,
        validate_status: |new, _, errors| super::conditions(new, errors),
        ..Rules::NONE
    },
};

const EXEMPT: &str = "exempt";
const MAX_QUEUES: i64 = 10_000_000;
/// How many bits of hash there are to deal hands from.
const MAX_HASH_BITS: i64 = 60;

fn default(level: &mut Value) {
    let spec = tree::ensure(tree::object(level), "spec");
    if let Some(exempt) = tree::sub(spec, "exempt") {
        tree::default(exempt, "nominalConcurrencyShares", 0);
        tree::default(exempt, "lendablePercent", 0);
    }
    if let Some(limited) = tree::sub(spec, "limited") {
        tree::default(limited, "nominalConcurrencyShares", 30);
        tree::default(limited, "lendablePercent", 0);
        if let Some(queuing) = tree::sub(limited, "limitResponse").and_then(|response| tree::sub(response, "queuing")) {
            tree::default_zero(queuing, "queues", 64);
            tree::default_zero(queuing, "handSize", 8);
            tree::default_zero(queuing, "queueLengthLimit", 50);
        }
    }
}

fn prepare_create(level: &mut Value) {
    create_with(level, json!({}));
}

fn row(level: &Value, now: i64) -> Vec<Value> {
    let limited = &level["spec"]["limited"];
    let queuing = &limited["limitResponse"]["queuing"];
    let number = |part: &Value, field: &str| match part.is_object() {
        true => Value::from(int(&part[field])),
        false => "<none>".into(),
    };
    vec![
        table::name(level),
        text(&level["spec"]["type"]).into(),
        number(limited, "nominalConcurrencyShares"),
        number(queuing, "queues"),
        number(queuing, "handSize"),
        number(queuing, "queueLengthLimit"),
        table::created(level, now),
    ]
}

fn validate(level: &Value, errors: &mut FieldErrors) {
    let (spec, path) = (&level["spec"], Path::root("spec"));
    let (name, kind) = (text(&level["metadata"]["name"]), text(&spec["type"]));
    if (name == EXEMPT) != (kind == "Exempt") {
        errors.invalid(path.child("type"), kind, "type must be 'Exempt' if and only if name is 'exempt'");
    }
    let (exempt, limited) = (&spec["exempt"], &spec["limited"]);
    match kind {
        "Exempt" => {
            if limited.is_object() {
                errors.forbidden(path.child("limited"), "must be nil if the type is not Limited");
            }
            shares(exempt, path.child("exempt"), errors);
        }
        "Limited" => {
            if exempt.is_object() {
                errors.forbidden(path.child("exempt"), "must be nil if the type is Limited");
            }
            match limited.is_object() {
                true => self::limited(limited, path.child("limited"), errors),
                false => errors.required(path.child("limited"), "must not be empty when type is Limited"),
            }
        }
        other => errors.not_supported(path.child("type"), other, &["Exempt", "Limited"]),
    }
    mandatory(name, spec, path, errors);
    super::conditions(level, errors);
}

/// What the two levels that always exist may not change.
fn mandatory(name: &str, spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let (fixed, except) = match name {
        EXEMPT => (json!({"type": "Exempt", "exempt": spec["exempt"]}), " except the 'spec.exempt' field"),
        "catch-all" => {
            let limited =
                json!({"nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"}});
            (json!({"type": "Limited", "limited": limited}), "")
        }
        _ => return,
    };
    let differs = ["type", "exempt", "limited"].iter().any(|field| spec[field] != fixed[field]);
    if differs {
        errors.invalid(path, spec, &format!("spec of '{name}'{except} must equal the fixed value"));
    }
}

fn shares(part: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let shares = int(&part["nominalConcurrencyShares"]);
    if shares < 0 {
        errors.invalid(path.child("nominalConcurrencyShares"), shares, "must be a non-negative integer");
    }
    let lendable = int(&part["lendablePercent"]);
    if !(0..=100).contains(&lendable) {
        errors.invalid(path.child("lendablePercent"), lendable, "must be between 0 and 100, inclusive");
    }
}

fn limited(limited: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    shares(limited, path, errors);
    let borrowing = int(&limited["borrowingLimitPercent"]);
    if borrowing < 0 {
        let why = "if specified, must be a non-negative integer";
        errors.invalid(path.child("borrowingLimitPercent"), borrowing, why);
    }
    let (response, at) = (&limited["limitResponse"], path.child("limitResponse"));
    let queuing = &response["queuing"];
    match text(&response["type"]) {
        "Reject" if queuing.is_object() => {
            errors.forbidden(at.child("queuing"), "must be nil if limited.limitResponse.type is not Limited");
        }
        "Reject" => {}
        "Queue" if queuing.is_object() => self::queuing(queuing, at.child("queuing"), errors),
        "Queue" => errors.required(at.child("queuing"), "must not be empty if limited.limitResponse.type is Limited"),
        other => errors.not_supported(at.child("type"), other, &["Queue", "Reject"]),
    }
}

fn queuing(queuing: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let (length, queues, hand) =
        (int(&queuing["queueLengthLimit"]), int(&queuing["queues"]), int(&queuing["handSize"]));
    if length <= 0 {
        errors.invalid(path.child("queueLengthLimit"), length, "must be positive");
    }
    if queues <= 0 {
        errors.invalid(path.child("queues"), queues, "must be positive");
    } else if queues > MAX_QUEUES {
        errors.invalid(path.child("queues"), queues, &format!("must not be greater than {MAX_QUEUES}"));
    }
    let at = path.child("handSize");
    if hand <= 0 {
        errors.invalid(at, hand, "must be positive");
    } else if hand > queues {
        errors.invalid(at, hand, &format!("should not be greater than queues ({queues})"));
    } else if entropy_bits(queues, hand) > MAX_HASH_BITS {
        let why = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {MAX_HASH_BITS}"
        );
        errors.invalid(at, hand, &why);
    }
}

/// How many bits of hash it takes to deal a hand from a deck.
fn entropy_bits(deck: i64, hand: i64) -> i64 {
    ((deck as f64).log2() * hand as f64).ceil() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors_of(name: &str, spec: Value) -> Vec<String> {
        let mut level = json!({"metadata": {"name": name}, "spec": spec});
        default(&mut level);
        let mut errors = FieldErrors::default();
        validate(&level, &mut errors);
        errors.messages()
    }

    #[test]
    fn queues_are_completed() {
        let mut level =
            json!({"spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {}}}}});
        default(&mut level);
        assert_eq!(
            level["spec"]["limited"],
            json!({"nominalConcurrencyShares": 30, "lendablePercent": 0, "limitResponse": {"type": "Queue",
                "queuing": {"queues": 64, "handSize": 8, "queueLengthLimit": 50}}})
        );
    }

    #[test]
    fn mandatory_levels_are_fixed() {
        assert_eq!(errors_of("exempt", json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 10}})), [""; 0]);
        let spec =
            json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 5, "limitResponse": {"type": "Reject"}}});
        assert_eq!(errors_of("catch-all", spec.clone()), [""; 0]);
        let mut other = spec;
        other["limited"]["lendablePercent"] = 1.into();
        assert_eq!(
            errors_of("catch-all", other.clone()),
            [format!("spec: Invalid value: {other}: spec of 'catch-all' must equal the fixed value")]
        );
        assert_eq!(
            errors_of("x", json!({"type": "Exempt"})),
            ["spec.type: Invalid value: \"Exempt\": type must be 'Exempt' if and only if name is 'exempt'"]
        );
    }

    #[test]
    fn what_can_be_wrong() {
        let limited = |limited: Value| errors_of("x", json!({"type": "Limited", "limited": limited}));
        assert_eq!(
            errors_of("x", json!({"type": "Limited"})),
            ["spec.limited: Required value: must not be empty when type is Limited"]
        );
        assert_eq!(
            limited(
                json!({"nominalConcurrencyShares": -1, "lendablePercent": 101, "borrowingLimitPercent": -1, "limitResponse": {"type": "Queue"}})
            ),
            [
                "spec.limited.nominalConcurrencyShares: Invalid value: -1: must be a non-negative integer",
                "spec.limited.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive",
                "spec.limited.borrowingLimitPercent: Invalid value: -1: if specified, must be a non-negative integer",
                "spec.limited.limitResponse.queuing: Required value: must not be empty if limited.limitResponse.type is Limited",
            ]
        );
        assert_eq!(
            limited(
                json!({"limitResponse": {"type": "Queue", "queuing": {"queues": 512, "handSize": 8, "queueLengthLimit": -1}}})
            ),
            [
                "spec.limited.limitResponse.queuing.queueLengthLimit: Invalid value: -1: must be positive",
                "spec.limited.limitResponse.queuing.handSize: Invalid value: 8: required entropy bits of deckSize 512 and handSize 8 should not be greater than 60",
            ]
        );
    }
}
