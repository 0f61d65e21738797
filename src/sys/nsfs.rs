//! How namespaces relate to each other (ioctl_ns(2)).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::MetadataExt;

/// `NS_GET_PARENT`: `_IO(0xb7, 2)`.
const NS_GET_PARENT: libc::c_ulong = 0xb702;

/// Inode of the user namespace of a process, and of that namespace's parent; the parent is `None`
/// for the caller's own namespace and any above it, which the kernel does not name.
///
/// # Errors
/// `PermissionDenied` for other users' processes; `NotFound` for one that has ended.
pub fn user_namespace(pid: i32) -> io::Result<(u64, Option<u64>)> {
    let namespace = File::open(format!("/proc/{pid}/ns/user"))?;
    let inode = namespace.metadata()?.ino();
    // SAFETY: NS_GET_PARENT takes no argument and touches no memory of this process.
    let parent = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_PARENT) };
    if parent < 0 {
        return Ok((inode, None));
    }
    // SAFETY: the call succeeded, so the kernel installed a new descriptor that nothing else owns.
    let parent = unsafe { File::from_raw_fd(parent) };
    Ok((inode, Some(parent.metadata()?.ino())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_of_ones_own_namespace_is_not_told() {
        let (own, parent) = user_namespace(std::process::id().cast_signed()).unwrap();
        assert!(own != 0 && parent.is_none());
        assert!(user_namespace(i32::MAX).is_err());
    }
}
