//! The server: threads that read requests from the device, have the tree do them, and answer.
//!
//! Each thread has a descriptor of its own of the device, so that requests in work are kept apart
//! in the kernel, and two buffers ([`super::device`] tells how it waits). A request is served where
//! it was read, to its end. Nothing here blocks but calls on the backing files: the kernel alone
//! handles locks, fifos, sockets and devices.
//!
//! What the kernel is told at INIT decides the speed: it caches names, attributes, links' targets,
//! lists and pages until it forgets them, for nobody changes them behind its back; it opens
//! files without us (an OPEN answered ENOSYS is the last), collects writes, and sends
//! operations on one directory in parallel. Of a new file it sends MKNOD, since CREATE, answered
//! ENOSYS too, would be followed by a RELEASE.
//!
//! What is left is a round trip each, of 10–20 µs. A file that tar(1) unpacks takes nine: GETATTR of the
//! directory, which the kernel's own change has made invalid, LOOKUP, MKNOD, WRITE, a SETATTR each for
//! time, owner and mode, and GETXATTR `security.capability` before the data and the owner change,
//! of which the kernel remembers nothing. One that rm(1) removes takes three: GETATTR of the
//! directory, UNLINK, and SETATTR with the time of that, which the write-back cache costs.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::{Errno, Result};

use super::abi::{FSYNC_DATA, SETXATTR_ACL_KILL_SGID, WRITE_KILL_SUIDGID, cap, op};
use super::data::Changes;
use super::device::{Device, Pace};
use super::entries::{New, What};
use super::seek::Seeker;
use super::table::ROOT;
use super::tree::{Found, Tree};
use super::wire::{Body, MAX_DATA, Malformed, REQUEST_MAX, Reply, Request, from_device, read_in};

/// The protocol's version, 7.45 being what is written here; older kernels leave things out.
const MAJOR: u32 = 7;
const MINOR: u32 = 45;

/// Oldest kernel that is served (4.20): it has all that a request is parsed for.
const MINOR_LEAST: u32 = 28;

const WANTED: u64 = cap::ASYNC_READ
    | cap::BIG_WRITES
    | cap::DONT_MASK
    | cap::READDIRPLUS
    | cap::READDIRPLUS_AUTO
    | cap::ASYNC_DIO
    | cap::WRITEBACK_CACHE
    | cap::NO_OPEN
    | cap::PARALLEL_DIROPS
    | cap::POSIX_ACL
    | cap::MAX_PAGES
    | cap::CACHE_SYMLINKS
    | cap::NO_OPENDIR
    | cap::EXPLICIT_INVAL_DATA
    | cap::HANDLE_KILLPRIV_V2
    | cap::SETXATTR_EXT
    | cap::INIT_EXT;

/// Stack of a thread: its deepest call keeps no buffer there.
const STACK: usize = 256 << 10;

impl From<Malformed> for Errno {
    fn from(_: Malformed) -> Errno {
        Errno::INVAL
    }
}

/// Whether a request is answered.
enum Answer {
    Yes,
    /// Not here: FORGET and its like, and what another thread answers.
    No,
}

/// Serves until the mount is gone.
///
/// # Errors
///
/// The device's; threads that cannot be started.
pub(super) fn serve(tree: Tree, device: OwnedFd, threads: usize) -> io::Result<()> {
    let (tree, pace) = (Arc::new(tree), Arc::new(Pace::new()));
    let device = Device::new(device, pace)?;
    let seeker = Arc::new(Seeker::new(tree.clone()));
    for index in 1..threads {
        let (tree, seeker) = (tree.clone(), seeker.clone());
        let device = device.another()?;
        std::thread::Builder::new()
            .name(format!("fuse-{index}"))
            .stack_size(STACK)
            .spawn(move || work(&tree, &seeker, device))?;
    }
    work(&tree, &seeker, device)
}

fn work(tree: &Tree, seeker: &Seeker, mut device: Device) -> io::Result<()> {
    let mut buffer = vec![0; REQUEST_MAX].into_boxed_slice();
    let mut reply = Reply::new(tree.owners.clone());
    loop {
        let length = match device.read(&mut buffer) {
            Ok(length) => length,
            // The request was withdrawn, or a signal came.
            Err(Errno::NOENT | Errno::INTR | Errno::AGAIN) => continue,
            // Unmounted.
            Err(Errno::NODEV) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let Ok(request) = Request::parse(&buffer[..length]) else {
            continue;
        };
        reply.clear();
        let done = match request.opcode {
            op::READ if tree.pages.answer(tree, &request, &device) => continue,
            op::LSEEK => seeker.take(&request, &device).map(|()| Answer::No),
            _ => dispatch(tree, &request, &mut reply),
        };
        let answer = match done {
            Ok(Answer::No) => continue,
            Ok(Answer::Yes) => Ok(()),
            Err(error) => Err(error),
        };
        match device.write(reply.finish(request.unique, answer)) {
            // ENOENT: whoever asked was killed meanwhile.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::NODEV) => return Ok(()),
            // A reply that the kernel does not like fails that request alone.
            Err(_) => {
                let _ = device.write(reply.finish(request.unique, Err(Errno::IO)));
            }
        }
    }
}

fn dispatch(tree: &Tree, request: &Request<'_>, reply: &mut Reply) -> Result<Answer> {
    let mut body = request.body;
    match request.opcode {
        op::INIT => init(&mut body, reply)?,
        op::DESTROY => {}
        op::FORGET => {
            tree.table.forget(request.node, body.u64()?);
            return Ok(Answer::No);
        }
        op::BATCH_FORGET => {
            let count = body.u32()?;
            body.u32()?;
            for _ in 0..count {
                let (id, lookups) = (body.u64()?, body.u64()?);
                tree.table.forget(id, lookups);
            }
            return Ok(Answer::No);
        }
        op::STATFS => tree.statfs(&tree.table.get(ROOT)?, reply)?,
        op::LOOKUP..=op::RENAME | op::RENAME2 | op::TMPFILE => {
            names(tree, request, &mut body, reply)?;
        }
        _ => contents(tree, request, &mut body, reply)?,
    }
    Ok(Answer::Yes)
}

/// What is done to names, and the attributes that every file has.
fn names(tree: &Tree, request: &Request<'_>, body: &mut Body<'_>, reply: &mut Reply) -> Result<()> {
    let node = tree.table.get(request.node)?;
    let new = |what, umask| -> Result<New<'_>> {
        Ok(New {
            what,
            uid: tree.owners.stored_uid(request.uid)?,
            gid: tree.owners.stored_gid(request.gid)?,
            umask,
        })
    };
    match request.opcode {
        op::LOOKUP => match tree.lookup(&node, body.name()?)? {
            Some(found) => give(reply, &found),
            None => reply.no_entry(),
        },
        op::GETATTR => reply.attributes(&tree.attr(&node)?),
        op::SETATTR => {
            let changes = Changes::parse(body)?.stored(&tree.owners)?;
            reply.attributes(&tree.setattr(&node, &changes)?);
        }
        op::READLINK => {
            let handle = tree.handle(&node, super::node::Access::Path)?;
            let target = rustix::fs::readlinkat(&handle.fd, c"", Vec::new())?;
            reply.put(target.to_bytes());
        }
        op::SYMLINK => {
            let (name, target) = (body.name()?, body.text()?);
            give(
                reply,
                &tree.make(&node, name, &new(What::Link(target), 0)?)?,
            );
        }
        op::MKNOD => {
            let (mode, number, umask) = (body.u32()?, body.u32()?, body.u32()?);
            body.u32()?;
            let what = match mode & libc::S_IFMT {
                libc::S_IFREG => What::File(mode),
                _ => What::Special(mode, from_device(number)),
            };
            give(reply, &tree.make(&node, body.name()?, &new(what, umask)?)?);
        }
        op::MKDIR => {
            let (mode, umask) = (body.u32()?, body.u32()?);
            let name = body.name()?;
            give(
                reply,
                &tree.make(&node, name, &new(What::Dir(mode), umask)?)?,
            );
        }
        op::TMPFILE => {
            body.u32()?;
            let (mode, umask) = (body.u32()?, body.u32()?);
            give(
                reply,
                &tree.make_nameless(&node, &new(What::File(mode), umask)?)?,
            );
            reply.put(&[0; 16]); // File handle, flags.
        }
        op::UNLINK => tree.remove(&node, body.name()?, false)?,
        op::RMDIR => tree.remove(&node, body.name()?, true)?,
        op::RENAME | op::RENAME2 => {
            let target = tree.table.get(body.u64()?)?;
            let mut flags = 0;
            if request.opcode == op::RENAME2 {
                flags = body.u32()?;
                body.u32()?;
            }
            let (old, new) = (body.name()?, body.name()?);
            tree.rename((&node, old), (&target, new), flags)?;
        }
        _ => return Err(Errno::NOSYS),
    }
    Ok(())
}

/// What is done to files and directories themselves.
fn contents(
    tree: &Tree,
    request: &Request<'_>,
    body: &mut Body<'_>,
    reply: &mut Reply,
) -> Result<()> {
    let node = || tree.table.get(request.node);
    match request.opcode {
        op::LINK => {
            let linked = tree.table.get(body.u64()?)?;
            give(reply, &tree.link_to(&linked, &node()?, body.name()?)?);
        }
        op::READ | op::READDIR | op::READDIRPLUS => {
            let (offset, size) = read_in(body)?;
            let size = usize::try_from(size).unwrap_or(MAX_DATA);
            match request.opcode {
                op::READ => tree.read(&node()?, offset, size.min(MAX_DATA), reply)?,
                of => tree.readdir(&node()?, offset, size, of == op::READDIRPLUS, reply)?,
            }
        }
        op::WRITE => {
            body.u64()?;
            let (offset, size, flags) = (body.u64()?, body.u32()? as usize, body.u32()?);
            body.bytes(16)?; // Lock owner, flags.
            let bytes = body.bytes(size)?;
            let kill = flags & WRITE_KILL_SUIDGID != 0;
            let written = tree.write(&node()?, offset, bytes, kill)?;
            reply.u32(written as u32);
            reply.u32(0);
        }
        // Of a file made without a name alone.
        op::RELEASE => {}
        op::FSYNC | op::FSYNCDIR => {
            body.u64()?;
            tree.sync(&node()?, body.u32()? & FSYNC_DATA != 0)?;
        }
        op::SETXATTR => {
            let (size, flags, more) = (body.u32()? as usize, body.u32()?, body.u32()?);
            body.u32()?;
            let name = body.text()?;
            let value = body.bytes(size)?;
            let kill = more & SETXATTR_ACL_KILL_SGID != 0;
            tree.setxattr(&node()?, name, value, flags, kill)?;
        }
        op::GETXATTR => {
            let size = body.u32()? as usize;
            body.u32()?;
            tree.getxattr(&node()?, body.text()?, size, reply)?;
        }
        op::LISTXATTR => tree.listxattr(&node()?, body.u32()? as usize, reply)?,
        op::REMOVEXATTR => tree.removexattr(&node()?, body.text()?)?,
        op::FALLOCATE => {
            body.u64()?;
            let (offset, length, mode) = (body.u64()?, body.u64()?, body.u32()?);
            tree.allocate(&node()?, mode, offset, length)?;
        }
        op::COPY_FILE_RANGE | op::COPY_FILE_RANGE_64 => {
            body.u64()?;
            let (from, target) = (body.u64()?, tree.table.get(body.u64()?)?);
            body.u64()?;
            let (to, length) = (body.u64()?, body.u64()?);
            // The older one's answer has 32 bits.
            let length = length.min(u64::from(i32::MAX.unsigned_abs()));
            let copied = tree.copy_range((&node()?, from), (&target, to), length)?;
            // Eight bytes either way: count and padding, or a longer count.
            reply.u64(if request.opcode == op::COPY_FILE_RANGE {
                u64::from_ne_bytes(pair(copied as u32))
            } else {
                copied
            });
        }
        op::STATX => tree.statx(&node()?, reply)?,
        _ => return Err(Errno::NOSYS),
    }
    Ok(())
}

fn pair(first: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&first.to_ne_bytes());
    bytes
}

fn give(reply: &mut Reply, found: &Found) {
    reply.entry(found.node.id, &found.attr);
}

fn init(body: &mut Body<'_>, reply: &mut Reply) -> Result<()> {
    let (major, minor, readahead, low) = (body.u32()?, body.u32()?, body.u32()?, body.u32()?);
    if major != MAJOR || minor < MINOR_LEAST {
        return Err(Errno::PROTO);
    }
    let high = body.u32().unwrap_or(0);
    let mut offered = u64::from(low);
    if offered & cap::INIT_EXT != 0 {
        offered |= u64::from(high) << 32;
    }
    let taken = offered & WANTED;
    for value in [MAJOR, MINOR, readahead, taken as u32] {
        reply.u32(value);
    }
    reply.u16(64); // Requests in the background, and when those are many.
    reply.u16(48);
    reply.u32(MAX_DATA as u32);
    reply.u32(1); // Times are exact to the nanosecond.
    reply.u16((MAX_DATA / 4096) as u16);
    reply.u16(0);
    reply.u32((taken >> 32) as u32);
    reply.put(&[0; 28]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::overlay::fuse::tree::Layers;
    use crate::sys::tree::open_dir;

    fn tree(dir: &Path) -> Tree {
        for name in ["lower/d", "upper", "work"] {
            std::fs::create_dir_all(dir.join(name)).unwrap();
        }
        std::fs::write(dir.join("lower/d/f"), "text").unwrap();
        std::fs::write(dir.join("outside"), "outside").unwrap();
        let open = |name| open_dir(&dir.join(name)).unwrap();
        let layers = Layers {
            lower: vec![open("lower")],
            upper: Some(open("upper")),
            work: open("work"),
            volatile: true,
            owners: None,
        };
        Tree::new(layers, 8).unwrap()
    }

    /// A request's bytes. Of bodies, half are numbers and names as real ones are.
    fn request() -> impl Strategy<Value = Vec<u8>> {
        let number = prop_oneof![0_u32..9, any::<u32>()];
        let name = prop_oneof![
            Just(&b"d\0"[..]),
            Just(&b"f\0"[..]),
            Just(&b"new\0"[..]),
            Just(&b"../outside\0"[..]),
            Just(&b"..\0"[..]),
            Just(&b"user.k\0"[..]),
            Just(&b"endless"[..]),
        ];
        let names = proptest::collection::vec(name, 0..3);
        let numbers = proptest::collection::vec(number, 0..22);
        let body = prop_oneof![
            (numbers, names).prop_map(|(numbers, names)| {
                let numbers = numbers.iter().flat_map(|number| number.to_ne_bytes());
                numbers.chain(names.concat()).collect::<Vec<u8>>()
            }),
            proptest::collection::vec(any::<u8>(), 0..200),
        ];
        (0_u32..60, 0_u64..9, body, -9_i32..9).prop_map(|(opcode, node, body, lie)| {
            let length = (40 + body.len()) as u32;
            // At times its length is a lie.
            let told = if lie < 0 {
                length.wrapping_add_signed(lie)
            } else {
                length
            };
            let mut bytes = Vec::new();
            bytes.extend(told.to_ne_bytes());
            bytes.extend(opcode.to_ne_bytes());
            bytes.extend(7_u64.to_ne_bytes());
            bytes.extend(node.to_ne_bytes());
            bytes.extend([0; 16]);
            bytes.extend(body);
            bytes
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_request_leads_out_or_ends_the_server(
            requests in proptest::collection::vec(request(), 1..60)
        ) {
            let dir = tempfile::tempdir().unwrap();
            let tree = tree(dir.path());
            let mut reply = Reply::new(tree.owners.clone());
            for bytes in requests {
                let Ok(request) = Request::parse(&bytes) else { continue };
                reply.clear();
                let result = dispatch(&tree, &request, &mut reply).map(drop);
                prop_assert!(reply.finish(request.unique, result).len() >= 16);
            }
            let text = std::fs::read_to_string(dir.path().join("outside")).unwrap();
            prop_assert_eq!(text, "outside");
            let layer = std::fs::read_to_string(dir.path().join("lower/d/f")).unwrap();
            prop_assert_eq!(layer, "text");
            prop_assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 4);
        }
    }
}
