//! The flags of upstream's API server that are honoured here (`--kube-apiserver-arg KEY=VALUE`), in one table.
//!
//! A flag is in the table when it does what it does upstream; all others are refused by name, so that nobody believes
//! in a setting that does nothing.

mod values;

use std::path::PathBuf;
use std::time::Duration;
use values::{boolean, duration, file, integer, list, map, one_of, put, text};

/// What the flags say. What is `None`, or empty, was not said.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// Whether requests without credentials are served as `system:anonymous`; `None`: the health checks alone.
    pub anonymous_auth: Option<bool>,
    /// Audiences of the API server itself.
    pub api_audiences: Vec<String>,
    /// Bearer tokens in a file.
    pub token_auth_file: Option<PathBuf>,
    /// The AuthenticationConfiguration.
    pub authentication_config: Option<PathBuf>,
    /// One identity provider, without an AuthenticationConfiguration.
    pub oidc: OidcFlags,
    /// Bearer tokens that a webhook judges.
    pub token_webhook: TokenWebhookFlags,
    /// Front proxies.
    pub requestheader: RequestHeaderFlags,
    /// Who is asked whether something may be done.
    pub authorization: AuthorizationFlags,
    /// Service account tokens.
    pub service_account: ServiceAccountFlags,
    /// How long events are kept.
    pub event_ttl: Option<Duration>,
    /// Features by name; only what is the default anyway can be said.
    pub feature_gates: Vec<(String, String)>,
    /// How likely a request is the last one of its HTTP/2 connection, so that clients spread over several servers.
    pub goaway_chance: Option<f64>,
    /// Seconds that pods stay on a node that is not ready.
    pub default_not_ready_toleration_seconds: Option<i64>,
    /// The same for a node that cannot be reached.
    pub default_unreachable_toleration_seconds: Option<i64>,
    /// What admission plugins are told.
    pub admission_control_config_file: Option<PathBuf>,
    /// Admission plugins beside the usual ones.
    pub enable_admission_plugins: Vec<String>,
    /// Usual admission plugins that are left out.
    pub disable_admission_plugins: Vec<String>,
    /// Requests that read, at once; with those that write it is what the priority levels share.
    pub max_requests_inflight: Option<u32>,
    /// Requests that write, at once.
    pub max_mutating_requests_inflight: Option<u32>,
    /// Seconds that a watch lasts at least which says nothing of it; at most twice as many.
    pub min_request_timeout_seconds: Option<u64>,
    /// How long a request may take that is neither a watch nor a stream.
    pub request_timeout: Option<Duration>,
    /// How long the server goes on, no longer ready, after it was told to end.
    pub shutdown_delay: Option<Duration>,
    /// Encryption of what is stored.
    pub encryption: EncryptionFlags,
    /// The audit log.
    pub audit: AuditFlags,
}

/// `--service-account-*`.
#[derive(Debug, Clone, Default)]
pub struct ServiceAccountFlags {
    /// `iss` of new tokens first, then further ones whose tokens are accepted.
    pub issuers: Vec<String>,
    /// Files with keys of before, whose tokens are still accepted.
    pub key_files: Vec<PathBuf>,
    /// Where the key set is published, instead of under the server's own address.
    pub jwks_uri: Option<String>,
    /// Whether the tokens of pods that do not know of expiry live for a year (they do).
    pub extend_token_expiration: Option<bool>,
    /// The longest life of a token.
    pub max_token_expiration: Option<Duration>,
}

/// `--oidc-*`.
#[derive(Debug, Clone, Default)]
pub struct OidcFlags {
    /// `iss` of its tokens.
    pub issuer_url: Option<String>,
    /// `aud` of its tokens.
    pub client_id: Option<String>,
    /// Authorities that its server's certificate leads to.
    pub ca_file: Option<PathBuf>,
    /// The claim with the user's name.
    pub username_claim: Option<String>,
    /// What goes before it.
    pub username_prefix: Option<String>,
    /// The claim with the groups.
    pub groups_claim: Option<String>,
    /// What goes before each.
    pub groups_prefix: Option<String>,
    /// Claims that must have these values.
    pub required_claim: Vec<(String, String)>,
    /// How its tokens may be signed.
    pub signing_algs: Vec<String>,
}

impl OidcFlags {
    fn any(&self) -> bool {
        let texts = [
            &self.issuer_url,
            &self.client_id,
            &self.username_claim,
            &self.username_prefix,
            &self.groups_claim,
            &self.groups_prefix,
        ];
        texts.iter().any(|text| text.is_some())
            || self.ca_file.is_some()
            || !self.required_claim.is_empty()
            || !self.signing_algs.is_empty()
    }
}

/// `--authentication-token-webhook-*`.
#[derive(Debug, Clone, Default)]
pub struct TokenWebhookFlags {
    /// A kubeconfig that describes it.
    pub config_file: Option<PathBuf>,
    /// How long its answers count.
    pub cache_ttl: Option<Duration>,
    /// `v1` or `v1beta1`.
    pub version: Option<String>,
}

/// `--authorization-*`.
#[derive(Debug, Clone, Default)]
pub struct AuthorizationFlags {
    /// The AuthorizationConfiguration.
    pub config: Option<PathBuf>,
    /// Authorizers in their order, without an AuthorizationConfiguration.
    pub mode: Vec<String>,
    /// A kubeconfig that describes the webhook.
    pub webhook_config_file: Option<PathBuf>,
    /// `v1` or `v1beta1`.
    pub webhook_version: Option<String>,
    /// How long its yes counts.
    pub webhook_allowed_ttl: Option<Duration>,
    /// How long its no counts.
    pub webhook_refused_ttl: Option<Duration>,
}

impl AuthorizationFlags {
    fn any_but_config(&self) -> bool {
        !self.mode.is_empty()
            || self.webhook_config_file.is_some()
            || self.webhook_version.is_some()
            || self.webhook_allowed_ttl.is_some()
            || self.webhook_refused_ttl.is_some()
    }
}

/// `--requestheader-*`.
#[derive(Debug, Clone, Default)]
pub struct RequestHeaderFlags {
    /// Authorities of front proxies.
    pub client_ca_file: Option<PathBuf>,
    /// Their names; any, when empty.
    pub allowed_names: Vec<String>,
    /// Headers with the user's name.
    pub username_headers: Vec<String>,
    /// Headers with the user's id.
    pub uid_headers: Vec<String>,
    /// Headers with groups.
    pub group_headers: Vec<String>,
    /// What headers with extra facts start with.
    pub extra_headers_prefix: Vec<String>,
}

/// `--encryption-provider-*`.
#[derive(Debug, Clone, Default)]
pub struct EncryptionFlags {
    /// The EncryptionConfiguration.
    pub config: Option<PathBuf>,
    /// Whether it is read again when it changes.
    pub automatic_reload: Option<bool>,
}

/// `--audit-*`.
#[derive(Debug, Clone, Default)]
pub struct AuditFlags {
    /// The audit Policy.
    pub policy_file: Option<PathBuf>,
    /// Where the log goes; `-` is standard output.
    pub log_path: Option<PathBuf>,
    /// `json` or `legacy`.
    pub log_format: Option<String>,
    /// Days that old files are kept.
    pub log_maxage_days: Option<u32>,
    /// Old files that are kept.
    pub log_maxbackup: Option<u32>,
    /// Size at which a file is full.
    pub log_maxsize_mib: Option<u32>,
    /// Whether old files are compressed.
    pub log_compress: Option<bool>,
    /// How events reach the log.
    pub log_batch: AuditBatchFlags,
    /// What becomes of large ones.
    pub log_truncate: AuditTruncateFlags,
    /// Who else is told.
    pub webhook: AuditWebhookFlags,
}

/// `--audit-webhook-*`.
#[derive(Debug, Clone, Default)]
pub struct AuditWebhookFlags {
    /// How it is reached, as a kubeconfig.
    pub config_file: Option<PathBuf>,
    /// How events reach it.
    pub batch: AuditBatchFlags,
    /// What becomes of large ones.
    pub truncate: AuditTruncateFlags,
    /// Before what could not be sent is sent again.
    pub initial_backoff: Option<Duration>,
}

/// `--audit-log-mode`, `--audit-log-batch-*`, and the same of the webhook.
#[derive(Debug, Clone, Default)]
pub struct AuditBatchFlags {
    /// `batch`, `blocking` or `blocking-strict`.
    pub mode: Option<String>,
    /// Events that may wait.
    pub buffer_size: Option<usize>,
    /// Events that go together.
    pub max_size: Option<usize>,
    /// How long an event waits for others.
    pub max_wait: Option<Duration>,
    /// Whether batches are limited.
    pub throttle_enable: Option<bool>,
    /// Batches in a second.
    pub throttle_qps: Option<f64>,
    /// Batches at once after a pause.
    pub throttle_burst: Option<u32>,
}

impl AuditBatchFlags {
    /// What upstream refuses of them.
    fn check(&self, usual_mode: &str) -> Result<(), FlagError> {
        let wrong = |text| Err(FlagError::Together(text));
        if self.mode.as_deref().unwrap_or(usual_mode) != "batch" {
            return Ok(());
        }
        if self.buffer_size == Some(0) {
            return wrong("invalid audit batch buffer size 0, must be a positive number");
        }
        if self.max_size == Some(0) {
            return wrong("invalid audit batch max batch size 0, must be a positive number");
        }
        if self.throttle_enable != Some(false) && self.throttle_qps.is_some_and(|rate| rate.is_nan() || rate <= 0.0) {
            return wrong("invalid audit batch throttle QPS, must be a positive number");
        }
        if self.throttle_enable != Some(false) && self.throttle_burst == Some(0) {
            return wrong("invalid audit batch throttle burst 0, must be a positive number");
        }
        Ok(())
    }
}

/// `--audit-log-truncate-*`, and the same of the webhook.
#[derive(Debug, Clone, Default)]
pub struct AuditTruncateFlags {
    /// Whether large events lose their objects.
    pub enabled: Option<bool>,
    /// Bytes that a batch may have; batches are made of single events, which are smaller.
    pub max_batch_size: Option<usize>,
    /// Bytes that an event may have.
    pub max_event_size: Option<usize>,
}

impl AuditTruncateFlags {
    /// Bytes that an event may have; `None` when nothing is cut.
    pub(crate) fn limit(&self) -> Option<usize> {
        const USUAL: usize = 100 << 10;
        (self.enabled == Some(true)).then(|| self.max_event_size.unwrap_or(USUAL))
    }

    fn check(&self) -> Result<(), FlagError> {
        const USUAL_BATCH: usize = 10 << 20;
        let Some(event) = self.limit() else { return Ok(()) };
        if event == 0 {
            return Err(FlagError::Together("invalid audit truncate max event size 0, must be a positive number"));
        }
        if self.max_batch_size.unwrap_or(USUAL_BATCH) < event {
            return Err(FlagError::Together(
                "invalid audit truncate max batch size, must be greater than max event size",
            ));
        }
        Ok(())
    }
}

/// One flag.
#[derive(Clone, Copy)]
pub struct Flag {
    /// Its name, without dashes.
    pub name: &'static str,
    /// Takes a value over; the error says what is wrong with it.
    set: fn(&mut Flags, &str) -> Result<(), String>,
}

impl std::fmt::Debug for Flag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

const fn flag(name: &'static str, set: fn(&mut Flags, &str) -> Result<(), String>) -> Flag {
    Flag { name, set }
}

/// How requests wait for their audit events.
const AUDIT_MODES: &[&str] = &["batch", "blocking", "blocking-strict"];

/// Every flag that is honoured, by name. A flag given again adds to a list and replaces anything else.
pub static FLAGS: &[Flag] = &[
    flag("admission-control-config-file", |f, v| put(&mut f.admission_control_config_file, file(v))),
    flag("anonymous-auth", |f, v| put(&mut f.anonymous_auth, boolean(v))),
    flag("api-audiences", |f, v| list(&mut f.api_audiences, v)),
    flag("audit-log-batch-buffer-size", |f, v| put(&mut f.audit.log_batch.buffer_size, integer(v))),
    flag("audit-log-batch-max-size", |f, v| put(&mut f.audit.log_batch.max_size, integer(v))),
    flag("audit-log-batch-max-wait", |f, v| put(&mut f.audit.log_batch.max_wait, duration(v))),
    flag("audit-log-batch-throttle-burst", |f, v| put(&mut f.audit.log_batch.throttle_burst, integer(v))),
    flag("audit-log-batch-throttle-enable", |f, v| put(&mut f.audit.log_batch.throttle_enable, boolean(v))),
    flag("audit-log-batch-throttle-qps", |f, v| put(&mut f.audit.log_batch.throttle_qps, integer(v))),
    flag("audit-log-compress", |f, v| put(&mut f.audit.log_compress, boolean(v))),
    flag("audit-log-format", |f, v| put(&mut f.audit.log_format, one_of(v, &["json", "legacy"]))),
    flag("audit-log-maxage", |f, v| put(&mut f.audit.log_maxage_days, integer(v))),
    flag("audit-log-maxbackup", |f, v| put(&mut f.audit.log_maxbackup, integer(v))),
    flag("audit-log-maxsize", |f, v| put(&mut f.audit.log_maxsize_mib, integer(v))),
    flag("audit-log-mode", |f, v| put(&mut f.audit.log_batch.mode, one_of(v, AUDIT_MODES))),
    flag("audit-log-path", |f, v| put(&mut f.audit.log_path, file(v))),
    flag("audit-log-truncate-enabled", |f, v| put(&mut f.audit.log_truncate.enabled, boolean(v))),
    flag("audit-log-truncate-max-batch-size", |f, v| put(&mut f.audit.log_truncate.max_batch_size, integer(v))),
    flag("audit-log-truncate-max-event-size", |f, v| put(&mut f.audit.log_truncate.max_event_size, integer(v))),
    flag("audit-log-version", |_, v| one_of(v, &["audit.k8s.io/v1"]).map(|_| ())),
    flag("audit-policy-file", |f, v| put(&mut f.audit.policy_file, file(v))),
    flag("audit-webhook-batch-buffer-size", |f, v| put(&mut f.audit.webhook.batch.buffer_size, integer(v))),
    flag("audit-webhook-batch-initial-backoff", |f, v| put(&mut f.audit.webhook.initial_backoff, duration(v))),
    flag("audit-webhook-batch-max-size", |f, v| put(&mut f.audit.webhook.batch.max_size, integer(v))),
    flag("audit-webhook-batch-max-wait", |f, v| put(&mut f.audit.webhook.batch.max_wait, duration(v))),
    flag("audit-webhook-batch-throttle-burst", |f, v| put(&mut f.audit.webhook.batch.throttle_burst, integer(v))),
    flag("audit-webhook-batch-throttle-enable", |f, v| put(&mut f.audit.webhook.batch.throttle_enable, boolean(v))),
    flag("audit-webhook-batch-throttle-qps", |f, v| put(&mut f.audit.webhook.batch.throttle_qps, integer(v))),
    flag("audit-webhook-config-file", |f, v| put(&mut f.audit.webhook.config_file, file(v))),
    flag("audit-webhook-initial-backoff", |f, v| put(&mut f.audit.webhook.initial_backoff, duration(v))),
    flag("audit-webhook-mode", |f, v| put(&mut f.audit.webhook.batch.mode, one_of(v, AUDIT_MODES))),
    flag("audit-webhook-truncate-enabled", |f, v| put(&mut f.audit.webhook.truncate.enabled, boolean(v))),
    flag("audit-webhook-truncate-max-batch-size", |f, v| put(&mut f.audit.webhook.truncate.max_batch_size, integer(v))),
    flag("audit-webhook-truncate-max-event-size", |f, v| put(&mut f.audit.webhook.truncate.max_event_size, integer(v))),
    flag("audit-webhook-version", |_, v| one_of(v, &["audit.k8s.io/v1"]).map(|_| ())),
    flag("authentication-config", |f, v| put(&mut f.authentication_config, file(v))),
    flag("authentication-token-webhook-cache-ttl", |f, v| put(&mut f.token_webhook.cache_ttl, duration(v))),
    flag("authentication-token-webhook-config-file", |f, v| put(&mut f.token_webhook.config_file, file(v))),
    flag("authentication-token-webhook-version", |f, v| {
        put(&mut f.token_webhook.version, one_of(v, &["v1", "v1beta1"]))
    }),
    flag("authorization-config", |f, v| put(&mut f.authorization.config, file(v))),
    flag("authorization-mode", |f, v| list(&mut f.authorization.mode, v)),
    flag("authorization-webhook-cache-authorized-ttl", |f, v| {
        put(&mut f.authorization.webhook_allowed_ttl, duration(v))
    }),
    flag("authorization-webhook-cache-unauthorized-ttl", |f, v| {
        put(&mut f.authorization.webhook_refused_ttl, duration(v))
    }),
    flag("authorization-webhook-config-file", |f, v| put(&mut f.authorization.webhook_config_file, file(v))),
    flag("authorization-webhook-version", |f, v| {
        put(&mut f.authorization.webhook_version, one_of(v, &["v1", "v1beta1"]))
    }),
    flag("default-not-ready-toleration-seconds", |f, v| put(&mut f.default_not_ready_toleration_seconds, integer(v))),
    flag("default-unreachable-toleration-seconds", |f, v| {
        put(&mut f.default_unreachable_toleration_seconds, integer(v))
    }),
    flag("disable-admission-plugins", |f, v| list(&mut f.disable_admission_plugins, v)),
    flag("enable-admission-plugins", |f, v| list(&mut f.enable_admission_plugins, v)),
    flag("encryption-provider-config", |f, v| put(&mut f.encryption.config, file(v))),
    flag("encryption-provider-config-automatic-reload", |f, v| put(&mut f.encryption.automatic_reload, boolean(v))),
    flag("event-ttl", |f, v| put(&mut f.event_ttl, duration(v))),
    flag("feature-gates", |f, v| map(&mut f.feature_gates, v)),
    flag("goaway-chance", |f, v| put(&mut f.goaway_chance, integer(v))),
    flag("max-mutating-requests-inflight", |f, v| put(&mut f.max_mutating_requests_inflight, integer(v))),
    flag("max-requests-inflight", |f, v| put(&mut f.max_requests_inflight, integer(v))),
    flag("min-request-timeout", |f, v| put(&mut f.min_request_timeout_seconds, integer(v))),
    flag("oidc-ca-file", |f, v| put(&mut f.oidc.ca_file, file(v))),
    flag("oidc-client-id", |f, v| put(&mut f.oidc.client_id, text(v))),
    flag("oidc-groups-claim", |f, v| put(&mut f.oidc.groups_claim, text(v))),
    flag("oidc-groups-prefix", |f, v| put(&mut f.oidc.groups_prefix, text(v))),
    flag("oidc-issuer-url", |f, v| put(&mut f.oidc.issuer_url, text(v))),
    flag("oidc-required-claim", |f, v| map(&mut f.oidc.required_claim, v)),
    flag("oidc-signing-algs", |f, v| list(&mut f.oidc.signing_algs, v)),
    flag("oidc-username-claim", |f, v| put(&mut f.oidc.username_claim, text(v))),
    flag("oidc-username-prefix", |f, v| put(&mut f.oidc.username_prefix, text(v))),
    flag("request-timeout", |f, v| put(&mut f.request_timeout, duration(v))),
    flag("requestheader-allowed-names", |f, v| list(&mut f.requestheader.allowed_names, v)),
    flag("requestheader-client-ca-file", |f, v| put(&mut f.requestheader.client_ca_file, file(v))),
    flag("requestheader-extra-headers-prefix", |f, v| list(&mut f.requestheader.extra_headers_prefix, v)),
    flag("requestheader-group-headers", |f, v| list(&mut f.requestheader.group_headers, v)),
    flag("requestheader-uid-headers", |f, v| list(&mut f.requestheader.uid_headers, v)),
    flag("requestheader-username-headers", |f, v| list(&mut f.requestheader.username_headers, v)),
    flag("service-account-extend-token-expiration", |f, v| {
        put(&mut f.service_account.extend_token_expiration, boolean(v))
    }),
    flag("service-account-issuer", |f, v| list(&mut f.service_account.issuers, v)),
    flag("service-account-jwks-uri", |f, v| put(&mut f.service_account.jwks_uri, text(v))),
    flag("service-account-key-file", |f, v| file(v).map(|path| f.service_account.key_files.push(path))),
    flag("service-account-max-token-expiration", |f, v| put(&mut f.service_account.max_token_expiration, duration(v))),
    flag("shutdown-delay-duration", |f, v| put(&mut f.shutdown_delay, duration(v))),
    flag("token-auth-file", |f, v| put(&mut f.token_auth_file, file(v))),
];

/// How tokens of identity providers may be signed.
const SIGNING_ALGORITHMS: [&str; 8] = ["ES256", "ES384", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512"];

/// Why the flags cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FlagError {
    /// Not in the table.
    #[error("the API server has no flag {name:?} here; these are honoured: {}", names())]
    Unknown {
        /// As given.
        name: String,
    },
    /// In the table, with another kind of value.
    #[error("{name}={value}: {reason}")]
    Value {
        /// The flag.
        name: &'static str,
        /// As given.
        value: String,
        /// What is wrong.
        reason: String,
    },
    /// Each good, but not together.
    #[error("{0}")]
    Together(&'static str),
}

fn names() -> String {
    FLAGS.iter().map(|flag| flag.name).collect::<Vec<_>>().join(", ")
}

impl Flags {
    /// Reads `KEY=VALUE` arguments in their order. A key alone means `true`.
    pub fn parse(arguments: &[String]) -> Result<Self, FlagError> {
        let mut flags = Self::default();
        for argument in arguments {
            let (name, value) = argument.split_once('=').unwrap_or((argument, "true"));
            let name = name.trim_start_matches("--");
            let flag = FLAGS.iter().find(|flag| flag.name == name);
            let flag = flag.ok_or_else(|| FlagError::Unknown { name: name.to_owned() })?;
            (flag.set)(&mut flags, value).map_err(|reason| FlagError::Value {
                name: flag.name,
                value: value.to_owned(),
                reason,
            })?;
        }
        flags.check()?;
        Ok(flags)
    }

    /// What the priority levels share: the requests that may be worked on at once.
    pub(crate) fn seats(&self) -> u32 {
        self.max_requests_inflight.unwrap_or(400).saturating_add(self.max_mutating_requests_inflight.unwrap_or(200))
    }

    /// What upstream refuses of flags that are each good.
    fn check(&self) -> Result<(), FlagError> {
        if let Some(longest) = self.service_account.max_token_expiration
            && (longest < Duration::from_secs(3600) || longest > Duration::from_secs(1 << 32))
        {
            return Err(FlagError::Together(
                "service-account-max-token-expiration must be between one hour and 2^32 seconds",
            ));
        }
        if self.seats() == 0 {
            return Err(FlagError::Together(
                "max-requests-inflight and max-mutating-requests-inflight cannot both be 0: nothing would be served",
            ));
        }
        self.check_authentication()?;
        self.check_features()?;
        self.audit.log_batch.check("blocking")?;
        self.audit.log_truncate.check()?;
        self.audit.webhook.batch.check("batch")?;
        self.audit.webhook.truncate.check()?;
        if self.goaway_chance.is_some_and(|chance| !(0.0..=0.02).contains(&chance)) {
            return Err(FlagError::Together("goaway-chance can not be less than 0 or greater than 0.02"));
        }
        if self.encryption.automatic_reload == Some(true) && self.encryption.config.is_none() {
            return Err(FlagError::Together(
                "encryption-provider-config-automatic-reload needs encryption-provider-config",
            ));
        }
        Ok(())
    }
}

impl Flags {
    /// A feature may be named as it is; another state of it does not exist here.
    fn check_features(&self) -> Result<(), FlagError> {
        for (name, value) in &self.feature_gates {
            let reason = match (naru_api::facts::feature(name), value.as_str()) {
                (Some(true), "true") | (Some(false), "false") => continue,
                (None, _) => format!("unrecognized feature gate: {name}"),
                (Some(on), _) => {
                    let state = if on { "on" } else { "off" };
                    format!("the feature is {state} here and cannot be changed")
                }
            };
            return Err(FlagError::Value { name: "feature-gates", value: format!("{name}={value}"), reason });
        }
        Ok(())
    }

    fn check_authentication(&self) -> Result<(), FlagError> {
        let wrong = |text| Err(FlagError::Together(text));
        let oidc = &self.oidc;
        if oidc.any() && (oidc.issuer_url.is_none() || oidc.client_id.is_none()) {
            return wrong(
                "oidc-issuer-url and oidc-client-id must be specified together when any oidc-* flags are set",
            );
        }
        if oidc.signing_algs.iter().any(|algorithm| !SIGNING_ALGORITHMS.contains(&algorithm.as_str())) {
            return wrong(
                "oidc-signing-algs: each must be one of ES256, ES384, PS256, PS384, PS512, RS256, RS384, RS512",
            );
        }
        if oidc.any() && self.authentication_config.is_some() {
            return wrong("authentication-config file and oidc-* flags are mutually exclusive");
        }
        if self.authorization.config.is_some() && self.authorization.any_but_config() {
            return wrong(
                "authorization-config can not be specified when authorization-mode or authorization-webhook-* flags are defined",
            );
        }
        let headers = &self.requestheader;
        if headers.client_ca_file.is_none() && !headers.allowed_names.is_empty() {
            return wrong("requestheader-allowed-names needs requestheader-client-ca-file");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Flags, FlagError> {
        Flags::parse(&arguments.iter().map(|argument| (*argument).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_table_is_sorted_and_without_doubles() {
        let names: Vec<&str> = FLAGS.iter().map(|flag| flag.name).collect();
        assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
    }

    #[test]
    fn lists_grow_and_others_are_replaced() {
        let flags = parse(&[
            "--anonymous-auth",
            "anonymous-auth=false",
            "enable-admission-plugins=A,B",
            "enable-admission-plugins=C",
            "request-timeout=1m30s",
        ]);
        let flags = flags.expect("good flags");
        assert_eq!(flags.anonymous_auth, Some(false));
        assert_eq!(flags.enable_admission_plugins, ["A", "B", "C"]);
        assert_eq!(flags.request_timeout, Some(Duration::from_secs(90)));
    }

    #[test]
    fn what_is_not_honoured_is_refused_with_what_is() {
        let error = parse(&["etcd-servers=http://x"]).expect_err("not honoured").to_string();
        assert!(
            error.starts_with(
                "the API server has no flag \"etcd-servers\" here; these are honoured: admission-control-config-file, anonymous-auth, api-audiences, "
            ),
            "{error}"
        );
        let error = parse(&["request-timeout=soon"]).expect_err("no duration").to_string();
        assert_eq!(error, "request-timeout=soon: not a duration such as 90s, 5m or 1h30m");
        let error = parse(&["feature-gates=ConstrainedImpersonation=true,ClusterTrustBundle=true"]);
        let text = "feature-gates=ClusterTrustBundle=true: the feature is off here and cannot be changed";
        assert_eq!(error.expect_err("off by default").to_string(), text);
        assert!(parse(&["feature-gates=Nonsense=true"]).is_err() && parse(&["goaway-chance=0.5"]).is_err());
        assert!(parse(&["service-account-max-token-expiration=1s"]).is_err());
    }
}
