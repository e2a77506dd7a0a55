//! Secrets that hold tokens of service accounts.

use super::*;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

#[tokio::test]
async fn token_secrets_are_filled_in_and_go_with_their_account() {
    let cluster = Cluster::start().await;
    let account = json!({"metadata": {"name": "robot"}});
    cluster.client.create::<Value>(&registry::SERVICE_ACCOUNTS, Some("default"), &account).await.unwrap();
    let secret = |name: &str, account: &str| {
        json!({"metadata": {"name": name, "annotations": {"kubernetes.io/service-account.name": account}},
            "type": "kubernetes.io/service-account-token"})
    };
    for (name, account) in [("held", "robot"), ("orphan", "nobody")] {
        cluster.client.create::<Value>(&registry::SECRETS, Some("default"), &secret(name, account)).await.unwrap();
    }
    cluster
        .until(&registry::SECRETS, "a filled secret, and no other", |all| {
            let held = find(all, "held").is_some_and(|held| held["data"]["token"].is_string());
            held && find(all, "orphan").is_none()
        })
        .await;
    let held: Value = cluster.client.get(&registry::SECRETS, Some("default"), "held").await.unwrap();
    let text = |key: &str| String::from_utf8(STANDARD.decode(held["data"][key].as_str().unwrap()).unwrap()).unwrap();
    assert_eq!((text("namespace").as_str(), text("ca.crt").as_str()), ("default", "CA"));
    assert_eq!(text("token").split('.').count(), 3);
    let robot: Value = cluster.client.get(&registry::SERVICE_ACCOUNTS, Some("default"), "robot").await.unwrap();
    assert_eq!(held["metadata"]["annotations"]["kubernetes.io/service-account.uid"], robot["metadata"]["uid"]);
    let options = naru_client::DeleteOptions::default();
    cluster.client.delete(&registry::SERVICE_ACCOUNTS, Some("default"), "robot", &options).await.unwrap();
    cluster.until(&registry::SECRETS, "no secret", |all| find(all, "held").is_none()).await;
}
