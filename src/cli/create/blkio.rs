//! Shares and rates of block devices: `--blkio-weight-device`, `--device-read-bps` and the like.

use crate::api::container::{ThrottleDevice, WeightDevice};
use crate::types::size;

/// The device and the rest of `/dev/sda:100`.
fn split(text: &str) -> Result<(&str, &str), String> {
    let (path, rest) = text
        .split_once(':')
        .filter(|(path, _)| !path.is_empty())
        .ok_or_else(|| format!("bad format: {text}"))?;
    if !path.starts_with("/dev/") {
        return Err(format!("bad format for device path: {text}"));
    }
    Ok((path, rest))
}

/// `/dev/sda:100`: a weight of 10 to 1000, or 0 for none.
///
/// # Errors
/// Docker's sentence.
pub fn weight(text: &str) -> Result<WeightDevice, String> {
    let (path, weight) = split(text)?;
    let weight = weight
        .parse()
        .ok()
        .filter(|weight| matches!(weight, 0 | 10..=1000))
        .ok_or_else(|| format!("invalid weight for device: {text}"))?;
    Ok(WeightDevice {
        path: path.to_owned(),
        weight,
    })
}

/// `/dev/sda:1mb`: bytes in a second.
///
/// # Errors
/// Docker's sentence.
pub fn bytes_rate(text: &str) -> Result<ThrottleDevice, String> {
    let (path, rate) = split(text)?;
    let rate = size::memory(rate)
        .ok()
        .and_then(|rate| rate.try_into().ok());
    let rate = rate.ok_or_else(|| {
        format!(
            "invalid rate for device: {text}. The correct format is <device-path>:<number>[<unit>]. \
             Number must be a positive integer. Unit is optional and can be kb, mb, or gb"
        )
    })?;
    Ok(ThrottleDevice {
        path: path.to_owned(),
        rate,
    })
}

/// `/dev/sda:1000`: operations in a second.
///
/// # Errors
/// Docker's sentence.
pub fn operations_rate(text: &str) -> Result<ThrottleDevice, String> {
    let (path, rate) = split(text)?;
    let rate = rate.parse().map_err(|_| {
        format!(
            "invalid rate for device: {text}. The correct format is <device-path>:<number>. Number \
             must be a positive integer"
        )
    })?;
    Ok(ThrottleDevice {
        path: path.to_owned(),
        rate,
    })
}
