//! Paths as they are passed on.

use super::*;

#[test]
fn paths_are_cleaned_and_escaped() {
    for (path, expect) in [
        ("", ""),
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/a//b/", "/a/b/"),
        ("/a/../../b/./c", "/b/c"),
        ("a", "/a"),
        ("/..", "/"),
    ] {
        assert_eq!(clean(path), expect, "{path}");
    }
    assert_eq!(escape("/a b/ü?#%"), "/a%20b/%C3%BC%3F%23%25");
}

#[test]
fn the_rest_of_a_path() {
    let path = "/api/v1/namespaces/n/pods/p/proxy";
    for rest in ["", "/", "/a", "/a//b/"] {
        assert_eq!(after_segments(&format!("{path}{rest}"), 7), rest);
    }
    assert_eq!(after_segments("/api/v1/nodes/n/proxy/metrics", 5), "/metrics");
    assert_eq!(after_segments("/api", 5), "");
}
