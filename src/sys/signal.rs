//! Signals of any number, and what this process does about its own.
//!
//! rustix and nix know only the named signals; containers use real-time ones too (systemd stops
//! on `SIGRTMIN+3`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sys::signal::{SigHandler, Signal};

/// Highest signal number (`_NSIG`).
const SIGNALS: i32 = 64;

/// Sends signal `number`; 0 only checks that the process is there.
pub fn send(pidfd: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    // SAFETY: pidfd_send_signal(2) takes numbers and, as its third argument, an optional siginfo
    // pointer, which is null here; it touches no memory of this process.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            number,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Ignores a signal until somebody handles it.
pub fn ignore(signal: Signal) -> io::Result<()> {
    // SAFETY: no function of this process becomes a handler, so nothing runs in a signal's context
    // that would have to be async-signal-safe.
    unsafe { nix::sys::signal::signal(signal, SigHandler::SigIgn) }?;
    Ok(())
}

/// Sets every signal to its default action and unblocks all, as a program expects after execve.
/// (Rust's runtime ignores SIGPIPE, a daemon blocks what it reads from a signalfd.)
pub fn reset_all() {
    for signal in 1..=SIGNALS {
        // SAFETY: SIG_DFL installs no code of ours. SIGKILL, SIGSTOP and glibc's own two real-time
        // signals are refused with EINVAL, which is as good.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    set_mask(false);
}

/// Blocks every signal: the mini init takes them with [`next_blocked`].
pub fn block_all() {
    set_mask(true);
}

fn set_mask(all: bool) {
    // SAFETY: a zeroed sigset_t is a valid value that sigfillset/sigemptyset then initialise; the
    // mask call only reads it.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        if all {
            libc::sigfillset(&raw mut set);
        } else {
            libc::sigemptyset(&raw mut set);
        }
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// Waits for a blocked signal and takes it.
///
/// # Errors
///
/// EINTR.
pub fn next_blocked() -> io::Result<i32> {
    // SAFETY: a zeroed sigset_t is a valid value that sigfillset then initialises; sigwaitinfo reads it
    // and is given no place for the details.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        match libc::sigwaitinfo(&raw const set, std::ptr::null_mut()) {
            -1 => Err(io::Error::last_os_error()),
            signal => Ok(signal),
        }
    }
}

/// Sends a signal to a process by number; 0 as a pid is refused rather than taken for the group.
pub fn send_to_pid(pid: i32, signal: i32) {
    if pid > 0 {
        // SAFETY: kill(2) takes two integers.
        unsafe { libc::kill(pid, signal) };
    }
}
