//! Who is asking: token files, identity providers, webhooks, front proxies.

use super::outside::Outside;
use super::*;
use crate::flags::Flags;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::KeyPair;
use std::sync::Mutex;
use std::time::Duration;

fn flags(arguments: &[String]) -> Flags {
    Flags::parse(arguments).unwrap()
}

/// A key of an identity provider.
struct Signer(EcdsaKeyPair);

impl Signer {
    fn new() -> Self {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        Self(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.as_ref(), &random).unwrap())
    }

    fn public(&self, kid: &str) -> Value {
        let point = self.0.public_key().as_ref();
        json!({ "kty": "EC", "use": "sig", "alg": "ES256", "kid": kid, "crv": "P-256",
            "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..]) })
    }

    fn token(&self, kid: &str, claims: &Value) -> String {
        let header = json!({ "alg": "ES256", "kid": kid });
        let signed =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = self.0.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}

/// An identity provider whose keys can be changed.
async fn provider(keys: Arc<Mutex<Vec<Value>>>) -> Outside {
    let url = Arc::new(Mutex::new(String::new()));
    let own = url.clone();
    let outside = Outside::start(move |path, _| match path {
        "/.well-known/openid-configuration" => {
            let url = own.lock().unwrap().clone();
            (200, json!({ "issuer": url, "jwks_uri": format!("{url}/keys") }))
        }
        "/keys" => (200, json!({ "keys": *keys.lock().unwrap() })),
        _ => (404, Value::Null),
    })
    .await;
    *url.lock().unwrap() = outside.url();
    outside
}

/// Who a token's bearer is, asked until the provider has been reached.
async fn review(server: &Server, token: &str) -> Value {
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    loop {
        let status = server.post(path, json!({ "spec": { "token": token } })).await.ok()["status"].clone();
        if status["error"] != "oidc: authenticator not initialized" {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn claims(url: &str, more: Value) -> Value {
    let mut claims = json!({ "iss": url, "aud": ["naru", "other"], "exp": 4_000_000_000_i64, "sub": "jane", "jti": "7",
        "groups": ["dev", "ops"], "hd": "example.org" });
    for (key, value) in more.as_object().unwrap() {
        claims[key] = value.clone();
    }
    claims
}

#[tokio::test]
async fn tokens_of_an_identity_provider() {
    let key = Signer::new();
    let keys = Arc::new(Mutex::new(vec![key.public("one")]));
    let outside = provider(keys.clone()).await;
    let url = outside.url();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("authentication.yaml");
    let configuration = json!({ "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
        "jwt": [{ "issuer": { "url": url, "audiences": ["naru"], "certificateAuthority": outside.ca_pem },
            "claimValidationRules": [{ "claim": "hd", "requiredValue": "example.org" }],
            "claimMappings": { "username": { "claim": "sub", "prefix": "oidc:" }, "groups": { "claim": "groups", "prefix": "g-" } } }],
        "anonymous": { "enabled": true, "conditions": [{ "path": "/livez" }] } });
    std::fs::write(&file, configuration.to_string()).unwrap();
    let server = Server::start_with(|config| {
        config.flags = flags(&[format!("authentication-config={}", file.display())]);
    })
    .await;
    let good = key.token("one", &claims(&url, json!({})));
    assert_eq!(
        review(&server, &good).await["user"],
        json!({ "username": "oidc:jane", "groups": ["g-dev", "g-ops", "system:authenticated"],
            "extra": { "authentication.kubernetes.io/credential-id": ["JTI=7"] } })
    );
    let cases = [
        (json!({ "aud": "x" }), "oidc: verify token: oidc: expected audience \"naru\" got [\"x\"]"),
        (
            json!({ "exp": 5 }),
            "oidc: verify token: oidc: token is expired (Token Expiry: 1970-01-01 00:00:05 +0000 UTC)",
        ),
        (json!({ "hd": "evil" }), "oidc: required claim hd value does not match. Got = evil, want = example.org"),
        (json!({ "sub": 5 }), "oidc: parse username claims \"sub\": not a string"),
        (json!({ "iss": "https://elsewhere" }), "invalid bearer token"),
    ];
    for (change, error) in cases {
        let token = key.token("one", &claims(&url, change));
        assert_eq!(review(&server, &token).await, json!({ "user": {}, "error": error }));
    }
    let forged = Signer::new().token("one", &claims(&url, json!({})));
    assert!(review(&server, &forged).await["error"].as_str().unwrap().contains("failed to verify signature"));
    let state = server.state();
    assert!(authenticate(state, None, "/livez").await.is_some());
    assert!(authenticate(state, None, "/readyz").await.is_none());
    let user = authenticate(state, Some(&format!("Bearer {good}")), "/api").await.unwrap();
    assert_eq!(user.name, "oidc:jane");
}

/// A provider that knows the groups of users whose tokens do not say them, and answers by path.
async fn group_server(key: Arc<Signer>) -> Outside {
    let url = Arc::new(Mutex::new(String::new()));
    let own = url.clone();
    let outside = Outside::start(move |path, bearer| {
        let url = own.lock().unwrap().clone();
        let token = |more: Value| {
            let claims = json!({ "iss": url, "aud": "naru", "exp": 4_000_000_000_i64 });
            let all = claims.as_object().unwrap().iter().chain(more.as_object().unwrap());
            let all: Value =
                all.map(|(name, value)| (name.clone(), value.clone())).collect::<serde_json::Map<_, _>>().into();
            Value::from(key.token("one", &all))
        };
        match path {
            "/.well-known/openid-configuration" => (200, json!({ "issuer": url, "jwks_uri": format!("{url}/keys") })),
            "/keys" => (200, json!({ "keys": [key.public("one")] })),
            "/groups" if bearer == "Bearer secret" => (200, token(json!({ "groups": ["far", "away"] }))),
            "/nothing" => (200, token(json!({ "other": "x" }))),
            "/old" => (200, token(json!({ "groups": "x", "exp": 5 }))),
            "/text" => (200, "hello".into()),
            _ => (403, Value::Null),
        }
    })
    .await;
    *url.lock().unwrap() = outside.url();
    outside
}

#[tokio::test]
async fn groups_are_fetched_from_where_a_token_says() {
    let (key, far_key) = (Arc::new(Signer::new()), Arc::new(Signer::new()));
    let (near, far) = (group_server(key.clone()).await, group_server(far_key).await);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("authentication.yaml");
    let configuration = json!({ "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
        "jwt": [{ "issuer": { "url": near.url(), "audiences": ["naru"], "certificateAuthority": format!("{}{}", near.ca_pem, far.ca_pem) },
            "claimMappings": { "username": { "claim": "sub", "prefix": "" }, "groups": { "claim": "groups", "prefix": "g-" } } }] });
    std::fs::write(&file, configuration.to_string()).unwrap();
    let server = Server::start_with(|config| {
        config.flags = flags(&[format!("authentication-config={}", file.display())]);
    })
    .await;
    let asked = async |names: Value, sources: Value| {
        let mut claims =
            json!({ "iss": near.url(), "aud": "naru", "exp": 4_000_000_000_i64, "sub": "jane", "_claim_names": names });
        if !sources.is_null() {
            claims["_claim_sources"] = sources;
        }
        review(&server, &key.token("one", &claims)).await
    };
    let at = |outside: &Outside, path: &str| json!({ "s": { "endpoint": format!("{}{path}", outside.url()), "access_token": "secret" } });
    let names = || json!({ "groups": "s" });
    let groups = json!(["g-far", "g-away", "system:authenticated"]);
    assert_eq!(asked(names(), at(&near, "/groups")).await["user"]["groups"], groups);
    // Another issuer is reached in the background first.
    loop {
        let status = asked(names(), at(&far, "/groups")).await;
        if status["user"]["groups"] == groups {
            break;
        }
        let url = far.url();
        let error = format!(
            "oidc: could not expand distributed claims: verifying untrusted issuer {url} failed: verifier not initialized for issuer: \"{url}\""
        );
        assert_eq!(status["error"], error);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let nobody = json!(["system:authenticated"]);
    assert_eq!(asked(json!({ "other": "s" }), at(&near, "/groups")).await["user"]["groups"], nobody);
    assert_eq!(asked(names(), json!({ "s": { "JWT": "x" } })).await["user"]["groups"], nobody);
    let url = near.url();
    let cases = [
        (Value::Null, "oidc: no claim sources".to_owned()),
        (json!({ "t": {} }), "id token _claim_names contained a source s missing in _claims_sources".to_owned()),
        (
            at(&near, "/refused"),
            "while getting distributed claim \"groups\": error while getting distributed claim JWT: 403 Forbidden"
                .to_owned(),
        ),
        (
            at(&near, "/text"),
            format!("getting untrusted issuer from endpoint {url}/text failed for claim \"groups\": malformed token"),
        ),
        (
            at(&near, "/nothing"),
            format!("jwt returned by distributed claim endpoint \"{url}/nothing\" did not contain claim: groups"),
        ),
        (
            at(&near, "/old"),
            "verify distributed claim token: oidc: token is expired (Token Expiry: 1970-01-01 00:00:05 +0000 UTC)"
                .to_owned(),
        ),
    ];
    for (sources, error) in cases {
        let error = format!("oidc: could not expand distributed claims: {error}");
        assert_eq!(asked(names(), sources).await["error"], error);
    }
}

#[tokio::test]
async fn expressions_make_users_and_refuse_them() {
    let key = Signer::new();
    let outside = provider(Arc::new(Mutex::new(vec![key.public("one")]))).await;
    let url = outside.url();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("authentication.yaml");
    let configuration = json!({ "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
        "jwt": [{ "issuer": { "url": url, "audiences": ["naru"], "certificateAuthority": outside.ca_pem },
            "claimValidationRules": [{ "expression": "claims.exp - claims.?iat.orValue(claims.exp) <= 86400", "message": "lives too long" }],
            "claimMappings": {
                "username": { "expression": "'oidc:' + claims.sub" },
                "groups": { "expression": "claims.groups.filter(g, g != 'ops').map(g, 'g-' + g) + claims.?role.optMap(r, [r]).orValue([])" },
                "uid": { "expression": "claims.?jti.orValue('')" },
                "extra": [{ "key": "example.org/hd", "valueExpression": "claims.hd" },
                    { "key": "example.org/none", "valueExpression": "claims.?none.orValue('')" }] },
            "userValidationRules": [{ "expression": "!user.username.startsWith('oidc:system:')", "message": "reserved name" },
                { "expression": "user.groups.all(g, !g.startsWith('system:'))", "message": "reserved group" }] }] });
    std::fs::write(&file, configuration.to_string()).unwrap();
    let server = Server::start_with(|config| {
        config.flags = flags(&[format!("authentication-config={}", file.display())]);
    })
    .await;
    let asked = async |change: Value| review(&server, &key.token("one", &claims(&url, change))).await;
    assert_eq!(
        asked(json!({ "role": "admin" })).await["user"],
        json!({ "username": "oidc:jane", "uid": "7", "groups": ["g-dev", "admin", "system:authenticated"],
            "extra": { "authentication.kubernetes.io/credential-id": ["JTI=7"], "example.org/hd": ["example.org"] } })
    );
    let cases = [
        (
            json!({ "iat": 1 }),
            "oidc: error evaluating claim validation expression: validation expression 'claims.exp - claims.?iat.orValue(claims.exp) <= 86400' failed: lives too long",
        ),
        (
            json!({ "sub": "system:x" }),
            "oidc: error evaluating user info validation rule: validation expression '!user.username.startsWith('oidc:system:')' failed: reserved name",
        ),
        (
            json!({ "role": "system:masters" }),
            "oidc: error evaluating user info validation rule: validation expression 'user.groups.all(g, !g.startsWith('system:'))' failed: reserved group",
        ),
        (
            json!({ "sub": 5 }),
            "oidc: error evaluating username claim expression: expression ''oidc:' + claims.sub' resulted in error: no such overload",
        ),
        (
            json!({ "hd": { "a": 1 } }),
            "oidc: error evaluating extra claim expression: claims.hd: expression must return a string or a list of strings",
        ),
    ];
    for (change, error) in cases {
        assert_eq!(asked(change).await, json!({ "user": {}, "error": error }));
    }
}

#[tokio::test]
async fn a_new_key_is_fetched_when_a_token_names_it() {
    let (old, new) = (Signer::new(), Signer::new());
    let keys = Arc::new(Mutex::new(vec![old.public("old")]));
    let outside = provider(keys.clone()).await;
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, &outside.ca_pem).unwrap();
    let server = Server::start_with(|config| {
        config.flags = flags(&[
            format!("oidc-issuer-url={}", outside.url()),
            "oidc-client-id=naru".to_owned(),
            format!("oidc-ca-file={}", ca.display()),
            "oidc-signing-algs=ES256".to_owned(),
        ]);
    })
    .await;
    let name = format!("{}#jane", outside.url());
    let token = |key: &Signer, kid: &str| key.token(kid, &claims(&outside.url(), json!({})));
    assert_eq!(review(&server, &token(&old, "old")).await["user"]["username"], name);
    *keys.lock().unwrap() = vec![new.public("new")];
    let fetches = || outside.asked().iter().filter(|(path, _)| path == "/keys").count();
    // Keys that nobody has published do not make us ask again and again.
    for _ in 0..3 {
        assert!(review(&server, &token(&new, "new")).await["error"].is_string());
    }
    assert_eq!(fetches(), 1);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(11)).await;
    tokio::time::resume();
    assert_eq!(review(&server, &token(&new, "new")).await["user"]["username"], name);
    assert!(review(&server, &token(&old, "old")).await["error"].is_string());
    assert_eq!(fetches(), 2);
}

#[tokio::test]
async fn a_changed_configuration_counts_once_its_providers_are_reached() {
    let (one, two) = (Signer::new(), Signer::new());
    let first = provider(Arc::new(Mutex::new(vec![one.public("one")]))).await;
    let second = provider(Arc::new(Mutex::new(vec![two.public("one")]))).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("authentication.yaml");
    let jwt = |outside: &Outside, prefix: &str| {
        json!({ "issuer": { "url": outside.url(), "audiences": ["naru"], "certificateAuthority": outside.ca_pem },
            "claimMappings": { "username": { "claim": "sub", "prefix": prefix } } })
    };
    let write = |jwt: Value, open: &str| {
        let text = json!({ "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration", "jwt": jwt,
            "anonymous": { "enabled": true, "conditions": [{ "path": open }] } });
        std::fs::write(&file, text.to_string()).unwrap();
    };
    write(json!([jwt(&first, "a:")]), "/livez");
    let server = Server::start_with(|config| {
        config.flags = flags(&[format!("authentication-config={}", file.display())]);
    })
    .await;
    let by_first = one.token("one", &claims(&first.url(), json!({})));
    let by_second = two.token("one", &claims(&second.url(), json!({})));
    assert_eq!(review(&server, &by_first).await["user"]["username"], "a:jane");
    assert_eq!(review(&server, &by_second).await["error"], "invalid bearer token");
    // The file is looked at every ten seconds.
    let later = async || {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(11)).await;
        tokio::time::resume();
    };
    std::fs::write(&file, "jwt: 5").unwrap();
    later().await;
    assert_eq!(review(&server, &by_first).await["user"]["username"], "a:jane", "what cannot be used changes nothing");
    write(json!([jwt(&second, "b:"), jwt(&first, "c:")]), "/readyz");
    later().await;
    while review(&server, &by_second).await["user"]["username"] != "b:jane" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(review(&server, &by_first).await["user"]["username"], "c:jane");
    assert!(authenticate(server.state(), None, "/readyz").await.is_some());
    assert!(authenticate(server.state(), None, "/livez").await.is_none());
}

#[tokio::test]
async fn tokens_in_a_file_and_tokens_that_a_webhook_knows() {
    let outside = Outside::start(|_, review| {
        let known = review["spec"]["token"] == "theirs";
        let user = json!({ "username": "wanda", "uid": "9", "groups": ["w"], "extra": { "k": ["v"] } });
        let status = json!({ "authenticated": known, "user": if known { user } else { json!({}) } });
        (200, json!({ "apiVersion": review["apiVersion"], "kind": "TokenReview", "status": status }))
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokens.csv");
    std::fs::write(&file, "in-file,jane,42,\"dev,ops\"\n").unwrap();
    let server = Server::start_with(|config| {
        config.flags = flags(&[
            format!("token-auth-file={}", file.display()),
            format!("authentication-token-webhook-config-file={}", outside.kubeconfig(dir.path()).display()),
            "authentication-token-webhook-version=v1".to_owned(),
        ]);
    })
    .await;
    let jane = json!({ "username": "jane", "uid": "42", "groups": ["dev", "ops", "system:authenticated"] });
    assert_eq!(review(&server, "in-file").await["user"], jane);
    assert_eq!(outside.asked().len(), 0);
    for _ in 0..2 {
        let wanda = json!({ "username": "wanda", "uid": "9", "groups": ["w", "system:authenticated"], "extra": { "k": ["v"] } });
        assert_eq!(review(&server, "theirs").await["user"], wanda);
        assert_eq!(review(&server, "nobodys").await, json!({ "user": {}, "error": "invalid bearer token" }));
    }
    // Each was asked for once: answers count for a while.
    let asked = outside.asked();
    assert_eq!(asked.len(), 2);
    assert_eq!(
        (asked[0].0.as_str(), &asked[0].1["spec"]["audiences"]),
        ("/review", &json!(["https://kubernetes.default.svc.cluster.local"]))
    );
}

#[tokio::test]
async fn front_proxies_vouch_for_users_in_headers() {
    let certified = |name: &str| {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        params
    };
    let make = |name: &str| {
        let mut params = certified(name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        (pem.clone(), rcgen::Issuer::from_ca_cert_pem(&pem, key).unwrap())
    };
    let (proxy_pem, proxies) = make("proxies");
    let (users_pem, users) = make("users");
    let sign = |issuer: &rcgen::Issuer<'_, rcgen::KeyPair>, name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        certified(name).signed_by(&key, issuer).unwrap().der().clone()
    };
    let server = Server::start_with(|config| {
        config.client_ca_pem = users_pem;
        config.front_proxy = crate::FrontProxy::usual(proxy_pem.clone(), "proxy");
    })
    .await;
    let state = server.state();
    let ask = async |peer: &Peer| {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("x-remote-user", "jane"), ("x-remote-group", "a"), ("x-remote-group", "b"), ("x-remote-extra-k%2fx", "v")]
        {
            headers.append(name, HeaderValue::from_static(value));
        }
        let user =
            state.authn.authenticate(&state.cache, peer, &mut headers, "/livez").await.ok().map(|(user, _)| user);
        assert!(headers.is_empty(), "{headers:?}");
        user
    };
    let judged = |der: rustls_pki_types::CertificateDer<'static>| state.authn.peers.judge(&[der]);
    let user = ask(&judged(sign(&proxies, "proxy"))).await.unwrap();
    assert_eq!((user.name.as_str(), &user.extra["k/x"][..]), ("jane", &["v".to_owned()][..]));
    assert_eq!(user.groups, ["a", "b", "system:authenticated"]);
    // Another name, or another authority, vouches for nobody; a certificate that counts for nothing is refused.
    assert_eq!(ask(&judged(sign(&proxies, "other"))).await, None);
    assert_eq!(ask(&judged(sign(&users, "proxy"))).await.unwrap().name, "proxy");
    assert_eq!(ask(&Peer::default()).await.unwrap().name, "system:anonymous");
    let map = server.get("/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication").await.ok();
    assert_eq!(map["data"]["requestheader-client-ca-file"], proxy_pem);
    assert_eq!(map["data"]["requestheader-allowed-names"], "[\"proxy\"]");
    assert_eq!(map["data"]["requestheader-extra-headers-prefix"], "[\"X-Remote-Extra-\"]");
}

#[tokio::test]
async fn plugins_run_or_not_as_the_flags_say() {
    let server = Server::start_with(|config| {
        config.flags = flags(&[
            "disable-admission-plugins=DefaultTolerationSeconds".to_owned(),
            "service-account-issuer=https://new,https://old".to_owned(),
        ]);
    })
    .await;
    let pod = server.post(PODS, pod("p")).await.ok();
    assert_eq!(pod["spec"]["tolerations"], Value::Null);
    let document = server.get("/.well-known/openid-configuration").await.ok();
    assert_eq!(document["issuer"], "https://new");
    assert_eq!(server.state().authn.issuer.api_audiences(), ["https://new", "https://old"]);
}

/// A Secret with a token of `default`, as the tokens controller makes it.
async fn legacy_secret(server: &Server) -> String {
    let account = server.get("/api/v1/namespaces/default/serviceaccounts/default").await.ok();
    let token = server
        .api
        .legacy_token(&crate::LegacyToken {
            namespace: "default",
            secret: "old",
            account: "default",
            account_uid: account["metadata"]["uid"].as_str().unwrap(),
        })
        .unwrap();
    let secret = json!({ "metadata": { "name": "old", "annotations": { "kubernetes.io/service-account.name": "default" } },
        "type": "kubernetes.io/service-account-token", "stringData": { "token": token } });
    server.post("/api/v1/namespaces/default/secrets", secret).await.ok();
    token
}

#[tokio::test]
async fn tokens_in_secrets_live_with_them() {
    let server = Server::start().await;
    let token = legacy_secret(&server).await;
    let secret = "/api/v1/namespaces/default/secrets/old";
    assert_eq!(review(&server, &token).await["user"]["username"], "system:serviceaccount:default:default");
    let state = server.state();
    let mut headers = HeaderMap::new();
    headers.insert("authorization", HeaderValue::from_str(&format!("Bearer {token}")).unwrap());
    let (_, remarks) =
        state.authn.authenticate(&state.cache, &Peer::default(), &mut headers.clone(), "/api").await.ok().unwrap();
    assert_eq!(remarks.audit, [("authentication.k8s.io/legacy-token-manual-secret", "old".to_owned())]);
    assert_eq!((remarks.warning, remarks.last_used), (None, Some(("default".to_owned(), "old".to_owned()))));
    // What is listed in the account was made for it, and its use is worth a warning.
    let account = "/api/v1/namespaces/default/serviceaccounts/default";
    server.merge(account, json!({ "secrets": [{ "name": "old" }] })).await.ok();
    let today = crate::authn::day(crate::clock::now_seconds());
    server
        .merge(secret, json!({ "metadata": { "labels": { "kubernetes.io/legacy-token-last-used": today } } }))
        .await
        .ok();
    let (_, remarks) =
        state.authn.authenticate(&state.cache, &Peer::default(), &mut headers, "/api").await.ok().unwrap();
    assert!(remarks.warning.unwrap().starts_with("Use tokens from the TokenRequest API"));
    assert_eq!(remarks.last_used, None);
    server
        .merge(secret, json!({ "metadata": { "labels": { "kubernetes.io/legacy-token-invalid-since": today } } }))
        .await
        .ok();
    let error = review(&server, &token).await["error"].as_str().unwrap().to_owned();
    assert!(
        error.starts_with(
            "the token in secret default/old for service account default/default has been marked invalid."
        ),
        "{error}"
    );
    server.delete(secret).await.ok();
    assert_eq!(review(&server, &token).await["error"], "service account token has been invalidated");
}

#[tokio::test]
async fn requests_for_tokens_are_checked() {
    let server = Server::start_with(|config| {
        config.flags = flags(&["service-account-max-token-expiration=2h".to_owned()]);
    })
    .await;
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let claims = |answer: &Value| -> Value {
        let token = answer["status"]["token"].as_str().unwrap();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
    };
    let life = |claims: &Value| claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap();
    let long = server.post(path, json!({ "spec": { "expirationSeconds": 86400 } })).await;
    assert_eq!(long.warnings, ["requested expiration of 86400 seconds shortened to 7200 seconds"]);
    let long = long.ok();
    assert_eq!((life(&claims(&long)), &long["spec"]["expirationSeconds"]), (7200, &json!(7200)));
    assert!(long["metadata"]["uid"].is_string());
    let short = json!({ "spec": { "expirationSeconds": 5 } });
    server.post(path, short).await.refused(
        422,
        "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 5: may not specify a duration less than 10 minutes",
    );
    server.post(path, json!({ "metadata": { "name": "x" }, "spec": {} })).await.refused(
        422,
        "TokenRequest.authentication.k8s.io \"default\" is invalid: metadata.name: Invalid value: \"x\": must match the service account name if specified",
    );
    let bound = |kind: &str, version: &str, uid: &str| json!({ "spec": { "boundObjectRef": { "kind": kind, "apiVersion": version, "name": "p", "uid": uid } } });
    server
        .post(path, bound("Deployment", "apps/v1", ""))
        .await
        .refused(400, "cannot bind token to object of type apps/v1, Kind=Deployment");
    server.post(PODS, pod("p")).await.ok();
    server.post(path, bound("Pod", "v1", "other")).await.refused(
        409,
        "Operation cannot be fulfilled on Pod \"p\": the UID in the bound object reference (other) does not match the UID in record. The object might have been deleted and then recreated",
    );
    // What pods get by themselves lives for a year, and only that.
    let mut usual = bound("Pod", "v1", "");
    usual["spec"]["expirationSeconds"] = 3607.into();
    let usual = claims(&server.post(path, usual).await.ok());
    assert_eq!(life(&usual), 365 * 24 * 3600);
    assert_eq!(usual["kubernetes.io"]["warnafter"].as_i64().unwrap() - usual["iat"].as_i64().unwrap(), 3607);
    let unbound = claims(&server.post(path, json!({ "spec": { "expirationSeconds": 3607 } })).await.ok());
    assert_eq!(life(&unbound), 3607);
}

#[tokio::test]
async fn tokens_of_an_older_key_are_accepted_while_it_is_named() {
    let old = key_pem();
    let server = Server::start_with(|config| config.service_account_key_pem = old.clone()).await;
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let token = server.post(path, json!({ "spec": {} })).await.ok()["status"]["token"].as_str().unwrap().to_owned();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("old.pem");
    std::fs::write(&file, old).unwrap();
    for (arguments, keys) in [(vec![], 1), (vec![format!("service-account-key-file={}", file.display())], 2)] {
        let mut config = Config::new(server.state().config.store.clone(), key_pem(), [192, 0, 2, 1].into());
        config.flags = flags(&arguments);
        let renewed = ApiServer::new(config, server.shutdown.child()).await.unwrap();
        let user = authenticate(&renewed.state, Some(&format!("Bearer {token}")), "/api").await;
        assert_eq!(user.is_some(), keys == 2);
        let set = renewed.state.authn.issuer.key_set();
        assert_eq!(set["keys"].as_array().unwrap().len(), keys);
        assert_ne!(
            set["keys"][0]["kid"],
            set["keys"][keys - 1]["kid"].as_str().filter(|_| keys == 2).unwrap_or("none")
        );
    }
}
