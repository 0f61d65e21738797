//! daemon.json and flags: what this daemon was told.
//!
//! The file has dockerd's keys. Those that dockerd does not know refuse to start, in dockerd's
//! words, so that a typing error is noticed; those that mean nothing here (iptables, userland-proxy
//! and the like) get one warning each and are otherwise ignored. A directive may be given by a flag
//! or in the file, not by both. A missing file is no error unless it was asked for by name.
//!
//! Reading is pure but for the file itself; [`Config::read`] is also what SIGHUP and `--validate` do.
//! Verbs read it too, for [`Config::paths`]: they must look where the daemon keeps things.

mod values;

use std::fs;
use std::io;
use std::path::{Path, PathBuf, absolute};

use serde_json::{Map, Value};

use crate::image::Format;
use crate::registry::{self, Proxies, Registries};
use crate::sys::paths::Paths;
use values::{as_go_shows_it, count, flag, list, text_of, wrong_type};

/// What was typed: flags of `moss daemon`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// `-H`, and `--socket PATH` as `unix://PATH`.
    pub hosts: Vec<String>,
    /// `--data-root`.
    pub data_root: Option<PathBuf>,
    /// `--exec-root`.
    pub exec_root: Option<PathBuf>,
    /// `--config-file`.
    pub config_file: Option<PathBuf>,
    /// `--validate`: check the configuration and leave.
    pub validate: bool,
    /// `--debug`.
    pub debug: bool,
    /// `--storage-driver`.
    pub storage_driver: Option<String>,
    /// `--on-demand` (hidden): started by a verb; leaves when it has nothing to do.
    pub on_demand: bool,
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
    /// Whether the compressed blobs of pulled layers stay.
    pub keep_blobs: bool,
    /// How often a layer is tried without getting further; `None` for the default.
    pub download_attempts: Option<u32>,
    /// How many entries a layer may have; `None` for the default.
    pub layer_entries: Option<u64>,
    /// One sentence for each directive that has no effect.
    pub warnings: Vec<String>,
}

/// Why a configuration is refused. The sentences are dockerd's.
#[derive(Debug, thiserror::Error)]
#[error("unable to configure the Docker daemon with file {}: {reason}", path.display())]
pub struct ConfigError {
    /// The file.
    path: PathBuf,
    /// What is wrong in it.
    reason: String,
}

/// Directives that are heeded, by the names that dockerd gives them in its file; `keep-blobs`,
/// `max-layer-entries` and `push-compression` are ours.
const HEEDED: &[&str] = &[
    "data-root",
    "debug",
    "exec-root",
    "hosts",
    "insecure-registries",
    "keep-blobs",
    "labels",
    "live-restore",
    "log-level",
    "max-concurrent-downloads",
    "max-concurrent-uploads",
    "max-download-attempts",
    "max-layer-entries",
    "proxies",
    "push-compression",
    "registry-mirrors",
    "storage-driver",
];

/// Directives that dockerd knows and that have no effect here.
const IGNORED: &[&str] = &[
    "add-runtime",
    "allow-direct-routing",
    "allow-nondistributable-artifacts",
    "api-cors-header",
    "authorization-plugins",
    "bip",
    "bip6",
    "bridge",
    "bridge-accept-fwmark",
    "builder",
    "cdi-spec-dirs",
    "cgroup-parent",
    "containerd",
    "containerd-namespace",
    "containerd-plugin-namespace",
    "cpu-rt-period",
    "cpu-rt-runtime",
    "default-address-pools",
    "default-cgroupns-mode",
    "default-gateway",
    "default-gateway-v6",
    "default-ipc-mode",
    "default-network-opts",
    "default-runtime",
    "default-shm-size",
    "default-ulimits",
    "dns",
    "dns-opts",
    "dns-search",
    "exec-opts",
    "experimental",
    "features",
    "firewall-backend",
    "fixed-cidr",
    "fixed-cidr-v6",
    "group",
    "host-gateway-ip",
    "host-gateway-ips",
    "http-proxy",
    "https-proxy",
    "icc",
    "init",
    "init-path",
    "ip",
    "ip-forward",
    "ip-forward-no-drop",
    "ip-masq",
    "ip6tables",
    "iptables",
    "ipv6",
    "log-driver",
    "log-format",
    "log-opts",
    "metrics-addr",
    "min-api-version",
    "mtu",
    "network-control-plane-mtu",
    "network-diagnostic-port",
    "no-new-privileges",
    "no-proxy",
    "node-generic-resources",
    "nri-opts",
    "oom-score-adjust",
    "pidfile",
    "raw-logs",
    "runtimes",
    "seccomp-profile",
    "selinux-enabled",
    "shutdown-timeout",
    "storage-opts",
    "swarm-default-advertise-addr",
    "tls",
    "tlscacert",
    "tlscert",
    "tlskey",
    "tlsverify",
    "userland-proxy",
    "userland-proxy-path",
    "userns-remap",
    "validate",
];

impl Config {
    /// Joins the flags and the file, which is `default_file` unless a flag names another.
    pub fn read(options: &Options, default_file: &Path) -> Result<Config, ConfigError> {
        let path = options.config_file.as_deref().unwrap_or(default_file);
        let refused = |reason: String| ConfigError {
            path: path.to_owned(),
            reason,
        };
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && options.config_file.is_none() =>
            {
                Vec::new()
            }
            Err(error) => {
                let reason = match error.kind() {
                    io::ErrorKind::NotFound => "no such file or directory".to_owned(),
                    _ => error.to_string(),
                };
                return Err(refused(format!("open {}: {reason}", path.display())));
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
        let file: Map<String, Value> = if text.trim_ascii().is_empty() {
            Map::new()
        } else {
            serde_json::from_slice(text).map_err(|error| error.to_string())?
        };
        let known = |name: &str| HEEDED.contains(&name) || IGNORED.contains(&name);
        let unknown: Vec<&str> = file
            .keys()
            .map(String::as_str)
            .filter(|name| !known(name))
            .collect();
        if !unknown.is_empty() {
            return Err(format!(
                "the following directives don't match any configuration option: {}",
                unknown.join(", ")
            ));
        }
        let conflicts = conflicts(options, &file);
        if !conflicts.is_empty() {
            return Err(format!(
                "the following directives are specified both as a flag and in the configuration \
                 file: {}",
                conflicts.join(", ")
            ));
        }
        let mut config = Config {
            hosts: list(&file, "hosts")?.unwrap_or_else(|| options.hosts.clone()),
            data_root: text_of(&file, "data-root")?.map(PathBuf::from),
            exec_root: text_of(&file, "exec-root")?.map(PathBuf::from),
            storage_driver: text_of(&file, "storage-driver")?,
            debug: flag(&file, "debug")?.unwrap_or(options.debug),
            log_level: text_of(&file, "log-level")?.unwrap_or_default(),
            labels: list(&file, "labels")?.unwrap_or_default(),
            insecure_registries: list(&file, "insecure-registries")?.unwrap_or_default(),
            registry_mirrors: list(&file, "registry-mirrors")?.unwrap_or_default(),
            proxies: proxies(&file)?,
            concurrent_downloads: count(&file, "max-concurrent-downloads")?,
            concurrent_uploads: count(&file, "max-concurrent-uploads")?,
            download_attempts: count(&file, "max-download-attempts")?,
            push_compression: compression(&file)?,
            keep_blobs: flag(&file, "keep-blobs")?.unwrap_or(false),
            layer_entries: count(&file, "max-layer-entries")?,
            warnings: Vec::new(),
        };
        config.data_root = config.data_root.or_else(|| options.data_root.clone());
        config.exec_root = config.exec_root.or_else(|| options.exec_root.clone());
        let driver = options.storage_driver.clone();
        config.storage_driver = config.storage_driver.or(driver);
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
        if flag(&file, "live-restore")? == Some(false) {
            let warning = "\"live-restore\": false has no effect: containers always outlive the \
                           daemon";
            config.warnings.push(warning.to_owned());
        }
        let idle = file.keys().filter(|name| IGNORED.contains(&name.as_str()));
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

/// Directives that flags and file both give, each with both values.
fn conflicts(options: &Options, file: &Map<String, Value>) -> Vec<String> {
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    let hosts = &options.hosts;
    let typed = [
        ("data-root", path(&options.data_root)),
        ("debug", options.debug.then(|| "true".to_owned())),
        ("exec-root", path(&options.exec_root)),
        (
            "hosts",
            (!hosts.is_empty()).then(|| format!("[{}]", hosts.join(" "))),
        ),
        ("storage-driver", options.storage_driver.clone()),
    ];
    typed
        .into_iter()
        .filter_map(|(name, flag)| {
            let (flag, value) = (flag?, file.get(name)?);
            Some(format!(
                "{name}: (from flag: {flag}, from file: {})",
                as_go_shows_it(value)
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn join(options: &Options, text: &str) -> Result<Config, String> {
        Config::join(options, text.as_bytes())
    }

    #[test]
    fn flags_and_file_are_joined() {
        let options = Options {
            data_root: Some("/flag".into()),
            ..Options::default()
        };
        let file = r#"{"hosts": ["unix:///a", "fd://"], "debug": true, "labels": ["a=b"]}"#;
        let config = join(&options, file).unwrap();
        let limited = join(&options, r#"{"max-layer-entries": 5}"#).unwrap();
        assert_eq!(
            (limited.layer_entries, limited.warnings.len()),
            (Some(5), 0)
        );
        assert_eq!(config.hosts, ["unix:///a", "fd://"]);
        assert_eq!(config.data_root, Some("/flag".into()));
        assert!(config.debug);
        assert!(config.warnings.is_empty());
        assert_eq!(join(&Options::default(), " ").unwrap(), Config::default());
    }

    #[test]
    fn what_dockerd_refuses_is_refused_in_its_words() {
        let path = Path::new("/nonexistent/daemon.json");
        let options = Options {
            config_file: Some(path.into()),
            ..Options::default()
        };
        assert_eq!(
            Config::read(&options, path).unwrap_err().to_string(),
            "unable to configure the Docker daemon with file /nonexistent/daemon.json: \
             open /nonexistent/daemon.json: no such file or directory"
        );
        assert!(Config::read(&Options::default(), path).is_ok());
        let refused = |text| join(&Options::default(), text).unwrap_err();
        assert_eq!(
            refused(r#"{"foo": 1, "debug": true, "bar": 2}"#),
            "the following directives don't match any configuration option: foo, bar"
        );
        assert_eq!(
            refused(r#"{"debug": "yes"}"#),
            "json: cannot unmarshal string into Go struct field Config.debug of type bool"
        );
        assert_eq!(
            refused(r#"{"log-level": "loud"}"#),
            "invalid logging level: loud"
        );
        assert_eq!(refused(r#"{"labels": ["x"]}"#), "bad attribute format: x");
        assert_eq!(
            refused(r#"{"max-concurrent-downloads": -1}"#),
            "invalid max concurrent downloads: -1"
        );
        assert_eq!(
            refused(r#"{"max-download-attempts": -1}"#),
            "invalid max download attempts: -1"
        );
        assert_eq!(
            refused(r#"{"max-layer-entries": "many"}"#),
            "json: cannot unmarshal string into Go struct field Config.max-layer-entries of type int"
        );
        assert_eq!(
            refused(r#"{"registry-mirrors": ["m.example"]}"#),
            "invalid mirror: unsupported scheme \"\" in \"m.example\""
        );
        assert_eq!(
            refused(r#"{"proxies": {"ftp-proxy": "x"}}"#),
            "the following directives don't match any configuration option: ftp-proxy"
        );
        refused("[]");
        refused("{");
    }

    #[test]
    fn roots_are_where_the_configuration_says() {
        let user = Paths {
            exec_root: "/run/moss".into(),
            data_root: "/data/moss".into(),
            socket: "/run/moss.sock".into(),
            config: "/etc/moss".into(),
        };
        let options = Options {
            exec_root: Some("/flag".into()),
            ..Options::default()
        };
        let config = join(&options, r#"{"data-root": "/file"}"#).unwrap();
        let paths = config.paths(&user).unwrap();
        assert_eq!(paths.data_root, Path::new("/file"));
        assert_eq!(paths.exec_root, Path::new("/flag"));
        assert_eq!(Config::default().paths(&user).unwrap(), user);
    }

    #[test]
    fn registries_are_reached_as_it_says() {
        let text = r#"{"insecure-registries": ["10.0.0.0/8"], "max-concurrent-downloads": 5,
            "max-download-attempts": 2,
            "registry-mirrors": ["https://m.example"], "proxies": {"no-proxy": "*"}}"#;
        let config = join(&Options::default(), text).unwrap();
        assert_eq!(config.concurrent_downloads, Some(5));
        assert!(config.warnings.is_empty());
        let reached = config.reached();
        assert_eq!(reached.download_attempts, Some(2));
        assert_eq!(reached.insecure_registries, ["10.0.0.0/8"]);
        assert_eq!(reached.mirrors, ["https://m.example"]);
        assert_eq!(reached.proxies.no_proxy, "*");
    }

    #[test]
    fn a_directive_is_given_once() {
        let options = Options {
            hosts: vec!["unix:///a".into(), "fd://".into()],
            debug: true,
            ..Options::default()
        };
        assert_eq!(
            join(&options, r#"{"hosts": ["unix:///b"], "debug": false}"#).unwrap_err(),
            "the following directives are specified both as a flag and in the configuration file: \
             debug: (from flag: true, from file: false), \
             hosts: (from flag: [unix:///a fd://], from file: [unix:///b])"
        );
    }

    #[test]
    fn directives_without_effect_are_told_once() {
        let text = r#"{"iptables": false, "userland-proxy": true, "live-restore": false}"#;
        let config = join(&Options::default(), text).unwrap();
        assert_eq!(config.warnings.len(), 3, "{:?}", config.warnings);
        assert!(config.warnings[1].contains("\"iptables\""));
    }

    proptest! {
        #[test]
        fn any_file_is_read_or_refused(text in ".*") {
            let _ = join(&Options::default(), &text);
        }
    }
}
