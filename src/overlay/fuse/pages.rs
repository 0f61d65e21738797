//! Answers to READ whose bytes never come here: pages of the real file go by a pipe to the device.
//!
//! What would be copied twice, to a buffer and from it, is copied once. It pays from [`LEAST`] on; below,
//! the three calls cost more than the copy. The reply's length goes ahead of the bytes, so the file's
//! size is asked for first. Whatever else does not go as expected (a filesystem without splice(2), a file
//! that becomes shorter, no room for a pipe) costs a pipe, which is not made again, and the request
//! is answered by way of the buffer.
//!
//! A mount has few pipes, made when they are of use: they count against a bound of the user's (pipe(7),
//! `pipe-user-pages-soft`), beyond which all others that he makes are small.

use std::os::fd::OwnedFd;
use std::sync::Mutex;

use rustix::fs::fstat;
use rustix::io::{Errno, Result, write};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use super::device::Device;
use super::dir::lock;
use super::node::Access;
use super::tree::Tree;
use super::wire::{OUT_HEADER, Request, header, read_in};

/// Shortest read, in bytes, that is answered so.
const LEAST: u64 = 32 << 10;
/// Longest: what the kernel reads ahead, by default.
const MOST: u64 = 128 << 10;
/// Most pipes of a mount.
const PIPES: usize = 2;
/// Size of the pipe: a page for the header, and as many as the bytes may touch; a power of two.
const PIPE: usize = 256 << 10;

/// The pipes of a mount.
#[derive(Debug, Default)]
pub(super) struct Pages(Mutex<Pipes>);

#[derive(Debug, Default)]
struct Pipes {
    /// Empty ones.
    idle: Vec<Pipe>,
    /// How many were made, or could not be.
    made: usize,
}

#[derive(Debug)]
struct Pipe {
    to: OwnedFd,
    from: OwnedFd,
}

impl Pipe {
    fn new() -> Result<Pipe> {
        let (from, to) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        fcntl_setpipe_size(&to, PIPE)?;
        Ok(Pipe { to, from })
    }

    /// Puts the reply into it that has `size` bytes of a file, or those to its end: its length.
    fn fill(&self, file: &OwnedFd, unique: u64, mut offset: u64, size: u64) -> Result<usize> {
        let end = fstat(file)?.st_size as u64;
        // At most MOST.
        let mut left = size.min(end.saturating_sub(offset)) as usize;
        let length = OUT_HEADER + left;
        write(&self.to, &header(length, unique, 0))?;
        while left > 0 {
            let at = Some(&mut offset);
            match splice(file, at, &self.to, None, left, SpliceFlags::empty())? {
                0 => return Err(Errno::IO),
                count => left -= count,
            }
        }
        Ok(length)
    }
}

impl Pages {
    /// Answers a READ; `false` where it is to be answered by way of a buffer.
    pub(super) fn answer(&self, tree: &Tree, request: &Request<'_>, device: &Device) -> bool {
        let mut body = request.body;
        let Ok((offset, size)) = read_in(&mut body) else {
            return false;
        };
        if !(LEAST..=MOST).contains(&size) {
            return false;
        }
        let Ok(file) = tree
            .table
            .get(request.node)
            .and_then(|node| tree.handle(&node, Access::Read))
        else {
            return false;
        };
        let Some(pipe) = self.take() else {
            return false;
        };
        let Ok(length) = pipe.fill(&file.fd, request.unique, offset, size) else {
            return false;
        };
        match device.splice(&pipe.from, length) {
            // ENOENT: whoever asked was killed meanwhile. The pipe is empty all the same.
            Ok(()) | Err(Errno::NOENT) => {
                lock(&self.0).idle.push(pipe);
                true
            }
            Err(_) => false,
        }
    }

    fn take(&self) -> Option<Pipe> {
        let mut pipes = lock(&self.0);
        if let Some(pipe) = pipes.idle.pop() {
            return Some(pipe);
        }
        if pipes.made >= PIPES {
            return None;
        }
        pipes.made += 1;
        Pipe::new().ok()
    }
}
