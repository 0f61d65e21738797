//! Filters for threads of ours that read what nobody vouches for: they let a few calls pass, and all
//! others fail.
//!
//! A call that is refused fails with EPERM, one that is newer than all that are known here with
//! ENOSYS: what the C library tries first and can do without must not end the process, which other
//! threads serve others with.

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArgBuilder, LinuxSeccompBuilder,
    LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};

use super::{Error, compile};
use crate::sys::seccomp::Instruction;
use crate::userns::plan::FilterInstruction;

/// What makes a socket: let pass for IPv4 and IPv6 alone, so that no service that listens on a path
/// can be talked to.
const SOCKET: &str = "socket";

/// The newest call of the table, named so that all that are older fail with EPERM.
const NEWEST: &str = "file_setattr";

/// A filter that lets `calls` pass, sockets of IPv4 and IPv6 alone among them.
///
/// # Errors
/// [`Error::Architecture`] where no filter can be made for this machine.
pub fn only(calls: &[&str]) -> Result<Vec<Instruction>, Error> {
    let policy = policy(calls).map_err(|_| Error::Architecture)?;
    let filter = compile(&policy)?.into_iter();
    Ok(filter
        .map(|FilterInstruction(code, jt, jf, k)| (code, jt, jf, k))
        .collect())
}

fn policy(calls: &[&str]) -> Result<LinuxSeccomp, OciSpecError> {
    let plain = calls.iter().filter(|name| **name != SOCKET);
    let mut rules = vec![rule(plain, LinuxSeccompAction::ScmpActAllow)?];
    for family in [libc::AF_INET, libc::AF_INET6] {
        if calls.contains(&SOCKET) {
            let of_family = LinuxSeccompArgBuilder::default()
                .index(0_usize)
                .value(u64::try_from(family).unwrap_or_default())
                .op(LinuxSeccompOperator::ScmpCmpEq)
                .build()?;
            let mut socket = rule([&SOCKET], LinuxSeccompAction::ScmpActAllow)?;
            socket.set_args(Some(vec![of_family]));
            rules.push(socket);
        }
    }
    rules.push(rule([&NEWEST], LinuxSeccompAction::ScmpActErrno)?);
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .syscalls(rules)
        .build()
}

fn rule<'a>(
    names: impl IntoIterator<Item = &'a &'a str>,
    action: LinuxSeccompAction,
) -> Result<LinuxSyscall, OciSpecError> {
    let names: Vec<String> = names.into_iter().map(|name| (*name).to_owned()).collect();
    LinuxSyscallBuilder::default()
        .names(names)
        .action(action)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::seccomp;
    use rustix::io::Errno;
    use rustix::net::{AddressFamily, SocketType, socket};

    #[test]
    fn what_is_not_named_fails_and_the_process_lives() {
        let inside = std::thread::spawn(|| {
            let calls = [
                "read",
                "write",
                "close",
                "socket",
                "futex",
                "munmap",
                "exit",
                "madvise",
                "mmap",
                "mprotect",
                "brk",
                "rt_sigprocmask",
                "sigaltstack",
                "fcntl",
            ];
            let filter = only(&calls).unwrap();
            rustix::thread::set_no_new_privs(true).unwrap();
            seccomp::load(&filter).unwrap();
            let made = |family| socket(family, SocketType::DGRAM, None).map(drop);
            let opened = std::fs::File::open("/proc/self/status");
            (
                [
                    AddressFamily::INET,
                    AddressFamily::UNIX,
                    AddressFamily::NETLINK,
                ]
                .map(made),
                opened.map(drop).map_err(|error| error.raw_os_error()),
            )
        });
        let (sockets, opened) = inside.join().unwrap();
        assert_eq!(sockets, [Ok(()), Err(Errno::PERM), Err(Errno::PERM)]);
        assert_eq!(opened, Err(Some(libc::EPERM)));
        assert!(std::fs::File::open("/proc/self/status").is_ok());
    }
}
