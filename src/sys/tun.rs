//! TUN devices (layer 3), in the network namespace of the caller.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// Makes the TUN device `name` and gives its descriptor; the device goes with it.
///
/// # Errors
/// `NotFound` or `PermissionDenied` from opening /dev/net/tun; EPERM without CAP_NET_ADMIN in the
/// user namespace that owns the network namespace; EBUSY for a name in use.
pub fn create(name: &str) -> io::Result<OwnedFd> {
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
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which `request` is and which lives here.
    if unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(device.into())
}
