//! Brings requests of older versions up to date: what a version did not know is dropped, what it
//! meant by leaving something out is said.

use crate::api::container::{CreateRequest, EndpointSettings, HostConfig, PortBinding};
use crate::api::version::ApiVersion;

/// What an old create request means beside what it says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CreateDefaults {
    /// Read-only bind mounts leave the mounts below them as they are (before 1.44).
    pub read_only_non_recursive: bool,
    /// For the answer's `Warnings`.
    pub warnings: Vec<String>,
}

/// Why a create request is refused in its version. The wording is Docker's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CreateError {
    /// Options of one kind of mount on another.
    #[error("{options} must not be specified on mount type {kind:?}")]
    MountOptions {
        /// `BindOptions`, `VolumeOptions` or `TmpfsOptions`.
        options: &'static str,
        /// The mount's type.
        kind: String,
    },
    /// Something that an older version cannot ask for.
    #[error("{what} needs API v{needs} or newer")]
    TooNew {
        /// The field, or the mount's type.
        what: &'static str,
        /// The version that brought it.
        needs: &'static str,
    },
    /// Several networks before 1.44.
    #[error("Container cannot be created with multiple network endpoints: {0}")]
    SeveralEndpoints(String),
    /// A hardware address where there is no network of its own.
    #[error("conflicting options: mac-address and the network mode")]
    MacAddressMode,
    /// Two hardware addresses.
    #[error(
        "the container-wide MAC address must match the endpoint-specific MAC address for the main \
         network, or be left empty"
    )]
    MacAddressMismatch,
    /// A container-wide hardware address from 1.52 on.
    #[error(
        "container-wide MAC address no longer supported; use endpoint-specific MAC address instead"
    )]
    MacAddressRemoved,
}

/// Brings a create request of `version` up to date.
pub fn create(
    request: &mut CreateRequest,
    version: ApiVersion,
) -> Result<CreateDefaults, CreateError> {
    let mut warnings = Vec::new();
    default_network(request);
    mounts(&mut request.host_config, version)?;
    let host = &mut request.host_config;
    if version.before(40) && host.ipc_mode.is_empty() {
        host.ipc_mode = "shareable".to_owned();
    }
    if version.before(42) {
        host.console_size = [0, 0];
    }
    if version.before(43) {
        host.annotations = None;
    }
    if version.before(44)
        && let Some(check) = &mut request.config.healthcheck
    {
        check.start_interval = 0;
    }
    endpoints(request, version)?;
    if version.at_least(48) && ambiguous_volume_driver(&request.host_config) {
        warnings.push(
            "WARNING: the container-wide volume-driver configuration is ignored for volumes \
             specified via 'mount'. Use '--mount type=volume,volume-driver=...' instead"
                .to_owned(),
        );
    }
    warnings.extend(mac_address(request, version)?);
    warnings.extend(empty_bindings(&mut request.host_config, version));
    let host = &mut request.host_config;
    host.pids_limit = host.pids_limit.filter(|limit| *limit > 0);
    Ok(CreateDefaults {
        read_only_non_recursive: version.before(44),
        warnings,
    })
}

/// `default`, or nothing, is the network called `bridge`.
fn default_network(request: &mut CreateRequest) {
    let mode = &mut request.host_config.network_mode;
    if !mode.is_empty() && mode != "default" {
        return;
    }
    *mode = "bridge".to_owned();
    if let Some(endpoints) = &mut request.networking_config.endpoints_config
        && let Some(endpoint) = endpoints.remove("default")
    {
        endpoints.insert("bridge".to_owned(), endpoint);
    }
}

fn mounts(host: &mut HostConfig, version: ApiVersion) -> Result<(), CreateError> {
    for mount in host.mounts.iter_mut().flatten() {
        if version.before(42) {
            // Wrong combinations were not noticed then.
            mount.volume_options = mount
                .volume_options
                .take()
                .filter(|_| mount.kind == "volume");
            mount.tmpfs_options = mount.tmpfs_options.take().filter(|_| mount.kind == "tmpfs");
        } else {
            for (options, given, kind) in [
                ("VolumeOptions", mount.volume_options.is_some(), "volume"),
                ("BindOptions", mount.bind_options.is_some(), "bind"),
                ("TmpfsOptions", mount.tmpfs_options.is_some(), "tmpfs"),
            ] {
                if given && mount.kind != kind {
                    return Err(CreateError::MountOptions {
                        options,
                        kind: mount.kind.clone(),
                    });
                }
            }
        }
        if let Some(bind) = &mut mount.bind_options {
            bind.non_recursive &= version.at_least(40);
            bind.create_mountpoint &= version.at_least(42);
            if version.before(44) && mount.kind == "bind" && bind.read_only_force_recursive {
                return Err(CreateError::TooNew {
                    what: "BindOptions.ReadOnlyForceRecursive",
                    needs: "1.44",
                });
            }
        }
        let subpath = mount.volume_options.as_ref().map(|volume| &volume.subpath);
        if version.before(45) && subpath.is_some_and(|subpath| !subpath.is_empty()) {
            return Err(CreateError::TooNew {
                what: "VolumeOptions.Subpath",
                needs: "1.45",
            });
        }
        if version.before(48) && mount.kind == "image" {
            return Err(CreateError::TooNew {
                what: "Mount type \"Image\"",
                needs: "1.48",
            });
        }
    }
    Ok(())
}

fn endpoints(request: &mut CreateRequest, version: ApiVersion) -> Result<(), CreateError> {
    let Some(endpoints) = &mut request.networking_config.endpoints_config else {
        return Ok(());
    };
    if version.before(44) && endpoints.len() > 1 {
        let names: Vec<&str> = endpoints.keys().map(String::as_str).collect();
        return Err(CreateError::SeveralEndpoints(names.join(", ")));
    }
    if version.before(48) {
        for endpoint in endpoints.values_mut().flatten() {
            endpoint.gw_priority = 0;
        }
    }
    Ok(())
}

fn ambiguous_volume_driver(host: &HostConfig) -> bool {
    let undriven = |mount: &crate::api::container::Mount| {
        let driver = mount
            .volume_options
            .as_ref()
            .and_then(|volume| volume.driver_config.as_ref());
        mount.kind == "volume" && driver.is_none_or(|driver| driver.name.is_empty())
    };
    !host.volume_driver.is_empty() && host.mounts.iter().flatten().any(undriven)
}

/// Moves the container-wide hardware address to the main network, where it has been since 1.44.
fn mac_address(
    request: &mut CreateRequest,
    version: ApiVersion,
) -> Result<Option<String>, CreateError> {
    let address = std::mem::take(&mut request.config.mac_address);
    let mode = request.host_config.network_mode.clone();
    let has_network = !matches!(mode.as_str(), "host" | "none") && !mode.starts_with("container:");
    let endpoints = &mut request.networking_config.endpoints_config;
    if address.is_empty() {
        if version.before(44) {
            // An endpoint's own address was ignored then.
            for endpoint in endpoints
                .iter_mut()
                .flat_map(|map| map.values_mut())
                .flatten()
            {
                endpoint.mac_address.clear();
            }
        }
        return Ok(None);
    }
    if version.at_least(52) {
        return Err(CreateError::MacAddressRemoved);
    }
    if version.before(44) && !has_network {
        return Err(CreateError::MacAddressMode);
    }
    if has_network {
        let endpoint = endpoints
            .get_or_insert_default()
            .entry(mode)
            .or_default()
            .get_or_insert_with(EndpointSettings::default);
        let differs = !endpoint.mac_address.is_empty()
            && !endpoint.mac_address.eq_ignore_ascii_case(&address);
        if version.at_least(44) && differs {
            return Err(CreateError::MacAddressMismatch);
        }
        endpoint.mac_address = address;
    }
    Ok(version.at_least(44).then(|| {
        "The container-wide MacAddress field is now deprecated. It should be specified in \
         EndpointsConfig instead."
            .to_owned()
    }))
}

/// A published port without a place is published at any.
fn empty_bindings(host: &mut HostConfig, version: ApiVersion) -> Option<String> {
    let mut ports = Vec::new();
    for (port, bindings) in host.port_bindings.iter_mut().flatten() {
        if bindings.as_ref().is_none_or(Vec::is_empty) {
            *bindings = Some(vec![PortBinding::default()]);
            ports.push(port.as_str());
        }
    }
    (version.at_least(52) && !ports.is_empty()).then(|| {
        format!(
            "Following container port(s) have an empty list of port-bindings: {}. Such bindings \
             will be discarded in a future version.",
            ports.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::json::from_slice;

    fn run(body: &str, minor: u16) -> Result<(CreateRequest, CreateDefaults), String> {
        let mut request: CreateRequest = from_slice(body.as_bytes()).map_err(|e| e.to_string())?;
        let defaults =
            create(&mut request, ApiVersion::new(1, minor)).map_err(|e| e.to_string())?;
        Ok((request, defaults))
    }

    #[test]
    fn refuses_in_dockers_words() {
        for (body, minor, message) in [
            (
                r#"{"HostConfig":{"Mounts":[{"Type":"bind","VolumeOptions":{}}]}}"#,
                42,
                "VolumeOptions must not be specified on mount type \"bind\"",
            ),
            (
                r#"{"HostConfig":{"Mounts":[{"Type":"bind","BindOptions":{"ReadOnlyForceRecursive":true}}]}}"#,
                43,
                "BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer",
            ),
            (
                r#"{"HostConfig":{"Mounts":[{"Type":"image"}]}}"#,
                47,
                "Mount type \"Image\" needs API v1.48 or newer",
            ),
            (
                r#"{"NetworkingConfig":{"EndpointsConfig":{"a":{},"b":null}}}"#,
                43,
                "Container cannot be created with multiple network endpoints: a, b",
            ),
            (
                r#"{"MacAddress":"02:00:00:00:00:01","HostConfig":{"NetworkMode":"host"}}"#,
                43,
                "conflicting options: mac-address and the network mode",
            ),
        ] {
            assert_eq!(run(body, minor).err().as_deref(), Some(message));
            assert_eq!(run(body, 51).err().as_deref() == Some(message), minor == 42);
        }
    }

    #[test]
    fn old_requests_mean_what_they_meant() {
        let body = r#"{"MacAddress":"02:00:00:00:00:01","Healthcheck":{"StartInterval":5},
            "HostConfig":{"ConsoleSize":[1,2],"Annotations":{"a":"b"},"PidsLimit":-1,
            "PortBindings":{"80/tcp":[]},"Mounts":[{"Type":"bind","BindOptions":
            {"CreateMountpoint":true},"TmpfsOptions":{}}]}}"#;
        let (request, defaults) = run(body, 39).unwrap_or_default();
        let host = &request.host_config;
        assert_eq!(host.network_mode, "bridge");
        assert_eq!(host.ipc_mode, "shareable");
        assert_eq!((host.console_size, host.pids_limit), ([0, 0], None));
        assert_eq!(host.annotations, None);
        let mount = host
            .mounts
            .iter()
            .flatten()
            .next()
            .cloned()
            .unwrap_or_default();
        assert_eq!(mount.tmpfs_options, None);
        assert_eq!(
            mount.bind_options,
            Some(crate::api::container::BindOptions::default())
        );
        assert_eq!(
            request
                .config
                .healthcheck
                .as_ref()
                .map(|h| h.start_interval),
            Some(0)
        );
        let endpoints = request
            .networking_config
            .endpoints_config
            .unwrap_or_default();
        let address = endpoints["bridge"].as_ref().map(|e| e.mac_address.as_str());
        assert_eq!(address, Some("02:00:00:00:00:01"));
        assert!(defaults.read_only_non_recursive && defaults.warnings.is_empty());
    }

    #[test]
    fn new_requests_stay() {
        let body = r#"{"HostConfig":{"ConsoleSize":[1,2],"Annotations":{"a":"b"},"NetworkMode":"none",
            "PortBindings":{"80/tcp":null}}}"#;
        let (request, defaults) = run(body, 55).unwrap_or_default();
        assert_eq!(request.host_config.console_size, [1, 2]);
        assert_eq!(request.host_config.network_mode, "none");
        assert!(request.host_config.annotations.is_some());
        assert!(!defaults.read_only_non_recursive);
        assert_eq!(defaults.warnings.len(), 1);
        assert!(defaults.warnings[0].contains("80/tcp"));
    }
}
