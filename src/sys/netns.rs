//! Network namespaces: made and entered by threads of their own.
//!
//! A thread that has entered a network namespace cannot return to the host's, which belongs to
//! another user namespace (setns: EPERM). So what has to be done inside is done by a thread that
//! ends with it; what it opened there — sockets above all — stays of that namespace, whoever uses it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sched::{CloneFlags, setns, unshare};

/// Runs `body` on a thread in a new network namespace, owned by this process's user namespace, and
/// gives the namespace with what came of it.
///
/// # Errors
/// EPERM without `CAP_SYS_ADMIN`; ENOSPC beyond `user.max_net_namespaces`; what `body` answers.
pub fn make<T: Send>(body: impl FnOnce() -> io::Result<T> + Send) -> io::Result<(OwnedFd, T)> {
    on_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let namespace = File::open("/proc/thread-self/ns/net")?;
        Ok((namespace.into(), body()?))
    })
}

/// Runs `body` on a thread in a network namespace, given by itself or by a process in it (a pidfd).
///
/// # Errors
/// EPERM without `CAP_SYS_ADMIN` over it; what `body` answers.
pub fn enter<T: Send>(
    namespace: impl AsFd + Send,
    body: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    on_thread(|| {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        body()
    })
}

/// Moves the calling thread, which can never come back, into a network namespace.
pub fn enter_for_good(namespace: impl AsFd) -> io::Result<()> {
    Ok(setns(namespace, CloneFlags::CLONE_NEWNET)?)
}

/// The network namespace of a process.
///
/// # Errors
/// That the process has ended, or is none of ours.
pub fn of(pid: i32) -> io::Result<OwnedFd> {
    Ok(File::open(format!("/proc/{pid}/ns/net"))?.into())
}

fn on_thread<T: Send>(body: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("netns".to_owned())
            .stack_size(256 * 1024)
            .spawn_scoped(scope, body)?
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
    })
}
