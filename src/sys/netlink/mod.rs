//! rtnetlink: interfaces, addresses, routes and rules of a network namespace (rtnetlink(7)).
//!
//! A [`Socket`] belongs for ever to the network namespace of the thread that opened it, whichever
//! thread uses it later, and keeps that namespace alive. A request is refused unless both the opener
//! and the sender hold `CAP_NET_ADMIN` over the namespace.
//!
//! [`message`] encodes requests; [`routing`] and [`link`] are the requests there are, each one
//! function. Answers are read only as far as they are needed: the error code of an acknowledgement,
//! and of dumps the few attributes that are asked for. The kernel is the one that answers, but all
//! lengths are checked as if it were not.

pub mod link;
pub mod message;
pub mod routing;

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Mutex;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use message::{Attributes, Message};

/// An address and a length in bits: the block of addresses that begin with those bits, which are the
/// only ones set unless it is an interface's own address in its network.
pub type Block = (IpAddr, u8);

/// The kernel fills a dump's datagrams up to this.
const BUFFER: usize = 32 << 10;

/// `NLMSG_ERROR`, `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// A connection to the kernel's routing subsystem, one request at a time.
#[derive(Debug)]
pub struct Socket {
    socket: OwnedFd,
    sequence: Mutex<u32>,
}

impl Socket {
    /// Opens one in the caller's network namespace.
    pub fn open() -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            // Protocol 0 is NETLINK_ROUTE.
            None,
        )?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        let sequence = Mutex::new(0);
        Ok(Self { socket, sequence })
    }

    /// Sends a request and waits for its acknowledgement.
    ///
    /// # Errors
    /// The kernel's.
    pub fn request(&self, message: Message) -> io::Result<()> {
        self.exchange(message, message::ACK, |_, _| {})
    }

    /// Asks for a list: `each` is called with the fixed part and the attributes of every element.
    pub fn dump(
        &self,
        message: Message,
        each: impl FnMut(&[u8], Attributes<'_>),
    ) -> io::Result<()> {
        self.exchange(message, message::DUMP, each)
    }

    /// Asks for one thing: `each` is called with it.
    pub fn get(&self, message: Message, each: impl FnMut(&[u8], Attributes<'_>)) -> io::Result<()> {
        self.exchange(message, message::ACK, each)
    }

    fn exchange(
        &self,
        message: Message,
        flags: u16,
        mut each: impl FnMut(&[u8], Attributes<'_>),
    ) -> io::Result<()> {
        let mut sequence = self
            .sequence
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *sequence = sequence.wrapping_add(1);
        let fixed = message.fixed();
        let bytes = message.finish(*sequence, flags);
        let kernel = SocketAddrNetlink::new(0, 0);
        rustix::net::sendto(&self.socket, &bytes, SendFlags::empty(), &kernel)?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let (_, length, from) =
                rustix::net::recvfrom(&self.socket, &mut buffer[..], RecvFlags::TRUNC)?;
            // Only the kernel has port 0; other processes may send here, too.
            let kernel = from
                .and_then(|from| SocketAddrNetlink::try_from(from).ok())
                .is_some_and(|from| from.pid() == 0);
            if !kernel {
                continue;
            }
            let received = buffer.get(..length).ok_or(io::ErrorKind::InvalidData)?;
            for (header, payload) in message::parse(received) {
                if header.sequence != *sequence {
                    continue;
                }
                match header.kind {
                    ERROR => return acknowledged(payload),
                    DONE => return Ok(()),
                    _ => {
                        if let Some((head, rest)) = payload.split_at_checked(fixed) {
                            each(head, Attributes(rest));
                        }
                    }
                }
            }
        }
    }
}

/// The error code of an acknowledgement, 0 for none.
fn acknowledged(payload: &[u8]) -> io::Result<()> {
    match message::i32_at(payload, 0) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Lets what is there already be.
pub fn or_exists(result: io::Result<()>) -> io::Result<()> {
    tolerate(result, libc::EEXIST)
}

/// Lets what is not there be gone.
pub fn or_gone(result: io::Result<()>) -> io::Result<()> {
    let result = tolerate(tolerate(result, libc::ENODEV), libc::ENOENT);
    tolerate(result, libc::ESRCH)
}

fn tolerate(result: io::Result<()>, code: i32) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(code) => Ok(()),
        other => other,
    }
}
