//! A network's record, and what a request for one must be like.
//!
//! The checks are moby's, their wording and order too (`daemon/network.go`, `libnetwork`).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::api::network::{Ipam, IpamConfig, NetworkCreateRequest};
use crate::types::boolean;
use crate::types::prefix::Prefix;
use crate::types::timestamp::Timestamp;

/// The largest packet where none is asked for, in bytes.
const MTU: u32 = 1500;
/// The smallest that IPv4 allows, and the largest that a bridge does.
const MTU_BOUNDS: std::ops::RangeInclusive<u32> = 68..=65535;

/// Label of the largest packet.
pub const OPTION_MTU: &str = "com.docker.network.driver.mtu";
/// Label of the bridge's name.
pub const OPTION_BRIDGE: &str = "com.docker.network.bridge.name";
/// Label of whether members reach each other.
pub const OPTION_ICC: &str = "com.docker.network.bridge.enable_icc";
/// Label of the host address that ports are published at.
pub const OPTION_HOST_IP: &str = "com.docker.network.bridge.host_binding_ipv4";

/// Labels of how a family's packets get out.
const OPTION_GATEWAY_MODES: [&str; 2] = [
    "com.docker.network.bridge.gateway_mode_ipv4",
    "com.docker.network.bridge.gateway_mode_ipv6",
];
/// Label of whether connections out have the host's address.
const OPTION_MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
/// Label of a bridge without an IPv4 address.
const OPTION_INHIBIT: &str = "com.docker.network.bridge.inhibit_ipv4";
/// Label of the host's interfaces that may reach containers past their published ports.
const OPTION_TRUSTED: &str = "com.docker.network.bridge.trusted_host_interfaces";
/// Labels of the addresses that connections out have.
const OPTION_SOURCES: [&str; 2] = [
    "com.docker.network.host_ipv4",
    "com.docker.network.host_ipv6",
];
/// Labels of whether members have a family.
const OPTION_FAMILIES: [&str; 2] = [
    "com.docker.network.enable_ipv4",
    "com.docker.network.enable_ipv6",
];
/// Label of how members' interfaces are called, but for their number.
const OPTION_INTERFACES: &str = "com.docker.network.container_iface_prefix";

/// Everything that is known of a network and outlives the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its id, 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// `bridge`, `host` or `null`.
    pub driver: String,
    /// Members have IPv4.
    pub ipv4: bool,
    /// Members have IPv6.
    pub ipv6: bool,
    /// Without a way out.
    pub internal: bool,
    /// Said of it, of no effect here.
    pub attachable: bool,
    /// Settings for others, no network.
    pub config_only: bool,
    /// Whose settings it has.
    pub config_from: String,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// What was asked of its addresses.
    pub asked: Ipam,
    /// Its addresses.
    pub subnets: Vec<Subnet>,
}

/// One subnet of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// All its addresses.
    pub prefix: Prefix,
    /// Those that are given.
    pub range: Option<Prefix>,
    /// The bridge's.
    pub gateway: IpAddr,
    /// Those that nobody gets, by name.
    pub auxiliary: BTreeMap<String, IpAddr>,
}

/// What is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// 400.
    #[error("{0}")]
    Invalid(String),
    /// 403.
    #[error("{0}")]
    Forbidden(String),
    /// 404.
    #[error("{0}")]
    NotFound(String),
    /// 500.
    #[error("{0}")]
    System(String),
}

/// A subnet as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Any, where none.
    pub prefix: Option<Prefix>,
    /// Which of them are given.
    pub range: Option<Prefix>,
    /// The bridge's; the first that is given, where none.
    pub gateway: Option<IpAddr>,
    /// Those that nobody gets.
    pub auxiliary: BTreeMap<String, IpAddr>,
}

impl Record {
    /// The network of a request, without its addresses, and what it wants of those.
    pub fn of(
        request: NetworkCreateRequest,
        id: String,
    ) -> Result<(Self, Vec<Wanted>), RequestError> {
        let invalid = |text: String| RequestError::Invalid(text);
        if matches!(
            request.name.as_str(),
            "bridge" | "host" | "none" | "default"
        ) {
            return Err(RequestError::Forbidden(format!(
                "operation is not permitted on predefined {} network ",
                request.name
            )));
        }
        if request.name.trim().is_empty() {
            return Err(invalid("invalid name: name is empty".to_owned()));
        }
        let driver = match request.driver.as_str() {
            "" | "default" => "bridge",
            known => known,
        };
        match driver {
            "bridge" => {}
            "host" | "null" => {
                return Err(RequestError::Forbidden(format!(
                    "only one instance of \"{driver}\" network is allowed"
                )));
            }
            other => {
                return Err(RequestError::NotFound(format!(
                    "could not find plugin {other} in v1 plugin registry: plugin not found"
                )));
            }
        }
        let mut options = request.options.unwrap_or_default();
        let [label_v4, label_v6] = OPTION_FAMILIES;
        let ipv4 = family(request.enable_ipv4, label_v4, &mut options)?.unwrap_or(true);
        let ipv6 = family(request.enable_ipv6, label_v6, &mut options)?.unwrap_or(false);
        if !ipv4 && !ipv6 && !request.config_only {
            return Err(invalid("IPv4 or IPv6 must be enabled".to_owned()));
        }
        let asked = request.ipam.unwrap_or_default();
        if !matches!(asked.driver.as_str(), "" | "default") {
            return Err(invalid(format!(
                "could not find plugin {} in v1 plugin registry: plugin not found",
                asked.driver
            )));
        }
        let wanted = wanted(&asked, ipv4, ipv6)?;
        let forbidden = |text: &str| Err(RequestError::Forbidden(text.to_owned()));
        if !request.config_only {
            if request.ingress {
                return forbidden("Ingress network can only be global scope network");
            }
            if request.scope == "swarm" {
                return forbidden("cannot create a swarm scoped network when swarm is not active");
            }
        }
        check_options(&options)?;
        let is_isolated = |label| options.get(label).is_some_and(|mode| mode == "isolated");
        let isolated = OPTION_GATEWAY_MODES.into_iter().any(is_isolated);
        if isolated && !request.internal && !request.config_only {
            return Err(RequestError::System(
                "gateway mode 'isolated' can only be used for an internal network".to_owned(),
            ));
        }
        let record = Self {
            id,
            name: request.name,
            created: Timestamp::now(),
            driver: driver.to_owned(),
            ipv4,
            ipv6,
            internal: request.internal,
            attachable: request.attachable,
            config_only: request.config_only,
            config_from: request.config_from.unwrap_or_default().network,
            options,
            labels: request.labels.unwrap_or_default(),
            asked: Ipam {
                driver: "default".to_owned(),
                ..asked
            },
            subnets: Vec::new(),
        };
        Ok((record, wanted))
    }

    /// Whether it was there before any user came.
    pub fn is_predefined(&self) -> bool {
        matches!(self.name.as_str(), "bridge" | "host" | "none")
    }

    /// The default network.
    pub fn is_default(&self) -> bool {
        self.name == "bridge"
    }

    /// The bridge's name.
    pub fn bridge(&self) -> String {
        let asked = self
            .options
            .get(OPTION_BRIDGE)
            .filter(|name| !name.is_empty());
        let short = self.id.get(..12).unwrap_or(&self.id);
        asked.cloned().unwrap_or_else(|| format!("br-{short}"))
    }

    /// The largest packet, in bytes.
    pub fn mtu(&self) -> u32 {
        let asked = self
            .options
            .get(OPTION_MTU)
            .and_then(|mtu| mtu.parse().ok());
        asked.filter(|mtu| MTU_BOUNDS.contains(mtu)).unwrap_or(MTU)
    }

    /// Whether members reach each other.
    pub fn icc(&self) -> bool {
        self.options
            .get(OPTION_ICC)
            .is_none_or(|text| boolean::parse(text) != Ok(false))
    }

    /// The host address that ports are published at where none is said.
    pub fn host_address(&self) -> Option<IpAddr> {
        let asked = self.options.get(OPTION_HOST_IP)?.parse().ok()?;
        Some(asked).filter(|address: &IpAddr| !address.is_unspecified())
    }

    /// How members' interfaces are called, but for their number.
    pub fn interfaces(&self) -> &str {
        let asked = self.options.get(OPTION_INTERFACES).map(String::as_str);
        asked.filter(|asked| !asked.is_empty()).unwrap_or("eth")
    }

    /// What was asked for that cannot be had without root, in sentences: connections leave by the
    /// host's own sockets, and come by published ports alone.
    pub fn ineffective(&self) -> Vec<String> {
        let asked = self.options.iter().filter(|(label, value)| {
            let label = label.as_str();
            let truth = boolean::parse(value);
            match label {
                OPTION_MASQUERADE => truth == Ok(false),
                OPTION_INHIBIT => truth == Ok(true),
                OPTION_TRUSTED => !value.is_empty(),
                _ if OPTION_GATEWAY_MODES.contains(&label) => {
                    matches!(value.as_str(), "routed" | "nat-unprotected")
                }
                _ => OPTION_SOURCES.contains(&label),
            }
        });
        asked
            .map(|(label, value)| {
                format!("option {label}={value} has no effect here: it takes root")
            })
            .collect()
    }

    /// The subnet of a family.
    pub fn subnet(&self, ipv6: bool) -> Option<&Subnet> {
        self.subnets
            .iter()
            .find(|subnet| subnet.prefix.is_ipv6() == ipv6)
    }

    /// The addresses as the API shows them: as asked, completed by what was chosen, for a family
    /// that something was asked of.
    pub fn ipam(&self) -> Ipam {
        let config = self.subnets.iter().map(|subnet| IpamConfig {
            subnet: subnet.prefix.to_string(),
            ip_range: subnet
                .range
                .map(|range| range.to_string())
                .unwrap_or_default(),
            gateway: subnet.gateway.to_string(),
            auxiliary_addresses: (!subnet.auxiliary.is_empty()).then(|| {
                let texts = subnet.auxiliary.iter();
                texts
                    .map(|(name, address)| (name.clone(), address.to_string()))
                    .collect()
            }),
        });
        Ipam {
            config: Some(config.collect()),
            ..self.asked.clone()
        }
    }
}

fn check_options(options: &BTreeMap<String, String>) -> Result<(), RequestError> {
    let syntax = |label: &str, value: &str, function: &str| {
        RequestError::Invalid(format!(
            "failed to parse {label} value: {value} (strconv.{function}: parsing {value:?}: invalid syntax)"
        ))
    };
    for (label, value) in options {
        match label.as_str() {
            OPTION_MTU => {
                let mtu: i64 = value.parse().map_err(|_| syntax(label, value, "Atoi"))?;
                let fits =
                    u32::try_from(mtu).is_ok_and(|mtu| mtu == 0 || MTU_BOUNDS.contains(&mtu));
                if !fits {
                    return Err(RequestError::Invalid(format!("invalid MTU number: {mtu}")));
                }
            }
            OPTION_ICC | OPTION_MASQUERADE | OPTION_INHIBIT => {
                boolean::parse(value).map_err(|_| syntax(label, value, "ParseBool"))?;
            }
            OPTION_HOST_IP => address(label, value)?,
            label if OPTION_SOURCES.contains(&label) => address(label, value)?,
            label if OPTION_GATEWAY_MODES.contains(&label) => {
                let modes = ["nat", "nat-unprotected", "routed", "isolated"];
                if !modes.contains(&value.as_str()) {
                    return Err(RequestError::Invalid(format!(
                        "failed to parse {label} value: {value} (unknown gateway mode {value})"
                    )));
                }
            }
            // IFNAMSIZ, less a number of two digits.
            OPTION_INTERFACES if value.len() > 13 || value.bytes().any(is_unnamable) => {
                let text = format!("invalid interface prefix: {value:?}");
                return Err(RequestError::Invalid(text));
            }
            // IFNAMSIZ.
            OPTION_BRIDGE
                if value.len() > 15
                    || value.bytes().any(is_unnamable)
                    || matches!(&**value, "." | ".." | "lo") =>
            {
                let text = format!("invalid bridge name: {value:?}");
                return Err(RequestError::Invalid(text));
            }
            _ => {}
        }
    }
    Ok(())
}

/// What the kernel refuses in an interface's name.
pub fn is_unnamable(byte: u8) -> bool {
    // A percent sign is a pattern to the kernel.
    matches!(byte, b'/' | b':' | b'%') || byte.is_ascii_whitespace()
}

fn address(label: &str, value: &str) -> Result<(), RequestError> {
    match value.parse::<IpAddr>() {
        Ok(_) => Ok(()),
        Err(_) => {
            let text = format!("failed to parse {label} value: {value} (nil ip)");
            Err(RequestError::Invalid(text))
        }
    }
}

/// Whether members are to have a family: what the request says outdoes the option, which is dropped
/// then.
fn family(
    said: Option<bool>,
    label: &str,
    options: &mut BTreeMap<String, String>,
) -> Result<Option<bool>, RequestError> {
    if said.is_some() {
        options.remove(label);
        return Ok(said);
    }
    let asked = options.get(label).map(|value| boolean::parse(value));
    asked
        .transpose()
        .map_err(|_| RequestError::Invalid(format!("driver-opt {label:?} is not a valid bool")))
}

/// Refuses gateways that no bridge of IPv6 can have, with the length of their subnet (moby,
/// `validateIPv6Subnet`).
pub fn check_ipv6(gateway: Prefix) -> Result<(), RequestError> {
    let IpAddr::V6(address) = gateway.address() else {
        return Ok(());
    };
    let link_local = Prefix::new(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0).into(), 64);
    let clashes = link_local
        .is_some_and(|link_local| gateway.masked() != link_local && gateway.overlaps(&link_local));
    let text = if address.to_ipv4_mapped().is_some() {
        format!("'{gateway}' is not a valid IPv6 subnet")
    } else if address.is_multicast() {
        format!("multicast subnet '{gateway}' is not allowed")
    } else if clashes {
        format!("'{gateway}' clashes with the Link-Local prefix 'fe80::/64'")
    } else {
        return Ok(());
    };
    Err(RequestError::Invalid(text))
}

/// Go's messages about addresses that cannot be read, met when the body is.
fn read<T: std::str::FromStr>(text: &str) -> Result<Option<T>, RequestError> {
    if text.is_empty() {
        return Ok(None);
    }
    let read = text.parse().map(Some);
    read.map_err(|_| {
        RequestError::Invalid(format!("invalid JSON: netip: unable to parse {text:?}"))
    })
}

/// Several errors as moby joins them.
pub fn joined(errors: &[String]) -> String {
    match errors {
        [only] => only.clone(),
        several => {
            let lines = several
                .iter()
                .map(|error| format!("* {}", error.replace('\n', "\n\t")));
            lines.collect::<Vec<_>>().join("\n")
        }
    }
}

/// Reads the subnets that are asked for (moby, `validateIpamConfig`).
fn wanted(asked: &Ipam, ipv4: bool, ipv6: bool) -> Result<Vec<Wanted>, RequestError> {
    let mut errors = Vec::new();
    let mut all: Vec<Wanted> = Vec::new();
    for config in asked.config.iter().flatten() {
        let prefix: Option<Prefix> = read(&config.subnet)?;
        let range: Option<Prefix> = read(&config.ip_range)?;
        let gateway: Option<IpAddr> = read(&config.gateway)?;
        let mut auxiliary = BTreeMap::new();
        for (name, address) in config.auxiliary_addresses.iter().flatten() {
            if let Some(address) = read(address)? {
                auxiliary.insert(name.clone(), address);
            }
        }
        let Some(subnet) = prefix else {
            if range.is_some() || gateway.is_some() || !auxiliary.is_empty() {
                errors.push("invalid subnet: it is needed for the addresses in it".to_owned());
            }
            continue;
        };
        if subnet.is_ipv6() && !ipv6 {
            continue;
        }
        if subnet != subnet.masked() {
            errors.push(format!(
                "invalid subnet {subnet}: it should be {}",
                subnet.masked()
            ));
        }
        let family = if subnet.is_ipv6() { 6 } else { 4 };
        if let Some(range) = range {
            check_range(range, subnet, family, &mut errors);
        }
        let placed = |address: IpAddr| {
            if address.is_ipv6() != subnet.is_ipv6() {
                Some(format!("parent subnet is an IPv{family} block"))
            } else if !subnet.contains(address) {
                Some(format!(
                    "parent subnet {subnet} doesn't contain this address"
                ))
            } else {
                None
            }
        };
        if let Some((gateway, why)) = gateway.and_then(|gateway| Some((gateway, placed(gateway)?)))
        {
            errors.push(format!("invalid gateway {gateway}: {why}"));
        }
        for (name, address) in &auxiliary {
            if let Some(why) = placed(*address) {
                errors.push(format!("invalid auxiliary address {name}: {why}"));
            }
        }
        if all.iter().any(|other| {
            other
                .prefix
                .is_some_and(|it| it.is_ipv6() == subnet.is_ipv6())
        }) {
            return Err(RequestError::Forbidden(
                "bridge driver doesn't support multiple subnets".to_owned(),
            ));
        }
        if !subnet.is_ipv6() && !ipv4 {
            continue;
        }
        all.push(Wanted {
            prefix,
            range,
            gateway,
            auxiliary,
        });
    }
    if !errors.is_empty() {
        let text = format!("invalid network config:\n{}", joined(&errors));
        return Err(RequestError::Invalid(text));
    }
    for (wanted, family) in [(ipv4, false), (ipv6, true)] {
        let of_family = |it: &Wanted| it.prefix.is_some_and(|prefix| prefix.is_ipv6() == family);
        if wanted && !all.iter().any(of_family) {
            let any = Wanted {
                prefix: None,
                range: None,
                gateway: None,
                auxiliary: BTreeMap::new(),
            };
            // IPv4 goes first.
            all.insert(if family { all.len() } else { 0 }, any);
        }
    }
    Ok(all)
}

fn check_range(range: Prefix, subnet: Prefix, family: u8, errors: &mut Vec<String>) {
    if range.is_ipv6() != subnet.is_ipv6() {
        errors.push(format!(
            "invalid ip-range {range}: parent subnet is an IPv{family} block"
        ));
        return;
    }
    if range.length() < subnet.length() {
        errors.push(format!(
            "invalid ip-range {range}: CIDR block is bigger than its parent subnet {subnet}"
        ));
    }
    if range != range.masked() {
        errors.push(format!(
            "invalid ip-range {range}: it should be {}",
            range.masked()
        ));
    }
    if !subnet.overlaps(&range) {
        errors.push(format!(
            "invalid ip-range {range}: parent subnet {subnet} doesn't contain ip-range"
        ));
    }
}
