//! What daemon.json says of containers that do not say themselves.
//!
//! Some of it a container is given for good when it is made, and `inspect` shows it (the size of
//! /dev/shm, the IPC and cgroup modes, the log driver); the rest takes hold at each start.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;

use serde_json::{Map, Value};

use super::ConfigError;
use super::values::{flag, list, text_of, wrong_type};
use crate::api::container::{LogConfig, Ulimit};
use crate::container::spec::{self, DEFAULT_SHM_SIZE, Mode, SeccompProfile};
use crate::types::keep_id::KeepId;
use crate::types::size;

/// The longest search domain, in bytes.
const DOMAIN_MAX: usize = 254;

/// What holds for containers that do not say themselves. The defaults are Docker's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Containers {
    /// `no-new-privileges`.
    pub no_new_privileges: bool,
    /// `seccomp-profile`: a file's path, `builtin` or `unconfined`.
    pub seccomp_profile: String,
    /// `default-ulimits`.
    pub ulimits: Vec<Ulimit>,
    /// `default-shm-size`, in bytes.
    pub shm_size: i64,
    /// `init`.
    pub init: bool,
    /// `init-path`: a program in place of our own; looked for where dockerd looks for it.
    pub init_path: Option<String>,
    /// `default-ipc-mode`.
    pub ipc_mode: String,
    /// `default-cgroupns-mode`.
    pub cgroupns_mode: String,
    /// `default-userns`: `host`, or `keep-id[:uid=N,gid=N]`; empty is `host`.
    pub userns_mode: String,
    /// `log-driver` and `log-opts`.
    pub log: LogConfig,
    /// `dns`.
    pub dns: Vec<String>,
    /// `dns-opts`.
    pub dns_options: Vec<String>,
    /// `dns-search`.
    pub dns_search: Vec<String>,
    /// `host-gateway-ips`, or `host-gateway-ip`: what `host-gateway` means in `--add-host`.
    pub host_gateways: Vec<IpAddr>,
}

impl Default for Containers {
    fn default() -> Containers {
        Containers {
            no_new_privileges: false,
            seccomp_profile: "builtin".to_owned(),
            ulimits: Vec::new(),
            shm_size: DEFAULT_SHM_SIZE,
            init: false,
            init_path: None,
            ipc_mode: "private".to_owned(),
            cgroupns_mode: "private".to_owned(),
            userns_mode: String::new(),
            log: LogConfig {
                kind: spec::log::DEFAULT_DRIVER.to_owned(),
                config: None,
            },
            dns: Vec::new(),
            dns_options: Vec::new(),
            dns_search: Vec::new(),
            host_gateways: Vec::new(),
        }
    }
}

impl Containers {
    /// Reads it from all directives; what is wrong as dockerd's sentence.
    pub(super) fn of(all: &Map<String, Value>) -> Result<Containers, String> {
        let default = Containers::default();
        let listed = |name| Ok::<_, String>(list(all, name)?.unwrap_or_default());
        let chosen = |name, default| Ok::<_, String>(text_of(all, name)?.unwrap_or(default));
        let containers = Containers {
            no_new_privileges: flag(all, "no-new-privileges")?.unwrap_or(false),
            seccomp_profile: chosen("seccomp-profile", default.seccomp_profile)?,
            ulimits: ulimits(all)?,
            shm_size: shm_size(all)?.unwrap_or(default.shm_size),
            init: flag(all, "init")?.unwrap_or(false),
            init_path: text_of(all, "init-path")?,
            ipc_mode: chosen("default-ipc-mode", default.ipc_mode)?,
            cgroupns_mode: chosen("default-cgroupns-mode", default.cgroupns_mode)?,
            userns_mode: chosen("default-userns", default.userns_mode)?,
            log: LogConfig {
                kind: chosen("log-driver", default.log.kind)?,
                config: pairs(all, "log-opts")?,
            },
            dns: listed("dns")?,
            dns_options: listed("dns-opts")?,
            dns_search: listed("dns-search")?,
            host_gateways: gateways(all)?,
        };
        for server in &containers.dns {
            address(server)?;
        }
        if let Some(bad) = containers.dns_search.iter().find(|name| !is_domain(name)) {
            return Err(format!("{} is not a valid domain", bad.trim_matches(' ')));
        }
        for (family, is) in [
            ("IPv4", IpAddr::is_ipv4 as fn(&IpAddr) -> bool),
            ("IPv6", IpAddr::is_ipv6),
        ] {
            if containers.host_gateways.iter().filter(|ip| is(ip)).count() > 1 {
                return Err(format!(
                    "only one {family} host gateway IP address can be specified"
                ));
            }
        }
        let ipc = &containers.ipc_mode;
        let hint = "use \"shareable\" or \"private\"";
        if Mode::ipc(ipc).is_err() {
            return Err(format!(
                "default IPC mode setting ({ipc}) is invalid; {hint}"
            ));
        }
        if !matches!(ipc.as_str(), "shareable" | "private") {
            return Err(format!(
                "IPC mode \"{ipc}\" is not supported as default value; {hint}"
            ));
        }
        if Mode::cgroup(&containers.cgroupns_mode).is_err() {
            return Err(format!(
                "invalid default cgroup namespace ({}): use \"host\" or \"private\"",
                containers.cgroupns_mode
            ));
        }
        if let Err(why) = KeepId::of_mode(&containers.userns_mode) {
            return Err(format!(
                "invalid default user namespace ({}): {why}",
                containers.userns_mode
            ));
        }
        Ok(containers)
    }

    /// Looks at what is only looked at by a daemon that starts: log options, the profile's file.
    ///
    /// # Errors
    /// In dockerd's words.
    pub fn resolve(&self) -> Result<spec::Defaults, ConfigError> {
        if self.log.config.as_ref().is_some_and(|map| !map.is_empty()) {
            spec::log::validate(&self.log).map_err(|error| {
                ConfigError::Referred(format!("failed to set log opts: {error}"))
            })?;
        }
        let seccomp = match self.seccomp_profile.as_str() {
            "builtin" => SeccompProfile::Builtin,
            "unconfined" => SeccompProfile::Unconfined,
            path => {
                let text = fs::read(path).map_err(|error| {
                    ConfigError::Referred(format!(
                        "opening seccomp profile ({path}) failed: open {path}: {}",
                        crate::types::errno::text(&error)
                    ))
                })?;
                SeccompProfile::Json(String::from_utf8_lossy(&text).into_owned())
            }
        };
        Ok(spec::Defaults {
            no_new_privileges: self.no_new_privileges,
            seccomp,
            ulimits: self.ulimits.clone(),
            init: self.init,
        })
    }
}

/// `default-ulimits`: by their names, which each may repeat.
fn ulimits(all: &Map<String, Value>) -> Result<Vec<Ulimit>, String> {
    let name = "default-ulimits";
    let wrong = |value: &Value| wrong_type(name, value, "map[string]*container.Ulimit");
    let limits = match all.get(name) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Object(limits)) => limits,
        Some(other) => return Err(wrong(other)),
    };
    let limit = |(key, value): (&String, &Value)| -> Result<Ulimit, String> {
        let fields = value.as_object().ok_or_else(|| wrong(value))?;
        // Go does not care for the case of a field's name.
        let field = |wanted: &str| {
            let mut found = fields.iter();
            found.find_map(|(name, value)| name.eq_ignore_ascii_case(wanted).then_some(value))
        };
        let number = |wanted: &str| match field(wanted) {
            None | Some(Value::Null) => Ok(0),
            Some(value) => value
                .as_i64()
                .ok_or_else(|| wrong_type(&format!("{name}.{wanted}"), value, "int64")),
        };
        Ok(Ulimit {
            name: match field("Name") {
                Some(Value::String(own)) if !own.is_empty() => own.clone(),
                _ => key.clone(),
            },
            hard: number("Hard")?,
            soft: number("Soft")?,
        })
    };
    let mut limits = limits.iter().map(limit).collect::<Result<Vec<_>, _>>()?;
    limits.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(limits)
}

/// `default-shm-size`, which dockerd takes as text alone; 0 is the default.
fn shm_size(all: &Map<String, Value>) -> Result<Option<i64>, String> {
    match all.get("default-shm-size") {
        None => Ok(None),
        Some(Value::String(text)) if !text.is_empty() => {
            size::memory(text).map(|bytes| Some(bytes).filter(|bytes| *bytes != 0))
        }
        Some(other) => Err(format!("invalid size: {:?}", other.to_string())),
    }
}

/// Texts by name.
fn pairs(all: &Map<String, Value>, name: &str) -> Result<Option<BTreeMap<String, String>>, String> {
    let entries = match all.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Object(entries)) => entries,
        Some(other) => return Err(wrong_type(name, other, "map[string]string")),
    };
    let pair = |(key, value): (&String, &Value)| match value {
        Value::String(text) => Ok((key.clone(), text.clone())),
        other => Err(wrong_type(name, other, "string")),
    };
    entries.iter().map(pair).collect::<Result<_, _>>().map(Some)
}

/// What stands for the host, by either name of the directive.
fn gateways(all: &Map<String, Value>) -> Result<Vec<IpAddr>, String> {
    let mut named = list(all, "host-gateway-ips")?.unwrap_or_default();
    named.extend(text_of(all, "host-gateway-ip")?);
    named.iter().map(|text| address(text)).collect()
}

/// An address, in the form that has no other: IPv4 within IPv6 is IPv4.
fn address(text: &str) -> Result<IpAddr, String> {
    let address = text.parse::<IpAddr>();
    address
        .map(|address| address.to_canonical())
        .map_err(|_| format!("ParseAddr({text:?}): unable to parse IP"))
}

/// Returns whether it is a domain, or `.`, which means none: labels of letters, digits and hyphens
/// within, at least one letter in all (moby, `opts.ValidateDNSSearch`).
fn is_domain(text: &str) -> bool {
    let text = text.trim_matches(' ');
    let name = text.trim_end();
    let name = name.strip_suffix('.').unwrap_or(name);
    let label = |label: &str| {
        let bytes = label.as_bytes();
        bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
            && bytes.first().is_some_and(|byte| *byte != b'-')
            && bytes.last().is_some_and(|byte| *byte != b'-')
    };
    text == "."
        || (name.len() <= DOMAIN_MAX
            && name.bytes().any(|byte| byte.is_ascii_alphabetic())
            && name.split('.').all(label))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(text: &Value) -> Result<Containers, String> {
        Containers::of(text.as_object().expect("directives"))
    }

    #[test]
    fn dockerds_keys_are_read() {
        assert_eq!(of(&json!({})).unwrap(), Containers::default());
        let all = of(&json!({
            "no-new-privileges": true, "seccomp-profile": "unconfined", "init": true,
            "default-ulimits": {"nofile": {"Name": "nofile", "Hard": 20, "Soft": 10}, "core": {"hard": 5}},
            "default-shm-size": "1M", "init-path": "/x", "default-ipc-mode": "shareable",
            "default-cgroupns-mode": "host", "log-driver": "local", "log-opts": {"max-size": "1m"},
            "dns": ["10.0.0.1", "fd00::1"], "dns-opts": ["ndots:2"],
            "dns-search": ["example.org", "."], "host-gateway-ips": ["192.0.2.1", "fd00::2"],
        }))
        .unwrap();
        let limit = |name: &str, soft, hard| Ulimit {
            name: name.to_owned(),
            hard,
            soft,
        };
        assert_eq!(all.ulimits, [limit("core", 0, 5), limit("nofile", 10, 20)]);
        assert_eq!(
            (all.shm_size, all.init_path.as_deref()),
            (1 << 20, Some("/x"))
        );
        assert_eq!(all.host_gateways.len(), 2);
        assert_eq!(all.log.config.as_ref().unwrap()["max-size"], "1m");
        let resolved = all.resolve().unwrap();
        assert!(resolved.no_new_privileges && resolved.init);
        assert_eq!(resolved.seccomp, SeccompProfile::Unconfined);
        let old = of(&json!({"host-gateway-ip": "::ffff:192.0.2.9"})).unwrap();
        assert_eq!(old.host_gateways, ["192.0.2.9".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn what_dockerd_refuses_is_refused() {
        for (text, message) in [
            (
                json!({"default-ipc-mode": "host"}),
                "IPC mode \"host\" is not supported as default value; use \"shareable\" or \"private\"",
            ),
            (
                json!({"default-ipc-mode": "x"}),
                "default IPC mode setting (x) is invalid; use \"shareable\" or \"private\"",
            ),
            (
                json!({"default-cgroupns-mode": "x"}),
                "invalid default cgroup namespace (x): use \"host\" or \"private\"",
            ),
            (
                json!({"default-userns": "private"}),
                "invalid default user namespace (private): known are host and keep-id[:uid=N,gid=N]",
            ),
            (json!({"default-shm-size": 5}), "invalid size: \"5\""),
            (json!({"default-shm-size": "x"}), "invalid size: 'x'"),
            (
                json!({"dns": ["x"]}),
                "ParseAddr(\"x\"): unable to parse IP",
            ),
            (json!({"dns-search": ["1.2"]}), "1.2 is not a valid domain"),
            (
                json!({"host-gateway-ips": ["1.2.3.4", "1.2.3.5"]}),
                "only one IPv4 host gateway IP address can be specified",
            ),
            (
                json!({"default-ulimits": ["nofile=1"]}),
                "json: cannot unmarshal array into Go struct field Config.default-ulimits of type \
                 map[string]*container.Ulimit",
            ),
            (
                json!({"log-opts": {"max-file": 3}}),
                "json: cannot unmarshal number into Go struct field Config.log-opts of type string",
            ),
        ] {
            assert_eq!(of(&text).unwrap_err(), message, "{text}");
        }
    }

    #[test]
    fn what_directives_refer_to_is_looked_at_by_a_start() {
        let refused = |text: Value| of(&text).unwrap().resolve().unwrap_err().to_string();
        assert_eq!(
            refused(json!({"seccomp-profile": "/nonexistent/p.json"})),
            "opening seccomp profile (/nonexistent/p.json) failed: open /nonexistent/p.json: no \
             such file or directory"
        );
        assert_eq!(
            refused(json!({"log-driver": "json-file", "log-opts": {"x": "y"}})),
            "failed to set log opts: unknown log opt 'x' for json-file log driver"
        );
        let profile = tempfile::NamedTempFile::new().unwrap();
        fs::write(&profile, "{}").unwrap();
        let path = profile.path().to_str().unwrap();
        let read = of(&json!({"seccomp-profile": path}))
            .unwrap()
            .resolve()
            .unwrap();
        assert_eq!(read.seccomp, SeccompProfile::Json("{}".to_owned()));
    }
}
