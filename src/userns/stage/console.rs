//! The terminal: a pair from the container's own devpts instance.
//!
//! The master is opened through the descriptor of the devpts mount (for an exec session, through
//! the container's /dev/pts after checking that it is one), never by following /dev/ptmx of an
//! image; the slave is asked of the master (TIOCGPTPEER), not opened by a name.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, fstat, fstatfs, major, minor, openat};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::StageError;

/// `DEVPTS_SUPER_MAGIC`.
const DEVPTS_MAGIC: i64 = 0x1cd1;

/// Both sides of a terminal.
#[derive(Debug)]
pub(super) struct Pty {
    pub master: OwnedFd,
    pub slave: OwnedFd,
}

/// Opens a terminal; `devpts` is the instance's mount, else the container's /dev/pts is looked for
/// (this process's root must be the container's then).
pub(super) fn open(devpts: Option<&OwnedFd>, size: Option<(u16, u16)>) -> Result<Pty, StageError> {
    open_pair(devpts, size).map_err(|error| StageError::io("open /dev/ptmx", &error))
}

fn open_pair(devpts: Option<&OwnedFd>, size: Option<(u16, u16)>) -> io::Result<Pty> {
    let found;
    let devpts = match devpts {
        Some(fd) => fd,
        None => {
            let open = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            found = openat(CWD, "/dev/pts", open, Mode::empty())?;
            &found
        }
    };
    if fstatfs(devpts)?.f_type != DEVPTS_MAGIC {
        return Err(io::Error::from_raw_os_error(libc::ENOTTY));
    }
    let open = OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let master = openat(devpts, "ptmx", open, Mode::empty())?;
    let device = fstat(&master)?.st_rdev;
    if (major(device), minor(device)) != (5, 2) {
        return Err(io::Error::from_raw_os_error(libc::ENOTTY));
    }
    unlockpt(&master)?;
    let slave = ioctl_tiocgptpeer(
        &master,
        OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
    )?;
    if let Some((rows, cols)) = size {
        let size = Winsize {
            ws_row: rows,
            ws_col: cols,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&slave, size)?;
    }
    Ok(Pty { master, slave })
}

/// Makes the terminal this session's controlling one. The caller leads its session.
pub(super) fn take_control(slave: BorrowedFd<'_>) -> Result<(), StageError> {
    rustix::process::ioctl_tiocsctty(slave)
        .map_err(|error| StageError::io("ioctl(setctty)", &error.into()))
}

/// Puts three descriptors in the places of the standard streams.
pub(super) fn set_stdio(
    stdin: BorrowedFd<'_>,
    stdout: BorrowedFd<'_>,
    stderr: BorrowedFd<'_>,
) -> Result<(), StageError> {
    let failed = |error: nix::errno::Errno| StageError::io("dup3", &error.into());
    nix::unistd::dup2_stdin(stdin).map_err(failed)?;
    nix::unistd::dup2_stdout(stdout).map_err(failed)?;
    nix::unistd::dup2_stderr(stderr).map_err(failed)
}

/// Gives the standard streams to the user that will use them, so that /dev/stdout and the terminal
/// can be opened by name. Whatever cannot be given (not ours, read-only) is left as it is.
pub(super) fn give_stdio(uid: u32) {
    for fd in [
        std::io::stdin().as_fd(),
        std::io::stdout().as_fd(),
        std::io::stderr().as_fd(),
    ] {
        let Ok(stat) = fstat(fd) else { continue };
        let is_null = rustix::fs::FileType::from_raw_mode(stat.st_mode)
            == rustix::fs::FileType::CharacterDevice
            && (major(stat.st_rdev), minor(stat.st_rdev)) == (1, 3);
        if stat.st_uid != uid && !is_null {
            let _ = rustix::fs::fchown(fd, Some(rustix::fs::Uid::from_raw(uid)), None);
        }
    }
}
