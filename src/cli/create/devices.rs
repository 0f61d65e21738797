//! Devices of the host in a container: `--device`, `--device-cgroup-rule`, `--gpus`.

use std::collections::BTreeMap;

use super::values::{fields, pairs};
use crate::api::container::{DeviceMapping, DeviceRequest};
use crate::types::path::clean;

/// Whether a text is a composition of `r`, `w` and `m`, each once.
fn is_mode(text: &str) -> bool {
    let mut left = vec!['r', 'w', 'm'];
    !text.is_empty()
        && text
            .chars()
            .all(|mode| match left.iter().position(|it| *it == mode) {
                Some(at) => {
                    left.swap_remove(at);
                    true
                }
                None => false,
            })
}

/// `/dev/x[:/dev/y][:rwm]`
///
/// # Errors
/// Docker's sentence.
pub fn device(text: &str) -> Result<DeviceMapping, String> {
    let malformed = || format!("bad format for path: {text}");
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, mode) = match *parts.as_slice() {
        ["", ..] => return Err(malformed()),
        [source] => (source, source, "rwm"),
        [source, mode] if is_mode(mode) => (source, source, mode),
        [source, target] => (source, target, "rwm"),
        [_, _, mode] if !is_mode(mode) => return Err(format!("bad mode specified: {mode}")),
        [source, target, mode] => (source, target, mode),
        _ => return Err(malformed()),
    };
    if !target.starts_with('/') {
        return Err(format!("{target} is not an absolute path"));
    }
    // A path that is both, or has no mode with it, is tidied; any other is sent as it is.
    let tidied = |path: &str| match parts.len() {
        3 => path.to_owned(),
        _ => clean(path),
    };
    let (source, target) = match source == target {
        true => (tidied(source), tidied(target)),
        false => (source.to_owned(), tidied(target)),
    };
    Ok(DeviceMapping {
        path_on_host: source,
        path_in_container: target,
        cgroup_permissions: mode.to_owned(),
    })
}

/// Whether a text names a device of the Container Device Interface: `vendor.com/class=name`.
pub fn is_cdi(text: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphabetic();
    let inner = |text: &str, more: &str| {
        text.chars()
            .all(|c| c.is_ascii_alphanumeric() || more.contains(c))
            && text.ends_with(|c: char| c.is_ascii_alphanumeric())
    };
    let Some((kind, name)) = text.split_once('=') else {
        return false;
    };
    kind.split_once('/').is_some_and(|(vendor, class)| {
        vendor.starts_with(letter)
            && class.starts_with(letter)
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && inner(vendor, "_-.")
            && inner(class, "_-")
            && inner(name, "_-.:")
    })
}

/// `c 10:* rwm` of `--device-cgroup-rule`.
///
/// # Errors
/// Docker's sentence.
pub fn cgroup_rule(text: &str) -> Result<(), String> {
    let number = |text: &str| {
        text == "*" || (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let parts: Vec<&str> = text.split(' ').collect();
    let fits = match *parts.as_slice() {
        [kind, place, modes] => {
            let place = place.split_once(':');
            matches!(kind, "a" | "b" | "c")
                && place.is_some_and(|(major, minor)| number(major) && number(minor))
                && matches!(modes.len(), 1..=3)
                && modes.chars().all(|mode| "rwm".contains(mode))
        }
        _ => false,
    };
    match fits {
        true => Ok(()),
        false => Err(format!("invalid device cgroup format '{text}'")),
    }
}

/// `all`, `2`, `device=0,capabilities=compute` of `--gpus`.
///
/// # Errors
/// Docker's sentence.
pub fn gpus(text: &str) -> Result<DeviceRequest, String> {
    if text.is_empty() {
        return Err("EOF".into());
    }
    let count = |text: &str| match text {
        "all" => Ok(-1),
        text => text.parse().map_err(|_| {
            format!(
                "invalid count ({text}): value must be either \"all\" or an integer: invalid syntax"
            )
        }),
    };
    let split = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
    let mut request = DeviceRequest {
        options: Some(BTreeMap::new()),
        capabilities: Some(vec![vec!["gpu".to_owned()]]),
        ..DeviceRequest::default()
    };
    let mut seen: Vec<String> = Vec::new();
    for field in fields(text) {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (field.as_str(), None),
        };
        if seen.iter().any(|seen| seen == key) {
            return Err(format!(
                "gpu request key '{key}' can be specified only once"
            ));
        }
        seen.push(key.to_owned());
        match (key, value) {
            (key, None) => {
                seen.push("count".to_owned());
                request.count = count(key)?;
            }
            ("count", Some(value)) => request.count = count(value)?,
            ("driver", Some(value)) => request.driver = value.to_owned(),
            ("device", Some(value)) => request.device_ids = Some(split(value)),
            ("capabilities", Some(value)) => {
                let mut capabilities = split(value);
                capabilities.push("gpu".to_owned());
                request.capabilities = Some(vec![capabilities]);
            }
            ("options", Some(value)) => request.options = Some(pairs(&fields(value))),
            (key, Some(_)) => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
    }
    if !seen.iter().any(|key| key == "count") && request.device_ids.is_none() {
        request.count = 1;
    }
    Ok(request)
}
