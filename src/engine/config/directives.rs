//! Names of directives, and how flags and the file go together.
//!
//! A flag is known here by the name of its directive (`--label` by `labels`), its value as the file
//! would have it. A directive may be given by a flag or in the file, not by both.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::values::as_go_shows_it;

/// Directives that are heeded, by the names that dockerd gives them in its file;
/// `default-userns`, `docker-sock-bind`, `host-loopback`, `keep-blobs`, `max-layer-entries` and
/// `push-compression` are ours.
const HEEDED: &[&str] = &[
    "data-root",
    "debug",
    "default-cgroupns-mode",
    "default-ipc-mode",
    "default-shm-size",
    "default-ulimits",
    "default-userns",
    "dns",
    "dns-opts",
    "dns-search",
    "docker-sock-bind",
    "exec-root",
    "host-gateway-ip",
    "host-gateway-ips",
    "host-loopback",
    "hosts",
    "init",
    "init-path",
    "insecure-registries",
    "keep-blobs",
    "labels",
    "live-restore",
    "log-driver",
    "log-level",
    "log-opts",
    "max-concurrent-downloads",
    "max-concurrent-uploads",
    "max-download-attempts",
    "max-layer-entries",
    "no-new-privileges",
    "pidfile",
    "proxies",
    "push-compression",
    "registry-mirrors",
    "seccomp-profile",
    "shutdown-timeout",
    "storage-driver",
];

/// Directives that dockerd knows and that have no effect here.
pub(super) const IGNORED: &[&str] = &[
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
    "default-gateway",
    "default-gateway-v6",
    "default-network-opts",
    "default-runtime",
    "exec-opts",
    "experimental",
    "features",
    "firewall-backend",
    "fixed-cidr",
    "fixed-cidr-v6",
    "group",
    "http-proxy",
    "https-proxy",
    "icc",
    "ip",
    "ip-forward",
    "ip-forward-no-drop",
    "ip-masq",
    "ip6tables",
    "iptables",
    "ipv6",
    "log-format",
    "metrics-addr",
    "min-api-version",
    "mtu",
    "network-control-plane-mtu",
    "network-diagnostic-port",
    "no-proxy",
    "node-generic-resources",
    "nri-opts",
    "oom-score-adjust",
    "raw-logs",
    "runtimes",
    "selinux-enabled",
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

/// Joins what flags say and what the file says.
///
/// # Errors
/// Directives that there are not, and those that are given twice, in dockerd's words.
pub(super) fn join(
    flags: &Map<String, Value>,
    file: Map<String, Value>,
) -> Result<Map<String, Value>, String> {
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
    // pflag goes through flags by their names.
    let by_name: BTreeMap<&String, &Value> = flags.iter().collect();
    let twice = by_name.into_iter().filter_map(|(name, flag)| {
        let value = file.get(name)?;
        Some(format!(
            "{name}: (from flag: {}, from file: {})",
            as_go_shows_it(flag),
            as_go_shows_it(value)
        ))
    });
    let twice: Vec<String> = twice.collect();
    // The one has become the other.
    let [old, new] = ["host-gateway-ip", "host-gateway-ips"];
    if file.contains_key(old) && file.contains_key(new) {
        return Err(format!(
            "{old} and {new} must not both be specified in the config file"
        ));
    }
    if !twice.is_empty() {
        return Err(format!(
            "the following directives are specified both as a flag and in the configuration file: \
             {}",
            twice.join(", ")
        ));
    }
    let mut all = file;
    all.extend(flags.clone());
    Ok(all)
}
