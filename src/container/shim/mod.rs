//! The shim: the process that looks after one container for as long as it lives.
//!
//! The keeper forks it (so it shares the keeper's pages: every page that is not written costs
//! nothing) and it runs [`run`]: one thread, one epoll set, no timer and no wake-up while its
//! container is idle. It owns what must live exactly as long as the container: the mount of its
//! root filesystem, its streams or terminal, its log, its exit status and its exec sessions. The
//! daemon may come and go meanwhile.
//!
//! ```text
//!            conn, later shim.sock           leash
//!  daemon(s) ◀──── protocol ────▶ shim ──── pidfd ────▶ keeper
//!  client ◀──── stream bytes ───▶  │  ▲                 (kills the container when the shim ends)
//!                                  │  └─ pipes or terminal
//!                                  ▼
//!                      first process, exec sessions
//! ```
//!
//! **A life.** Wait for `Prepare` on `conn`; mount; make the process, which waits at its last gate.
//! Wait for `Start`, which comes at once or, where a client has attached to a container that is not
//! started yet, later or never ([`prepared`]); write down which process this is; listen on
//! `shim.sock`; let the process go; send its pidfd over the leash; answer; serve. When the first
//! process has ended and its output has been read: complete the log, write the exit file, tell the
//! daemons, let the clients go, in this
//! order, so that whoever hears of the end finds everything in place. Then leave, once a daemon
//! says `Release` or when none is connected, and every client has what it is owed. From `Release` on
//! nobody can connect any more.
//! The root's mount is dropped last of all, because closing the last reference to an overlay syncs the
//! filesystem beneath it.
//!
//! **Ends of output.** With the first process of a pid namespace every other process in it has
//! ended, so its pipes hold all there will be. Otherwise (`--pid host`, exec sessions) a
//! descendant may hold them open: the shim waits for their end as long as Docker does,
//! [`OUTPUT_AFTER_EXIT`] and [`OUTPUT_AFTER_EXEC`].
//!
//! **The log** is a file that the shim writes. Where its messages go elsewhere, or may wait for
//! nobody, a child of the shim takes them ([`log`]); after the end of output it is waited for,
//! [`LOG_AFTER_OUTPUT`] at most.
//!
//! **Exec sessions** are tasks like the first process. A client asks the daemon for the exit code
//! as soon as its stream ends, so the stream ends only after a daemon has acknowledged
//! `ExecExited` (or none is connected, or [`ACKNOWLEDGEMENT`] has passed).
//!
//! **Signals.** All are blocked; SIGUSR1 makes `shim.sock` anew, for when the runtime directory was
//! deleted at logout. Only SIGKILL ends a shim, and with it, by the keeper, its container.
//!
//! **Needs** Linux 5.4 (waitid by pidfd) beyond what the stage needs.

mod attached;
mod daemons;
mod keys;
mod log;
mod orphans;
mod prepared;
mod reactor;
mod server;
mod start;
mod streams;
#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;
use std::time::Duration;

use server::Shim;
use start::Stage;

/// How long the output of a container whose first process has ended may be held open by others.
const OUTPUT_AFTER_EXIT: Duration = Duration::from_secs(3);
/// The same for an exec session.
const OUTPUT_AFTER_EXEC: Duration = Duration::from_secs(2);
/// How long what is left of the log may take to get where it goes; Docker's number.
const LOG_AFTER_OUTPUT: Duration = Duration::from_secs(10);
/// How long a daemon may take to acknowledge the end of an exec session.
const ACKNOWLEDGEMENT: Duration = Duration::from_secs(2);
/// How long a shim that has been busy keeps its buffers.
const IDLE: Duration = Duration::from_secs(1);

/// What a forked shim does, from `Prepare` on `conn` to the end; returns its exit status. `leash` is a
/// socket to the keeper, which kills every process whose pidfd is sent over it when the shim ends.
pub fn run(conn: OwnedFd, leash: OwnedFd) -> i32 {
    // Neither can fail in a way that matters: the keeper's child leads no process group, and the
    // name is for people.
    let _ = rustix::process::setsid();
    let _ = rustix::thread::set_name(c"moss-shim");
    match Shim::new(Stage::default(), conn, Some(leash)).and_then(|mut shim| shim.serve()) {
        Ok(()) => 0,
        Err(_) => 1,
    }
}
