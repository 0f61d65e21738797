//! The values of single flags: sizes, mounts, ports, limits. Pure but for the files they name.

use std::collections::BTreeMap;
use std::fs;

use super::own_variable;
use crate::api::Empty;
use crate::api::container::{
    BindOptions, DeviceMapping, Driver, ImageOptions, Mount, PortBinding, PortMap, RestartPolicy,
    TmpfsOptions, Ulimit, VolumeOptions,
};
use crate::types::duration::Duration;
use crate::types::size;

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

/// The lines of a file of variables or labels, without comments.
fn lines(path: &str) -> Result<Vec<String>, String> {
    let text = fs::read(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => format!("open {path}: no such file or directory"),
        _ => format!("open {path}: {error}"),
    })?;
    let text =
        String::from_utf8(text).map_err(|_| format!("invalid utf8 bytes in the file {path}"))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    Ok(text
        .lines()
        .map(str::trim_start)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect())
}

/// The labels of a file.
pub fn label_file(path: &str) -> Result<Vec<String>, String> {
    lines(path)
}

/// Variables of files and of `-e`. A bare name takes the user's own value; in a file it vanishes
/// where the user has none, with `-e` it is sent and takes the image's variable away.
pub fn read_environment(files: &[String], given: &[String]) -> Result<Vec<String>, String> {
    let mut all = Vec::new();
    for file in files {
        for line in lines(file)? {
            let name = line.split('=').next().unwrap_or_default();
            if name.is_empty() {
                return Err(format!(
                    "invalid env file ({file}): no variable name on line '{line}'"
                ));
            }
            if name.contains(char::is_whitespace) {
                return Err(format!(
                    "invalid env file ({file}): variable '{name}' contains whitespaces"
                ));
            }
            if line.contains('=') {
                all.push(line);
            } else if let Some(value) = own_variable(&line) {
                all.push(format!("{line}={value}"));
            }
        }
    }
    for line in given {
        if line.is_empty() || line.starts_with('=') {
            return Err(format!(
                "invalid argument \"{line}\" for \"-e, --env\" flag: invalid environment variable: {line}"
            ));
        }
        match own_variable(line).filter(|_| !line.contains('=')) {
            Some(value) => all.push(format!("{line}={value}")),
            None => all.push(line.clone()),
        }
    }
    Ok(all)
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

/// `/dev/x[:/dev/y][:rwm]`
pub fn device(text: &str) -> Result<DeviceMapping, String> {
    let is_mode = |part: &str| !part.is_empty() && part.chars().all(|mode| "rwm".contains(mode));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, mode) = match *parts.as_slice() {
        [source] => (source, source, "rwm"),
        [source, mode] if is_mode(mode) => (source, source, mode),
        [source, target] => (source, target, "rwm"),
        [source, target, mode] => (source, target, mode),
        _ => return Err(format!("invalid device specification: {text}")),
    };
    if source.is_empty() {
        return Err(format!("invalid device specification: {text}"));
    }
    Ok(DeviceMapping {
        path_on_host: source.to_owned(),
        path_in_container: target.to_owned(),
        cgroup_permissions: mode.to_owned(),
    })
}

/// `nofile=1024[:2048]` of `--ulimit`
pub fn ulimit(text: &str) -> Result<Ulimit, String> {
    limit(text).map_err(|why| format!("invalid argument \"{text}\" for \"--ulimit\" flag: {why}"))
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
    let invalid = |why: String| format!("invalid argument \"{text}\" for \"--mount\" flag: {why}");
    let truth = |key: &str, value: Option<&str>| match value {
        None | Some("1" | "true" | "True" | "TRUE" | "t" | "T") => Ok(true),
        Some("0" | "false" | "False" | "FALSE" | "f" | "F") => Ok(false),
        Some(other) => Err(invalid(format!("invalid value for {key}: {other}"))),
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
        let value = value
            .ok_or_else(|| invalid(format!("invalid field '{field}' must be a key=value pair")))?;
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
                .ok_or_else(|| invalid(format!("invalid value for {key}: {value}")))?,
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
                mount.tmpfs_options.get_or_insert_default().size_bytes = bytes(value)
                    .map_err(|_| invalid(format!("invalid value for {key}: {value}")))?;
            }
            "tmpfs-mode" => {
                mount.tmpfs_options.get_or_insert_default().mode = u32::from_str_radix(value, 8)
                    .map_err(|_| invalid(format!("invalid value for {key}: {value}")))?;
            }
            _ => return Err(invalid(format!("unexpected key '{key}' in '{field}'"))),
        }
    }
    if mount.target.is_empty() {
        return Err(invalid("target is required".into()));
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
        return Err(invalid(format!(
            "cannot mix '{kind}-*' options with mount type '{}'",
            mount.kind
        )));
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
fn fields(text: &str) -> Vec<String> {
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
        for port in self::range(range).ok_or_else(|| {
            format!("invalid range format for --expose: {text}, error: invalid port")
        })? {
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
