//! A container's configuration that could be an image's too: what to run, and how.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::api::Empty;
use crate::api::json::{is_default, is_empty, string_or_list};

/// `ContainerConfig` of the OpenAPI; the create request's own fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerConfig {
    /// Host name.
    pub hostname: String,
    /// Domain name.
    pub domainname: String,
    /// `user[:group]`, names or numbers, looked up in the image.
    pub user: String,
    /// The client that creates the container will attach to standard input.
    pub attach_stdin: bool,
    /// The same for standard output.
    pub attach_stdout: bool,
    /// The same for standard error.
    pub attach_stderr: bool,
    /// Ports that the container listens on, `80/tcp`.
    #[serde(skip_serializing_if = "is_empty")]
    pub exposed_ports: Option<BTreeMap<String, Empty>>,
    /// With a terminal.
    pub tty: bool,
    /// Standard input stays open while nobody is attached.
    pub open_stdin: bool,
    /// Standard input is closed when the first attached client leaves.
    pub stdin_once: bool,
    /// Environment, `NAME=value`; a bare `NAME` takes the image's variable away.
    pub env: Option<Vec<String>>,
    /// Arguments of the entry point, or the program.
    #[serde(deserialize_with = "string_or_list")]
    pub cmd: Option<Vec<String>>,
    /// How to find out whether it is healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthConfig>,
    /// The command is one string that is already escaped (Windows).
    #[serde(skip_serializing_if = "is_default")]
    pub args_escaped: bool,
    /// The image, as it was written.
    pub image: String,
    /// Directories that get an anonymous volume.
    pub volumes: Option<BTreeMap<String, Empty>>,
    /// Working directory.
    pub working_dir: String,
    /// The program, before `Cmd`. A list with one empty string takes the image's away.
    #[serde(deserialize_with = "string_or_list")]
    pub entrypoint: Option<Vec<String>>,
    /// Without a network.
    #[serde(skip_serializing_if = "is_default")]
    pub network_disabled: bool,
    /// Hardware address in the main network (before 1.44; answers have it before 1.52).
    #[serde(skip_serializing_if = "is_default")]
    pub mac_address: String,
    /// Build steps of images that are made from this one.
    #[serde(skip_serializing_if = "is_empty")]
    pub on_build: Option<Vec<String>>,
    /// Labels.
    pub labels: Option<BTreeMap<String, String>>,
    /// Signal that asks it to stop; SIGTERM where empty.
    #[serde(skip_serializing_if = "is_default")]
    pub stop_signal: String,
    /// Seconds from that signal to SIGKILL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    /// The shell for the shell form of `RUN`, `CMD` and health checks.
    #[serde(skip_serializing_if = "is_empty", deserialize_with = "string_or_list")]
    pub shell: Option<Vec<String>>,
}

/// How to find out whether a container is healthy. Times are nanoseconds; 0 inherits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HealthConfig {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", "…"]`; empty inherits.
    #[serde(skip_serializing_if = "is_empty")]
    pub test: Option<Vec<String>>,
    /// Between two checks.
    #[serde(skip_serializing_if = "is_default")]
    pub interval: i64,
    /// Until a check has failed.
    #[serde(skip_serializing_if = "is_default")]
    pub timeout: i64,
    /// From the start during which failures do not count.
    #[serde(skip_serializing_if = "is_default")]
    pub start_period: i64,
    /// Between two checks during the start period (1.44 and newer).
    #[serde(skip_serializing_if = "is_default")]
    pub start_interval: i64,
    /// Failures in a row until it is unhealthy.
    #[serde(skip_serializing_if = "is_default")]
    pub retries: i64,
}
