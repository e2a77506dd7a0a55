//! Identity providers and anonymous access as the AuthenticationConfiguration has them; its file is read again when
//! it changes.

use super::User;
use super::configuration::{self, Configuration};
use super::oidc::JwtProvider;
use crate::flags::Flags;
use crate::reload;
use naru_base::Shutdown;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// How long the providers of a changed file may take before the old ones stay.
const PATIENCE: Duration = Duration::from_secs(60);
/// What is open to everybody unless somebody says otherwise: load balancers ask for these.
const HEALTH: [&str; 3] = ["/livez", "/readyz", "/healthz"];

/// What is in force.
#[derive(Debug, Clone)]
pub(super) struct Structured(Arc<RwLock<Arc<Rules>>>);

#[derive(Debug)]
struct Rules {
    providers: Vec<Arc<JwtProvider>>,
    anonymous: Anonymous,
    /// Ends what the providers still try.
    ended: Shutdown,
}

#[derive(Debug)]
enum Anonymous {
    Everywhere,
    Nowhere,
    At(Vec<String>),
}

impl Structured {
    /// Reads the file or the flags and starts to reach the providers. `own` are the issuers of service account tokens.
    pub(super) fn start(flags: &Flags, own: &[String], shutdown: &Shutdown) -> Result<Self, String> {
        let Some(path) = &flags.authentication_config else {
            let rules = Rules::new(Configuration::of_flags(flags, own)?, flags.anonymous_auth, shutdown)?;
            return Ok(Self(Arc::new(RwLock::new(Arc::new(rules)))));
        };
        let text = configuration::read(path)?;
        let rules = Rules::new(Configuration::parse(&text, own)?, flags.anonymous_auth, shutdown)?;
        let this = Self(Arc::new(RwLock::new(Arc::new(rules))));
        let (changed, own, flag, ending) = (this.clone(), own.to_vec(), flags.anonymous_auth, shutdown.clone());
        reload::on_change("authentication-config", path.clone(), text, shutdown.clone(), move |text| {
            let (this, own, ending) = (changed.clone(), own.clone(), ending.clone());
            Box::pin(async move { this.replace(Rules::new(Configuration::parse(&text, &own)?, flag, &ending)?).await })
        });
        Ok(this)
    }

    /// Puts new rules in force once all their providers have been reached.
    async fn replace(&self, rules: Rules) -> Result<(), String> {
        let reached = async {
            for provider in &rules.providers {
                provider.ready().await;
            }
        };
        if tokio::time::timeout(PATIENCE, reached).await.is_err() {
            rules.ended.trigger();
            return Err("an identity provider could not be reached".to_owned());
        }
        let old = std::mem::replace(&mut *self.0.write().unwrap_or_else(PoisonError::into_inner), Arc::new(rules));
        old.ended.trigger();
        Ok(())
    }

    fn rules(&self) -> Arc<Rules> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a path is open to requests without credentials.
    pub(super) fn anonymous_may(&self, path: &str) -> bool {
        match &self.rules().anonymous {
            Anonymous::Everywhere => true,
            Anonymous::Nowhere => false,
            Anonymous::At(paths) => paths.iter().any(|open| open == path),
        }
    }

    /// The user of a provider's token; `None` when it is no provider's.
    pub(super) async fn user(&self, token: &str, now: i64) -> Result<Option<User>, String> {
        let rules = self.rules();
        let mut errors = Vec::new();
        for provider in &rules.providers {
            match provider.user(token, now).await {
                Ok(None) => {}
                Ok(Some(user)) => return Ok(Some(user)),
                Err(error) => errors.push(error),
            }
        }
        crate::authz::aggregate(&errors).map_or(Ok(None), Err)
    }
}

impl Rules {
    fn new(configuration: Configuration, flag: Option<bool>, shutdown: &Shutdown) -> Result<Self, String> {
        let anonymous = match (&configuration.anonymous, flag) {
            (Some(_), Some(_)) => {
                return Err("anonymous-auth must not be set when the configuration has anonymous".to_owned());
            }
            (Some(rule), None) if !rule.enabled => Anonymous::Nowhere,
            (Some(rule), None) if rule.conditions.is_empty() => Anonymous::Everywhere,
            (Some(rule), None) => Anonymous::At(rule.conditions.iter().map(|one| one.path.clone()).collect()),
            (None, Some(true)) => Anonymous::Everywhere,
            (None, Some(false)) => Anonymous::Nowhere,
            (None, None) => Anonymous::At(HEALTH.map(str::to_owned).to_vec()),
        };
        let ended = shutdown.child();
        let mut providers = Vec::new();
        for provider in configuration.jwt {
            let egress = &provider.issuer.egress_selector_type;
            if !egress.is_empty() {
                // There is no configuration of egress: whoever asks for it would not get it.
                return Err(format!("oidc: egress lookup required with egress selector type {egress:?}"));
            }
            let provider = JwtProvider::start(provider, &ended).map_err(|error| error.to_string())?;
            providers.push(Arc::new(provider));
        }
        Ok(Self { providers, anonymous, ended })
    }
}
