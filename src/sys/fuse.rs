//! What /dev/fuse can do beyond reading and writing.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// `FUSE_DEV_IOC_CLONE`: `_IOR(229, 0, u32)`.
const CLONE: u64 = 0x8004_e500;

/// One more descriptor of a connection, with requests in work of its own: what was read from it is
/// answered through it.
///
/// # Errors
///
/// EINVAL where `device` belongs to no mount.
pub fn clone_device(device: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let new = File::options().read(true).write(true).open("/dev/fuse")?;
    let number = device.as_raw_fd().cast_unsigned();
    // SAFETY: the ioctl reads one u32 from the address, which is that of a live local, and keeps
    // no reference to it. Both descriptors are borrowed or owned here.
    let done = unsafe { libc::ioctl(new.as_raw_fd(), CLONE, &raw const number) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(new.into())
}
