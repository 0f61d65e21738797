//! When the reactor has to wake up by itself.
//!
//! Deadlines move with every packet, so they are lazy: a flow keeps the time it really wants, and
//! here stands only one that is not later. Moving a deadline back costs nothing; when the earlier
//! time comes, the flow is asked and set down again. A flow has at most one entry, taken out with
//! it, so what is here is bounded as the flows are.

use std::collections::BTreeSet;
use std::time::Instant;

/// Whose time has come.
pub(super) type Token = u64;

/// All deadlines of one network, by time.
#[derive(Debug, Default)]
pub(super) struct Timers(BTreeSet<(Instant, Token)>);

/// One flow's deadline.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    token: Token,
    wanted: Instant,
    entered: Option<Instant>,
}

impl Deadline {
    /// A first deadline.
    pub(super) fn new(timers: &mut Timers, token: Token, at: Instant) -> Self {
        let mut deadline = Self {
            token,
            wanted: at,
            entered: None,
        };
        deadline.set(timers, at);
        deadline
    }

    /// Moves it.
    pub(super) fn set(&mut self, timers: &mut Timers, at: Instant) {
        self.wanted = at;
        if self.entered.is_some_and(|entered| entered <= at) {
            return;
        }
        self.cancel(timers);
        timers.0.insert((at, self.token));
        self.entered = Some(at);
    }

    /// When it is.
    pub(super) fn wanted(&self) -> Instant {
        self.wanted
    }

    /// After the entry came up: whether the deadline is really over. If not, it is entered again.
    pub(super) fn is_over(&mut self, timers: &mut Timers, now: Instant) -> bool {
        self.entered = None;
        if self.wanted <= now {
            return true;
        }
        self.set(timers, self.wanted);
        false
    }

    /// Takes the entry out, with its flow.
    pub(super) fn cancel(&mut self, timers: &mut Timers) {
        if let Some(entered) = self.entered.take() {
            timers.0.remove(&(entered, self.token));
        }
    }
}

impl Timers {
    /// The earliest time.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.first().map(|(at, _)| *at)
    }

    /// Takes out one whose time has come.
    pub(super) fn due(&mut self, now: Instant) -> Option<Token> {
        if self.next()? > now {
            return None;
        }
        self.0.pop_first().map(|(_, token)| token)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_later_deadline_is_found_out_when_the_earlier_comes() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut timers = Timers::default();
        let mut deadline = Deadline::new(&mut timers, 7, after(1));
        deadline.set(&mut timers, after(5));
        assert_eq!(timers.next(), Some(after(1)));
        assert_eq!(timers.due(after(1)), Some(7));
        assert!(!deadline.is_over(&mut timers, after(1)));
        assert_eq!(timers.next(), Some(after(5)));
        deadline.set(&mut timers, after(3));
        assert_eq!(timers.due(after(3)), Some(7));
        assert!(deadline.is_over(&mut timers, after(3)));
        assert_eq!(timers.next(), None);
        deadline.set(&mut timers, after(9));
        deadline.cancel(&mut timers);
        assert_eq!(timers.due(after(9)), None);
    }
}
