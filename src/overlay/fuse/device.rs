//! Reading requests from /dev/fuse, and waiting for them.
//!
//! A program that unpacks, lists or removes files sends one request at a time, and each answer is
//! followed by the next request within microseconds. To sleep meanwhile costs more than most
//! requests take: the kernel has to wake a thread on another processor, which may have to leave
//! its idle state. So while requests follow each other closely, one thread of a mount asks again and
//! again for [`SPIN`] before it sleeps. Whether they do is counted: a vain wait counts against spinning
//! twice, and one that a sleeping thread was soon woken from, once for it. So a mount that is idle, or
//! is asked now and then, costs nothing. With one processor nobody spins, for then whoever
//! asks could not run.
//!
//! A thread that spins reads by a second descriptor that does not block: the mode belongs to
//! the open file, and the answer goes where the request was read.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::{Errno, Result, read, write};
use rustix::pipe::{SpliceFlags, splice};

use crate::sys::fuse::clone_device;

/// How long to ask before sleeping.
const SPIN: Duration = Duration::from_micros(50);
/// A sleep after which the next request may come while spinning: most of it is the waking.
const SOON: Duration = Duration::from_micros(150);
/// From this count on nobody spins, and it grows no further.
const VAIN: u32 = 8;

/// What the threads of a mount know of its requests' pace.
#[derive(Debug)]
pub(super) struct Pace {
    /// There is more than one processor.
    may_spin: bool,
    /// One thread does.
    spinning: AtomicBool,
    /// What speaks against it. Not exact: threads may overwrite each other's.
    vain: AtomicU32,
}

impl Pace {
    pub(super) fn new() -> Pace {
        Pace {
            may_spin: std::thread::available_parallelism().is_ok_and(|count| count.get() > 1),
            spinning: AtomicBool::new(false),
            vain: AtomicU32::new(VAIN),
        }
    }
}

/// A thread's access to a mount's requests.
#[derive(Debug)]
pub(super) struct Device {
    sleeping: Arc<OwnedFd>,
    spinning: Option<Arc<OwnedFd>>,
    /// The request in work was read by the latter.
    spun: bool,
    pace: Arc<Pace>,
}

impl Device {
    pub(super) fn new(device: OwnedFd, pace: Arc<Pace>) -> io::Result<Device> {
        let spinning = match pace.may_spin {
            true => {
                let clone = clone_device(device.as_fd())?;
                fcntl_setfl(&clone, OFlags::NONBLOCK)?;
                Some(Arc::new(clone))
            }
            false => None,
        };
        Ok(Device {
            sleeping: Arc::new(device),
            spinning,
            spun: false,
            pace,
        })
    }

    /// One more thread's.
    pub(super) fn another(&self) -> io::Result<Device> {
        Device::new(clone_device(self.sleeping.as_fd())?, self.pace.clone())
    }

    /// The next request.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        if let Some(request) = self.spin(buffer) {
            self.spun = true;
            return request;
        }
        self.spun = false;
        if !self.pace.may_spin {
            return read(&self.sleeping, buffer);
        }
        let begun = Instant::now();
        let request = read(&self.sleeping, buffer);
        if begun.elapsed() < SOON {
            let vain = &self.pace.vain;
            vain.store(vain.load(Relaxed).saturating_sub(1), Relaxed);
        }
        request
    }

    /// `None` where there is nothing to be had by it.
    fn spin(&self, buffer: &mut [u8]) -> Option<Result<usize>> {
        let device = self.spinning.as_ref()?;
        let vain = self.pace.vain.load(Relaxed);
        if vain >= VAIN || self.pace.spinning.swap(true, Relaxed) {
            return None;
        }
        let begun = Instant::now();
        let request = loop {
            match read(device, &mut *buffer) {
                Err(Errno::AGAIN) if begun.elapsed() < SPIN => std::hint::spin_loop(),
                Err(Errno::AGAIN) => break None,
                request => break Some(request),
            }
        };
        self.pace.spinning.store(false, Relaxed);
        let vain = match request {
            Some(_) => 0,
            None => (vain + 2).min(VAIN),
        };
        self.pace.vain.store(vain, Relaxed);
        request
    }

    /// Where the request that was read last came from.
    pub(super) fn asked(&self) -> &Arc<OwnedFd> {
        match (&self.spinning, self.spun) {
            (Some(device), true) => device,
            _ => &self.sleeping,
        }
    }

    /// Answers the request that was read last.
    pub(super) fn write(&self, reply: &[u8]) -> Result<()> {
        write(self.asked(), reply).map(drop)
    }

    /// The same with `length` bytes that are in a pipe.
    pub(super) fn splice(&self, pipe: &OwnedFd, length: usize) -> Result<()> {
        let flags = SpliceFlags::empty();
        splice(pipe, None, self.asked(), None, length, flags).map(drop)
    }
}
