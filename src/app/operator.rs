//! The operator's commands that work on a data directory: `naru image`, `naru killall`.

use crate::cli::{DataDir, ImageCommand, KillallArgs};
use crate::layout::Layout;
use crate::node;
use anyhow::{Context, Result, anyhow};
use naru_kubelet::engine::Images;
use naru_runtime::images::PullOptions;
use std::collections::HashSet;
use std::io::Write;
use std::path::PathBuf;

/// `naru image ...`
pub(crate) async fn image(command: ImageCommand) -> Result<()> {
    let open = |data: &DataDir| node::open_image_store(&Layout::new(&data.data_dir)?);
    let mut out = std::io::stdout().lock();
    match command {
        ImageCommand::Import { data, files } => {
            let store = open(&data)?;
            for file in files {
                let names =
                    store.import(&file).await.map_err(|error| anyhow!("cannot import {}: {error}", file.display()))?;
                for name in names {
                    writeln!(out, "{name}")?;
                }
            }
        }
        ImageCommand::Pull { data, private_registry, names } => {
            let registries = node::registries(&private_registry)?;
            let store = open(&data)?;
            store.configure(registries);
            for name in names {
                let image = store.pull(&name, PullOptions::default()).await;
                let image = image.map_err(|error| anyhow!("cannot pull {name}: {error}"))?;
                writeln!(out, "{}", image.digests.first().unwrap_or(&image.id))?;
            }
        }
        ImageCommand::Export { data, output, names } => {
            let store = open(&data)?;
            drop(out);
            let exported = if output.as_os_str() == "-" {
                store.export(&names, std::io::stdout()).await
            } else {
                let file =
                    std::fs::File::create(&output).with_context(|| format!("cannot create {}", output.display()))?;
                store.export(&names, file).await
            };
            exported?;
        }
        ImageCommand::Ls { data } => {
            for image in open(&data)?.list()? {
                let megabytes = image.size as f64 / 1e6;
                let names = if image.names.is_empty() { vec!["<none>".into()] } else { image.names.clone() };
                for name in names {
                    writeln!(out, "{name}\t{}\t{megabytes:.1} MB", image.id)?;
                }
            }
        }
        ImageCommand::Rm { data, names } => {
            let store = open(&data)?;
            for name in names {
                store.remove(&name).await.with_context(|| format!("cannot remove {name}"))?;
            }
        }
    }
    Ok(())
}

/// `naru killall`: ends all pods of a server that has ended and removes what they had.
pub(crate) async fn killall(args: KillallArgs) -> Result<()> {
    let layout = Layout::new(&args.data.data_dir)?;
    if !layout.run().exists() {
        return Ok(());
    }
    let _lock = layout.lock()?;
    let runtime = node::open_runtime(&layout, args.cgroup_root.as_deref()).await?;
    for sandbox in runtime.sandboxes() {
        runtime.remove_sandbox(&sandbox.id).await.with_context(|| format!("cannot stop the pod {}", sandbox.id))?;
    }
    runtime.remove_cgroups(&["kubepods"]).await?;
    node::clear_network(&layout).await.context("cannot remove the pods' interfaces")?;
    node::open_images(&layout)?.retain(&HashSet::new()).await.map_err(anyhow::Error::msg)?;
    naru_network::proxy::remove_table(node::TABLE).context("cannot remove the nftables table")?;
    naru_network::overlay::remove().await.context("cannot remove the ways to other nodes")?;
    naru_network::dns::remove_addresses().await.context("cannot take the DNS address off this host")?;
    remove_mounts(&layout)
}

/// Unmounts what is still mounted under the data directory (volumes in memory), innermost first.
fn remove_mounts(layout: &Layout) -> Result<()> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").context("cannot list the mounts")?;
    let below = |path: &PathBuf| path.starts_with(layout.root()) && path != layout.root();
    let mut paths: Vec<PathBuf> = naru_runtime::mount_points(&table).filter(below).collect();
    paths.sort_unstable_by_key(|path| std::cmp::Reverse(path.as_os_str().len()));
    for path in paths {
        rustix::mount::unmount(&path, rustix::mount::UnmountFlags::DETACH)
            .with_context(|| format!("cannot unmount {}", path.display()))?;
    }
    Ok(())
}
