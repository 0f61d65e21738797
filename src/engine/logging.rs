//! From `--log-opt` to what the shim is told of a container's log.
//!
//! Options were judged when the container was made; what is not understood here all the same has
//! no effect. `compress` has none: rotated files stay as they are, for any reader.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::container::protocol::{LogTarget, Rotation};
use crate::container::record::Record;

/// Docker's bounds of the driver `local`.
const LOCAL: Rotation = Rotation {
    max_size: Some(20_000_000),
    max_files: 5,
};

/// What is written, and into which files.
pub(super) fn target(record: &Record, path: PathBuf) -> LogTarget {
    LogTarget {
        path,
        attrs: attributes(record),
        rotation: rotation(record),
    }
}

fn option<'a>(record: &'a Record, name: &str) -> Option<&'a str> {
    let options = record.host_config.log_config.config.as_ref()?;
    options
        .get(name)
        .map(String::as_str)
        .filter(|text| !text.is_empty())
}

fn rotation(record: &Record) -> Rotation {
    let default = match record.host_config.log_config.kind.as_str() {
        "local" => LOCAL,
        _ => Rotation {
            max_size: None,
            max_files: 1,
        },
    };
    let files = option(record, "max-file").and_then(|text| text.parse().ok());
    Rotation {
        max_size: option(record, "max-size")
            .and_then(size)
            .or(default.max_size),
        max_files: files.unwrap_or(default.max_files),
    }
}

/// Bytes of `10m`, `1.5g`, `100kb`: thousands, as in go-units' `FromHumanSize`.
fn size(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let text = text.strip_suffix('b').unwrap_or(&text);
    let (number, unit) = match text.char_indices().last()? {
        (at, 'k') => (&text[..at], 1e3),
        (at, 'm') => (&text[..at], 1e6),
        (at, 'g') => (&text[..at], 1e9),
        (at, 't') => (&text[..at], 1e12),
        (at, 'p') => (&text[..at], 1e15),
        _ => (text, 1.0),
    };
    let bytes = number.trim().parse::<f64>().ok()? * unit;
    // Saturates; what is below one byte is no bound.
    Some(bytes as u64).filter(|bytes| *bytes > 0)
}

/// What is written with every record: chosen labels and variables, and the tag.
fn attributes(record: &Record) -> BTreeMap<String, String> {
    let mut attributes = BTreeMap::new();
    let names = |option_name: &str| option(record, option_name).unwrap_or("").split(',');
    let labels = record.config.labels.as_ref();
    for name in names("labels") {
        if let Some(value) = labels.and_then(|labels| labels.get(name)) {
            attributes.insert(name.to_owned(), value.clone());
        }
    }
    let pattern = |option_name: &str| {
        option(record, option_name).and_then(|text| regex::Regex::new(text).ok())
    };
    if let Some(pattern) = pattern("labels-regex") {
        let chosen = labels.into_iter().flatten();
        let chosen = chosen.filter(|(name, _)| pattern.is_match(name));
        attributes.extend(chosen.map(|(name, value)| (name.clone(), value.clone())));
    }
    let pairs = record.config.env.iter().flatten();
    let variables: BTreeMap<&str, &str> = pairs.filter_map(|pair| pair.split_once('=')).collect();
    for name in names("env") {
        if let Some(value) = variables.get(name) {
            attributes.insert(name.to_owned(), (*value).to_owned());
        }
    }
    if let Some(pattern) = pattern("env-regex") {
        let chosen = variables.iter().filter(|(name, _)| pattern.is_match(name));
        attributes.extend(chosen.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    }
    if let Some(tag) = option(record, "tag") {
        attributes.insert("tag".to_owned(), tagged(tag, record));
    }
    attributes
}

/// A tag with its fields filled in.
fn tagged(tag: &str, record: &Record) -> String {
    let image = record.image.to_string();
    let short: String = image
        .trim_start_matches("sha256:")
        .chars()
        .take(12)
        .collect();
    [
        ("ID", record.id.short()),
        ("FullID", record.id.as_str()),
        ("Name", &record.name),
        ("ImageID", &short),
        ("ImageFullID", &image),
        ("ImageName", &record.image_name),
        ("DaemonName", "docker"),
    ]
    .iter()
    .fold(tag.to_owned(), |tag, (field, value)| {
        tag.replace(&format!("{{{{.{field}}}}}"), value)
    })
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_decimal() {
        for (text, bytes) in [
            ("10m", Some(10_000_000)),
            ("1.5kb", Some(1500)),
            ("200", Some(200)),
            ("2G", Some(2_000_000_000)),
            ("0", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(size(text), bytes, "{text}");
        }
    }
}
