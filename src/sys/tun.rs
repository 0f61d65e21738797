//! TUN devices (layer 3), in the network namespace of the caller.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::OFlags;

/// Makes the TUN device `name` and gives its descriptor; the device goes with it.
///
/// # Errors
/// `NotFound` or `PermissionDenied` from opening /dev/net/tun; EPERM without CAP_NET_ADMIN in the
/// user namespace that owns the network namespace; EBUSY for a name in use.
pub fn create(name: &str) -> io::Result<OwnedFd> {
    make(name, 0)
}

/// Makes the TUN device `name` with a `virtio_net_hdr` of 10 bytes before each packet, so that
/// checksums are left open and TCP segments of up to 64 KiB cross it whole; its descriptor doesn't
/// block. Also tells whether runs of UDP datagrams cross it whole too (Linux 6.2).
///
/// # Errors
/// As [`create`].
pub fn create_offloading(name: &str) -> io::Result<(OwnedFd, bool)> {
    let device = make(name, libc::IFF_VNET_HDR)?;
    rustix::fs::fcntl_setfl(&device, OFlags::NONBLOCK | OFlags::RDWR)?;
    let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    let udp = libc::TUN_F_USO4 | libc::TUN_F_USO6;
    for (features, with_udp) in [(tcp | udp, true), (tcp, false)] {
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        let done = unsafe {
            libc::ioctl(
                device.as_raw_fd(),
                libc::TUNSETOFFLOAD,
                libc::c_ulong::from(features),
            )
        };
        if done >= 0 {
            return Ok((device, with_udp));
        }
    }
    Err(io::Error::last_os_error())
}

fn make(name: &str, flags: i32) -> io::Result<OwnedFd> {
    let device = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    // SAFETY: `ifreq` is a plain C struct, for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    let room = request.ifr_name.len() - 1;
    if name.len() > room {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI | flags) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which `request` is and which lives here.
    if unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(device.into())
}
