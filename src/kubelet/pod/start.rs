//! Starts one container: image, environment, root file system, creation, start, postStart hook.

use super::backoff::go_millis;
use super::inbox::Inbox;
use super::slot::{Run, StartResult, labels};
use super::{env, hooks, mounts, resources, security};
use crate::credentials::Keyring;
use crate::images::{self, PullPolicy};
use crate::probe::run::Target;
use crate::shared::{Shared, events};
use k8s_openapi::api::core::v1::{Container, ContainerUser, LinuxContainerUser, Pod, VolumeMount};
use naru_base::Shutdown;
use naru_runtime::images::{Image, PullOptions, Pulled, RegistryCredentials, User};
use naru_runtime::{ContainerSpec, ExitStatus, RuntimeError};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a postStart hook may take.
const POST_START_LIMIT: Duration = Duration::from_secs(600);
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// One start to be made.
#[derive(Debug, Clone)]
pub(crate) struct Start {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pod: Arc<Pod>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) container: Arc<Container>,
    pub(crate) field_path: String,
    pub(crate) sandbox: String,
    pub(crate) pod_ips: Vec<IpAddr>,
    pub(crate) restart_count: i32,
    pub(crate) previous: Option<String>,
    /// The container whose processes it is to see.
    pub(crate) looks_at: Option<Result<String, String>>,
    /// Given when the pod ends; what takes long gives up then.
    pub(crate) cancel: Shutdown,
}

type Failure = StartResult;

fn blocked(reason: &'static str, message: impl ToString) -> Failure {
    StartResult::Blocked { reason, message: message.to_string() }
}

/// A short fingerprint of what may change in a container's specification.
pub(crate) fn hash(container: &Container) -> String {
    let digest = Sha256::digest(format!("{}\0{}", container.name, container.image.as_deref().unwrap_or_default()));
    hex(&digest[..4])
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// Removes a container with its root file system; neither needs to exist.
pub(super) async fn discard(shared: &Shared, id: &str) {
    if let Err(error) = shared.config.runtime.remove_container(id).await {
        tracing::debug!(container = id, %error, "container not removed");
    }
    if let Err(error) = shared.config.images.remove(id).await {
        tracing::debug!(container = id, error, "root file system not removed");
    }
}

/// A new id for a sandbox or container.
pub(crate) fn new_id() -> String {
    hex(&rand::random::<[u8; 32]>())
}

impl Start {
    /// Makes the start and says how it ended.
    pub(crate) async fn run(self) -> StartResult {
        match self.try_run().await {
            Ok(result) | Err(result) => result,
        }
    }

    fn event(&self, warning: bool, reason: &str, message: impl Into<String>) {
        self.shared.pod_event(&self.pod, Some(&self.field_path), warning, reason, message);
    }

    async fn try_run(&self) -> Result<StartResult, Failure> {
        let Some(image) = self.cancel.guard(self.image()).await else { return Err(StartResult::Cancelled) };
        let image = image?;
        let Some(views) = self.cancel.guard(self.image_volumes()).await else { return Err(StartResult::Cancelled) };
        let views = views?;
        let Some(env) = self.cancel.guard(self.environment()).await else { return Err(StartResult::Cancelled) };
        let env = env.inspect_err(|failure| self.report(failure))?;
        if let Some(previous) = &self.previous {
            self.discard(previous).await;
        }
        let tidying = self.shared.tidying.read().await;
        let (spec, run) = self.spec(&image, &env, &views).await.inspect_err(|failure| self.report(failure))?;
        let id = spec.id.clone();
        let created = self.shared.config.runtime.create_container(&self.sandbox, spec).await;
        drop(tidying);
        if let Err(error) = created {
            self.discard(&id).await;
            return Err(self.not_made(run, error));
        }
        self.event(false, events::CREATED, "Container created");
        self.warn_of_one_way_mounts();
        match self.shared.config.runtime.start_container(&id).await {
            Ok(info) => {
                let run = Run {
                    started_at: info.started_at_ns.map(super::slot::timestamp).or(Some(jiff::Timestamp::now())),
                    ..run
                };
                self.event(false, events::STARTED, "Container started");
                Ok(self.after_start(run).await)
            }
            Err(error) => Err(self.not_made(run, error)),
        }
    }

    /// A user namespace has no right to the machine's mounts, so the kernel lets them travel into it alone.
    fn warn_of_one_way_mounts(&self) {
        let both_ways = |mount: &&VolumeMount| mount.mount_propagation.as_deref() == Some("Bidirectional");
        let own_users = super::prepare::own_users(&self.pod);
        for mount in self.container.volume_mounts.iter().flatten().filter(both_ways).filter(|_| own_users) {
            let text = format!(
                "volumeMount {:?}: with hostUsers false, Bidirectional mount propagation goes one way: mounts that the \
                 container makes below {} do not reach the node",
                mount.name, mount.mount_path
            );
            self.event(true, events::ONE_WAY_MOUNTS, text);
        }
    }

    /// A command that cannot be run counts as a run that ended; anything else is tried again.
    fn not_made(&self, mut run: Run, error: RuntimeError) -> Failure {
        self.event(true, events::FAILED, format!("Error: {error}"));
        let RuntimeError::Start(message) = error else {
            return blocked("CreateContainerError", error);
        };
        let now = jiff::Timestamp::now();
        let finished_at_ns = i64::try_from(now.as_nanosecond()).unwrap_or(i64::MAX);
        let status = ExitStatus { exit_code: 128, signal: None, oom_killed: false, finished_at_ns };
        run.end(&status, Some(message));
        if let Some(exit) = run.exit.as_mut() {
            exit.reason = Some("StartError".into());
            exit.started_at = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
        }
        StartResult::Ended(Box::new(run))
    }

    fn report(&self, failure: &Failure) {
        if let StartResult::Blocked { message, .. } = failure {
            self.event(true, events::FAILED, format!("Error: {message}"));
        }
    }

    /// Removes what is left of a container.
    async fn discard(&self, id: &str) {
        discard(&self.shared, id).await;
    }

    async fn after_start(&self, mut run: Run) -> StartResult {
        if let Some(hook) = self.container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) {
            let target = self.target(&run.id);
            if let Err(error) = hooks::run(&target, hook, POST_START_LIMIT).await {
                self.event(true, events::FAILED_POST_START, format!("PostStartHook failed: {error}"));
                self.event(false, events::KILLING, "FailedPostStartHook");
                if let Err(error) = self.shared.config.runtime.signal_container(&run.id, 9).await {
                    tracing::debug!(container = run.id, %error, "kill signal not sent");
                }
            }
        }
        run.started = self.container.startup_probe.is_none();
        run.ready = run.started && self.container.readiness_probe.is_none();
        StartResult::Running(Box::new(run))
    }

    fn target(&self, id: &str) -> Target {
        Target {
            runtime: self.shared.config.runtime.clone(),
            container_id: id.to_owned(),
            container: self.container.clone(),
            pod_ip: self.pod_ips.first().copied(),
        }
    }

    /// The container's image, pulled if its policy asks for it.
    async fn image(&self) -> Result<Arc<Image>, Failure> {
        let name = self.container.image.clone().unwrap_or_default();
        self.ensure(&name, images::pull_policy(&self.container)).await
    }

    /// A namespace that belongs to the pod's own users, if it has them.
    fn users(&self) -> Result<Option<PathBuf>, Failure> {
        if !super::prepare::own_users(&self.pod) {
            return Ok(None);
        }
        let found = self.shared.config.runtime.sandboxes().into_iter().find(|s| s.id == self.sandbox);
        let found = found.ok_or_else(|| blocked("CreateContainerError", "the pod's sandbox is gone"))?;
        Ok(Some(found.netns_path))
    }

    /// The images that are mounted into the container, by the volume's name.
    async fn image_volumes(&self) -> Result<BTreeMap<String, PathBuf>, Failure> {
        let mut views = BTreeMap::new();
        let mounts = self.container.volume_mounts.as_deref().unwrap_or_default();
        for volume in self.pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
            let Some(source) = volume.image.as_ref().filter(|_| mounts.iter().any(|m| m.name == volume.name)) else {
                continue;
            };
            let name = source.reference.as_deref().unwrap_or_default();
            let image = self.ensure(name, images::policy(name, source.pull_policy.as_deref())).await?;
            let id = crate::volumes::view_id(&identity(&self.pod).2, &volume.name);
            let view = self.shared.config.images.view(&id, &image, self.users()?.as_deref()).await;
            views.insert(volume.name.clone(), view.map_err(|error| blocked("CreateContainerError", error))?);
        }
        Ok(views)
    }

    /// An image, pulled if its policy asks for it or the pod has to show that it may have it.
    async fn ensure(&self, name: &str, policy: PullPolicy) -> Result<Arc<Image>, Failure> {
        if let Some(message) = images::invalid_name(name) {
            self.event(true, "InspectFailed", message.clone());
            self.event(true, events::FAILED, "Error: InvalidImageName");
            return Err(StartResult::Image { reason: "InvalidImageName", message });
        }
        let present = self.shared.config.images.resolve(name);
        if policy == PullPolicy::Always {
            return self.pull(name, self.credentials(name).await).await;
        }
        let never = |message: String| {
            self.event(true, "ErrImageNeverPull", message.clone());
            self.event(true, events::FAILED, "Error: ErrImageNeverPull");
            Err(StartResult::Image { reason: "ErrImageNeverPull", message })
        };
        let Some(image) = present else {
            return match policy {
                PullPolicy::Never => {
                    never(format!("Container image {name:?} is not present with pull policy of Never"))
                }
                _ => self.pull(name, self.credentials(name).await).await,
            };
        };
        if self.shared.pull_records.must_pull(&image, name, &[]) {
            let credentials = self.credentials(name).await;
            let shown: Vec<String> = credentials.iter().map(RegistryCredentials::fingerprint).collect();
            if self.shared.pull_records.must_pull(&image, name, &shown) {
                return match policy {
                    PullPolicy::Never => never(format!(
                        "Container image {name:?} is present with pull policy of Never but does not have the proper credentials"
                    )),
                    _ => self.pull(name, credentials).await,
                };
            }
        }
        let text = format!("Container image {name:?} already present on machine and can be accessed by the pod");
        self.event(false, events::PULLED, text);
        Ok(image)
    }

    async fn pull(&self, name: &str, credentials: Vec<RegistryCredentials>) -> Result<Arc<Image>, Failure> {
        self.event(false, events::PULLING, format!("Pulling image {name:?}"));
        let begun = Instant::now();
        let _permit = self.shared.pulls.acquire().await;
        let pulling = Instant::now();
        let options = PullOptions { credentials, ..Default::default() };
        let pull = self.shared.config.images.pull(name, options);
        match self.shared.metrics.timed("pull_image", pull).await {
            Ok(Pulled { image, credentials }) => {
                self.shared.pull_records.pulled(&image, name, credentials.as_deref());
                let text = format!(
                    "Successfully pulled image {name:?} in {} ({} including waiting). Image size: {} bytes.",
                    go_millis(pulling.elapsed()),
                    go_millis(begun.elapsed()),
                    image.size
                );
                self.event(false, events::PULLED, text);
                self.shared.images_changed.notify_one();
                Ok(image)
            }
            Err(error) => {
                let message = images::pull_failure(&error);
                self.event(true, events::FAILED, format!("Failed to pull image {name:?}: {message}"));
                self.event(true, events::FAILED, "Error: ErrImagePull");
                Err(StartResult::Image { reason: "ErrImagePull", message })
            }
        }
    }

    /// As whom the pod pulls: by its own secrets first, then by what the node's programs know.
    async fn credentials(&self, image: &str) -> Vec<RegistryCredentials> {
        let spec = self.pod.spec.as_ref();
        let names: Vec<String> =
            spec.and_then(|s| s.image_pull_secrets.as_ref()).into_iter().flatten().map(|r| r.name.clone()).collect();
        let (namespace, name, uid) = identity(&self.pod);
        let found = self.shared.objects.secrets(&namespace, &names, &uid, &self.inbox).await.unwrap_or_default();
        let missing: Vec<&String> = names.iter().filter(|name| found.get(*name).is_none_or(Option::is_none)).collect();
        if !missing.is_empty() {
            let list = missing.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
            let text = format!(
                "Unable to retrieve some image pull secrets ({list}); attempting to pull the image may not succeed."
            );
            self.shared.pod_event(&self.pod, None, true, "FailedToRetrieveImagePullSecret", text);
            tracing::debug!(pod = name, list, "image pull secrets are missing");
        }
        let repository = images::repository(image);
        let secrets = names.iter().filter_map(|name| found.get(name)?.as_ref());
        let mut out = Keyring::of_secrets(secrets).lookup(&repository);
        let account = super::tokens::PodAccount { shared: &self.shared, pod: &self.pod };
        out.extend(self.shared.config.credential_providers.credentials(&repository, &account).await);
        out
    }

    async fn environment(&self) -> Result<BTreeMap<String, String>, Failure> {
        let (maps, secrets) = env::references(&self.container);
        let (namespace, _, uid) = identity(&self.pod);
        let fail = |error: String| blocked("CreateContainerConfigError", error);
        let objects = &self.shared.objects;
        let context = env::EnvContext {
            config_maps: objects.config_maps(&namespace, &maps, &uid, &self.inbox).await.map_err(fail)?,
            secrets: objects.secrets(&namespace, &secrets, &uid, &self.inbox).await.map_err(fail)?,
            services: self.shared.service_links(&self.pod).await,
            facts: self.shared.field_facts(&self.pod_ips),
            files: self.env_files().await.map_err(fail)?,
        };
        env::container_env(&self.pod, &self.container, &context).map_err(|error| fail(error.to_string()))
    }

    /// The files of variables that the container refers to, read from the pod's volumes.
    async fn env_files(&self) -> Result<env::EnvFiles, String> {
        let wanted = env::file_references(&self.container);
        if wanted.is_empty() {
            return Ok(env::EnvFiles::new());
        }
        let (pod, pod_dir) = (self.pod.clone(), self.shared.config.pod_dir(&identity(&self.pod).2));
        let read = move || {
            let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
            let text = |(volume, path): &(String, String)| {
                let place = volumes.iter().find(|v| v.name == *volume).and_then(|v| crate::volumes::path(&pod_dir, v));
                let place = place.ok_or(std::io::ErrorKind::NotFound)?;
                crate::volumes::subpath::read_file(&place, path, env::MAX_FILE)
            };
            wanted.into_iter().map(|file| (file.clone(), text(&file))).collect()
        };
        tokio::task::spawn_blocking(read).await.map_err(|error| error.to_string())
    }

    /// Everything that the runtime has to know, and the run as it will be.
    async fn spec(
        &self,
        image: &Image,
        env: &BTreeMap<String, String>,
        views: &BTreeMap<String, PathBuf>,
    ) -> Result<(ContainerSpec, Run), Failure> {
        let shared = &self.shared;
        let (namespace, name, uid) = identity(&self.pod);
        let container = &*self.container;
        let config_error = |error: String| blocked("CreateContainerConfigError", error);
        let settings = security::settings(&self.pod, container, &shared.config.data_dir.join("seccomp"));
        security::check_non_root(&settings, &image.config.user, &self.pod, &container.name).map_err(config_error)?;

        let loaded = security::loaded_profiles();
        let apparmor =
            settings.apparmor.choose(loaded.as_deref()).map_err(|error| blocked("CreateContainerError", error))?;

        let id = new_id();
        let pod_dir = shared.config.pod_dir(&uid);
        let log_dir = shared.config.pod_logs(&namespace, &name, &uid).join(&container.name);
        let log = log_dir.join(format!("{}.log", self.restart_count));
        let message_dir = pod_dir.join("containers").join(&container.name);
        let message_file = message_dir.join(&id[..8]);
        let create = || -> std::io::Result<()> {
            std::fs::create_dir_all(&log_dir)?;
            std::fs::create_dir_all(&message_dir)?;
            std::fs::write(&message_file, b"")?;
            // The container writes it as whoever it runs.
            std::fs::set_permissions(&message_file, std::os::unix::fs::PermissionsExt::from_mode(0o666))
        };
        create().map_err(|error| blocked("CreateContainerError", error))?;
        super::logs::prune(&log_dir, self.restart_count);

        let places = mounts::Places { pod_dir: &pod_dir, views, message_file: Some(&message_file) };
        let mounts = mounts::mounts(&self.pod, container, &places, env).map_err(config_error)?;
        let rootfs = shared.config.images.prepare(&id, image, self.users()?.as_deref()).await;
        let rootfs = rootfs.map_err(|error| blocked("CreateContainerError", error))?;
        let user = match self.user(&settings, image, &rootfs) {
            Ok(user) => user,
            Err(error) => {
                self.discard(&id).await;
                return Err(blocked("CreateContainerError", error));
            }
        };
        let run = Run {
            id: id.clone(),
            restart_count: self.restart_count,
            hash: hash(container),
            image: images::full_name(container.image.as_deref().unwrap_or_default()),
            image_id: images::image_id(image),
            user: Some(container_user(&settings, &user)),
            stop_signal: image.config.stop_signal_number(),
            message_file: Some(message_file),
            log: Some(log.clone()),
            resources: container.resources.clone(),
            started_at: None,
            exit: None,
            started: false,
            ready: false,
        };
        let values = resources::cgroup_values(&self.pod, container, shared.node_memory);
        let mut spec = ContainerSpec {
            id,
            name: container.name.clone(),
            labels: self.labels(&run),
            rootfs,
            args: arguments(container, image, env),
            env: environment(env, image, &user, &super::dns::hostname(&self.pod, &shared.config.cluster_domain).0),
            cwd: container
                .working_dir
                .clone()
                .filter(|d| !d.is_empty())
                .unwrap_or_else(|| image.config.working_dir.clone()),
            uid: user.uid,
            gid: settings.run_as_group.map_or(user.gid, |gid| gid as u32),
            additional_gids: groups(&settings, &user),
            tty: container.tty == Some(true),
            stdin: container.stdin == Some(true),
            mounts,
            capabilities: settings.capabilities,
            privileged: settings.privileged,
            readonly_rootfs: settings.readonly_rootfs,
            no_new_privileges: settings.no_new_privileges,
            seccomp: settings.seccomp,
            apparmor,
            resources: naru_runtime::Resources {
                huge_pages: resources::huge_pages(&self.pod, Some(container), &shared.allocatable),
                ..values.limits()
            },
            processes_of: self.looks_at.clone().transpose().map_err(|e| blocked("CreateContainerError", e))?,
            oom_score_adj: Some(values.oom_score_adj),
            log_path: Some(log),
            ..Default::default()
        };
        if settings.unmasked_proc || settings.privileged {
            spec.masked_paths.clear();
            spec.readonly_paths.clear();
        }
        Ok((spec, run))
    }

    /// Who the container runs as, by the pod first and the image else.
    fn user(&self, settings: &security::Settings, image: &Image, rootfs: &std::path::Path) -> Result<User, String> {
        let text = settings.run_as_user.map_or_else(|| image.config.user.clone(), |uid| uid.to_string());
        self.shared.config.images.user(rootfs, &text)
    }

    fn labels(&self, run: &Run) -> BTreeMap<String, String> {
        let (namespace, name, uid) = identity(&self.pod);
        let path = |path: &Option<PathBuf>| path.as_deref().map(|p| p.display().to_string()).unwrap_or_default();
        BTreeMap::from(
            [
                (labels::POD_UID, uid),
                (labels::POD_NAME, name),
                (labels::POD_NAMESPACE, namespace),
                (labels::CONTAINER, self.container.name.clone()),
                (labels::RESTARTS, run.restart_count.to_string()),
                (labels::HASH, run.hash.clone()),
                (labels::IMAGE, run.image.clone()),
                (labels::IMAGE_ID, run.image_id.clone()),
                (labels::USER, serde_json::to_string(&run.user).unwrap_or_default()),
                (labels::STOP_SIGNAL, run.stop_signal.to_string()),
                (labels::MESSAGE_FILE, path(&run.message_file)),
                (labels::LOG, path(&run.log)),
                (labels::RESOURCES, serde_json::to_string(&run.resources).unwrap_or_default()),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        )
    }
}

/// Namespace, name and uid.
pub(crate) fn identity(pod: &Pod) -> (String, String, String) {
    let meta = &pod.metadata;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    (text(&meta.namespace), text(&meta.name), text(&meta.uid))
}

/// Command and arguments: the pod's `command` replaces entrypoint and cmd, its `args` replace cmd.
fn arguments(container: &Container, image: &Image, env: &BTreeMap<String, String>) -> Vec<String> {
    let expanded = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter().flatten().map(|text| super::expand::expand(text, |name| env.get(name).cloned())).collect()
    };
    let (command, args) = (expanded(&container.command), expanded(&container.args));
    let mut out = if command.is_empty() { image.config.entrypoint.clone() } else { command.clone() };
    if !args.is_empty() {
        out.extend(args);
    } else if command.is_empty() {
        out.extend(image.config.cmd.clone());
    }
    out
}

/// The image's variables, then the pod's over them.
fn environment(env: &BTreeMap<String, String>, image: &Image, user: &User, hostname: &str) -> Vec<String> {
    let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
    let mut out: Vec<String> = image.config.env.iter().filter(|v| !env.contains_key(&name(v))).cloned().collect();
    let has = |wanted: &str| env.contains_key(wanted) || image.config.env.iter().any(|v| name(v) == wanted);
    if !has("PATH") {
        out.insert(0, DEFAULT_PATH.into());
    }
    if !has("HOME") {
        out.push(format!("HOME={}", user.home));
    }
    if !has("HOSTNAME") {
        out.push(format!("HOSTNAME={hostname}"));
    }
    out.extend(env.iter().map(|(name, value)| format!("{name}={value}")));
    out
}

/// As whom the first process starts, as the status tells it.
fn container_user(settings: &security::Settings, user: &User) -> ContainerUser {
    let gid = settings.run_as_group.unwrap_or(user.gid.into());
    let mut groups: Vec<i64> = groups(settings, user).into_iter().map(i64::from).chain([gid]).collect();
    groups.sort_unstable();
    groups.dedup();
    let linux = LinuxContainerUser { uid: user.uid.into(), gid, supplemental_groups: Some(groups) };
    ContainerUser { linux: Some(linux) }
}

fn groups(settings: &security::Settings, user: &User) -> Vec<u32> {
    let mut out = if settings.strict_groups { Vec::new() } else { user.additional_gids.clone() };
    out.extend(&settings.supplemental_groups);
    out.sort_unstable();
    out.dedup();
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_and_args_override_as_documented() {
        let image = Image {
            id: String::new(),
            names: Vec::new(),
            digests: Vec::new(),
            config: naru_runtime::images::ImageConfig {
                entrypoint: vec!["e".into()],
                cmd: vec!["c".into()],
                ..Default::default()
            },
            size: 0,
            layers: Vec::new(),
        };
        let env = BTreeMap::from([("X".to_string(), "1".to_string())]);
        let check = |command: &[&str], args: &[&str], expect: &[&str]| {
            let list = |l: &[&str]| Some(l.iter().map(ToString::to_string).collect());
            let container = Container { command: list(command), args: list(args), ..Default::default() };
            assert_eq!(arguments(&container, &image, &env), expect);
        };
        check(&[], &[], &["e", "c"]);
        check(&[], &["a"], &["e", "a"]);
        check(&["x"], &[], &["x"]);
        check(&["x"], &["$(X)", "$(Y)"], &["x", "1", "$(Y)"]);
    }

    #[test]
    fn the_status_tells_as_whom_a_container_runs() {
        let pod = |policy: &str| -> Pod {
            serde_json::from_value(serde_json::json!({"spec": {
                "securityContext": {"runAsGroup": 3000, "supplementalGroups": [4000], "fsGroup": 5000,
                    "supplementalGroupsPolicy": policy},
                "containers": [{"name": "c"}]}}))
            .expect("a pod")
        };
        let user = User { uid: 1000, gid: 7, additional_gids: vec![50000], ..User::default() };
        for (policy, expect) in [("Merge", vec![3000, 4000, 5000, 50000]), ("Strict", vec![3000, 4000, 5000])] {
            let pod = pod(policy);
            let container = &pod.spec.as_ref().expect("a spec").containers[0];
            let settings = security::settings(&pod, container, std::path::Path::new("/s"));
            let linux = container_user(&settings, &user).linux.expect("Linux");
            assert_eq!((linux.uid, linux.gid, linux.supplemental_groups), (1000, 3000, Some(expect)));
        }
    }
}
