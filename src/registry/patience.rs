//! Pauses between two attempts at a transfer.
//!
//! Docker waits 5 seconds, then 10, 15 and 20. Here the first attempt after a failure follows at
//! once, as most lines that break are there again, and later ones after pauses that double: a pull's
//! from two seconds on to twenty, as a registry that is started again is worth waiting for; a push's
//! from half a second on, since a registry keeps an upload that was begun for a while only. Half of
//! each is left to chance, so that many clients do not come back at once.
//!
//! Whoever transfers may be told of the pauses, second by second, as Docker's clients are.

use std::time::Duration;

use super::cancel::Cancel;
use super::error::Error;
use super::http::jittered;

/// The first pause, too short to be told of.
pub(super) const SOON: Duration = Duration::from_millis(250);

/// Is told how long it is until the next attempt.
pub type Retrying<'a> = &'a mut dyn FnMut(Duration);

/// How long to wait after so many failures, at most: soon after the first, then `pause`, doubled each
/// time up to `longest`.
pub(super) fn pause_after(failures: u32, pause: Duration, longest: Duration) -> Duration {
    match failures {
        0 | 1 => SOON,
        more => pause
            .saturating_mul(2u32.saturating_pow(more - 2))
            .min(longest),
    }
}

/// Waits for so long at most, telling of it.
pub(super) fn wait(pause: Duration, cancel: &Cancel, retrying: Retrying<'_>) -> Result<(), Error> {
    let mut left = jittered(pause);
    while !left.is_zero() {
        if left > SOON {
            retrying(left);
        }
        // Whole seconds are left after the first step.
        let step = Duration::from_nanos(left.subsec_nanos().into());
        let step = if step.is_zero() {
            Duration::from_secs(1)
        } else {
            step
        };
        cancel.sleep(step)?;
        left -= step;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let (two, most) = (Duration::from_secs(2), Duration::from_secs(20));
        let pauses: Vec<u64> = [2, 3, 4, 5, 6, 7, 1000]
            .map(|failures| pause_after(failures, two, most).as_secs())
            .into();
        assert_eq!(pauses, [2, 4, 8, 16, 20, 20, 20]);
        assert_eq!(pause_after(1, two, most), SOON);
    }

    #[test]
    fn pauses_are_told_second_by_second() {
        let mut told = Vec::new();
        let pause = Duration::from_millis(1200);
        wait(pause, &Cancel::new(), &mut |left| told.push(left)).expect("nobody cancels");
        assert!(told[0] <= pause && told[0] >= pause / 2);
        assert!(told.is_sorted_by(|one, next| next < one), "{told:?}");
        assert!(told[1..].iter().all(|left| left.subsec_nanos() == 0));
    }
}
