//! Flags of the verbs for images.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::{Inspect, Listing};
use crate::types::boolean;

/// What is left of content trust, which moss does not have.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct Trust {
    /// Skip image verification (there is none)
    #[arg(long, value_name = "bool", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_parser = boolean::parse)]
    pub disable_content_trust: Option<bool>,
}

/// `moss image inspect`
#[derive(Debug, Args)]
pub struct ImageInspect {
    /// Inspect a specific platform of the multi-platform image: os[/arch[/variant]]
    #[arg(long, value_name = "string", default_value = "")]
    pub platform: String,
    /// The rest
    #[command(flatten)]
    pub inspect: Inspect,
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
    /// List multi-platform images as a tree (EXPERIMENTAL)
    #[arg(long)]
    pub tree: bool,
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
    /// Whether it is to be verified
    #[command(flatten)]
    pub trust: Trust,
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

/// `moss push`
#[derive(Debug, Args)]
pub struct Push {
    /// Push all tags of an image to the repository
    #[arg(short, long)]
    pub all_tags: bool,
    /// Whether it is to be signed
    #[command(flatten)]
    pub trust: Trust,
    /// Push the image only if it is for this platform: os[/arch[/variant]]
    #[arg(long, value_name = "string", default_value = "")]
    pub platform: String,
    /// Suppress verbose output
    #[arg(short, long)]
    pub quiet: bool,
    /// The image
    #[arg(value_name = "NAME[:TAG]")]
    pub name: String,
}

/// `moss search`
#[derive(Debug, Args)]
pub struct Search {
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "filter")]
    pub filter: Vec<String>,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json' or TEMPLATE
    #[arg(long, value_name = "string")]
    pub format: Option<String>,
    /// Max number of search results
    #[arg(long, value_name = "int", default_value_t = 0)]
    pub limit: i64,
    /// Don't truncate output
    #[arg(long)]
    pub no_trunc: bool,
    /// What to look for
    #[arg(value_name = "TERM")]
    pub term: String,
}

/// `moss load`
#[derive(Debug, Args)]
pub struct Load {
    /// Read from tar archive file, instead of STDIN
    #[arg(short, long, value_name = "string")]
    pub input: Option<PathBuf>,
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
    pub output: Option<PathBuf>,
    /// Save only the given platform(s)
    #[arg(long, value_name = "string", default_value = "")]
    pub platform: String,
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
    /// Remove only the given platform variant
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    pub platform: Vec<String>,
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
        default_missing_value = "true", default_value = "true", value_parser = boolean::parse)]
    pub human: bool,
    /// Don't truncate output
    #[arg(long)]
    pub no_trunc: bool,
    /// Only show image IDs
    #[arg(short, long)]
    pub quiet: bool,
    /// Show history for the given platform
    #[arg(long, value_name = "string", default_value = "")]
    pub platform: String,
    /// The image
    #[arg(value_name = "IMAGE")]
    pub name: String,
}
