//! Probes and lifecycle hooks.

use super::Context;
use crate::checks::{self, complain, non_negative, one_of, required};
use crate::status::{FieldErrors, Path};
use crate::tree::{int, list, text};
use serde_json::Value;

/// One probe.
pub(super) fn probe(probe: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    handler(probe, &["exec", "httpGet", "tcpSocket", "grpc"], path, errors);
    for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        non_negative(probe, field, &path, errors);
    }
    if let Some(grace) = probe["terminationGracePeriodSeconds"].as_i64().filter(|g| *g <= 0) {
        errors.invalid(path.child("terminationGracePeriodSeconds"), grace, "must be greater than 0");
    }
}

/// The hooks of a container.
pub(super) fn lifecycle(lifecycle: &Value, context: Context<'_>, path: Path<'_>, errors: &mut FieldErrors) {
    for hook in ["postStart", "preStop"] {
        let action = &lifecycle[hook];
        if !action.is_object() {
            continue;
        }
        let at = path.child(hook);
        handler(action, &["exec", "httpGet", "tcpSocket", "sleep"], at, errors);
        if action["sleep"].is_object() {
            let (seconds, grace) = (int(&action["sleep"]["seconds"]), context.grace_seconds);
            if let Some(grace) = grace.filter(|grace| seconds < 0 || seconds > *grace) {
                let why = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                errors.invalid(at.child("sleep"), seconds, &why);
            }
        }
    }
}

fn handler(handler: &Value, kinds: &[&str], path: Path<'_>, errors: &mut FieldErrors) {
    let mut set = 0;
    for kind in kinds {
        if !handler[kind].is_object() {
            continue;
        }
        set += 1;
        let at = path.child(kind);
        if set > 1 {
            errors.forbidden(at, "may not specify more than 1 handler type");
            continue;
        }
        let action = &handler[kind];
        match *kind {
            "exec" if list(&action["command"]).is_empty() => errors.required(at.child("command"), ""),
            "httpGet" => http_get(action, at, errors),
            "tcpSocket" => checks::port(&action["port"], at.child("port"), errors),
            "grpc" => checks::port_number(&action["port"], at.child("port"), errors),
            _ => {}
        }
    }
    if set == 0 {
        errors.required(path, "must specify a handler type");
    }
}

fn http_get(action: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    required(&action["path"], path.child("path"), errors);
    checks::port(&action["port"], path.child("port"), errors);
    one_of(&action["scheme"], path.child("scheme"), &["HTTP", "HTTPS"], errors);
    let headers = path.child("httpHeaders");
    for header in list(&action["httpHeaders"]) {
        let name = text(&header["name"]);
        let good = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let why = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
        complain((!good).then_some(why), name, headers, errors);
    }
}
