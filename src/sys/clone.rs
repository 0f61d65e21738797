//! New processes by clone3(2), and the file descriptors that they must not keep.
//!
//! The child runs a closure and ends with the closure's value: it never returns into the frames of
//! the function that cloned, so nothing there is dropped twice. The closure may run ordinary code
//! (allocate, format) only when the caller's process has a single thread, as keeper and shim have:
//! in a process with threads a lock that another thread held stays locked in the child for ever.
//!
//! Needs Linux 5.3 (clone3 with a pidfd).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// New user namespace.
pub const NEW_USER: u64 = libc::CLONE_NEWUSER as u64;
/// New mount namespace.
pub const NEW_MOUNT: u64 = libc::CLONE_NEWNS as u64;
/// New pid namespace.
pub const NEW_PID: u64 = libc::CLONE_NEWPID as u64;
/// New System V IPC and message queue namespace.
pub const NEW_IPC: u64 = libc::CLONE_NEWIPC as u64;
/// New host name namespace.
pub const NEW_UTS: u64 = libc::CLONE_NEWUTS as u64;
/// New cgroup namespace.
pub const NEW_CGROUP: u64 = libc::CLONE_NEWCGROUP as u64;
/// New network namespace.
pub const NEW_NET: u64 = libc::CLONE_NEWNET as u64;
/// The child's parent is the caller's parent; it ends with the caller's own exit signal.
pub const SIBLING: u64 = libc::CLONE_PARENT as u64;

/// Exit code of a child whose closure panicked.
const PANICKED: i32 = 125;

/// A process that was just made.
#[derive(Debug)]
pub struct Child {
    /// Its number in the caller's pid namespace.
    pub pid: i32,
    /// Its pidfd, close-on-exec.
    pub pidfd: OwnedFd,
}

/// Makes a process that runs `child` and ends with what it returns. SIGCHLD tells the parent.
///
/// # Errors
///
/// Whatever clone3(2) fails with: EPERM or ENOSPC where namespaces are refused or used up.
pub fn clone(flags: u64, child: impl FnOnce() -> i32) -> io::Result<Child> {
    let mut pidfd: RawFd = -1;
    let mut args = libc::clone_args {
        flags: flags | libc::CLONE_PIDFD as u64,
        pidfd: &raw mut pidfd as u64,
        child_tid: 0,
        parent_tid: 0,
        // With CLONE_PARENT the kernel takes the caller's own and refuses any other.
        exit_signal: if flags & SIBLING == 0 {
            libc::SIGCHLD as u64
        } else {
            0
        },
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    };
    // SAFETY: `args` is a whole `clone_args` of the size given and outlives the call; its only
    // pointer is to `pidfd`, which lives as long. Without CLONE_VM the child has copies of all
    // memory, and with `stack: 0` it goes on at this point on its copy of this stack, so both
    // processes return from the call with valid frames, as after fork(2).
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut args,
            size_of::<libc::clone_args>(),
        )
    };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let code = catch_unwind(AssertUnwindSafe(child)).unwrap_or(PANICKED);
            exit_now(code)
        }
        pid => Ok(Child {
            pid: i32::try_from(pid).map_err(io::Error::other)?,
            // SAFETY: clone3 succeeded with CLONE_PIDFD, so the kernel stored a new descriptor
            // there that nothing else owns.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
    }
}

/// Makes a child by fork(2) and gives its pid. For a process under a seccomp filter: Docker's answers
/// clone3(2) with ENOSYS, whose flags it cannot see.
///
/// # Errors
///
/// EAGAIN where no more processes are allowed.
pub fn fork(child: impl FnOnce() -> i32) -> io::Result<i32> {
    // SAFETY: the child gets copies of all memory and goes on here on its copy of the stack. It may
    // run ordinary code under the condition in the module's head, a single-threaded caller.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let code = catch_unwind(AssertUnwindSafe(child)).unwrap_or(PANICKED);
            exit_now(code)
        }
        pid => Ok(pid),
    }
}

/// Ends the process at once: no destructor, no buffer, no atexit handler of the parent's runs.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit(2) has no precondition and does not return.
    unsafe { libc::_exit(code) }
}

/// Waits for a child to end and gives its wait status (`None`: somebody else reaped it).
pub fn reap(pid: i32) -> Option<i32> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is a valid place for an int for the length of the call.
        let got = unsafe { libc::waitpid(pid, &raw mut status, 0) };
        if got == pid {
            return Some(status);
        }
        if got == -1 && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted {
            continue;
        }
        return None;
    }
}

/// Marks every descriptor from `first` on close-on-exec.
///
/// # Errors
///
/// What close_range(2) fails with; on kernels before 5.11 each descriptor up to the limit is
/// marked by itself.
pub fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    if close_range(first, RawFd::MAX, libc::CLOSE_RANGE_CLOEXEC).is_ok() {
        return Ok(());
    }
    for fd in first..descriptor_limit() {
        // SAFETY: F_SETFD takes an int and touches no memory of ours; an fd that is not open
        // gives EBADF, which is the expected answer for most.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}

/// Closes every descriptor from `first` on. Only for a process that will never again use a value
/// that owns one: the mini init right before its loop, and a forked child that was given its own.
pub fn close_from(first: RawFd) {
    close_span(first, RawFd::MAX);
}

/// Like [`close_from`], and `last` after all the others: who waits for its end then sees none of them.
pub fn close_from_ending_with(first: RawFd, last: OwnedFd) {
    let kept = last.as_raw_fd();
    close_span(first, kept - 1);
    close_span(kept + 1, RawFd::MAX);
    drop(last);
}

/// See [`close_from`].
fn close_span(first: RawFd, last: RawFd) {
    if first > last || close_range(first, last, 0).is_ok() {
        return;
    }
    for fd in first..=last.min(descriptor_limit()) {
        // SAFETY: closing is memory-safe whatever the number; the caller promises that no owner
        // of these descriptors runs again.
        unsafe { libc::close(fd) };
    }
}

fn close_range(first: RawFd, last: RawFd, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: close_range(2) takes three integers and touches no memory.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// One past the highest descriptor that the process can have open.
fn descriptor_limit() -> RawFd {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit
        .current
        .and_then(|n| RawFd::try_from(n).ok())
        .map_or(1 << 20, |n| n.min(1 << 20))
}
