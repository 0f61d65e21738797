//! What the thread that reads containers' packets gives up before the first.

use std::io;

use caps::CapSet;

use crate::sys::landlock;
use crate::sys::seccomp::{self, Instruction};

/// The system calls of [`serve`](super::serve), for a seccomp filter around its thread. Memory,
/// locks and signals are the allocator's and the standard library's.
pub const SYSTEM_CALLS: &[&str] = &[
    "brk",
    "clock_gettime",
    "close",
    "connect",
    "epoll_create1",
    "epoll_ctl",
    "epoll_pwait",
    "epoll_pwait2",
    "epoll_wait",
    "exit",
    "exit_group",
    // The standard library checks a descriptor that it closes, where assertions are on.
    "fcntl",
    "futex",
    "getrandom",
    "getsockopt",
    "madvise",
    "mmap",
    "mprotect",
    "mremap",
    "munmap",
    "read",
    "recvfrom",
    "recvmmsg",
    "recvmsg",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sched_yield",
    "sendmsg",
    "sendto",
    "set_robust_list",
    "setsockopt",
    "shutdown",
    "sigaltstack",
    "socket",
    "write",
    "writev",
];

/// Confines the calling thread for ever: no capability, no way to gain any, no file but what is
/// open (Landlock, where the kernel has it), and no system call but those of `filter`, which is
/// compiled from [`SYSTEM_CALLS`].
///
/// # Errors
/// As capset(2), prctl(2), landlock(7) and seccomp(2). The thread must not serve then.
pub fn confine(filter: &[Instruction]) -> io::Result<()> {
    for set in [
        CapSet::Ambient,
        CapSet::Effective,
        CapSet::Permitted,
        CapSet::Inheritable,
    ] {
        caps::clear(None, set).map_err(io::Error::other)?;
    }
    rustix::thread::set_no_new_privs(true)?;
    landlock::shut_out_of_files()?;
    seccomp::load(filter)
}
