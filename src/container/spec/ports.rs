//! Ports as clients write them: what is refused, in the words of moby's `api/types/network`, and
//! the form in which they are kept (`80/tcp`), by which everything else finds them.

use std::collections::BTreeMap;

use super::Error;
use crate::api::container::{ContainerConfig, HostConfig};

/// Refuses ports that are none. dockerd meets these as it reads the body, and says so.
pub(super) fn check_names(config: &ContainerConfig, host: &HostConfig) -> Result<(), Error> {
    let exposed = config.exposed_ports.iter().flat_map(|map| map.keys());
    let published = host.port_bindings.iter().flat_map(|map| map.keys());
    for name in exposed.chain(published).filter(|name| !name.is_empty()) {
        let digits = name.split('/').next().unwrap_or_default();
        number(digits).map_err(|why| {
            Error::Invalid(format!("invalid JSON: invalid port '{digits}': {why}"))
        })?;
    }
    Ok(())
}

/// Refuses to publish port 0, and at what is neither a port nor a range.
pub(super) fn check_bindings(host: &HostConfig) -> Result<(), Error> {
    let bad = |what: &str| Error::Invalid(format!("invalid port specification: {what:?}"));
    for (name, places) in host.port_bindings.iter().flatten() {
        let (digits, _) = name.split_once('/').unwrap_or((name, ""));
        if !number(digits).is_ok_and(|port| port != 0) {
            return Err(bad(&canonical(name)));
        }
        for place in places
            .iter()
            .flatten()
            .map(|place| place.host_port.as_str())
        {
            if !place.is_empty() && !is_range(place) {
                return Err(bad(place));
            }
        }
    }
    Ok(())
}

/// Writes all ports as they are kept.
pub fn normalise(config: &mut ContainerConfig, host: &mut HostConfig) {
    fn all<T>(map: &mut BTreeMap<String, T>) {
        *map = std::mem::take(map)
            .into_iter()
            .map(|(name, value)| (canonical(&name), value))
            .collect();
    }
    config.exposed_ports.iter_mut().for_each(all);
    host.port_bindings.iter_mut().for_each(all);
}

/// `80` as `80/tcp`, `053/UDP` as `53/udp`.
fn canonical(name: &str) -> String {
    let (digits, protocol) = name.split_once('/').unwrap_or((name, ""));
    let protocol = match protocol {
        "" => "tcp".to_owned(),
        protocol => protocol.to_lowercase(),
    };
    match number(digits) {
        Ok(port) => format!("{port}/{protocol}"),
        Err(_) => format!("{digits}/{protocol}"),
    }
}

fn is_range(text: &str) -> bool {
    let (numbers, _) = text.split_once('/').unwrap_or((text, ""));
    let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
    match (number(first), number(last)) {
        (Ok(first), Ok(last)) => first <= last,
        _ => false,
    }
}

/// `strconv.ParseUint` of Go, with its reasons.
fn number(digits: &str) -> Result<u16, &'static str> {
    if digits.is_empty() {
        Err("value is empty")
    } else if !digits.bytes().all(|c| c.is_ascii_digit()) {
        Err("invalid syntax")
    } else {
        digits.parse().map_err(|_| "value out of range")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_kept_in_one_form() {
        let mut config: ContainerConfig =
            serde_json::from_str(r#"{"ExposedPorts":{"80":{},"053/UDP":{}}}"#).unwrap();
        let mut host: HostConfig =
            serde_json::from_str(r#"{"PortBindings":{"80/":[{"HostPort":"8000-8001"}]}}"#).unwrap();
        check_names(&config, &host).unwrap();
        check_bindings(&host).unwrap();
        normalise(&mut config, &mut host);
        let names = |map: Vec<&String>| map.into_iter().cloned().collect::<Vec<_>>();
        let exposed = config.exposed_ports.as_ref().unwrap().keys().collect();
        assert_eq!(names(exposed), ["53/udp", "80/tcp"]);
        let published = host.port_bindings.as_ref().unwrap().keys().collect();
        assert_eq!(names(published), ["80/tcp"]);
    }
}
