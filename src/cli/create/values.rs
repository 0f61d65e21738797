//! The values of single flags: sizes, mounts, ports, limits. Pure but for the files they name.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;

use super::own_variable;
use crate::api::Empty;
use crate::api::container::{
    BindOptions, Driver, ImageOptions, Mount, PortBinding, PortMap, RestartPolicy, TmpfsOptions,
    Ulimit, VolumeOptions,
};
use crate::types::duration::Duration;
use crate::types::errno;
use crate::types::{size, sysctl};

/// `64m`, `1.5g`, `1024`: bytes, in binary units.
pub fn bytes(text: &str) -> Result<i64, String> {
    size::memory(text)
}

/// `1.5` CPUs in billionths.
pub fn cpus(text: &str) -> Result<i64, String> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if text.is_empty() || text == "." || !digits(whole) || !digits(fraction) {
        return Err(format!("failed to parse {text} as a rational number"));
    }
    if fraction.trim_end_matches('0').len() > 9 {
        return Err("value is too precise".into());
    }
    let fraction: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let number = |text: &str| {
        if text.is_empty() {
            Ok(0)
        } else {
            text.parse::<i64>()
        }
    };
    number(whole)
        .ok()
        .and_then(|whole| whole.checked_mul(1_000_000_000))
        .and_then(|whole| whole.checked_add(number(&fraction).ok()?))
        .ok_or_else(|| format!("failed to parse {text} as a rational number"))
}

/// Nanoseconds of a Go duration.
pub fn duration(text: &str) -> Result<i64, String> {
    text.parse::<Duration>()
        .map(Duration::nanos)
        .map_err(|error| error.to_string())
}

/// `key=value` lines as a map; a bare key has an empty value.
pub fn pairs(lines: &[String]) -> BTreeMap<String, String> {
    let pair = |line: &String| {
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        (key.to_owned(), value.to_owned())
    };
    lines.iter().map(pair).collect()
}

/// The lines of a file of variables or labels, without comments. A bare name takes the user's own
/// value where `look_up` is set, and vanishes where there is none.
fn lines(path: &str, look_up: bool) -> Result<Vec<String>, String> {
    let invalid = |why: String| format!("invalid env file ({path}): {why}");
    let text = fs::read(path).map_err(|error| match error.kind() {
        // It can be opened.
        ErrorKind::IsADirectory => invalid(format!("read {path}: {}", errno::text(&error))),
        _ => format!("open {path}: {}", errno::text(&error)),
    })?;
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
    let mut kept = Vec::new();
    for (index, bytes) in text.split(|byte| *byte == b'\n').enumerate() {
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        let line = std::str::from_utf8(bytes).map_err(|_| {
            let bytes: Vec<String> = bytes.iter().map(u8::to_string).collect();
            let (number, bytes) = (index + 1, bytes.join(" "));
            invalid(format!("invalid utf8 bytes at line {number}: [{bytes}]"))
        })?;
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = line.split('=').next().unwrap_or_default();
        if name.is_empty() {
            return Err(invalid(format!("no variable name on line '{line}'")));
        }
        if name.contains([' ', '\t']) {
            return Err(invalid(format!("variable '{name}' contains whitespaces")));
        }
        if line.contains('=') || !look_up {
            kept.push(line.to_owned());
        } else if let Some(value) = own_variable(line) {
            kept.push(format!("{line}={value}"));
        }
    }
    Ok(kept)
}

/// The labels of a file.
pub fn label_file(path: &str) -> Result<Vec<String>, String> {
    lines(path, false)
}

/// Variables of files and of `-e`. A bare name takes the user's own value; in a file it vanishes
/// where the user has none, with `-e` it is sent and takes the image's variable away.
pub fn read_environment(files: &[String], given: &[String]) -> Result<Vec<String>, String> {
    let mut all = Vec::new();
    for file in files {
        all.extend(lines(file, true)?);
    }
    for line in given {
        match own_variable(line).filter(|_| !line.contains('=')) {
            Some(value) => all.push(format!("{line}={value}")),
            None => all.push(line.clone()),
        }
    }
    Ok(all)
}

/// Whether a label has a name.
pub fn label(text: &str) -> Result<(), String> {
    let name = text.split('=').next().unwrap_or_default();
    let name = name.trim_start_matches([' ', '\t']);
    if name.is_empty() {
        return Err(format!("invalid label '{text}': empty name"));
    }
    match name.contains([' ', '\t']) {
        true => Err(format!("label '{name}' contains whitespaces")),
        false => Ok(()),
    }
}

/// Whether a text is a link: `name` or `name:alias`.
pub fn link(text: &str) -> Result<(), String> {
    match text.split(':').count() {
        _ if text.is_empty() => Err("empty string specified for links".into()),
        1 | 2 => Ok(()),
        _ => Err(format!("bad format for links: {text}")),
    }
}

/// Whether a sysctl is one of a namespace's.
pub fn sysctl(text: &str) -> Result<(), String> {
    let name = text.split_once('=').map(|(name, _)| name);
    match name.and_then(sysctl::owner) {
        Some(_) => Ok(()),
        None => Err(format!("sysctl '{text}' is not allowed")),
    }
}

/// Whether a text is a domain to search in, or `.` for none.
pub fn search_domain(text: &str) -> Result<(), String> {
    let domain = text.trim_matches(' ');
    let label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        !label.is_empty()
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let fits = domain.contains(|c: char| c.is_ascii_alphabetic())
        && domain.len() < 255
        && domain
            .strip_suffix('.')
            .unwrap_or(domain)
            .split('.')
            .all(label);
    match domain == "." || fits {
        true => Ok(()),
        false => Err(format!("{domain} is not a valid domain")),
    }
}

/// A host of `--add-host`: `name:address` and `name=address` are the same.
pub fn extra_host(text: &str) -> Result<String, String> {
    let (name, address) = text
        .split_once('=')
        .or_else(|| text.split_once(':'))
        .filter(|(name, address)| !name.is_empty() && !address.is_empty())
        .ok_or_else(|| format!("bad format for add-host: \"{text}\""))?;
    let bare = address
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(address);
    if bare != "host-gateway" && bare.parse::<std::net::IpAddr>().is_err() {
        return Err(format!("invalid IP address in add-host: \"{address}\""));
    }
    Ok(format!("{name}:{bare}"))
}

/// `no`, `always`, `unless-stopped`, `on-failure[:N]`.
pub fn restart(text: &str) -> Result<RestartPolicy, String> {
    let (name, count) = text.split_once(':').unwrap_or((text, ""));
    if text.starts_with(':') {
        return Err("invalid restart policy format: no policy provided before colon".into());
    }
    let maximum_retry_count = if count.is_empty() {
        0
    } else {
        count.parse().map_err(|_| {
            "invalid restart policy format: maximum retry count must be an integer".to_owned()
        })?
    };
    Ok(RestartPolicy {
        name: name.to_owned(),
        maximum_retry_count,
    })
}

/// Resources that can be limited (go-units, `ulimit.go`).
const LIMITED: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// `nofile=1024[:2048]`
pub fn limit(text: &str) -> Result<Ulimit, String> {
    let (name, limits) = text
        .split_once('=')
        .ok_or_else(|| format!("invalid ulimit argument: {text}"))?;
    if !LIMITED.contains(&name) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    if hard.contains(':') {
        return Err(format!(
            "too many limit value arguments - {limits}, can only have up to two, `soft[:hard]`"
        ));
    }
    let number = |text: &str| match text {
        "unlimited" => Ok(-1),
        text => text
            .parse::<i64>()
            .map_err(|_| format!("strconv.ParseInt: parsing {text:?}: invalid syntax")),
    };
    let (soft, hard) = (number(soft)?, number(hard)?);
    if hard != -1 && soft == -1 {
        return Err(format!(
            "ulimit soft limit must be less than or equal to hard limit: soft: -1 (unlimited), \
             hard: {hard}"
        ));
    }
    if hard != -1 && soft > hard {
        return Err(format!(
            "ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
        ));
    }
    Ok(Ulimit {
        name: name.to_owned(),
        hard,
        soft,
    })
}

/// `type=bind,source=/a,target=/b,readonly`; fields may be quoted as in CSV.
pub fn mount(text: &str) -> Result<Mount, String> {
    let mut mount = Mount {
        kind: "volume".into(),
        ..Mount::default()
    };
    let truth = |key: &str, value: Option<&str>| match value {
        None | Some("1" | "true" | "True" | "TRUE" | "t" | "T") => Ok(true),
        Some("0" | "false" | "False" | "FALSE" | "f" | "F") => Ok(false),
        Some(other) => Err(format!("invalid value for {key}: {other}")),
    };
    for field in fields(text) {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (field.as_str(), None),
        };
        let key = key.to_ascii_lowercase();
        match key.as_str() {
            "readonly" | "ro" => {
                mount.read_only = truth(&key, value)?;
                continue;
            }
            "volume-nocopy" => {
                mount.volume_options.get_or_insert_default().no_copy = truth(&key, value)?;
                continue;
            }
            "bind-nonrecursive" => {
                mount.bind_options.get_or_insert_default().non_recursive = truth(&key, value)?;
                continue;
            }
            "bind-create-src" => {
                let options = mount.bind_options.get_or_insert_default();
                options.create_mountpoint = truth(&key, value)?;
                continue;
            }
            _ => {}
        }
        let value =
            value.ok_or_else(|| format!("invalid field '{field}' must be a key=value pair"))?;
        let owned = value.to_owned();
        match key.as_str() {
            "type" => mount.kind = value.to_ascii_lowercase(),
            "source" | "src" => mount.source = owned,
            "target" | "dst" | "destination" => mount.target = owned,
            "consistency" => mount.consistency = owned,
            "bind-propagation" => {
                mount.bind_options.get_or_insert_default().propagation = value.to_ascii_lowercase();
            }
            "bind-recursive" => bind_recursive(&mut mount, value)
                .ok_or_else(|| format!("invalid value for {key}: {value}"))?,
            "volume-subpath" => mount.volume_options.get_or_insert_default().subpath = owned,
            "image-subpath" => {
                mount.image_options = Some(ImageOptions { subpath: owned });
            }
            "volume-label" => {
                let (name, text) = value.split_once('=').unwrap_or((value, ""));
                let options = mount.volume_options.get_or_insert_default();
                let labels = options.labels.get_or_insert_default();
                labels.insert(name.to_owned(), text.to_owned());
            }
            "volume-driver" => driver(&mut mount).name = owned,
            "volume-opt" => {
                let (name, text) = value.split_once('=').unwrap_or((value, ""));
                let options = driver(&mut mount).options.get_or_insert_default();
                options.insert(name.to_owned(), text.to_owned());
            }
            "tmpfs-size" => {
                mount.tmpfs_options.get_or_insert_default().size_bytes =
                    bytes(value).map_err(|_| format!("invalid value for {key}: {value}"))?;
            }
            "tmpfs-mode" => {
                mount.tmpfs_options.get_or_insert_default().mode = u32::from_str_radix(value, 8)
                    .map_err(|_| format!("invalid value for {key}: {value}"))?;
            }
            _ => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
    }
    if mount.target.is_empty() {
        return Err("target is required".into());
    }
    let others = [
        (
            "bind",
            mount
                .bind_options
                .as_ref()
                .is_some_and(|o| *o != BindOptions::default()),
        ),
        (
            "volume",
            mount
                .volume_options
                .as_ref()
                .is_some_and(|o| *o != VolumeOptions::default()),
        ),
        (
            "tmpfs",
            mount
                .tmpfs_options
                .as_ref()
                .is_some_and(|o| *o != TmpfsOptions::default()),
        ),
        ("image", mount.image_options.is_some()),
    ];
    if let Some((kind, _)) = others
        .iter()
        .find(|(kind, set)| *set && *kind != mount.kind)
    {
        return Err(format!(
            "cannot mix '{kind}-*' options with mount type '{}'",
            mount.kind
        ));
    }
    if mount.kind == "bind" && mount.source.starts_with('.') {
        mount.source = std::path::absolute(&mount.source).map_or(mount.source, |path| {
            super::tidy(&path).to_string_lossy().into_owned()
        });
    }
    Ok(mount)
}

fn driver(mount: &mut Mount) -> &mut Driver {
    let options = mount.volume_options.get_or_insert_default();
    options.driver_config.get_or_insert_default()
}

fn bind_recursive(mount: &mut Mount, value: &str) -> Option<()> {
    let options = mount.bind_options.get_or_insert_default();
    match value {
        "enabled" => {}
        "disabled" => options.non_recursive = true,
        "writable" => options.read_only_non_recursive = true,
        "readonly" => options.read_only_force_recursive = true,
        _ => return None,
    }
    Some(())
}

/// Splits at commas outside quotes; a quoted field begins with `"`, and `""` in it is a quote.
pub(super) fn fields(text: &str) -> Vec<String> {
    let mut fields = Vec::new();
    let mut field = String::new();
    let mut quoted = false;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                field.push('"');
                characters.next();
            }
            '"' if quoted || field.is_empty() => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            other => field.push(other),
        }
    }
    fields.push(field);
    fields
}

/// `-p` and `--expose`: the container's ports, and where they are published.
pub fn ports(
    published: &[String],
    exposed: &[String],
) -> Result<(BTreeMap<String, Empty>, PortMap), String> {
    let mut ports = BTreeMap::new();
    let mut bindings = PortMap::new();
    for text in published {
        publish(text, &mut ports, &mut bindings)?;
    }
    for text in exposed {
        if text.contains(':') {
            return Err(format!("invalid port format for --expose: {text}"));
        }
        let (range, protocol) = protocol(text)?;
        let range = exposed_range(range)
            .map_err(|why| format!("invalid range format for --expose: {text}, error: {why}"))?;
        for port in range {
            ports.insert(format!("{port}/{protocol}"), Empty {});
        }
    }
    Ok((ports, bindings))
}

/// `[[ip:][hostPort]:]containerPort[/protocol]`, each of the ports perhaps a range. Also the long
/// form, `published=8080,target=80`.
fn publish(
    text: &str,
    ports: &mut BTreeMap<String, Empty>,
    bindings: &mut PortMap,
) -> Result<(), String> {
    let long = long_port(text);
    let text = long.as_deref().unwrap_or(text);
    let (places, protocol) = protocol(text)?;
    let (rest, container) = places.rsplit_once(':').unwrap_or(("", places));
    let (address, host) = rest.rsplit_once(':').unwrap_or(("", rest));
    // `[::1]:80:80` has its colons inside the brackets.
    let address = match (address.strip_prefix('['), host.ends_with(']')) {
        (Some(address), false) => address.strip_suffix(']').unwrap_or(address),
        _ => address,
    };
    if container.is_empty() {
        return Err(format!("no port specified: {text}<empty>"));
    }
    if !address.is_empty() && address.parse::<std::net::IpAddr>().is_err() {
        return Err(format!("invalid IP address: {address}"));
    }
    let containers =
        range(container).ok_or_else(|| format!("invalid containerPort: {container}"))?;
    let hosts = match host {
        "" => None,
        host => Some(range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?),
    };
    let count = containers.clone().count();
    if let Some(hosts) = &hosts {
        // Several host ports for one container port: any of them.
        if hosts.clone().count() != count && count != 1 {
            return Err(format!(
                "invalid ranges specified for container and host Ports: {container} and {host}"
            ));
        }
    }
    for (index, port) in containers.enumerate() {
        let host_port = match &hosts {
            None => String::new(),
            Some(_) if count == 1 => host.to_owned(),
            Some(hosts) => hosts
                .clone()
                .nth(index)
                .map(|port| port.to_string())
                .unwrap_or_default(),
        };
        let name = format!("{port}/{protocol}");
        ports.insert(name.clone(), Empty {});
        let places = bindings.entry(name).or_default().get_or_insert_default();
        places.push(PortBinding {
            host_ip: address.to_owned(),
            host_port,
        });
    }
    Ok(())
}

/// The long form in the short one's words.
fn long_port(text: &str) -> Option<String> {
    if !text.contains('=') {
        return None;
    }
    let find = |names: &[&str]| {
        text.split(',')
            .filter_map(|field| field.split_once('='))
            .find(|(key, _)| names.contains(key))
            .map(|(_, value)| value)
    };
    let target = find(&["target"])?;
    let published = find(&["published"]).unwrap_or_default();
    let protocol = find(&["protocol"]).unwrap_or("tcp");
    Some(format!("{published}:{target}/{protocol}"))
}

fn protocol(text: &str) -> Result<(&str, &str), String> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Ok((port, "tcp")),
        "udp" => Ok((port, "udp")),
        "sctp" => Ok((port, "sctp")),
        _ => Err(format!("invalid proto: {protocol}")),
    }
}

/// `80` or `80-90`.
fn range(text: &str) -> Option<std::ops::RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some(first..=last)
}

/// A port's number.
pub fn port(text: &str) -> Result<u16, String> {
    text.parse::<u16>().map_err(|error| {
        let why = match error.kind() {
            std::num::IntErrorKind::PosOverflow => "value out of range",
            _ => "invalid syntax",
        };
        format!("strconv.ParseUint: parsing {text:?}: {why}")
    })
}

/// A range in the words of `--expose`.
fn exposed_range(text: &str) -> Result<std::ops::RangeInclusive<u16>, String> {
    if text.is_empty() {
        return Err("empty string specified for ports".into());
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (port(first)?, port(last)?) {
        (first, last) if first <= last => Ok(first..=last),
        _ => Err(format!("invalid range specified for port: {text}")),
    }
}
