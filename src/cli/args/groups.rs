//! Groups of verbs: `moss container …` and the like, and what only they have.

use clap::{Args, Subcommand};

use super::*;
use crate::cli::create::ContainerFlags;

/// `moss container …`
#[derive(Debug, Subcommand)]
pub enum ContainerGroup {
    /// Attach local standard input, output, and error streams to a running container
    Attach(Attach),
    /// Create a new image from a container's changes
    Commit(Commit),
    /// Copy files/folders between a container and the local filesystem
    Cp(Cp),
    /// Create a new container
    Create(Box<ContainerFlags>),
    /// Inspect changes to files or directories on a container's filesystem
    Diff(Diff),
    /// Execute a command in a running container
    Exec(Exec),
    /// Export a container's filesystem as a tar archive
    Export(Export),
    /// Display detailed information on one or more containers
    Inspect(Inspect),
    /// Kill one or more running containers
    Kill(Kill),
    /// Fetch the logs of a container
    Logs(Logs),
    /// List containers
    #[command(visible_aliases = ["list", "ps"])]
    Ls(Ps),
    /// Pause all processes within one or more containers
    Pause(Names),
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
    /// Display a live stream of container(s) resource usage statistics
    Stats(Stats),
    /// Stop one or more running containers
    Stop(Stop),
    /// Display the running processes of a container
    Top(Top),
    /// Unpause all processes within one or more containers
    Unpause(Names),
    /// Update configuration of one or more containers
    Update(Update),
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
    /// Upload an image to a registry
    Push(Push),
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
