//! `/resize`: other requests and limits for CPU and memory while the pod runs.

use crate::core::pod::qos_class;
use crate::status::{FieldErrors, Path};
use crate::tree::{ensure, entries, items, list, object};
use serde_json::{Map, Value};

type Object = Map<String, Value>;

/// Of a pod sent to `/resize`, only resources and what they restart count. Containers that came, went
/// or moved are left for the validation to find.
pub(in crate::core::pod) fn prepare_resize(new: &mut Value, old: &Value) {
    let lists = ["containers", "initContainers"];
    if lists.iter().any(|field| list(&new["spec"][field]).len() != list(&old["spec"][field]).len()) {
        return;
    }
    let mut merged = old.clone();
    let spec = ensure(object(&mut merged), "spec");
    copy(spec, &new["spec"], "resources");
    for field in lists {
        let (sent, present) = (list(&new["spec"][field]), list(&old["spec"][field]));
        if sent.iter().zip(present).any(|(sent, present)| sent["name"] != present["name"]) {
            copy(spec, &new["spec"], field);
            continue;
        }
        for (container, sent) in items(spec, field).zip(sent) {
            copy(container, sent, "resources");
            copy(container, sent, "resizePolicy");
        }
    }
    *new = merged;
}

fn copy(into: &mut Object, from: &Value, field: &str) {
    match from.get(field).filter(|value| !value.is_null()) {
        Some(value) => into.insert(field.to_owned(), value.clone()),
        None => into.remove(field),
    };
}

/// Errors of a resize beside those of the pod that it makes.
pub(in crate::core::pod) fn resize(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let instead = |why: &str, errors: &mut FieldErrors| {
        *errors = FieldErrors::default();
        errors.forbidden("", why);
    };
    if super::is_mirror(old) {
        return instead("static pods cannot be resized", errors);
    }
    if old["spec"]["os"]["name"] == "windows" {
        return instead("windows pods cannot be resized", errors);
    }
    let path = Path::root("spec");
    let present = old["status"]["qosClass"].as_str().filter(|class| !class.is_empty());
    if present.unwrap_or_else(|| qos_class(old)) != qos_class(new) {
        let shown = crate::tree::text(&new["status"]["qosClass"]);
        errors.invalid(path, shown, "Pod QOS Class may not change as a result of resizing");
    }
    let running = list(&old["status"]["containerStatuses"]).iter().find(|s| s["state"]["running"].is_object());
    if running.is_some_and(|status| !status["resources"].is_object()) {
        errors.forbidden(path, "Pod running on node without support for resize");
    }
    let (new, old) = (&new["spec"], &old["spec"]);
    let mut munged = new.clone();
    whole_pod(new, old, &mut munged, path, errors);
    if !same_order(new, old, path, errors) {
        return;
    }
    removals(new, old, path, errors);
    only_compute(&mut munged, old, path, errors);
    if errors.is_empty() && munged != *old {
        errors.forbidden(path, "only cpu and memory resources are mutable");
    }
}

/// What the pod as a whole asks for.
fn whole_pod(new: &Value, old: &Value, munged: &mut Value, path: Path<'_>, errors: &mut FieldErrors) {
    let set = |spec: &Value| ["requests", "limits"].iter().any(|k| entries(&spec["resources"][k]).next().is_some());
    if !set(old) && !set(new) {
        return;
    }
    let at = path.child("resources");
    if old["resources"].is_object() && !new["resources"].is_object() {
        return errors.forbidden(at, "pod-level resources cannot be removed");
    }
    for (kind, what) in [("requests", "requests"), ("limits", "limits")] {
        if removed(&new["resources"][kind], &old["resources"][kind]) {
            errors.forbidden(at.child(kind), &format!("pod-level resource {what} cannot be removed"));
        }
    }
    if let Some(spec) = munged.as_object_mut() {
        put_back(spec, old);
    }
    if munged["resources"] != old["resources"] {
        errors.forbidden(path, "only cpu and memory resources are mutable at pod-level");
    }
}

fn same_order(new: &Value, old: &Value, path: Path<'_>, errors: &mut FieldErrors) -> bool {
    let before = errors.len();
    for field in ["containers", "initContainers"] {
        let (sent, present, at) = (list(&new[field]), list(&old[field]), path.child(field));
        if sent.len() != present.len() {
            errors.forbidden(at, &format!("{field} may not be added or removed on resize"));
            continue;
        }
        for (i, _) in sent.iter().zip(present).enumerate().filter(|(_, (new, old))| new["name"] != old["name"]) {
            let why = format!("{field} may not be renamed or reordered on resize");
            errors.forbidden(at.index(i).child("name"), &why);
        }
    }
    errors.len() == before
}

fn is_sidecar(container: &Value) -> bool {
    container["restartPolicy"] == "Always"
}

fn removed(new: &Value, old: &Value) -> bool {
    entries(old).any(|(name, _)| new[name.as_str()].is_null())
}

fn removals(new: &Value, old: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    for field in ["initContainers", "containers"] {
        let at = path.child(field);
        for (i, (new, old)) in list(&new[field]).iter().zip(list(&old[field])).enumerate() {
            if field == "initContainers" && !is_sidecar(old) {
                continue;
            }
            let item = at.index(i);
            let at = item.child("resources");
            for kind in ["requests", "limits"] {
                if removed(&new["resources"][kind], &old["resources"][kind]) {
                    errors.forbidden(at.child(kind), &format!("resource {kind} cannot be removed"));
                }
            }
        }
    }
}

/// Puts CPU and memory back as they were, so that only what may not change remains different.
fn only_compute(munged: &mut Value, old: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let Some(spec) = munged.as_object_mut() else { return };
    for (container, old) in items(spec, "containers").zip(list(&old["containers"])) {
        put_back(container, old);
        if *container != *old.as_object().unwrap_or(&Object::new()) {
            errors.forbidden(path, "only cpu and memory resources are mutable");
        }
    }
    for (container, old) in items(spec, "initContainers").zip(list(&old["initContainers"])) {
        let sidecar = is_sidecar(old);
        if sidecar {
            put_back(container, old);
        }
        if *container != *old.as_object().unwrap_or(&Object::new()) {
            errors.forbidden(
                path,
                match sidecar {
                    true => "only cpu and memory resources for sidecar containers are mutable",
                    false => "resources for non-sidecar init containers are immutable",
                },
            );
        }
    }
}

fn put_back(owner: &mut Object, old: &Value) {
    let before = &old["resources"];
    let resources = ensure(owner, "resources");
    for kind in ["requests", "limits"] {
        let amounts = ensure(resources, kind);
        for name in ["cpu", "memory"] {
            match before[kind].get(name) {
                Some(amount) => amounts.insert(name.to_owned(), amount.clone()),
                None => amounts.remove(name),
            };
        }
        if amounts.is_empty() && before[kind].is_null() {
            resources.remove(kind);
        }
    }
    if resources.is_empty() && before.is_null() {
        owner.remove("resources");
    }
}
