//! Fragments put together again (RFC 791 3.2, RFC 8200 4.5, RFC 5722).
//!
//! A container sends fragments when a datagram is larger than its link takes. At most
//! [`MOST`] datagrams are being put together at once; a new one then pushes out the oldest, so that
//! whoever never sends the rest can't keep others from theirs for long. Fragments that overlap give
//! their datagram up.

use std::time::{Duration, Instant};

use super::wire::ip::{Fragment, Packet, Pair};

/// Datagrams that are incomplete, each of at most 64 KiB.
const MOST: usize = 32;

/// Pieces of one datagram: 64 KiB at the smallest MTU of IPv4 that is of this world.
const MOST_PIECES: usize = 128;

/// How long the rest is waited for (RFC 8200: 60 s; Linux: 30 s). Looked at only when another
/// fragment comes: nothing else is waiting for the room.
const PATIENCE: Duration = Duration::from_secs(30);

/// The largest payload of a datagram.
const LARGEST: usize = 65_535;

#[derive(Debug)]
struct Partial {
    pair: Pair,
    protocol: u8,
    id: u32,
    hop_limit: u8,
    began: Instant,
    bytes: Vec<u8>,
    /// Which parts are there, in order.
    pieces: Vec<(usize, usize)>,
    /// Its length, once its last fragment came.
    total: Option<usize>,
}

/// What is incomplete.
#[derive(Debug, Default)]
pub(super) struct Fragments(Vec<Partial>);

/// A datagram that is complete.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) pair: Pair,
    pub(super) protocol: u8,
    pub(super) hop_limit: u8,
    pub(super) payload: Vec<u8>,
}

impl Fragments {
    /// Takes in a fragment; gives its datagram when it was the last that was missing.
    pub(super) fn add(
        &mut self,
        packet: &Packet<'_>,
        part: Fragment,
        now: Instant,
    ) -> Option<Whole> {
        self.0
            .retain(|partial| now.saturating_duration_since(partial.began) < PATIENCE);
        let end = part.offset + packet.payload.len();
        let ragged = part.more && !packet.payload.len().is_multiple_of(8);
        if end > LARGEST || ragged || packet.payload.is_empty() {
            return None;
        }
        let same = |partial: &Partial| {
            partial.pair == packet.pair
                && partial.id == part.id
                && partial.protocol == packet.protocol
        };
        let at = self.0.iter().position(same).unwrap_or_else(|| {
            if self.0.len() == MOST {
                self.0.remove(0);
            }
            self.0.push(Partial {
                pair: packet.pair,
                protocol: packet.protocol,
                id: part.id,
                hop_limit: packet.hop_limit,
                began: now,
                bytes: Vec::new(),
                pieces: Vec::new(),
                total: None,
            });
            self.0.len() - 1
        });
        match self.0[at].add(packet.payload, part) {
            Some(false) => None,
            Some(true) => {
                let partial = self.0.remove(at);
                Some(Whole {
                    pair: partial.pair,
                    protocol: partial.protocol,
                    hop_limit: partial.hop_limit,
                    payload: partial.bytes,
                })
            }
            None => {
                self.0.remove(at);
                None
            }
        }
    }
}

impl Partial {
    /// Whether the datagram is complete with this piece; none where it never can be.
    fn add(&mut self, payload: &[u8], part: Fragment) -> Option<bool> {
        let (start, end) = (part.offset, part.offset + payload.len());
        if self.pieces.contains(&(start, end)) {
            // Sent twice.
            return Some(false);
        }
        let overlaps = |&(from, to): &(usize, usize)| start < to && from < end;
        let past = self.total.is_some_and(|total| end > total || !part.more);
        if past || self.pieces.len() == MOST_PIECES || self.pieces.iter().any(overlaps) {
            return None;
        }
        if !part.more {
            if self.bytes.len() > end {
                return None;
            }
            self.total = Some(end);
        }
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[start..end].copy_from_slice(payload);
        self.pieces.push((start, end));
        let there: usize = self.pieces.iter().map(|(from, to)| to - from).sum();
        Some(self.total == Some(there))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pair() -> Pair {
        Pair::V4([10, 0, 0, 2].into(), [192, 0, 2, 1].into())
    }

    fn packet(payload: &[u8]) -> Packet<'_> {
        Packet {
            pair: pair(),
            hop_limit: 63,
            dont_fragment: false,
            fragment: None,
            protocol: 17,
            payload,
        }
    }

    fn part(offset: usize, more: bool) -> Fragment {
        Fragment {
            id: 1,
            offset,
            more,
        }
    }

    proptest! {
        #[test]
        fn any_order_gives_the_datagram(
            length in 9_usize..4000, cut in 1_usize..60, order in any::<u64>(),
        ) {
            let message: Vec<u8> = (0..length).map(|at| (at * 7) as u8).collect();
            let mut pieces: Vec<_> = message.chunks(cut * 8).enumerate().collect();
            prop_assume!(pieces.len() > 1 && pieces.len() < MOST_PIECES);
            let last = pieces.len() - 1;
            let count = pieces.len() as u64;
            for at in (1..pieces.len()).rev() {
                pieces.swap(at, (order.wrapping_mul(at as u64 + 1) % count) as usize % (at + 1));
            }
            let now = Instant::now();
            let mut fragments = Fragments::default();
            let mut whole = None;
            for (at, piece) in pieces {
                prop_assert!(whole.is_none());
                whole = fragments.add(&packet(piece), part(at * cut * 8, at != last), now);
            }
            prop_assert_eq!(whole.unwrap().payload, message);
            prop_assert!(fragments.0.is_empty());
        }

        #[test]
        fn nothing_panics_or_grows(
            parts in proptest::collection::vec(
                (0_u32..60, 0_usize..600, any::<bool>(), 0_usize..40), 0..200),
        ) {
            let now = Instant::now();
            let mut fragments = Fragments::default();
            for (id, offset, more, length) in parts {
                let fragment = Fragment { id, offset: offset * 8, more };
                let _ = fragments.add(&packet(&vec![0; length]), fragment, now);
                prop_assert!(fragments.0.len() <= MOST);
            }
        }
    }

    #[test]
    fn overlaps_give_a_datagram_up_and_time_does_too() {
        let now = Instant::now();
        let mut fragments = Fragments::default();
        assert!(
            fragments
                .add(&packet(&[1; 16]), part(0, true), now)
                .is_none()
        );
        assert!(
            fragments
                .add(&packet(&[2; 16]), part(8, true), now)
                .is_none()
        );
        assert!(fragments.0.is_empty());
        assert!(
            fragments
                .add(&packet(&[1; 16]), part(0, true), now)
                .is_none()
        );
        let late = now + PATIENCE;
        assert!(
            fragments
                .add(&packet(&[2; 4]), part(16, false), late)
                .is_none()
        );
        assert_eq!(fragments.0.len(), 1);
    }
}
