//! The process that copies.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, BufReader};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FileType, OFlags, Stat, fstat, readlinkat};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};

use super::extract::{Manner, Target, check_writable, extract};
use super::layers::Merged;
use super::pack::{Packer, is_directory};
use super::{Ids, PathStat, Place, Refusal, Reply, Task, Work, changes, view};
use crate::container::packet::{Packet, receive_until};
use crate::sys::resolve;
use crate::types::idmap::IdMapping;
use crate::types::path::clean;
use crate::types::timestamp::Timestamp;
use crate::userns::users::Files;

/// Bytes that are read from the pipe at once.
const PIECE: usize = 256 * 1024;
/// Links that are followed before it is given up, as in Docker.
const LINKS: usize = 255;
/// How long the task may be on its way: it was sent before this process was made.
const TASK: Duration = Duration::from_secs(10);

/// What the process does, from its task on its standard input to the end; returns its exit status.
pub fn serve() -> i32 {
    let input = io::stdin();
    let control = input.as_fd();
    // Whoever made it is a thread of the daemon that waits for it.
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    raise_files();
    let task = receive_until::<Task>(control, Instant::now() + TASK);
    let Ok(Some((task, descriptors))) = task else {
        return 1;
    };
    let reply = match obey(control, task, descriptors) {
        Ok(reply) => reply,
        Err(refusal) => Reply::Failed(refusal),
    };
    match say(control, &reply) {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

/// A deep tree takes a descriptor for each level and layer.
fn raise_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // Raising the soft limit to the hard one is always allowed.
    let _ = setrlimit(Resource::Nofile, raised);
}

fn say(control: BorrowedFd<'_>, reply: &Reply) -> io::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    Packet::new(reply, Vec::new())?.send_until(control, deadline)
}

fn obey(control: BorrowedFd<'_>, task: Task, descriptors: Vec<OwnedFd>) -> Result<Reply, Refusal> {
    let mut descriptors = descriptors.into_iter();
    let missing = || Refusal::Failed("a descriptor is missing".to_owned());
    let pipe = descriptors.next().ok_or_else(missing)?;
    let (root, server) = match &task.place {
        Place::Running => (descriptors.next().ok_or_else(missing)?, None),
        Place::Mounted { rootfs, mounts } => {
            let root = view::mount(rootfs, mounts)?;
            (root.tree, root.server)
        }
        Place::Layers { upper, lower } => {
            return with_layers(&task.work, upper, lower, pipe, task.ids.owners);
        }
    };
    let root = view::enter(root.as_fd())?;
    let done = in_root(control, task.work, root.as_fd(), pipe, task.ids);
    if server.is_some() {
        // It is killed next, and may know of times that are not written yet.
        let _ = rustix::fs::syncfs(&root);
    }
    done
}

fn in_root(
    control: BorrowedFd<'_>,
    work: Work,
    root: BorrowedFd<'_>,
    pipe: OwnedFd,
    ids: Ids,
) -> Result<Reply, Refusal> {
    match work {
        Work::Stat { path } => Ok(Reply::Stat(look(root, &path)?.0)),
        Work::Pack { path } => {
            let (stat, found) = look(root, &path)?;
            say(control, &Reply::Stat(stat))?;
            pack(root, &path, &found, Packer::new(pipe, ids.owners)?)?;
            Ok(Reply::Done)
        }
        Work::Unpack {
            path,
            overwrite,
            user,
            readonly_rootfs,
        } => {
            let place = resolve::open(root, &path, OFlags::PATH).map_err(not_found)?;
            if !is_directory(&fstat(&place)?) {
                return Err(Refusal::Invalid(
                    "extraction point is not a directory".to_owned(),
                ));
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let place = resolve::open(root, &path, flags).map_err(not_found)?;
            check_writable(root, place.as_fd(), readonly_rootfs)?;
            let owner = match user.as_deref() {
                None | Some("") => None,
                Some(user) => Some(identity(root, user)?),
            };
            let manner = Manner {
                overwrite,
                owner,
                ids: &ids,
                rename: None,
                shown: &path,
            };
            let source = BufReader::with_capacity(PIECE, File::from(pipe));
            let path = format!("{}/", clean(&format!("/{path}")));
            extract(source, Target::in_root(root, &path), manner)?;
            Ok(Reply::Done)
        }
        Work::Export | Work::Changes | Work::Layer => {
            Err(Refusal::Failed("no layers came with the task".to_owned()))
        }
    }
}

fn with_layers(
    work: &Work,
    upper: &std::path::Path,
    lower: &[std::path::PathBuf],
    pipe: OwnedFd,
    owners: Option<IdMapping>,
) -> Result<Reply, Refusal> {
    match work {
        Work::Changes => return Ok(Reply::Changes(changes::list(upper, lower)?)),
        Work::Layer => {
            let mut packer = Packer::new(pipe, owners)?;
            changes::layer(&mut packer, upper, lower, Timestamp::now().seconds())?;
            packer.finish()?;
        }
        _ => {
            let lower = lower.iter().map(|path| &**path);
            let all = std::iter::once(upper).chain(lower);
            let mut packer = Packer::new(pipe, owners)?;
            packer.content(&Merged::roots(all)?, b"")?;
            packer.finish()?;
        }
    }
    Ok(Reply::Done)
}

fn not_found(error: io::Error) -> Refusal {
    match error.kind() {
        io::ErrorKind::NotFound => Refusal::NotFound,
        _ => error.into(),
    }
}

/// What is at a path: the client's words for it, and its attributes. A path that ends in a slash or
/// a dot names what a link leads to.
fn look(root: BorrowedFd<'_>, path: &str) -> Result<(PathStat, Stat), Refusal> {
    let absolute = clean(&format!("/{path}"));
    let follows = path.ends_with('/') || path.ends_with("/.") || path == ".";
    let flags = match follows {
        true => OFlags::PATH | OFlags::DIRECTORY,
        false => OFlags::PATH | OFlags::NOFOLLOW,
    };
    let found = resolve::open(root, &absolute, flags).map_err(not_found)?;
    let stat = fstat(&found)?;
    let link_target = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => target(root, &absolute)?,
        _ => String::new(),
    };
    let name = match path.ends_with("/.") || path == "." {
        true => ".".to_owned(),
        false => base(&absolute).to_owned(),
    };
    let nanos = i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec);
    let shown = PathStat {
        name,
        size: stat.st_size,
        mode: go_mode(stat.st_mode),
        mtime: Timestamp::from_nanos(nanos).to_string(),
        link_target,
    };
    Ok((shown, stat))
}

/// The last part of a clean path; `/` for the root.
fn base(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some((_, "")) | None => "/",
        Some((_, base)) => base,
    }
}

/// Go's bits for a mode.
fn go_mode(mode: u32) -> u32 {
    let kind = match FileType::from_raw_mode(mode) {
        FileType::Directory => 1 << 31,
        FileType::Symlink => 1 << 27,
        FileType::BlockDevice => 1 << 26,
        FileType::CharacterDevice => 1 << 26 | 1 << 21,
        FileType::Fifo => 1 << 25,
        FileType::Socket => 1 << 24,
        _ => 0,
    };
    let special = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let special = special.iter().filter(|(bit, _)| mode & bit != 0);
    special.fold(kind | mode & 0o777, |all, (_, bit)| all | bit)
}

/// Where a link leads in the end, as far as there is something: only told to the client, who asks
/// for that path then.
fn target(root: BorrowedFd<'_>, path: &str) -> Result<String, Refusal> {
    let mut done = String::from("/");
    let mut left: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
    let mut links = 0;
    while let Some(part) = left.pop() {
        if part.is_empty() || part == "." {
            continue;
        }
        let next = clean(&format!("{done}/{part}"));
        let found = resolve::open(root, &next, OFlags::PATH | OFlags::NOFOLLOW);
        let link = found.and_then(|found| Ok(readlinkat(&found, "", Vec::new())?));
        let Ok(link) = link else {
            done = next;
            continue;
        };
        links += 1;
        if links > LINKS {
            return Err(Refusal::Failed(format!("too many links in {path}")));
        }
        let link = link.to_string_lossy();
        if link.starts_with('/') {
            "/".clone_into(&mut done);
        }
        left.extend(link.split('/').rev().map(str::to_owned));
    }
    Ok(done)
}

/// Archives what is at a path under the path's last part.
fn pack(root: BorrowedFd<'_>, path: &str, found: &Stat, mut packer: Packer) -> Result<(), Refusal> {
    let absolute = clean(&format!("/{path}"));
    if is_directory(found) {
        let directory = resolve::open(root, &absolute, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let name = match path.ends_with("/.") || path == "." {
            true => ".",
            false if absolute == "/" => "",
            false => base(&absolute),
        };
        let prefix = format!("{name}/");
        let directory = Merged::of(directory);
        let stat = directory.stat()?.unwrap_or(*found);
        packer.directory(&stat, prefix.as_bytes())?;
        packer.content(&directory, prefix.as_bytes())?;
    } else {
        let (above, name) = absolute.rsplit_once('/').unwrap_or(("", &absolute));
        let above = if above.is_empty() { "/" } else { above };
        let directory = resolve::open(root, above, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let name = CString::new(name).map_err(io::Error::from)?;
        let stat = rustix::fs::statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        let archived = name.to_bytes().to_vec();
        packer.entry(&Merged::of(directory), &name, &stat, archived)?;
    }
    Ok(packer.finish()?)
}

/// Ids of a user of the container.
fn identity(root: BorrowedFd<'_>, user: &str) -> Result<(u32, u32), Refusal> {
    let found = Files::read(root).resolve(user, &[]);
    let found = found.map_err(|error| Refusal::Invalid(error.to_string()))?;
    Ok((found.uid, found.gid))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_followed_inside_the_root() {
        let top = tempfile::tempdir().unwrap();
        let root = top.path();
        fs::create_dir_all(root.join("etc/real")).unwrap();
        symlink("/etc", root.join("abs")).unwrap();
        symlink("../../../etc/real", root.join("etc/up")).unwrap();
        symlink("nosuch/deeper", root.join("dangling")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let opened = fs::File::open(root).unwrap();
        let of = |path: &str| target(opened.as_fd(), path);
        assert_eq!(of("/abs/up").unwrap(), "/etc/real");
        assert_eq!(of("/dangling").unwrap(), "/nosuch/deeper");
        assert!(of("/loop").is_err());
        let stat = |path: &str| look(opened.as_fd(), path).map(|(stat, _)| stat);
        let link = stat("abs").unwrap();
        assert_eq!((&*link.name, &*link.link_target), ("abs", "/etc"));
        assert_eq!(link.mode, 1 << 27 | 0o777);
        let directory = stat("abs/").unwrap();
        assert_eq!((&*directory.name, directory.mode >> 31), ("abs", 1));
        assert_eq!(stat("/etc/real/.").unwrap().name, ".");
        assert_eq!(stat("/").unwrap().name, "/");
        assert_eq!(stat("/../../..").unwrap().name, "/");
        assert_eq!(stat("nosuch").unwrap_err(), Refusal::NotFound);
    }
}
