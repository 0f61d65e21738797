//! Devices of the host: those that a container asks for by a directory's name, which are all that
//! are below it (moby, `daemon/pkg/oci/devices_linux.go`), and those that a privileged one gets.
//!
//! A device itself, and what is none, is left as it was asked for: the start looks at it.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::api::container::DeviceMapping;
use crate::engine::error::{Error, Kind, Result};
use crate::userns::plan::Device;

/// How deep directories of devices may be nested.
const DEPTH: usize = 32;

/// The devices asked for, those of directories one by one.
///
/// # Errors
/// dockerd's sentence, where a directory holds no device.
pub(super) fn expand(asked: &[DeviceMapping]) -> Result<Vec<DeviceMapping>> {
    let mut devices = Vec::with_capacity(asked.len());
    for mapping in asked {
        let host = Path::new(&mapping.path_on_host);
        if !fs::metadata(host).is_ok_and(|found| found.is_dir()) {
            devices.push(mapping.clone());
            continue;
        }
        let inside = match mapping.path_in_container.as_str() {
            "" => &mapping.path_on_host,
            inside => inside,
        };
        let before = devices.len();
        walk(
            host,
            inside.trim_end_matches('/'),
            mapping,
            DEPTH,
            &mut devices,
        );
        if devices.len() == before {
            let message = format!(
                "error gathering device information while adding custom device {:?}: not a device \
                 node",
                mapping.path_on_host
            );
            return Err(Error::new(Kind::System, message));
        }
    }
    Ok(devices)
}

/// Adds what is below `host`, which the container sees as `inside`. What cannot be read is passed
/// over, and links are not followed.
fn walk(
    host: &Path,
    inside: &str,
    mapping: &DeviceMapping,
    depth: usize,
    devices: &mut Vec<DeviceMapping>,
) {
    let mut entries: Vec<_> = fs::read_dir(host).into_iter().flatten().flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (Ok(kind), Some(name)) = (entry.file_type(), entry.file_name().into_string().ok())
        else {
            continue;
        };
        let inside = format!("{inside}/{name}");
        if kind.is_dir() && depth > 0 {
            walk(&entry.path(), &inside, mapping, depth - 1, devices);
        } else if (kind.is_char_device() || kind.is_block_device())
            && let Some(path) = entry.path().to_str()
        {
            devices.push(DeviceMapping {
                path_on_host: path.to_owned(),
                path_in_container: inside,
                cgroup_permissions: mapping.cgroup_permissions.clone(),
            });
        }
    }
}

/// Devices of the host that a privileged container gets: those that the user may open.
pub(super) fn host_devices() -> Vec<Device> {
    let mut devices = Vec::new();
    for name in [
        "fuse",
        "net/tun",
        "kvm",
        "dri/renderD128",
        "vhost-net",
        "vhost-vsock",
    ] {
        let host = PathBuf::from("/dev").join(name);
        if std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&host)
            .is_ok()
        {
            let container = host.display().to_string();
            devices.push(Device {
                host,
                container,
                write: true,
                required: false,
            });
        }
    }
    devices
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(host: &str, inside: &str) -> DeviceMapping {
        DeviceMapping {
            path_on_host: host.to_owned(),
            path_in_container: inside.to_owned(),
            cgroup_permissions: "rwm".to_owned(),
        }
    }

    #[test]
    fn directories_are_walked() {
        let found = expand(&[mapping("/dev/null", "/n"), mapping("/dev", "/host-dev/")]).unwrap();
        assert_eq!(found[0], mapping("/dev/null", "/n"));
        assert!(found.contains(&mapping("/dev/zero", "/host-dev/zero")));
        assert!(
            found
                .iter()
                .all(|device| device.path_on_host != "/dev/stdin")
        );
        assert_eq!(expand(&[mapping("/nosuch", "/n")]).unwrap().len(), 1);
        let empty = tempfile::tempdir().unwrap();
        let path = empty.path().to_str().unwrap();
        assert_eq!(
            expand(&[mapping(path, "/n")]).unwrap_err().message,
            format!(
                "error gathering device information while adding custom device {path:?}: not a \
                 device node"
            )
        );
    }
}
