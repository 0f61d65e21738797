//! How many descriptors conversations may have, all networks' together.
//!
//! A process that has none left can do nothing at all: neither answer a name, nor take an order, nor
//! even refuse a connection. So those that are counted here, of published ports and of the way out,
//! leave a [`reserve`] to everything else. And none of them may take what the others live by: what
//! has many already, a published port or a network's way out, gets another only while what is free
//! is some part of what it has. Alone a port may have eight ninths, since whoever publishes it wants
//! it to be reached, and a network's way out, where anything may run, two thirds.
//!
//! Nothing is counted for it. The kernel gives a new descriptor the lowest number that is free, so
//! where a new one's number is high, all below are in use; where it is low, there is room.

use std::os::fd::{AsFd, AsRawFd};

use rustix::process::{Resource, getrlimit};

/// How many times as many as are free a published port may have.
const OF_PORT: usize = 8;

/// The same of a network's way out.
const OF_NETWORK: usize = 2;

/// What conversations may take up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptors {
    /// The first number that is none of theirs.
    mark: usize,
}

/// So many of `limit` are for names, listeners, and what holds networks together.
fn reserve(limit: usize) -> usize {
    (limit / 16).clamp(128, 4096).min(limit / 2)
}

impl Descriptors {
    /// Those of this process, by its present limit.
    pub fn of_this_process() -> Self {
        let limit = getrlimit(Resource::Nofile).current;
        let limit = limit.and_then(|limit| usize::try_from(limit).ok());
        limit.map_or_else(Self::default, |limit| Self {
            mark: limit - reserve(limit),
        })
    }

    /// Whether a conversation may begin whose descriptor this is, by a published port that has
    /// `held`.
    pub fn admit(self, newest: impl AsFd, held: usize) -> bool {
        self.admits(number(newest), held, OF_PORT)
    }

    /// The same for one of a network that has `held` by its way out.
    pub fn admit_out(self, newest: impl AsFd, held: usize) -> bool {
        self.admits(number(newest), held, OF_NETWORK)
    }

    fn admits(self, number: usize, held: usize, share: usize) -> bool {
        number < self.mark && held / share <= self.mark - number
    }
}

fn number(descriptor: impl AsFd) -> usize {
    usize::try_from(descriptor.as_fd().as_raw_fd()).unwrap_or_default()
}

impl Default for Descriptors {
    /// As many as one likes.
    fn default() -> Self {
        Self { mark: usize::MAX }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many as `held` grows to where `others` are in use.
    fn most(all: Descriptors, others: usize, share: usize) -> usize {
        let mut held = 0;
        while all.admits(others + held, held, share) {
            held += 1;
        }
        held
    }

    #[test]
    fn whoever_comes_last_finds_some() {
        let limit = 20_000;
        let all = Descriptors {
            mark: limit - reserve(limit),
        };
        let first = most(all, 0, OF_PORT);
        assert!((16_600..16_700).contains(&first), "{first}");
        let second = most(all, first, OF_PORT);
        assert!((1800..2000).contains(&second), "{second}");
        assert!(most(all, first + second, OF_PORT) > 150);
        assert_eq!(most(all, all.mark, OF_PORT), 0);
        // Networks come off better, whoever was first.
        let mut used = 0;
        for at_least in [12_000, 4000, 1300, 450] {
            let next = most(all, used, OF_NETWORK);
            assert!(next > at_least, "{next}");
            used += next;
        }
    }

    #[test]
    fn there_is_a_reserve_at_every_limit() {
        for (limit, reserved) in [(64, 32), (1024, 128), (20_000, 1250), (1 << 20, 4096)] {
            assert_eq!(reserve(limit), reserved, "{limit}");
        }
        assert!(Descriptors::default().admits(1 << 30, 1 << 20, OF_NETWORK));
    }
}
