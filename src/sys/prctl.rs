//! What a process is to itself: its signals, its keyring, its name in `ps`.

use std::io;
use std::sync::OnceLock;

/// Highest signal number (`_NSIG`).
const SIGNALS: i32 = 64;

/// Sets every signal to its default action and unblocks all, as a program expects after execve.
/// (Rust's runtime ignores SIGPIPE, a daemon blocks what it reads from a signalfd.)
pub fn reset_signals() {
    for signal in 1..=SIGNALS {
        // SAFETY: SIG_DFL installs no code of ours. SIGKILL, SIGSTOP and glibc's own two real-time
        // signals are refused with EINVAL, which is as good.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    set_signal_mask(false);
}

/// Blocks every signal: the mini init takes them with [`next_signal`].
pub fn block_signals() {
    set_signal_mask(true);
}

fn set_signal_mask(all: bool) {
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
pub fn next_signal() -> io::Result<i32> {
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
pub fn send_signal(pid: i32, signal: i32) {
    if pid > 0 {
        // SAFETY: kill(2) takes two integers.
        unsafe { libc::kill(pid, signal) };
    }
}

/// Leaves the caller's session keyring for a new, empty one, so that a container sees no key of
/// the user's. Best effort: kernels without keys and users over their key quota keep the old one.
pub fn new_session_keyring() {
    // SAFETY: KEYCTL_JOIN_SESSION_KEYRING with a null name makes an anonymous keyring and reads
    // no memory.
    unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            libc::KEYCTL_JOIN_SESSION_KEYRING,
            std::ptr::null::<libc::c_char>(),
        )
    };
}

/// Overwrites the process's command line, as `ps` and `/proc/PID/cmdline` show it, with `text` (cut
/// at the room that the old one took), so that a process which stays forked shows its own role and
/// none of its parent's arguments. Does nothing where /proc/self/stat does not tell the place.
pub fn set_command_line(text: &str) {
    let Some((start, end)) = command_line_place() else {
        return;
    };
    let room = end - start;
    let bytes = text.as_bytes();
    let take = bytes.len().min(room.saturating_sub(1));
    // SAFETY: the kernel put the argument strings of this very process image at start..end of its
    // stack mapping and reports them in /proc/self/stat (fields 48 and 49); that memory stays mapped
    // and writable for the process's life. Rust's `std::env::args` copies out of it and holds no
    // reference into it, and the process is single-threaded here.
    unsafe {
        let place = start as *mut u8;
        std::ptr::write_bytes(place, 0, room);
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), place, take);
    }
}

/// Finds out where the command line is. It stays there, in forked children too: a process that has
/// many of them asks once, ahead.
pub fn find_command_line() {
    let _ = command_line_place();
}

fn command_line_place() -> Option<(usize, usize)> {
    static PLACE: OnceLock<Option<(usize, usize)>> = OnceLock::new();
    *PLACE.get_or_init(look_for_command_line)
}

fn look_for_command_line() -> Option<(usize, usize)> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // After the command's closing parenthesis field 3 comes first: 48 and 49 are 45 and 46 on.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(45);
    let start: usize = fields.next()?.parse().ok()?;
    let end: usize = fields.next()?.parse().ok()?;
    (start != 0 && end > start).then_some((start, end))
}
