//! The command line: flag names as k3s has them, `NARU_*` for `K3S_*`.

use clap::{Args, Parser, Subcommand};
use std::net::IpAddr;
use std::path::PathBuf;

/// All of Kubernetes in one small static binary.
#[derive(Debug, Parser)]
#[command(name = "naru", version = crate::VERSION, args_override_self = true, disable_help_subcommand = true)]
pub struct Cli {
    /// What to run.
    #[command(subcommand)]
    pub command: Command,
}

/// The kinds of process and the operator's tools.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the control plane and, unless told otherwise, a node
    Server(Box<ServerArgs>),
    /// Run a node that joins a server
    Agent(Box<AgentArgs>),
    /// Control the cluster
    #[command(disable_help_flag = true)]
    Kubectl {
        /// Arguments of the client.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<std::ffi::OsString>,
    },
    /// Look after the images on this node
    #[command(subcommand)]
    Image(ImageCommand),
    /// Look after the tokens with which nodes join
    #[command(subcommand)]
    Token(TokenCommand),
    /// Look after the encryption of Secrets in the database
    #[command(subcommand)]
    SecretsEncrypt(EncryptCommand),
    /// Say what of this machine would keep a server, or with --server an agent, from working with these flags, and
    /// what to do about it
    CheckConfig(Box<CheckArgs>),
    /// Stop every pod of a server that has ended and remove its mounts, interfaces and rules
    Killall(KillallArgs),
    /// Answer HTTP requests with one line: the example workload
    Hello(crate::hello::HelloArgs),
}

/// Where a server leaves the administrator's kubeconfig unless told otherwise.
const KUBECONFIG: &str = "/etc/naru/naru.yaml";
/// Where registries are configured unless told otherwise.
const REGISTRIES: &str = "/etc/naru/registries.yaml";

/// Where credential providers are configured unless told otherwise.
pub(crate) const CREDENTIAL_PROVIDERS: &str = "/var/lib/naru/credentialprovider/config.yaml";

/// Where a server keeps everything.
#[derive(Debug, Clone, Args)]
pub struct DataDir {
    /// Folder to hold state
    #[arg(long, short = 'd', env = "NARU_DATA_DIR", default_value = "/var/lib/naru")]
    pub data_dir: PathBuf,
}

/// Flags of `naru server`.
#[derive(Debug, Clone, Args)]
pub struct ServerArgs {
    /// Where state is kept.
    #[command(flatten)]
    pub data: DataDir,

    /// Load flags from FILE (YAML; the keys are the names of the flags)
    #[arg(long, short = 'c', env = "NARU_CONFIG_FILE", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Log more
    #[arg(long, env = "NARU_DEBUG")]
    pub debug: bool,

    /// Address the API server listens on
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: IpAddr,

    /// Port the API server listens on
    #[arg(long, default_value_t = 6443, value_parser = clap::value_parser!(u16).range(1..))]
    pub https_listen_port: u16,

    /// Address that others reach this server at [default: the node's address]
    #[arg(long)]
    pub advertise_address: Option<IpAddr>,

    /// Further host names or addresses in the server's certificate
    #[arg(long, value_delimiter = ',')]
    pub tls_san: Vec<String>,

    /// Addresses of pods: one range, or one of each family with a comma between them
    #[arg(long, default_value = "10.42.0.0/16")]
    pub cluster_cidr: String,

    /// Addresses of services: one range, or one of each family with a comma between them
    #[arg(long, default_value = "10.43.0.0/16")]
    pub service_cidr: String,

    /// Ports that NodePort services may have
    #[arg(long, default_value = "30000-32767")]
    pub service_node_port_range: String,

    /// Address of the cluster's DNS, or one of each family [default: the tenth of the service addresses]
    #[arg(long, value_delimiter = ',')]
    pub cluster_dns: Vec<IpAddr>,

    /// Domain of the cluster's DNS
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,

    /// Secret with which others join this cluster [default: made on the first start]
    #[arg(long, short = 't', env = "NARU_TOKEN", hide_env_values = true)]
    pub token: Option<String>,

    /// File holding that secret
    #[arg(long, env = "NARU_TOKEN_FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,

    /// Secret with which agents, and nobody else, join this cluster [default: the same as --token]
    #[arg(long, env = "NARU_AGENT_TOKEN", hide_env_values = true)]
    pub agent_token: Option<String>,

    /// File holding that secret
    #[arg(long, env = "NARU_AGENT_TOKEN_FILE", conflicts_with = "agent_token", value_name = "FILE")]
    pub agent_token_file: Option<PathBuf>,

    /// Write the administrator's kubeconfig to FILE
    #[arg(
        long,
        short = 'o',
        env = "NARU_KUBECONFIG_OUTPUT",
        default_value = KUBECONFIG,
        value_name = "FILE"
    )]
    pub write_kubeconfig: PathBuf,

    /// Permissions of that file
    #[arg(long, env = "NARU_KUBECONFIG_MODE", default_value = "0600", value_parser = parse_mode)]
    pub write_kubeconfig_mode: Mode,

    /// How long old revisions are kept for watches and lists, such as 5m or 90s; 0 keeps them until there are too many
    #[arg(long, alias = "etcd-compaction-interval", default_value = "5m", value_parser = parse_duration, value_name = "DURATION")]
    pub compaction_interval: std::time::Duration,

    /// Set a flag of upstream's API server, such as anonymous-auth=false; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    pub kube_apiserver_arg: Vec<String>,

    /// Encrypt Secrets in the database, with a key that is made on the first start
    #[arg(long)]
    pub secrets_encryption: bool,

    /// How they are encrypted
    #[arg(long, value_enum, default_value = "aescbc")]
    pub secrets_encryption_provider: EncryptionProvider,

    /// How large the database may become; beyond it only deletes work
    #[arg(long, default_value_t = 8 << 30, value_parser = clap::value_parser!(u64).range(1 << 20..), value_name = "BYTES")]
    pub quota_backend_bytes: u64,

    /// How long certificates of servers and nodes are good for, such as 8760h; they are renewed while naru runs
    #[arg(long, default_value = "8760h", value_parser = parse_duration, value_name = "DURATION")]
    pub certificate_lifetime: std::time::Duration,

    /// How pods of different nodes reach one another: vxlan, host-gw, or none for a network of your own
    #[arg(long, default_value = "vxlan", value_name = "BACKEND")]
    pub flannel_backend: naru_network::overlay::Backend,

    /// Give packets of pods that leave the cluster the node's address of IPv6 [default: only if the pods' range is
    /// private]
    #[arg(long)]
    pub flannel_ipv6_masq: bool,

    /// Do not run pods on this machine
    #[arg(long)]
    pub disable_agent: bool,

    /// Add N nodes without containers, whose pods turn Ready by rule: for tests at scale
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u32).range(..=10_000))]
    pub simulated_nodes: u32,

    /// The node's flags.
    #[command(flatten)]
    pub node: NodeArgs,
}

/// Flags of `naru check-config`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The server's, or the agent's.
    #[command(flatten)]
    pub flags: ServerArgs,

    /// The server that an agent is to join, https://HOST:6443
    #[arg(long, short = 's', env = "NARU_URL")]
    pub server: Option<String>,
}

/// Flags of `naru agent`.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// Where state is kept.
    #[command(flatten)]
    pub data: DataDir,

    /// The server to join, https://HOST:6443
    #[arg(long, short = 's', env = "NARU_URL")]
    pub server: String,

    /// The cluster's token, as in server/token on the server; needed the first time
    #[arg(long, short = 't', env = "NARU_TOKEN", hide_env_values = true)]
    pub token: Option<String>,

    /// File holding that token
    #[arg(long, env = "NARU_TOKEN_FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,

    /// Load flags from FILE (YAML; the keys are the names of the flags)
    #[arg(long, short = 'c', env = "NARU_CONFIG_FILE", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Log more
    #[arg(long, env = "NARU_DEBUG")]
    pub debug: bool,

    /// The node's flags.
    #[command(flatten)]
    pub node: NodeArgs,
}

/// Flags of the node agent.
#[derive(Debug, Clone, Args)]
pub struct NodeArgs {
    /// Name of this node [default: the host name]
    #[arg(long, env = "NARU_NODE_NAME")]
    pub node_name: Option<String>,

    /// Address of this node, or one of each family [default: those towards the default routes]
    #[arg(long, short = 'i', value_delimiter = ',')]
    pub node_ip: Vec<IpAddr>,

    /// Labels the node registers with, KEY=VALUE
    #[arg(long, value_delimiter = ',', value_name = "KEY=VALUE")]
    pub node_label: Vec<String>,

    /// Taints the node registers with, KEY=VALUE:EFFECT
    #[arg(long, value_delimiter = ',', value_name = "KEY=VALUE:EFFECT")]
    pub node_taint: Vec<String>,

    /// A flag of the kubelet: allowed-unsafe-sysctls, container-log-max-size, container-log-max-files,
    /// pod-manifest-path or pod-max-pids, FLAG=VALUE
    #[arg(long, value_name = "FLAG=VALUE")]
    pub kubelet_arg: Vec<String>,

    /// Cgroup under which all pods' cgroups are placed
    #[arg(long, value_name = "PATH")]
    pub cgroup_root: Option<String>,

    /// Another OCI runtime that RuntimeClasses may name as their handler, beside those that are found
    /// (crun, nvidia, runc, runsc, youki), NAME=PATH
    #[arg(long, value_name = "NAME=PATH")]
    pub runtime_handler: Vec<String>,

    /// File with mirrors, passwords and certificates of registries, in the format of k3s
    #[arg(long, env = "NARU_PRIVATE_REGISTRY", default_value = REGISTRIES, value_name = "FILE")]
    pub private_registry: PathBuf,

    /// Configuration of the programs that know passwords of registries, a file or a directory of them
    #[arg(long, default_value = CREDENTIAL_PROVIDERS, value_name = "PATH")]
    pub image_credential_provider_config: PathBuf,

    /// Where those programs are
    #[arg(long, default_value = "/var/lib/naru/credentialprovider/bin", value_name = "DIR")]
    pub image_credential_provider_bin_dir: PathBuf,

    /// Pull images of registries that have mirrors in that file from the mirrors only
    #[arg(long)]
    pub disable_default_registry_endpoint: bool,

    /// File naming the DNS servers that answer for names outside the cluster
    #[arg(long, env = "NARU_RESOLV_CONF", default_value = "/etc/resolv.conf", value_name = "FILE")]
    pub resolv_conf: PathBuf,
}

/// Permission bits given in octal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode(pub u32);

fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    naru_api::meta::duration::parse(text).ok_or_else(|| format!("{text:?} is not a duration such as 5m or 90s"))
}

fn parse_mode(text: &str) -> Result<Mode, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(Mode(mode)),
        _ => Err("permissions are three octal digits, such as 644".to_string()),
    }
}

/// How Secrets are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum EncryptionProvider {
    /// AES in CBC mode.
    Aescbc,
    /// AES in GCM mode; its key must be rotated before a few thousand million writes.
    Aesgcm,
    /// XSalsa20 and Poly1305.
    Secretbox,
}

impl EncryptionProvider {
    /// The provider's field in the configuration.
    pub(crate) fn field(self) -> &'static str {
        match self {
            Self::Aescbc => "aescbc",
            Self::Aesgcm => "aesgcm",
            Self::Secretbox => "secretbox",
        }
    }

    /// The name of its first key.
    pub(crate) fn key_name(self) -> &'static str {
        match self {
            Self::Aescbc => "aescbckey",
            Self::Aesgcm => "aesgcmkey",
            Self::Secretbox => "secretboxkey",
        }
    }
}

/// How the operator's commands reach the server.
#[derive(Debug, Args)]
pub struct Access {
    /// Where the server keeps its state
    #[command(flatten)]
    pub data: DataDir,

    /// Kubeconfig of an administrator
    #[arg(long, env = "KUBECONFIG", default_value = KUBECONFIG, value_name = "FILE")]
    pub kubeconfig: PathBuf,
}

/// How a list is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OutputFormat {
    /// Columns.
    Text,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// `naru token ...`
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token with which nodes may join for a while
    Create {
        /// How to reach the server.
        #[command(flatten)]
        access: Access,
        /// The token, as of `naru token generate` [default: a new one]
        token: Option<String>,
        /// What it is for
        #[arg(long, default_value = "")]
        description: String,
        /// Groups of those who show it
        #[arg(long, value_delimiter = ',', default_value = "system:bootstrappers:naru:default-node-token")]
        groups: Vec<String>,
        /// How long it is good for, such as 24h or 90s; 0 is for ever
        #[arg(long, default_value = "24h", value_parser = parse_duration, value_name = "DURATION")]
        ttl: std::time::Duration,
        /// What it may be used for: authentication, signing
        #[arg(long, value_delimiter = ',', default_value = "authentication,signing")]
        usages: Vec<String>,
    },
    /// List the tokens: in columns by their ids, as JSON and YAML with their secrets
    List {
        /// How to reach the server.
        #[command(flatten)]
        access: Access,
        /// How they are printed
        #[arg(long, short = 'o', value_enum, default_value = "text")]
        output: OutputFormat,
    },
    /// Delete tokens; nodes that have joined stay
    Delete {
        /// How to reach the server.
        #[command(flatten)]
        access: Access,
        /// The tokens, or their ids
        #[arg(required = true, value_name = "TOKEN")]
        tokens: Vec<String>,
    },
    /// Print a new token without making it known to the server
    Generate {
        /// How to reach the server, which is not asked.
        #[command(flatten)]
        access: Access,
    },
    /// Give the cluster another token of its own
    Rotate {
        /// Where state is kept.
        #[command(flatten)]
        data: DataDir,
        /// The present token, to be compared
        #[arg(long, short = 't', env = "NARU_TOKEN", hide_env_values = true)]
        token: Option<String>,
        /// The token from now on [default: a new one]
        #[arg(long)]
        new_token: Option<String>,
    },
}

/// `naru secrets-encrypt ...`
#[derive(Debug, Subcommand)]
pub enum EncryptCommand {
    /// Show whether Secrets are encrypted, and with which key
    Status {
        /// Where state is kept.
        #[command(flatten)]
        data: DataDir,
    },
    /// Encrypt Secrets again
    Enable {
        /// Where state is kept.
        #[command(flatten)]
        data: DataDir,
    },
    /// Write Secrets plain, and still read those that are encrypted
    Disable {
        /// Where state is kept.
        #[command(flatten)]
        data: DataDir,
    },
    /// Add a new key, with which Secrets can be read but are not encrypted yet
    Prepare {
        /// Where state is kept.
        #[command(flatten)]
        data: DataDir,
    },
    /// Encrypt Secrets with the key that was prepared
    Rotate {
        /// Where state is kept.
        #[command(flatten)]
        data: DataDir,
    },
    /// Look again at all that is stored, and encrypt what is not as configured; older keys stay, for backups
    Reencrypt {
        /// Where state is kept.
        #[command(flatten)]
        data: DataDir,
    },
    /// Encrypt Secrets with a new key: prepare, rotate and reencrypt in one
    RotateKeys {
        /// Where state is kept.
        #[command(flatten)]
        data: DataDir,
        /// How they are encrypted from now on, if not as before
        #[arg(long)]
        provider: Option<EncryptionProvider>,
    },
}

/// `naru image ...`
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Import the images of an archive (docker-archive or OCI layout; plain, gzip or zstd)
    Import {
        /// Where state is kept.
        #[command(flatten)]
        data: DataDir,
        /// The archives
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Pull images
    Pull {
        /// Where state is kept.
        #[command(flatten)]
        data: DataDir,
        /// File with mirrors, passwords and certificates of registries, in the format of k3s
        #[arg(long, env = "NARU_PRIVATE_REGISTRY", default_value = REGISTRIES, value_name = "FILE")]
        private_registry: PathBuf,
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Write images to an archive that docker, skopeo, ctr and naru read
    Export {
        /// Where state is kept.
        #[command(flatten)]
        data: DataDir,
        /// The archive; - for standard output
        #[arg(long, short = 'o', value_name = "FILE")]
        output: PathBuf,
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// List the images
    Ls {
        /// Where state is kept.
        #[command(flatten)]
        data: DataDir,
    },
    /// Remove images
    Rm {
        /// Where state is kept.
        #[command(flatten)]
        data: DataDir,
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

/// Flags of `naru killall`.
#[derive(Debug, Args)]
pub struct KillallArgs {
    /// Where state is kept.
    #[command(flatten)]
    pub data: DataDir,

    /// Cgroup under which the server had been told to place the pods' cgroups
    #[arg(long, value_name = "PATH")]
    pub cgroup_root: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_later_flag_overrides_an_earlier_one() {
        let cli = Cli::try_parse_from(["naru", "server", "--node-name=a", "--node-name=b"]).expect("valid flags");
        let Command::Server(args) = cli.command else { panic!("not a server") };
        assert_eq!(args.node.node_name.as_deref(), Some("b"));
        assert_eq!(args.write_kubeconfig_mode, Mode(0o600));
    }
}
