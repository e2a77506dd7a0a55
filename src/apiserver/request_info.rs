//! What a request asks for, read from its method, path and query by one parser.

use http::Method;

/// The parts of a request that authorization, admission and routing look at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RequestInfo {
    /// Whether the path names an API resource (else it is a plain path such as `/healthz`).
    pub(crate) is_resource: bool,
    /// The path without query.
    pub(crate) path: String,
    /// RBAC verb: `get`, `list`, `watch`, `create`, ...; the lower-case method for plain paths.
    pub(crate) verb: &'static str,
    /// API group, empty for core.
    pub(crate) group: String,
    /// API version.
    pub(crate) version: String,
    /// Namespace, empty for cluster scope or all namespaces.
    pub(crate) namespace: String,
    /// Plural resource name.
    pub(crate) resource: String,
    /// Subresource, empty for the resource itself.
    pub(crate) subresource: String,
    /// Object name, empty for collections.
    pub(crate) name: String,
    /// What follows the subresource (for proxies).
    pub(crate) rest: String,
}

/// A decoded query string.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes `a=b&c` with percent and plus escapes.
    pub(crate) fn parse(raw: &str) -> Self {
        let pairs = raw
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                (percent_decode(key, true), percent_decode(value, true))
            })
            .collect();
        Self(pairs)
    }

    /// The first value of a parameter.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// All values of a parameter.
    pub(crate) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// A boolean as Kubernetes reads it: present and neither `0` nor `false`.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(|v| !matches!(v, "0" | "false" | "False" | "FALSE"))
    }
}

/// Decodes percent escapes; broken ones stay as they are, invalid UTF-8 is replaced.
pub(crate) fn percent_decode(raw: &str, plus_is_space: bool) -> String {
    if !raw.contains(['%', '+']) {
        return raw.to_owned();
    }
    let bytes = raw.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'+' if plus_is_space => out.push(b' '),
            b'%' => {
                let hex = bytes.get(at + 1..at + 3).and_then(|pair| {
                    let text = std::str::from_utf8(pair).ok()?;
                    u8::from_str_radix(text, 16).ok()
                });
                match hex {
                    Some(byte) => {
                        out.push(byte);
                        at += 2;
                    }
                    None => out.push(b'%'),
                }
            }
            byte => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8(out).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// Encodes a query value.
pub(crate) fn percent_encode(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    for byte in raw.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Reads method, path and query.
pub(crate) fn parse(method: &Method, path: &str, query: &Query) -> RequestInfo {
    let parts: Vec<String> =
        path.split('/').filter(|part| !part.is_empty()).map(|part| percent_decode(part, false)).collect();
    let mut info = RequestInfo { path: path.to_owned(), verb: method_verb(method), ..RequestInfo::default() };
    let mut rest: &[String] = match parts.first().map(String::as_str) {
        Some("api") if parts.len() >= 3 => {
            info.version.clone_from(&parts[1]);
            &parts[2..]
        }
        Some("apis") if parts.len() >= 4 => {
            info.group.clone_from(&parts[1]);
            info.version.clone_from(&parts[2]);
            &parts[3..]
        }
        _ => return info,
    };
    info.is_resource = true;
    // The deprecated form `/api/v1/watch/...`.
    let watch_prefix = rest.len() > 1 && rest[0] == "watch" && method == Method::GET;
    if watch_prefix {
        rest = &rest[1..];
    }
    locate(&mut info, rest);
    info.verb = resource_verb(method, &info, query, watch_prefix);
    if info.name.is_empty() && matches!(info.verb, "list" | "watch" | "deletecollection") {
        // Authorization by resourceNames also covers lists that select one name.
        if let Some(name) = query.get("fieldSelector").and_then(single_name) {
            info.name = name.to_owned();
        }
    }
    info
}

/// Sets namespace, resource, name, subresource and the rest from what follows the version.
fn locate(info: &mut RequestInfo, parts: &[String]) {
    let mut parts = parts;
    if parts[0] == "namespaces" && parts.len() > 1 {
        info.namespace.clone_from(&parts[1]);
        // `/namespaces/x/status` and `/namespaces/x/finalize` are the namespace's own subresources.
        let own = parts.len() == 2 || (parts.len() == 3 && matches!(parts[2].as_str(), "status" | "finalize"));
        if !own {
            parts = &parts[2..];
        }
    }
    let mut parts = parts.iter();
    info.resource = parts.next().cloned().unwrap_or_default();
    info.name = parts.next().cloned().unwrap_or_default();
    info.subresource = parts.next().cloned().unwrap_or_default();
    info.rest = parts.as_slice().join("/");
}

fn method_verb(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "get",
        "HEAD" => "head",
        "POST" => "post",
        "PUT" => "put",
        "PATCH" => "patch",
        "DELETE" => "delete",
        "OPTIONS" => "options",
        _ => "",
    }
}

fn resource_verb(method: &Method, info: &RequestInfo, query: &Query, watch_prefix: bool) -> &'static str {
    match method.as_str() {
        "POST" => "create",
        "GET" | "HEAD" if watch_prefix => "watch",
        "GET" | "HEAD" if !info.subresource.is_empty() => "get",
        "GET" | "HEAD" if query.flag("watch") && (info.name.is_empty() || !query.flag("follow")) => "watch",
        "GET" | "HEAD" if info.name.is_empty() => "list",
        "GET" | "HEAD" => "get",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" if info.name.is_empty() => "deletecollection",
        "DELETE" => "delete",
        _ => "",
    }
}

/// The name in a field selector that has a `metadata.name=` requirement.
fn single_name(selector: &str) -> Option<&str> {
    selector.split(',').find_map(|term| {
        let value = term.strip_prefix("metadata.name=")?;
        let value = value.strip_prefix('=').unwrap_or(value);
        (!value.is_empty()).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: Method, uri: &str, expect: (&str, &str, &str, &str, &str, &str)) {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let info = parse(&method, path, &Query::parse(query));
        let got = (
            info.verb,
            info.group.as_str(),
            info.namespace.as_str(),
            info.resource.as_str(),
            info.name.as_str(),
            info.subresource.as_str(),
        );
        assert_eq!(got, expect, "{method} {uri}");
    }

    #[test]
    fn resources_names_and_verbs() {
        check(Method::GET, "/api/v1/pods", ("list", "", "", "pods", "", ""));
        check(Method::GET, "/api/v1/pods?watch=1", ("watch", "", "", "pods", "", ""));
        check(Method::GET, "/api/v1/pods?watch=false", ("list", "", "", "pods", "", ""));
        check(Method::GET, "/api/v1/watch/pods", ("watch", "", "", "pods", "", ""));
        check(Method::GET, "/api/v1/namespaces", ("list", "", "", "namespaces", "", ""));
        check(Method::GET, "/api/v1/namespaces/a", ("get", "", "a", "namespaces", "a", ""));
        check(Method::PUT, "/api/v1/namespaces/a/finalize", ("update", "", "a", "namespaces", "a", "finalize"));
        check(Method::POST, "/api/v1/namespaces/a/pods", ("create", "", "a", "pods", "", ""));
        check(Method::POST, "/api/v1/namespaces/a/pods/p/exec", ("create", "", "a", "pods", "p", "exec"));
        check(
            Method::DELETE,
            "/apis/apps/v1/namespaces/a/deployments",
            ("deletecollection", "apps", "a", "deployments", "", ""),
        );
        check(
            Method::PATCH,
            "/apis/apps/v1/namespaces/a/deployments/d/scale",
            ("patch", "apps", "a", "deployments", "d", "scale"),
        );
        check(
            Method::GET,
            "/api/v1/namespaces/a/secrets?fieldSelector=metadata.name%3Ds",
            ("list", "", "a", "secrets", "s", ""),
        );
        check(Method::GET, "/healthz", ("get", "", "", "", "", ""));
        check(Method::GET, "/apis/apps/v1", ("get", "", "", "", "", ""));
    }

    #[test]
    fn escapes() {
        assert_eq!(percent_decode("a%2Fb+c", true), "a/b c");
        assert_eq!(percent_decode("a+b", false), "a+b");
        assert_eq!(percent_decode("100%", true), "100%");
        assert_eq!(percent_encode("a b/ü"), "a%20b%2F%C3%BC");
    }
}
