//! The command line: one definition from which parsing and help come (and completions can).
//!
//! Verbs and flags are docker's. What clap does otherwise is bent here: truth values may be spelled
//! out (`--rm=false`), given twice, and errors are said in docker's words.

use std::fmt;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Args, Command, CommandFactory, FromArgMatches, Parser, Subcommand};

use super::create::ContainerFlags;
use super::error::ENGINE_FAILED;

/// Runs Docker and OCI images for people who have no root
#[derive(Debug, Parser)]
#[command(name = "moss", disable_help_flag = true, disable_version_flag = true)]
struct CommandLine {
    /// Engine socket to connect to (unix:///PATH)
    #[arg(short = 'H', long, value_name = "string")]
    host: Option<String>,
    /// Print usage
    #[arg(long, global = true, action = ArgAction::Help)]
    help: Option<bool>,
    /// Print version information and quit
    #[arg(short, long, action = ArgAction::Version)]
    version: Option<bool>,
    #[command(subcommand)]
    verb: Verb,
}

/// What was typed.
#[derive(Debug)]
pub struct Parsed {
    /// `-H`.
    pub host: Option<String>,
    /// The verb.
    pub verb: Verb,
}

/// What a person can ask for.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Verb {
    /// Create and run a new container from an image
    Run(Box<Run>),
    /// Create a new container
    Create(Box<ContainerFlags>),
    /// Start one or more stopped containers
    Start(Start),
    /// Stop one or more running containers
    Stop(Stop),
    /// Restart one or more containers
    Restart(Stop),
    /// Kill one or more running containers
    Kill(Kill),
    /// Remove one or more containers
    Rm(Rm),
    /// Rename a container
    Rename(Rename),
    /// List containers
    Ps(Ps),
    /// Fetch the logs of a container
    Logs(Logs),
    /// Execute a command in a running container
    Exec(Exec),
    /// Attach local standard input, output, and error streams to a running container
    Attach(Attach),
    /// Block until one or more containers stop, then print their exit codes
    Wait(Names),
    /// Return low-level information on moss objects
    Inspect(Inspect),
    /// Display the running processes of a container
    Top(Top),
    /// List images
    Images(Images),
    /// Download an image from a registry
    Pull(Pull),
    /// Load an image from a tar archive or STDIN
    Load(Load),
    /// Save one or more images to a tar archive (streamed to STDOUT by default)
    Save(Save),
    /// Import the contents from a tarball to create a filesystem image
    Import(Import),
    /// Remove one or more images
    Rmi(Rmi),
    /// Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE
    Tag(Tag),
    /// Show the history of an image
    History(History),
    /// Display system-wide information
    Info(Info),
    /// Show the moss version information
    Version(Version),
    /// Get real time events from the engine
    Events(Events),
    /// Manage containers
    #[command(subcommand)]
    Container(ContainerGroup),
    /// Manage images
    #[command(subcommand)]
    Image(ImageGroup),
    /// Manage volumes
    #[command(subcommand)]
    Volume(VolumeGroup),
    /// Manage networks
    #[command(subcommand)]
    Network(NetworkGroup),
    /// Manage moss
    #[command(subcommand)]
    System(SystemGroup),
    /// Run the daemon
    Daemon(Daemon),
    /// Say what this host allows, and what to do about the rest
    Doctor(Roots),
}

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
        default_missing_value = "true", default_value = "true", value_parser = truth)]
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
    #[arg(
        short,
        long,
        alias = "time",
        value_name = "int",
        allow_negative_numbers = true
    )]
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
    #[arg(short = 'n', long, value_name = "int", allow_negative_numbers = true)]
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
    #[arg(
        short = 'n',
        long,
        value_name = "string",
        default_value = "all",
        allow_hyphen_values = true
    )]
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
        default_missing_value = "true", default_value = "true", value_parser = truth)]
    pub sig_proxy: bool,
    /// The container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
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

/// `moss images`
#[derive(Debug, Args)]
pub struct Images {
    /// Show all images (default hides intermediate images)
    #[arg(short, long)]
    pub all: bool,
    /// Show digests
    #[arg(long)]
    pub digests: bool,
    /// How it is printed
    #[command(flatten)]
    pub listing: Listing,
    /// Only those of this name
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub name: Option<String>,
}

/// `moss pull`
#[derive(Debug, Args)]
pub struct Pull {
    /// Download all tagged images in the repository
    #[arg(short, long)]
    pub all_tags: bool,
    /// Set platform if server is multi-platform capable
    #[arg(long, value_name = "string", default_value = "")]
    pub platform: String,
    /// Suppress verbose output
    #[arg(short, long)]
    pub quiet: bool,
    /// The image
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    pub name: String,
}

/// `moss load`
#[derive(Debug, Args)]
pub struct Load {
    /// Read from tar archive file, instead of STDIN
    #[arg(short, long, value_name = "string")]
    pub input: Option<String>,
    /// Load only the given platform(s)
    #[arg(long, value_name = "string", default_value = "")]
    pub platform: String,
    /// Suppress the load output
    #[arg(short, long)]
    pub quiet: bool,
}

/// `moss save`
#[derive(Debug, Args)]
pub struct Save {
    /// Write to a file, instead of STDOUT
    #[arg(short, long, value_name = "string")]
    pub output: Option<String>,
    /// Images
    #[arg(required = true, value_name = "IMAGE")]
    pub names: Vec<String>,
}

/// `moss import`
#[derive(Debug, Args)]
pub struct Import {
    /// Apply Dockerfile instruction to the created image
    #[arg(short, long, value_name = "list")]
    pub change: Vec<String>,
    /// Set commit message for imported image
    #[arg(short, long, value_name = "string", default_value = "")]
    pub message: String,
    /// Set platform if server is multi-platform capable
    #[arg(long, value_name = "string", default_value = "")]
    pub platform: String,
    /// A file, a URL, or - for STDIN
    #[arg(value_name = "file|URL|-")]
    pub source: String,
    /// The image's name
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub name: Option<String>,
}

/// `moss rmi`
#[derive(Debug, Args)]
pub struct Rmi {
    /// Force removal of the image
    #[arg(short, long)]
    pub force: bool,
    /// Do not delete untagged parents
    #[arg(long)]
    pub no_prune: bool,
    /// Images
    #[arg(required = true, value_name = "IMAGE")]
    pub names: Vec<String>,
}

/// `moss tag`
#[derive(Debug, Args)]
pub struct Tag {
    /// The image
    #[arg(value_name = "SOURCE_IMAGE[:TAG]")]
    pub source: String,
    /// One more name
    #[arg(value_name = "TARGET_IMAGE[:TAG]")]
    pub target: String,
}

/// `moss history`
#[derive(Debug, Args)]
pub struct History {
    /// Format output using a custom template
    #[arg(long, value_name = "string")]
    pub format: Option<String>,
    /// Print sizes and dates in human readable format
    #[arg(short = 'H', long, value_name = "bool", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value = "true", value_parser = truth)]
    pub human: bool,
    /// Don't truncate output
    #[arg(long)]
    pub no_trunc: bool,
    /// Only show image IDs
    #[arg(short, long)]
    pub quiet: bool,
    /// The image
    #[arg(value_name = "IMAGE")]
    pub name: String,
}

/// `moss info`
#[derive(Debug, Args)]
pub struct Info {
    /// Format output using a custom template: 'json' or TEMPLATE
    #[arg(short, long, value_name = "string")]
    pub format: Option<String>,
    /// Print the line that points docker and other clients at this engine
    #[arg(long)]
    pub host: bool,
}

/// `moss version`
#[derive(Debug, Args)]
pub struct Version {
    /// Format output using a custom template: 'json' or TEMPLATE
    #[arg(short, long, value_name = "string")]
    pub format: Option<String>,
}

/// `moss events`
#[derive(Debug, Args)]
pub struct Events {
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "filter")]
    pub filter: Vec<String>,
    /// Format output using a custom template: 'json' or TEMPLATE
    #[arg(long, value_name = "string")]
    pub format: Option<String>,
    /// Show all events created since timestamp
    #[arg(long, value_name = "string", default_value = "")]
    pub since: String,
    /// Stream events until this timestamp
    #[arg(long, value_name = "string", default_value = "")]
    pub until: String,
}

/// What `prune` is asked.
#[derive(Debug, Args)]
pub struct Prune {
    /// Remove all that is not used, not only what is dangling or anonymous
    #[arg(short, long)]
    pub all: bool,
    /// Provide filter values
    #[arg(long, value_name = "filter")]
    pub filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    pub force: bool,
}

/// `moss container …`
#[derive(Debug, Subcommand)]
pub enum ContainerGroup {
    /// Attach local standard input, output, and error streams to a running container
    Attach(Attach),
    /// Create a new container
    Create(Box<ContainerFlags>),
    /// Execute a command in a running container
    Exec(Exec),
    /// Display detailed information on one or more containers
    Inspect(Inspect),
    /// Kill one or more running containers
    Kill(Kill),
    /// Fetch the logs of a container
    Logs(Logs),
    /// List containers
    #[command(visible_aliases = ["list", "ps"])]
    Ls(Ps),
    /// Remove all stopped containers
    Prune(Prune),
    /// Rename a container
    Rename(Rename),
    /// Restart one or more containers
    Restart(Stop),
    /// Remove one or more containers
    #[command(visible_alias = "remove")]
    Rm(Rm),
    /// Create and run a new container from an image
    Run(Box<Run>),
    /// Start one or more stopped containers
    Start(Start),
    /// Stop one or more running containers
    Stop(Stop),
    /// Display the running processes of a container
    Top(Top),
    /// Block until one or more containers stop, then print their exit codes
    Wait(Names),
}

/// `moss image …`
#[derive(Debug, Subcommand)]
pub enum ImageGroup {
    /// Show the history of an image
    History(History),
    /// Import the contents from a tarball to create a filesystem image
    Import(Import),
    /// Display detailed information on one or more images
    Inspect(Inspect),
    /// Download an image from a registry
    Pull(Pull),
    /// Load an image from a tar archive or STDIN
    Load(Load),
    /// List images
    #[command(visible_alias = "list")]
    Ls(Images),
    /// Remove unused images
    Prune(Prune),
    /// Remove one or more images
    #[command(visible_alias = "remove")]
    Rm(Rmi),
    /// Save one or more images to a tar archive (streamed to STDOUT by default)
    Save(Save),
    /// Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE
    Tag(Tag),
}

/// `moss volume …`
#[derive(Debug, Subcommand)]
pub enum VolumeGroup {
    /// Create a volume
    Create(VolumeCreate),
    /// Display detailed information on one or more volumes
    Inspect(Inspect),
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(Listing),
    /// Remove unused local volumes
    Prune(Prune),
    /// Remove one or more volumes
    #[command(visible_alias = "remove")]
    Rm(VolumeRm),
}

/// `moss volume create`
#[derive(Debug, Args)]
pub struct VolumeCreate {
    /// Specify volume driver name
    #[arg(short, long, value_name = "string", default_value = "local")]
    pub driver: String,
    /// Set metadata for a volume
    #[arg(long, value_name = "list")]
    pub label: Vec<String>,
    /// Set driver specific options
    #[arg(short, long, value_name = "map")]
    pub opt: Vec<String>,
    /// Its name
    #[arg(value_name = "VOLUME")]
    pub name: Option<String>,
}

/// `moss volume rm`
#[derive(Debug, Args)]
pub struct VolumeRm {
    /// Force the removal of one or more volumes
    #[arg(short, long)]
    pub force: bool,
    /// Volumes
    #[arg(required = true, value_name = "VOLUME")]
    pub names: Vec<String>,
}

/// `moss network …`
#[derive(Debug, Subcommand)]
pub enum NetworkGroup {
    /// Display detailed information on one or more networks
    Inspect(Inspect),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(Listing),
}

/// `moss system …`
#[derive(Debug, Subcommand)]
pub enum SystemGroup {
    /// List what was leaked: mounts, processes, namespaces, directories, half-made objects
    Check(Roots),
    /// Show disk usage
    Df(Df),
    /// Get real time events from the engine
    Events(Events),
    /// Display system-wide information
    Info(Info),
    /// End the daemon; containers go on
    Stop(SystemStop),
}

/// `moss system df`
#[derive(Debug, Args)]
pub struct Df {
    /// Format output using a custom template
    #[arg(long, value_name = "string")]
    pub format: Option<String>,
}

/// `moss system stop`
#[derive(Debug, Args)]
pub struct SystemStop {
    /// Stop every container too, and the processes that hold their namespaces
    #[arg(long)]
    pub containers: bool,
    /// Where the engine is.
    #[command(flatten)]
    pub roots: Roots,
}

/// Where an engine keeps things: as its daemon was told, by these flags or by daemon.json.
#[derive(Debug, Clone, Default, Args)]
pub struct Roots {
    /// Root directory of persistent state
    #[arg(long, value_name = "string")]
    pub data_root: Option<String>,
    /// Root directory for execution state files
    #[arg(long, value_name = "string")]
    pub exec_root: Option<String>,
    /// Daemon configuration file
    #[arg(long, value_name = "string")]
    pub config_file: Option<String>,
}

impl Roots {
    /// The same for another command line of moss.
    pub fn words(&self) -> Vec<String> {
        let flags = [
            ("--data-root", &self.data_root),
            ("--exec-root", &self.exec_root),
            ("--config-file", &self.config_file),
        ];
        let given = flags
            .iter()
            .filter_map(|(flag, value)| Some([flag.to_string(), (*value).clone()?]));
        given.flatten().collect()
    }
}

/// `moss daemon`
#[derive(Debug, Args)]
pub struct Daemon {
    /// Daemon socket(s) to listen on: unix:///PATH or fd://
    #[arg(short = 'H', long, value_name = "list")]
    pub host: Vec<String>,
    /// Path of the socket to listen on, short for -H unix://PATH
    #[arg(long, value_name = "string")]
    pub socket: Vec<String>,
    /// Where it keeps things.
    #[command(flatten)]
    pub roots: Roots,
    /// Validate daemon configuration and exit
    #[arg(long)]
    pub validate: bool,
    /// Enable debug mode
    #[arg(short = 'D', long)]
    pub debug: bool,
    /// Storage driver to use (overlay2, fuse, copy)
    #[arg(short, long, value_name = "string")]
    pub storage_driver: Option<String>,
    /// Started by a verb: leave when there is nothing to do
    #[arg(long, hide = true)]
    pub on_demand: bool,
    /// Descriptor that is told when the daemon serves
    #[arg(long, hide = true)]
    pub ready_fd: Option<i32>,
}

/// Why there is nothing to do: help was asked for, or the command line makes no sense.
#[derive(Debug)]
pub struct Refusal {
    /// What to print: to standard output where the status is 0.
    pub message: String,
    /// The exit status.
    pub status: i32,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// A truth value, as Go's `strconv.ParseBool` has it.
fn truth(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(format!("parsing {text:?}: invalid syntax")),
    }
}

/// Lets every switch take `=true` and `=false`.
fn with_truth_values(command: Command) -> Command {
    let adjust = |arg: Arg| match arg.get_action() {
        ArgAction::SetTrue => arg
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .default_value("false")
            .value_parser(truth),
        _ => arg,
    };
    command
        .args_override_self(true)
        .mut_args(adjust)
        .mut_subcommands(with_truth_values)
}

/// The definition, for parsing, help and completions.
pub fn command() -> Command {
    CommandLine::command().version(env!("CARGO_PKG_VERSION"))
}

/// Reads a command line.
///
/// # Errors
/// Help and version, where they are asked for; docker's words for what makes no sense.
pub fn parse(words: &[String]) -> Result<Parsed, Refusal> {
    let mut bent = with_truth_values(only_named(command(), words));
    let line = bent
        .try_get_matches_from_mut(words)
        .and_then(|matches| CommandLine::from_arg_matches(&matches));
    match line {
        Ok(line) => Ok(Parsed {
            host: line.host,
            verb: ungroup(line.verb),
        }),
        Err(error) => Err(refuse(&command(), words, &error)),
    }
}

/// `command` with the flags of the verbs that `words` may name, and no others: to define those of
/// every verb takes longer than to ask the daemon something.
fn only_named(command: Command, words: &[String]) -> Command {
    let mut command = command.mut_subcommands(|verb| {
        let named = |word: &String| {
            verb.get_name() == word || verb.get_all_aliases().any(|alias| alias == word)
        };
        if words.iter().any(named) {
            verb
        } else {
            verb.defer(|verb| verb)
        }
    });
    command.build();
    command
}

/// The verbs of the groups that are verbs of their own too.
fn ungroup(verb: Verb) -> Verb {
    let of = |mut inspect: Inspect, kind: &str| {
        inspect.kind = Some(kind.to_owned());
        Verb::Inspect(inspect)
    };
    match verb {
        Verb::Container(group) => match group {
            ContainerGroup::Attach(verb) => Verb::Attach(verb),
            ContainerGroup::Create(verb) => Verb::Create(verb),
            ContainerGroup::Exec(verb) => Verb::Exec(verb),
            ContainerGroup::Inspect(verb) => of(verb, "container"),
            ContainerGroup::Kill(verb) => Verb::Kill(verb),
            ContainerGroup::Logs(verb) => Verb::Logs(verb),
            ContainerGroup::Ls(verb) => Verb::Ps(verb),
            ContainerGroup::Rename(verb) => Verb::Rename(verb),
            ContainerGroup::Restart(verb) => Verb::Restart(verb),
            ContainerGroup::Rm(verb) => Verb::Rm(verb),
            ContainerGroup::Run(verb) => Verb::Run(verb),
            ContainerGroup::Start(verb) => Verb::Start(verb),
            ContainerGroup::Stop(verb) => Verb::Stop(verb),
            ContainerGroup::Top(verb) => Verb::Top(verb),
            ContainerGroup::Wait(verb) => Verb::Wait(verb),
            ContainerGroup::Prune(_) => Verb::Container(group),
        },
        Verb::Image(group) => match group {
            ImageGroup::History(verb) => Verb::History(verb),
            ImageGroup::Import(verb) => Verb::Import(verb),
            ImageGroup::Inspect(verb) => of(verb, "image"),
            ImageGroup::Pull(verb) => Verb::Pull(verb),
            ImageGroup::Load(verb) => Verb::Load(verb),
            ImageGroup::Ls(verb) => Verb::Images(verb),
            ImageGroup::Rm(verb) => Verb::Rmi(verb),
            ImageGroup::Save(verb) => Verb::Save(verb),
            ImageGroup::Tag(verb) => Verb::Tag(verb),
            ImageGroup::Prune(_) => Verb::Image(group),
        },
        Verb::Volume(VolumeGroup::Inspect(verb)) => of(verb, "volume"),
        Verb::Network(NetworkGroup::Inspect(verb)) => of(verb, "network"),
        Verb::System(SystemGroup::Events(verb)) => Verb::Events(verb),
        Verb::System(SystemGroup::Info(verb)) => Verb::Info(verb),
        other => other,
    }
}

/// What to say instead of doing something.
fn refuse(command: &Command, words: &[String], error: &clap::Error) -> Refusal {
    let said = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        Some(ContextValue::Strings(texts)) => texts.first().map(String::as_str),
        _ => None,
    };
    let (mut inner, path) = innermost(command, words);
    let named = path.join(" ");
    let usage = inner
        .render_usage()
        .to_string()
        .replacen("Usage: ", "Usage:  ", 1);
    let help = format!("Run '{named} --help' for more information");
    let sentence = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // From the definition as it stands, which shows switches as switches.
            return Refusal {
                message: inner.render_help().to_string(),
                status: 0,
            };
        }
        ErrorKind::DisplayVersion => {
            return Refusal {
                message: format!("moss version {}\n", env!("CARGO_PKG_VERSION")),
                status: 0,
            };
        }
        ErrorKind::UnknownArgument => match said(ContextKind::InvalidArg).unwrap_or_default() {
            flag if flag.starts_with("--") => {
                format!("unknown flag: {}", flag.split('=').next().unwrap_or(flag))
            }
            flag if flag.starts_with('-') => {
                let letter = flag.chars().nth(1).unwrap_or('-');
                format!("unknown shorthand flag: '{letter}' in {flag}")
            }
            _ => format!("'{named}' accepts no more arguments"),
        },
        ErrorKind::InvalidSubcommand => {
            let verb = said(ContextKind::InvalidSubcommand).unwrap_or_default();
            let message = format!("{named}: '{verb}' is not a moss command.\nSee '{named} --help'");
            return Refusal { message, status: 1 };
        }
        ErrorKind::MissingRequiredArgument
        | ErrorKind::TooFewValues
        | ErrorKind::WrongNumberOfValues
        | ErrorKind::MissingSubcommand => {
            let positionals: usize = inner
                .get_positionals()
                .map(|arg| match arg.get_num_args() {
                    Some(range) => range.min_values().max(1),
                    None => 1,
                })
                .sum();
            let plural = if positionals == 1 { "" } else { "s" };
            let many = inner
                .get_positionals()
                .any(|arg| matches!(arg.get_action(), ArgAction::Append));
            let at_least = if many { "at least " } else { "" };
            let sentence = format!("'{named}' requires {at_least}{positionals} argument{plural}");
            return Refusal {
                message: format!("moss: {sentence}\n\n{usage}\n\n{help}"),
                status: 1,
            };
        }
        ErrorKind::InvalidValue | ErrorKind::NoEquals
            if said(ContextKind::InvalidValue).is_none_or(str::is_empty) =>
        {
            let flag = said(ContextKind::InvalidArg).unwrap_or_default();
            let flag = flag.split([' ', '=', '[']).next().unwrap_or_default();
            format!("flag needs an argument: {flag}")
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            let value = said(ContextKind::InvalidValue).unwrap_or_default();
            let flag = said(ContextKind::InvalidArg).unwrap_or_default();
            let flag = flag.split([' ', '=', '[']).next().unwrap_or_default();
            let why =
                std::error::Error::source(error).map_or_else(String::new, |why| format!(": {why}"));
            format!("invalid argument \"{value}\" for \"{flag}\" flag{why}")
        }
        _ => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            first.strip_prefix("error: ").unwrap_or(first).to_owned()
        }
    };
    Refusal {
        message: format!("{sentence}\n\n{usage}\n\n{help}"),
        status: ENGINE_FAILED,
    }
}

fn laid_out(command: Command, tidy: &dyn Fn(Arg) -> Arg) -> Command {
    command
        .next_line_help(false)
        .mut_args(tidy)
        .mut_subcommands(|inner| laid_out(inner, tidy))
}

/// The command that the words lead to, and its names.
fn innermost(command: &Command, words: &[String]) -> (Command, Vec<String>) {
    // One line for each flag, by their names, with no default that is empty text.
    let tidy = |arg: Arg| {
        let arg = arg.display_order(0);
        match arg.get_default_values() {
            [only] if only.is_empty() => arg.hide_default_value(true),
            _ => arg,
        }
    };
    let mut command = command.clone();
    // First, since a verb has no flags before.
    command.build();
    let mut command = laid_out(command, &tidy);
    let mut path = vec![command.get_name().to_owned()];
    for word in words.iter().skip(1) {
        if let Some(inner) = command.find_subcommand(word) {
            let inner = inner.clone();
            path.push(inner.get_name().to_owned());
            command = inner;
        } else if !word.starts_with('-') && path.len() > 1 {
            break;
        }
    }
    (command, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Parsed, Refusal> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&words)
    }

    #[test]
    fn the_definition_is_consistent() {
        with_truth_values(command()).debug_assert();
    }

    #[test]
    fn truth_values_have_the_defaults_that_they_say() {
        let run = |line| match parse_line(line).map(|parsed| parsed.verb) {
            Ok(Verb::Run(run)) => (run.sig_proxy, run.detach),
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(run("moss run x"), (true, false));
        assert_eq!(run("moss run --sig-proxy=false -d x"), (false, true));
        assert_eq!(run("moss run --sig-proxy -d=0 x"), (true, false));
    }

    #[test]
    fn groups_are_aliases() {
        for (line, verb) in [
            ("moss container ls -aq", "Ps("),
            ("moss container list", "Ps("),
            ("moss image rm -f x", "Rmi("),
            ("moss image ls", "Images("),
            ("moss volume list", "Volume("),
            ("moss system info", "Info("),
            ("moss -H unix:///x stop -t 3 a b", "Stop("),
            ("moss stop --time=3 a", "Stop("),
        ] {
            let parsed = parse_line(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            assert!(format!("{:?}", parsed.verb).starts_with(verb), "{line}");
        }
        let Ok(Verb::Inspect(inspect)) = parse_line("moss volume inspect v").map(|p| p.verb) else {
            panic!("no inspect");
        };
        assert_eq!(inspect.kind.as_deref(), Some("volume"));
    }

    #[test]
    fn what_follows_the_container_is_its_own() {
        let Ok(Verb::Exec(exec)) = parse_line("moss exec -it c ls -l --help").map(|p| p.verb)
        else {
            panic!("no exec");
        };
        assert!(exec.interactive && exec.tty);
        assert_eq!(exec.words, ["c", "ls", "-l", "--help"]);
    }

    #[test]
    fn errors_are_said_as_docker_says_them() {
        let refused = |line| parse_line(line).unwrap_err();
        let error = refused("moss ps --nosuch");
        assert_eq!(error.status, ENGINE_FAILED);
        assert_eq!(
            error.message,
            "unknown flag: --nosuch\n\nUsage:  moss ps [OPTIONS]\n\n\
             Run 'moss ps --help' for more information"
        );
        assert!(
            refused("moss nosuch")
                .message
                .contains("'nosuch' is not a moss command")
        );
        let error = refused("moss exec c");
        assert!(
            error
                .message
                .starts_with("moss: 'moss exec' requires at least 2 arguments"),
            "{error}"
        );
        let help = refused("moss run --help");
        assert_eq!(help.status, 0);
        // Switches are shown as switches, and defaults that are nothing are not shown.
        assert!(help.message.contains("--rm\n") && !help.message.contains("--rm[="));
        assert!(!help.message.contains("default: \"\""));
        assert!(
            refused("moss ps --all=perhaps")
                .message
                .contains("invalid argument \"perhaps\"")
        );
    }
}
