//! What a delete asks for: DeleteOptions out of a body, a query or an eviction.

use super::Call;
use super::body;
use super::read::number;
use crate::negotiate;
use crate::response::Failure;
use naru_api::facts;
use naru_api::meta;
use naru_api::registry::{self, Resource};
use naru_api::status::{FieldErrors, Status};
use serde_json::{Value, json};

const TYPE: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
const IGNORE_ERRORS: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";

/// What a delete asks for.
#[derive(Debug, Clone, Default)]
pub(super) struct Options {
    pub(super) grace: Option<i64>,
    uid: Option<String>,
    resource_version: Option<String>,
    pub(super) propagation: Option<Propagation>,
    /// The older way to ask for dependents to go, too, which has an answer of its own.
    pub(super) cascades: bool,
    pub(super) dry_run: bool,
}

/// What becomes of dependents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Propagation {
    Orphan,
    Background,
    Foreground,
}

impl Options {
    /// From the body, or from the query when there is none.
    pub(super) fn of(call: &Call) -> Result<Self, Failure> {
        let options = if call.body.is_empty() { from_query(call)? } else { from_body(call)? };
        Self::checked(&options)
    }

    /// From an eviction, whose request may be a dry run, too.
    pub(super) fn of_eviction(call: &Call, options: &Value) -> Result<Self, Failure> {
        let mut options = Self::checked(options)?;
        options.dry_run |= call.dry_run()?;
        Ok(options)
    }

    fn checked(options: &Value) -> Result<Self, Failure> {
        let mut errors = FieldErrors::default();
        let policy = options["propagationPolicy"].as_str();
        let orphan = options["orphanDependents"].as_bool();
        if let Some(policy) = policy.filter(|_| orphan.is_some()) {
            let why = "orphanDependents and deletionPropagation cannot be both set";
            errors.invalid("propagationPolicy", policy, why);
        }
        let propagation = match policy {
            None => orphan.map(|orphan| if orphan { Propagation::Orphan } else { Propagation::Background }),
            Some("Orphan") => Some(Propagation::Orphan),
            Some("Background") => Some(Propagation::Background),
            Some("Foreground") => Some(Propagation::Foreground),
            Some(other) => {
                errors.not_supported("propagationPolicy", other, &["Foreground", "Background", "Orphan", "nil"]);
                None
            }
        };
        let dry_run = options["dryRun"].as_array().is_some_and(|values| !values.is_empty());
        if dry_run && options["dryRun"].as_array().into_iter().flatten().any(|value| value != "All") {
            errors.not_supported("dryRun", &options["dryRun"], &["All"]);
        }
        if options[IGNORE_ERRORS] == true {
            alone(options, &mut errors);
        }
        if !errors.is_empty() {
            return Err(Box::new(Status::invalid("meta.k8s.io", "DeleteOptions", "", errors)));
        }
        let preconditions = &options["preconditions"];
        Ok(Self {
            grace: options["gracePeriodSeconds"].as_i64().map(at_least_a_second),
            uid: preconditions["uid"].as_str().map(str::to_owned),
            resource_version: preconditions["resourceVersion"].as_str().map(str::to_owned),
            propagation,
            cascades: orphan == Some(false),
            dry_run,
        })
    }

    /// Only the object as it is at this revision is meant.
    pub(super) fn pin(&mut self, revision: i64) {
        self.resource_version = Some(revision.to_string());
    }

    /// Whether the object is the one that is meant.
    pub(super) fn check_preconditions(&self, resource: &Resource, name: &str, old: &Value) -> Result<(), Failure> {
        let storage = resource.storage();
        let conflict = |why: String| Err(Box::new(Status::conflict(storage.group, storage.kind, name, &why)));
        let (uid, version) = (meta::uid(old), meta::resource_version(old));
        if let Some(wanted) = self.uid.as_deref().filter(|wanted| *wanted != uid) {
            return conflict(format!(
                "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). The object might have been deleted and then recreated"
            ));
        }
        if let Some(wanted) = self.resource_version.as_deref().filter(|wanted| *wanted != version) {
            return conflict(format!(
                "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({version}). The object might have been modified"
            ));
        }
        Ok(())
    }

    /// The finalizers after the propagation policy, or the kind's own, has had its say.
    pub(super) fn finalizers(&self, resource: &Resource, old: &Value) -> Vec<String> {
        let present: Vec<&str> = meta::finalizers(old).collect();
        let said = present.iter().any(|finalizer| matches!(*finalizer, ORPHAN | FOREGROUND));
        let wanted = match self.propagation {
            None if said || !orphans_by_default(resource) => return present.into_iter().map(str::to_owned).collect(),
            None | Some(Propagation::Orphan) => Some(ORPHAN),
            Some(Propagation::Foreground) => Some(FOREGROUND),
            Some(Propagation::Background) => None,
        };
        let others = present.into_iter().filter(|finalizer| !matches!(*finalizer, ORPHAN | FOREGROUND));
        others.chain(wanted).map(str::to_owned).collect()
    }

    /// What a client is told who did not say what is to become of a Job's pods.
    pub(super) fn warning(&self, resource: &Resource) -> Option<&'static str> {
        let unsaid = self.propagation.is_none() && std::ptr::eq(resource, &registry::JOBS);
        unsaid.then_some(
            "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning",
        )
    }
}

/// Kinds that are older than the collection of garbage.
fn orphans_by_default(resource: &Resource) -> bool {
    std::ptr::eq(resource, &registry::JOBS) || std::ptr::eq(resource, &registry::REPLICATION_CONTROLLERS)
}

/// A negative grace is one of a second.
pub(super) fn at_least_a_second(grace: i64) -> i64 {
    if grace < 0 { 1 } else { grace }
}

/// Deleting what cannot be read goes with no other wish.
fn alone(options: &Value, errors: &mut FieldErrors) {
    for field in ["dryRun", "propagationPolicy", "orphanDependents", "gracePeriodSeconds", "preconditions"] {
        let empty = options[field].as_array().is_some_and(Vec::is_empty);
        if !options[field].is_null() && !empty {
            errors.invalid(IGNORE_ERRORS, true, &format!("cannot be set together with .{field}"));
        }
    }
}

fn from_query(call: &Call) -> Result<Value, Failure> {
    let mut options = json!({});
    if let Some(grace) = number(call, "gracePeriodSeconds")? {
        options["gracePeriodSeconds"] = grace.into();
    }
    for flag in ["orphanDependents", IGNORE_ERRORS] {
        if call.query.get(flag).is_some() {
            options[flag] = call.query.flag(flag).into();
        }
    }
    if let Some(policy) = call.query.get("propagationPolicy").filter(|policy| !policy.is_empty()) {
        options["propagationPolicy"] = policy.into();
    }
    let dry_run: Vec<&str> = call.query.all("dryRun").filter(|value| !value.is_empty()).collect();
    options["dryRun"] = dry_run.into();
    Ok(options)
}

/// DeleteOptions come as `v1`, as the group's own version, or as `meta.k8s.io/v1`.
fn from_body(call: &Call) -> Result<Value, Failure> {
    let ty = facts::type_by_name(TYPE).ok_or_else(|| Box::new(Status::internal("no type DeleteOptions")))?;
    let decoded = body::decode_as(negotiate::body_format(&call.headers)?, &call.body, ty);
    let decoded = decoded.map_err(|error| {
        Box::new(Status::bad_request(error.bad_request(Some(("DeleteOptions", "v1")), "DeleteOptions", &call.body)))
    })?;
    let kind = meta::kind(&decoded.value);
    if !kind.is_empty() && kind != "DeleteOptions" {
        return Err(Box::new(Status::bad_request(format!("the object is a {kind}, not DeleteOptions"))));
    }
    Ok(decoded.value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn what_options_may_not_say() {
        let check = |options: Value, expect: &str| {
            let refused = Options::checked(&options).unwrap_err();
            assert_eq!((refused.code, refused.message.as_str()), (422, expect));
        };
        check(
            json!({"propagationPolicy": "Odd", "orphanDependents": true, "dryRun": ["x"]}),
            "DeleteOptions.meta.k8s.io \"\" is invalid: [propagationPolicy: Invalid value: \"Odd\": orphanDependents and deletionPropagation cannot be both set, propagationPolicy: Unsupported value: \"Odd\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\", dryRun: Unsupported value: [\"x\"]: supported values: \"All\"]",
        );
        check(
            json!({IGNORE_ERRORS: true, "gracePeriodSeconds": 0, "dryRun": []}),
            "DeleteOptions.meta.k8s.io \"\" is invalid: ignoreStoreReadErrorWithClusterBreakingPotential: Invalid value: true: cannot be set together with .gracePeriodSeconds",
        );
    }

    #[test]
    fn jobs_leave_their_pods_unless_told_otherwise() {
        let finalizers = |options: Value, resource: &Resource, present: Value| {
            Options::checked(&options).unwrap().finalizers(resource, &json!({"metadata": {"finalizers": present}}))
        };
        assert_eq!(finalizers(json!({}), &registry::JOBS, json!([])), ["orphan"]);
        assert_eq!(
            finalizers(json!({}), &registry::JOBS, json!(["a/b", "foregroundDeletion"])),
            ["a/b", "foregroundDeletion"]
        );
        assert_eq!(finalizers(json!({"propagationPolicy": "Background"}), &registry::JOBS, json!([])), [""; 0]);
        assert_eq!(finalizers(json!({}), &registry::REPLICATION_CONTROLLERS, json!([])), ["orphan"]);
        assert_eq!(finalizers(json!({}), &registry::DEPLOYMENTS, json!([])), [""; 0]);
        assert_eq!(finalizers(json!({"orphanDependents": true}), &registry::PODS, json!(["a/b"])), ["a/b", "orphan"]);
        let warned = |options: Value| Options::checked(&options).unwrap().warning(&registry::JOBS).is_some();
        assert!(warned(json!({})) && !warned(json!({"propagationPolicy": "Orphan"})));
    }
}
