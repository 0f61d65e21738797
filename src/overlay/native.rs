//! The kernel's overlayfs in a user namespace (Linux 5.11), always with `userxattr`: whiteouts and
//! opaque marks are `user.overlay.*` attributes and 0/0 devices, which need no privilege.
//!
//! Three ways to say what is stacked, tried in this order:
//!
//! 1. `fsconfig lowerdir+`, one call a layer (Linux 6.8): any number, no escaping. The kernel takes
//!    255 bytes a path; longer ones are replaced by our own descriptors (`/proc/self/fd/N`).
//!    Whether it is there must be asked first: before Linux 6.5 overlayfs took any option, refused
//!    the whole at the end with a bare EINVAL and wrote a line into the kernel's log.
//! 2. `fsconfig lowerdir`, one string of at most 255 bytes, always by descriptors (whose paths hold
//!    nothing to escape): about thirteen layers.
//! 3. mount(2), whose options may fill a page: over 200 layers by descriptors. It attaches
//!    at a path, so it is done in a child's own mount namespace, copied off detached and sent here.
//!    Killed at any moment it leaves nothing, for the namespace ends with the child.
//!
//! Unmounting an overlay syncs the filesystem below (130–610 ms measured with 400 MB of anybody's
//! dirty pages; 1–16 ms with `volatile`). `volatile` leaves a mark in the work directory that makes
//! a later mount of the same upper fail, on purpose: after a crash it may be torn.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};
use rustix::mount::{MountFlags, UnmountFlags};

use super::{Error, Rootfs};
use crate::sys::clone;
use crate::sys::fdpass;
use crate::sys::mount::{Attributes, Context, FilesystemError, clone_tree, set_attributes};

/// The option that adds one layer.
const LAYER: &str = "lowerdir+";

/// Longest value that fsconfig(2) takes.
const MAX_VALUE: usize = 255;

/// Longest option string that mount(2) takes: a page less its end.
const MAX_OPTIONS: usize = 4095;

pub(super) fn mount(rootfs: &Rootfs) -> Result<OwnedFd, Error> {
    if rootfs.lower.is_empty() {
        return Err(Error::NoLayers);
    }
    let lower = rootfs.lower.iter().map(|path| path.as_os_str().len());
    let written = [&rootfs.upper, &rootfs.work].map(|path| escaped(path).len());
    let fits = lower.chain(written).max() <= Some(MAX_VALUE);
    if fits {
        match by_layers(rootfs) {
            Err(error) if means_unknown(&error) => {}
            other => return other.map_err(|error| Error::mount(rootfs, error)),
        }
    }
    let short = ShortPaths::open(rootfs)
        .map_err(|error| Error::step(rootfs, "opening the layers", error))?;
    if !fits {
        match by_layers(&short.as_rootfs(rootfs)) {
            Err(error) if means_unknown(&error) => {}
            other => return other.map_err(|error| Error::mount(rootfs, error)),
        }
    }
    match by_string(rootfs.volatile, &short) {
        Some(Err(error)) if error.error.raw_os_error() != Some(libc::ENOSYS) => {
            Err(Error::mount(rootfs, error))
        }
        Some(Ok(tree)) => Ok(tree),
        _ => by_mount(rootfs),
    }
}

/// The layers alone, with nothing to write to. Never forks.
pub(super) fn mount_layers(layers: &[PathBuf]) -> io::Result<OwnedFd> {
    let by_layers = || {
        let context = context(false)?;
        set_layers(&context, layers)?;
        context.mount(0)
    };
    match by_layers() {
        Err(error) if means_unknown(&error) => {}
        other => return other.map_err(|error| error.error),
    }
    if let Some(mounted) = by_string(false, &ShortPaths::of_layers(layers)?) {
        return mounted.map_err(|error| error.error);
    }
    // A thread may have a mount namespace of its own, and takes it along when it ends.
    let thread = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
        attach_and_copy(&layers[0], false, || ShortPaths::of_layers(layers))
    };
    std::thread::scope(|scope| scope.spawn(thread).join())
        .unwrap_or_else(|_| Err(io::Error::other("the mounting thread panicked")))
}

/// Whether the kernel does not know `lowerdir+`, or the new calls at all.
fn means_unknown(error: &FilesystemError) -> bool {
    match error.error.raw_os_error() {
        Some(libc::EINVAL) => error.step == LAYER,
        Some(libc::ENOSYS) => true,
        _ => false,
    }
}

fn by_layers(rootfs: &Rootfs) -> Result<OwnedFd, FilesystemError> {
    let context = context(rootfs.volatile)?;
    set_layers(&context, &rootfs.lower)?;
    context.set("upperdir", Some(&escaped(&rootfs.upper)))?;
    context.set("workdir", Some(&escaped(&rootfs.work)))?;
    context.mount(0)
}

/// A path as overlayfs reads `upperdir` and `workdir`, whichever way they come: a backslash means
/// what is after it. It does not with `lowerdir+`.
fn escaped(path: &Path) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(path.as_os_str().len());
    for byte in path.as_os_str().as_bytes() {
        if *byte == b'\\' {
            escaped.push(b'\\');
        }
        escaped.push(*byte);
    }
    escaped
}

/// `None` when the layers do not fit into one value.
fn by_string(volatile: bool, paths: &ShortPaths) -> Option<Result<OwnedFd, FilesystemError>> {
    let lower = paths.lower();
    if lower.len() > MAX_VALUE {
        return None;
    }
    Some(context(volatile).and_then(|context| {
        context.set("lowerdir", Some(lower.as_bytes()))?;
        if let Some((upper, work)) = &paths.writable {
            context.set("upperdir", Some(short(upper).as_bytes()))?;
            context.set("workdir", Some(short(work).as_bytes()))?;
        }
        context.mount(0)
    }))
}

/// Adds the layers one by one; the error of a kernel that has no word for that.
fn set_layers(context: &Context, layers: &[PathBuf]) -> Result<(), FilesystemError> {
    // Known to no filesystem: only one that takes options unseen takes it.
    if context.set("moss-asks", None).is_ok() {
        return Err(FilesystemError {
            step: LAYER.to_owned(),
            error: io::Error::from_raw_os_error(libc::EINVAL),
            log: String::new(),
        });
    }
    layers
        .iter()
        .try_for_each(|layer| context.set(LAYER, Some(layer.as_os_str().as_bytes())))
}

fn context(volatile: bool) -> Result<Context, FilesystemError> {
    let context = Context::open("overlay")?;
    context.set("source", Some(b"overlay"))?;
    context.set("userxattr", None)?;
    if volatile {
        context.set("volatile", None)?;
    }
    Ok(context)
}

/// mount(2) in a mount namespace that lives as long as a child of ours.
fn by_mount(rootfs: &Rootfs) -> Result<OwnedFd, Error> {
    let failed = |step: &str, error: io::Error| Error::step(rootfs, step, error);
    let (ours, theirs) = fdpass::pair().map_err(|error| failed("socketpair", error))?;
    let child = clone::clone(clone::NEW_MOUNT, || {
        // The upper directory itself is the mount point: the overlay has found it by then.
        let mounted = attach_and_copy(&rootfs.upper, rootfs.volatile, || ShortPaths::open(rootfs));
        let sent = mounted.and_then(|tree| fdpass::send(&theirs, b"m", &[tree.as_fd()]));
        // The exit code carries the errno, which is below 256 for all that mount(2) gives.
        sent.map_or_else(|error| error.raw_os_error().unwrap_or(libc::EIO), |()| 0)
    })
    .map_err(|error| failed("clone", error))?;
    drop(theirs);
    let received = fdpass::receive(&ours, &mut [0]).map(|(_, mut fds)| fds.pop());
    let status = clone::reap(child.pid).unwrap_or(0);
    match (libc::WEXITSTATUS(status), received) {
        (0, Ok(Some(tree))) => Ok(tree),
        (0, Ok(None)) => Err(failed(
            "receiving the mount",
            io::ErrorKind::UnexpectedEof.into(),
        )),
        (0, Err(error)) => Err(failed("receiving the mount", error)),
        (code, _) => Err(failed("mount", io::Error::from_raw_os_error(code))),
    }
}

/// Mounts at `place`, a directory that surely exists, and copies the mount off; for a mount
/// namespace that nothing else uses. E2BIG: more layers than fit.
fn attach_and_copy(
    place: &Path,
    volatile: bool,
    open: impl FnOnce() -> io::Result<ShortPaths>,
) -> io::Result<OwnedFd> {
    let slash = File::open("/")?;
    let private = Attributes {
        set: 0,
        propagation: libc::MS_PRIVATE,
    };
    set_attributes(slash.as_fd(), true, private)?;
    // Opened here: overlayfs refuses layers of another mount namespace with EINVAL.
    let paths = open()?;
    let options = paths.options(volatile);
    if options.len() > MAX_OPTIONS {
        return Err(io::Error::from_raw_os_error(libc::E2BIG));
    }
    let options = std::ffi::CString::new(options)?;
    rustix::mount::mount(
        "overlay",
        place,
        "overlay",
        MountFlags::empty(),
        options.as_c_str(),
    )?;
    let tree = clone_tree(place, false);
    rustix::mount::unmount(place, UnmountFlags::DETACH)?;
    tree
}

/// The directories by descriptors, whose paths are short and hold nothing to escape.
#[derive(Debug)]
struct ShortPaths {
    lower: Vec<File>,
    /// Upper directory and work directory.
    writable: Option<(File, File)>,
}

impl ShortPaths {
    fn open(rootfs: &Rootfs) -> io::Result<ShortPaths> {
        Ok(ShortPaths {
            writable: Some((directory(&rootfs.upper)?, directory(&rootfs.work)?)),
            ..ShortPaths::of_layers(&rootfs.lower)?
        })
    }

    fn of_layers(layers: &[PathBuf]) -> io::Result<ShortPaths> {
        Ok(ShortPaths {
            lower: layers
                .iter()
                .map(|path| directory(path))
                .collect::<Result<_, _>>()?,
            writable: None,
        })
    }

    /// The same root filesystem by the short paths.
    fn as_rootfs(&self, of: &Rootfs) -> Rootfs {
        let mut rootfs = Rootfs {
            lower: self.lower.iter().map(|file| short(file).into()).collect(),
            ..of.clone()
        };
        if let Some((upper, work)) = &self.writable {
            rootfs.upper = short(upper).into();
            rootfs.work = short(work).into();
        }
        rootfs
    }

    fn lower(&self) -> String {
        let paths: Vec<String> = self.lower.iter().map(short).collect();
        paths.join(":")
    }

    /// What mount(2) takes.
    fn options(&self, volatile: bool) -> String {
        let mut options = format!("userxattr,lowerdir={}", self.lower());
        if let Some((upper, work)) = &self.writable {
            options += &format!(",upperdir={},workdir={}", short(upper), short(work));
        }
        if volatile {
            options += ",volatile";
        }
        options
    }
}

fn directory(path: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(path)
}

fn short(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// Mounts, changes and looks, in directories that are made here.
pub(super) fn try_at(rootfs: &Rootfs) -> Result<(), Error> {
    let prepared = [&rootfs.lower[0], &rootfs.upper, &rootfs.work]
        .into_iter()
        .try_for_each(std::fs::create_dir_all)
        .and_then(|()| std::fs::write(rootfs.lower[0].join("lower"), "lower"));
    prepared.map_err(|error| Error::step(rootfs, "preparing a trial", error))?;
    // One layer always fits: never mount(2), never a fork.
    let tree = match by_layers(rootfs) {
        Err(error) if means_unknown(&error) => {
            let short = ShortPaths::open(rootfs)
                .map_err(|error| Error::step(rootfs, "opening the layers", error))?;
            by_string(rootfs.volatile, &short).unwrap_or(Err(error))
        }
        other => other,
    }
    .map_err(|error| Error::mount(rootfs, error))?;
    let tried = unlinkat(&tree, "lower", AtFlags::empty()).and_then(|()| {
        let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        openat(&tree, "new", create, Mode::from_raw_mode(0o644))?;
        match openat(
            &tree,
            "lower",
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Err(rustix::io::Errno::EXIST),
        }
    });
    tried.map_err(|error| Error::step(rootfs, "removing a file through it", error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backslashes_are_escaped() {
        assert_eq!(escaped(Path::new("/a\\b:c,d")), b"/a\\\\b:c,d");
    }
}
