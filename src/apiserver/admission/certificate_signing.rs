//! CertificateSigning: whoever issues a certificate must be allowed to sign as its signer.

use super::{Attributes, Operation, Pending, Plugin, may_for_signer};
use crate::pipeline::State;
use naru_api::registry;
use serde_json::Value;

pub(super) static PLUGIN: Plugin = Plugin::new("CertificateSigning").validate_async(validate);

fn validate<'a>(state: &'a State, attributes: &'a Attributes<'a>, csr: &'a Value) -> Pending<'a> {
    Box::pin(async move {
        let about = attributes.is_of(&registry::CERTIFICATE_SIGNING_REQUESTS) && attributes.subresource == "status";
        let Some(old) = attributes.old.filter(|_| about && attributes.operation == Operation::Update) else {
            return Ok(());
        };
        let same = ["certificate", "conditions"].iter().all(|part| old["status"][part] == csr["status"][part]);
        let signer = old["spec"]["signerName"].as_str().unwrap_or_default();
        if same || may_for_signer(state, attributes.user, "sign", signer).await {
            return Ok(());
        }
        Err(attributes.forbidden(&format!("user not permitted to sign requests with signerName {signer:?}")))
    })
}
