//! Groups of verbs: `moss container …` and the like, and what only they have.

use clap::{Args, Subcommand};

use super::*;
use crate::cli::create::ContainerFlags;

/// `moss container …`
#[derive(Debug, Subcommand)]
#[command(defer = true)]
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
    /// List port mappings or a specific mapping for the container
    Port(Port),
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
#[command(defer = true)]
pub enum ImageGroup {
    /// Show the history of an image
    History(History),
    /// Import the contents from a tarball to create a filesystem image
    Import(Import),
    /// Display detailed information on one or more images
    Inspect(ImageInspect),
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
#[command(defer = true)]
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
#[command(defer = true)]
pub enum NetworkGroup {
    /// Connect a container to a network
    Connect(NetworkConnect),
    /// Create a network
    Create(NetworkCreate),
    /// Disconnect a container from a network
    Disconnect(NetworkDisconnect),
    /// Display detailed information on one or more networks
    Inspect(Inspect),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(Listing),
    /// Remove all unused networks
    Prune(Prune),
    /// Remove one or more networks
    #[command(visible_alias = "remove")]
    Rm(NetworkRm),
}

/// `moss network connect`
#[derive(Debug, Args)]
pub struct NetworkConnect {
    /// Add network-scoped alias for the container
    #[arg(long, value_name = "strings")]
    pub alias: Vec<String>,
    /// Driver options for the network
    #[arg(long, value_name = "strings")]
    pub driver_opt: Vec<String>,
    /// Highest gw-priority provides the default gateway. Accepts positive and negative values.
    #[arg(long, value_name = "int", default_value_t = 0)]
    pub gw_priority: i64,
    /// IPv4 address (e.g., "172.30.100.104")
    #[arg(long, value_name = "ip", default_value = "")]
    pub ip: String,
    /// IPv6 address (e.g., "2001:db8::33")
    #[arg(long, value_name = "ip", default_value = "")]
    pub ip6: String,
    /// Add link to another container
    #[arg(long, value_name = "list")]
    pub link: Vec<String>,
    /// Add a link-local address for the container
    #[arg(long, value_name = "strings")]
    pub link_local_ip: Vec<String>,
    /// The network
    #[arg(value_name = "NETWORK")]
    pub network: String,
    /// The container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

/// `moss network create`
#[derive(Debug, Args)]
pub struct NetworkCreate {
    /// Enable manual container attachment
    #[arg(long)]
    pub attachable: bool,
    /// Auxiliary IPv4 or IPv6 addresses used by Network driver
    #[arg(long, value_name = "map")]
    pub aux_address: Vec<String>,
    /// The network from which to copy the configuration
    #[arg(long, value_name = "string", default_value = "")]
    pub config_from: String,
    /// Create a configuration only network
    #[arg(long)]
    pub config_only: bool,
    /// Driver to manage the Network
    #[arg(short, long, value_name = "string", default_value = "bridge")]
    pub driver: String,
    /// IPv4 or IPv6 Gateway for the master subnet
    #[arg(long, value_name = "ipSlice", value_delimiter = ',')]
    pub gateway: Vec<String>,
    /// Restrict external access to the network
    #[arg(long)]
    pub internal: bool,
    /// Allocate container ip from a sub-range
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    pub ip_range: Vec<String>,
    /// IP Address Management Driver
    #[arg(long, value_name = "string", default_value = "default")]
    pub ipam_driver: String,
    /// Set IPAM driver specific options
    #[arg(long, value_name = "map")]
    pub ipam_opt: Vec<String>,
    /// Enable or disable IPv4 address assignment
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub ipv4: Option<bool>,
    /// Enable or disable IPv6 address assignment
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub ipv6: Option<bool>,
    /// Set metadata on a network
    #[arg(long, value_name = "list")]
    pub label: Vec<String>,
    /// Set driver specific options
    #[arg(short, long, value_name = "map")]
    pub opt: Vec<String>,
    /// Subnet in CIDR format that represents a network segment
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    pub subnet: Vec<String>,
    /// Its name
    #[arg(value_name = "NETWORK")]
    pub name: String,
}

/// `moss network disconnect`
#[derive(Debug, Args)]
pub struct NetworkDisconnect {
    /// Force the container to disconnect from a network
    #[arg(short, long)]
    pub force: bool,
    /// The network
    #[arg(value_name = "NETWORK")]
    pub network: String,
    /// The container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

/// `moss network rm`
#[derive(Debug, Args)]
pub struct NetworkRm {
    /// Do not error if the network does not exist
    #[arg(short, long)]
    pub force: bool,
    /// Networks
    #[arg(required = true, value_name = "NETWORK")]
    pub names: Vec<String>,
}

/// `moss system …`
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum SystemGroup {
    /// List what was leaked: mounts, processes, namespaces, directories, half-made objects
    Check(Roots),
    /// Show disk usage
    Df(Df),
    /// Get real time events from the engine
    Events(Events),
    /// Display system-wide information
    Info(Info),
    /// Have systemd start this user's engine
    Install,
    /// Remove unused data
    Prune(SystemPrune),
    /// End the daemon; containers go on
    Stop(SystemStop),
}

/// `moss system df`
#[derive(Debug, Args)]
pub struct Df {
    /// Format output using a custom template
    #[arg(long, value_name = "string")]
    pub format: Option<String>,
    /// Show detailed information on space usage
    #[arg(short, long)]
    pub verbose: bool,
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
