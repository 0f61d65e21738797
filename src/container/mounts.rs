//! What a container wants mounted: the four ways of asking for it, made one list.
//!
//! A client says `Binds` (`-v`), `Mounts` (`--mount`) and `Tmpfs`; an image says `Volumes`. The
//! rules are moby's (volume/mounts/linux_parser.go, daemon/volumes_unix.go): a later way does not
//! override an earlier one's destination but is refused as a duplicate, except an image's or the
//! config's `Volumes`, which give way. Pure: volumes get their host paths, and binds their
//! existence check, from the engine.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::api::container::{ContainerConfig, HostConfig, Mount};
use crate::container::record::{MountKind, MountPoint};
use crate::types::path::clean;

/// A mount that makes no sense, in Docker's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MountError {
    /// `-v` could not be parsed.
    #[error("invalid volume specification: '{0}'")]
    Specification(String),
    /// `-v` could not be parsed, with a reason.
    #[error("invalid volume specification: '{specification}': {config}")]
    Because {
        /// As it was written.
        specification: String,
        /// What is wrong with what it means.
        config: Box<MountError>,
    },
    /// The third part of `-v`.
    #[error("invalid mode: {0}")]
    Mode(String),
    /// Two mounts at one place.
    #[error("Duplicate mount point: {0}")]
    Duplicate(String),
    /// `--mount`.
    #[error("invalid mount config for type \"{kind}\": {reason}")]
    Config {
        /// Its type.
        kind: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Everything that is to be mounted, with empty `source` for volumes; a volume without `name` is
/// anonymous and gets one from the engine. Tmpfs mounts of `Tmpfs` are not in the list: they are
/// not mount points to Docker's API, but their destinations displace image volumes.
pub fn resolve(config: &ContainerConfig, host: &HostConfig) -> Result<Vec<MountPoint>, MountError> {
    let mut taken = BTreeSet::new();
    let mut points = Vec::new();
    for bind in host.binds.iter().flatten() {
        let point = parse_bind(bind)?;
        claim(&mut taken, &point.destination)?;
        points.push(point);
    }
    for mount in host.mounts.iter().flatten() {
        let point = from_mount(mount)?;
        claim(&mut taken, &point.destination)?;
        points.push(point);
    }
    for destination in host.tmpfs.iter().flat_map(|map| map.keys()) {
        claim(&mut taken, &clean(destination))?;
    }
    for destination in config.volumes.iter().flat_map(|map| map.keys()) {
        let destination = clean(destination);
        if destination == "/" || !taken.insert(destination.clone()) {
            continue;
        }
        points.push(MountPoint {
            anonymous: true,
            ..volume(None, destination, String::new(), true)
        });
    }
    // A mount inside another one comes after it.
    points.sort_by_key(|point| point.destination.matches('/').count());
    Ok(points)
}

fn claim(taken: &mut BTreeSet<String>, destination: &str) -> Result<(), MountError> {
    if taken.insert(destination.to_owned()) {
        Ok(())
    } else {
        Err(MountError::Duplicate(destination.to_owned()))
    }
}

fn volume(name: Option<String>, destination: String, mode: String, writable: bool) -> MountPoint {
    MountPoint {
        kind: MountKind::Volume,
        name,
        source: PathBuf::new(),
        destination,
        mode,
        writable,
        propagation: String::new(),
        anonymous: false,
        populate: true,
        create_source: false,
        non_recursive: false,
        readonly_non_recursive: false,
        subpath: String::new(),
        image: None,
    }
}

/// Parses `[SOURCE:]DESTINATION[:MODE]`.
fn parse_bind(specification: &str) -> Result<MountPoint, MountError> {
    let parts: Vec<&str> = specification.split(':').collect();
    let bad = || MountError::Specification(specification.to_owned());
    let (source, destination, mode) = match parts.as_slice() {
        [destination] => (None, *destination, ""),
        // A mode needs a source. Nothing is a mode, too.
        [_, destination] if is_mode(destination) => return Err(bad()),
        [source, destination] => (Some(*source), *destination, ""),
        [source, destination, mode] => (Some(*source), *destination, *mode),
        _ => return Err(bad()),
    };
    if parts.first().is_none_or(|first| first.is_empty()) {
        return Err(bad());
    }
    let options = parse_mode(mode)?;
    let kind = if source.is_some_and(|path| path.starts_with('/')) {
        "bind"
    } else {
        "volume"
    };
    let destination = target(kind, destination).map_err(|config| MountError::Because {
        specification: specification.to_owned(),
        config: Box::new(config),
    })?;
    let mut point = volume(None, destination, mode.to_owned(), !options.readonly);
    point.propagation = options.propagation;
    match source {
        None => point.anonymous = true,
        Some(path) if path.starts_with('/') => {
            point.kind = MountKind::Bind;
            point.source = PathBuf::from(clean(path));
            point.populate = false;
            point.create_source = true;
        }
        Some(name) => {
            point.name = Some(name.to_owned());
            point.populate = !options.nocopy;
        }
    }
    default_mode(&mut point);
    Ok(point)
}

/// dockerd relabels volumes, for those who have SELinux, and shows it.
fn default_mode(point: &mut MountPoint) {
    if point.kind == MountKind::Volume && point.mode.is_empty() {
        "z".clone_into(&mut point.mode);
    }
}

/// Where a mount of this type goes: an absolute path other than the root.
fn target(kind: &str, target: &str) -> Result<String, MountError> {
    let bad = |reason: String| MountError::Config {
        kind: kind.to_owned(),
        reason,
    };
    if target.is_empty() {
        return Err(bad("field Target must not be empty".to_owned()));
    }
    if !target.starts_with('/') {
        return Err(bad(format!(
            "invalid mount path: '{target}' mount path must be absolute"
        )));
    }
    match clean(target).as_str() {
        "/" => Err(bad(
            "invalid specification: destination can't be '/'".to_owned()
        )),
        path => Ok(path.to_owned()),
    }
}

#[derive(Default)]
struct BindMode {
    readonly: bool,
    nocopy: bool,
    propagation: String,
}

fn is_mode(text: &str) -> bool {
    parse_mode(text).is_ok()
}

fn parse_mode(mode: &str) -> Result<BindMode, MountError> {
    let mut parsed = BindMode::default();
    let (mut access, mut label) = (0, 0);
    for option in mode.split(',').filter(|_| !mode.is_empty()) {
        match option {
            "ro" | "rw" => {
                parsed.readonly = option == "ro";
                access += 1;
            }
            "z" | "Z" => label += 1,
            "nocopy" if !parsed.nocopy => parsed.nocopy = true,
            _ if PROPAGATION.contains(&option) && parsed.propagation.is_empty() => {
                option.clone_into(&mut parsed.propagation);
            }
            // Consistency is for Docker Desktop's virtual machine; accepted, without effect.
            "consistent" | "cached" | "delegated" => {}
            _ => return Err(MountError::Mode(mode.to_owned())),
        }
    }
    if access > 1 || label > 1 {
        return Err(MountError::Mode(mode.to_owned()));
    }
    Ok(parsed)
}

/// One entry of `HostConfig.Mounts`. Whether a bind's source exists is for the caller to see.
pub fn from_mount(mount: &Mount) -> Result<MountPoint, MountError> {
    let bad = |reason: &str| MountError::Config {
        kind: mount.kind.clone(),
        reason: reason.to_owned(),
    };
    for (given, of, field) in [
        (mount.bind_options.is_some(), "bind", "BindOptions"),
        (mount.volume_options.is_some(), "volume", "VolumeOptions"),
        (mount.image_options.is_some(), "image", "ImageOptions"),
        (mount.tmpfs_options.is_some(), "tmpfs", "TmpfsOptions"),
    ] {
        if given && mount.kind != of {
            return Err(bad(&format!("field {field} must not be specified")));
        }
    }
    let destination = target(&mount.kind, &mount.target)?;
    let mut point = volume(None, destination, String::new(), !mount.read_only);
    match mount.kind.as_str() {
        "bind" => {
            if mount.source.is_empty() {
                return Err(bad("field Source must not be empty"));
            }
            let propagation = mount.bind_options.as_ref().map(|o| o.propagation.as_str());
            if let Some(mode) = propagation.filter(|mode| !mode.is_empty())
                && !PROPAGATION.contains(&mode)
            {
                return Err(bad(&format!("invalid propagation mode: {mode}")));
            }
            if !mount.source.starts_with('/') {
                return Err(bad(&format!(
                    "invalid mount path: '{}' mount path must be absolute",
                    mount.source
                )));
            }
            point.kind = MountKind::Bind;
            point.source = PathBuf::from(clean(&mount.source));
            point.populate = false;
            if let Some(options) = &mount.bind_options {
                point.propagation.clone_from(&options.propagation);
                point.create_source = options.create_mountpoint;
                point.non_recursive = options.non_recursive;
                point.readonly_non_recursive = options.read_only_non_recursive;
            }
        }
        "volume" => {
            if mount.source.is_empty() {
                point.anonymous = true;
            } else {
                point.name = Some(mount.source.clone());
            }
            if let Some(options) = &mount.volume_options {
                point.populate = !options.no_copy;
                if !options.subpath.is_empty() && mount.source.is_empty() {
                    return Err(bad("must not set Subpath when using anonymous volumes"));
                }
                point.subpath = subpath(&options.subpath).map_err(bad)?;
            }
            default_mode(&mut point);
        }
        "tmpfs" => {
            if !mount.source.is_empty() {
                return Err(bad("field Source must not be specified"));
            }
            point.kind = MountKind::Tmpfs;
            point.populate = false;
        }
        "image" => {
            if mount.source.is_empty() {
                return Err(bad("field Source must not be empty"));
            }
            let options = mount.image_options.as_ref();
            point.subpath = subpath(options.map_or("", |options| &options.subpath)).map_err(bad)?;
            point.kind = MountKind::Image;
            point.name = Some(mount.source.clone());
            "rprivate".clone_into(&mut point.propagation);
            point.populate = false;
            point.writable = false;
        }
        _ => return Err(bad("mount type unknown")),
    }
    Ok(point)
}

const PROPAGATION: [&str; 6] = [
    "private", "rprivate", "shared", "rshared", "slave", "rslave",
];

/// What of a volume or image is asked for; nothing is all of it.
fn subpath(path: &str) -> Result<String, &'static str> {
    if path.is_empty() || is_local(path) {
        Ok(path.to_owned())
    } else {
        Err("subpath must be a relative path within the volume")
    }
}

/// `filepath.IsLocal` of Go: relative, and never above where it begins.
fn is_local(path: &str) -> bool {
    let mut depth = 0_i32;
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => depth -= 1,
            _ => depth += 1,
        }
        if depth < 0 {
            return false;
        }
    }
    !path.is_empty() && !path.starts_with('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(specification: &str) -> Result<MountPoint, MountError> {
        parse_bind(specification)
    }

    #[test]
    fn binds_are_read_as_docker_reads_them() {
        let point = bind("/host/./dir:/inside//x:ro,rslave").unwrap();
        assert_eq!(point.kind, MountKind::Bind);
        assert_eq!(point.source, PathBuf::from("/host/dir"));
        assert_eq!(point.destination, "/inside/x");
        assert!(!point.writable && point.create_source);
        assert_eq!(point.propagation, "rslave");
        let point = bind("name:/data:nocopy").unwrap();
        assert_eq!(
            (point.kind, point.name.as_deref()),
            (MountKind::Volume, Some("name"))
        );
        assert!(!point.populate && point.writable);
        assert!(bind("/data").unwrap().anonymous);
    }

    #[test]
    fn bad_binds_are_refused_in_dockers_words() {
        for (specification, message) in [
            ("a:b:c:d", "invalid volume specification: 'a:b:c:d'"),
            ("", "invalid volume specification: ''"),
            ("/a:", "invalid volume specification: '/a:'"),
            ("/a:ro", "invalid volume specification: '/a:ro'"),
            (
                "/a:/",
                "invalid volume specification: '/a:/': invalid mount config for type \"bind\": invalid specification: destination can't be '/'",
            ),
            (
                "a:b",
                "invalid volume specification: 'a:b': invalid mount config for type \"volume\": invalid mount path: 'b' mount path must be absolute",
            ),
            ("/a:/b:foo", "invalid mode: foo"),
            ("/a:/b:ro,rw", "invalid mode: ro,rw"),
        ] {
            assert_eq!(bind(specification).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn bad_mounts_are_refused_in_dockers_words() {
        for (json, message) in [
            (
                r#"{"Type":"nosuch","Target":"/a"}"#,
                "invalid mount config for type \"nosuch\": mount type unknown",
            ),
            (
                r#"{"Type":"bind","Source":"/a"}"#,
                "invalid mount config for type \"bind\": field Target must not be empty",
            ),
            (
                r#"{"Type":"bind","Source":"/a","Target":"/b","BindOptions":{"Propagation":"x"}}"#,
                "invalid mount config for type \"bind\": invalid propagation mode: x",
            ),
            (
                r#"{"Type":"bind","Source":"a","Target":"/b"}"#,
                "invalid mount config for type \"bind\": invalid mount path: 'a' mount path must be absolute",
            ),
            (
                r#"{"Type":"tmpfs","Source":"a","Target":"/b"}"#,
                "invalid mount config for type \"tmpfs\": field Source must not be specified",
            ),
            (
                r#"{"Type":"volume","Target":"/b","VolumeOptions":{"Subpath":"x"}}"#,
                "invalid mount config for type \"volume\": must not set Subpath when using anonymous volumes",
            ),
            (
                r#"{"Type":"volume","Source":"v","Target":"/b","VolumeOptions":{"Subpath":"../x"}}"#,
                "invalid mount config for type \"volume\": subpath must be a relative path within the volume",
            ),
            (
                r#"{"Type":"image","Target":"/b"}"#,
                "invalid mount config for type \"image\": field Source must not be empty",
            ),
            (
                r#"{"Type":"image","Source":"i","Target":"/b","ImageOptions":{"Subpath":"/x"}}"#,
                "invalid mount config for type \"image\": subpath must be a relative path within the volume",
            ),
            (
                r#"{"Type":"volume","Target":"/b","ImageOptions":{}}"#,
                "invalid mount config for type \"volume\": field ImageOptions must not be specified",
            ),
        ] {
            let mount: Mount = serde_json::from_str(json).unwrap();
            assert_eq!(from_mount(&mount).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn volumes_have_dockers_mode() {
        assert_eq!(bind("v:/a").unwrap().mode, "z");
        assert_eq!(bind("v:/a:ro").unwrap().mode, "ro");
        assert_eq!(bind("/v:/a").unwrap().mode, "");
        let config: ContainerConfig = serde_json::from_str(r#"{"Volumes":{"/a":{}}}"#).unwrap();
        assert_eq!(
            resolve(&config, &HostConfig::default()).unwrap()[0].mode,
            ""
        );
    }

    #[test]
    fn image_volumes_give_way_and_duplicates_are_refused() {
        let config: ContainerConfig =
            serde_json::from_str(r#"{"Volumes":{"/data":{},"/other":{}}}"#).unwrap();
        let host: HostConfig = serde_json::from_str(r#"{"Binds":["/x:/data"]}"#).unwrap();
        let points = resolve(&config, &host).unwrap();
        assert_eq!(points.len(), 2);
        assert!(
            points
                .iter()
                .any(|p| p.kind == MountKind::Bind && p.destination == "/data")
        );
        assert!(
            points
                .iter()
                .any(|p| p.anonymous && p.destination == "/other")
        );
        let host: HostConfig =
            serde_json::from_str(r#"{"Binds":["/x:/data","/y:/data/"]}"#).unwrap();
        assert_eq!(
            resolve(&config, &host).unwrap_err().to_string(),
            "Duplicate mount point: /data"
        );
    }
}
