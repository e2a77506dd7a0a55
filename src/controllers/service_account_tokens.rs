//! Secrets of the type `kubernetes.io/service-account-token` hold a token of their service account, the authority's
//! certificate and the namespace; they go with the account.

use crate::{Context, LegacyToken};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use naru_api::registry;
use naru_client::projections::{Meta, ObjectView};
use naru_client::{Client, DeleteOptions, Error, Informer, ListParams, Next, ObjectKey, WorkQueue, is_not_found};
use serde::Deserialize;
use serde_json::Value;

const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

/// What is looked at in a Secret; what it holds is not kept.
#[derive(Debug, Deserialize)]
struct TokenSecret {
    metadata: Meta,
}

impl TokenSecret {
    fn account(&self) -> &str {
        self.metadata.annotations.get(ACCOUNT_NAME).map_or("", String::as_str)
    }
}

/// Keys are the Secrets'.
pub(crate) fn start(ctx: &Context) {
    let of_type = ListParams::all().fields(format!("type={TYPE}"));
    let secrets: Informer<TokenSecret> = ctx.informers.start(&registry::SECRETS, of_type);
    let accounts: Informer<ObjectView> = ctx.informers.start(&registry::SERVICE_ACCOUNTS, ListParams::all());
    let queue: WorkQueue<ObjectKey> = WorkQueue::new();
    let wake = queue.clone();
    secrets.subscribe(move |change| wake.add(change.key.clone()));
    let (wake, known) = (queue.clone(), secrets.clone());
    accounts.subscribe(move |change| {
        for secret in known.by_namespace(&change.key.namespace) {
            if secret.account() == change.key.name {
                wake.add(secret.metadata.key());
            }
        }
    });
    let (keeper, cached) = (Keeper { ctx: ctx.clone(), accounts: accounts.clone() }, secrets.clone());
    let synced = async move {
        secrets.synced().await;
        accounts.synced().await;
    };
    ctx.run(&queue, 1, synced, move |key: ObjectKey| {
        let (keeper, cached) = (keeper.clone(), cached.clone());
        async move {
            match cached.get_key(&key) {
                Some(secret) if !secret.metadata.is_deleting() => keeper.reconcile(&key, &secret).await?,
                _ => {}
            }
            Ok::<_, Error>(Next::Done)
        }
    });
}

#[derive(Debug, Clone)]
struct Keeper {
    ctx: Context,
    accounts: Informer<ObjectView>,
}

impl Keeper {
    async fn reconcile(&self, key: &ObjectKey, secret: &TokenSecret) -> Result<(), Error> {
        let Some(account) = self.account(key, secret).await? else {
            let only = DeleteOptions::default().uid(&secret.metadata.uid);
            let client = &self.ctx.client;
            return match client.delete(&registry::SECRETS, key.namespace(), &key.name, &only).await {
                Err(error) if !is_not_found(&error) => Err(error),
                _ => Ok(()),
            };
        };
        let object: Value = match self.ctx.client.get(&registry::SECRETS, key.namespace(), &key.name).await {
            Err(error) if is_not_found(&error) => return Ok(()),
            other => other?,
        };
        if object["metadata"]["uid"] != *secret.metadata.uid {
            return Ok(());
        }
        let Some(filled) = self.filled(&object, &account) else { return Ok(()) };
        self.ctx.client.update::<Value>(&registry::SECRETS, key.namespace(), &key.name, &filled).await.map(drop)
    }

    /// The uid and name of the Secret's account; `None` when it is gone, or is another one by now.
    async fn account(&self, key: &ObjectKey, secret: &TokenSecret) -> Result<Option<(String, String)>, Error> {
        let name = secret.account();
        let meant = secret.metadata.annotations.get(ACCOUNT_UID).map_or("", String::as_str);
        let fits = |uid: &str| meant.is_empty() || meant == uid;
        if let Some(found) = self.accounts.get(&key.namespace, name).filter(|found| fits(&found.metadata.uid)) {
            return Ok(Some((found.metadata.uid.clone(), name.to_owned())));
        }
        // The cache may not have seen it yet, and a Secret that is deleted takes its token along.
        let client: &Client = &self.ctx.client;
        match client.get::<ObjectView>(&registry::SERVICE_ACCOUNTS, key.namespace(), name).await {
            Ok(found) => Ok(fits(&found.metadata.uid).then(|| (found.metadata.uid.clone(), name.to_owned()))),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The Secret with what it lacks; `None` when it lacks nothing.
    fn filled(&self, object: &Value, (uid, name): &(String, String)) -> Option<Value> {
        let text = |part: &str| object["metadata"][part].as_str().unwrap_or_default().to_owned();
        let (namespace, secret) = (text("namespace"), text("name"));
        let has = |key: &str| object["data"][key].as_str().is_some_and(|held| !held.is_empty());
        let mut filled = object.clone();
        if !filled["data"].is_object() {
            filled["data"] = Value::Object(serde_json::Map::new());
        }
        filled["metadata"]["annotations"][ACCOUNT_UID] = uid.clone().into();
        let authority = &self.ctx.config.ca_pem;
        if !authority.is_empty() {
            filled["data"]["ca.crt"] = STANDARD.encode(authority).into();
        }
        if !has("namespace") {
            filled["data"]["namespace"] = STANDARD.encode(&namespace).into();
        }
        if !has("token") {
            let wanted = LegacyToken { namespace: &namespace, secret: &secret, account: name, account_uid: uid };
            let token = (self.ctx.config.legacy_token)(&wanted)?;
            filled["data"]["token"] = STANDARD.encode(token).into();
        }
        (filled != *object).then_some(filled)
    }
}
