//! ServiceCIDR: a range (or one for each family) that Services get their addresses from.

use crate::meta::prepare::keep_status;
use crate::registry::{Action, Churn, Column, Resource, Rules, Scope, Subresource, verbs};
use crate::status::{FieldErrors, Path};
use crate::tree::{self, list, text};
use crate::{address, table};
use serde_json::{Value, json};

/// ServiceCIDRs.
pub static SERVICE_CIDRS: Resource = Resource {
    group: "networking.k8s.io",
    version: "v1",
    kind: "ServiceCIDR",
    plural: "servicecidrs",
    singular: "servicecidr",
    scope: Scope::Cluster,
    verbs: verbs::ALL,
    short_names: &[],
    categories: &[],
    type_name: "io.k8s.api.networking.v1.ServiceCIDR",
    churn: Churn::Durable,
    subresources: &[Subresource {
        name: "status",
        gvk: ("networking.k8s.io", "v1", "ServiceCIDR"),
        verbs: verbs::GET_PATCH_UPDATE,
        action: Action::Status,
    }],
    columns: &[Column::NAME, Column::new("CIDRs", "string"), Column::new("Age", "string")],
    rules: Rules {
        prepare_create: drop_status,
        prepare_update: keep_status,
        row,
        validate,
        validate_update,
        ..Rules::NONE
    },
};

/// The status is the controller's.
fn drop_status(range: &mut Value) {
    tree::object(range).remove("status");
}

fn row(range: &Value, now: i64) -> Vec<Value> {
    let cidrs: Vec<&str> = list(&range["spec"]["cidrs"]).iter().map(text).collect();
    vec![table::name(range), cidrs.join(",").into(), table::created(range, now)]
}

fn validate(range: &Value, errors: &mut FieldErrors) {
    let (spec, cidrs) = (Path::root("spec"), list(&range["spec"]["cidrs"]));
    let path = spec.child("cidrs");
    if cidrs.is_empty() {
        errors.required(path, "at least one CIDR required");
        return;
    }
    if cidrs.len() > 2 {
        errors.invalid(path, json!({ "CIDRs": cidrs }), "may only hold up to 2 values");
        return;
    }
    for (i, cidr) in cidrs.iter().enumerate() {
        address::check_canonical_cidr(text(cidr), path.index(i), errors);
    }
    let families: Vec<bool> =
        cidrs.iter().filter_map(|c| address::parse_cidr(text(c))).map(|c| c.network.is_ipv4()).collect();
    if let [first, second] = families[..]
        && first == second
    {
        let why = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errors.invalid(path, &range["spec"]["cidrs"], why);
    }
}

/// Ranges stay; only a second one, of the other family, may join.
fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let spec = Path::root("spec");
    let path = spec.child("cidrs");
    let (added, before) = (list(&new["spec"]["cidrs"]), list(&old["spec"]["cidrs"]));
    if added.len() != before.len() && (before.len(), added.len()) != (1, 2) {
        errors.immutable(path, &new["spec"]["cidrs"]);
        return;
    }
    for (i, (new, _)) in added.iter().zip(before).enumerate().filter(|(_, (new, old))| new != old) {
        errors.immutable(path.index(i), new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(cidrs: &[&str]) -> Value {
        json!({"metadata": {"name": "r"}, "spec": {"cidrs": cidrs}})
    }

    #[test]
    fn ranges_are_checked() {
        let check = |cidrs: &[&str], expect: &[&str]| {
            let mut errors = FieldErrors::default();
            validate(&object(cidrs), &mut errors);
            assert_eq!(errors.messages(), expect);
        };
        check(&["10.43.0.0/16"], &[]);
        check(&["10.43.0.0/16", "fd00::/112"], &[]);
        check(&[], &["spec.cidrs: Required value: at least one CIDR required"]);
        check(
            &["1.0.0.0/8", "2.0.0.0/8", "x"],
            &[r#"spec.cidrs: Invalid value: {"CIDRs":["1.0.0.0/8","2.0.0.0/8","x"]}: may only hold up to 2 values"#],
        );
        check(
            &["1.0.0.1/8", "2.0.0.0/8"],
            &[
                r#"spec.cidrs[0]: Invalid value: "1.0.0.1/8": must not have bits set beyond the prefix length"#,
                r#"spec.cidrs: Invalid value: ["1.0.0.1/8","2.0.0.0/8"]: may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"#,
            ],
        );
    }

    #[test]
    fn ranges_are_kept() {
        let check = |old: &[&str], new: &[&str], expect: &[&str]| {
            let mut errors = FieldErrors::default();
            validate_update(&object(new), &object(old), &mut errors);
            assert_eq!(errors.messages(), expect);
        };
        let (a, b, six) = ("10.0.0.0/8", "11.0.0.0/8", "fd00::/112");
        check(&[a], &[a], &[]);
        check(&[a], &[a, six], &[]);
        check(&[a], &[b], &[r#"spec.cidrs[0]: Invalid value: "11.0.0.0/8": field is immutable"#]);
        check(&[a, six], &[a], &[r#"spec.cidrs: Invalid value: ["10.0.0.0/8"]: field is immutable"#]);
    }

    #[test]
    fn rows_of_ranges() {
        assert_eq!(row(&object(&["10.43.0.0/16", "fd00::/112"]), 0)[1], "10.43.0.0/16,fd00::/112");
    }
}
