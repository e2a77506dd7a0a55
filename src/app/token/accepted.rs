//! Which tokens a running server accepts from those who join: those of its files, as they are now.

use super::{for_agents, load_or_create, parts};
use crate::layout::Layout;
use anyhow::Result;
use naru_apiserver::StaticToken;
use naru_base::{DirectoryWatch, Shutdown, spawn};
use std::sync::{Arc, Mutex, PoisonError};

/// The cluster's token, and that of agents alone if there is one.
#[derive(Debug, Clone)]
pub(crate) struct Tokens {
    layout: Layout,
    ca_pem: String,
    /// Of agents, as it was given.
    of_agents: Option<String>,
    /// What is accepted: the whole token and that of agents. Leaf lock.
    now: Arc<Mutex<(String, Option<String>)>>,
}

impl Tokens {
    /// Those given, or those of an earlier start, or new ones.
    pub(crate) fn load(layout: &Layout, given: Option<&str>, of_agents: Option<String>, ca_pem: &str) -> Result<Self> {
        let now = Arc::default();
        let tokens = Self { layout: layout.clone(), ca_pem: ca_pem.to_owned(), of_agents, now };
        tokens.read(given)?;
        Ok(tokens)
    }

    fn read(&self, given: Option<&str>) -> Result<()> {
        let token = load_or_create(&self.layout.token(), given, &self.ca_pem)?;
        let agents = for_agents(&self.layout.node_token(), self.of_agents.as_deref(), &token, &self.ca_pem)?;
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = (token, agents);
        Ok(())
    }

    /// What agents may show to join: a token whole, or without the hash, which is all that they send.
    pub(crate) fn accepted(&self) -> Result<Vec<StaticToken>> {
        let (token, of_agents) = self.now.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut accepted = Vec::new();
        for (user, token) in [("server", Some(&token)), ("node", of_agents.as_ref())] {
            let Some(token) = token else { continue };
            let (_, password) = parts(token)?;
            accepted.extend([token, password].map(|token| StaticToken {
                token: token.to_owned(),
                user: format!("system:bootstrap:{user}"),
                uid: String::new(),
                groups: vec!["system:bootstrappers".into()],
            }));
        }
        Ok(accepted)
    }

    /// Calls `apply` with what is accepted whenever the file has another token, until the shutdown.
    pub(crate) fn follow(&self, apply: impl Fn(Vec<StaticToken>) + Send + 'static, shutdown: &Shutdown) {
        let (tokens, shutdown) = (self.clone(), shutdown.clone());
        spawn("tokens", async move {
            if let Some(Err(error)) = shutdown.guard(tokens.watch(apply)).await {
                tracing::warn!("changes of {} are not noticed: {error:#}", tokens.layout.token().display());
            }
        });
    }

    async fn watch(&self, apply: impl Fn(Vec<StaticToken>)) -> Result<()> {
        let watch = DirectoryWatch::new()?;
        watch.add(&self.layout.server())?;
        loop {
            let before = self.now.lock().unwrap_or_else(PoisonError::into_inner).0.clone();
            // After the watch has begun, so that nothing is missed.
            match self.read(None).and_then(|()| self.accepted()) {
                Ok(accepted) if self.now.lock().unwrap_or_else(PoisonError::into_inner).0 != before => {
                    apply(accepted);
                    tracing::info!("the cluster has another token; the old one is refused from now on");
                }
                Ok(_) => {}
                Err(error) => tracing::error!("the token is not changed: {error:#}"),
            }
            watch.changed().await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::private_dir;
    use crate::pki::Authority;

    #[tokio::test]
    async fn a_rotated_token_is_taken_while_the_server_runs() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let layout = Layout::new(dir.path())?;
        private_dir(&layout.tls())?;
        let ca = Authority::load_or_create(&layout.tls(), "server-ca", "ca")?;
        let tokens = Tokens::load(&layout, Some("first"), Some("agents".into()), &ca.cert_pem)?;
        let named = |accepted: &[StaticToken], token: &str| accepted.iter().any(|known| known.token == token);
        assert!(named(&tokens.accepted()?, "first") && named(&tokens.accepted()?, "agents"));
        let (sender, mut applied) = tokio::sync::mpsc::channel(4);
        let shutdown = Shutdown::new();
        tokens.follow(move |accepted| drop(sender.try_send(accepted)), &shutdown);
        load_or_create(&layout.token(), Some("second"), &ca.cert_pem)?;
        let accepted = applied.recv().await.unwrap_or_default();
        assert!(named(&accepted, "second") && named(&accepted, "agents") && !named(&accepted, "first"));
        shutdown.trigger();
        Ok(())
    }
}
