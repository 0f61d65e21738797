//! Resource limits by their OCI names.

use std::io;

/// Number of a limit named as in an OCI spec (`RLIMIT_NOFILE`), or `None` for an unknown name.
pub fn by_name(name: &str) -> Option<u32> {
    let number = match name {
        "RLIMIT_AS" => libc::RLIMIT_AS,
        "RLIMIT_CORE" => libc::RLIMIT_CORE,
        "RLIMIT_CPU" => libc::RLIMIT_CPU,
        "RLIMIT_DATA" => libc::RLIMIT_DATA,
        "RLIMIT_FSIZE" => libc::RLIMIT_FSIZE,
        "RLIMIT_LOCKS" => libc::RLIMIT_LOCKS,
        "RLIMIT_MEMLOCK" => libc::RLIMIT_MEMLOCK,
        "RLIMIT_MSGQUEUE" => libc::RLIMIT_MSGQUEUE,
        "RLIMIT_NICE" => libc::RLIMIT_NICE,
        "RLIMIT_NOFILE" => libc::RLIMIT_NOFILE,
        "RLIMIT_NPROC" => libc::RLIMIT_NPROC,
        "RLIMIT_RSS" => libc::RLIMIT_RSS,
        "RLIMIT_RTPRIO" => libc::RLIMIT_RTPRIO,
        "RLIMIT_RTTIME" => libc::RLIMIT_RTTIME,
        "RLIMIT_SIGPENDING" => libc::RLIMIT_SIGPENDING,
        "RLIMIT_STACK" => libc::RLIMIT_STACK,
        _ => return None,
    };
    // The type is c_uint with glibc and c_int with musl; the numbers are 0 to 15.
    #[allow(clippy::unnecessary_cast)]
    Some(number as u32)
}

/// Sets one limit of the calling process; `u64::MAX` is no limit.
///
/// # Errors
///
/// EPERM when the hard limit would rise and the caller is not the host's root.
pub fn set(number: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: prlimit64 reads `limit`, which lives until it returns, and is given no place to
    // write the old limit to.
    let done = unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            number,
            &raw const limit,
            std::ptr::null_mut::<libc::rlimit64>(),
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
