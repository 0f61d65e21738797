//! Exec sessions: one more process in a container that runs.

use serde::{Deserialize, Serialize};

/// Body of `POST /containers/{id}/exec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ExecConfig {
    /// User to run as.
    pub user: String,
    /// With every capability that the container's user namespace has.
    pub privileged: bool,
    /// With a terminal.
    pub tty: bool,
    /// Rows and columns of the terminal at the start (1.42 and newer).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console_size: Option<[u64; 2]>,
    /// The client gives standard input.
    pub attach_stdin: bool,
    /// The client gets standard error.
    pub attach_stderr: bool,
    /// The client gets standard output.
    pub attach_stdout: bool,
    /// Keys that detach.
    pub detach_keys: String,
    /// More variables, `NAME=value`.
    pub env: Option<Vec<String>>,
    /// Working directory.
    pub working_dir: String,
    /// Program and arguments.
    #[serde(deserialize_with = "super::json::string_or_list")]
    pub cmd: Option<Vec<String>>,
}

/// Body of `POST /exec/{id}/start`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ExecStart {
    /// Answer at once, with no streams.
    pub detach: bool,
    /// With a terminal.
    pub tty: bool,
    /// Rows and columns of the terminal at the start (1.42 and newer).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console_size: Option<[u64; 2]>,
}

/// Answer to `GET /exec/{id}/json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecInspect {
    /// The session's id.
    #[serde(rename = "ID")]
    pub id: String,
    /// Whether its process runs.
    #[serde(rename = "Running")]
    pub running: bool,
    /// Its exit code, once it has ended.
    #[serde(rename = "ExitCode")]
    pub exit_code: Option<i64>,
    /// What it runs.
    #[serde(rename = "ProcessConfig")]
    pub process_config: Option<ProcessConfig>,
    /// Standard input is the client's.
    #[serde(rename = "OpenStdin")]
    pub open_stdin: bool,
    /// Standard error is the client's.
    #[serde(rename = "OpenStderr")]
    pub open_stderr: bool,
    /// Standard output is the client's.
    #[serde(rename = "OpenStdout")]
    pub open_stdout: bool,
    /// Nobody needs it any more.
    #[serde(rename = "CanRemove")]
    pub can_remove: bool,
    /// The container.
    #[serde(rename = "ContainerID")]
    pub container_id: String,
    /// Keys that detach, in base64.
    #[serde(rename = "DetachKeys")]
    pub detach_keys: Option<String>,
    /// The process's pid on the host.
    #[serde(rename = "Pid")]
    pub pid: i64,
}

/// What an exec session runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessConfig {
    /// With a terminal.
    pub tty: bool,
    /// The program.
    pub entrypoint: String,
    /// Its arguments.
    pub arguments: Option<Vec<String>>,
    /// With every capability.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub privileged: Option<bool>,
    /// User to run as.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
}
