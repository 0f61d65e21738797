//! Signals of any number to a process held by a pidfd, and signals that are to do nothing.
//!
//! rustix and nix know only the named signals; containers use real-time ones too (systemd stops
//! on `SIGRTMIN+3`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sys::signal::{SigHandler, Signal};

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
