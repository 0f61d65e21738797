//! Flags of the verbs for containers.

use clap::{ArgAction, Args};

use crate::cli::create::ContainerFlags;
use crate::types::boolean;

/// `moss run`
#[derive(Debug, Args)]
#[command(override_usage = "moss run [OPTIONS] IMAGE [COMMAND] [ARG...]")]
pub struct Run {
    /// Run container in background and print container ID
    #[arg(short, long)]
    pub detach: bool,
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "string", default_value = "")]
    pub detach_keys: String,
    /// Proxy received signals to the process
    #[arg(long, value_name = "bool", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value = "true", value_parser = boolean::parse)]
    pub sig_proxy: bool,
    /// What the container is to be
    #[command(flatten)]
    pub container: ContainerFlags,
}

/// Names of containers.
#[derive(Debug, Args)]
pub struct Names {
    /// Containers
    #[arg(required = true, value_name = "CONTAINER")]
    pub names: Vec<String>,
}

/// `moss start`
#[derive(Debug, Args)]
pub struct Start {
    /// Attach STDOUT/STDERR and forward signals
    #[arg(short, long)]
    pub attach: bool,
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "string", default_value = "")]
    pub detach_keys: String,
    /// Attach container's STDIN
    #[arg(short, long)]
    pub interactive: bool,
    /// Containers
    #[arg(required = true, value_name = "CONTAINER")]
    pub names: Vec<String>,
}

/// `moss stop`, `moss restart`
#[derive(Debug, Args)]
pub struct Stop {
    /// Signal to send to the container
    #[arg(short, long, value_name = "string")]
    pub signal: Option<String>,
    /// Seconds to wait before killing the container
    #[arg(short, long, alias = "time", value_name = "int")]
    pub timeout: Option<i64>,
    /// Containers
    #[arg(required = true, value_name = "CONTAINER")]
    pub names: Vec<String>,
}

/// `moss kill`
#[derive(Debug, Args)]
pub struct Kill {
    /// Signal to send to the container
    #[arg(short, long, value_name = "string")]
    pub signal: Option<String>,
    /// Containers
    #[arg(required = true, value_name = "CONTAINER")]
    pub names: Vec<String>,
}

/// `moss stats`
#[derive(Debug, Args)]
pub struct Stats {
    /// Show all containers (default shows just running)
    #[arg(short, long)]
    pub all: bool,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json' or TEMPLATE
    #[arg(long, value_name = "string")]
    pub format: Option<String>,
    /// Disable streaming stats and only pull the first result
    #[arg(long)]
    pub no_stream: bool,
    /// Do not truncate output
    #[arg(long)]
    pub no_trunc: bool,
    /// Containers
    #[arg(value_name = "CONTAINER")]
    pub names: Vec<String>,
}

/// `moss cp`
#[derive(Debug, Args)]
#[command(
    override_usage = "moss cp [OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n       \
    moss cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH"
)]
pub struct Cp {
    /// Archive mode (copy all uid/gid information)
    #[arg(short, long)]
    pub archive: bool,
    /// Always follow symbol link in SRC_PATH
    #[arg(short = 'L', long)]
    pub follow_link: bool,
    /// Suppress progress output during copy
    #[arg(short, long)]
    pub quiet: bool,
    /// From where
    #[arg(value_name = "SOURCE", allow_hyphen_values = true)]
    pub source: String,
    /// To where
    #[arg(value_name = "DESTINATION", allow_hyphen_values = true)]
    pub destination: String,
}

/// `moss diff`
#[derive(Debug, Args)]
pub struct Diff {
    /// The container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

/// `moss export`
#[derive(Debug, Args)]
pub struct Export {
    /// Write to a file, instead of STDOUT
    #[arg(short, long, value_name = "string")]
    pub output: Option<std::path::PathBuf>,
    /// The container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

/// `moss commit`
#[derive(Debug, Args)]
pub struct Commit {
    /// Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")
    #[arg(short, long, value_name = "string", default_value = "")]
    pub author: String,
    /// Apply Dockerfile instruction to the created image
    #[arg(short, long, value_name = "list")]
    pub change: Vec<String>,
    /// Commit message
    #[arg(short, long, value_name = "string", default_value = "")]
    pub message: String,
    /// Pause container during commit
    #[arg(short, long, value_name = "bool", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value = "true", value_parser = boolean::parse)]
    pub pause: bool,
    /// Disable container pause during commit
    #[arg(long)]
    pub no_pause: bool,
    /// The container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// Name of the image
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub name: Option<String>,
}

/// `moss update`
#[derive(Debug, Args)]
pub struct Update {
    /// Block IO (relative weight), between 10 and 1000, or 0 to disable (default 0)
    #[arg(long, value_name = "uint16")]
    pub blkio_weight: Option<u16>,
    /// Limit CPU CFS (Completely Fair Scheduler) period
    #[arg(long, value_name = "int")]
    pub cpu_period: Option<i64>,
    /// Limit CPU CFS (Completely Fair Scheduler) quota
    #[arg(long, value_name = "int")]
    pub cpu_quota: Option<i64>,
    /// Limit the CPU real-time period in microseconds
    #[arg(long, value_name = "int")]
    pub cpu_rt_period: Option<i64>,
    /// Limit the CPU real-time runtime in microseconds
    #[arg(long, value_name = "int")]
    pub cpu_rt_runtime: Option<i64>,
    /// CPU shares (relative weight)
    #[arg(short, long, value_name = "int")]
    pub cpu_shares: Option<i64>,
    /// Number of CPUs
    #[arg(long, value_name = "decimal")]
    pub cpus: Option<String>,
    /// CPUs in which to allow execution (0-3, 0,1)
    #[arg(long, value_name = "string")]
    pub cpuset_cpus: Option<String>,
    /// MEMs in which to allow execution (0-3, 0,1)
    #[arg(long, value_name = "string")]
    pub cpuset_mems: Option<String>,
    /// Memory limit
    #[arg(short, long, value_name = "bytes")]
    pub memory: Option<String>,
    /// Memory soft limit
    #[arg(long, value_name = "bytes")]
    pub memory_reservation: Option<String>,
    /// Swap limit equal to memory plus swap: '-1' to enable unlimited swap
    #[arg(long, value_name = "bytes")]
    pub memory_swap: Option<String>,
    /// Tune container pids limit (set -1 for unlimited)
    #[arg(long, value_name = "int")]
    pub pids_limit: Option<i64>,
    /// Restart policy to apply when a container exits
    #[arg(long, value_name = "string")]
    pub restart: Option<String>,
    /// Containers
    #[arg(required = true, value_name = "CONTAINER")]
    pub names: Vec<String>,
}

/// `moss rm`
#[derive(Debug, Args)]
pub struct Rm {
    /// Force the removal of a running container (uses SIGKILL)
    #[arg(short, long)]
    pub force: bool,
    /// Remove the specified link
    #[arg(short, long)]
    pub link: bool,
    /// Remove anonymous volumes associated with the container
    #[arg(short, long)]
    pub volumes: bool,
    /// Containers
    #[arg(required = true, value_name = "CONTAINER")]
    pub names: Vec<String>,
}

/// `moss rename`
#[derive(Debug, Args)]
pub struct Rename {
    /// The container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// Its new name
    #[arg(value_name = "NEW_NAME")]
    pub name: String,
}

/// How a list is printed.
#[derive(Debug, Default, Args)]
pub struct Listing {
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json' or TEMPLATE
    #[arg(long, value_name = "string")]
    pub format: Option<String>,
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "filter")]
    pub filter: Vec<String>,
    /// Don't truncate output
    #[arg(long)]
    pub no_trunc: bool,
    /// Only display IDs
    #[arg(short, long)]
    pub quiet: bool,
}

/// `moss ps`
#[derive(Debug, Args)]
pub struct Ps {
    /// Show all containers (default shows just running)
    #[arg(short, long)]
    pub all: bool,
    /// Show n last created containers (includes all states)
    #[arg(short = 'n', long, value_name = "int")]
    pub last: Option<i64>,
    /// Show the latest created container (includes all states)
    #[arg(short, long)]
    pub latest: bool,
    /// Display total file sizes
    #[arg(short, long)]
    pub size: bool,
    /// How it is printed
    #[command(flatten)]
    pub listing: Listing,
}

/// `moss logs`
#[derive(Debug, Args)]
pub struct Logs {
    /// Show extra details provided to logs
    #[arg(long)]
    pub details: bool,
    /// Follow log output
    #[arg(short, long)]
    pub follow: bool,
    /// Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m")
    #[arg(long, value_name = "string", default_value = "")]
    pub since: String,
    /// Number of lines to show from the end of the logs
    #[arg(short = 'n', long, value_name = "string", default_value = "all")]
    pub tail: String,
    /// Show timestamps
    #[arg(short, long)]
    pub timestamps: bool,
    /// Show logs before a timestamp or relative time
    #[arg(long, value_name = "string", default_value = "")]
    pub until: String,
    /// The container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

/// `moss exec`
#[derive(Debug, Args)]
#[command(override_usage = "moss exec [OPTIONS] CONTAINER COMMAND [ARG...]")]
pub struct Exec {
    /// Detached mode: run command in the background
    #[arg(short, long)]
    pub detach: bool,
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "string", default_value = "")]
    pub detach_keys: String,
    /// Set environment variables
    #[arg(short, long, value_name = "list")]
    pub env: Vec<String>,
    /// Read in a file of environment variables
    #[arg(long, value_name = "list")]
    pub env_file: Vec<String>,
    /// Keep STDIN open even if not attached
    #[arg(short, long)]
    pub interactive: bool,
    /// Give extended privileges to the command
    #[arg(long)]
    pub privileged: bool,
    /// Allocate a pseudo-TTY
    #[arg(short, long)]
    pub tty: bool,
    /// Username or UID (format: <name|uid>[:<group|gid>])
    #[arg(short, long, value_name = "string", default_value = "")]
    pub user: String,
    /// Working directory inside the container
    #[arg(short, long, value_name = "string", default_value = "")]
    pub workdir: String,
    /// The container, and what to run in it
    #[arg(required = true, num_args = 2.., trailing_var_arg = true, value_names = ["CONTAINER", "COMMAND"], hide = true)]
    pub words: Vec<String>,
}

/// `moss attach`
#[derive(Debug, Args)]
pub struct Attach {
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "string", default_value = "")]
    pub detach_keys: String,
    /// Do not attach STDIN
    #[arg(long)]
    pub no_stdin: bool,
    /// Proxy all received signals to the process
    #[arg(long, value_name = "bool", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value = "true", value_parser = boolean::parse)]
    pub sig_proxy: bool,
    /// The container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

/// `moss port`
#[derive(Debug, Args)]
pub struct Port {
    /// The container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// Only this port
    #[arg(value_name = "PRIVATE_PORT[/PROTO]")]
    pub port: Option<String>,
}

/// `moss inspect`
#[derive(Debug, Args)]
pub struct Inspect {
    /// Format output using a custom template: 'json' or TEMPLATE
    #[arg(short, long, value_name = "string")]
    pub format: Option<String>,
    /// Display total file sizes if the type is container
    #[arg(short, long)]
    pub size: bool,
    /// Only inspect objects of the given type
    #[arg(long = "type", value_name = "string")]
    pub kind: Option<String>,
    /// Of an image with several: of this platform
    #[arg(skip)]
    pub platform: String,
    /// Names or ids
    #[arg(required = true, value_name = "NAME|ID")]
    pub names: Vec<String>,
}

/// `moss top`
#[derive(Debug, Args)]
#[command(override_usage = "moss top CONTAINER [ps OPTIONS]")]
pub struct Top {
    /// The container, and options of ps
    #[arg(required = true, trailing_var_arg = true, value_names = ["CONTAINER", "OPTIONS"], hide = true)]
    pub words: Vec<String>,
}
