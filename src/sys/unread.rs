//! Waiting until what was sent over a unix socket has been read.
//!
//! Clients that leave HTTP by hand (docker-py, for one) read an answer's head through a buffer and go
//! on without it: what came together with the head is lost to them. dockerd takes so long to start
//! anything that this hardly happens; here output can be there before a client on a busy machine has
//! looked. The kernel knows how much lies unread in the peer's queue (SIOCOUTQ), and tells when asked.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

/// Time between two looks. A client that waits for its answer takes less to read it.
const LOOK: Duration = Duration::from_micros(50);

/// Waits until the peer has read all that was sent, for at most `most`.
pub fn wait_until_read(socket: BorrowedFd<'_>, most: Duration) {
    let begun = Instant::now();
    while unread(socket).is_ok_and(|bytes| bytes > 0) && begun.elapsed() < most {
        std::thread::sleep(LOOK);
    }
}

/// Bytes of memory that what is unread takes; nothing where all is read.
fn unread(socket: BorrowedFd<'_>) -> io::Result<libc::c_int> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQ, whose other name this is, writes one int to the address given, which is that
    // of a live local; the descriptor is open as long as it is borrowed.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    match done {
        0 => Ok(bytes),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn what_is_read_is_not_waited_for() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        assert_eq!(unread(ours.as_fd()).unwrap(), 0);
        ours.write_all(b"head").unwrap();
        assert!(unread(ours.as_fd()).unwrap() > 0);
        let reader = std::thread::spawn(move || {
            theirs.read_exact(&mut [0; 4]).unwrap();
            theirs
        });
        wait_until_read(ours.as_fd(), Duration::from_secs(3600));
        assert_eq!(unread(ours.as_fd()).unwrap(), 0);
        reader.join().unwrap();
    }

    #[test]
    fn who_does_not_read_is_not_waited_for_long() {
        let (mut ours, _theirs) = UnixStream::pair().unwrap();
        ours.write_all(b"head").unwrap();
        wait_until_read(ours.as_fd(), Duration::from_millis(1));
        assert!(unread(ours.as_fd()).unwrap() > 0);
    }
}
