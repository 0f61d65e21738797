//! Seccomp: from a profile to the filter that the kernel runs before each system call.
//!
//! Three steps, all pure:
//!
//! ```text
//! Docker's JSON ──[profile]──▶ oci LinuxSeccomp ──[filter]──▶ ranges of numbers ──[compile]──▶ classic BPF
//!   conditions on capabilities,    what runc gets       names → numbers, which         binary search, 64-bit
//!   architecture, kernel                                rule wins, ENOSYS line          argument tests
//! ```
//!
//! [`profile`] reads Docker's format (the embedded default, or what `--security-opt seccomp=FILE`
//! brought) and keeps the rules that hold for one container. [`compile()`] takes the result, which is
//! also what an OCI bundle's `config.json` carries.
//!
//! **Why a compiler of ours.** A container runs programs of more than one architecture (i386 on
//! x86_64, arm on aarch64), wants several actions in one filter, and a system call newer than the
//! profile must answer ENOSYS, so that C libraries fall back, while a known but refused one answers
//! EPERM. libseccomp cannot say the last, and runc patches its output; no Rust crate does the first
//! two.
//!
//! **Which rule wins** for one call, as in runc over libseccomp: rules whose action is the default
//! action are left out; a rule without argument tests wins over all that have some (the first of
//! several); else the first whose tests all hold. A rule that tests one argument twice stands for
//! as many rules as it has tests.
//!
//! **What it does not do**: calls multiplexed by i386's `socketcall` and `ipc` are governed by the
//! rules of these two (Docker's profile allows both, as libseccomp-made filters do in effect);
//! `SCMP_ACT_NOTIFY` is refused, since nothing here listens; filter flags are not carried.
//!
//! The embedded profile is moby/profiles' `seccomp/default.json`, Apache-2.0, byte for byte.

mod cache;
mod compile;
mod filter;
#[cfg(test)]
mod interpreter;
pub mod profile;
mod table;
#[cfg(test)]
mod tests;
mod threads;

pub use cache::Filters;
pub use compile::{compile, compile_for};
pub use profile::{KernelVersion, Profile, docker_default};
#[cfg(test)]
use table::number;
pub use threads::only;

/// An architecture whose system calls a filter can judge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arch {
    /// 64-bit x86.
    X86_64,
    /// 64-bit x86 with 32-bit pointers; shares x86_64's audit number.
    X32,
    /// 32-bit x86.
    X86,
    /// 64-bit ARM.
    Aarch64,
    /// 32-bit ARM (EABI).
    Arm,
}

impl Arch {
    /// Returns the architecture of this program, where it is one of the table.
    pub const fn native() -> Option<Arch> {
        if cfg!(all(target_arch = "x86_64", target_pointer_width = "64")) {
            Some(Arch::X86_64)
        } else if cfg!(target_arch = "aarch64") {
            Some(Arch::Aarch64)
        } else if cfg!(target_arch = "x86") {
            Some(Arch::X86)
        } else if cfg!(target_arch = "arm") {
            Some(Arch::Arm)
        } else {
            None
        }
    }

    /// Returns `AUDIT_ARCH_*` of linux/audit.h, which is what `seccomp_data.arch` holds.
    pub(crate) const fn audit(self) -> u32 {
        match self {
            Arch::X86_64 | Arch::X32 => 0xc000_003e,
            Arch::X86 => 0x4000_0003,
            Arch::Aarch64 => 0xc000_00b7,
            Arch::Arm => 0x4000_0028,
        }
    }

    /// Returns whether registers, and so arguments, have 64 bits.
    const fn wide(self) -> bool {
        matches!(self, Arch::X86_64 | Arch::X32 | Arch::Aarch64)
    }

    /// Returns the name by which Docker's profiles call it in `arches` (Go's, mostly).
    const fn docker_name(self) -> &'static str {
        match self {
            Arch::X86_64 => "amd64",
            Arch::X32 => "x32",
            Arch::X86 => "x86",
            Arch::Aarch64 => "arm64",
            Arch::Arm => "arm",
        }
    }

    /// Returns the name by which libseccomp, OCI and Docker's `archMap` call it.
    const fn seccomp_name(self) -> &'static str {
        match self {
            Arch::X86_64 => "SCMP_ARCH_X86_64",
            Arch::X32 => "SCMP_ARCH_X32",
            Arch::X86 => "SCMP_ARCH_X86",
            Arch::Aarch64 => "SCMP_ARCH_AARCH64",
            Arch::Arm => "SCMP_ARCH_ARM",
        }
    }
}

/// Why a profile could not be turned into a filter.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not JSON, or not of a profile's shape.
    #[error("decoding seccomp profile failed: {0}")]
    Decode(#[source] serde_json::Error),
    /// Two ways of saying the same thing.
    #[error(
        "both '{one}' and '{other}' are specified in the seccomp profile, use either '{one}' or '{other}'"
    )]
    Both {
        /// The first field.
        one: &'static str,
        /// The second field.
        other: &'static str,
    },
    /// An action, operator or architecture of no known name.
    #[error("string {value} is not a valid {what} for seccomp")]
    Name {
        /// What it should have been.
        what: &'static str,
        /// What it was.
        value: String,
    },
    /// An argument beyond the sixth.
    #[error("invalid seccomp argument index {0}: a system call has six arguments")]
    ArgumentIndex(usize),
    /// `SCMP_ACT_NOTIFY`.
    #[error("seccomp action SCMP_ACT_NOTIFY is not supported")]
    Notify,
    /// The kernel takes 4096 instructions at most.
    #[error("the seccomp filter has {0} instructions, the kernel takes 4096")]
    TooLong(usize),
    /// No table of system calls for the machine.
    #[error("seccomp filters are not supported on this architecture")]
    Architecture,
}
