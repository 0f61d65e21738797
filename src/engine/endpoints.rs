//! What a create asks of networks that cannot be had, whatever networks there are.
//!
//! moby, `daemon/container_operations.go`, `validateEndpointSettings`.

use crate::api::container::{EndpointSettings, NetworkingConfig};
use crate::container::spec::NetworkMode;
use crate::engine::error::{Error, Result};

/// Names the default network as it is, where it was called so; then refuses addresses and names in
/// networks that users did not make.
pub(super) fn check(mode: &str, networking: &mut NetworkingConfig) -> Result<()> {
    let Some(endpoints) = &mut networking.endpoints_config else {
        return Ok(());
    };
    if matches!(mode, "" | "default")
        && let Some(endpoint) = endpoints.remove("default")
    {
        endpoints.insert("bridge".to_owned(), endpoint);
    }
    let mut wrong = Vec::new();
    for (network, endpoint) in endpoints.iter() {
        match endpoint {
            None => wrong.push(format!(
                "invalid config for network {network}: EndpointsConfig is nil"
            )),
            Some(endpoint) => {
                let refused = refused(network, endpoint);
                if !refused.is_empty() {
                    wrong.push(format!(
                        "invalid config for network {network}: invalid endpoint settings:\n{}",
                        joined(&refused)
                    ));
                }
            }
        }
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(Error::invalid(joined(&wrong))),
    }
}

fn refused(network: &str, endpoint: &EndpointSettings) -> Vec<String> {
    if matches!(NetworkMode::parse(network), NetworkMode::Named(_)) {
        return Vec::new();
    }
    let addresses = endpoint.ipam_config.as_ref();
    let all = [
        (
            addresses.is_some_and(|asked| {
                !(asked.ipv4_address.is_empty() && asked.ipv6_address.is_empty())
            }),
            "user-specified IP address is supported on user-defined networks only",
        ),
        (
            endpoint
                .aliases
                .as_ref()
                .is_some_and(|names| !names.is_empty()),
            "network-scoped aliases are only supported for user-defined networks",
        ),
    ];
    let asked = all.iter().filter(|(asked, _)| *asked);
    asked.map(|(_, sentence)| (*sentence).to_owned()).collect()
}

/// One error as it is, several as a list (moby, `multierror.Join`).
fn joined(errors: &[String]) -> String {
    match errors {
        [only] => only.trim().to_owned(),
        all => {
            let items: Vec<String> = all
                .iter()
                .map(|error| format!("* {}", error.replace('\n', "\n\t")))
                .collect();
            items.join("\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_are_for_networks_that_users_made() {
        let told = |mode: &str, config: serde_json::Value| {
            let mut config = serde_json::from_value(json!({"EndpointsConfig": config})).unwrap();
            check(mode, &mut config).err().map(|error| error.message)
        };
        let address = json!({"IPAMConfig": {"IPv4Address": "10.0.0.9"}});
        let only = "user-specified IP address is supported on user-defined networks only";
        assert_eq!(
            told("default", json!({"default": address})),
            Some(format!(
                "invalid config for network bridge: invalid endpoint settings:\n{only}"
            ))
        );
        assert_eq!(told("mine", json!({"mine": address})), None);
        assert_eq!(
            told(
                "default",
                json!({"default": {"MacAddress": "02:00:00:00:00:01"}})
            ),
            None
        );
        let both = json!({"IPAMConfig": {"IPv6Address": "fd00::1"}, "Aliases": ["x"]});
        assert_eq!(
            told("bridge", json!({"bridge": both})),
            Some(format!(
                "invalid config for network bridge: invalid endpoint settings:\n* {only}\n* \
                 network-scoped aliases are only supported for user-defined networks"
            ))
        );
        assert_eq!(
            told("x", json!({"x": null})).as_deref(),
            Some("invalid config for network x: EndpointsConfig is nil")
        );
    }
}
