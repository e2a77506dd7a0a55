//! A registry with certificates and passwords of its own, and mirrors.

use super::{Bench, TestRegistry, tar_of};
use crate::images::{PullErrorKind, PullOptions, Registries, RegistryCredentials};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::path::Path;

/// `me` with the password `secret`.
const HTPASSWD: &str = "me:$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n";

/// An authority, a server's and a client's certificate as files in `dir`.
fn certificates(dir: &Path) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    std::fs::write(dir.join("ca.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, key);
    for name in ["server", "client"] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.use_authority_key_identifier_extension = true;
        std::fs::write(dir.join(format!("{name}.crt")), params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
        std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

/// A registry that has `mirror/app:1`, speaks TLS and wants a password, and a client's certificate if so told.
async fn private(ask_certificate: bool) -> TestRegistry {
    let registry = TestRegistry::start();
    registry.push("mirror/app:1", &[(tar_of(&[("x", b"hello")]), "gzip")], serde_json::json!({})).await;
    let dir = registry.dir.path().to_owned();
    certificates(&dir);
    std::fs::write(dir.join("htpasswd"), HTPASSWD).unwrap();
    let dir = dir.display();
    let clients = if ask_certificate { format!(", clientcas: [{dir}/ca.crt]") } else { String::new() };
    registry.restart(
        &format!("{{addr: '127.0.0.1:0', tls: {{certificate: {dir}/server.crt, key: {dir}/server.key{clients}}}}}"),
        &format!("{{htpasswd: {{realm: r, path: {dir}/htpasswd}}}}"),
    )
}

/// What comes of pulling `image` with this file and these credentials.
async fn pull(yaml: &str, image: &str, credentials: &[(&str, &str)]) -> Result<Vec<String>, (PullErrorKind, String)> {
    let bench = Bench::new();
    bench.store.configure(Registries::parse(yaml).unwrap());
    let basic =
        |(name, word): &(&str, &str)| RegistryCredentials::Basic { username: (*name).into(), password: (*word).into() };
    let credentials = credentials.iter().map(basic).collect();
    let pulled = bench.store.pull(image, PullOptions { credentials, ..PullOptions::default() }).await;
    pulled.map(|image| image.names.clone()).map_err(|error| (error.kind, error.message))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_with_its_own_authority_and_passwords_is_pulled_from() {
    let registry = private(false).await;
    let (address, dir) = (&registry.address, registry.dir.path().display());
    let image = format!("{address}/mirror/app:1");
    let trusted = format!("configs: {{'{address}': {{tls: {{ca_file: {dir}/ca.crt}}}}}}");
    let (kind, text) = pull(&trusted, &image, &[]).await.unwrap_err();
    assert_eq!(kind, PullErrorKind::PermissionDenied, "{text}");
    let expect = "pull access denied, repository does not exist or may require authorization: authorization failed: no basic auth credentials";
    assert!(text.ends_with(expect), "{text}");
    // The pod's credentials, of which the second are right.
    assert_eq!(pull(&trusted, &image, &[("me", "wrong"), ("me", "secret")]).await.unwrap(), [image.as_str()]);
    // Those of the machine, with any certificate.
    let configured = format!(
        "configs: {{'{address}': {{auth: {{username: me, password: secret}}, tls: {{insecure_skip_verify: true}}}}}}"
    );
    assert_eq!(pull(&configured, &image, &[]).await.unwrap(), [image.as_str()]);
    assert_eq!(pull(&configured, &image, &[("you", "wrong")]).await.unwrap(), [image.as_str()]);
    // An unknown authority.
    let (kind, text) = pull(&format!("configs: {{'{address}': {{tls: {{}}}}}}"), &image, &[]).await.unwrap_err();
    assert_eq!(kind, PullErrorKind::Unavailable, "{text}");
    assert!(text.ends_with("x509: certificate signed by unknown authority"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_asks_for_a_certificate_is_shown_one() {
    let registry = private(true).await;
    let (address, dir) = (&registry.address, registry.dir.path().display());
    let image = format!("{address}/mirror/app:1");
    let with = |more: &str| {
        let tls = format!("tls: {{ca_file: {dir}/ca.crt{more}}}");
        format!("configs: {{'{address}': {{auth: {{auth: bWU6c2VjcmV0}}, {tls}}}}}")
    };
    let _ = pull(&with(""), &image, &[]).await.unwrap_err();
    let shown = with(&format!(", cert_file: {dir}/client.crt, key_file: {dir}/client.key"));
    assert_eq!(pull(&shown, &image, &[]).await.unwrap(), [image.as_str()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_are_asked_in_turn_and_the_registry_itself_last() {
    let (registry, plain) = (private(false).await, TestRegistry::start());
    plain.push("only/here:1", &[(tar_of(&[("y", b"")]), "none")], serde_json::json!({})).await;
    let (address, dir, own) = (&registry.address, registry.dir.path().display(), &plain.address);
    let yaml = format!(
        "
mirrors:
  '{own}':
    endpoint: ['http://127.0.0.1:1', 'https://{address}']
    rewrite: {{'^team/(.*)$': 'mirror/$1'}}
configs:
  '{address}': {{auth: {{username: me, password: secret}}, tls: {{ca_file: {dir}/ca.crt}}}}
"
    );
    // It keeps the name that it was asked for by.
    let image = format!("{own}/team/app:1");
    assert_eq!(pull(&yaml, &image, &[]).await.unwrap(), [image]);
    let image = format!("{own}/only/here:1");
    assert_eq!(pull(&yaml, &image, &[]).await.unwrap(), [image.as_str()]);
    // What no place has: the first place's failure says more than the others' lack.
    let (_, text) = pull(&yaml, &format!("{own}/nowhere:1"), &[]).await.unwrap_err();
    assert!(text.contains("dial tcp 127.0.0.1:1: connect: connection refused"), "{text}");
    let bench = Bench::new();
    bench.store.configure(Registries::parse(&yaml).unwrap().mirrors_only());
    let error = bench.store.pull(&image, PullOptions::default()).await.unwrap_err();
    assert!(error.message.contains("connection refused"), "{error}");
}
