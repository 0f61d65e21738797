//! Processes that cannot be mistaken for others: pidfds, and identities that outlive a program.
//!
//! A pid alone may be another process by the time it is used. While a program runs it holds a
//! pidfd; what is written to a file or sent to another process is a `ProcessIdentity`, pid and
//! start time, with the boot's id beside it where it may outlive a boot.
//!
//! Kernel: pidfd_open 5.3, setns by pidfd 5.8, `SO_PEERPIDFD` 6.5 (before that, the pid of
//! `SO_PEERCRED` is opened, and checked to belong to the same user).

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::sched::CloneFlags;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};

/// `SO_PEERPIDFD` (Linux 6.5); libc's constant is newer than some of its releases.
const SO_PEERPIDFD: libc::c_int = 77;

/// Opens a pidfd of `pid`.
pub fn open(pid: i32) -> io::Result<OwnedFd> {
    // `from_raw` panics below 0.
    let pid = Pid::from_raw(pid.max(0)).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// Sends a signal; a process that has ended is `NotFound`.
pub fn kill(process: impl AsFd, signal: Signal) -> io::Result<()> {
    match rustix::process::pidfd_send_signal(process, signal) {
        Err(rustix::io::Errno::SRCH) => Err(io::ErrorKind::NotFound.into()),
        other => Ok(other?),
    }
}

/// Whether the process still runs (a zombie does not).
pub fn is_alive(process: impl AsFd) -> io::Result<bool> {
    let mut polled = [PollFd::new(&process, PollFlags::IN)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    Ok(rustix::event::poll(&mut polled, Some(&now))? == 0)
}

/// Joins the process's user and mount namespaces at once. Only a process with one thread may.
pub fn join_user_and_mount(process: impl AsFd) -> io::Result<()> {
    nix::sched::setns(process, CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
    Ok(())
}

/// Start time of a process: field 22 of /proc/PID/stat, clock ticks after boot.
pub fn start_time(pid: i32) -> io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field, the name in parentheses, may itself hold spaces and parentheses.
    let fields = stat
        .rsplit_once(')')
        .map(|(_, fields)| fields.split_ascii_whitespace());
    let time = fields
        .and_then(|mut fields| fields.nth(19))
        .and_then(|time| time.parse().ok());
    time.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Opens `pid` if it is still the process that started at `start_time`.
pub fn open_identity(pid: i32, started: u64) -> io::Result<OwnedFd> {
    let process = open(pid)?;
    // Checked after the pidfd exists: if it matches now, the pidfd is that process's.
    if start_time(pid)? != started || !is_alive(&process)? {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(process)
}

/// Id of this boot of the host.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

/// Who is at the other end of a unix socket. For a listener: who called listen(2).
#[derive(Debug)]
pub struct Peer {
    /// The process.
    pub process: OwnedFd,
    /// Its pid.
    pub pid: i32,
    /// Its effective user when it connected, as this process's user namespace shows it.
    pub uid: u32,
}

/// The process at the other end of a unix socket.
pub fn peer(socket: impl AsFd) -> io::Result<Peer> {
    let credentials = rustix::net::sockopt::socket_peercred(socket.as_fd())?;
    let (pid, uid) = (
        credentials.pid.as_raw_nonzero().get(),
        credentials.uid.as_raw(),
    );
    let process = match peer_pidfd(socket.as_fd()) {
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => open(pid)?,
        other => other?,
    };
    Ok(Peer { process, pid, uid })
}

fn peer_pidfd(socket: impl AsFd) -> io::Result<OwnedFd> {
    let mut number: libc::c_int = -1;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `number` and `length` are live locals, and `length` tells the kernel the true size
    // of `number`, so it writes at most that.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut number).cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so the kernel installed a new descriptor (close-on-exec, as all
    // pidfds are) that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_this_process_and_no_later_one() {
        let me = std::process::id().cast_signed();
        let started = start_time(me).unwrap();
        let process = open_identity(me, started).unwrap();
        assert!(is_alive(&process).unwrap());
        assert!(open_identity(me, started + 1).is_err());
        assert!(open(0).is_err() && open(-1).is_err());
    }

    #[test]
    fn a_peer_is_the_process_that_made_the_pair() {
        let (left, _right) = crate::sys::fdpass::pair().unwrap();
        let peer = peer(&left).unwrap();
        assert_eq!(peer.pid, std::process::id().cast_signed());
        assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
    }
}
