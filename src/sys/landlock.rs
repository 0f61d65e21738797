//! Landlock (landlock(7), Linux 5.13): a thread gives up rights for ever, without any privilege.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

/// `LANDLOCK_CREATE_RULESET_VERSION`: ask for the version instead of making a set.
const VERSION: u32 = 1;

/// Rights over files by version of the interface: each has so many, from the lowest bit on.
const RIGHTS: [u32; 5] = [13, 14, 15, 15, 16];

/// Shuts the calling thread out of every file system: what is open stays open, and nothing else
/// can be opened, made, removed or run. False where the kernel has no Landlock.
///
/// # Errors
/// `EPERM` without no_new_privs.
pub fn shut_out_of_files() -> io::Result<bool> {
    // SAFETY: with this flag the kernel takes no attributes, and the pointer must be null.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            ptr::null::<u64>(),
            0_usize,
            VERSION,
        )
    };
    let Ok(version @ 1..) = usize::try_from(version) else {
        // ENOSYS before 5.13, EOPNOTSUPP where it was disabled at boot.
        return Ok(false);
    };
    let bits = RIGHTS[version.min(RIGHTS.len()) - 1];
    // The first field of landlock_ruleset_attr, which is all that the first version had.
    let handled: u64 = (1 << bits) - 1;
    // SAFETY: the pointer and length name `handled`, which the kernel only reads.
    let made = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const handled,
            size_of::<u64>(),
            0_u32,
        )
    };
    let Some(made) = RawFd::try_from(made).ok().filter(|&made| made >= 0) else {
        return Err(io::Error::last_os_error());
    };
    // SAFETY: the call succeeded, so the kernel installed a new descriptor that nothing owns.
    let rules = unsafe { OwnedFd::from_raw_fd(made) };
    // SAFETY: takes a descriptor and flags, no memory.
    let done = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0_u32) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_is_shut_out_opens_nothing_and_others_do() {
        let inside = std::thread::spawn(|| {
            rustix::thread::set_no_new_privs(true)?;
            let shut = shut_out_of_files()?;
            Ok::<_, io::Error>((shut, std::fs::File::open("/proc/self/status").is_ok()))
        });
        let (shut, opened) = inside.join().unwrap().unwrap();
        assert_eq!(shut, !opened);
        assert!(std::fs::File::open("/proc/self/status").is_ok());
    }
}
