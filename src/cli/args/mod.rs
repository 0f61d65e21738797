//! The command line: one definition from which parsing and help come (and completions can).
//!
//! Verbs and flags are docker's. What clap does otherwise is bent here: truth values may be spelled
//! out (`--rm=false`), given twice, and errors are said in docker's words.

mod bent;
mod containers;
mod daemon;
mod engine;
mod groups;
mod images;
mod parse;

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};

use super::create::ContainerFlags;

pub use containers::*;
pub use daemon::*;
pub use engine::*;
pub use groups::*;
pub use images::*;
pub use parse::{Refusal, command, parse};

/// Runs Docker and OCI images for people who have no root
#[derive(Debug, Parser)]
#[command(name = NAME, disable_help_flag = true, disable_version_flag = true)]
struct CommandLine {
    #[command(flatten)]
    before: BeforeVerb,
    #[command(subcommand)]
    verb: Verb,
}

/// What the program is called in what it says.
const NAME: &str = "moss";

/// The flags that come before the verb.
#[derive(Debug, Args)]
struct BeforeVerb {
    /// Engine socket to connect to (unix:///PATH)
    #[arg(short = 'H', long, value_name = "string")]
    host: Option<String>,
    /// Location of client config files
    #[arg(long, value_name = "string")]
    config: Option<PathBuf>,
    /// Name of the context to use; there is one, "default"
    #[arg(short, long, value_name = "string", default_value = "")]
    context: String,
    /// Enable debug mode
    #[arg(short = 'D', long)]
    debug: bool,
    /// Set the logging level ("debug", "info", "warn", "error", "fatal")
    #[arg(short, long, value_name = "string", default_value = "info")]
    log_level: String,
    /// Print usage
    #[arg(long, global = true, action = ArgAction::Help)]
    help: Option<bool>,
    /// Print version information and quit
    #[arg(short, long, action = ArgAction::Version)]
    version: Option<bool>,
}

/// What was typed.
#[derive(Debug)]
pub struct Parsed {
    /// `-H`.
    pub host: Option<String>,
    /// `--config`.
    pub config: Option<PathBuf>,
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
    /// Copy files/folders between a container and the local filesystem
    Cp(Cp),
    /// Inspect changes to files or directories on a container's filesystem
    Diff(Diff),
    /// Export a container's filesystem as a tar archive
    Export(Export),
    /// Create a new image from a container's changes
    Commit(Commit),
    /// Pause all processes within one or more containers
    Pause(Names),
    /// Unpause all processes within one or more containers
    Unpause(Names),
    /// List port mappings or a specific mapping for the container
    Port(Port),
    /// Update configuration of one or more containers
    Update(Update),
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
    /// Display a live stream of container(s) resource usage statistics
    Stats(Stats),
    /// List images
    Images(Images),
    /// Download an image from a registry
    Pull(Pull),
    /// Search Docker Hub for images
    Search(Search),
    /// Upload an image to a registry
    Push(Push),
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
    /// Authenticate to a registry
    Login(Login),
    /// Log out from a registry
    Logout(Logout),
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
    Daemon(Box<Daemon>),
    /// Say what this host allows, and what to do about the rest
    Doctor(Roots),
}
