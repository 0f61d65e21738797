//! fork(2) without exec, for processes with one thread.
//!
//! A forked child of a process with several threads may only call async-signal-safe functions,
//! since any lock may be held by a thread that no longer exists. Keeper and shim have one thread,
//! so their children may run ordinary Rust; [`fork`] counts the threads (one stat(2), 1 µs) and
//! refuses otherwise, which is what makes it safe to call.
//!
//! A child never returns into its parent's code: it runs a function and ends with `_exit`, so
//! neither destructors nor exit handlers of the parent run twice. (`std::process::exit` belongs to
//! `main.rs`; a forked child has no `main` to go back to.)

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::{ForkResult, Pid};
use serde::Serialize;

use super::clone;

/// Exit status of a child whose function panicked (Rust's own for a panic in `main`).
const PANICKED: i32 = 101;

/// Number of threads of this process.
pub fn threads() -> io::Result<u64> {
    // /proc/PID/task has a link for each thread, for itself and for its parent.
    Ok(std::fs::metadata("/proc/self/task")?
        .nlink()
        .saturating_sub(2))
}

/// Forks; the child runs `body` with no signal blocked and ends with its result as exit status.
///
/// # Errors
/// `ResourceBusy` where this process has more than one thread; otherwise fork(2)'s.
pub fn fork(body: impl FnOnce() -> i32) -> io::Result<Pid> {
    if threads()? != 1 {
        return Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "this process has several threads",
        ));
    }
    // SAFETY: the process has one thread, this one, as was just counted, and only this thread could
    // start another. So no lock is held by a thread that the child lacks, and the child may run
    // any code. It does not return: `_exit` ends it below, so nothing that both processes own
    // in memory is dropped twice.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
            clone::exit_now(catch_unwind(AssertUnwindSafe(body)).unwrap_or(PANICKED))
        }
    }
}

/// [`fork`], where the child has no descriptor but its standard streams and `keep`.
///
/// `body` is a function pointer, not a closure, so it cannot hold any other descriptor.
pub fn fork_keeping<const N: usize>(
    keep: [OwnedFd; N],
    body: fn([OwnedFd; N]) -> i32,
) -> io::Result<Pid> {
    fork(move || match keep_only(keep) {
        Ok(kept) => body(kept),
        Err(_) => PANICKED,
    })
}

/// The same for any number of descriptors. `with` goes to the child as it is; being what can be
/// written down, it owns no descriptor either.
pub fn fork_holding<T: Serialize + 'static>(
    keep: Vec<OwnedFd>,
    with: T,
    body: fn(Vec<OwnedFd>, T) -> i32,
) -> io::Result<Pid> {
    fork(move || match keep_all(keep) {
        Ok(kept) => body(kept, with),
        Err(_) => PANICKED,
    })
}

fn keep_only<const N: usize>(keep: [OwnedFd; N]) -> io::Result<[OwnedFd; N]> {
    let kept = keep_all(keep.into())?;
    kept.try_into()
        .map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Moves `keep` to the descriptors from 3 on and closes every other.
fn keep_all(keep: Vec<OwnedFd>) -> io::Result<Vec<OwnedFd>> {
    let first = RawFd::try_from(keep.len())
        .ok()
        .and_then(|count| count.checked_add(3))
        .ok_or(io::ErrorKind::InvalidInput)?;
    // First out of the way of the numbers that they will get.
    let mut raised = Vec::with_capacity(keep.len());
    for from in &keep {
        raised.push(nix::fcntl::fcntl(
            from,
            nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(first),
        )?);
    }
    for (number, from) in (3..).zip(raised) {
        // SAFETY: dup3 onto `number` closes what was there. The child owns its whole descriptor
        // table, runs only `body` from here on, and `body` is given nothing but what this function
        // returns; values that own the closed numbers lie in the parent's stack frames, are
        // unreachable from `body` and are never dropped, since the child ends with `_exit`.
        if unsafe { libc::dup3(from, number, libc::O_CLOEXEC) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    std::mem::forget(keep);
    // Only what `body` is given is ever used again, see above.
    clone::close_from(first);
    // SAFETY: each number was just made by dup3 and has no other owner (see above).
    Ok((3..first)
        .map(|number| unsafe { OwnedFd::from_raw_fd(number) })
        .collect())
}

/// Marks every descriptor but the standard streams close-on-exec, then lets `pass` live on.
pub fn pass_to_exec(pass: &[RawFd]) -> io::Result<()> {
    clone::close_on_exec_from(3)?;
    for &number in pass {
        // SAFETY: clears one flag of a descriptor; no memory is involved, and a number that is not
        // open is reported as EBADF.
        if unsafe { libc::fcntl(number, libc::F_SETFD, 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Takes ownership of a descriptor that the program image before this one passed on.
///
/// # Errors
/// `NotFound` unless the number is above the standard streams, open and not close-on-exec. Taking
/// it sets close-on-exec, and every descriptor that this image opened has it from birth, so
/// nothing can be taken twice or from another owner.
pub fn take_inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD only reads a flag; a number that is not open is reported as EBADF.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if number <= 2 || flags < 0 || flags & libc::FD_CLOEXEC != 0 {
        return Err(io::ErrorKind::NotFound.into());
    }
    // SAFETY: as above, the number is open; only a flag changes.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: open, and inherited through exec: everything that this program image opens is
    // close-on-exec, and so is everything that was taken here before.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Points the standard streams at /dev/null, except those in `keep` (0 to 2).
pub fn detach_standard_streams(keep: &[RawFd]) -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    for number in (0..=2).filter(|number| !keep.contains(number)) {
        // SAFETY: the standard streams are never closed by their owners in `std`, so replacing
        // what the number stands for leaves every handle valid.
        if unsafe { libc::dup2(null.as_raw_fd(), number) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forking_with_threads_is_refused() {
        // The test harness runs this on a thread of its own.
        assert!(threads().unwrap() > 1);
        let error = fork(|| 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
    }

    #[test]
    fn descriptors_of_this_image_cannot_be_taken() {
        let file = File::open("/dev/null").unwrap();
        assert!(take_inherited(file.as_raw_fd()).is_err());
        assert!(take_inherited(1).is_err());
    }
}
