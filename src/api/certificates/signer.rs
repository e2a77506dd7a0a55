//! Names of signers: a domain and a path, as in `example.com/signer`.

use crate::meta::names;
use crate::status::{FieldErrors, Path};

/// Of a domain, a slash, a namespace, a dot and a name.
const MAX_PATH: usize = names::SUBDOMAIN_MAX + names::LABEL_MAX + 1;

/// Adds what is wrong with a signer's name.
pub(super) fn name(name: &str, path: Path<'_>, errors: &mut FieldErrors) {
    if name.is_empty() {
        return errors.required(path, "signerName must be provided");
    }
    let Some((domain, rest)) = name.split_once('/').filter(|(_, rest)| !rest.contains('/')) else {
        let why = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return errors.invalid(path, name, why);
    };
    if domain.len() > names::SUBDOMAIN_MAX {
        errors.too_long(path, names::SUBDOMAIN_MAX);
    }
    labels(domain, names::dns_label, path, errors);
    if !domain.contains('.') {
        errors.invalid(path, domain, "should be a domain with at least two segments separated by dots");
    }
    labels(rest, names::dns_subdomain, path, errors);
    let max = names::SUBDOMAIN_MAX + MAX_PATH + 1;
    if name.len() > max {
        errors.too_long(path, max);
    }
}

/// The first bad part is enough: the others would be complained about in the same words.
fn labels(text: &str, rule: fn(&str) -> Vec<String>, path: Path<'_>, errors: &mut FieldErrors) {
    if let Some((label, wrong)) = text.split('.').map(|label| (label, rule(label))).find(|(_, w)| !w.is_empty()) {
        for why in wrong {
            errors.invalid(path, text, &format!("validating label {label:?}: {why}"));
        }
    }
}
