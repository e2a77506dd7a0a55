//! CertificateSubjectRestriction: nobody asks for a client certificate of the group that may do everything.

use super::{Attributes, Operation, Plugin};
use crate::authn::MASTERS;
use crate::pipeline::State;
use crate::response::Failure;
use naru_api::certificates::request;
use naru_api::registry;
use serde_json::Value;

pub(super) static PLUGIN: Plugin = Plugin::new("CertificateSubjectRestriction").validate(validate);

const SIGNER: &str = "kubernetes.io/kube-apiserver-client";

fn validate(_: &State, attributes: &Attributes<'_>, csr: &Value) -> Result<(), Failure> {
    let new = attributes.operation == Operation::Create && attributes.subresource.is_empty();
    let about = new && attributes.is_of(&registry::CERTIFICATE_SIGNING_REQUESTS);
    if !about || csr["spec"]["signerName"] != SIGNER {
        return Ok(());
    }
    let groups =
        request::organizations(csr).map_err(|error| attributes.forbidden(&format!("failed to parse CSR: {error}")))?;
    if groups.iter().any(|group| group == MASTERS) {
        return Err(attributes.forbidden(&format!("use of {SIGNER} signer with {MASTERS} group is not allowed")));
    }
    Ok(())
}
