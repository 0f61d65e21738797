//! daemon.json and flags: what this daemon was told.
//!
//! The file has dockerd's keys. Those that dockerd does not know refuse to start, in dockerd's
//! words, so that a typing error is noticed; those that mean nothing here (iptables, userland-proxy
//! and the like) get one warning each and are otherwise ignored. A directive may be given by a flag
//! or in the file, not by both. A missing file is no error unless it was asked for by name.
//!
//! Reading is pure but for the file itself; [`Config::read`] is also what SIGHUP and `--validate` do.
//! Verbs read it too, for [`Config::paths`]: they must look where the daemon keeps things.

mod containers;
mod directives;
mod values;

use std::fs;
use std::io;
use std::path::{Path, PathBuf, absolute};

use serde_json::{Map, Value};

use crate::image::Format;
use crate::registry::{self, Proxies, Registries};
use crate::sys::paths::Paths;
use crate::types::errno;
use directives::IGNORED;
use values::{count, flag, list, number, text_of, wrong_type};

pub use containers::Containers;

/// What was typed: flags of `moss daemon`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Flags that are directives too, by the directives' names, as the file would have them.
    pub directives: Map<String, Value>,
    /// `--config-file`.
    pub config_file: Option<PathBuf>,
    /// `--validate`: check the configuration and leave.
    pub validate: bool,
    /// `--on-demand` (hidden): started by a verb; leaves when it has nothing to do.
    pub on_demand: bool,
    /// `--supervised`: something else starts it again when it ends.
    pub supervised: bool,
    /// `--revived UID` (hidden): the keeper has started it again, for the user of this id.
    pub revived: Option<u32>,
    /// `--ready-fd N` (hidden): the pipe that is told when the daemon serves.
    pub ready_fd: Option<i32>,
}

/// What it comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// Where to listen, as typed; empty for the default.
    pub hosts: Vec<String>,
    /// Images, containers, volumes.
    pub data_root: Option<PathBuf>,
    /// What does not outlive a boot.
    pub exec_root: Option<PathBuf>,
    /// The root filesystems' driver, by name.
    pub storage_driver: Option<String>,
    /// Debug messages.
    pub debug: bool,
    /// `error`, `warn`, `info`, `debug` …; empty for the default.
    pub log_level: String,
    /// Labels of this daemon.
    pub labels: Vec<String>,
    /// Registries that need not prove who they are: hosts and networks.
    pub insecure_registries: Vec<String>,
    /// Mirrors of Docker Hub.
    pub registry_mirrors: Vec<String>,
    /// Proxies to registries.
    pub proxies: Proxies,
    /// How many layers are fetched at the same time; `None` for the default.
    pub concurrent_downloads: Option<usize>,
    /// How many layers are sent at the same time; `None` for the default.
    pub concurrent_uploads: Option<usize>,
    /// How layers are compressed that are sent; `None` for the default.
    pub push_compression: Option<Format>,
    /// Whether a bind of Docker's usual socket is the host's own.
    pub host_socket: bool,
    /// Whether the compressed blobs of pulled layers stay.
    pub keep_blobs: bool,
    /// Whether containers reach the host's loopback by their gateway's address.
    pub host_loopback: bool,
    /// How often a layer is tried without getting further; `None` for the default.
    pub download_attempts: Option<u32>,
    /// How many entries a layer may have; `None` for the default.
    pub layer_entries: Option<u64>,
    /// What holds for containers that do not say themselves.
    pub containers: Containers,
    /// Where the daemon's process number is written.
    pub pidfile: Option<PathBuf>,
    /// How long containers may take to stop when all of them are to, in seconds; without an end
    /// where negative.
    pub shutdown_timeout: Option<i64>,
    /// One sentence for each directive that has no effect.
    pub warnings: Vec<String>,
}

/// Why a configuration is refused. The sentences are dockerd's.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// With a file, whose fault it need not be.
    #[error("unable to configure the Docker daemon with file {}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// By flags alone.
    #[error("{0}")]
    Flags(String),
    /// What a directive refers to.
    #[error("{0}")]
    Referred(String),
}

impl Config {
    /// Joins the flags and the file, which is `default_file` unless a flag names another.
    pub fn read(options: &Options, default_file: &Path) -> Result<Config, ConfigError> {
        let path = options.config_file.as_deref().unwrap_or(default_file);
        let refused = |reason: String| ConfigError::File {
            path: path.to_owned(),
            reason,
        };
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && options.config_file.is_none() =>
            {
                return Config::join(options, b"").map_err(ConfigError::Flags);
            }
            Err(error) => {
                let did = match error.kind() {
                    // It can be opened.
                    io::ErrorKind::IsADirectory => "read",
                    _ => "open",
                };
                let reason = errno::text(&error);
                return Err(refused(format!("{did} {}: {reason}", path.display())));
            }
        };
        Config::join(options, &text).map_err(refused)
    }

    /// Where a daemon with this configuration keeps things; what it does not say is as `user` has it.
    ///
    /// # Errors
    /// Where a relative path is named and there is no working directory.
    pub fn paths(&self, user: &Paths) -> io::Result<Paths> {
        let full = |named: &Option<PathBuf>, default: &PathBuf| {
            absolute(named.as_ref().unwrap_or(default))
        };
        Ok(Paths {
            data_root: full(&self.data_root, &user.data_root)?,
            exec_root: full(&self.exec_root, &user.exec_root)?,
            socket: user.socket.clone(),
            config: user.config.clone(),
        })
    }

    /// How registries are reached: as this says, then as the environment does, as in dockerd.
    /// Certificates are where rootful and rootless dockerd look for them, and beside our own file.
    pub fn registries(&self, user: &Paths) -> registry::Config {
        let beside = user.config.with_file_name("docker");
        let environment = Proxies::from_environment(|name| std::env::var(name).ok());
        registry::Config {
            certificates: [Path::new("/etc/docker"), &beside, &user.config]
                .map(|directory| directory.join("certs.d"))
                .into(),
            proxies: self.proxies.clone().or(&environment),
            ..self.reached()
        }
    }

    /// The part of it that this file alone says.
    fn reached(&self) -> registry::Config {
        registry::Config {
            insecure_registries: self.insecure_registries.clone(),
            mirrors: self.registry_mirrors.clone(),
            proxies: self.proxies.clone(),
            download_attempts: self.download_attempts,
            user_agent: concat!("moss/", env!("CARGO_PKG_VERSION")).to_owned(),
            ..registry::Config::default()
        }
    }

    /// Joins the flags and the file's text; what is wrong as a sentence.
    fn join(options: &Options, text: &[u8]) -> Result<Config, String> {
        // Some editors begin a file with a byte order mark.
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let file: Map<String, Value> = if text.trim_ascii().is_empty() {
            Map::new()
        } else {
            serde_json::from_slice(text).map_err(|error| error.to_string())?
        };
        let all = directives::join(&options.directives, file)?;
        let mut config = Config {
            hosts: list(&all, "hosts")?.unwrap_or_default(),
            data_root: text_of(&all, "data-root")?.map(PathBuf::from),
            exec_root: text_of(&all, "exec-root")?.map(PathBuf::from),
            storage_driver: text_of(&all, "storage-driver")?,
            debug: flag(&all, "debug")?.unwrap_or(false),
            log_level: text_of(&all, "log-level")?.unwrap_or_default(),
            labels: list(&all, "labels")?.unwrap_or_default(),
            insecure_registries: list(&all, "insecure-registries")?.unwrap_or_default(),
            registry_mirrors: list(&all, "registry-mirrors")?.unwrap_or_default(),
            proxies: proxies(&all)?,
            concurrent_downloads: count(&all, "max-concurrent-downloads")?,
            concurrent_uploads: count(&all, "max-concurrent-uploads")?,
            download_attempts: count(&all, "max-download-attempts")?,
            push_compression: compression(&all)?,
            host_socket: host_socket(&all)?,
            keep_blobs: flag(&all, "keep-blobs")?.unwrap_or(false),
            host_loopback: flag(&all, "host-loopback")?.unwrap_or(false),
            layer_entries: count(&all, "max-layer-entries")?,
            containers: Containers::of(&all)?,
            pidfile: text_of(&all, "pidfile")?.map(PathBuf::from),
            shutdown_timeout: number(&all, "shutdown-timeout")?,
            warnings: Vec::new(),
        };
        let levels = [
            "", "debug", "info", "warn", "error", "fatal", "panic", "trace",
        ];
        if !levels.contains(&config.log_level.as_str()) {
            return Err(format!("invalid logging level: {}", config.log_level));
        }
        if let Some(label) = config.labels.iter().find(|label| !is_label(label)) {
            return Err(format!("bad attribute format: {label}"));
        }
        // Mirrors and insecure registries are checked where they are read.
        Registries::new(config.reached()).map_err(|error| error.chain())?;
        if flag(&all, "live-restore")? == Some(false) {
            let warning = "\"live-restore\": false has no effect: containers always outlive the \
                           daemon";
            config.warnings.push(warning.to_owned());
        }
        let idle = all.keys().filter(|name| IGNORED.contains(&name.as_str()));
        config
            .warnings
            .extend(idle.map(|name| format!("the directive {name:?} has no effect in moss")));
        Ok(config)
    }
}

/// The file that is read where none is named.
pub fn file(user: &Paths) -> PathBuf {
    user.config.join("daemon.json")
}

/// dockerd's `proxies`.
fn proxies(file: &Map<String, Value>) -> Result<Proxies, String> {
    let all = match file.get("proxies") {
        None | Some(Value::Null) => return Ok(Proxies::default()),
        Some(Value::Object(all)) => all,
        Some(other) => return Err(wrong_type("proxies", other, "config.Proxies")),
    };
    let known = ["http-proxy", "https-proxy", "no-proxy"];
    if let Some(unknown) = all.keys().find(|name| !known.contains(&name.as_str())) {
        return Err(format!(
            "the following directives don't match any configuration option: {unknown}"
        ));
    }
    let text = |name| Ok::<_, String>(text_of(all, name)?.unwrap_or_default());
    Ok(Proxies {
        http: text(known[0])?,
        https: text(known[1])?,
        no_proxy: text(known[2])?,
    })
}

/// `docker-sock-bind`, which dockerd lacks: `host` or nothing.
fn host_socket(file: &Map<String, Value>) -> Result<bool, String> {
    match text_of(file, "docker-sock-bind")?.as_deref() {
        None | Some("") => Ok(false),
        Some("host") => Ok(true),
        Some(other) => Err(format!("invalid docker-sock-bind: {other}")),
    }
}

/// `push-compression`, which dockerd lacks.
fn compression(file: &Map<String, Value>) -> Result<Option<Format>, String> {
    match text_of(file, "push-compression")?.as_deref() {
        None => Ok(None),
        Some("gzip") => Ok(Some(Format::Gzip)),
        Some("zstd") => Ok(Some(Format::Zstd)),
        Some(other) => Err(format!("invalid push-compression: {other}")),
    }
}

/// `key=value`, as dockerd asks of labels.
fn is_label(text: &str) -> bool {
    matches!(text.split_once('='), Some((key, _)) if !key.is_empty())
}

#[cfg(test)]
mod tests;
