//! Building the container's view of files in its own mount namespace, up to pivot_root.
//!
//! Everything is done by descriptors under one root descriptor: targets are resolved and created
//! inside it ([`crate::sys::resolve`]), mounts are attached with move_mount(2) to what was
//! resolved, so a link in the image can at most point elsewhere in the image. proc and sysfs go on
//! real directories only, and nothing but a few lxcfs-like files may be mounted inside proc: else
//! an image could have the masks and /proc/self lead elsewhere.
//!
//! The root is attached on top of `/`; no directory is needed for it, and pivot_root(".", ".")
//! then swaps it with what is below.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, chownat, fstat, fstatfs, openat};
use rustix::mount::{UnmountFlags, unmount};

use super::sources::{Source, Sources, attribute_bits, mount_call, mount_failed};
use super::{StageError, copy_up, dev};
use crate::sys::mount::{
    Attributes, Context, FilesystemError, READ_ONLY, attach, clone_tree, clone_tree_at, part_of,
    set_attributes,
};
use crate::sys::resolve::{self, Kind};
use crate::userns::plan::{Mount, MountSource, Plan};

/// `PROC_SUPER_MAGIC`.
const PROC_MAGIC: i64 = 0x9fa0;

/// Files in proc that may be covered: what lxcfs provides, and two that checkpointing needs.
const MOUNTABLE_IN_PROC: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// A root filesystem being put together.
#[derive(Debug)]
pub(super) struct Rootfs {
    /// The attached mount.
    pub root: OwnedFd,
    /// The container's own devpts instance.
    pub devpts: Option<OwnedFd>,
    /// /proc/sys as it was before it became read-only.
    pub sysctls: Option<OwnedFd>,
    /// What the host refused.
    pub notes: Vec<String>,
    /// tmpfs mounts that become read-only once everything is in them.
    late_read_only: Vec<OwnedFd>,
}

/// Puts everything in place and makes it this process's root.
pub(super) fn build(plan: &Plan, root: OwnedFd, sources: Sources) -> Result<Rootfs, StageError> {
    isolate(&root)?;
    let mut rootfs = Rootfs {
        root,
        devpts: None,
        sysctls: None,
        notes: Vec::new(),
        late_read_only: Vec::new(),
    };
    for (mount, source) in plan.mounts.iter().zip(sources.mounts) {
        rootfs.mount(mount, source)?;
    }
    if dev::wanted(plan) {
        dev::populate(rootfs.root.as_fd(), sources.devices)?;
    }
    rootfs.make_working_directory(&plan.process.cwd)?;
    if !plan.sysctls.is_empty() {
        rootfs.sysctls = resolve::open(rootfs.root.as_fd(), "/proc/sys", OFlags::PATH).ok();
    }
    rootfs.restrict(&plan.readonly_paths, &plan.masked_paths)?;
    for tree in std::mem::take(&mut rootfs.late_read_only) {
        read_only(&tree, false).map_err(|error| StageError::io("remounting tmpfs", &error))?;
    }
    if plan.root_readonly {
        read_only(&rootfs.root, false)
            .map_err(|error| StageError::io("error setting rootfs as readonly", &error))?;
    }
    Ok(rootfs)
}

/// Cuts this mount namespace off the one it is a copy of, and attaches the root.
fn isolate(root: &OwnedFd) -> Result<(), StageError> {
    let failed = |error: io::Error| StageError::io("error preparing rootfs", &error);
    let slash = openat(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| failed(error.into()))?;
    let private = Attributes {
        set: 0,
        propagation: libc::MS_PRIVATE,
    };
    set_attributes(slash.as_fd(), true, private).map_err(failed)?;
    attach(root.as_fd(), slash.as_fd()).map_err(failed)
}

/// Makes the root filesystem `/` and lets go of the old one.
pub(super) fn pivot(root: &OwnedFd) -> Result<(), StageError> {
    let failed = |what: &str, error: rustix::io::Errno| {
        StageError::io(
            format_args!("error jailing process inside rootfs: {what}"),
            &error.into(),
        )
    };
    rustix::process::fchdir(root).map_err(|error| failed("fchdir", error))?;
    rustix::process::pivot_root(".", ".").map_err(|error| failed("pivot_root .", error))?;
    // The old root now lies on top of the new one, and "." finds the topmost.
    unmount(".", UnmountFlags::DETACH).map_err(|error| failed("unmount .", error))?;
    rustix::process::chdir("/").map_err(|error| failed("chdir /", error))
}

impl Rootfs {
    fn mount(&mut self, mount: &Mount, source: Option<Source>) -> Result<(), StageError> {
        match (&mount.source, source) {
            (
                MountSource::Filesystem {
                    kind,
                    options,
                    copy_up,
                },
                _,
            ) => self.mount_filesystem(mount, kind, options, *copy_up),
            (MountSource::Layers { subpath, .. }, Some(source)) => {
                let source = match subpath.as_str() {
                    "" => source,
                    subpath => part_of(source.tree.as_fd(), subpath)
                        .map(|tree| Source {
                            is_dir: is_dir(&tree),
                            tree,
                        })
                        .map_err(|error| {
                            let what = format!("opening {subpath:?}");
                            mount_failed(Path::new("overlay"), &mount.target, what, &error)
                        })?,
                };
                self.mount_bind(mount, Path::new("overlay"), &source)
            }
            (
                MountSource::Bind { path, .. }
                | MountSource::FromHost { path }
                | MountSource::FromContainer { path, .. },
                Some(source),
            ) => self.mount_bind(mount, path, &source),
            // `sources::open` gives a source to every such mount, or fails.
            (_, None) => Err(StageError::new(format!(
                "error mounting to rootfs at \"{}\": no source",
                mount.target
            ))),
        }
    }

    fn mount_bind(&self, mount: &Mount, path: &Path, source: &Source) -> Result<(), StageError> {
        let kind = if source.is_dir {
            Kind::Directory
        } else {
            Kind::File
        };
        let failed =
            |what: String, error: &io::Error| mount_failed(path, &mount.target, what, error);
        let target = resolve::make(self.root.as_fd(), &mount.target, kind)
            .map_err(|error| failed(make_mountpoint(&mount.target), &error))?;
        // move_mount(2) says EINVAL where mount(2) said ENOTDIR, and clients know the latter.
        if is_dir(&target) != source.is_dir {
            let error = io::Error::from_raw_os_error(libc::ENOTDIR);
            return Err(failed(
                mount_call(&path.to_string_lossy(), &mount.target),
                &error,
            ));
        }
        let from_proc = fs_magic(&source.tree) == Some(PROC_MAGIC);
        self.check_target(mount, &path.to_string_lossy(), &target, from_proc)?;
        attach(source.tree.as_fd(), target.as_fd())
            .map_err(|error| failed(mount_call(&path.to_string_lossy(), &mount.target), &error))
    }

    fn mount_filesystem(
        &mut self,
        mount: &Mount,
        kind: &str,
        options: &str,
        copy_up: bool,
    ) -> Result<(), StageError> {
        let source = Path::new(kind);
        let failed =
            |what: String, error: &io::Error| mount_failed(source, &mount.target, what, error);
        let (target, is_new) = if matches!(kind, "proc" | "sysfs") {
            (self.ordinary_directory(mount, kind)?, false)
        } else {
            self.directory(&mount.target)
                .map_err(|error| failed(make_mountpoint(&mount.target), &error))?
        };
        self.check_target(mount, kind, &target, kind == "proc")?;

        let mut bits = attribute_bits(mount.flags);
        let late = kind == "tmpfs" && bits & READ_ONLY != 0;
        if late {
            bits &= !READ_ONLY;
        }
        let mut all = Vec::new();
        if kind == "tmpfs"
            && !is_new
            && let Ok(stat) = fstat(&target)
        {
            // As runc: the mode of the image's directory unless the options name one. Where the
            // image has none it is the filesystem's own, 1777.
            all.push(format!("mode={:04o}", stat.st_mode & 0o7777));
        }
        all.extend(
            options
                .split(',')
                .filter(|o| !o.is_empty())
                .map(str::to_owned),
        );
        let tree = match self.make_filesystem(kind, &all, bits) {
            Ok(tree) => tree,
            Err(error) => {
                let tolerable = matches!(
                    error.error.raw_os_error(),
                    Some(libc::EPERM | libc::EBUSY | libc::EACCES | libc::ENODEV)
                );
                if tolerable && let Some(done) = self.replace(mount, kind, &target, bits) {
                    return done;
                }
                let what = format!("{}: {error}", mount_call(kind, &mount.target));
                return Err(failed(what, &error.error));
            }
        };
        if copy_up {
            copy_up::copy(&target, &tree)
                .map_err(|error| failed("tmpcopyup".to_owned(), &error))?;
        }
        attach(tree.as_fd(), target.as_fd())
            .map_err(|error| failed(mount_call(kind, &mount.target), &error))?;
        match kind {
            "devpts" => self.devpts = Some(tree),
            "tmpfs" if late => self.late_read_only.push(tree),
            // It is whose the process was that made the namespace, which need not be root inside.
            "mqueue" => {
                let root = (rustix::fs::Uid::ROOT, rustix::fs::Gid::ROOT);
                let flags = AtFlags::EMPTY_PATH;
                let _ = chownat(&tree, c"", Some(root.0), Some(root.1), flags);
            }
            _ => {}
        }
        Ok(())
    }

    /// The directory at a path, made if it is missing; and whether it was.
    fn directory(&self, path: &str) -> io::Result<(OwnedFd, bool)> {
        match resolve::open(self.root.as_fd(), path, OFlags::PATH) {
            Ok(found) => Ok((found, false)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((
                resolve::make(self.root.as_fd(), path, Kind::Directory)?,
                true,
            )),
            Err(error) => Err(error),
        }
    }

    fn make_filesystem(
        &mut self,
        kind: &str,
        options: &[String],
        bits: u64,
    ) -> Result<OwnedFd, FilesystemError> {
        let mut made = filesystem(kind, options, bits);
        if kind == "devpts" && made.is_err() {
            // Group 5 (tty) is not mapped where the user has one id.
            let fewer: Vec<String> = options
                .iter()
                .filter(|option| !option.starts_with("gid="))
                .cloned()
                .collect();
            made = filesystem(kind, &fewer, bits);
        }
        made
    }

    /// What takes the place of a filesystem that this host does not let a user namespace mount.
    /// `None` when nothing may: a container without a proc of its own would see other processes.
    fn replace(
        &mut self,
        mount: &Mount,
        kind: &str,
        target: &OwnedFd,
        bits: u64,
    ) -> Option<Result<(), StageError>> {
        let path = match kind {
            "sysfs" => "/sys",
            "cgroup2" => "/sys/fs/cgroup",
            "mqueue" => {
                self.notes.push(format!(
                    "{} is left out: this host refuses to mount {kind}",
                    mount.target
                ));
                return Some(Ok(()));
            }
            _ => return None,
        };
        let bound = clone_tree(Path::new(path), true).and_then(|tree| {
            set_attributes(
                tree.as_fd(),
                true,
                Attributes {
                    set: bits | READ_ONLY,
                    propagation: libc::MS_PRIVATE,
                },
            )?;
            attach(tree.as_fd(), target.as_fd())
        });
        match bound {
            Ok(()) => self.notes.push(format!(
                "{} is the outer {path}, read-only: this host refuses to mount {kind}",
                mount.target
            )),
            Err(_) => self.notes.push(format!(
                "{} is left out: this host refuses to mount {kind}",
                mount.target
            )),
        }
        Some(Ok(()))
    }

    /// The target of proc or sysfs: no link on the way there.
    fn ordinary_directory(&self, mount: &Mount, kind: &str) -> Result<OwnedFd, StageError> {
        let root = self.root.as_fd();
        let refused = || {
            StageError::new(format!(
                "error mounting \"{kind}\" to rootfs at \"{}\": filesystem \"{kind}\" must be \
                 mounted on ordinary directory",
                mount.target
            ))
        };
        let open =
            || resolve::open_without_links(root, &mount.target, OFlags::PATH | OFlags::DIRECTORY);
        match open() {
            Ok(fd) => Ok(fd),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                resolve::make(root, &mount.target, Kind::Directory)
                    .and_then(|_| open())
                    .map_err(|_| refused())
            }
            Err(_) => Err(refused()),
        }
    }

    fn check_target(
        &self,
        mount: &Mount,
        source: &str,
        target: &OwnedFd,
        proc_itself: bool,
    ) -> Result<(), StageError> {
        let refused = |why: String| {
            Err(StageError::new(format!(
                "error mounting \"{source}\" to rootfs at \"{}\": create mountpoint for {} mount: \
                 {why}",
                mount.target, mount.target
            )))
        };
        // Where the descriptor really is, with every link resolved. Our own proc tells, by the
        // host's mount of it, which is below the root until pivot_root.
        let real = std::fs::read_link(format!("/proc/self/fd/{}", target.as_raw_fd()))
            .map_err(|error| StageError::io("get mount destination real path", &error))?;
        let real = real.to_string_lossy();
        if real == "/" {
            return refused("mountpoint \"/\" is on the top of rootfs \"/\"".to_owned());
        }
        if real == "/proc" && !proc_itself {
            return refused(format!(
                "check proc-safety of {} mount: \"/proc\" cannot be mounted because it is not of \
                 type proc",
                mount.target
            ));
        }
        if real.starts_with("/proc/") && !MOUNTABLE_IN_PROC.contains(&&*real) {
            return refused(format!(
                "check proc-safety of {} mount: \"{real}\" cannot be mounted because it is inside \
                 /proc",
                mount.target
            ));
        }
        Ok(())
    }

    /// Makes the working directory; an image need not have it.
    fn make_working_directory(&self, cwd: &str) -> Result<(), StageError> {
        if cwd.is_empty() || cwd == "/" {
            return Ok(());
        }
        let root = self.root.as_fd();
        let made = resolve::make(root, cwd, Kind::Directory);
        let error = match made {
            Ok(fd) if is_dir(&fd) => return Ok(()),
            Ok(_) => io::Error::from_raw_os_error(libc::ENOTDIR),
            Err(error) => error,
        };
        // Go's MkdirAll names the first component that is no directory.
        let mut culprit = cwd;
        if error.raw_os_error() == Some(libc::ENOTDIR) {
            for (end, _) in cwd.match_indices('/').skip(1).chain([(cwd.len(), "")]) {
                if resolve::open(root, &cwd[..end], OFlags::PATH | OFlags::DIRECTORY).is_err() {
                    culprit = &cwd[..end];
                    break;
                }
            }
        }
        Err(StageError::io(format_args!("mkdir {culprit}"), &error))
    }

    /// Read-only paths, then masked ones. Paths that do not exist are skipped, as under runc.
    fn restrict(&self, read_only_paths: &[String], masked: &[String]) -> Result<(), StageError> {
        for path in read_only_paths {
            let Some(target) = self.existing(path, "can't make", "read-only")? else {
                continue;
            };
            let done = clone_tree_at(target.as_fd(), true).and_then(|tree| {
                read_only(&tree, true)?;
                attach(tree.as_fd(), target.as_fd())
            });
            done.map_err(|error| {
                StageError::io(format_args!("can't make \"{path}\" read-only"), &error)
            })?;
        }
        let mut mask = Mask::default();
        for path in masked {
            if let Some(target) = self.existing(path, "can't mask path", "")? {
                mask.cover(&target).map_err(|error| {
                    StageError::io(format_args!("can't mask path \"{path}\""), &error)
                })?;
            }
        }
        Ok(())
    }

    fn existing(&self, path: &str, what: &str, after: &str) -> Result<Option<OwnedFd>, StageError> {
        match resolve::open(self.root.as_fd(), path, OFlags::PATH) {
            Ok(fd) => Ok(Some(fd)),
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ENOENT | libc::ENOTDIR | libc::EACCES)
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(StageError::io(
                format!("{what} \"{path}\" {after}").trim_end(),
                &error,
            )),
        }
    }
}

/// What masked paths are hidden behind, made once and copied.
#[derive(Debug, Default)]
struct Mask {
    empty_dir: Option<OwnedFd>,
    null: Option<OwnedFd>,
}

impl Mask {
    fn cover(&mut self, target: &OwnedFd) -> io::Result<()> {
        let is_dir = is_dir(target);
        let place = if is_dir {
            &mut self.empty_dir
        } else {
            &mut self.null
        };
        if let Some(attached) = place {
            let tree = clone_tree_at(attached.as_fd(), false)?;
            return attach(tree.as_fd(), target.as_fd());
        }
        let tree = if is_dir {
            let options = ["nr_blocks=1".to_owned(), "nr_inodes=2".to_owned()];
            filesystem("tmpfs", &options, READ_ONLY).map_err(|error| error.error)?
        } else {
            // The host's, for / is still the host's.
            clone_tree(Path::new("/dev/null"), false)?
        };
        attach(tree.as_fd(), target.as_fd())?;
        *place = Some(tree);
        Ok(())
    }
}

/// A new instance of a filesystem, detached.
fn filesystem(kind: &str, options: &[String], bits: u64) -> Result<OwnedFd, FilesystemError> {
    let context = Context::open(kind)?;
    context.set("source", Some(kind.as_bytes()))?;
    for option in options {
        match option.split_once('=') {
            Some((key, value)) => context.set(key, Some(value.as_bytes()))?,
            None => context.set(option, None)?,
        }
    }
    context.mount(bits)
}

fn read_only(tree: &OwnedFd, recursive: bool) -> io::Result<()> {
    let attributes = Attributes {
        set: READ_ONLY,
        propagation: 0,
    };
    set_attributes(tree.as_fd(), recursive, attributes)
}

fn is_dir(fd: &OwnedFd) -> bool {
    fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

fn make_mountpoint(target: &str) -> String {
    format!("create mountpoint for {target} mount: make mountpoint \"{target}\"")
}

fn fs_magic(fd: &OwnedFd) -> Option<i64> {
    fstatfs(fd).ok().map(|stat| stat.f_type)
}
