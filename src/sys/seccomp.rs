//! Loading a seccomp filter.

use std::io;

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
