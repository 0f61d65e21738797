//! From names to numbers: what happens to each number on each architecture.
//!
//! The result is, per audit architecture, the whole range of 32-bit system call numbers cut into
//! stretches with one [`Outcome`] each. Everything that decides *what* the filter answers is here;
//! [`super::compile()`] only decides how to find the stretch quickly.
//!
//! ```text
//! x86_64   0 … 466 by the rules │ 467 … ENOSYS │ 0x40000000 … x32 by the rules │ … ENOSYS
//! ```
//!
//! **The ENOSYS line.** A number above the largest that the profile names cannot have been judged
//! by its author, so it answers ENOSYS as if the kernel did not have it, unless the default action
//! lets calls through anyway. x32's numbers, and ARM's private ones at 0xf0000, are lines of their
//! own: a profile that names `set_tls` (0xf0005) has not thereby judged all below.

use std::collections::BTreeMap;

use oci_spec::runtime::{
    Arch as OciArch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator,
    LinuxSyscall,
};

use super::table::{ARM_PRIVATE, Row, X32_BIT, row};
use super::{Arch, Error};

/// `SECCOMP_RET_KILL_THREAD`: the answer to an architecture that the filter does not know,
/// libseccomp's default.
pub(super) const KILL_THREAD: u32 = 0;
/// `SECCOMP_RET_ERRNO` with ENOSYS.
pub(super) const ENOSYS: u32 = 0x0005_0000 | 38;

/// All numbers of one audit architecture.
#[derive(Debug)]
pub(super) struct Space {
    /// `AUDIT_ARCH_*`.
    pub audit: u32,
    /// First number of each stretch, ascending from 0, and what happens to it.
    pub stretches: Vec<(u32, Outcome)>,
}

/// What happens to a system call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A `SECCOMP_RET_*` value.
    Return(u32),
    /// The first rule that matches, else the default.
    Tests {
        /// In order.
        rules: Vec<Tested>,
        /// Where none matches.
        otherwise: u32,
    },
}

/// A rule with argument tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tested {
    /// All must hold.
    pub conditions: Vec<Condition>,
    /// A `SECCOMP_RET_*` value.
    pub action: u32,
}

/// One argument test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    /// 0 to 5.
    pub index: u32,
    /// How `value` is compared.
    pub operator: LinuxSeccompOperator,
    /// The operand; for MASKED_EQ the mask.
    pub value: u64,
    /// For MASKED_EQ what the masked argument must be.
    pub second: u64,
    /// Compare both halves; 32-bit architectures have only the lower one.
    pub wide: bool,
}

/// Resolves a profile, the machine's own architecture first.
pub(super) fn resolve(seccomp: &LinuxSeccomp, native: Arch) -> Result<Vec<Space>, Error> {
    let default = action(seccomp.default_action(), seccomp.default_errno_ret())?;
    let mut archs = vec![native];
    for arch in seccomp.architectures().iter().flatten() {
        // Architectures without a table cannot run here, so their calls need no judgement.
        if let Some(arch) = known(*arch).filter(|arch| !archs.contains(arch)) {
            archs.push(arch);
        }
    }
    let default_passes = matches!(
        seccomp.default_action(),
        LinuxSeccompAction::ScmpActAllow
            | LinuxSeccompAction::ScmpActLog
            // A tracer answers for future calls itself.
            | LinuxSeccompAction::ScmpActTrace
    );
    let rules = Rules {
        default,
        beyond: if default_passes { default } else { ENOSYS },
        rules: seccomp
            .syscalls()
            .iter()
            .flatten()
            .map(|rule| Named {
                rule,
                rows: rule.names().iter().filter_map(|name| row(name)).collect(),
            })
            .collect(),
    };

    let mut spaces: Vec<Space> = Vec::new();
    for &arch in archs.iter().filter(|arch| **arch != Arch::X32) {
        let mut stretches = Stretches::default();
        rules.cut(arch, &mut stretches)?;
        if arch == Arch::X86_64 {
            if archs.contains(&Arch::X32) {
                rules.cut(Arch::X32, &mut stretches)?;
            } else {
                stretches.push(X32_BIT, Outcome::Return(KILL_THREAD));
            }
        }
        spaces.push(Space {
            audit: arch.audit(),
            stretches: stretches.0,
        });
    }
    Ok(spaces)
}

fn known(arch: OciArch) -> Option<Arch> {
    match arch {
        OciArch::ScmpArchX86_64 => Some(Arch::X86_64),
        OciArch::ScmpArchX32 => Some(Arch::X32),
        OciArch::ScmpArchX86 => Some(Arch::X86),
        OciArch::ScmpArchAarch64 => Some(Arch::Aarch64),
        OciArch::ScmpArchArm => Some(Arch::Arm),
        _ => None,
    }
}

/// Returns the `SECCOMP_RET_*` value of an action; errno and trace data default to EPERM.
pub(super) fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32, Error> {
    match action {
        LinuxSeccompAction::ScmpActNotify => Err(Error::Notify),
        // The kernel's field for the data has 16 bits.
        action => Ok(action.as_u32(errno.map(|errno| errno & 0xffff))),
    }
}

/// Stretches under construction: neighbours with one outcome are one stretch.
#[derive(Default)]
struct Stretches(Vec<(u32, Outcome)>);

impl Stretches {
    fn push(&mut self, start: u32, outcome: Outcome) {
        match self.0.last_mut() {
            Some((_, last)) if *last == outcome => {}
            // The stretch before turned out to be empty.
            Some((last, old)) if *last == start => *old = outcome,
            _ => self.0.push((start, outcome)),
        }
    }
}

struct Rules<'a> {
    default: u32,
    /// For numbers beyond the profile's largest.
    beyond: u32,
    rules: Vec<Named<'a>>,
}

/// A rule with its names looked up, once for all architectures.
struct Named<'a> {
    rule: &'a LinuxSyscall,
    rows: Vec<Row>,
}

impl Rules<'_> {
    /// Appends one architecture's stretches.
    fn cut(&self, arch: Arch, stretches: &mut Stretches) -> Result<(), Error> {
        let outcomes = self.outcomes(arch)?;
        let base = if arch == Arch::X32 { X32_BIT } else { 0 };
        stretches.push(base, Outcome::Return(self.default));
        let (common, private) = if arch == Arch::Arm {
            (base..ARM_PRIVATE, ARM_PRIVATE..u32::MAX)
        } else {
            (base..u32::MAX, 0..0)
        };
        for line in [common, private] {
            let Some((&last, _)) = outcomes.range(line.clone()).next_back() else {
                if line.start == ARM_PRIVATE {
                    stretches.push(ARM_PRIVATE, Outcome::Return(self.default));
                }
                continue;
            };
            stretches.push(line.start, Outcome::Return(self.default));
            for (&number, outcome) in outcomes.range(line) {
                let outcome = outcome.clone();
                stretches.push(number, outcome.unwrap_or(Outcome::Return(self.default)));
                stretches.push(number + 1, Outcome::Return(self.default));
            }
            stretches.push(last + 1, Outcome::Return(self.beyond));
        }
        Ok(())
    }

    /// Returns what the rules say of every number that they name; `None` where they only repeat the
    /// default, which still counts for the ENOSYS line.
    fn outcomes(&self, arch: Arch) -> Result<BTreeMap<u32, Option<Outcome>>, Error> {
        let mut outcomes: BTreeMap<u32, Option<Outcome>> = BTreeMap::new();
        for Named { rule, rows } in &self.rules {
            let action = action(rule.action(), rule.errno_ret())?;
            let tests = alternatives(rule.args().as_deref().unwrap_or_default(), arch)?;
            for number in rows.iter().filter_map(|row| row.number(arch)) {
                let outcome = outcomes.entry(number).or_default();
                if action == self.default {
                    continue;
                }
                match (&mut *outcome, tests.is_empty()) {
                    (Some(Outcome::Return(_)), _) => {}
                    (_, true) => *outcome = Some(Outcome::Return(action)),
                    (slot, false) => {
                        let tested = tests.iter().map(|conditions| Tested {
                            conditions: conditions.clone(),
                            action,
                        });
                        match slot {
                            Some(Outcome::Tests { rules, .. }) => rules.extend(tested),
                            slot => {
                                *slot = Some(Outcome::Tests {
                                    rules: tested.collect(),
                                    otherwise: self.default,
                                });
                            }
                        }
                    }
                }
            }
        }
        Ok(outcomes)
    }
}

/// Returns the conjunctions that a rule's arguments stand for: one, or one for each test where an
/// argument is tested twice (libseccomp takes an argument once a rule; runc's answer is this).
fn alternatives(args: &[LinuxSeccompArg], arch: Arch) -> Result<Vec<Vec<Condition>>, Error> {
    let mut conditions = Vec::with_capacity(args.len());
    let mut seen = 0_u8;
    let mut twice = false;
    for arg in args {
        let index = u32::try_from(arg.index())
            .ok()
            .filter(|index| *index < 6)
            .ok_or(Error::ArgumentIndex(arg.index()))?;
        twice |= seen & (1 << index) != 0;
        seen |= 1 << index;
        conditions.push(Condition {
            index,
            operator: arg.op(),
            value: arg.value(),
            second: arg.value_two().unwrap_or(0),
            wide: arch.wide(),
        });
    }
    Ok(match (conditions.is_empty(), twice) {
        (true, _) => Vec::new(),
        (_, false) => vec![conditions],
        (_, true) => conditions.into_iter().map(|one| vec![one]).collect(),
    })
}
