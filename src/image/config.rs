//! An image's configuration, as Docker and OCI write it.
//!
//! The bytes are what an image's id is the digest of, so they are kept verbatim and never written
//! again from these structs; these are a view, read as tolerantly as Go reads it
//! ([`api::json`](crate::api::json)): other builders leave out, write `null`, or one string for a
//! list. The view stays in memory with the image, so what it may hold is bounded.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::error::Error;
use crate::api::Empty;
use crate::api::json::{self, string_or_list};
use crate::registry::LAYERS_MAX;
use crate::types::digest::Digest;
use crate::types::platform::Platform;
use crate::types::timestamp::Timestamp;

/// Longest config, in bytes: those of real images have some thousand.
pub(super) const CONFIG_MAX: u64 = 4 << 20;
/// Most elements of a list or map in it. Each costs the daemon some hundred bytes for as long as it
/// has the image.
const ELEMENTS_MAX: usize = 10_000;

/// Most values in it, whatever they are: each costs some dozen bytes while it is read.
const VALUES_MAX: usize = 200_000;

/// The whole document.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename = "Image", default)]
pub struct ImageConfig {
    /// When it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// Who made it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// Processor architecture, by Go's name.
    pub architecture: String,
    /// Variant of the architecture.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// Operating system.
    pub os: String,
    /// Version of the operating system (Windows).
    #[serde(rename = "os.version", skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// Comment of a commit or import.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// Docker's version that made it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub docker_version: String,
    /// What containers of the image start with.
    pub config: Config,
    /// The layers.
    pub rootfs: Option<RootFs>,
    /// How it came about.
    pub history: Vec<History>,
}

/// The layers of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RootFs {
    /// `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Digests of the layers' uncompressed tars, the lowest first.
    pub diff_ids: Vec<Digest>,
}

/// One step of an image's making.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// When.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// By what command.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    /// By whom.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// Why.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// The step made no layer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// What containers of an image start with; Docker's names.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Config {
    /// User and group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// `80/tcp` and the like.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exposed_ports: Option<BTreeMap<String, Empty>>,
    /// `NAME=value`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Program and first arguments.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "string_or_list"
    )]
    pub entrypoint: Option<Vec<String>>,
    /// Arguments, or program and arguments.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "string_or_list"
    )]
    pub cmd: Option<Vec<String>>,
    /// Paths that get an anonymous volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volumes: Option<BTreeMap<String, Empty>>,
    /// Working directory.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Signal that asks it to stop.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// How its health is checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Shell of the shell forms.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "string_or_list"
    )]
    pub shell: Option<Vec<String>>,
    /// Instructions for builds on top.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_build: Option<Vec<String>>,
    /// The command is one escaped string (Windows).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub args_escaped: bool,
}

/// A health check; times in nanoseconds, 0 for the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `NONE`, or `CMD` or `CMD-SHELL` and the command.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Between two checks.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// For one check.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// In which failures do not count.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Between checks in the start period.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures in a row that make it unhealthy.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde asks for a reference"
)]
fn is_zero(value: &i64) -> bool {
    *value == 0
}

impl ImageConfig {
    /// Reads a config's bytes.
    ///
    /// # Errors
    /// What is no config, or has more of anything than an image needs; the sentence is Docker's as
    /// far as Docker has one.
    pub fn read(raw: &[u8]) -> Result<Self, Error> {
        let invalid = |reason: String| Error::Invalid(format!("invalid image JSON: {reason}"));
        if raw.len() as u64 > CONFIG_MAX {
            return Err(invalid(format!("it has more than {CONFIG_MAX} bytes")));
        }
        if values(raw) > VALUES_MAX {
            return Err(invalid(format!("it has more than {VALUES_MAX} values")));
        }
        let read: Self = json::from_slice(raw).map_err(|error| invalid(error.reason()))?;
        let config = &read.config;
        let lists = [
            &config.entrypoint,
            &config.cmd,
            &config.shell,
            &config.on_build,
        ];
        let most = [read.history.len(), config.env.len()]
            .into_iter()
            .chain(lists.iter().map(|list| list.as_ref().map_or(0, Vec::len)))
            .chain(
                [&config.exposed_ports, &config.volumes]
                    .map(|map| map.as_ref().map_or(0, BTreeMap::len)),
            )
            .chain([config.labels.as_ref().map_or(0, BTreeMap::len)])
            .max();
        if most > Some(ELEMENTS_MAX) {
            return Err(invalid(format!(
                "a list has more than {ELEMENTS_MAX} elements"
            )));
        }
        if read.diff_ids().len() > LAYERS_MAX {
            return Err(invalid(format!("it has more than {LAYERS_MAX} layers")));
        }
        Ok(read)
    }

    /// What it runs on.
    pub fn platform(&self) -> Platform {
        Platform::new(&self.os, &self.architecture, &self.variant)
    }

    /// The layers' diff ids, the lowest first.
    pub fn diff_ids(&self) -> &[Digest] {
        self.rootfs.as_ref().map_or(&[], |rootfs| &rootfs.diff_ids)
    }
}

/// How many values a document has at most: each is the first of its list or object, or comes after a
/// comma; an empty one counts as if it had one.
fn values(raw: &[u8]) -> usize {
    let (mut count, mut in_string, mut is_escaped) = (1, false, false);
    for byte in raw {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = in_string,
            b'"' => in_string = !in_string,
            b',' | b'[' | b'{' if !in_string => count += 1,
            _ => {}
        }
    }
    count
}

/// The chain ids of layers, as Docker names a layer together with those below it: the lowest's is
/// its diff id, each other's the digest of the one below and its own diff id.
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chain.push(match chain.last() {
            None => *diff_id,
            Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
        });
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_as_go_reads_it() {
        let text = r#"{"architecture":"amd64","os":"linux","config":{"Env":[null,"L=caf?"],
            "Cmd":"sh","entryPoint":null,"Labels":{"a":null},"Volumes":null,
            "Healthcheck":{"Test":["NONE"],"Interval":null},"ArgsEscaped":true,"Memory":0},
            "container_config":{"Cmd":["x"]},"created":"2024-01-02T03:04:05.6Z","history":null,
            "rootfs":{"type":"layers","diff_ids":null}}"#;
        // Latin-1, as of old.
        let latin: Vec<u8> = text
            .bytes()
            .map(|b| if b == b'?' { 0xe9 } else { b })
            .collect();
        let config = ImageConfig::read(&latin).unwrap();
        assert_eq!(config.config.env, ["", "L=caf\u{fffd}"]);
        assert_eq!(config.config.cmd, Some(vec!["sh".to_owned()]));
        assert_eq!(config.config.labels.unwrap()["a"], "");
        assert!(config.config.args_escaped);
        assert_eq!(config.rootfs.unwrap().diff_ids, []);
        let empty = ImageConfig::read(br#"{"config":null}"#).unwrap();
        assert_eq!(empty.config, Config::default());
        let error = ImageConfig::read(br#"{"os":1}"#).unwrap_err().to_string();
        assert_eq!(
            error,
            "invalid image JSON: json: cannot unmarshal number into Go struct field Image.os of \
             type string"
        );
    }

    #[test]
    fn values_are_counted() {
        for (text, expected) in [
            ("0", 1),
            ("[]", 2),
            ("[1,2]", 3),
            (r#"{"a":[1,2],"b":{}}"#, 6),
            (r#"["a,b","\",[",1]"#, 4),
            (r#"["\\",1]"#, 3),
        ] {
            assert_eq!(values(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn what_stays_in_memory_is_bounded() {
        let list = |element: &str, count: usize| vec![element; count].join(",");
        let digest = format!("\"{}\"", Digest::of(b""));
        for (text, reason) in [
            (" ".repeat(5 << 20), "it has more than 4194304 bytes"),
            // Of no field that is known.
            (
                format!(r#"{{"x":[{}]}}"#, list("0", 200_000)),
                "it has more than 200000 values",
            ),
            (
                format!(r#"{{"history":[{}]}}"#, list("{}", 10_001)),
                "a list has more than 10000 elements",
            ),
            (
                format!(r#"{{"config":{{"Env":[{}]}}}}"#, list("\"\"", 10_001)),
                "a list has more than 10000 elements",
            ),
            (
                format!(r#"{{"rootfs":{{"diff_ids":[{}]}}}}"#, list(&digest, 500)),
                "it has more than 499 layers",
            ),
        ] {
            let error = ImageConfig::read(text.as_bytes()).unwrap_err().to_string();
            assert_eq!(error, format!("invalid image JSON: {reason}"));
        }
    }
}
