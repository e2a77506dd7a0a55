//! Users that a front proxy vouches for, in headers, by its own client certificate.

use super::User;
use crate::config::FrontProxy;
use crate::request_info::percent_decode;
use http::HeaderMap;
use std::collections::BTreeMap;

/// The user in the headers; `None` when they name nobody.
pub(super) fn user(config: &FrontProxy, headers: &HeaderMap) -> Option<User> {
    let all = |name: &str| -> Vec<String> {
        headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).map(str::to_owned).collect()
    };
    let first = |names: &[String]| -> Option<String> {
        names.iter().filter_map(|name| all(name).into_iter().next()).find(|value| !value.is_empty())
    };
    let name = first(&config.username_headers)?;
    let groups: Vec<String> = config.group_headers.iter().flat_map(|name| all(name)).collect();
    let mut user = User::authenticated(name, groups);
    user.uid = first(&config.uid_headers).unwrap_or_default();
    user.extra = extra(config, headers);
    Some(user)
}

fn extra(config: &FrontProxy, headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for prefix in &config.extra_headers_prefixes {
        let prefix = prefix.to_ascii_lowercase();
        for name in headers.keys() {
            let Some(key) = name.as_str().strip_prefix(&prefix) else { continue };
            let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).map(str::to_owned);
            extra.entry(percent_decode(key, false)).or_default().extend(values);
        }
    }
    extra
}

/// Takes the headers away, so that nobody further down believes them.
pub(super) fn strip(config: &FrontProxy, headers: &mut HeaderMap) {
    for name in config.username_headers.iter().chain(&config.uid_headers).chain(&config.group_headers) {
        headers.remove(name.as_str());
    }
    let prefixes: Vec<String> = config.extra_headers_prefixes.iter().map(|p| p.to_ascii_lowercase()).collect();
    let extra: Vec<_> =
        headers.keys().filter(|name| prefixes.iter().any(|p| name.as_str().starts_with(p.as_str()))).cloned().collect();
    for name in extra {
        headers.remove(name);
    }
}
