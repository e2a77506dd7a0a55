//! Documents of the paths that belong to no group-version: discovery's own, the version, and the issuer's keys.

use super::operation;
use super::paths::{Naming, capital};
use super::schema::{META, reference};
use crate::documents::served;
use crate::registry::Resource;
use serde_json::{Value, json};

/// The document's paths in the index, beside those of the group-versions.
pub(super) fn paths(resources: &[&Resource]) -> Vec<String> {
    let fixed = [".well-known/openid-configuration", "api", "apis", "openid/v1/jwks", "version"];
    let mut out: Vec<String> = fixed.map(str::to_owned).into();
    for (group, _) in served(resources) {
        let path = format!("apis/{group}");
        if !group.is_empty() && !out.contains(&path) {
            out.push(path);
        }
    }
    out
}

/// The one path of such a document, and the type in the facts that it answers with.
pub(super) fn item(resources: &[&Resource], path: &str) -> Option<(Value, Option<&'static str>)> {
    let text = json!({"type": "string"});
    let (operation, ty) = match path {
        ".well-known/openid-configuration" => {
            let id = "getServiceAccountIssuerOpenIDConfiguration";
            let about = "get the service account issuer's OpenID configuration";
            (operation::text(id, "WellKnown", about, "application/json", &text), None)
        }
        "openid/v1/jwks" => {
            let id = "getServiceAccountIssuerOpenIDKeyset";
            let about = "get the keys that verify the service account issuer's tokens, as a JSON Web Key Set";
            (operation::text(id, "openid", about, "application/jwk-set+json", &text), None)
        }
        "version" => {
            let about = "get the version information for this server";
            let schema = reference(VERSION);
            (operation::text("getCodeVersion", "version", about, "application/json", &schema), None)
        }
        "api" => (versions("getCoreAPIVersions", "core", "APIVersions"), Some("APIVersions")),
        "apis" => (versions("getAPIVersions", "apis", "APIGroupList"), Some("APIGroupList")),
        _ => {
            let group = path.strip_prefix("apis/").filter(|group| !group.is_empty())?;
            served(resources).iter().any(|(served, _)| served == &group).then_some(())?;
            let naming = Naming::new(group, "");
            let tag = naming.tag.trim_end_matches('_');
            let id = format!("get{}APIGroup", capital(tag));
            let ty = format!("{META}APIGroup");
            (operation::document(&id, tag, "get information of a group", &ty), Some("APIGroup"))
        }
    };
    Some((json!({"get": operation}), ty))
}

fn versions(id: &str, tag: &str, ty: &str) -> Value {
    operation::document(id, tag, "get available API versions", &format!("{META}{ty}"))
}

/// The type of `/version`, which is not one of the API's.
pub(super) const VERSION: &str = "io.k8s.apimachinery.pkg.version.Info";

/// Its schema.
pub(super) fn version_schema() -> Value {
    let required =
        ["major", "minor", "gitVersion", "gitCommit", "gitTreeState", "buildDate", "goVersion", "compiler", "platform"];
    let optional = [
        ("emulationMajor", "Major version that the server behaves as."),
        ("emulationMinor", "Minor version that the server behaves as."),
        ("minCompatibilityMajor", "Major version that the server stays compatible with."),
        ("minCompatibilityMinor", "Minor version that the server stays compatible with."),
    ];
    let mut properties = serde_json::Map::new();
    for name in required {
        properties.insert(name.to_owned(), json!({"type": "string", "default": ""}));
    }
    for (name, text) in optional {
        properties.insert(name.to_owned(), json!({"type": "string", "description": text}));
    }
    json!({
        "type": "object", "description": "The server's version.",
        "properties": properties, "required": required,
    })
}
