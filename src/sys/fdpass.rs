//! Messages with descriptors beside them, over `SOCK_SEQPACKET` unix sockets.
//!
//! Keeper, shims and daemon talk in packets: one message is one packet, so there is no framing
//! and a message cannot be torn. Descriptors travel as `SCM_RIGHTS` and arrive close-on-exec.
//! A packet that was cut short, or whose descriptors did not all fit, is an error rather than a
//! message with something missing: the kernel has already dropped the rest.
//!
//! Socket addresses hold 108 bytes; deeper paths (a long `$TMPDIR` on a cluster) are reached
//! through the descriptor of a directory on the way, as `/proc/self/fd/N/name` ([`Address`]).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

/// The most descriptors that one message may carry (the kernel's own bound is 253).
pub const MAX_DESCRIPTORS: usize = 129;

/// `sun_path` less its terminating zero.
const MAX_ADDRESS: usize = 107;

/// What comes before the rest of a path that is too long, at its longest.
const THROUGH: &str = "/proc/self/fd/2147483647/";

/// Sends one packet. The socket may be non-blocking; a full buffer is then `WouldBlock`.
pub fn send(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    send_with(socket.as_fd(), bytes, descriptors, SendFlags::NOSIGNAL)
}

/// Sends one packet without waiting, whatever the socket is: `WouldBlock` at a full buffer.
pub fn send_at_once(
    socket: impl AsFd,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    send_with(socket.as_fd(), bytes, descriptors, flags)
}

fn send_with(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "too many descriptors for one message",
        ));
    }
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags)
    })?;
    Ok(())
}

/// Receives one packet into `buffer`: its length, 0 at the end of the connection, and its
/// descriptors.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    receive_with(socket.as_fd(), buffer, RecvFlags::CMSG_CLOEXEC)
}

/// The same without waiting, whatever the socket is: `WouldBlock` where there is none.
pub fn receive_at_once(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    receive_with(socket.as_fd(), buffer, flags)
}

fn receive_with(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    flags: RecvFlags,
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        let slices = &mut [IoSliceMut::new(buffer)];
        rustix::net::recvmsg(socket, slices, &mut control, flags)
    })?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a message was cut short",
        ));
    }
    Ok((received.bytes, descriptors))
}

/// A connected pair of packet sockets, close-on-exec.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Connects to the packet socket at `path`. Never waits: a full backlog is `WouldBlock`.
pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    let address = Address::of(path)?;
    let socket = packet_socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    rustix::net::connect(&socket, &address.socket()?)?;
    rustix::io::ioctl_fionbio(&socket, false)?;
    Ok(socket)
}

/// Makes the packet socket `path`, mode 0600, listening and non-blocking.
///
/// It is made under another name and renamed, so whoever finds it can connect, and a stale one
/// is replaced in one step.
pub fn listen(path: &Path) -> io::Result<OwnedFd> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let made = path.with_file_name(name);
    match std::fs::remove_file(&made) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let address = Address::of(&made)?;
    let socket = packet_socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    // Nobody may connect before listen(), so the mode is in time whatever the umask is.
    rustix::net::bind(&socket, &address.socket()?)?;
    rustix::fs::chmod(&made, rustix::fs::Mode::from_raw_mode(0o600))?;
    rustix::net::listen(&socket, 64)?;
    std::fs::rename(&made, path)?;
    Ok(socket)
}

/// Accepts one connection; `None` when there is none.
pub fn accept(listener: impl AsFd) -> io::Result<Option<OwnedFd>> {
    match rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
        Ok(socket) => Ok(Some(socket)),
        Err(
            rustix::io::Errno::AGAIN | rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED,
        ) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn packet_socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

/// A path as a socket address, with the directory held open while the address stands for it.
#[derive(Debug)]
pub struct Address {
    path: PathBuf,
    _directory: Option<OwnedFd>,
}

impl Address {
    /// The address of `path`. Where it is too long it goes through the descriptor of a directory, as
    /// far up as the rest fits: by its end others know the socket in /proc/net/unix.
    pub fn of(path: &Path) -> io::Result<Self> {
        if path.as_os_str().as_bytes().len() <= MAX_ADDRESS {
            return Ok(Self {
                path: path.to_owned(),
                _directory: None,
            });
        }
        let rest = |ancestor: &&Path| path.strip_prefix(ancestor).ok().map(Path::to_owned);
        let fits = |rest: &PathBuf| rest.as_os_str().len() <= MAX_ADDRESS - THROUGH.len();
        let mut ancestors = path.ancestors().skip(1);
        let Some(mut parent) = ancestors.next() else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        while let Some(higher) = ancestors
            .next()
            .filter(|it| rest(it).is_some_and(|r| fits(&r)))
        {
            parent = higher;
        }
        let directory: OwnedFd = rustix::fs::open(
            parent,
            rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )?;
        let through = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
        let rest = rest(&parent).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self {
            path: through.join(rest),
            _directory: Some(directory),
        })
    }

    /// The path to bind or connect to, at most 107 bytes for any sane file name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same, for the kernel.
    pub fn socket(&self) -> io::Result<SocketAddrUnix> {
        Ok(SocketAddrUnix::new(&self.path)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_arrives_whole_with_its_descriptors() {
        let (left, right) = pair().unwrap();
        let (given, kept) = pair().unwrap();
        send(&left, b"hello", &[given.as_fd()]).unwrap();
        let mut buffer = [0; 16];
        let (length, descriptors) = receive(&right, &mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"hello");
        send(&descriptors[0], b"through", &[]).unwrap();
        let (length, none) = receive(&kept, &mut buffer).unwrap();
        assert_eq!((&buffer[..length], none.len()), (&b"through"[..], 0));
    }

    #[test]
    fn a_message_that_does_not_fit_is_an_error() {
        let (left, right) = pair().unwrap();
        send(&left, b"too long for it", &[]).unwrap();
        let error = receive(&right, &mut [0; 4]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        drop(left);
        assert_eq!(receive(&right, &mut [0; 4]).unwrap().0, 0);
    }

    #[test]
    fn long_paths_are_reached_through_their_directory() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let named = deep.join("e/shim.sock");
        let address = Address::of(&named).unwrap();
        assert!(address.path().ends_with("e/shim.sock"));
        let path = deep.join("keeper.sock");
        let listener = listen(&path).unwrap();
        assert!(accept(&listener).unwrap().is_none());
        let client = connect(&path).unwrap();
        send(&client, b"x", &[]).unwrap();
        let served = accept(&listener).unwrap().unwrap();
        assert_eq!(receive(&served, &mut [0; 4]).unwrap().0, 1);
        // A second listener takes the name over.
        let second = listen(&path).unwrap();
        let _client = connect(&path).unwrap();
        assert!(accept(&second).unwrap().is_some());
    }
}
