//! Calls on IP sockets that rustix lacks: peeking at an offset, throwing away what was read, the
//! send buffer's fill, datagrams in batches with their segment size, and the error queue.

use std::io::{self, IoSlice};
use std::mem::{size_of, size_of_val, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

/// Most datagrams that one call of [`receive_datagrams`] takes.
pub const BATCH: usize = 32;

/// `SK_MEMINFO_*` of linux/sock_diag.h: places in what `SO_MEMINFO` answers.
const MEMINFO_SNDBUF: usize = 3;
const MEMINFO_WMEM_QUEUED: usize = 5;
const MEMINFO_VARS: usize = 9;

pub(super) fn set<T>(socket: &impl AsFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    // SAFETY: the pointer and length name `value`, which the kernel only reads during the call.
    let done = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Makes `MSG_PEEK` start `offset` bytes into what is unread, and move on with each peek
/// (`SO_PEEK_OFF`); reading for good moves it back.
///
/// # Errors
/// `EOPNOTSUPP` for TCP before Linux 6.9.
pub fn set_peek_offset(socket: impl AsFd, offset: u32) -> io::Result<()> {
    set(&socket, libc::SOL_SOCKET, libc::SO_PEEK_OFF, &offset)
}

/// Has a datagram socket tell of ICMP errors ([`next_error`]), with `IP_RECVERR` or its IPv6 twin.
///
/// # Errors
/// None is to be expected.
pub fn set_receive_errors(socket: impl AsFd, v6: bool) -> io::Result<()> {
    if v6 {
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, &1_i32)
    } else {
        set(&socket, libc::IPPROTO_IP, libc::IP_RECVERR, &1_i32)
    }
}

/// Lets a socket be bound to addresses which are none of the host's (`IP_TRANSPARENT`, ip(7)).
///
/// # Errors
/// `EPERM` without `CAP_NET_ADMIN` or `CAP_NET_RAW` over its network namespace.
pub fn set_transparent(socket: impl AsFd, v6: bool) -> io::Result<()> {
    if v6 {
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT, &1_i32)
    } else {
        set(&socket, libc::IPPROTO_IP, libc::IP_TRANSPARENT, &1_i32)
    }
}

/// Lets the kernel hand over several datagrams of one sender as one (`UDP_GRO`).
///
/// # Errors
/// `ENOPROTOOPT` before Linux 5.0.
pub fn set_receive_coalesced(socket: impl AsFd) -> io::Result<()> {
    set(&socket, libc::SOL_UDP, libc::UDP_GRO, &1_i32)
}

/// Throws away up to `length` bytes that a stream socket has received, without copying them
/// (tcp(7), `MSG_TRUNC`); gives how many.
///
/// # Errors
/// As recv(2); `WouldBlock` where nothing is there.
pub fn discard(socket: impl AsFd, length: usize) -> io::Result<usize> {
    // SAFETY: with MSG_TRUNC a TCP socket copies nothing, so the null buffer is not written to.
    let got = unsafe {
        libc::recv(
            socket.as_fd().as_raw_fd(),
            ptr::null_mut(),
            length,
            libc::MSG_TRUNC | libc::MSG_DONTWAIT,
        )
    };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}

/// How full a socket's send buffer is, in the kernel's own measure (`SO_MEMINFO`).
#[derive(Debug, Clone, Copy)]
pub struct SendSpace {
    /// Bytes queued, with their overhead.
    pub queued: u32,
    /// How many there may be; the kernel moves this with the path's congestion window.
    pub limit: u32,
}

/// Asks for a socket's [`SendSpace`].
///
/// # Errors
/// None is to be expected since Linux 4.12.
pub fn send_space(socket: impl AsFd) -> io::Result<SendSpace> {
    let mut memory = [0_u32; MEMINFO_VARS];
    let mut length = size_of_val(&memory) as libc::socklen_t;
    // SAFETY: the pointer and length name `memory`, into which any bytes may be written.
    let done = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            memory.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(SendSpace {
        queued: memory[MEMINFO_WMEM_QUEUED],
        limit: memory[MEMINFO_SNDBUF],
    })
}

/// An address as the kernel takes it.
union Name {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl Name {
    fn empty() -> Self {
        // SAFETY: both members are plain data for which all zeroes is a valid value.
        unsafe { zeroed() }
    }

    fn of(address: SocketAddr) -> (Self, libc::socklen_t) {
        let mut name = Self::empty();
        match address {
            SocketAddr::V4(v4) => {
                name.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(v4.ip().octets()),
                    },
                    sin_zero: [0; 8],
                };
                (name, size_of::<libc::sockaddr_in>() as libc::socklen_t)
            }
            SocketAddr::V6(v6) => {
                name.v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr {
                        s6_addr: v6.ip().octets(),
                    },
                    sin6_scope_id: v6.scope_id(),
                };
                (name, size_of::<libc::sockaddr_in6>() as libc::socklen_t)
            }
        }
    }

    fn address(&self) -> Option<SocketAddr> {
        // SAFETY: every byte of the union was initialised by `empty`, any bits are valid in both
        // members, and both begin with the family.
        let (v4, v6) = unsafe { (self.v4, self.v6) };
        match i32::from(v4.sin_family) {
            libc::AF_INET => Some(SocketAddr::new(
                IpAddr::V4(Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes())),
                u16::from_be(v4.sin_port),
            )),
            libc::AF_INET6 => Some(SocketAddr::V6(SocketAddrV6::new(
                Ipv6Addr::from(v6.sin6_addr.s6_addr),
                u16::from_be(v6.sin6_port),
                0,
                v6.sin6_scope_id,
            ))),
            _ => None,
        }
    }
}

/// Room for the control messages of one datagram, aligned as `cmsghdr` must be.
type Control = [u64; 16];

/// Sends one datagram made of `pieces`, or, with `segment`, as many datagrams of that many bytes
/// as there are (`UDP_SEGMENT`; the last may be shorter).
///
/// # Errors
/// As sendmsg(2): `EINVAL` and `EIO` where the segments don't fit the path or the device can't,
/// an ICMP error that came back for an earlier datagram, `WouldBlock`.
pub fn send_datagrams(
    socket: impl AsFd,
    to: SocketAddr,
    pieces: &[IoSlice<'_>],
    segment: Option<u16>,
) -> io::Result<usize> {
    let segment = segment.map(|size| (libc::SOL_UDP, libc::UDP_SEGMENT, size));
    send_message(socket, to, pieces, segment)
}

/// Sends one message made of `pieces`, with a control message of that level, type and data.
pub(super) fn send_message<T>(
    socket: impl AsFd,
    to: SocketAddr,
    pieces: &[IoSlice<'_>],
    with: Option<(i32, i32, T)>,
) -> io::Result<usize> {
    let (mut name, length) = Name::of(to);
    let mut control: Control = [0; 16];
    // SAFETY: msghdr is plain data for which all zeroes is a valid value.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_name = (&raw mut name).cast();
    message.msg_namelen = length;
    // IoSlice is documented to be an iovec, and sendmsg reads them only.
    message.msg_iov = pieces.as_ptr().cast_mut().cast();
    message.msg_iovlen = pieces.len() as _;
    if let Some((level, kind, data)) = with {
        const { assert!(size_of::<T>() + 2 * size_of::<libc::cmsghdr>() <= size_of::<Control>()) };
        message.msg_control = control.as_mut_ptr().cast();
        // SAFETY: `msg_control` has the aligned bytes of a `Control`, which by the assertion hold a
        // header and the data.
        unsafe {
            message.msg_controllen = libc::CMSG_SPACE(size_of::<T>() as u32) as _;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = level;
            (*header).cmsg_type = kind;
            (*header).cmsg_len = libc::CMSG_LEN(size_of::<T>() as u32) as _;
            libc::CMSG_DATA(header).cast::<T>().write_unaligned(data);
        }
    }
    // SAFETY: name, pieces and control outlive the call, which only reads them.
    let sent = unsafe {
        libc::sendmsg(
            socket.as_fd().as_raw_fd(),
            &raw const message,
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// One datagram, or several of one sender, of those that [`receive_datagrams`] got.
#[derive(Debug, Clone, Copy)]
pub struct Received {
    /// Who sent it.
    pub source: SocketAddr,
    /// Bytes at the beginning of its slot.
    pub length: usize,
    /// The size of each datagram but the last, where there are several.
    pub segment: Option<u16>,
}

/// Receives up to [`BATCH`] datagrams, each into its slot of `slot` bytes in `buffer`, and tells
/// `each` of them with the slot's number. Those that don't fit their slot are skipped. Gives how
/// many came.
///
/// # Errors
/// As recvmmsg(2); `WouldBlock` where nothing is there.
pub fn receive_datagrams(
    socket: impl AsFd,
    buffer: &mut [u8],
    slot: usize,
    mut each: impl FnMut(usize, Received),
) -> io::Result<usize> {
    let count = (buffer.len() / slot).min(BATCH);
    let mut names: [Name; BATCH] = std::array::from_fn(|_| Name::empty());
    let mut controls: [[u64; 4]; BATCH] = [[0; 4]; BATCH];
    // SAFETY: iovec and mmsghdr are plain data for which all zeroes is a valid value.
    let mut slots: [libc::iovec; BATCH] = unsafe { zeroed() };
    // SAFETY: as above.
    let mut messages: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
    for (at, place) in buffer.chunks_exact_mut(slot).take(count).enumerate() {
        slots[at] = libc::iovec {
            iov_base: place.as_mut_ptr().cast(),
            iov_len: slot,
        };
        let header = &mut messages[at].msg_hdr;
        header.msg_name = (&raw mut names[at]).cast();
        header.msg_namelen = size_of::<Name>() as libc::socklen_t;
        header.msg_iov = &raw mut slots[at];
        header.msg_iovlen = 1;
        header.msg_control = controls[at].as_mut_ptr().cast();
        header.msg_controllen = size_of::<[u64; 4]>() as _;
    }
    // SAFETY: the first `count` headers point at places in `names`, `slots`, `controls` and
    // `buffer` that outlive the call and are nobody else's meanwhile.
    let got = unsafe {
        libc::recvmmsg(
            socket.as_fd().as_raw_fd(),
            messages.as_mut_ptr(),
            count as u32,
            libc::MSG_DONTWAIT as _,
            ptr::null_mut(),
        )
    };
    let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
    for (at, message) in messages.iter().enumerate().take(got) {
        if message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
            continue;
        }
        if let Some(source) = names[at].address() {
            // SAFETY: the kernel filled this header, whose control bytes are in `controls`.
            let segment =
                unsafe { control_message::<i32>(&message.msg_hdr, libc::SOL_UDP, libc::UDP_GRO) };
            each(
                at,
                Received {
                    source,
                    length: message.msg_len as usize,
                    segment: segment.and_then(|size| u16::try_from(size).ok()),
                },
            );
        }
    }
    Ok(got)
}

/// One datagram as recvmsg(2) gives it, beside its bytes.
pub(super) struct Message {
    /// Who sent it, or where it was sent to.
    pub(super) name: Option<SocketAddr>,
    /// Bytes of it in the buffer.
    pub(super) length: usize,
    control: Control,
    controls: usize,
}

impl Message {
    /// Receives one without waiting; `flags` as recvmsg's.
    pub(super) fn receive(socket: impl AsFd, buffer: &mut [u8], flags: i32) -> io::Result<Self> {
        let mut name = Name::empty();
        let mut control: Control = [0; 16];
        let mut place = libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        };
        // SAFETY: msghdr is plain data for which all zeroes is a valid value.
        let mut message: libc::msghdr = unsafe { zeroed() };
        message.msg_name = (&raw mut name).cast();
        message.msg_namelen = size_of::<Name>() as libc::socklen_t;
        message.msg_iov = &raw mut place;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of::<Control>() as _;
        // SAFETY: name, place, buffer and control outlive the call and are nobody else's meanwhile.
        let got = unsafe {
            libc::recvmsg(
                socket.as_fd().as_raw_fd(),
                &raw mut message,
                flags | libc::MSG_DONTWAIT,
            )
        };
        Ok(Self {
            length: usize::try_from(got).map_err(|_| io::Error::last_os_error())?,
            name: name.address(),
            control,
            controls: message.msg_controllen as _,
        })
    }

    /// The data of its control message of that level and type.
    pub(super) fn control<T: Copy>(&self, level: i32, kind: i32) -> Option<T> {
        // SAFETY: msghdr is plain data for which all zeroes is a valid value.
        let mut message: libc::msghdr = unsafe { zeroed() };
        message.msg_control = self.control.as_ptr().cast_mut().cast();
        message.msg_controllen = self.controls as _;
        // SAFETY: these are the bytes that the kernel filled, and as many as it said.
        unsafe { control_message(&message, level, kind) }
    }
}

/// The data of the control message of that level and type.
///
/// # Safety
/// `header` is as recvmsg or recvmmsg left it, and its control bytes are still there.
unsafe fn control_message<T: Copy>(header: &libc::msghdr, level: i32, kind: i32) -> Option<T> {
    // SAFETY: by the function's contract; the macros walk inside `msg_controllen` bytes.
    unsafe {
        let mut at = libc::CMSG_FIRSTHDR(header);
        while !at.is_null() {
            if (*at).cmsg_level == level
                && (*at).cmsg_type == kind
                && (*at).cmsg_len as usize >= libc::CMSG_LEN(size_of::<T>() as u32) as usize
            {
                return Some(libc::CMSG_DATA(at).cast::<T>().read_unaligned());
            }
            at = libc::CMSG_NXTHDR(header, at);
        }
    }
    None
}

/// An error that came back for a datagram sent earlier.
#[derive(Debug, Clone, Copy)]
pub struct SocketError {
    /// Where that datagram was sent.
    pub destination: SocketAddr,
    /// Who told of the error; none where this host did.
    pub offender: Option<IpAddr>,
    /// ICMP's type and code, where it came by ICMP.
    pub icmp: Option<(u8, u8)>,
    /// The error's number (`EMSGSIZE`, `ECONNREFUSED`, …).
    pub number: i32,
    /// With `EMSGSIZE`: the path's MTU.
    pub info: u32,
    /// Bytes of the datagram's content that came along.
    pub length: usize,
}

/// What the kernel appends to a [`libc::sock_extended_err`]: the offender's address.
#[derive(Clone, Copy)]
#[repr(C)]
struct ErrorMessage<const OFFENDER: usize> {
    error: libc::sock_extended_err,
    offender: [u8; OFFENDER],
}

/// Lengths of the families' addresses.
const V4: usize = size_of::<libc::sockaddr_in>();
const V6: usize = size_of::<libc::sockaddr_in6>();

/// Takes one error from a socket's queue (ip(7), `IP_RECVERR`); the datagram's own bytes go to
/// `buffer`.
///
/// # Errors
/// `WouldBlock` where there is none left.
pub fn next_error(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Option<SocketError>> {
    let message = Message::receive(socket, buffer, libc::MSG_ERRQUEUE)?;
    let v4 = message.control::<ErrorMessage<V4>>(libc::IPPROTO_IP, libc::IP_RECVERR);
    let v6 = message.control::<ErrorMessage<V6>>(libc::IPPROTO_IPV6, libc::IPV6_RECVERR);
    let (error, offender) = match (&v4, &v6) {
        (Some(found), _) => (found.error, &found.offender[..]),
        (_, Some(found)) => (found.error, &found.offender[..]),
        _ => return Ok(None),
    };
    let Some(destination) = message.name else {
        return Ok(None);
    };
    let mut from = Name::empty();
    // SAFETY: `Name` is plain data of the longer family's length, so either offender fits.
    unsafe {
        ptr::copy_nonoverlapping(offender.as_ptr(), (&raw mut from).cast(), offender.len());
    }
    let by_icmp = matches!(
        error.ee_origin,
        libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6
    );
    Ok(Some(SocketError {
        destination,
        offender: from.address().map(|address| address.ip()),
        icmp: by_icmp.then_some((error.ee_type, error.ee_code)),
        number: error.ee_errno.cast_signed(),
        info: error.ee_info,
        length: message.length,
    }))
}
