//! Commands and flags, named as in upstream's kubectl.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Controls a Kubernetes cluster.
#[derive(Debug, Parser)]
#[command(name = "kubectl", disable_version_flag = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where the cluster is and what part of it is meant.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Path to the kubeconfig file
    #[arg(long, global = true, env = "KUBECONFIG", value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig file to use
    #[arg(long, global = true)]
    pub(crate) context: Option<String>,
    /// Namespace; the context's, else `default`, unless given
    #[arg(long, short, global = true)]
    pub(crate) namespace: Option<String>,
    /// Address of the API server, instead of the kubeconfig's
    #[arg(long, short, global = true, value_name = "URL")]
    pub(crate) server: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Display one or many resources
    Get(GetArgs),
    /// Apply a configuration to resources by file name or stdin
    Apply(ApplyArgs),
    /// Create resources from files, or a namespace
    Create(CreateArgs),
    /// Delete resources by file names, stdin, names or label selector
    Delete(DeleteArgs),
    /// Print the logs of a container in a pod
    #[command(alias = "log")]
    Logs(LogsArgs),
    /// Print the client's and the server's version
    Version(VersionArgs),
}

/// Files that hold objects.
#[derive(Debug, Args)]
pub(crate) struct Files {
    /// File or directory with objects (YAML or JSON); `-` for stdin
    #[arg(long = "filename", short = 'f', value_name = "FILE")]
    pub(crate) filename: Vec<PathBuf>,
    /// Descend into directories
    #[arg(long, short = 'R')]
    pub(crate) recursive: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Wide,
    Yaml,
    Json,
    Name,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// `TYPE [NAME..]`, `TYPE1,TYPE2` or `TYPE/NAME..`
    #[arg(required = true, value_name = "TYPE[/NAME]")]
    pub(crate) targets: Vec<String>,
    /// Output format
    #[arg(long, short)]
    pub(crate) output: Option<Output>,
    /// All namespaces
    #[arg(long, short = 'A')]
    pub(crate) all_namespaces: bool,
    /// Label selector
    #[arg(long, short = 'l', default_value = "")]
    pub(crate) selector: String,
    /// Field selector
    #[arg(long, default_value = "")]
    pub(crate) field_selector: String,
    /// Leave out the headings
    #[arg(long)]
    pub(crate) no_headers: bool,
    /// Show labels as the last column
    #[arg(long)]
    pub(crate) show_labels: bool,
    /// Succeed when a named object does not exist
    #[arg(long)]
    pub(crate) ignore_not_found: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    #[command(flatten)]
    pub(crate) files: Files,
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    pub(crate) files: Files,
    /// `namespace NAME`
    pub(crate) what: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// `TYPE NAME..`, `TYPE/NAME..`, or `TYPE` with -l or --all
    #[arg(value_name = "TYPE[/NAME]")]
    pub(crate) targets: Vec<String>,
    #[command(flatten)]
    pub(crate) files: Files,
    /// Label selector
    #[arg(long, short = 'l', default_value = "")]
    pub(crate) selector: String,
    /// All objects of the types
    #[arg(long)]
    pub(crate) all: bool,
    /// Seconds given to end gracefully
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) grace_period: Option<i64>,
    /// With --grace-period=0: remove from the API at once
    #[arg(long)]
    pub(crate) force: bool,
    /// The same as --grace-period=1
    #[arg(long)]
    pub(crate) now: bool,
    /// Wait until the objects are gone
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(crate) wait: bool,
    /// What becomes of dependents: background, foreground or orphan
    #[arg(long, default_value = "background")]
    pub(crate) cascade: Cascade,
    /// Succeed when an object does not exist
    #[arg(long)]
    pub(crate) ignore_not_found: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Cascade {
    Background,
    Foreground,
    Orphan,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// `POD` or `TYPE/NAME`, optionally followed by the container
    #[arg(required = true, num_args = 1..=2, value_name = "POD | TYPE/NAME")]
    pub(crate) target: Vec<String>,
    /// Container
    #[arg(long, short)]
    pub(crate) container: Option<String>,
    /// Follow
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Of the container's previous run
    #[arg(long, short)]
    pub(crate) previous: bool,
    /// Only the last lines
    #[arg(long, allow_negative_numbers = true, default_value_t = -1)]
    pub(crate) tail: i64,
    /// With time stamps
    #[arg(long)]
    pub(crate) timestamps: bool,
    /// Only the last seconds
    #[arg(long, value_name = "SECONDS")]
    pub(crate) since_seconds: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct VersionArgs {
    /// Only the client's version
    #[arg(long)]
    pub(crate) client: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn flags_are_consistent() {
        Cli::command().debug_assert();
    }
}
