//! Every active namespace has the ConfigMap `kube-root-ca.crt`, by which pods trust the API server.

use crate::{Context, in_each_namespace};
use naru_api::registry;
use serde::Deserialize;
use serde_json::{Value, json};

const NAME: &str = "kube-root-ca.crt";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
     endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across \
     distributions of Kubernetes clusters.";

#[derive(Deserialize)]
struct ConfigMap {
    #[serde(default)]
    data: Value,
}

pub(crate) fn start(ctx: &Context) {
    let wanted = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": NAME, "annotations": {"kubernetes.io/description": DESCRIPTION}},
        "data": {"ca.crt": ctx.config.ca_pem},
    });
    in_each_namespace::start::<ConfigMap>(ctx, &registry::CONFIG_MAPS, NAME, wanted, |object, wanted| {
        object.data == wanted["data"]
    });
}
