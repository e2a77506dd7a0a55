//! Address families of a Service: what its policy, its families and its addresses mean together, and what the
//! cluster adds to them.

use super::update::needs_cluster_ip;
use super::validate;
use crate::status::{FieldErrors, Path};
use crate::tree::{is_empty, list, some_text, text};
use serde_json::{Value, json};

/// The families that the cluster has addresses of, its own first.
pub type Families<'a> = &'a [&'a str];

/// The family of an address, by its spelling.
pub fn of_address(address: &str) -> &'static str {
    if address.contains(':') { "IPv6" } else { "IPv4" }
}

fn other(family: &str) -> &'static str {
    if family == "IPv4" { "IPv6" } else { "IPv4" }
}

fn is_selectorless_headless(spec: &Value) -> bool {
    spec["clusterIP"] == "None" && is_empty(&spec["selector"])
}

/// Completes `ipFamilyPolicy` and `ipFamilies` of a new or changed Service before addresses are allocated. `old`
/// is its state before an update.
pub fn complete(service: &mut Value, old: Option<&Value>, cluster: Families<'_>) -> FieldErrors {
    let mut errors = FieldErrors::default();
    let old = old.map(|old| &old["spec"]);
    let spec = &mut service["spec"];
    if spec["type"] == "ExternalName" || is_unchanged_preference(spec, old) {
        return errors;
    }
    if spec["ipFamilyPolicy"].is_null() {
        spec["ipFamilyPolicy"] = match old.map(|old| &old["ipFamilyPolicy"]) {
            Some(policy) if !policy.is_null() => policy.clone(),
            _ if is_selectorless_headless(spec) => "RequireDualStack".into(),
            _ => "SingleStack".into(),
        };
    }
    validate::cluster_addresses(spec, &mut errors);
    if !errors.is_empty() {
        return errors;
    }
    if let Some(old) = old {
        release(spec, old, &mut errors);
    }
    policy_fits(spec, &mut errors);
    infer(spec, cluster, &mut errors);
    if !errors.is_empty() {
        return errors;
    }
    if is_selectorless_headless(spec) {
        // Whoever writes its endpoints knows the families; the cluster need not have them.
        first(spec, cluster);
        second(spec);
        return errors;
    }
    check_cluster(spec, cluster, &mut errors);
    if errors.is_empty() {
        first(spec, cluster);
        if cluster.len() > 1 {
            second(spec);
        }
    }
    errors
}

/// A Service that prefers two families keeps what it has, whatever the cluster has come to since.
fn is_unchanged_preference(spec: &Value, old: Option<&Value>) -> bool {
    let Some(old) = old else { return false };
    let prefers = |spec: &Value| spec["ipFamilyPolicy"] == "PreferDualStack";
    prefers(spec)
        && (old["ipFamilyPolicy"].is_null() || prefers(old))
        && spec["type"] == old["type"]
        && needs_cluster_ip(spec)
        && list(&spec["clusterIPs"]) == list(&old["clusterIPs"])
        && list(&spec["ipFamilies"]) == list(&old["ipFamilies"])
}

/// SingleStack alone is enough to give up the second address; without it nothing may be taken away.
fn release(spec: &mut Value, old: &Value, errors: &mut FieldErrors) {
    let single = spec["ipFamilyPolicy"] == "SingleStack";
    let at = Path::root("spec");
    for (field, what) in [("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")] {
        let (now, before) = (list(&spec[field]).len(), list(&old[field]).len());
        if single {
            if now > 1
                && spec[field] == old[field]
                && let Some(all) = spec[field].as_array_mut()
            {
                all.truncate(1);
            }
        } else if before == 2 && now == 1 {
            let why = format!("must be 'SingleStack' to release the secondary {what}");
            errors.invalid(at.child("ipFamilyPolicy"), &spec["ipFamilyPolicy"], &why);
        }
    }
}

fn policy_fits(spec: &Value, errors: &mut FieldErrors) {
    if spec["ipFamilyPolicy"] != "SingleStack" {
        return;
    }
    for (field, what) in [("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")] {
        if list(&spec[field]).len() == 2 {
            let why = format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified");
            errors.invalid(Path::root("spec").child("ipFamilyPolicy"), &spec["ipFamilyPolicy"], &why);
        }
    }
}

/// Addresses that are given say which families are meant.
fn infer(spec: &mut Value, cluster: Families<'_>, errors: &mut FieldErrors) {
    let ips = spec["clusterIPs"].clone();
    let known = list(&spec["ipFamilies"]).len();
    for (i, ip) in list(&ips).iter().enumerate() {
        if ip == "None" {
            break;
        }
        let family = of_address(text(ip));
        if i < known {
            continue;
        }
        if !cluster.contains(&family) {
            let why = format!("{family} is not configured on this cluster");
            errors.invalid(Path::root("spec").child("clusterIPs").index(i), &ips, &why);
            continue;
        }
        match spec["ipFamilies"].as_array_mut() {
            Some(families) => families.push(family.into()),
            None => spec["ipFamilies"] = json!([family]),
        }
    }
}

fn check_cluster(spec: &Value, cluster: Families<'_>, errors: &mut FieldErrors) {
    let at = Path::root("spec");
    if spec["ipFamilyPolicy"] == "RequireDualStack" && cluster.len() < 2 {
        let why = "this cluster is not configured for dual-stack services";
        errors.invalid(at.child("ipFamilyPolicy"), &spec["ipFamilyPolicy"], why);
    }
    let at = at.child("ipFamilies");
    for (i, family) in list(&spec["ipFamilies"]).iter().enumerate() {
        if !cluster.contains(&text(family)) {
            errors.invalid(at.index(i), family, "not configured on this cluster");
        }
    }
}

fn first(spec: &mut Value, cluster: Families<'_>) {
    if is_empty(&spec["ipFamilies"]) {
        spec["ipFamilies"] = json!([cluster.first().copied().unwrap_or("IPv4")]);
    }
}

fn second(spec: &mut Value) {
    if spec["ipFamilyPolicy"] == "SingleStack" || list(&spec["ipFamilies"]).len() != 1 {
        return;
    }
    let family = some_text(&spec["ipFamilies"][0]).unwrap_or("IPv4");
    spec["ipFamilies"] = json!([family, other(family)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Families<'_> = &["IPv4"];
    const TWO: Families<'_> = &["IPv4", "IPv6"];

    /// The policy and the families that a spec comes to, or what is wrong.
    #[track_caller]
    fn check(spec: Value, old: Option<Value>, cluster: Families<'_>, expect: Result<(&str, &[&str]), &[&str]>) {
        let mut service = json!({ "spec": spec });
        let old = old.map(|spec| json!({ "spec": spec }));
        let errors = complete(&mut service, old.as_ref(), cluster);
        let spec = &service["spec"];
        match expect {
            Ok((policy, families)) => {
                assert_eq!(errors.messages(), [""; 0]);
                assert_eq!((&spec["ipFamilyPolicy"], &spec["ipFamilies"]), (&json!(policy), &json!(families)));
            }
            Err(expect) => assert_eq!(errors.messages(), expect),
        }
    }

    #[test]
    fn new_services_get_policy_and_families() {
        let (v4, both) = (["IPv4"], ["IPv4", "IPv6"]);
        check(json!({"type": "ClusterIP"}), None, TWO, Ok(("SingleStack", &v4)));
        check(json!({"ipFamilyPolicy": "PreferDualStack"}), None, ONE, Ok(("PreferDualStack", &v4)));
        check(json!({"ipFamilyPolicy": "PreferDualStack"}), None, TWO, Ok(("PreferDualStack", &both)));
        let six_first = json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]});
        check(six_first, None, TWO, Ok(("RequireDualStack", &["IPv6", "IPv4"])));
        check(json!({"clusterIP": "None", "clusterIPs": ["None"]}), None, ONE, Ok(("RequireDualStack", &both)));
        let selecting = json!({"clusterIP": "None", "clusterIPs": ["None"], "selector": {"a": "b"}});
        check(selecting, None, ONE, Ok(("SingleStack", &v4)));
        check(json!({"clusterIP": "fd00::5", "clusterIPs": ["fd00::5"]}), None, TWO, Ok(("SingleStack", &["IPv6"])));
    }

    #[test]
    fn what_the_cluster_does_not_have_is_refused() {
        check(
            json!({"ipFamilyPolicy": "RequireDualStack"}),
            None,
            ONE,
            Err(&[
                "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
            ]),
        );
        check(
            json!({"ipFamilies": ["IPv6"]}),
            None,
            ONE,
            Err(&["spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster"]),
        );
        check(
            json!({"clusterIP": "fd00::5", "clusterIPs": ["fd00::5"]}),
            None,
            ONE,
            Err(&["spec.clusterIPs[0]: Invalid value: [\"fd00::5\"]: IPv6 is not configured on this cluster"]),
        );
        check(
            json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4", "IPv6"]}),
            None,
            TWO,
            Err(&[
                "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified",
            ]),
        );
    }

    #[test]
    fn families_come_and_go_by_the_policy() {
        let dual = json!({"type": "ClusterIP", "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"],
            "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"]});
        let mut single = dual.clone();
        single["ipFamilyPolicy"] = "SingleStack".into();
        check(single, Some(dual.clone()), TWO, Ok(("SingleStack", &["IPv4"])));
        let mut fewer = dual.clone();
        fewer["clusterIPs"] = json!(["10.0.0.1"]);
        check(
            fewer,
            Some(dual),
            TWO,
            Err(&[
                "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": must be 'SingleStack' to release the secondary cluster IP",
            ]),
        );
        let one = json!({"type": "ClusterIP", "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"],
            "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]});
        let mut more = one.clone();
        more["ipFamilyPolicy"] = "PreferDualStack".into();
        check(more.clone(), Some(one), TWO, Ok(("PreferDualStack", &["IPv4", "IPv6"])));
        // The cluster got a second family later: nothing happens by itself.
        check(more.clone(), Some(more), TWO, Ok(("PreferDualStack", &["IPv4"])));
    }
}
