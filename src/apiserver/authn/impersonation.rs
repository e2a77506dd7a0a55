//! Impersonation: a user who may, acts as another one.

use super::{AUTHENTICATED, SERVICE_ACCOUNT_PREFIX, UNAUTHENTICATED, User};
use crate::authz::Attributes;
use crate::pipeline::State;
use crate::request_info::percent_decode;
use http::HeaderMap;
use naru_api::status::Status;
use std::collections::BTreeMap;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// The user that the request's headers ask for; `None` when they ask for nobody.
pub(crate) async fn impersonated(state: &State, user: &User, headers: &HeaderMap) -> Result<Option<User>, Box<Status>> {
    let all = |name: &str| -> Vec<String> {
        headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).map(str::to_owned).collect()
    };
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for name in headers.keys() {
        if let Some(key) = name.as_str().strip_prefix(EXTRA) {
            extra.insert(percent_decode(key, false), all(name.as_str()));
        }
    }
    let (names, mut groups, uids) = (all(USER), all(GROUP), all(UID));
    let Some(name) = names.into_iter().next().filter(|name| !name.is_empty()) else {
        if groups.is_empty() && extra.is_empty() && uids.is_empty() {
            return Ok(None);
        }
        let text = "requested impersonation without impersonating a user";
        return Err(Box::new(Status::internal(text)));
    };
    let check = Check { state, user };
    let account = name.strip_prefix(SERVICE_ACCOUNT_PREFIX).and_then(|rest| rest.split_once(':'));
    match account {
        Some((namespace, account)) => {
            check.may("", "serviceaccounts", "", namespace, account).await?;
            if groups.is_empty() {
                groups.push("system:serviceaccounts".to_owned());
                groups.push(format!("system:serviceaccounts:{namespace}"));
            }
        }
        None => check.may("", "users", "", "", &name).await?,
    }
    for group in &groups {
        if account.is_none() || !group.starts_with("system:serviceaccounts") {
            check.may("", "groups", "", "", group).await?;
        }
    }
    for (key, values) in &extra {
        for value in values {
            check.may("authentication.k8s.io", "userextras", key, "", value).await?;
        }
    }
    let uid = uids.into_iter().next().unwrap_or_default();
    if !uid.is_empty() {
        check.may("authentication.k8s.io", "uids", "", "", &uid).await?;
    }
    let everybody = if name == "system:anonymous" { UNAUTHENTICATED } else { AUTHENTICATED };
    if !groups.iter().any(|group| group == everybody) {
        groups.push(everybody.to_owned());
    }
    Ok(Some(User { name, uid, groups, extra }))
}

struct Check<'a> {
    state: &'a State,
    user: &'a User,
}

impl Check<'_> {
    async fn may(
        &self,
        group: &str,
        resource: &str,
        subresource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<(), Box<Status>> {
        let attributes = Attributes {
            verb: "impersonate",
            is_resource: true,
            group,
            resource,
            subresource,
            namespace,
            name,
            ..Attributes::default()
        };
        let decision = self.state.authz.authorize(&self.state.cache, self.user, &attributes).await;
        if decision.is_allowed() { Ok(()) } else { Err(attributes.forbidden(self.user, &decision)) }
    }
}
