//! Sockets that may have addresses which are none of the host's (`IP_TRANSPARENT`, ip(7)).

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Lets a socket be bound to any address.
///
/// # Errors
/// EPERM without `CAP_NET_ADMIN` or `CAP_NET_RAW` over its network namespace.
pub fn allow(socket: impl AsFd, ipv6: bool) -> io::Result<()> {
    let (level, option) = match ipv6 {
        true => (libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT),
        false => (libc::IPPROTO_IP, libc::IP_TRANSPARENT),
    };
    let yes: libc::c_int = 1;
    // SAFETY: the descriptor is open, and the pointer is to a live `c_int` of the length given, which
    // the kernel only reads.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            (&raw const yes).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
