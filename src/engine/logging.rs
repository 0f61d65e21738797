//! From `--log-opt` to what the shim is told of a container's log.
//!
//! Names of options were judged when the container was made, values are judged at its start
//! (`spec::log`); what is wrong with tags and patterns is told here.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use regex::Regex;
use serde_json::{Value, json};

use crate::container::logs::journald::{self, Journal};
use crate::container::logs::syslog::{self, Syslog};
use crate::container::logs::{Delivery, Format, Remote};
use crate::container::protocol::{LogTarget, Rotation};
use crate::container::record::Record;
use crate::template::{Missing, Template};
use crate::types::size;

/// Docker's bounds of the driver `local`.
const LOCAL: Rotation = Rotation {
    max_size: Some(20 * 1024 * 1024),
    max_files: 5,
    compress: true,
};

/// Most bytes that wait where `mode=non-blocking` names no number; Docker's.
const BUFFER: u64 = 1_000_000;

/// A container's log as the shim is told of it.
pub(super) struct Logging {
    /// Its files, where it has some.
    pub(super) target: Option<LogTarget>,
    /// How it gets there, and where else.
    pub(super) delivery: Option<Delivery>,
}

/// What is written, and where to; `file` where it can be read.
///
/// # Errors
/// Docker's sentence, where a tag or a pattern is none, or there is no journal.
pub(super) fn of(
    record: &Record,
    file: Option<(PathBuf, Format)>,
    hostname: &str,
) -> Result<Logging, String> {
    let log = &record.host_config.log_config;
    let tag = |default: &str| {
        let tag = option(record, "tag").unwrap_or(default);
        tagged(tag, || info(record, hostname))
    };
    let remote = match log.kind.as_str() {
        "syslog" => {
            let option = |name: &str| option(record, name).unwrap_or_default();
            Some(Remote::Syslog(Syslog {
                address: syslog::Address::parse(option("syslog-address"))?,
                tls: syslog::Tls {
                    authorities: option("syslog-tls-ca-cert").into(),
                    certificate: option("syslog-tls-cert").into(),
                    key: option("syslog-tls-key").into(),
                    // Whatever it says, as in Docker.
                    skip_verify: log
                        .config
                        .as_ref()
                        .is_some_and(|options| options.contains_key("syslog-tls-skip-verify")),
                },
                facility: syslog::facility(option("syslog-facility"))?,
                layout: syslog::Layout::parse(option("syslog-format"))?,
                tag: tag("{{.ID}}")?,
                hostname: hostname.to_owned(),
            }))
        }
        "journald" => Some(Remote::Journal(Journal {
            socket: journald::SOCKET.into(),
            fields: fields(record, &tag("{{.ID}}")?)?,
        })),
        _ => None,
    };
    let is_lossy = option(record, "mode") == Some("non-blocking");
    let bytes = option(record, "max-buffer-size").and_then(|text| size::memory(text).ok());
    let bytes = bytes.and_then(|bytes| u64::try_from(bytes).ok());
    let buffer = is_lossy.then(|| bytes.unwrap_or(BUFFER));
    let target = match file {
        Some((path, format)) => {
            let mut attrs = attributes(record, str::to_owned)?;
            let tag = tag("")?;
            if !tag.is_empty() {
                attrs.insert("tag".to_owned(), tag);
            }
            let prefix = if remote.is_some() { "cache-" } else { "" };
            Some(LogTarget {
                path,
                format,
                attrs,
                rotation: rotation(record, format, prefix),
            })
        }
        None => None,
    };
    let is_handed = remote.is_some() || (buffer.is_some() && target.is_some());
    Ok(Logging {
        target,
        delivery: is_handed.then_some(Delivery { remote, buffer }),
    })
}

/// What the journal is told of a container with every message.
fn fields(record: &Record, tag: &str) -> Result<BTreeMap<String, String>, String> {
    let mut epoch = [0_u8; 32];
    getrandom::fill(&mut epoch).map_err(|error| error.to_string())?;
    let epoch: String = epoch.iter().map(|byte| format!("{byte:02x}")).collect();
    let own = [
        ("CONTAINER_ID", record.id.short()),
        ("CONTAINER_ID_FULL", record.id.as_str()),
        ("CONTAINER_NAME", &record.name),
        ("CONTAINER_TAG", tag),
        ("IMAGE_NAME", &record.image_name),
        ("SYSLOG_IDENTIFIER", tag),
        ("CONTAINER_LOG_EPOCH", &epoch),
    ];
    let mut fields: BTreeMap<_, _> = own
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    fields.extend(attributes(record, journald::field_name)?);
    Ok(fields)
}

/// Makes the directory of a log, where it has one of its own.
pub(super) fn make_directory(log: &Path) -> io::Result<()> {
    let directory = log.parent().unwrap_or(Path::new("/"));
    match std::fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn option<'a>(record: &'a Record, name: &str) -> Option<&'a str> {
    let options = record.host_config.log_config.config.as_ref()?;
    options
        .get(name)
        .map(String::as_str)
        .filter(|text| !text.is_empty())
}

/// How files are bounded, by options whose names begin with `prefix`.
fn rotation(record: &Record, format: Format, prefix: &str) -> Rotation {
    let default = match format {
        Format::Local => LOCAL,
        Format::Json => Rotation {
            max_size: None,
            max_files: 1,
            compress: false,
        },
    };
    let option = |name: &str| option(record, &format!("{prefix}{name}"));
    let size = option("max-size").and_then(|text| size::file(text).ok());
    let files = option("max-file").and_then(|text| text.parse().ok());
    let compress =
        option("compress").map(|text| matches!(text.as_bytes(), [b'1' | b't' | b'T', ..]));
    Rotation {
        max_size: size
            .and_then(|size| u64::try_from(size).ok())
            .or(default.max_size),
        max_files: files.unwrap_or(default.max_files),
        compress: compress.unwrap_or(default.compress),
    }
}

/// Chosen labels and variables; `key` gives them their names.
fn attributes(
    record: &Record,
    key: impl Fn(&str) -> String,
) -> Result<BTreeMap<String, String>, String> {
    let mut attributes = BTreeMap::new();
    let mut insert = |name: &str, value: &str| {
        attributes.insert(key(name), value.to_owned());
    };
    let names = |option_name: &str| option(record, option_name).unwrap_or("").split(',');
    let labels = record.config.labels.as_ref();
    for name in names("labels") {
        if let Some(value) = labels.and_then(|labels| labels.get(name)) {
            insert(name, value);
        }
    }
    let pattern = |option_name: &str| {
        let pattern = option(record, option_name).map(|text| {
            Regex::new(text).map_err(|_| format!("error parsing regexp: invalid pattern: `{text}`"))
        });
        pattern.transpose()
    };
    if let Some(pattern) = pattern("labels-regex")? {
        let chosen = labels.into_iter().flatten();
        let chosen = chosen.filter(|(name, _)| pattern.is_match(name));
        chosen.for_each(|(name, value)| insert(name, value));
    }
    let pairs = record.config.env.iter().flatten();
    let variables: BTreeMap<&str, &str> = pairs.filter_map(|pair| pair.split_once('=')).collect();
    for name in names("env") {
        if let Some(value) = variables.get(name) {
            insert(name, value);
        }
    }
    if let Some(pattern) = pattern("env-regex")? {
        let chosen = variables.iter().filter(|(name, _)| pattern.is_match(name));
        chosen.for_each(|(name, value)| insert(name, value));
    }
    Ok(attributes)
}

/// A tag with its template filled in.
fn tagged(tag: &str, info: impl FnOnce() -> Value) -> Result<String, String> {
    if !tag.contains("{{") {
        return Ok(tag.to_owned());
    }
    let template = Template::parse(tag);
    let text = template.and_then(|it| it.render(&info(), Missing::Field("*logger.Info")));
    text.map_err(|error| error.of("log-tag"))
}

/// What a tag can say of a container: Docker's `logger.Info`, its fields and its methods.
fn info(record: &Record, hostname: &str) -> Value {
    let image = record.image.to_string();
    let short: String = image
        .trim_start_matches("sha256:")
        .chars()
        .take(12)
        .collect();
    let (path, args) = super::inspect::path_and_arguments(record);
    let command = [std::slice::from_ref(&path), &args[..]].concat().join(" ");
    json!({
        "ID": record.id.short(),
        "FullID": record.id.as_str(),
        "Name": record.name,
        "ImageID": short,
        "ImageFullID": image,
        "ImageName": record.image_name,
        "Command": command,
        "Hostname": hostname,
        "Config": record.host_config.log_config.config,
        "ContainerID": record.id.as_str(),
        "ContainerName": format!("/{}", record.name),
        "ContainerEntrypoint": path,
        "ContainerArgs": args,
        "ContainerImageID": image,
        "ContainerImageName": record.image_name,
        "ContainerEnv": record.config.env,
        "ContainerLabels": record.config.labels,
        "DaemonName": "docker",
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::tagged;

    #[test]
    fn tags_are_filled_in() {
        let info = || json!({"ID": "id", "Name": "name", "ContainerLabels": {"a": "b"}});
        for (tag, expected) in [
            ("plain", Ok("plain")),
            ("{{.Name}}/{{ .ID }}!", Ok("name/id!")),
            (
                "{{upper .Name}} {{.ID | json}} {{pad .ID 1 2}} {{truncate .Name 2}}",
                Ok("NAME \"id\"  id   na"),
            ),
            (
                "{{index .ContainerLabels \"a\"}}{{join (split .Name \"a\") \"-\"}} {{title .ID}}",
                Ok("bn-me Id"),
            ),
            ("{{if eq .Name \"name\"}}yes{{end}}", Ok("yes")),
            ("{{.Name", Err("template: log-tag:1: unclosed action")),
            (
                "x{{.Foo}}",
                Err(
                    "template: log-tag:1:3: executing \"log-tag\" at <.Foo>: can't evaluate field \
                     Foo in type *logger.Info",
                ),
            ),
        ] {
            let expected = expected.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(tagged(tag, info), expected, "{tag}");
        }
    }
}
