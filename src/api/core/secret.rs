//! Secret: bytes with a type. What is written as `stringData` is stored as `data`.

use super::data;
use crate::certificates::pair;
use crate::registry::{Churn, Column, Resource, Rules, Scope, verbs};
use crate::status::{FieldErrors, Path};
use crate::{table, tree};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// Secrets.
pub static SECRETS: Resource = Resource {
    group: "",
    version: "v1",
    kind: "Secret",
    plural: "secrets",
    singular: "secret",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &[],
    categories: &[],
    type_name: "io.k8s.api.core.v1.Secret",
    churn: Churn::Durable,
    subresources: &[],
    columns: &[
        Column::NAME,
        Column::new("Type", "string"),
        Column::new("Data", "string"),
        Column::new("Age", "string"),
    ],
    rules: Rules { default, fields, row, validate, validate_update, warnings, ..Rules::NONE },
};

fn default(secret: &mut Value) {
    let secret = tree::object(secret);
    if let Some(Value::Object(plain)) = secret.remove("stringData") {
        let data = tree::ensure(secret, "data");
        for (key, value) in plain {
            let encoded = STANDARD.encode(value.as_str().unwrap_or(""));
            data.insert(key, encoded.into());
        }
    }
    tree::default_zero(secret, "type", "Opaque");
}

fn fields(secret: &Value) -> Vec<(&'static str, String)> {
    vec![("type", tree::text(&secret["type"]).to_owned())]
}

fn row(secret: &Value, now: i64) -> Vec<Value> {
    vec![
        table::name(secret),
        secret["type"].as_str().unwrap_or("").into(),
        tree::entries(&secret["data"]).count().into(),
        table::created(secret, now),
    ]
}

/// Keys that a type of secret must have.
const REQUIRED_KEYS: &[(&str, &[&str])] = &[
    ("kubernetes.io/dockercfg", &[".dockercfg"]),
    ("kubernetes.io/dockerconfigjson", &[".dockerconfigjson"]),
    ("kubernetes.io/ssh-auth", &["ssh-privatekey"]),
    ("kubernetes.io/tls", &["tls.crt", "tls.key"]),
];
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";

fn validate(secret: &Value, errors: &mut FieldErrors) {
    let (content, path) = (&secret["data"], Path::root("data"));
    data::keys(content, path, errors);
    let size: usize = tree::entries(content).map(|(_, v)| data::decoded_len(v)).sum();
    if size > data::MAX_BYTES {
        errors.too_long(path, data::MAX_BYTES);
    }
    let kind = tree::text(&secret["type"]);
    for key in REQUIRED_KEYS.iter().filter(|(k, _)| *k == kind).flat_map(|(_, keys)| *keys) {
        match content[*key].as_str() {
            None => errors.required(path.key(key), ""),
            Some("") if *key == "ssh-privatekey" => errors.required(path.key(key), ""),
            Some(value) if key.starts_with(".docker") => docker_config(value, path.key(key), errors),
            Some(_) => {}
        }
    }
    match kind {
        "kubernetes.io/basic-auth" if content["username"].is_null() && content["password"].is_null() => {
            errors.required(path.key("username"), "");
            errors.required(path.key("password"), "");
        }
        "kubernetes.io/service-account-token"
            if tree::some_text(&secret["metadata"]["annotations"][ACCOUNT_NAME]).is_none() =>
        {
            let metadata = Path::root("metadata");
            errors.required(metadata.child("annotations").key(ACCOUNT_NAME), "");
        }
        _ => {}
    }
}

/// A key that is not the certificate's.
fn warnings(secret: &Value) -> Vec<String> {
    if secret["type"] != "kubernetes.io/tls" {
        return Vec::new();
    }
    let part = |key: &str| {
        let bytes = STANDARD.decode(tree::text(&secret["data"][key])).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    pair::complaint(&part("tls.crt"), &part("tls.key")).into_iter().collect()
}

fn docker_config(value: &str, path: Path<'_>, errors: &mut FieldErrors) {
    let json = STANDARD.decode(value).ok().map(|b| serde_json::from_slice::<Value>(&b));
    if let Some(Err(error)) = json {
        let why = if error.is_eof() { "unexpected end of JSON input".to_owned() } else { error.to_string() };
        errors.invalid(path, "<secret contents redacted>", &why);
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    if new["type"] != old["type"] {
        errors.immutable("type", &new["type"]);
    }
    data::immutable(new, old, &["data"], errors);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn string_data_becomes_data() {
        let mut secret = json!({"data": {"a": "eA==", "b": "eQ=="}, "stringData": {"a": "hi"}});
        default(&mut secret);
        assert_eq!(secret, json!({"type": "Opaque", "data": {"a": "aGk=", "b": "eQ=="}}));
    }

    #[test]
    fn types_have_their_keys() {
        let check = |secret: Value, expect: &[&str]| {
            let mut errors = FieldErrors::default();
            validate(&secret, &mut errors);
            assert_eq!(errors.messages(), expect);
        };
        check(json!({"type": "Opaque"}), &[]);
        check(json!({"type": "kubernetes.io/tls", "data": {"tls.crt": "eA=="}}), &["data[tls.key]: Required value"]);
        assert_eq!(
            warnings(&json!({"type": "kubernetes.io/tls", "data": {"tls.crt": "eA==", "tls.key": ""}})).len(),
            1
        );
        assert!(warnings(&json!({"type": "Opaque"})).is_empty());
        check(
            json!({"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": ""}}),
            &["data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": unexpected end of JSON input"],
        );
        check(
            json!({"type": "kubernetes.io/service-account-token"}),
            &["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
        );
        let mut errors = FieldErrors::default();
        validate_update(&json!({"type": "b"}), &json!({"type": "a"}), &mut errors);
        assert_eq!(errors.messages(), ["type: Invalid value: \"b\": field is immutable"]);
    }
}
