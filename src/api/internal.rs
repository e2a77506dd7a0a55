//! Parts of objects as upstream's errors show them: in the form of its own structs, every field by its Go name and in
//! Go's order; whole, or what differs, line by line.

use crate::facts::{Field, Kind, Presence, Shape, Type, type_by_name};
use crate::status::{Shown, unified};
use crate::tree::{ensure, entries};
use serde_json::{Map, Value};

/// A struct a line: its name, then its fields in their order, with `=` and the JSON name where that is another word.
/// `{}` marks a struct that is never null, `?` a field that is left out when it is empty.
const FORMS: &str = include_str!("internal-forms.txt");
/// Fields that upstream's own structs keep in the security context of the pod.
const HOST: [&str; 5] = ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace", "hostUsers"];
/// What a template of a claim takes along of its metadata.
const METADATA: [&str; 3] = ["name", "labels", "annotations"];
/// What has metadata of its own inside an object.
const TEMPLATES: [&str; 3] = ["PersistentVolumeClaimTemplate", "PodTemplateSpec", "ResourceClaimTemplateSpec"];
const POD_SPEC: &str = "io.k8s.api.core.v1.PodSpec";

/// What differs between two specs of pods.
pub(crate) fn pod_specs(old: &Value, new: &Value) -> String {
    let with_host = |spec: &Value| {
        let mut spec = spec.clone();
        let hosts: Vec<(&str, Value)> = HOST.iter().map(|f| (*f, spec[*f].clone())).collect();
        if let Some(context) = spec.as_object_mut().map(|spec| ensure(spec, "securityContext")) {
            context.extend(hosts.into_iter().map(|(field, value)| (field.to_owned(), value)));
        }
        spec
    };
    difference(&with_host(old), &with_host(new), POD_SPEC, "PodSpec")
}

/// What differs between two containers for debugging.
pub(crate) fn ephemeral_containers(old: &Value, new: &Value) -> String {
    difference(old, new, "io.k8s.api.core.v1.EphemeralContainer", "EphemeralContainer")
}

/// What differs between two specs of claims.
pub(crate) fn claim_specs(old: &Value, new: &Value) -> String {
    difference(old, new, "io.k8s.api.core.v1.PersistentVolumeClaimSpec", "PersistentVolumeClaimSpec")
}

/// What differs between the sources of two volumes.
pub(crate) fn volume_sources(old: &Value, new: &Value) -> String {
    difference(old, new, "io.k8s.api.core.v1.PersistentVolumeSpec", "PersistentVolumeSource")
}

/// A part of an object of this type, in one line.
pub(crate) fn shown(value: &Value, type_name: &str) -> Shown {
    let Some(ty) = type_by_name(type_name).filter(|_| value.is_object()) else { return Shown(value.to_string()) };
    let mut writer = Writer { compact: true, ..Writer::default() };
    writer.fields(value, ty, ty.short_name());
    Shown(writer.out)
}

fn difference(old: &Value, new: &Value, type_name: &str, form: &str) -> String {
    let Some(ty) = type_by_name(type_name) else { return String::new() };
    let text = |value: &Value| {
        let mut writer = Writer::default();
        writer.fields(value, ty, form);
        writer.out
    };
    unified(&text(old), &text(new))
}

/// JSON in lines, indented by one space, or in one line.
#[derive(Default)]
struct Writer {
    out: String,
    compact: bool,
    depth: usize,
    /// Whether the open bracket has nothing behind it yet.
    empty: bool,
}

impl Writer {
    fn open(&mut self, bracket: char) {
        self.out.push(bracket);
        self.depth += 1;
        self.empty = true;
    }

    /// Starts an item, with its key in an object.
    fn item(&mut self, key: Option<&str>) {
        if !self.empty {
            self.out.push(',');
        }
        self.empty = false;
        self.line();
        if let Some(key) = key {
            self.string(key);
            self.out.push_str(if self.compact { ":" } else { ": " });
        }
    }

    fn close(&mut self, bracket: char) {
        self.depth -= 1;
        if !self.empty {
            self.line();
        }
        self.empty = false;
        self.out.push(bracket);
    }

    fn line(&mut self) {
        if self.compact {
            return;
        }
        self.out.push('\n');
        self.out.extend(std::iter::repeat_n(' ', self.depth));
    }

    /// A string as Go's encoder writes it: safe inside HTML.
    fn string(&mut self, text: &str) {
        for c in Value::from(text).to_string().chars() {
            match c {
                '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => self.out.push_str(&format!("\\u{:04x}", c as u32)),
                c => self.out.push(c),
            }
        }
    }

    fn plain(&mut self, value: &Value) {
        match value {
            Value::Object(_) => {
                self.open('{');
                for (key, item) in entries(value) {
                    self.item(Some(key));
                    self.plain(item);
                }
                self.close('}');
            }
            Value::Array(items) => {
                self.open('[');
                for item in items {
                    self.item(None);
                    self.plain(item);
                }
                self.close(']');
            }
            Value::String(text) => self.string(text),
            scalar => self.out.push_str(&scalar.to_string()),
        }
    }

    fn value(&mut self, value: &Value, kind: Kind) {
        match (kind, value) {
            (Kind::Object(ty), Value::Object(_)) if form(ty.short_name()).is_some() => {
                self.fields(value, ty, ty.short_name());
            }
            (Kind::List(inner), Value::Array(items)) => {
                self.open('[');
                for item in items {
                    self.item(None);
                    self.value(item, *inner);
                }
                self.close(']');
            }
            (Kind::Map(inner), Value::Object(_)) => {
                self.open('{');
                for (key, item) in entries(value) {
                    self.item(Some(key));
                    self.value(item, *inner);
                }
                self.close('}');
            }
            _ => self.plain(value),
        }
    }

    fn fields(&mut self, value: &Value, ty: &'static Type, name: &str) {
        self.open('{');
        for field in METADATA.iter().filter(|_| TEMPLATES.contains(&name)) {
            let value = &value["metadata"][*field];
            if !value.is_null() {
                self.item(Some(field));
                self.plain(value);
            }
        }
        for word in form(name).into_iter().flat_map(|fields| fields.split(' ')) {
            let (go_name, name) = names(word);
            let Some(field) = field_of(ty, name) else { continue };
            let value = &value[field.name];
            if word.ends_with('?') && value.is_null() {
                continue;
            }
            self.item(Some(go_name));
            match field.kind {
                Kind::Object(inner) if value.is_null() && word.ends_with("{}") => {
                    self.fields(&Value::Object(Map::new()), inner, inner.short_name());
                }
                kind if value.is_null() => self.plain(&zero(field, kind)),
                kind => self.value(value, kind),
            }
        }
        self.close('}');
    }
}

/// What stands for a field that is not there.
fn zero(field: &Field, kind: Kind) -> Value {
    match kind {
        _ if field.presence == Presence::Pointer => Value::Null,
        Kind::Str => "".into(),
        Kind::Bool => false.into(),
        Kind::I32 | Kind::I64 | Kind::F64 => 0.into(),
        Kind::Object(ty) if ty.shape == Shape::IntOrString => 0.into(),
        _ => Value::Null,
    }
}

/// The Go name and the JSON name that a word of a form gives, the latter in any case.
fn names(word: &str) -> (&str, &str) {
    let word = word.trim_end_matches(['{', '}', '?']);
    word.split_once('=').unwrap_or((word, word))
}

fn field_of(ty: &'static Type, name: &str) -> Option<&'static Field> {
    let among = |ty: &'static Type| ty.fields.iter().find(|f| f.name.eq_ignore_ascii_case(name));
    among(ty)
        .or_else(|| HOST.iter().find(|f| f.eq_ignore_ascii_case(name)).and_then(|_| among(type_by_name(POD_SPEC)?)))
}

/// The fields of the struct of this name.
fn form(name: &str) -> Option<&'static str> {
    FORMS.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_field_of_a_form_is_a_field_of_its_type() {
        let pod = type_by_name(POD_SPEC).expect("pods are there");
        for line in FORMS.lines() {
            let (name, fields) = line.split_once(' ').expect("a form has fields");
            let packages =
                ["core", "batch", "networking", "policy", "resource", "storage"].map(|group| format!("api.{group}"));
            let of = if name == "PersistentVolumeSource" { "PersistentVolumeSpec" } else { name };
            let meta = "apimachinery.pkg.apis.meta".to_owned();
            let ty = packages.iter().chain([&meta]).find_map(|p| type_by_name(&format!("io.k8s.{p}.v1.{of}")));
            let known = ty.unwrap_or_else(|| panic!("{name} is no type"));
            for field in fields.split(' ') {
                assert!(field_of(known, names(field).1).is_some(), "{name}: {field}");
            }
            // Whatever is new in a pod's spec is to be shown too.
            let left_out = |f: &&Field| f.name != "serviceAccount" && !HOST.contains(&f.name);
            if name == "PodSpec" {
                assert_eq!(fields.split(' ').count(), pod.fields.iter().filter(left_out).count());
            }
        }
    }

    #[test]
    fn whole_parts() {
        let check = |value: Value, ty: &str, expect: &str| {
            assert_eq!(shown(&value, &format!("io.k8s.api.{ty}")).0, expect);
        };
        check(
            json!({"resource": "services", "namespace": "n", "name": "a"}),
            "networking.v1.ParentReference",
            r#"{"Group":"","Resource":"services","Namespace":"n","Name":"a"}"#,
        );
        check(
            json!({"attacher": "d", "nodeName": "n", "source": {"persistentVolumeName": "v"}}),
            "storage.v1.VolumeAttachmentSpec",
            r#"{"Attacher":"d","Source":{"PersistentVolumeName":"v","InlineVolumeSpec":null},"NodeName":"n"}"#,
        );
        check(Value::Null, "batch.v1.PodFailurePolicy", "null");
        let template =
            json!({"metadata": {"labels": {"a": "b"}}, "spec": {"restartPolicy": "Never", "containers": []}});
        let Shown(template) = shown(&template, "io.k8s.api.core.v1.PodTemplateSpec");
        let start = r#"{"labels":{"a":"b"},"Spec":{"Volumes":null,"InitContainers":null,"Containers":[],"EphemeralContainers":null,"RestartPolicy":"Never","#;
        assert!(template.starts_with(start), "{template}");
    }

    #[test]
    fn a_claim_that_grew() {
        let spec = |size: &str| {
            json!({"accessModes": ["ReadWriteMany"], "selector": {"matchLabels": {"type": "nfs"}},
                "resources": {"requests": {"storage": size}}, "storageClassName": "", "volumeMode": "Filesystem"})
        };
        assert_eq!(
            claim_specs(&spec("500Gi"), &spec("1Ti")),
            "@@ -10,7 +10,7 @@\n  \"Resources\": {\n   \"Limits\": null,\n   \"Requests\": {\n-   \"storage\": \"500Gi\"\n+   \"storage\": \"1Ti\"\n   }\n  },\n  \"VolumeName\": \"\",\n"
        );
    }

    #[test]
    fn a_volume_of_another_kind() {
        let (old, new) = (json!({"nfs": {"server": "s", "path": "/p"}}), json!({"hostPath": {"path": "/p"}}));
        let shown = volume_sources(&old, &new);
        assert!(shown.starts_with("@@ -1,13 +1,12 @@\n {\n"), "{shown}");
        assert!(shown.contains("\n- \"NFS\": {\n") && shown.contains("\n+ \"HostPath\": {\n"), "{shown}");
    }

    #[test]
    fn a_pod_that_moves_to_the_host() {
        let spec = |host: bool| {
            json!({"containers": [{"name": "a", "image": "x<y"}], "hostNetwork": host, "securityContext": {"runAsUser": 0},
                "restartPolicy": "Always"})
        };
        assert_eq!(
            pod_specs(&spec(false), &spec(true)),
            "@@ -44,7 +44,7 @@\n  \"AutomountServiceAccountToken\": null,\n  \"NodeName\": \"\",\n  \"SecurityContext\": {\n-  \"HostNetwork\": false,\n+  \"HostNetwork\": true,\n   \"HostPID\": false,\n   \"HostIPC\": false,\n   \"ShareProcessNamespace\": null,\n"
        );
    }
}
