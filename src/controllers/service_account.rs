//! Every active namespace has the service account `default`.

use crate::{Context, in_each_namespace};
use naru_api::registry;
use naru_client::projections::ObjectView;
use serde_json::json;

pub(crate) fn start(ctx: &Context) {
    let wanted = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    in_each_namespace::start::<ObjectView>(ctx, &registry::SERVICE_ACCOUNTS, "default", wanted, |_, _| true);
}
