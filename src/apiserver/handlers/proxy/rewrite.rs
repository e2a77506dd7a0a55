//! Links of a proxied page, made to lead through the proxy again.

/// What links are rewritten by.
#[derive(Debug)]
pub(super) struct Rewriter {
    /// The proxy's own part of the request's path.
    prefix: String,
    /// The backend, as `ADDRESS:PORT`.
    backend: String,
    /// The name by which the client asked.
    host: String,
}

/// A URL, cut where its parts meet.
struct Parts<'a> {
    /// `//host:port`, or `scheme://host:port`, or nothing.
    before_path: &'a str,
    host: &'a str,
    path: &'a str,
    after_path: &'a str,
}

fn split(url: &str) -> Parts<'_> {
    let scheme_end = url.find(':').filter(|at| {
        let scheme = &url[..*at];
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    });
    let after_scheme = scheme_end.map_or(0, |at| at + 1);
    let mut path_start = after_scheme;
    let mut host = "";
    if let Some(authority) = url[after_scheme..].strip_prefix("//") {
        let end = authority.find(['/', '?', '#']).unwrap_or(authority.len());
        host = authority[..end].rsplit('@').next().unwrap_or_default();
        path_start = after_scheme + 2 + end;
    }
    let path_end = url[path_start..].find(['?', '#']).map_or(url.len(), |at| path_start + at);
    Parts { before_path: &url[..path_start], host, path: &url[path_start..path_end], after_path: &url[path_end..] }
}

impl Rewriter {
    /// For a request for `asked` that goes to `path` of the backend.
    pub(super) fn new(asked: &str, path: &str, backend: &str, host: &str) -> Self {
        let prefix = asked.strip_suffix(path).unwrap_or(asked);
        Self { prefix: prefix.to_owned(), backend: backend.to_owned(), host: host.to_owned() }
    }

    /// Where the proxied path is to be found, for backends that make links themselves.
    pub(super) fn forwarded_uri(&self, path: &str, slash: bool) -> String {
        joined(&self.prefix, path, slash)
    }

    /// The same URL through the proxy, if it leads to the backend by an absolute path.
    pub(super) fn url(&self, url: &str) -> String {
        let parts = split(url);
        let elsewhere = !parts.host.is_empty() && parts.host != self.backend && parts.host != self.host;
        if elsewhere || !parts.path.starts_with('/') {
            return url.to_owned();
        }
        let before = if parts.host == self.host { parts.before_path } else { "" };
        if parts.path.starts_with(&self.prefix) {
            return format!("{before}{}{}", parts.path, parts.after_path);
        }
        let path = joined(&self.prefix, parts.path, parts.path.ends_with('/'));
        format!("{before}{path}{}", parts.after_path)
    }
}

/// One path under another, with a slash at its end or without.
fn joined(prefix: &str, path: &str, slash: bool) -> String {
    let whole = super::clean(&format!("{prefix}/{path}"));
    let whole = whole.trim_end_matches('/');
    let whole = if whole.is_empty() { "/" } else { whole };
    if slash && !whole.ends_with('/') { format!("{whole}/") } else { whole.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_the_backend_lead_through_the_proxy() {
        let prefix = "/api/v1/namespaces/d/services/s/proxy";
        let rewriter = Rewriter::new(&format!("{prefix}/a/"), "/a/", "10.0.0.1:80", "localhost:8001");
        let whole = |url: &str| url.replace("P/", &format!("{prefix}/"));
        let check = |url: &str, expect: &str| assert_eq!(rewriter.url(&whole(url)), whole(expect));
        check("/x/y?q=1#f", "P/x/y?q=1#f");
        check("/x/", "P/x/");
        check("http://10.0.0.1:80/x", "P/x");
        check("http://localhost:8001/x", "http://localhost:8001P/x");
        check("//10.0.0.1:80/x", "P/x");
        // Already through the proxy, relative, or somewhere else.
        check("P/x", "P/x");
        check("x/y", "x/y");
        check("?a=/b", "?a=/b");
        check("mailto:a@b", "mailto:a@b");
        check("https://example.com/x", "https://example.com/x");
        assert_eq!(rewriter.forwarded_uri("/a/", true), format!("{prefix}/a/"));
    }
}
