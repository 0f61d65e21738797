//! From stretches of numbers to classic BPF.
//!
//! The program loads the architecture, jumps to that architecture's block, loads the number and
//! finds its stretch by binary search: about nine jumps where a list takes hundreds. The kernel
//! caches plain ALLOWs in a bitmap (since 5.11), but fills that bitmap by interpreting the program
//! once for every number each time it is loaded, so a short path is a quick container start too.
//!
//! **Backwards.** BPF jumps only forwards, and a conditional jump reaches 255 instructions. So code
//! is written from its end: when a jump is written, its targets exist and the distance is known.
//! `ret` instructions are shared by all jumps that reach one; a target out of reach gets a `ja`
//! (whose offset has 32 bits) on the spot, a `ret` out of reach is written again.
//!
//! **Arguments** are 64-bit, a BPF word is 32: the halves are compared one after the other (all
//! architectures of the table are little-endian). On 32-bit architectures equality looks at the
//! lower half alone, as libseccomp does, so that a profile's sign-extended -1 still matches.

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompOperator};

use super::filter::{Condition, KILL_THREAD, Outcome, Space, Tested, resolve};
use super::{Arch, Error};
use crate::userns::plan::FilterInstruction;

/// `BPF_MAXINSNS`.
const MAX_INSTRUCTIONS: usize = 4096;
/// How far a conditional jump may reach, less one for what its other branch may still insert.
const REACH: usize = 254;

// linux/bpf_common.h; the offsets are those of struct seccomp_data.
const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const IF_GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const IF_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// Compiles a filter for this machine.
pub fn compile(seccomp: &LinuxSeccomp) -> Result<Vec<FilterInstruction>, Error> {
    compile_for(seccomp, Arch::native().ok_or(Error::Architecture)?)
}

/// Compiles a filter for a machine whose own architecture is `native`.
pub fn compile_for(seccomp: &LinuxSeccomp, native: Arch) -> Result<Vec<FilterInstruction>, Error> {
    let spaces = resolve(seccomp, native)?;
    let mut code = Backwards::default();
    // Least likely first, so that the machine's own block is next to the dispatch.
    let mut blocks = Vec::new();
    for space in spaces.iter().rev() {
        blocks.push((space.audit, code.space(space)));
    }
    let mut next = Target::Return(KILL_THREAD);
    for (audit, block) in blocks {
        next = code.branch(IF_EQUAL, audit, block, next);
    }
    code.load(ARCHITECTURE, next);
    code.finish()
}

/// Where a jump leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    /// To an instruction, counted from the program's end.
    At(usize),
    /// To any `ret` of this value.
    Return(u32),
}

/// A program whose last instruction comes first.
#[derive(Default)]
struct Backwards {
    code: Vec<FilterInstruction>,
    /// Value and place of every `ret`, newest last.
    returns: Vec<(u32, usize)>,
}

impl Backwards {
    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> usize {
        self.code.push(FilterInstruction(code, jt, jf, k));
        self.code.len() - 1
    }

    /// Writes one architecture's block.
    fn space(&mut self, space: &Space) -> Target {
        let root = self.search(&space.stretches);
        self.load(NUMBER, root)
    }

    /// Writes the binary search over stretches (never none).
    fn search(&mut self, stretches: &[(u32, Outcome)]) -> Target {
        if let [(_, outcome)] = stretches {
            return self.outcome(outcome);
        }
        let (left, right) = stretches.split_at(stretches.len() / 2);
        let from = right[0].0;
        let at_least = self.search(right);
        let below = self.search(left);
        self.branch(IF_AT_LEAST, from, at_least, below)
    }

    fn outcome(&mut self, outcome: &Outcome) -> Target {
        match outcome {
            Outcome::Return(value) => Target::Return(*value),
            Outcome::Tests { rules, otherwise } => {
                let mut next = Target::Return(*otherwise);
                for rule in rules.iter().rev() {
                    next = self.rule(rule, next);
                }
                next
            }
        }
    }

    fn rule(&mut self, rule: &Tested, no: Target) -> Target {
        let mut yes = Target::Return(rule.action);
        for condition in rule.conditions.iter().rev() {
            yes = self.condition(condition, yes, no);
        }
        yes
    }

    fn condition(&mut self, test: &Condition, yes: Target, no: Target) -> Target {
        match test.operator {
            LinuxSeccompOperator::ScmpCmpEq => self.equal(test, u64::MAX, test.value, yes, no),
            LinuxSeccompOperator::ScmpCmpNe => self.equal(test, u64::MAX, test.value, no, yes),
            LinuxSeccompOperator::ScmpCmpMaskedEq => {
                self.equal(test, test.value, test.second & test.value, yes, no)
            }
            LinuxSeccompOperator::ScmpCmpGt => self.ordered(test, IF_GREATER, yes, no),
            LinuxSeccompOperator::ScmpCmpGe => self.ordered(test, IF_AT_LEAST, yes, no),
            LinuxSeccompOperator::ScmpCmpLe => self.ordered(test, IF_GREATER, no, yes),
            LinuxSeccompOperator::ScmpCmpLt => self.ordered(test, IF_AT_LEAST, no, yes),
        }
    }

    /// Tests `argument & mask == value`, half by half.
    fn equal(
        &mut self,
        test: &Condition,
        mask: u64,
        value: u64,
        yes: Target,
        no: Target,
    ) -> Target {
        let (low, high) = offsets(test.index);
        let mut next = self.half_equal(low, lower(mask), lower(value), yes, no);
        if test.wide {
            next = self.half_equal(high, upper(mask), upper(value), next, no);
        }
        next
    }

    fn half_equal(
        &mut self,
        offset: u32,
        mask: u32,
        value: u32,
        yes: Target,
        no: Target,
    ) -> Target {
        if mask == 0 {
            // Nothing is asked of this half.
            return yes;
        }
        let mut next = self.branch(IF_EQUAL, value, yes, no);
        if next == yes {
            return next;
        }
        if mask != u32::MAX {
            next = Target::At(self.push(AND, 0, 0, mask));
        }
        self.load(offset, next)
    }

    /// Tests `argument > value` or `>=`: decided by the upper half unless that is equal.
    fn ordered(&mut self, test: &Condition, operator: u16, yes: Target, no: Target) -> Target {
        let (low, high) = offsets(test.index);
        let next = self.branch(operator, lower(test.value), yes, no);
        let next = self.load(low, next);
        let next = self.branch(IF_EQUAL, upper(test.value), next, no);
        let next = self.branch(IF_GREATER, upper(test.value), yes, next);
        self.load(high, next)
    }

    /// Writes a load in front of `next`, which must be the newest instruction for the program to
    /// fall into it; where it is not (a `ret`, or shared code), a jump is written between.
    fn load(&mut self, offset: u32, next: Target) -> Target {
        let newest = self.code.len().checked_sub(1).map(Target::At);
        if newest != Some(next) {
            match next {
                Target::Return(value) => {
                    self.push_return(value);
                }
                Target::At(place) => {
                    self.push_jump(place);
                }
            }
        }
        Target::At(self.push(LOAD, 0, 0, offset))
    }

    /// Writes a conditional jump, or none where both ways lead to one place.
    fn branch(&mut self, operator: u16, k: u32, yes: Target, no: Target) -> Target {
        if yes == no {
            return yes;
        }
        let no = self.near(no);
        let yes = self.near(yes);
        let here = self.code.len();
        // `near` left both within reach, so the distances fit.
        let distance = |place: usize| u8::try_from(here - place - 1).unwrap_or(u8::MAX);
        Target::At(self.push(operator, distance(yes), distance(no), k))
    }

    /// Returns a place within a conditional jump's reach that leads to `target`.
    fn near(&mut self, target: Target) -> usize {
        let here = self.code.len();
        match target {
            Target::At(place) if here - place <= REACH => place,
            Target::At(place) => self.push_jump(place),
            Target::Return(value) => {
                let existing = self
                    .returns
                    .iter()
                    .rev()
                    .take_while(|(_, place)| here - place <= REACH)
                    .find(|(other, _)| *other == value)
                    .map(|(_, place)| *place);
                existing.unwrap_or_else(|| self.push_return(value))
            }
        }
    }

    fn push_return(&mut self, value: u32) -> usize {
        let place = self.push(RETURN, 0, 0, value);
        self.returns.push((value, place));
        place
    }

    fn push_jump(&mut self, place: usize) -> usize {
        // The program is refused long before its length exceeds 32 bits.
        let distance = u32::try_from(self.code.len() - place - 1).unwrap_or(u32::MAX);
        self.push(JUMP, 0, 0, distance)
    }

    fn finish(mut self) -> Result<Vec<FilterInstruction>, Error> {
        if self.code.len() > MAX_INSTRUCTIONS {
            return Err(Error::TooLong(self.code.len()));
        }
        self.code.reverse();
        Ok(self.code)
    }
}

/// Returns the offsets of an argument's lower and upper half.
const fn offsets(index: u32) -> (u32, u32) {
    (ARGUMENTS + 8 * index, ARGUMENTS + 8 * index + 4)
}

/// Returns the lower half.
#[allow(clippy::cast_possible_truncation)]
const fn lower(value: u64) -> u32 {
    value as u32
}

/// Returns the upper half.
const fn upper(value: u64) -> u32 {
    lower(value >> 32)
}
