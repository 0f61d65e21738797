//! Loading a seccomp filter.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// One classic BPF instruction: code, jump if true, jump if false, operand.
pub type Instruction = (u16, u8, u8, u32);

/// Puts the calling thread under a filter for ever. Without no_new_privs the caller needs
/// CAP_SYS_ADMIN in its user namespace.
///
/// # Errors
///
/// EINVAL for a program that the kernel's checker refuses, EACCES without the privilege.
pub fn load(program: &[Instruction]) -> io::Result<()> {
    let filter: Vec<libc::sock_filter> = program
        .iter()
        .map(|&(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k })
        .collect();
    let len =
        u16::try_from(filter.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = libc::sock_fprog {
        len,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: `program` names `len` instructions of `filter`; both live until the call returns, and
    // the kernel copies the program without writing to it.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Puts the calling process under a filter that allows everything and can ask a supervisor
/// (seccomp_unotify(2)); gives the supervisor's descriptor. For finding out whether that works.
///
/// # Errors
///
/// As [`load`]; EINVAL before Linux 5.0, EBUSY where a supervisor is already above.
pub fn try_notification() -> io::Result<OwnedFd> {
    let allow = libc::sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: libc::SECCOMP_RET_ALLOW,
    };
    let program = libc::sock_fprog {
        len: 1,
        filter: (&raw const allow).cast_mut(),
    };
    // SAFETY: `program` names one instruction, which lives until the call returns; the kernel
    // copies it without writing to it.
    let listener = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    };
    match RawFd::try_from(listener) {
        // SAFETY: the call succeeded, so the kernel installed a new descriptor that nothing owns.
        Ok(number) if number >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(number) }),
        _ => Err(io::Error::last_os_error()),
    }
}
