//! Flags of the verbs for the engine as a whole, the daemon among them.

use clap::Args;

/// `moss login`
#[derive(Debug, Args)]
pub struct Login {
    /// Password or Personal Access Token (PAT), or "-" to read from stdin
    #[arg(short, long, value_name = "string")]
    pub password: Option<String>,
    /// Take the Password or Personal Access Token (PAT) from stdin
    #[arg(long)]
    pub password_stdin: bool,
    /// Username
    #[arg(short, long, value_name = "string")]
    pub username: Option<String>,
    /// The registry; Docker Hub if none is named
    #[arg(value_name = "SERVER")]
    pub server: Option<String>,
}

/// `moss logout`
#[derive(Debug, Args)]
pub struct Logout {
    /// The registry; Docker Hub if none is named
    #[arg(value_name = "SERVER")]
    pub server: Option<String>,
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

/// `moss system prune`
#[derive(Debug, Args)]
pub struct SystemPrune {
    /// Remove all unused images not just dangling ones
    #[arg(short, long)]
    pub all: bool,
    /// Which of them.
    #[arg(
        long,
        value_name = "filter",
        help = "Provide filter values (e.g. \"label=<key>=<value>\")"
    )]
    pub filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    pub force: bool,
    /// Prune anonymous volumes
    #[arg(long)]
    pub volumes: bool,
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
