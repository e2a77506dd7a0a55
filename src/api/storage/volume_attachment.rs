//! VolumeAttachment: the wish, and the state, of a volume attached to a node.

use super::validate::{self as shared, driver_name};
use crate::checks::{complain, required};
use crate::core::persistent_volume;
use crate::internal;
use crate::meta::names;
use crate::meta::prepare::keep_status as prepare_update;
use crate::registry::{Action, Churn, Column, Resource, Rules, Scope, Subresource, verbs};
use crate::status::{FieldErrors, Path};
use crate::table;
use crate::tree::{self, flag, text};
use serde_json::{Value, json};

/// VolumeAttachments.
pub static VOLUME_ATTACHMENTS: Resource = Resource {
    group: "storage.k8s.io",
    version: "v1",
    kind: "VolumeAttachment",
    plural: "volumeattachments",
    singular: "volumeattachment",
    scope: Scope::Cluster,
    verbs: verbs::ALL,
    short_names: &[],
    categories: &[],
    type_name: "io.k8s.api.storage.v1.VolumeAttachment",
    churn: Churn::Durable,
    subresources: &[Subresource {
        name: "status",
        gvk: ("storage.k8s.io", "v1", "VolumeAttachment"),
        verbs: verbs::GET_PATCH_UPDATE,
        action: Action::Status,
    }],
    columns: &[
        Column::NAME,
        Column { format: "name", ..Column::new("Attacher", "string") },
        Column::new("PV", "string"),
        Column::new("Node", "string"),
        Column::new("Attached", "boolean"),
        Column::new("Age", "string"),
    ],
    rules: Rules {
        prepare_create,
        prepare_update,
        row,
        validate,
        validate_create,
        validate_update,
        validate_status: |new, _, errors| status(&new["status"], errors),
        ..Rules::NONE
    },
};

const MAX_MESSAGE: usize = 1024;
const ONE_SOURCE: &str = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";

fn prepare_create(attachment: &mut Value) {
    tree::object(attachment).insert("status".to_owned(), json!({"attached": false}));
}

fn row(attachment: &Value, now: i64) -> Vec<Value> {
    let spec = &attachment["spec"];
    vec![
        table::name(attachment),
        text(&spec["attacher"]).into(),
        text(&spec["source"]["persistentVolumeName"]).into(),
        text(&spec["nodeName"]).into(),
        flag(&attachment["status"]["attached"]).into(),
        table::created(attachment, now),
    ]
}

fn validate(attachment: &Value, errors: &mut FieldErrors) {
    let (spec, path) = (&attachment["spec"], Path::root("spec"));
    required(&spec["attacher"], path.child("attacher"), errors);
    let (source, at) = (&spec["source"], path.child("source"));
    match (source["inlineVolumeSpec"].is_object(), source["persistentVolumeName"].as_str()) {
        (false, None) => errors.required(at, ONE_SOURCE),
        (true, Some(_)) => errors.forbidden(at, ONE_SOURCE),
        (false, Some("")) => {
            errors.required(at.child("persistentVolumeName"), "must specify non empty persistentVolumeName");
        }
        (false, Some(_)) => {}
        (true, None) => {
            persistent_volume::inline_spec(&source["inlineVolumeSpec"], at.child("inlineVolumeSpec"), errors);
        }
    }
    let node = text(&spec["nodeName"]);
    complain(names::dns_subdomain(node), node, path.child("nodeName"), errors);
    status(&attachment["status"], errors);
}

fn validate_create(attachment: &Value, errors: &mut FieldErrors) {
    let (spec, path) = (&attachment["spec"], Path::root("spec"));
    driver_name(&spec["attacher"], path.child("attacher"), errors);
    if let Some(name) = spec["source"]["persistentVolumeName"].as_str() {
        let source = path.child("source");
        complain(names::dns_subdomain(name), name, source.child("persistentVolumeName"), errors);
    }
}

fn status(status: &Value, errors: &mut FieldErrors) {
    let path = Path::root("status");
    if shared::size(&status["attachmentMetadata"]) > shared::MAX_BYTES {
        errors.too_long(path.child("attachmentMetadata"), shared::MAX_BYTES);
    }
    for field in ["attachError", "detachError"] {
        let (error, at) = (&status[field], path.child(field));
        if text(&error["message"]).len() > MAX_MESSAGE {
            errors.too_long(at.child("message"), shared::MAX_BYTES);
        }
        if let Some(code) = error["errorCode"].as_i64().filter(|c| *c < 0) {
            errors.invalid(at.child("errorCode"), code, "must be between 0 and 2147483647, inclusive");
        }
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    if new["spec"] != old["spec"] {
        errors.immutable("spec", internal::shown(&new["spec"], "io.k8s.api.storage.v1.VolumeAttachmentSpec"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors_of(spec: Value) -> Vec<String> {
        let mut errors = FieldErrors::default();
        let attachment = json!({ "spec": spec });
        validate(&attachment, &mut errors);
        validate_create(&attachment, &mut errors);
        errors.messages()
    }

    #[test]
    fn what_can_be_wrong() {
        let good = json!({"attacher": "d", "nodeName": "n", "source": {"persistentVolumeName": "v"}});
        assert_eq!(errors_of(good.clone()), [""; 0]);
        assert_eq!(
            errors_of(json!({"attacher": "d", "nodeName": "n"})),
            ["spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName"]
        );
        assert_eq!(
            errors_of(
                json!({"attacher": "d", "nodeName": "n", "source": {"persistentVolumeName": "v", "inlineVolumeSpec": {}}})
            ),
            ["spec.source: Forbidden: must specify exactly one of inlineVolumeSpec and persistentVolumeName"]
        );
        let inline = json!({"accessModes": ["ReadWriteOnce"], "csi": {"driver": "d", "volumeHandle": "h"}, "storageClassName": "c"});
        assert_eq!(
            errors_of(json!({"attacher": "d", "nodeName": "n", "source": {"inlineVolumeSpec": inline}})),
            [
                "spec.source.inlineVolumeSpec.storageClassName: Forbidden: may not be specified in the context of inline volumes"
            ]
        );
        let mut errors = FieldErrors::default();
        validate_update(&json!({"spec": {"nodeName": "m"}}), &json!({ "spec": good }), &mut errors);
        status(&json!({"attachError": {"errorCode": -1, "message": "x".repeat(MAX_MESSAGE + 1)}}), &mut errors);
        assert_eq!(
            errors.messages(),
            [
                r#"spec: Invalid value: {"Attacher":"","Source":{"PersistentVolumeName":null,"InlineVolumeSpec":null},"NodeName":"m"}: field is immutable"#,
                "status.attachError.message: Too long: may not be more than 262144 bytes",
                "status.attachError.errorCode: Invalid value: -1: must be between 0 and 2147483647, inclusive",
            ]
        );
    }

    #[test]
    fn rows_of_attachments() {
        let mut attachment = json!({"metadata": {"name": "a"}, "spec": {"attacher": "d", "nodeName": "n", "source": {"persistentVolumeName": "v"}}});
        prepare_create(&mut attachment);
        assert_eq!(Value::from(row(&attachment, 0)), json!(["a", "d", "v", "n", false, "<unknown>"]));
    }
}
