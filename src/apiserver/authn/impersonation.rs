//! Impersonation: a user who may, acts as another one. The constrained modes are tried first, each of which also asks
//! whether the request at hand may be made that way; then the old one, for which the permission to be somebody is enough.

use super::{AUTHENTICATED, MASTERS, SERVICE_ACCOUNT_PREFIX, UNAUTHENTICATED, User};
use crate::authz::Attributes;
use crate::pipeline::State;
use crate::request_info::percent_decode;
use http::HeaderMap;
use naru_api::meta::names;
use naru_api::status::Status;
use std::collections::BTreeMap;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

const NODE_PREFIX: &str = "system:node:";
const NODES: &str = "system:nodes";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const AUTHENTICATION: &str = "authentication.k8s.io";
/// From this many groups or extras on, the right to all of them is asked for first.
const MANY: usize = 4;

/// How somebody may be impersonated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// The node that a service account's pod runs on.
    AssociatedNode,
    ArbitraryNode,
    ServiceAccount,
    /// Everybody who is neither a node nor a service account.
    UserInfo,
    /// As it has always been.
    Legacy,
}

const MODES: [Mode; 5] =
    [Mode::AssociatedNode, Mode::ArbitraryNode, Mode::ServiceAccount, Mode::UserInfo, Mode::Legacy];

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::AssociatedNode => "associated-node",
            Self::ArbitraryNode => "arbitrary-node",
            Self::ServiceAccount => "serviceaccount",
            Self::UserInfo => "user-info",
            Self::Legacy => "",
        }
    }

    /// The verb of the right to be somebody.
    fn verb(self) -> String {
        match self {
            Self::Legacy => "impersonate".to_owned(),
            constrained => format!("impersonate:{}", constrained.name()),
        }
    }

    /// Whether the mode is for this user at all.
    fn applies(self, wanted: &User, by: &User) -> bool {
        let alone = wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty();
        let (node, account) = (node(&wanted.name), account(&wanted.name));
        match self {
            Self::AssociatedNode => {
                let own = by.extra.get(NODE_NAME).map(Vec::as_slice);
                alone
                    && node.is_some_and(|node| own == Some(&[node.to_owned()][..]))
                    && self::account(&by.name).is_some()
            }
            Self::ArbitraryNode => alone && node.is_some(),
            Self::ServiceAccount => alone && account.is_some(),
            Self::UserInfo => node.is_none() && account.is_none(),
            Self::Legacy => true,
        }
    }
}

fn node(name: &str) -> Option<&str> {
    name.strip_prefix(NODE_PREFIX).filter(|node| names::dns_subdomain(node).is_empty())
}

/// Namespace and name of a service account.
fn account(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':').filter(|(_, name)| !name.contains(':'))
}

/// The user that the request's headers ask for; `None` when they ask for nobody. `request` is what is to be done.
pub(crate) async fn impersonated(
    state: &State,
    by: &User,
    headers: &HeaderMap,
    request: &Attributes<'_>,
) -> Result<Option<User>, Box<Status>> {
    let Some(wanted) = wanted(headers)? else { return Ok(None) };
    let mut first = None;
    for mode in MODES.into_iter().filter(|mode| mode.applies(&wanted, by)) {
        match (Check { state, by, mode }).user(&wanted, request).await {
            Ok(user) => return Ok(Some(user)),
            Err(refused) => first = first.or(Some(refused)),
        }
    }
    Err(first.unwrap_or_else(|| Box::new(Status::internal("all impersonation modes failed"))))
}

/// What the headers say, as it is.
fn wanted(headers: &HeaderMap) -> Result<Option<User>, Box<Status>> {
    let all = |name: &str| -> Vec<String> {
        headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).map(str::to_owned).collect()
    };
    let first = |name: &str| all(name).into_iter().next().unwrap_or_default();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for name in headers.keys() {
        if let Some(key) = name.as_str().strip_prefix(EXTRA) {
            extra.entry(percent_decode(key, false)).or_default().extend(all(name.as_str()));
        }
    }
    let user = User { name: first(USER), uid: first(UID), groups: all(GROUP), extra };
    if !user.name.is_empty() {
        return Ok(Some(user));
    }
    if user.uid.is_empty() && user.groups.is_empty() && user.extra.is_empty() {
        return Ok(None);
    }
    Err(Box::new(Status::bad_request(format!("requested {} without impersonating a user name", go_syntax(&user)))))
}

/// The user as upstream's message has it, which shows a Go value.
fn go_syntax(user: &User) -> String {
    let list =
        |values: &[String]| format!("{{{}}}", values.iter().map(|v| format!("{v:?}")).collect::<Vec<_>>().join(", "));
    let groups = if user.groups.is_empty() { "(nil)".to_owned() } else { list(&user.groups) };
    let extra = if user.extra.is_empty() {
        "(nil)".to_owned()
    } else {
        let entries = user.extra.iter().map(|(key, values)| format!("{key:?}:[]string{}", list(values)));
        format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
    };
    format!(
        "&user.DefaultInfo{{Name:\"\", UID:{:?}, Groups:[]string{groups}, Extra:map[string][]string{extra}}}",
        user.uid
    )
}

struct Check<'a> {
    state: &'a State,
    by: &'a User,
    mode: Mode,
}

impl Check<'_> {
    /// The user, once everything about it is allowed.
    async fn user(&self, wanted: &User, request: &Attributes<'_>) -> Result<User, Box<Status>> {
        if self.mode != Mode::Legacy {
            let verb = format!("impersonate-on:{}:{}", self.mode.name(), request.verb);
            self.ask(&Attributes { verb: &verb, ..*request }).await?;
        }
        let verb = self.mode.verb();
        let group = if self.mode == Mode::Legacy { "" } else { AUTHENTICATION };
        let right = Attributes { verb: &verb, is_resource: true, group, version: "v1", ..Attributes::default() };
        let mut user = wanted.clone();
        self.name(wanted, &mut user, right).await?;
        if !wanted.uid.is_empty() {
            self.ask(&Attributes { group: AUTHENTICATION, resource: "uids", name: &wanted.uid, ..right }).await?;
        }
        self.groups(&wanted.groups, Attributes { resource: "groups", ..right }).await?;
        let right = Attributes { group: AUTHENTICATION, resource: "userextras", ..right };
        self.extra(&wanted.extra, right).await?;
        if user.name == "system:anonymous" {
            ensure(&mut user, UNAUTHENTICATED);
        } else if !user.in_group(UNAUTHENTICATED) {
            ensure(&mut user, AUTHENTICATED);
        }
        Ok(user)
    }

    async fn name(&self, wanted: &User, user: &mut User, right: Attributes<'_>) -> Result<(), Box<Status>> {
        if self.mode != Mode::Legacy
            && let Some(node) = node(&wanted.name)
        {
            user.groups = vec![NODES.to_owned()];
            // Which node it is has been looked at already; the right is one to the account's own node.
            let name = if self.mode == Mode::AssociatedNode { "*" } else { node };
            return self.ask(&Attributes { resource: "nodes", name, ..right }).await;
        }
        if let Some((namespace, name)) = account(&wanted.name) {
            if wanted.groups.is_empty() {
                user.groups = vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
            }
            return self.ask(&Attributes { resource: "serviceaccounts", namespace, name, ..right }).await;
        }
        self.ask(&Attributes { resource: "users", name: &wanted.name, ..right }).await
    }

    async fn groups(&self, groups: &[String], right: Attributes<'_>) -> Result<(), Box<Status>> {
        if self.mode != Mode::Legacy {
            if groups.iter().any(String::is_empty) {
                return Err(self.never(&right, "impersonating the empty string group is not allowed"));
            }
            if groups.iter().any(|group| group == MASTERS) {
                let right = Attributes { name: MASTERS, ..right };
                return Err(self.never(&right, "impersonating the system:masters group is not allowed"));
            }
            if groups.len() >= MANY && self.ask(&Attributes { name: "*", ..right }).await.is_ok() {
                return Ok(());
            }
        }
        for group in groups {
            self.ask(&Attributes { name: group, ..right }).await?;
        }
        Ok(())
    }

    async fn extra(&self, extra: &BTreeMap<String, Vec<String>>, right: Attributes<'_>) -> Result<(), Box<Status>> {
        if self.mode != Mode::Legacy {
            for (key, values) in extra {
                if let Some(reason) = wrong_extra(key, values) {
                    return Err(self.never(&right, &reason));
                }
            }
            let many = extra.values().map(Vec::len).sum::<usize>() >= MANY || extra.len() >= MANY;
            if many && self.ask(&Attributes { subresource: "*", name: "*", ..right }).await.is_ok() {
                return Ok(());
            }
        }
        for (key, values) in extra {
            for value in values {
                self.ask(&Attributes { subresource: key, name: value, ..right }).await?;
            }
        }
        Ok(())
    }

    async fn ask(&self, attributes: &Attributes<'_>) -> Result<(), Box<Status>> {
        let mut decision = self.state.authz.authorize(&self.state.cache, self.by, attributes).await;
        if decision.is_allowed() {
            return Ok(());
        }
        if let Some(error) = decision.error() {
            decision.reason = if decision.reason.is_empty() { error } else { format!("{error}: {}", decision.reason) };
        }
        Err(attributes.forbidden(self.by, &decision))
    }

    /// A refusal that no right lifts.
    fn never(&self, attributes: &Attributes<'_>, reason: &str) -> Box<Status> {
        attributes.forbidden(self.by, &crate::authz::Decision::no_opinion(reason))
    }
}

fn ensure(user: &mut User, group: &str) {
    if !user.in_group(group) {
        user.groups.push(group.to_owned());
    }
}

/// What constrained modes do not take for an extra.
fn wrong_extra(key: &str, values: &[String]) -> Option<String> {
    if key.is_empty() {
        return Some("impersonating the empty string key in extra is not allowed".to_owned());
    }
    let prefix = key.split_once('/').filter(|(_, rest)| !rest.is_empty()).map(|(prefix, _)| prefix);
    if prefix.is_none_or(|prefix| !names::dns_subdomain(prefix).is_empty()) {
        return Some(format!(
            "impersonating an invalid key in extra is not allowed: extra.key: Invalid value: {key:?}: must be a domain-prefixed path (such as \"acme.io/foo\")"
        ));
    }
    if key.chars().any(char::is_uppercase) {
        return Some(format!("impersonating a non-lowercase key in extra is not allowed: {key:?}"));
    }
    if values.is_empty() {
        return Some("impersonating empty values in extra is not allowed".to_owned());
    }
    values
        .iter()
        .any(String::is_empty)
        .then(|| "impersonating the empty string value in extra is not allowed".to_owned())
}
