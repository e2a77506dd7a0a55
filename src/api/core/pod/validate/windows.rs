//! Options of Windows containers.

use super::each_container;
use crate::checks::complain;
use crate::meta::names;
use crate::status::{FieldErrors, Path};
use crate::tree::flag;
use serde_json::Value;

const MAX_SPEC: usize = 64 * 1024;
const MAX_DOMAIN: usize = 256;
const MAX_USER: usize = 104;

/// The options of a pod or a container.
pub(super) fn options(options: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    if let Some(name) = options["gmsaCredentialSpecName"].as_str() {
        complain(names::dns_subdomain(name), name, path.child("gmsaCredentialSpecName"), errors);
    }
    if let Some(spec) = options["gmsaCredentialSpec"].as_str() {
        let at = path.child("gmsaCredentialSpec");
        if spec.is_empty() {
            errors.invalid(at, spec, "gmsaCredentialSpec cannot be an empty string");
        } else if spec.len() > MAX_SPEC {
            errors.invalid(at, spec, "gmsaCredentialSpec size must be under 64 KiB");
        }
    }
    if let Some(user) = options["runAsUserName"].as_str() {
        for why in user_name(user) {
            errors.invalid(path.child("runAsUserName"), user, why);
        }
    }
}

/// What is wrong with `USER` or `DOMAIN\USER`.
fn user_name(name: &str) -> Vec<&'static str> {
    if name.is_empty() {
        return vec!["runAsUserName cannot be an empty string"];
    }
    if name.chars().any(|c| c.is_ascii_control()) {
        return vec!["runAsUserName cannot contain control characters"];
    }
    let parts: Vec<&str> = name.split('\\').collect();
    let (domain, user) = match parts.as_slice() {
        [user] => (None, *user),
        [domain, user] => (Some(*domain), *user),
        _ => return vec!["runAsUserName cannot contain more than one backslash"],
    };
    let mut wrong = Vec::new();
    if let Some(domain) = domain {
        if domain.len() >= MAX_DOMAIN {
            wrong.push("runAsUserName's Domain length must be under 256 characters");
        }
        if !is_netbios(domain) && !is_dns(domain) {
            wrong.push("runAsUserName's Domain doesn't match the NetBios nor the DNS format");
        }
    }
    if user.is_empty() {
        wrong.push("runAsUserName's User cannot be empty");
    } else if user.len() > MAX_USER {
        wrong.push("runAsUserName's User length must not be longer than 104 characters");
    }
    if !user.is_empty() && user.chars().all(|c| matches!(c, '.' | ' ')) {
        wrong.push("runAsUserName's User cannot contain only periods or spaces");
    }
    if user.contains(['"', '/', '\\', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@', '[', ']']) {
        wrong.push(r#"runAsUserName's User cannot contain the following characters: "/\:;|=,+*?<>@[]"#);
    }
    wrong
}

fn is_netbios(domain: &str) -> bool {
    let count = domain.chars().count();
    (1..=15).contains(&count)
        && !domain.starts_with('.')
        && !domain.contains(['\\', '/', ':', '*', '?', '"', '<', '>', '|'])
}

fn is_dns(domain: &str) -> bool {
    domain.split('.').all(|label| {
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
        (1..=63).contains(&label.len())
            && edge(label.bytes().next())
            && edge(label.bytes().last())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    })
}

/// Host processes: all containers or none, and on the host's network.
pub(super) fn host_process(spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let own = spec["securityContext"]["windowsOptions"]["hostProcess"].as_bool();
    let (mut count, mut of_host) = (0, 0);
    each_container(spec, path, |container, at| {
        count += 1;
        let wanted = container["securityContext"]["windowsOptions"]["hostProcess"].as_bool();
        if let (Some(own), Some(wanted)) = (own, wanted)
            && own != wanted
        {
            let why = format!("pod hostProcess value must be identical if both are specified, was {own}");
            let at = at.child("securityContext");
            errors.invalid(at.child("windowsOptions").child("hostProcess"), wanted, &why);
        }
        of_host += usize::from(wanted.or(own) == Some(true));
    });
    if of_host == 0 {
        return;
    }
    if of_host != count {
        let why = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.invalid(path, "", why);
    }
    if !flag(&spec["hostNetwork"]) {
        let why = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.invalid(path.child("hostNetwork"), false, why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_names() {
        for good in ["user", "DOMAIN\\user", "a.example.com\\User Name"] {
            assert!(user_name(good).is_empty(), "{good}");
        }
        for bad in ["", "a\\b\\c", ".x\\u", "d\\", "d\\...", "a:b", "\u{7}"] {
            assert!(!user_name(bad).is_empty(), "{bad}");
        }
    }
}
