//! A copy of a program that nothing can write to.
//!
//! An image's entry point may be a link to `/proc/self/exe`, or a container may open `/proc/PID/exe`
//! of a process that just entered it: either way it reaches the program that started it
//! (CVE-2019-5736), and root in a container is, on the host, the very user who owns that file. So
//! keeper and shims run from a sealed memfd, never from the user's file. The copy has two more
//! merits: it outlives an upgrade or a file server that forgets a replaced file (a page fault
//! would then be a SIGBUS in every container's shim), and nothing keeps the file busy.
//!
//! A read-only detached bind mount or overlay would save the memory (one copy a user, 4 to 9 MB for
//! a release build), but neither of the other two.
//!
//! Only what the ELF program headers load is copied: symbols and debug information, nine tenths
//! of a debug build, stay behind.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, SealFlags};

/// The most program headers that are looked at; programs have about a dozen.
const MAX_HEADERS: u16 = 128;

/// Copies the program into a sealed memfd that can be executed by its descriptor.
///
/// # Errors
/// `PermissionDenied` where `vm.memfd_noexec=2` forbids such programs; otherwise reading's and
/// writing's.
pub fn program(program: &File) -> io::Result<OwnedFd> {
    let copy = memfd(c"moss")?;
    let length = loaded_length(program)?;
    let copy = File::from(copy);
    copy.set_len(length)?;
    let mut done = 0;
    let mut buffer = vec![0; 1 << 18];
    while done < length {
        let step = buffer
            .len()
            .min(usize::try_from(length - done).unwrap_or(usize::MAX));
        let read = program.read_at(&mut buffer[..step], done)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        copy.write_all_at(&buffer[..read], done)?;
        done += read as u64;
    }
    if length < program.metadata()?.len() {
        // The section headers were cut off: e_shoff, and e_shnum with e_shstrndx, become none.
        copy.write_all_at(&[0; 8], 0x28)?;
        copy.write_all_at(&[0; 4], 0x3c)?;
    }
    seal(&copy)?;
    Ok(copy.into())
}

/// A sealed memfd that holds `bytes`, for what is too large for a packet or a command line.
pub fn bytes(name: &std::ffi::CStr, bytes: &[u8]) -> io::Result<OwnedFd> {
    let file = File::from(rustix::fs::memfd_create(
        name,
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
    )?);
    file.write_all_at(bytes, 0)?;
    seal(&file)?;
    Ok(file.into())
}

fn memfd(name: &std::ffi::CStr) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // MFD_EXEC asks for what was the default before Linux 6.3, which does not know it.
    match rustix::fs::memfd_create(name, flags | MemfdFlags::EXEC) {
        Err(rustix::io::Errno::INVAL) => Ok(rustix::fs::memfd_create(name, flags)?),
        other => Ok(other?),
    }
}

fn seal(file: impl AsFd) -> io::Result<()> {
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    Ok(rustix::fs::fcntl_add_seals(file, seals)?)
}

/// How far into the file its loadable segments reach; the whole file where it is not 64-bit ELF.
fn loaded_length(program: &File) -> io::Result<u64> {
    let whole = program.metadata()?.len();
    let mut header = [0; 64];
    program.read_exact_at(&mut header, 0)?;
    if &header[..5] != b"\x7fELF\x02" {
        return Ok(whole);
    }
    let word = |bytes: &[u8], at: usize| -> u64 {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at..at + 8]);
        u64::from_ne_bytes(word)
    };
    let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
    let (offset, size, count) = (word(&header, 0x20), half(0x36), half(0x38));
    if size < 56 || count > MAX_HEADERS {
        return Ok(whole);
    }
    let mut end = offset.saturating_add(u64::from(size) * u64::from(count));
    for index in 0..u64::from(count) {
        let mut entry = [0; 56];
        program.read_exact_at(&mut entry, offset.saturating_add(index * u64::from(size)))?;
        // Every segment that lies in the file, not only those of type PT_LOAD: the loader reads
        // the interpreter's path and the notes through headers of their own.
        end = end.max(word(&entry, 0x08).saturating_add(word(&entry, 0x20)));
    }
    Ok(end.min(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_program_runs_and_cannot_be_written() {
        let source = File::open("/bin/sh").unwrap();
        let sealed = program(&source).unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&sealed));
        let status = std::process::Command::new(&path)
            .args(["-c", "exit 7"])
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(7));
        assert!(File::from(sealed).write_all_at(b"x", 0).is_err());
    }

    #[test]
    fn only_what_is_loaded_is_copied() {
        let own = File::open("/proc/self/exe").unwrap();
        let sealed = File::from(program(&own).unwrap());
        assert!(sealed.metadata().unwrap().len() < own.metadata().unwrap().len());
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&sealed));
        let status = std::process::Command::new(path)
            .args(["--list", "none such"])
            .output();
        assert!(status.unwrap().status.success());
    }
}
