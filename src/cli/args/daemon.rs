//! Flags of `moss daemon`: dockerd's, and where an engine keeps things.
//!
//! Those that are directives of daemon.json too are handed on as such ([`Daemon::directives`]), and
//! judged where the file's are: as in dockerd a thing is said once.

use std::path::absolute;

use clap::Args;
use serde_json::{Map, Value, json};

use crate::api::container::Ulimit;
use crate::cli::create::values;

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
    /// The same for another command line of moss, which need not be in this directory.
    pub fn words(&self) -> Vec<String> {
        let flags = [
            ("--data-root", &self.data_root),
            ("--exec-root", &self.exec_root),
            ("--config-file", &self.config_file),
        ];
        let full = |path: &String| match absolute(path) {
            Ok(full) => full.display().to_string(),
            // Told by whoever uses it.
            Err(_) => path.clone(),
        };
        let given = flags
            .iter()
            .filter_map(|(flag, value)| Some([flag.to_string(), value.as_ref().map(full)?]));
        given.flatten().collect()
    }

    /// What they say, by the names of daemon.json.
    pub fn directives(&self) -> Map<String, Value> {
        let roots = [
            ("data-root", &self.data_root),
            ("exec-root", &self.exec_root),
        ];
        let given = roots
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), json!(value.as_ref()?))));
        given.collect()
    }
}

/// `moss daemon`
#[derive(Debug, Args)]
pub struct Daemon {
    /// Daemon socket(s) to listen on: unix://PATH or fd://
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
    /// Set the logging level ("debug"|"info"|"warn"|"error"|"fatal")
    #[arg(short, long, value_name = "string")]
    pub log_level: Option<String>,
    /// Storage driver to use (overlay2, fuse, copy)
    #[arg(short, long, value_name = "string")]
    pub storage_driver: Option<String>,
    /// Path to use for daemon PID file
    #[arg(short, long, value_name = "string")]
    pub pidfile: Option<String>,
    /// Set key=value labels to the daemon
    #[arg(long, value_name = "list")]
    pub label: Vec<String>,
    /// Set the default shutdown timeout
    #[arg(long, value_name = "int", allow_negative_numbers = true)]
    pub shutdown_timeout: Option<i64>,
    /// Enable insecure registry communication
    #[arg(long, value_name = "list")]
    pub insecure_registry: Vec<String>,
    /// Preferred registry mirror
    #[arg(long, value_name = "list")]
    pub registry_mirror: Vec<String>,
    /// Set the max concurrent downloads
    #[arg(long, value_name = "int", allow_negative_numbers = true)]
    pub max_concurrent_downloads: Option<i64>,
    /// Set the max concurrent uploads
    #[arg(long, value_name = "int", allow_negative_numbers = true)]
    pub max_concurrent_uploads: Option<i64>,
    /// Set the max download attempts for each pull
    #[arg(long, value_name = "int", allow_negative_numbers = true)]
    pub max_download_attempts: Option<i64>,
    /// What holds for containers that do not say themselves.
    #[command(flatten)]
    pub containers: ContainerDefaults,
    /// Something else starts this daemon again when it ends: the keeper does not
    #[arg(long)]
    pub supervised: bool,
    /// Started again by the keeper, for the user of this id
    #[arg(long, hide = true)]
    pub revived: Option<u32>,
    /// Started by a verb: leave when there is nothing to do
    #[arg(long, hide = true)]
    pub on_demand: bool,
    /// Descriptor that is told when the daemon serves
    #[arg(long, hide = true)]
    pub ready_fd: Option<i32>,
}

/// What holds for containers that do not say themselves.
#[derive(Debug, Args)]
pub struct ContainerDefaults {
    /// Set no-new-privileges by default for new containers
    #[arg(long)]
    pub no_new_privileges: bool,
    /// Path to seccomp profile. Set to "unconfined" to disable the default seccomp profile
    #[arg(long, value_name = "string")]
    pub seccomp_profile: Option<String>,
    /// Default ulimits for containers
    #[arg(long, value_name = "ulimit", value_parser = values::limit)]
    pub default_ulimit: Vec<Ulimit>,
    /// Default shm size for containers
    #[arg(long, value_name = "bytes")]
    pub default_shm_size: Option<String>,
    /// Run an init in the container to forward signals and reap processes
    #[arg(long)]
    pub init: bool,
    /// Path to the docker-init binary
    #[arg(long, value_name = "string")]
    pub init_path: Option<String>,
    /// Default mode for containers ipc ("shareable" | "private")
    #[arg(long, value_name = "string")]
    pub default_ipc_mode: Option<String>,
    /// Default mode for containers cgroup namespace ("host" | "private")
    #[arg(long, value_name = "string")]
    pub default_cgroupns_mode: Option<String>,
    /// Default driver for container logs
    #[arg(long, value_name = "string")]
    pub log_driver: Option<String>,
    /// Default log driver options for containers
    #[arg(long, value_name = "map")]
    pub log_opt: Vec<String>,
    /// DNS server to use
    #[arg(long, value_name = "list")]
    pub dns: Vec<String>,
    /// DNS options to use
    #[arg(long, value_name = "list")]
    pub dns_opt: Vec<String>,
    /// DNS search domains to use
    #[arg(long, value_name = "list")]
    pub dns_search: Vec<String>,
    /// IP addresses that the special 'host-gateway' string in --add-host resolves to
    #[arg(long, value_name = "list")]
    pub host_gateway_ip: Vec<String>,
}

impl Daemon {
    /// What the flags say, by the names of daemon.json and as the file would have it.
    pub fn directives(&self) -> Map<String, Value> {
        let mut all = self.roots.directives();
        let containers = &self.containers;
        let sockets = self.socket.iter().map(|path| format!("unix://{path}"));
        let hosts: Vec<String> = self.host.iter().cloned().chain(sockets).collect();
        let limits = containers.default_ulimit.iter();
        let limits = limits.map(|limit| (limit.name.clone(), json!(limit)));
        let limits: Map<String, Value> = limits.collect();
        let true_ones = [
            ("debug", self.debug),
            ("no-new-privileges", containers.no_new_privileges),
            ("init", containers.init),
        ];
        let texts = [
            ("log-level", &self.log_level),
            ("storage-driver", &self.storage_driver),
            ("pidfile", &self.pidfile),
            ("seccomp-profile", &containers.seccomp_profile),
            ("default-shm-size", &containers.default_shm_size),
            ("init-path", &containers.init_path),
            ("default-ipc-mode", &containers.default_ipc_mode),
            ("default-cgroupns-mode", &containers.default_cgroupns_mode),
            ("log-driver", &containers.log_driver),
        ];
        let numbers = [
            ("shutdown-timeout", self.shutdown_timeout),
            ("max-concurrent-downloads", self.max_concurrent_downloads),
            ("max-concurrent-uploads", self.max_concurrent_uploads),
            ("max-download-attempts", self.max_download_attempts),
        ];
        let lists = [
            ("hosts", &hosts),
            ("labels", &self.label),
            ("insecure-registries", &self.insecure_registry),
            ("registry-mirrors", &self.registry_mirror),
            ("dns", &containers.dns),
            ("dns-opts", &containers.dns_opt),
            ("dns-search", &containers.dns_search),
            ("host-gateway-ips", &containers.host_gateway_ip),
        ];
        let mut set = |name: &str, value: Value| all.insert(name.to_owned(), value);
        for (name, _) in true_ones.iter().filter(|(_, set)| *set) {
            set(name, json!(true));
        }
        for (name, text) in texts {
            text.as_ref().map(|text| set(name, json!(text)));
        }
        for (name, number) in numbers {
            number.map(|number| set(name, json!(number)));
        }
        for (name, list) in lists.iter().filter(|(_, list)| !list.is_empty()) {
            set(name, json!(list));
        }
        if !limits.is_empty() {
            set("default-ulimits", Value::Object(limits));
        }
        if !containers.log_opt.is_empty() {
            set("log-opts", json!(values::pairs(&containers.log_opt)));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::cli::args::{Verb, parse};

    #[test]
    fn flags_are_directives() {
        let line = "moss daemon --socket a/b -H fd:// --data-root /d -D --label a=b --init \
                    --default-ulimit nofile=1:2 --log-opt max-size=1m --dns 10.0.0.1 -p x.pid \
                    --shutdown-timeout -1 --host-gateway-ip 1.2.3.4 --seccomp-profile unconfined";
        let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        let Ok(Verb::Daemon(daemon)) = parse(&words).map(|parsed| parsed.verb) else {
            panic!("no daemon");
        };
        assert_eq!(
            Value::Object(daemon.directives()),
            json!({
                "hosts": ["fd://", "unix://a/b"], "data-root": "/d", "debug": true,
                "labels": ["a=b"], "init": true,
                "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 1, "Hard": 2}},
                "log-opts": {"max-size": "1m"}, "dns": ["10.0.0.1"], "pidfile": "x.pid",
                "shutdown-timeout": -1, "host-gateway-ips": ["1.2.3.4"],
                "seccomp-profile": "unconfined",
            })
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_dockerds_status() {
        let refused = |line: &str| {
            let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
            parse(&words).unwrap_err()
        };
        let error = refused("moss daemon --bogus");
        assert_eq!(error.status, 1);
        assert!(error.message.starts_with("unknown flag: --bogus\n"));
        let error = refused("moss daemon --default-ulimit x=1");
        let told = "invalid argument \"x=1\" for \"--default-ulimit\" flag: invalid ulimit type: x";
        assert!(error.message.starts_with(told), "{error}");
    }

    #[test]
    fn roots_hold_in_any_directory() {
        let roots = Roots {
            config_file: Some("x/daemon.json".to_owned()),
            ..Roots::default()
        };
        let full = std::env::current_dir().unwrap().join("x/daemon.json");
        assert_eq!(roots.words(), ["--config-file", full.to_str().unwrap()]);
    }
}
