//! CertificateApproval: whoever approves a request must be allowed to approve for its signer.

use super::{Attributes, Operation, Pending, Plugin, may_for_signer};
use crate::pipeline::State;
use naru_api::registry;
use serde_json::Value;

pub(super) static PLUGIN: Plugin = Plugin::new("CertificateApproval").validate_async(validate);

fn validate<'a>(state: &'a State, attributes: &'a Attributes<'a>, _: &'a Value) -> Pending<'a> {
    Box::pin(async move {
        let about = attributes.is_of(&registry::CERTIFICATE_SIGNING_REQUESTS) && attributes.subresource == "approval";
        let Some(old) = attributes.old.filter(|_| about && attributes.operation == Operation::Update) else {
            return Ok(());
        };
        let signer = old["spec"]["signerName"].as_str().unwrap_or_default();
        if may_for_signer(state, attributes.user, "approve", signer).await {
            return Ok(());
        }
        Err(attributes.forbidden(&format!("user not permitted to approve requests with signerName {signer:?}")))
    })
}
