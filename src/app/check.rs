//! `naru check-config`: what of this machine would be in a server's or an agent's way, found before it is started.
//! Changes nothing, here or on a server.

use crate::cli::{CheckArgs, ServerArgs};
use crate::files::read_optional;
use crate::join::{self, Asking};
use crate::layout::Layout;
use crate::server::{self, Settings};
use crate::{host, node, token};
use anyhow::{Result, bail};
use naru_network::diagnose;
use std::collections::HashSet;
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Kernel modules, and what is missing without them.
const MODULES: [(&str, &str, &str); 6] = [
    ("overlay", "CONFIG_OVERLAY_FS", "images cannot be used without copying them"),
    ("veth", "CONFIG_VETH", "pods have no network"),
    ("nf_tables", "CONFIG_NF_TABLES", "Services do not work"),
    ("nf_conntrack", "CONFIG_NF_CONNTRACK", "Services do not work"),
    ("nft_chain_nat", "CONFIG_NFT_NAT", "Services do not work"),
    ("vxlan", "CONFIG_VXLAN", "pods of other nodes are not reached, but with --flannel-backend=host-gw"),
];
/// Room that an empty cluster and a few images take.
const ROOM: u64 = 2 << 30;
/// A clock that shows an earlier time was never set: 2026-01-01.
const EARLIEST: Duration = Duration::from_secs(1_767_225_600);
/// A kernel's configuration is no larger.
const MAX_CONFIG: u64 = 4 << 20;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Grade {
    Good,
    /// Something works less well.
    Warning,
    /// The server would not start, or pods would not run.
    Failure,
}

#[derive(Debug)]
struct Finding {
    grade: Grade,
    what: String,
    message: String,
}

/// Prints all findings; an error when there are failures among them.
pub(crate) async fn run(args: CheckArgs) -> Result<()> {
    let findings = match &args.server {
        Some(server) => check_agent(&args.flags, server).await,
        None => check(&args.flags).await,
    };
    let mut out = std::io::stdout().lock();
    for finding in &findings {
        let grade = match finding.grade {
            Grade::Good => "ok",
            Grade::Warning => "warning",
            Grade::Failure => "FAILED",
        };
        writeln!(out, "{:<20} {grade:<8} {}", finding.what, finding.message)?;
    }
    let failed = findings.iter().filter(|finding| finding.grade == Grade::Failure).count();
    if failed > 0 {
        bail!("{failed} of {} checks failed", findings.len());
    }
    Ok(())
}

async fn check(args: &ServerArgs) -> Vec<Finding> {
    let mut found = Findings::default();
    let settings = Settings::resolve(args);
    found.note(
        "flags",
        settings.as_ref().map(|_| String::new()).map_err(|error| Grade::Failure.because(format!("{error:#}"))),
    );
    found.note("clock", clock(SystemTime::now()));
    found.note("disk", disk(&args.data.data_dir));
    let listen = settings.as_ref().map_or(args.bind_address, |settings| settings.listen(args.bind_address));
    let taken =
        server::bind(listen, args.https_listen_port).await.map(|_| format!("{} is free", args.https_listen_port));
    found.note("port of the API", taken.map_err(|error| Grade::Failure.because(format!("{error:#}"))));
    if args.disable_agent {
        return found.0;
    }
    let network = |settings: &Settings| {
        Some(diagnose::Setup {
            cluster_cidrs: host::list(&args.cluster_cidr).ok()?,
            service_cidrs: host::list(&args.service_cidr).ok()?,
            node: tokio::sync::watch::channel(settings.node_ips.clone()).1,
            backend: args.flannel_backend,
        })
    };
    check_node(&mut found, listen, settings.as_ref().ok().and_then(network)).await;
    found.0
}

/// What an agent needs: the machine's side, and a server that takes it.
async fn check_agent(args: &ServerArgs, server: &str) -> Vec<Finding> {
    let mut found = Findings::default();
    let failed = |error: anyhow::Error| Grade::Failure.because(format!("{error:#}"));
    found.note("flags", node::check(&args.node).map(|()| String::new()).map_err(failed));
    found.note("clock", clock(SystemTime::now()));
    found.note("disk", disk(&args.data.data_dir));
    match asking(args, server) {
        Err(error) => found.note("server", Err(failed(error))),
        Ok(asking) => {
            let node = asking.ips[0];
            let (cluster, ahead) = match join::check(&asking).await {
                Ok((cluster, ahead)) => {
                    found.note("server", Ok(format!("{server} takes this node")));
                    (Some(cluster), ahead)
                }
                Err(error) => {
                    found.note("server", Err(failed(error)));
                    (None, None)
                }
            };
            if let Some(problem) = ahead.and_then(diagnose::clock_problem) {
                found.note("clock", Err(Grade::Failure.because(problem.message)));
            }
            let setup = cluster.and_then(|cluster| {
                Some(diagnose::Setup {
                    cluster_cidrs: host::list(&cluster.cluster_cidr).ok()?,
                    service_cidrs: host::list(&cluster.service_cidr).ok()?,
                    node: tokio::sync::watch::channel(vec![node]).1,
                    backend: cluster.flannel_backend.parse().ok()?,
                })
            });
            check_node(&mut found, host::any(node), setup).await;
        }
    }
    found.0
}

fn asking(args: &ServerArgs, server: &str) -> Result<Asking> {
    let layout = Layout::new(&args.data.data_dir)?;
    let dir = layout.agent().join("tls");
    Ok(Asking {
        server: server.to_owned(),
        servers: join::servers::known(&dir, server)?,
        token: token::given("--token-file", args.token_file.as_deref(), args.token.as_deref())?,
        node_name: args.node.node_name.clone().map_or_else(host::node_name, Ok)?,
        ips: host::node_ips(&args.node.node_ip)?,
        machine: read_optional(&layout.agent().join("machine-id"))?.unwrap_or_default().trim().to_owned(),
        dir,
    })
}

/// What every node needs of its machine.
async fn check_node(found: &mut Findings, listen: std::net::IpAddr, setup: Option<diagnose::Setup>) {
    found.note("user", root());
    let port = node::NODE_API_PORT;
    let taken = server::bind(host::any(listen), port).await.map(|_| format!("{port} is free"));
    let wrong = format!("{port} is in use: stop what uses it (another naru, k3s or kubelet)");
    found.note("port of the node", taken.map_err(|_| Grade::Failure.because(wrong)));
    let kernel = Kernel::read();
    for (name, option, without) in MODULES {
        found.note(
            name,
            kernel.has(name, option).map_err(|grade| grade.because(format!("not in this kernel: {without}"))),
        );
    }
    found.note(
        "cgroups",
        match naru_runtime::cgroup_problem() {
            None => Ok(String::new()),
            Some(problem) => Err(Grade::Warning.because(problem)),
        },
    );
    let Some(setup) = setup else { return };
    let problems = diagnose::problems(&setup).await;
    if problems.is_empty() {
        found.note("network", Ok(String::new()));
    }
    for problem in problems {
        // Forwarding is switched on by the node itself, where it can be.
        let curable = problem.reason == "ForwardingOff" && diagnose::can_be_set(&problem);
        let grade = if curable { Grade::Warning } else { Grade::Failure };
        found.note("network", Err(grade.because(problem.message)));
    }
}

#[derive(Default)]
struct Findings(Vec<Finding>);

/// What is wrong, and how bad that is.
type Wrong = (Grade, String);

impl Grade {
    fn because(self, message: String) -> Wrong {
        (self, message)
    }
}

impl Findings {
    fn note(&mut self, what: &str, result: Result<String, Wrong>) {
        let (grade, message) = match result {
            Ok(message) => (Grade::Good, message),
            Err(wrong) => wrong,
        };
        self.0.push(Finding { grade, what: what.to_owned(), message });
    }
}

fn root() -> Result<String, Wrong> {
    if rustix::process::geteuid().is_root() {
        return Ok(String::new());
    }
    Err(Grade::Failure.because("pods need root: run naru with sudo or as a service".into()))
}

fn clock(now: SystemTime) -> Result<String, Wrong> {
    if now.duration_since(UNIX_EPOCH).unwrap_or_default() >= EARLIEST {
        return Ok(String::new());
    }
    let message = "this machine's clock was never set, certificates would be invalid: switch on time synchronisation \
                   (timedatectl set-ntp true) and wait for it";
    Err(Grade::Failure.because(message.into()))
}

/// The room left where the data is, or will be.
fn disk(data_dir: &Path) -> Result<String, Wrong> {
    let there = data_dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let failed = |error: rustix::io::Errno| Grade::Failure.because(format!("{}: {error}", there.display()));
    let room = rustix::fs::statvfs(there).map_err(failed)?;
    let free = room.f_bavail * room.f_frsize;
    let text = format!("{:.1} GB free for {}", free as f64 / 1e9, data_dir.display());
    if free < ROOM {
        return Err(Grade::Warning.because(format!("only {text}: images need more, give another --data-dir")));
    }
    Ok(text)
}

/// What the running kernel has or can load.
#[derive(Debug, Default)]
struct Kernel {
    names: HashSet<String>,
    /// Its configuration, if it tells.
    config: Option<String>,
    /// Whether the list of its modules was found.
    listed: bool,
}

impl Kernel {
    fn read() -> Self {
        let uname = rustix::system::uname();
        let release = uname.release().to_string_lossy().into_owned();
        let modules = Path::new("/lib/modules").join(&release);
        let mut kernel = Self::default();
        for name in ["modules.builtin", "modules.dep"] {
            let Ok(text) = std::fs::read_to_string(modules.join(name)) else { continue };
            kernel.listed = true;
            kernel.names.extend(text.lines().filter_map(module_name));
        }
        let loaded = std::fs::read_to_string("/proc/modules").unwrap_or_default();
        kernel.names.extend(loaded.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned));
        let mounted = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
        kernel.names.extend(mounted.split_whitespace().map(str::to_owned));
        kernel.config = std::fs::read_to_string(format!("/boot/config-{release}")).ok().or_else(running_config);
        kernel
    }

    /// Whether a module is there, built in or to be loaded.
    fn has(&self, module: &str, option: &str) -> Result<String, Grade> {
        if self.names.contains(module) {
            return Ok(String::new());
        }
        let configured = |text: &String| ["y", "m"].iter().any(|value| text.contains(&format!("\n{option}={value}\n")));
        match &self.config {
            Some(config) if configured(config) => Ok(String::new()),
            Some(_) => Err(Grade::Failure),
            None if self.listed => Err(Grade::Failure),
            None => Ok("this kernel does not tell what it has".to_owned()),
        }
    }
}

/// The name of a module in a line of `modules.builtin` or `modules.dep`.
fn module_name(line: &str) -> Option<String> {
    let path = line.split(':').next()?;
    let file = path.rsplit('/').next()?;
    Some(file.split(".ko").next()?.replace('-', "_"))
}

/// The configuration that the kernel itself shows.
fn running_config() -> Option<String> {
    let file = std::fs::File::open("/proc/config.gz").ok()?;
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).take(MAX_CONFIG).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_found_wherever_a_kernel_names_them() {
        let names = ["kernel/fs/overlayfs/overlay.ko.xz: a.ko", "kernel/net/netfilter/nf-tables.ko"];
        let mut kernel =
            Kernel { names: names.iter().filter_map(|line| module_name(line)).collect(), listed: true, config: None };
        assert!(kernel.has("overlay", "CONFIG_OVERLAY_FS").is_ok());
        assert!(kernel.has("nf_tables", "CONFIG_NF_TABLES").is_ok());
        assert_eq!(kernel.has("vxlan", "CONFIG_VXLAN"), Err(Grade::Failure));
        kernel.config = Some("# config\nCONFIG_VXLAN=m\n# CONFIG_VETH is not set\n".to_owned());
        assert!(kernel.has("vxlan", "CONFIG_VXLAN").is_ok());
        assert_eq!(kernel.has("veth", "CONFIG_VETH"), Err(Grade::Failure));
        assert!(Kernel::default().has("veth", "CONFIG_VETH").is_ok_and(|said| !said.is_empty()), "nobody knows");
    }

    #[test]
    fn a_clock_that_was_never_set_is_named() {
        assert!(clock(UNIX_EPOCH + Duration::from_secs(86_400)).is_err());
        assert!(clock(UNIX_EPOCH + EARLIEST).is_ok());
    }

    #[tokio::test]
    async fn a_port_in_use_and_ranges_that_overlap_are_failures() -> Result<()> {
        use clap::Parser;
        let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
        let port = format!("--https-listen-port={}", taken.local_addr()?.port());
        let argv =
            ["naru", "check-config", "--bind-address=127.0.0.1", &port, "--disable-agent", "--node-ip=192.0.2.1"];
        let checked = |more: &'static str| {
            let cli = crate::cli::Cli::try_parse_from(argv.iter().copied().chain([more]))?;
            let crate::cli::Command::CheckConfig(args) = cli.command else { bail!("another command") };
            Ok(args.flags)
        };
        let failures = |found: Vec<Finding>| -> Vec<String> {
            found.into_iter().filter(|finding| finding.grade == Grade::Failure).map(|finding| finding.what).collect()
        };
        let found = failures(check(&checked("--service-cidr=10.43.0.0/16")?).await);
        assert!(found.contains(&"port of the API".to_owned()) && !found.contains(&"flags".to_owned()), "{found:?}");
        let found = failures(check(&checked("--service-cidr=10.42.0.0/16")?).await);
        assert!(found.contains(&"flags".to_owned()), "{found:?}");
        Ok(())
    }
}
