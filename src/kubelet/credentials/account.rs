//! Service accounts for credential providers: a program may ask for a token of the account of the pod that pulls.

use async_trait::async_trait;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// The one version of the protocol that carries tokens.
const VERSION: &str = "credentialprovider.kubelet.k8s.io/v1";

/// `tokenAttributes` of a provider.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct TokenAttributes {
    #[serde(default)]
    service_account_token_audience: String,
    #[serde(default)]
    cache_type: String,
    #[serde(default)]
    require_service_account: Option<bool>,
    #[serde(default)]
    required_service_account_annotation_keys: Vec<String>,
    #[serde(default)]
    optional_service_account_annotation_keys: Vec<String>,
}

/// A service account, as far as a provider may see it.
#[derive(Debug, Clone, Default)]
pub struct AccountData {
    /// Its uid.
    pub uid: String,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

/// The service account of a pod that pulls an image.
#[async_trait]
pub trait Account: Sync {
    /// Namespace and name; a static pod has none.
    fn name(&self) -> Option<(String, String)>;
    /// The account as the API server has it.
    async fn read(&self) -> Result<AccountData, String>;
    /// A token of it, bound to the pod, for an audience.
    async fn token(&self, audience: &str) -> Result<String, String>;
}

/// What a provider is given beside the image's name, and what its answers hold for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) token: String,
    pub(super) annotations: BTreeMap<String, String>,
    /// Part of the cache's keys.
    pub(super) key: String,
}

impl TokenAttributes {
    /// Who asks; `None` if the provider is not to be asked for this pod.
    pub(super) async fn identity(&self, account: &dyn Account) -> Result<Option<Identity>, String> {
        let Some((namespace, name)) = account.name() else {
            return Ok((self.require_service_account == Some(false)).then(Identity::default));
        };
        let data = account.read().await?;
        let mut annotations = BTreeMap::new();
        for key in &self.required_service_account_annotation_keys {
            // By such an annotation accounts opt in.
            let Some(value) = data.annotations.get(key) else { return Ok(None) };
            annotations.insert(key.clone(), value.clone());
        }
        for key in &self.optional_service_account_annotation_keys {
            annotations.extend(data.annotations.get(key).map(|value| (key.clone(), value.clone())));
        }
        let token = account.token(&self.service_account_token_audience).await?;
        let mut key = format!(" {namespace}/{name} {} {annotations:?}", data.uid);
        if self.cache_type == "Token" {
            use sha2::{Digest, Sha256};
            key = format!("{key} {}", crate::pod::start::hex(&Sha256::digest(&token)));
        }
        Ok(Some(Identity { token, annotations, key }))
    }

    /// What is wrong with them.
    pub(super) fn validate(&self, version: &str, errors: &mut Vec<String>) {
        const AT: &str = "providers.tokenAttributes";
        if self.service_account_token_audience.is_empty() {
            errors.push(format!("{AT}.serviceAccountTokenAudience: Required value"));
        }
        if self.require_service_account.is_none() {
            errors.push(format!("{AT}.requireServiceAccount: Required value"));
        }
        if version != VERSION {
            errors.push(format!("{AT}: Forbidden: tokenAttributes is only supported for {VERSION} API version"));
        }
        let (required, optional) =
            (&self.required_service_account_annotation_keys, &self.optional_service_account_annotation_keys);
        if self.require_service_account == Some(false) && !required.is_empty() {
            errors.push(format!(
                "{AT}.requiredServiceAccountAnnotationKeys: Forbidden: requireServiceAccount cannot be false when \
                 requiredServiceAccountAnnotationKeys is set"
            ));
        }
        for (field, keys) in
            [("requiredServiceAccountAnnotationKeys", required), ("optionalServiceAccountAnnotationKeys", optional)]
        {
            let mut seen = BTreeSet::new();
            for key in keys {
                let wrong = naru_api::meta::names::qualified_name(&key.to_lowercase());
                errors.extend(wrong.into_iter().map(|why| format!("{AT}.{field}: Invalid value: {key:?}: {why}")));
                if !seen.insert(key) {
                    errors.push(format!("{AT}.{field}: Duplicate value: {key:?}"));
                }
            }
        }
        let both: BTreeSet<&String> = required.iter().filter(|key| optional.contains(key)).collect();
        if !both.is_empty() {
            let list = both.into_iter().map(|key| format!("{key:?}")).collect::<Vec<_>>().join(",");
            errors.push(format!("{AT}: Invalid value: [{list}]: annotation keys cannot be both required and optional"));
        }
        match self.cache_type.as_str() {
            "ServiceAccount" | "Token" => {}
            "" => errors.push(format!(
                "{AT}.cacheType: Required value: cacheType is required to be set when tokenAttributes is specified. \
                 Supported values are: ServiceAccount, Token"
            )),
            other => errors.push(format!(
                "{AT}.cacheType: Unsupported value: {other:?}: supported values: \"ServiceAccount\", \"Token\""
            )),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    /// An account of a test; without a name, that of a static pod.
    #[derive(Debug, Default, Clone)]
    pub(in super::super) struct TestAccount {
        pub(in super::super) name: &'static str,
        pub(in super::super) annotations: Vec<(&'static str, &'static str)>,
        pub(in super::super) token: &'static str,
    }

    #[async_trait]
    impl Account for TestAccount {
        fn name(&self) -> Option<(String, String)> {
            (!self.name.is_empty()).then(|| ("ns".to_owned(), self.name.to_owned()))
        }
        async fn read(&self) -> Result<AccountData, String> {
            let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
            Ok(AccountData {
                uid: format!("uid-{}", self.name),
                annotations: self.annotations.iter().map(own).collect(),
            })
        }
        async fn token(&self, audience: &str) -> Result<String, String> {
            Ok(format!("{}-for-{audience}", self.token))
        }
    }

    fn attributes(value: serde_json::Value) -> TokenAttributes {
        serde_json::from_value(value).unwrap()
    }

    #[tokio::test]
    async fn accounts_are_told_as_far_as_it_is_asked_for() {
        let of = |cache: &str, require: bool| {
            attributes(json!({"serviceAccountTokenAudience": "registry", "cacheType": cache,
                "requireServiceAccount": require, "optionalServiceAccountAnnotationKeys": ["a/opt"],
                "requiredServiceAccountAnnotationKeys": if require { json!(["a/in"]) } else { json!([]) }}))
        };
        let account = TestAccount { name: "sa", annotations: vec![("a/in", "1"), ("a/other", "2")], token: "t1" };
        let told = of("ServiceAccount", true).identity(&account).await.unwrap().unwrap();
        assert_eq!(told.token, "t1-for-registry");
        assert_eq!(told.annotations, BTreeMap::from([("a/in".to_owned(), "1".to_owned())]));
        // The next token is the same account's.
        let next = TestAccount { token: "t2", ..account.clone() };
        for (cache, same) in [("ServiceAccount", true), ("Token", false)] {
            let keys = [&account, &next].map(|account| async { of(cache, true).identity(account).await.unwrap() });
            let [a, b] = keys;
            assert_eq!(a.await.unwrap().key == b.await.unwrap().key, same, "{cache}");
        }
        let without = TestAccount { annotations: Vec::new(), ..account };
        assert_eq!(of("Token", true).identity(&without).await, Ok(None));
        let nobody = TestAccount::default();
        assert_eq!(of("Token", true).identity(&nobody).await, Ok(None));
        assert_eq!(of("Token", false).identity(&nobody).await, Ok(Some(Identity::default())));
    }

    #[test]
    fn attributes_are_checked() {
        let check = |value, version: &str, expect: &[&str]| {
            let mut errors = Vec::new();
            attributes(value).validate(version, &mut errors);
            assert_eq!(errors.len(), expect.len(), "{errors:?}");
            for (error, part) in errors.iter().zip(expect) {
                assert!(error.contains(part), "{error:?} lacks {part:?}");
            }
        };
        check(
            json!({}),
            VERSION,
            &["Audience: Required value", "requireServiceAccount: Required value", "cacheType: Required value"],
        );
        let whole = |more: serde_json::Value| {
            let mut value =
                json!({"serviceAccountTokenAudience": "a", "requireServiceAccount": true, "cacheType": "Token"});
            value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            value
        };
        check(whole(json!({})), VERSION, &[]);
        check(whole(json!({})), "credentialprovider.kubelet.k8s.io/v1beta1", &["only supported for"]);
        check(
            whole(json!({"cacheType": "x"})),
            VERSION,
            &["Unsupported value: \"x\": supported values: \"ServiceAccount\", \"Token\""],
        );
        check(
            whole(
                json!({"requiredServiceAccountAnnotationKeys": ["A/b", "a b", "A/b"], "optionalServiceAccountAnnotationKeys": ["A/b"]}),
            ),
            VERSION,
            &["Invalid value: \"a b\"", "Duplicate value: \"A/b\"", "[\"A/b\"]: annotation keys cannot be both"],
        );
        check(
            whole(json!({"requireServiceAccount": false, "requiredServiceAccountAnnotationKeys": ["a"]})),
            VERSION,
            &["requireServiceAccount cannot be false"],
        );
    }
}
