//! The tests' oracle: the kernel's BPF machine, and what a profile means, read naively.
//!
//! [`run`] executes a program as the kernel does, refusing what `seccomp_check_filter` would refuse
//! at load. [`judge`] answers for one call straight from the profile's text, rule by rule, without
//! tables of stretches or any thought of speed. The compiler is right when both agree.

use oci_spec::runtime::{
    Arch as OciArch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator,
};

use super::table::{ARM_PRIVATE, X32_BIT};
use super::{Arch, number};
use crate::userns::plan::FilterInstruction;

/// `struct seccomp_data` without the instruction pointer, which no filter here reads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub number: u32,
    pub arch: u32,
    pub args: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.arch,
            16..64 if offset.is_multiple_of(4) => {
                let arg = self.args[(offset as usize - 16) / 8];
                (if offset.is_multiple_of(8) {
                    arg
                } else {
                    arg >> 32
                }) as u32
            }
            _ => panic!("load from offset {offset}"),
        }
    }
}

/// Runs a program; also returns how many instructions that took.
pub(super) fn run(program: &[FilterInstruction], call: &Call) -> (u32, usize) {
    let mut accumulator = 0;
    let mut at = 0;
    for steps in 1.. {
        let FilterInstruction(code, jt, jf, k) = program[at];
        let jump = |taken: bool| at + 1 + usize::from(if taken { jt } else { jf });
        at = match code {
            0x20 => {
                accumulator = call.word(k);
                at + 1
            }
            0x54 => {
                accumulator &= k;
                at + 1
            }
            0x05 => at + 1 + k as usize,
            0x15 => jump(accumulator == k),
            0x25 => jump(accumulator > k),
            0x35 => jump(accumulator >= k),
            0x06 => return (k, steps),
            _ => panic!("the kernel refuses instruction {code:#x}"),
        };
    }
    unreachable!("a program without loops ends")
}

/// Checks what the kernel checks when a filter is loaded.
pub(super) fn check(program: &[FilterInstruction]) {
    assert!((1..=4096).contains(&program.len()));
    for (at, FilterInstruction(code, jt, jf, k)) in program.iter().enumerate() {
        let furthest = match code {
            0x05 => *k as usize + 1,
            0x15 | 0x25 | 0x35 => usize::from(*jt.max(jf)) + 1,
            0x06 => 0,
            _ => 1,
        };
        assert!(
            at + furthest < program.len(),
            "instruction {at} leaves the program"
        );
    }
}

/// Returns what a profile means for a call.
pub(super) fn judge(profile: &LinuxSeccomp, native: Arch, call: &Call) -> u32 {
    let listed = |oci: OciArch| profile.architectures().iter().flatten().any(|a| *a == oci);
    let x32 = call.arch == Arch::X86_64.audit() && call.number >= X32_BIT;
    let arch = [
        (Arch::X86_64, OciArch::ScmpArchX86_64),
        (Arch::X32, OciArch::ScmpArchX32),
        (Arch::X86, OciArch::ScmpArchX86),
        (Arch::Aarch64, OciArch::ScmpArchAarch64),
        (Arch::Arm, OciArch::ScmpArchArm),
    ]
    .into_iter()
    .filter(|(arch, oci)| *arch == native || listed(*oci))
    .map(|(arch, _)| arch)
    .filter(|arch| *arch != Arch::X32 || call.arch == Arch::X86_64.audit())
    .find(|arch| arch.audit() == call.arch && (*arch == Arch::X32) == x32);
    // x32 is a guest in x86_64's block: without that block it is a foreign architecture.
    let has_x86_64 = native == Arch::X86_64 || listed(OciArch::ScmpArchX86_64);
    let Some(arch) = arch.filter(|arch| *arch != Arch::X32 || has_x86_64) else {
        return 0;
    };
    let value = |action: LinuxSeccompAction, errno: Option<u32>| match action {
        LinuxSeccompAction::ScmpActErrno => 0x0005_0000 | errno.unwrap_or(1) & 0xffff,
        LinuxSeccompAction::ScmpActTrace => 0x7ff0_0000 | errno.unwrap_or(1) & 0xffff,
        other => other.as_u32(None),
    };
    let default = value(profile.default_action(), profile.default_errno_ret());
    let rules = profile.syscalls().as_deref().unwrap_or_default();
    let mine = |names: &[String]| {
        names
            .iter()
            .any(|name| number(name, arch) == Some(call.number))
    };

    let matching = rules.iter().filter(|rule| mine(rule.names()));
    let telling = matching
        .map(|rule| {
            (
                value(rule.action(), rule.errno_ret()),
                rule.args().as_deref().unwrap_or_default(),
            )
        })
        .filter(|(action, _)| *action != default);
    if let Some((action, _)) = telling.clone().find(|(_, args)| args.is_empty()) {
        return action;
    }
    for (action, args) in telling {
        let doubled = args
            .iter()
            .any(|a| args.iter().filter(|b| b.index() == a.index()).count() > 1);
        let mut hits = args.iter().map(|arg| holds(arg, call, arch));
        if if doubled {
            hits.any(|hit| hit)
        } else {
            hits.all(|hit| hit)
        } {
            return action;
        }
    }
    let passes = matches!(
        profile.default_action(),
        LinuxSeccompAction::ScmpActAllow
            | LinuxSeccompAction::ScmpActLog
            | LinuxSeccompAction::ScmpActTrace
    );
    let private = |number: u32| arch == Arch::Arm && number >= ARM_PRIVATE;
    let last = rules
        .iter()
        .flat_map(|rule| rule.names())
        .filter_map(|name| number(name, arch))
        .filter(|number| private(*number) == private(call.number))
        .max();
    if !passes && last.is_some_and(|last| call.number > last) {
        0x0005_0000 | 38
    } else {
        default
    }
}

fn holds(test: &LinuxSeccompArg, call: &Call, arch: Arch) -> bool {
    let arg = call.args[test.index()];
    let (value, second) = (test.value(), test.value_two().unwrap_or(0));
    let width = if arch.wide() {
        u64::MAX
    } else {
        u64::from(u32::MAX)
    };
    match test.op() {
        LinuxSeccompOperator::ScmpCmpEq => (arg ^ value) & width == 0,
        LinuxSeccompOperator::ScmpCmpNe => (arg ^ value) & width != 0,
        LinuxSeccompOperator::ScmpCmpMaskedEq => (arg ^ second) & value & width == 0,
        LinuxSeccompOperator::ScmpCmpLt => arg < value,
        LinuxSeccompOperator::ScmpCmpLe => arg <= value,
        LinuxSeccompOperator::ScmpCmpGt => arg > value,
        LinuxSeccompOperator::ScmpCmpGe => arg >= value,
    }
}
