//! The program of the image `hello`: says what the container that it runs in was given.
//!
//! It must run in an image that holds nothing else, on any kernel that moss runs on, and be a few
//! KiB: no standard library, no C library, no allocation. The kernel enters [`start`] with a stack;
//! everything is read from /proc into buffers on it. `build.rs` compiles it; it is no part of the
//! crate, and so the one place beside `src/sys` with unsafe code: the entry, the three functions
//! that compiled code expects of a C library, and one system call instruction for each architecture.
//!
//! What is asked is what the kernel says of this very process, not what moss believes: a missing
//! seccomp filter or a mapping that did not come about would show here.
#![no_std]
#![no_main]
// The functions below that copy and compare must not be compiled into calls of themselves.
#![no_builtins]

use core::arch::{asm, global_asm};

#[cfg(target_arch = "x86_64")]
mod number {
    pub const READ: usize = 0;
    pub const WRITE: usize = 1;
    pub const OPENAT: usize = 257;
    pub const GETPID: usize = 39;
    pub const EXIT_GROUP: usize = 231;
}

#[cfg(target_arch = "aarch64")]
mod number {
    pub const READ: usize = 63;
    pub const WRITE: usize = 64;
    pub const OPENAT: usize = 56;
    pub const GETPID: usize = 172;
    pub const EXIT_GROUP: usize = 94;
}

/// `AT_FDCWD`.
const HERE: usize = -100_isize as usize;

/// Bytes that are read of a file; those of /proc read here are shorter where it matters.
const BUFFER: usize = 16 * 1024;

// The kernel enters with the stack aligned to 16 bytes and no return address on it; calling
// `start` leaves it as the calling convention wants it.
#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "xor ebp, ebp", "call {start}", "ud2", start = sym start);
#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x29, xzr", "bl {start}", "brk #1", start = sym start);

/// Runs, and ends the process.
extern "C" fn start() -> ! {
    hello();
    loop {
        call(number::EXIT_GROUP, 0, 0, 0);
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        call(number::EXIT_GROUP, 1, 0, 0);
    }
}

/// A system call of at most three arguments (a fourth, where the kernel takes one, is 0).
#[cfg(target_arch = "x86_64")]
fn call(number: usize, a: usize, b: usize, c: usize) -> isize {
    let result;
    // SAFETY: the calls made here (read, write, openat, getpid, exit_group) touch no memory but
    // the buffers behind their arguments, which the callers below borrow for the call; the
    // instruction itself changes rax, rcx and r11 only, all of which are named.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") 0_usize,
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    result
}

/// A system call of at most three arguments (a fourth, where the kernel takes one, is 0).
#[cfg(target_arch = "aarch64")]
fn call(number: usize, a: usize, b: usize, c: usize) -> isize {
    let result;
    // SAFETY: as on x86_64; here the instruction changes x0 only.
    unsafe {
        asm!(
            "svc #0",
            in("x8") number,
            inlateout("x0") a => result,
            in("x1") b, in("x2") c, in("x3") 0_usize,
            options(nostack)
        );
    }
    result
}

/// # Safety
/// As C's: both are valid for `length` bytes and do not overlap.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    for at in 0..length {
        // SAFETY: `at` is below the length that the caller vouches for.
        unsafe { to.add(at).write(from.add(at).read()) };
    }
    to
}

/// # Safety
/// As C's: `to` is valid for `length` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, length: usize) -> *mut u8 {
    for at in 0..length {
        // SAFETY: `at` is below the length that the caller vouches for.
        unsafe { to.add(at).write(byte as u8) };
    }
    to
}

/// # Safety
/// As C's: both are valid for `length` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(one: *const u8, other: *const u8, length: usize) -> i32 {
    for at in 0..length {
        // SAFETY: `at` is below the length that the caller vouches for.
        if unsafe { one.add(at).read() != other.add(at).read() } {
            return 1;
        }
    }
    0
}

/// # Safety
/// As C's: both are valid for `length` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(one: *const u8, other: *const u8, length: usize) -> i32 {
    for at in 0..length {
        // SAFETY: `at` is below the length that the caller vouches for.
        let (a, b) = unsafe { (one.add(at).read(), other.add(at).read()) };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
    }
    0
}

/// Prints; what cannot be printed is nobody's to hear of.
fn print(mut text: &[u8]) {
    while !text.is_empty() {
        let written = call(number::WRITE, 1, text.as_ptr() as usize, text.len());
        match usize::try_from(written) {
            Ok(written) if written > 0 => text = text.get(written..).unwrap_or_default(),
            _ => return,
        }
    }
}

/// The beginning of a file; empty where it cannot be read. `path` ends with a zero byte.
fn read<'a>(path: &[u8], buffer: &'a mut [u8; BUFFER]) -> &'a [u8] {
    let file = call(number::OPENAT, HERE, path.as_ptr() as usize, 0);
    let Ok(file) = usize::try_from(file) else {
        return &[];
    };
    let mut length = 0;
    while let Some(rest) = buffer.get_mut(length..).filter(|rest| !rest.is_empty()) {
        let count = call(number::READ, file, rest.as_mut_ptr() as usize, rest.len());
        match usize::try_from(count) {
            Ok(count) if count > 0 => length += count,
            _ => break,
        }
    }
    buffer.get(..length).unwrap_or_default()
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
}

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|&byte| byte == b' ' || byte == b'\t')
        .filter(|word| !word.is_empty())
}

fn number(digits: &[u8], base: u32) -> u64 {
    digits.iter().fold(0, |sum: u64, &digit| {
        let digit = (digit as char).to_digit(base).unwrap_or(0);
        sum.wrapping_mul(u64::from(base))
            .wrapping_add(u64::from(digit))
    })
}

fn print_number(mut value: u64) {
    let mut digits = [b'0'; 20];
    let mut first = digits.len() - 1;
    while let Some(digit) = digits.get_mut(first) {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 || first == 0 {
            break;
        }
        first -= 1;
    }
    print(digits.get(first..).unwrap_or_default());
}

fn hello() {
    print(
        b"\nHello from a container. moss works here.\n\n\
        moss runs Docker and OCI images for people who have no root: one daemon a user,\n\
        Docker's API on a socket of yours, and no privileged process anywhere.\n\n\
        What this container got:\n",
    );
    let mut buffer = [0; BUFFER];
    isolation(read(b"/proc/self/status\0", &mut buffer));
    ids(read(b"/proc/self/uid_map\0", &mut buffer));
    storage(read(b"/proc/self/mountinfo\0", &mut buffer));
    network(read(b"/proc/net/dev\0", &mut buffer));
    print(
        b"\nWhat to try next:\n\
        \x20 eval \"$(moss info --host)\"       point docker, compose and SDKs at moss\n\
        \x20 docker load < image.tar          bring an image: docker save or an OCI archive\n\
        \x20 moss run --rm -it IMAGE sh       a shell in a container of it\n\
        \x20 moss doctor                      what this host allows, and what to do about the rest\n\n",
    );
}

fn isolation(status: &[u8]) {
    let value = |name: &[u8]| {
        lines(status)
            .find_map(|line| line.strip_prefix(name))
            .and_then(|rest| words(rest).next())
    };
    print(b"  isolation  ");
    if call(number::GETPID, 0, 0, 0) == 1 {
        print(b"a process tree of its own; ");
    }
    print(match value(b"Seccomp:") {
        Some(b"2") => b"system calls filtered (seccomp); ".as_slice(),
        _ => b"no system call filter; ",
    });
    print_number(u64::from(
        number(value(b"CapEff:").unwrap_or_default(), 16).count_ones(),
    ));
    print(b" capabilities, none beyond this container");
    if value(b"NoNewPrivs:") == Some(b"1") {
        print(b"; no new privileges");
    }
    print(b"\n");
}

fn ids(map: &[u8]) {
    print(b"  ids        ");
    let count = lines(map).fold(0_u64, |sum, line| {
        sum.saturating_add(number(words(line).nth(2).unwrap_or_default(), 10))
    });
    match count {
        0 => print(b"unknown (no /proc)"),
        1 => print(b"one: root here is you outside, and nobody else exists"),
        // An ordinary user's map begins with the user alone.
        _ if lines(map).next().map(|line| number(words(line).nth(2).unwrap_or_default(), 10)) != Some(1) => {
            print_number(count);
            print(b": the host's own, for root started this: root here is root outside");
        }
        _ => {
            print_number(count);
            print(b": root here is you outside, the others are your subordinate ids");
        }
    }
    print(b"\n");
}

fn storage(mounts: &[u8]) {
    // 36 35 98:0 /in/fs /mount/point options [fields ...] - type source options
    let root = lines(mounts).find(|line| words(line).nth(4) == Some(b"/"));
    let kind = root.and_then(|line| words(line).skip_while(|word| *word != b"-").nth(1));
    print(b"  storage    ");
    match kind {
        Some(b"overlay") => print(b"the image's layers shared, changes on top (overlay)"),
        Some(kind) => {
            print(b"a root filesystem of type ");
            print(kind);
        }
        None => print(b"unknown (no /proc)"),
    }
    print(b"\n");
}

fn network(devices: &[u8]) {
    print(b"  network    ");
    // Two lines of headings, then `name: numbers`.
    let names = || {
        lines(devices)
            .skip(2)
            .filter_map(|line| line.split(|&byte| byte == b':').next())
            .filter_map(|name| words(name).next())
    };
    let mut others = names().filter(|name| *name != b"lo").peekable();
    if others.peek().is_none() {
        print(if names().next().is_some() {
            b"of its own, with loopback only\n".as_slice()
        } else {
            b"none\n"
        });
        return;
    }
    print(b"interfaces");
    for name in others {
        print(b" ");
        print(name);
    }
    print(b"\n");
}
