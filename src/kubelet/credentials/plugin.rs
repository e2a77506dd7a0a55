//! Credential provider plugins: programs of the node that know passwords of registries.

use super::account::{Account, Identity, TokenAttributes};
use super::{Keyring, Place, matches};
use naru_api::meta::duration::parse as duration;
use naru_runtime::images::RegistryCredentials;
use serde::Deserialize;
use serde_json::json;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How long a program may take, as upstream.
const LIMIT: Duration = Duration::from_secs(60);
/// What a program may print.
const MAX_OUTPUT: u64 = 1 << 20;
/// Answers of one program that are kept.
const MAX_CACHED: usize = 1024;
const VERSIONS: [&str; 3] = [
    "credentialprovider.kubelet.k8s.io/v1",
    "credentialprovider.kubelet.k8s.io/v1alpha1",
    "credentialprovider.kubelet.k8s.io/v1beta1",
];

/// The programs that the node's configuration names.
#[derive(Debug, Default)]
pub struct CredentialProviders {
    providers: Vec<Provider>,
}

#[derive(Debug)]
struct Provider {
    settings: Settings,
    program: PathBuf,
    default_cache: Duration,
    /// One run at a time, so that pods that start together ask once.
    cache: Mutex<HashMap<String, Cached>>,
}

#[derive(Debug, Clone)]
struct Cached {
    until: Instant,
    auth: BTreeMap<String, Auth>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Configuration {
    api_version: String,
    kind: String,
    #[serde(default)]
    providers: Vec<Settings>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Settings {
    #[serde(default)]
    name: String,
    #[serde(default)]
    match_images: Vec<String>,
    #[serde(default)]
    default_cache_duration: Option<String>,
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<Variable>,
    #[serde(default)]
    token_attributes: Option<TokenAttributes>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Variable {
    name: String,
    value: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    cache_key_type: String,
    #[serde(default)]
    cache_duration: Option<String>,
    #[serde(default)]
    auth: Option<BTreeMap<String, Auth>>,
}

#[derive(Debug, Clone, Deserialize)]
struct Auth {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
}

impl CredentialProviders {
    /// Reads the configuration, a file or a directory of them, and finds the programs in `bin_dir`.
    pub fn read(config: &Path, bin_dir: &Path) -> Result<Self, String> {
        if !bin_dir.is_dir() {
            return Err(format!("plugin binary directory {} did not exist", bin_dir.display()));
        }
        let mut settings: Vec<Settings> = Vec::new();
        for file in files(config)? {
            let text = std::fs::read(&file).map_err(|error| format!("unable to read file {file:?}: {error}"))?;
            let fail = |error: String| format!("error decoding config {file:?}: {error}");
            let value = naru_api::codec::parse_yaml(&text).map_err(|error| fail(error.to_string()))?;
            let read: Configuration = serde_json::from_value(value).map_err(|error| fail(error.to_string()))?;
            if read.kind != "CredentialProviderConfig" || !read.api_version.starts_with("kubelet.config.k8s.io/v1") {
                return Err(fail(format!("no kind {:?} is registered for {:?}", read.kind, read.api_version)));
            }
            settings.extend(read.providers);
        }
        let errors = validate(&settings);
        if !errors.is_empty() {
            return Err(format!("failed to validate credential provider config: {}", errors.join(", ")));
        }
        let provider = |settings: Settings| {
            let program = bin_dir.join(&settings.name);
            let runs = std::fs::metadata(&program).is_ok_and(|meta| {
                meta.is_file() && std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o111 != 0
            });
            if !runs {
                return Err(format!("plugin binary executable {} did not exist", program.display()));
            }
            let default_cache = settings.default_cache_duration.as_deref().and_then(duration).unwrap_or_default();
            Ok(Provider { settings, program, default_cache, cache: Mutex::default() })
        };
        Ok(Self { providers: settings.into_iter().map(provider).collect::<Result<_, _>>()? })
    }

    /// What the programs know about an image such as `r.example/team/app` that a pod of this account pulls.
    /// Failures are logged: another source of credentials, or none, may do.
    pub async fn credentials(&self, image: &str, account: &dyn Account) -> Vec<RegistryCredentials> {
        let mut ring = Keyring::default();
        for provider in &self.providers {
            if !provider.settings.match_images.iter().any(|place| matches(place, image)) {
                continue;
            }
            match provider.ask(image, account).await {
                Ok(auth) => {
                    for (place, Auth { username, password }) in auth {
                        ring.add(&place, RegistryCredentials::Basic { username, password });
                    }
                }
                Err(error) => tracing::warn!(provider = provider.settings.name, image, error, "no credentials"),
            }
        }
        ring.lookup(image)
    }
}

fn files(config: &Path) -> Result<Vec<PathBuf>, String> {
    let fail = |error: std::io::Error| format!("unable to access path {config:?}: {error}");
    if !std::fs::metadata(config).map_err(fail)?.is_dir() {
        return Ok(vec![config.to_owned()]);
    }
    let entries = std::fs::read_dir(config).map_err(fail)?.collect::<Result<Vec<_>, _>>().map_err(fail)?;
    let mut files: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    let known = |path: &PathBuf| path.extension().is_some_and(|ext| ext == "json" || ext == "yaml" || ext == "yml");
    files.retain(|path| path.is_file() && known(path));
    files.sort();
    if files.is_empty() { Err(format!("no configuration files found in directory {config:?}")) } else { Ok(files) }
}

fn validate(settings: &[Settings]) -> Vec<String> {
    let mut errors = Vec::new();
    if settings.is_empty() {
        errors.push("providers: Required value: at least 1 item in plugins is required".to_owned());
    }
    let mut names = HashSet::new();
    for Settings { name, match_images, default_cache_duration, api_version, token_attributes, .. } in settings {
        let mut wrong = |why: &str| errors.push(format!("providers.name: Invalid value: {name:?}: {why}"));
        if name.contains('/') {
            wrong("provider name cannot contain '/'");
        }
        if name.contains(' ') {
            wrong("provider name cannot contain spaces");
        }
        match name.as_str() {
            "." => wrong("provider name cannot be '.'"),
            ".." => wrong("provider name cannot be '..'"),
            "" => wrong("provider name cannot be empty"),
            _ => {}
        }
        if !names.insert(name) {
            errors.push(format!("providers.name: Duplicate value: {name:?}"));
        }
        if api_version.is_empty() {
            errors.push("providers.apiVersion: Required value".to_owned());
        } else if !VERSIONS.contains(&api_version.as_str()) {
            let known = VERSIONS.map(|version| format!("{version:?}")).join(", ");
            errors.push(format!("providers.apiVersion: Unsupported value: {api_version:?}: supported values: {known}"));
        }
        if match_images.is_empty() {
            errors.push("providers.matchImages: Required value: at least 1 item in matchImages is required".to_owned());
        }
        for place in match_images.iter().filter(|place| Place::parse(place).is_none()) {
            errors.push(format!("providers.matchImages: Invalid value: {place:?}: match image is invalid"));
        }
        match default_cache_duration.as_deref() {
            None => errors.push("providers.defaultCacheDuration: Required value".to_owned()),
            Some(text) if duration(text).is_none() => errors.push(format!(
                "providers.defaultCacheDuration: Invalid value: {text:?}: defaultCacheDuration must be greater than or equal to 0"
            )),
            Some(_) => {}
        }
        if let Some(attributes) = token_attributes {
            attributes.validate(api_version, &mut errors);
        }
    }
    errors
}

impl Provider {
    async fn ask(&self, image: &str, account: &dyn Account) -> Result<BTreeMap<String, Auth>, String> {
        let identity = match &self.settings.token_attributes {
            Some(attributes) => attributes.identity(account).await?,
            None => Some(Identity::default()),
        };
        let Some(identity) = identity else { return Ok(BTreeMap::new()) };
        let registry = image.split('/').next().unwrap_or_default();
        let mut cache = self.cache.lock().await;
        let now = Instant::now();
        cache.retain(|_, cached| cached.until > now);
        let kept = [format!("image {image}"), format!("registry {registry}"), "global".to_owned()]
            .map(|key| key + &identity.key);
        if let Some(cached) = kept.iter().find_map(|key| cache.get(key)) {
            return Ok(cached.auth.clone());
        }
        let response = self.run(image, &identity).await?;
        let key = match response.cache_key_type.as_str() {
            "Image" => &kept[0],
            "Registry" => &kept[1],
            "Global" => &kept[2],
            other => return Err(format!("credential provider plugin did not return a valid cacheKeyType: {other:?}")),
        };
        let auth = response.auth.unwrap_or_default();
        let hold = match response.cache_duration.as_deref() {
            Some(text) => duration(text).ok_or_else(|| format!("invalid cacheDuration {text:?}"))?,
            None => self.default_cache,
        };
        // A time too far off to be reckoned with is for ever, and kept for nothing.
        if let Some(until) = now.checked_add(hold).filter(|_| !hold.is_zero() && cache.len() < MAX_CACHED) {
            cache.insert(key.clone(), Cached { until, auth: auth.clone() });
        }
        Ok(auth)
    }

    async fn run(&self, image: &str, identity: &Identity) -> Result<Response, String> {
        let Settings { args, env, api_version, .. } = &self.settings;
        let mut request = json!({"apiVersion": api_version, "kind": "CredentialProviderRequest", "image": image});
        if !identity.token.is_empty() {
            request["serviceAccountToken"] = identity.token.as_str().into();
        }
        if !identity.annotations.is_empty() {
            request["serviceAccountAnnotations"] = json!(identity.annotations);
        }
        let mut command = tokio::process::Command::new(&self.program);
        command.args(args).envs(env.iter().map(|variable| (&variable.name, &variable.value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let fail = |error: std::io::Error| format!("error execing credential provider plugin: {error}");
        let mut child = command.spawn().map_err(fail)?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let work = async {
            if let Some(mut stdin) = stdin {
                // A program that does not read what it is asked may still answer.
                let _ = stdin.write_all(request.to_string().as_bytes()).await;
            }
            let mut output = Vec::new();
            if let Some(stdout) = stdout {
                stdout.take(MAX_OUTPUT + 1).read_to_end(&mut output).await.map_err(fail)?;
            }
            if output.len() as u64 > MAX_OUTPUT {
                return Err(format!("credential provider plugin printed more than {MAX_OUTPUT} bytes"));
            }
            let status = child.wait().await.map_err(fail)?;
            if !status.success() {
                return Err(format!("error execing credential provider plugin: {status}"));
            }
            Ok(output)
        };
        let output = tokio::time::timeout(LIMIT, work).await;
        let output = output.map_err(|_| format!("credential provider plugin took longer than {LIMIT:?}"))??;
        let response: Response =
            serde_json::from_slice(&output).map_err(|error| format!("cannot read the plugin's answer: {error}"))?;
        if response.kind != "CredentialProviderResponse" || response.api_version != *api_version {
            return Err(format!(
                "failed to decode CredentialProviderResponse, got {:?} of {:?}",
                response.kind, response.api_version
            ));
        }
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::super::account::tests::TestAccount;
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A provider that notes each run in `DIR/runs` and answers with `answer`.
    fn provider(dir: &Path, answer: &str) -> Result<CredentialProviders, String> {
        provider_with(dir, answer, "")
    }

    fn provider_with(dir: &Path, answer: &str, more: &str) -> Result<CredentialProviders, String> {
        let program = dir.join("ask");
        let script =
            format!("#!/bin/sh\ncat >> {0}/runs\necho \" $1 $WHO\" >> {0}/runs\necho '{answer}'\n", dir.display());
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let config = "
apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
- name: ask
  matchImages: ['*.example', 'r.example:5000/team']
  defaultCacheDuration: 12h
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  args: [get]
  env: [{name: WHO, value: me}]
";
        std::fs::write(dir.join("config.yaml"), format!("{config}{more}")).unwrap();
        CredentialProviders::read(&dir.join("config.yaml"), dir)
    }

    fn answer(kind: &str, more: &str) -> String {
        format!(
            r#"{{"apiVersion":"credentialprovider.kubelet.k8s.io/v1","kind":"CredentialProviderResponse","cacheKeyType":"{kind}"{more},"auth":{{"*.example":{{"username":"u","password":"p"}}}}}}"#
        )
    }

    fn runs(dir: &Path) -> usize {
        std::fs::read_to_string(dir.join("runs")).unwrap_or_default().lines().count()
    }

    #[tokio::test]
    async fn a_program_is_asked_about_its_images_and_its_answer_is_kept() {
        for (kind, more, expect) in
            [("Image", "", 3), ("Registry", "", 2), ("Global", "", 1), ("Image", r#","cacheDuration":"0s""#, 4)]
        {
            let dir = tempfile::tempdir().unwrap();
            let providers = provider(dir.path(), &answer(kind, more)).unwrap();
            for image in ["a.example/x", "a.example/x", "a.example/y", "b.example/x"] {
                assert_eq!(providers.credentials(image, &TestAccount::default()).await.len(), 1, "{image}");
            }
            assert!(providers.credentials("other.test/x", &TestAccount::default()).await.is_empty());
            assert_eq!(runs(dir.path()), expect, "{kind}{more}");
            let asked = std::fs::read_to_string(dir.path().join("runs")).unwrap();
            let first = asked.lines().next().unwrap();
            assert!(first.ends_with(" get me") && first.contains(r#""image":"a.example/x""#), "{first}");
        }
    }

    #[tokio::test]
    async fn a_program_is_asked_as_the_pods_account() {
        let dir = tempfile::tempdir().unwrap();
        let more = "  tokenAttributes: {serviceAccountTokenAudience: aud, cacheType: ServiceAccount, \
                    requireServiceAccount: true, requiredServiceAccountAnnotationKeys: [a/in]}\n";
        let providers = provider_with(dir.path(), &answer("Global", ""), more).unwrap();
        let account = |name| TestAccount { name, annotations: vec![("a/in", "yes")], token: "t" };
        for (account, answers, expect) in
            [(account("one"), 1, 1), (account("one"), 1, 1), (account("two"), 1, 2), (TestAccount::default(), 0, 2)]
        {
            assert_eq!(providers.credentials("a.example/x", &account).await.len(), answers);
            assert_eq!(runs(dir.path()), expect);
        }
        let asked = std::fs::read_to_string(dir.path().join("runs")).unwrap();
        assert!(asked.contains(r#""serviceAccountAnnotations":{"a/in":"yes"}"#), "{asked}");
        assert!(asked.contains(r#""serviceAccountToken":"t-for-aud""#), "{asked}");
    }

    #[tokio::test]
    async fn a_program_that_answers_nonsense_gives_nothing() {
        for wrong in ["nonsense", "{}", &answer("Sometimes", ""), &answer("Image", r#","cacheDuration":"-1s""#)] {
            let dir = tempfile::tempdir().unwrap();
            let providers = provider(dir.path(), wrong).unwrap();
            assert!(providers.credentials("a.example/x", &TestAccount::default()).await.is_empty(), "{wrong}");
        }
    }

    #[test]
    fn configurations_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let read = |text: &str| {
            std::fs::write(dir.path().join("c.yaml"), text).unwrap();
            CredentialProviders::read(&dir.path().join("c.yaml"), dir.path()).unwrap_err()
        };
        let head = "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\n";
        assert_eq!(
            read(head),
            "failed to validate credential provider config: providers: Required value: at least 1 item in plugins is required"
        );
        let error = read(&format!("{head}providers: [{{name: a/b, apiVersion: v1}}]"));
        for part in [
            "providers.name: Invalid value: \"a/b\": provider name cannot contain '/'",
            "providers.apiVersion: Unsupported value: \"v1\": supported values: \"credentialprovider.kubelet.k8s.io/v1\"",
            "providers.matchImages: Required value",
            "providers.defaultCacheDuration: Required value",
        ] {
            assert!(error.contains(part), "{error}");
        }
        assert!(read(&format!("{head}provider: []")).contains("unknown field `provider`"));
        let missing = "providers: [{name: gone, apiVersion: credentialprovider.kubelet.k8s.io/v1, matchImages: [a.b], defaultCacheDuration: 1h}]";
        let error = read(&format!("{head}{missing}"));
        assert_eq!(error, format!("plugin binary executable {}/gone did not exist", dir.path().display()));
    }
}
