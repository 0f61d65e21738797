//! What a plan mounts from the host, opened as detached copies before the child exists.
//!
//! The shim opens them, with the keeper's rights over the user's files and in the keeper's mount
//! namespace, where mounts are not yet locked as they are in the child's copy. The child only attaches
//! them; it walks no path of the host's but /, /dev/null and, as a fallback, /sys. What another
//! container has mounted is copied by a process that enters it ([`namespaces::copy_mount`]).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, fstat};

use super::{StageError, namespaces};
use crate::sys::mount::{
    Attributes, NO_DEV, NO_EXEC, NO_SUID, READ_ONLY, clone_tree, clone_tree_at, set_attributes,
};
use crate::sys::{resolve, tree};
use crate::userns::plan::{Device, Mount, MountFlags, MountSource, Plan};

/// Devices that every container has, whatever its plan names (OCI runtime spec, "Default Devices").
const DEFAULT_DEVICES: [&str; 6] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
];

/// Detached mounts, in the plan's order.
#[derive(Debug)]
pub(super) struct Sources {
    /// For each of the plan's mounts its source, where it has one.
    pub mounts: Vec<Option<Source>>,
    /// Devices by their path in the container.
    pub devices: Vec<(String, OwnedFd)>,
}

/// A detached mount of a file or directory of the host.
#[derive(Debug)]
pub(super) struct Source {
    /// The mount.
    pub tree: OwnedFd,
    /// Whether it is of a directory.
    pub is_dir: bool,
}

/// Opens everything; `trees` are the plan's images, in its order.
pub(super) fn open(plan: &Plan, trees: Vec<OwnedFd>) -> Result<Sources, StageError> {
    let mut trees = trees.into_iter();
    let mounts = plan
        .mounts
        .iter()
        .map(|mount| mount_source(mount, &mut trees))
        .collect::<Result<_, _>>()?;
    let mut devices = Vec::new();
    for path in DEFAULT_DEVICES {
        if plan.devices.iter().any(|device| device.container == path) {
            continue;
        }
        if let Ok(tree) = clone_tree(Path::new(path), false) {
            devices.push((path.to_owned(), tree));
        }
    }
    for device in &plan.devices {
        match open_device(device) {
            Ok(tree) => devices.push((device.container.clone(), tree)),
            Err(_) if !device.required => {}
            // dockerd's words, for it looks at --device itself.
            Err(error) => {
                return Err(StageError::io(
                    format_args!(
                        "error gathering device information while adding custom device \"{}\"",
                        device.host.display()
                    ),
                    &error,
                ));
            }
        }
    }
    Ok(Sources { mounts, devices })
}

fn open_device(device: &Device) -> io::Result<OwnedFd> {
    let tree = clone_tree(&device.host, false)?;
    let mode = rustix::fs::fstat(&tree)?.st_mode;
    if !matches!(
        FileType::from_raw_mode(mode),
        FileType::CharacterDevice | FileType::BlockDevice
    ) {
        return Err(io::Error::other("not a device node"));
    }
    if !device.write {
        set_attributes(
            tree.as_fd(),
            false,
            Attributes {
                set: READ_ONLY,
                propagation: 0,
            },
        )?;
    }
    Ok(tree)
}

fn mount_source(
    mount: &Mount,
    trees: &mut impl Iterator<Item = OwnedFd>,
) -> Result<Option<Source>, StageError> {
    let (path, subpath, recursive, propagation) = match &mount.source {
        MountSource::Filesystem { .. } => return Ok(None),
        MountSource::Bind {
            path,
            subpath,
            recursive,
            propagation,
        } => (path, subpath.as_str(), *recursive, propagation.as_str()),
        MountSource::FromHost { path } => (path, "", true, "rslave"),
        MountSource::Layers { .. } => {
            let Some(tree) = trees.next() else {
                return Ok(None);
            };
            let attributes = Attributes {
                set: READ_ONLY | attribute_bits(mount.flags),
                propagation: libc::MS_PRIVATE,
            };
            set_attributes(tree.as_fd(), false, attributes).map_err(|error| {
                mount_failed(Path::new("overlay"), &mount.target, "mount_setattr", &error)
            })?;
            return Ok(Some(Source { tree, is_dir: true }));
        }
        MountSource::FromContainer { of, path } => {
            let tree = namespaces::copy_mount(*of, path)?;
            let failed =
                |error: io::Error| mount_failed(path, &mount.target, "mount_setattr", &error);
            let attributes = Attributes {
                set: attribute_bits(mount.flags),
                propagation: libc::MS_PRIVATE,
            };
            set_attributes(tree.as_fd(), false, attributes).map_err(failed)?;
            return Ok(Some(Source { tree, is_dir: true }));
        }
    };
    let failed = |what: String, error: &io::Error| mount_failed(path, &mount.target, what, error);
    let found = match subpath {
        "" => std::fs::metadata(path).map(|found| (None, found.is_dir())),
        subpath => open_part(path, subpath).map(|(part, is_dir)| (Some(part), is_dir)),
    };
    let (part, is_dir) = found.map_err(|error| {
        let whole = match subpath {
            "" => path.clone(),
            subpath => path.join(subpath),
        };
        let what = format!(
            "create mountpoint for {} mount: stat {}",
            mount.target,
            whole.display()
        );
        failed(what, &error)
    })?;
    let clone = |recursive| match &part {
        Some(part) => clone_tree_at(part.as_fd(), recursive),
        None => clone_tree(path, recursive),
    };
    let what = || mount_call(&path.to_string_lossy(), &mount.target);
    let tree = match clone(recursive) {
        // Part of the tree is locked below a mount that only the host may take away.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) && !recursive => clone(true),
        other => other,
    }
    .map_err(|error| failed(what(), &error))?;

    // What is mounted below stays as it is without `r`: Docker's `ro` covers the top only.
    let (propagation, whole) = propagation_flags(propagation);
    let set = |recursive, attributes| {
        set_attributes(tree.as_fd(), recursive, attributes).map_err(|error| {
            let what = "failed to set user-requested vfs flags on bind-mount: mount_setattr";
            failed(format!("{what} dst={}", mount.target), &error)
        })
    };
    set(
        whole,
        Attributes {
            set: 0,
            propagation,
        },
    )?;
    let bits = attribute_bits(mount.flags);
    if bits != 0 {
        set(
            // The host's own /sys or /proc: nothing below it may stay writable either.
            mount.flags.readonly_recursive || matches!(mount.source, MountSource::FromHost { .. }),
            Attributes {
                set: bits,
                propagation: 0,
            },
        )?;
    }
    Ok(Some(Source { tree, is_dir }))
}

/// What is at a path in a directory of the host whose files are a container's.
fn open_part(directory: &Path, subpath: &str) -> io::Result<(OwnedFd, bool)> {
    let base = tree::open_dir(directory)?;
    let part = resolve::open_beneath(base.as_fd(), subpath)?;
    let mode = fstat(&part)?.st_mode;
    Ok((part, FileType::from_raw_mode(mode) == FileType::Directory))
}

/// `MOUNT_ATTR_*` bits for a plan's flags.
pub(super) fn attribute_bits(flags: MountFlags) -> u64 {
    [
        (flags.readonly || flags.readonly_recursive, READ_ONLY),
        (flags.nosuid, NO_SUID),
        (flags.nodev, NO_DEV),
        (flags.noexec, NO_EXEC),
    ]
    .into_iter()
    .filter(|(wanted, _)| *wanted)
    .fold(0, |bits, (_, bit)| bits | bit)
}

/// `MS_*` propagation type and whether it is for the whole tree.
fn propagation_flags(name: &str) -> (u64, bool) {
    let (name, whole) = match name.strip_prefix('r') {
        Some(rest) => (rest, true),
        None => (name, false),
    };
    let flag = match name {
        "shared" => libc::MS_SHARED,
        "slave" => libc::MS_SLAVE,
        // Docker's default is rprivate.
        _ => return (libc::MS_PRIVATE, whole || name.is_empty()),
    };
    (flag, whole)
}

/// runc's mount error, but for the numbers of its own descriptors.
pub(super) fn mount_call(source: &str, target: &str) -> String {
    format!("mount src={source}, dst={target}")
}

/// runc's sentence around whatever goes wrong with one mount.
pub(super) fn mount_failed(
    source: &Path,
    target: &str,
    what: impl std::fmt::Display,
    error: &io::Error,
) -> StageError {
    StageError::io(
        format_args!(
            "error mounting \"{}\" to rootfs at \"{target}\": {what}",
            source.display()
        ),
        error,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn propagation_names() {
        for (name, want) in [
            ("", (libc::MS_PRIVATE, true)),
            ("private", (libc::MS_PRIVATE, false)),
            ("rprivate", (libc::MS_PRIVATE, true)),
            ("rslave", (libc::MS_SLAVE, true)),
            ("slave", (libc::MS_SLAVE, false)),
            ("rshared", (libc::MS_SHARED, true)),
        ] {
            assert_eq!(propagation_flags(name), want, "{name}");
        }
    }
}
