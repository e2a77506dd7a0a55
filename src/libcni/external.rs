//! Networks of others: a configuration that somebody puts into a directory, and plugins that are run as CNI says.

mod configuration;
mod invoke;

use crate::netlink::Netlink;
use crate::{Attachment, CniError, write_atomically};
use configuration::List;
use naru_base::{DirectoryWatch, Shutdown, spawn};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::HashSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;

/// Where configurations and plugins are.
#[derive(Debug, Clone)]
pub struct ExternalConfig {
    /// Directories of configurations; the first one that has any counts.
    pub conf_dirs: Vec<PathBuf>,
    /// Directories of plugins, searched in this order.
    pub bin_dirs: Vec<PathBuf>,
    /// Where it is kept what was attached.
    pub state_dir: PathBuf,
}

/// A network of others. Cheap to clone.
#[derive(Debug, Clone)]
pub struct External {
    config: Arc<ExternalConfig>,
    list: watch::Receiver<Option<Arc<List>>>,
}

/// One attachment as it is kept: detaching goes by what attaching was done with.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    container_id: String,
    netns: PathBuf,
    if_name: String,
    /// `CNI_ARGS`.
    args: String,
    list: List,
    /// Missing: it was begun and never finished.
    result: Option<Value>,
}

impl External {
    /// Reads the configurations, and follows their changes until the shutdown.
    pub fn open(config: ExternalConfig, shutdown: &Shutdown) -> Result<Self, CniError> {
        for dir in config.conf_dirs.iter().chain([&config.state_dir]) {
            std::fs::create_dir_all(dir).map_err(CniError::io("create", dir))?;
        }
        let watch = DirectoryWatch::new().map_err(CniError::io("watch", &config.state_dir))?;
        for dir in &config.conf_dirs {
            watch.add(dir).map_err(CniError::io("watch", dir))?;
        }
        // Read after the watch has begun, so that nothing is missed.
        let (sender, list) = watch::channel(configuration::read(&config.conf_dirs));
        let external = Self { config: Arc::new(config), list };
        let (config, shutdown) = (external.config.clone(), shutdown.clone());
        spawn("cni-configuration", async move {
            let follow = async {
                while watch.changed().await.is_ok() {
                    let new = configuration::read(&config.conf_dirs);
                    sender.send_if_modified(|known| {
                        let changed = *known != new;
                        if let Some(list) = new.as_ref().filter(|_| changed) {
                            tracing::info!(network = list.name, "the pod network is configured");
                        }
                        known.clone_from(&new);
                        changed
                    });
                }
                tracing::warn!("changes of the pod network's configuration are not noticed any more");
            };
            shutdown.guard(follow).await;
        });
        Ok(external)
    }

    /// The name of the network that pods are attached to now, and each change of the configuration.
    pub fn configured(&self) -> watch::Receiver<Option<Arc<List>>> {
        self.list.clone()
    }

    /// Attaches a pod and gives its addresses. Repeating it for the same pod gives the same. `args` are the
    /// `CNI_ARGS`.
    pub async fn add(&self, attachment: &Attachment, args: &str) -> Result<Vec<IpAddr>, CniError> {
        if let Some(kept) = self.kept(&attachment.container_id) {
            match &kept.result {
                Some(result) => return Ok(addresses(result)),
                // Something of it may be there.
                None => self.del(attachment).await?,
            }
        }
        let list = self.list.borrow().clone();
        let list = list.ok_or_else(|| CniError::Config("cni plugin not initialized".to_owned()))?;
        let mut kept = Kept {
            container_id: attachment.container_id.clone(),
            netns: attachment.netns.clone(),
            if_name: attachment.ifname.clone(),
            args: args.to_owned(),
            list: (*list).clone(),
            result: None,
        };
        // Before anything exists, so that a crash from here on leaves nothing unknown.
        self.keep(&kept)?;
        Netlink::inside(&attachment.netns).await?.up("lo").await?;
        let mut result = None;
        for plugin in &list.plugins {
            let call = invoke::Call { command: "ADD", kept: &kept, plugin, previous: result.as_ref() };
            match invoke::run(&call, &self.config.bin_dirs).await {
                Ok(answer) => result = Some(answer),
                Err(error) => {
                    // The first error is the one that says what is wrong.
                    if let Err(second) = self.del(attachment).await {
                        tracing::warn!(error = %second, "could not clean up after a failed attachment");
                    }
                    return Err(error);
                }
            }
        }
        let given = result.as_ref().map(addresses).unwrap_or_default();
        kept.result = result;
        self.keep(&kept)?;
        Ok(given)
    }

    /// Detaches a pod, whose namespace may be gone. Repeating it is no error.
    pub async fn del(&self, attachment: &Attachment) -> Result<(), CniError> {
        let Some(kept) = self.kept(&attachment.container_id) else { return Ok(()) };
        for plugin in kept.list.plugins.iter().rev() {
            let call = invoke::Call { command: "DEL", kept: &kept, plugin, previous: kept.result.as_ref() };
            invoke::run(&call, &self.config.bin_dirs).await?;
        }
        let path = self.path(&kept.container_id);
        std::fs::remove_file(&path).map_err(CniError::io("remove", path))
    }

    /// Detaches every pod whose sandbox id is not in `keep`.
    pub async fn retain(&self, keep: &HashSet<String>) -> Result<(), CniError> {
        let dir = &self.config.state_dir;
        let entries = std::fs::read_dir(dir).map_err(CniError::io("read", dir))?;
        for entry in entries.flatten() {
            let Some(kept) = read_kept(&entry.path()).filter(|kept| !keep.contains(&kept.container_id)) else {
                continue;
            };
            let attachment = Attachment { container_id: kept.container_id, netns: kept.netns, ifname: kept.if_name };
            self.del(&attachment).await?;
        }
        Ok(())
    }

    fn path(&self, container_id: &str) -> PathBuf {
        self.config.state_dir.join(format!("{container_id}.json"))
    }

    fn kept(&self, container_id: &str) -> Option<Kept> {
        read_kept(&self.path(container_id))
    }

    fn keep(&self, kept: &Kept) -> Result<(), CniError> {
        let path = self.path(&kept.container_id);
        let text = serde_json::to_vec(kept).map_err(|error| CniError::Config(error.to_string()))?;
        write_atomically(&path, &text).map_err(CniError::io("write", path))
    }
}

fn read_kept(path: &Path) -> Option<Kept> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// The pod's addresses in a result of any version.
fn addresses(result: &Value) -> Vec<IpAddr> {
    let of = |text: &Value| text.as_str()?.split('/').next()?.parse().ok();
    let listed = result["ips"].as_array().into_iter().flatten().filter_map(|ip| of(&ip["address"]));
    let old = ["ip4", "ip6"].into_iter().filter_map(|family| of(&result[family]["ip"]));
    listed.chain(old).collect()
}

#[cfg(test)]
mod tests;
