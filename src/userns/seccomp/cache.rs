//! Filters that were compiled before.
//!
//! Compiling takes half a millisecond (busy 2-core machine) and nearly all containers have the same
//! profile, so the daemon keeps the last few. Comparing two profiles costs microseconds.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use oci_spec::runtime::LinuxSeccomp;

use super::{Error, compile};
use crate::userns::plan::FilterInstruction;

/// Profiles kept: one for each usual set of capabilities, and some of the users' own.
const KEPT: usize = 16;

/// Compiles filters, or remembers them.
#[derive(Debug, Default)]
pub struct Filters(Mutex<VecDeque<(LinuxSeccomp, Vec<FilterInstruction>)>>);

impl Filters {
    /// Returns what [`compile()`] does.
    pub fn compile(&self, seccomp: &LinuxSeccomp) -> Result<Vec<FilterInstruction>, Error> {
        // A panic elsewhere leaves whole entries only.
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, filter)) = kept.iter().find(|(profile, _)| profile == seccomp) {
            return Ok(filter.clone());
        }
        let filter = compile(seccomp)?;
        kept.truncate(KEPT - 1);
        kept.push_front((seccomp.clone(), filter.clone()));
        Ok(filter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::userns::seccomp::{KernelVersion, docker_default};

    #[test]
    fn remembers_the_newest() {
        let filters = Filters::default();
        let profile = |set| docker_default(set, KernelVersion(6, 18)).unwrap();
        for bit in 0..=KEPT {
            let profile = profile(1 << (10 + bit));
            assert_eq!(
                filters.compile(&profile).unwrap(),
                compile(&profile).unwrap()
            );
            assert_eq!(
                filters.compile(&profile).unwrap(),
                compile(&profile).unwrap()
            );
        }
        assert!(filters.0.lock().unwrap().len() <= KEPT);
    }
}
