//! What a claim asks for, in claims and in templates of them.

use super::validate::{MAX_CONFIGS, config, fully_qualified, items, label, selectors, set, toleration};
use crate::checks::complain;
use crate::meta::names;
use crate::status::{FieldErrors, Path};
use crate::tree::{self, int, list, some_text, text};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

const MAX_REQUESTS: usize = 32;
const MAX_CONSTRAINTS: usize = 32;
const MAX_ALTERNATIVES: usize = 8;
const MAX_TOLERATIONS: usize = 16;
const BAD_REFERENCE: &str =
    "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";

/// Requests that say nothing else are for one device.
pub(super) fn default(spec: &mut Map<String, Value>) {
    let Some(devices) = tree::sub(spec, "devices") else { return };
    for request in tree::items(devices, "requests") {
        if let Some(exactly) = tree::sub(request, "exactly") {
            default_request(exactly);
        }
        for alternative in tree::items(request, "firstAvailable") {
            default_request(alternative);
        }
    }
}

fn default_request(request: &mut Map<String, Value>) {
    tree::default_zero(request, "allocationMode", "ExactCount");
    if request["allocationMode"] == "ExactCount" {
        tree::default_zero(request, "count", 1);
    }
}

/// The names that requests go by: their own, and with those of their alternatives.
pub(super) fn request_names(spec: &Value) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for request in list(&spec["devices"]["requests"]) {
        let name = text(&request["name"]);
        names.insert(name.to_owned());
        for alternative in list(&request["firstAvailable"]) {
            names.insert(format!("{name}/{}", text(&alternative["name"])));
        }
    }
    names
}

/// Validates a claim's specification.
pub(super) fn spec(spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let (devices, path) = (&spec["devices"], path.child("devices"));
    let names = request_names(spec);
    set(&devices["requests"], MAX_REQUESTS, |r| text(&r["name"]), path.child("requests"), errors, request);
    items(&devices["constraints"], MAX_CONSTRAINTS, path.child("constraints"), errors, |item, at, errors| {
        references(&item["requests"], &names, at.child("requests"), errors);
        let named = |field: &str| item[field].as_str();
        match (named("matchAttribute"), named("distinctAttribute")) {
            (Some(name), _) => fully_qualified(name, at.child("matchAttribute"), errors),
            (None, Some(name)) => fully_qualified(name, at.child("distinctAttribute"), errors),
            (None, None) => errors.required(
                at,
                "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set",
            ),
        }
    });
    items(&devices["config"], MAX_CONFIGS, path.child("config"), errors, |item, at, errors| {
        references(&item["requests"], &names, at.child("requests"), errors);
        config(item, at, errors);
    });
}

/// References to requests of the claim.
pub(super) fn references(requests: &Value, names: &BTreeSet<String>, path: Path<'_>, errors: &mut FieldErrors) {
    set(requests, MAX_REQUESTS, text, path, errors, |name, at, errors| reference(name, names, at, errors));
}

/// A reference to a request of the claim.
pub(super) fn reference(name: &Value, names: &BTreeSet<String>, path: Path<'_>, errors: &mut FieldErrors) {
    let name = text(name);
    if name.split('/').count() > 2 {
        return errors.invalid(path, name, BAD_REFERENCE);
    }
    for part in name.split('/') {
        complain(names::dns_label(part), part, path, errors);
    }
    if !names.contains(name) {
        errors.invalid(path, name, BAD_REFERENCE);
    }
}

fn request(request: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    label(&request["name"], path.child("name"), errors);
    let (exactly, alternatives) = (request["exactly"].is_object(), !list(&request["firstAvailable"]).is_empty());
    match (exactly, alternatives) {
        (false, false) => errors.required(path, "exactly one of `exactly` or `firstAvailable` is required"),
        (true, true) => {
            let why = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            errors.invalid(path, &Value::Null, why);
        }
        (true, false) => devices(&request["exactly"], path.child("exactly"), errors),
        (false, true) => {
            let (all, at) = (&request["firstAvailable"], path.child("firstAvailable"));
            set(
                all,
                MAX_ALTERNATIVES,
                |r| text(&r["name"]),
                at,
                errors,
                |alternative, at, errors| {
                    label(&alternative["name"], at.child("name"), errors);
                    devices(alternative, at, errors);
                },
            );
        }
    }
}

fn devices(request: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    match some_text(&request["deviceClassName"]) {
        None => errors.required(path.child("deviceClassName"), ""),
        Some(class) => complain(names::dns_subdomain(class), class, path.child("deviceClassName"), errors),
    }
    selectors(&request["selectors"], path.child("selectors"), errors);
    let count = int(&request["count"]);
    match text(&request["allocationMode"]) {
        "All" if count != 0 => {
            let why = "must not be specified when allocationMode is 'All'";
            errors.invalid(path.child("count"), count, why);
        }
        "ExactCount" if count <= 0 => errors.invalid(path.child("count"), count, "must be greater than zero"),
        "All" | "ExactCount" => {}
        other => errors.not_supported(path.child("allocationMode"), other, &["All", "ExactCount"]),
    }
    items(&request["tolerations"], MAX_TOLERATIONS, path.child("tolerations"), errors, toleration);
}
