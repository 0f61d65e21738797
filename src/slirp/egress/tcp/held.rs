//! What a container sent and the host's socket has not taken yet: segments that came out of order,
//! and the rest of one that the socket took a part of.
//!
//! Kept in order and without overlap. A flow holds at most what its window offered, and all flows
//! of a network together what its [`Budget`] allows: beyond it segments are dropped, to be sent
//! again by a container that finds them unacknowledged.

use std::collections::VecDeque;

use super::super::wire::seq::Seq;

/// Segments that one flow may hold; a hundred times what was ever seen.
const MOST_SEGMENTS: usize = 4096;

/// What a segment costs beside its bytes.
const OVERHEAD: usize = 64;

/// What the flows of a network may hold together.
#[derive(Debug)]
pub(in super::super) struct Budget {
    left: usize,
}

impl Budget {
    /// So many bytes.
    pub(in super::super) fn new(bytes: usize) -> Self {
        Self { left: bytes }
    }

    fn take(&mut self, bytes: usize) -> bool {
        match self.left.checked_sub(bytes + OVERHEAD) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }

    fn give(&mut self, bytes: usize) {
        self.left += bytes + OVERHEAD;
    }
}

#[derive(Debug)]
struct Piece {
    seq: Seq,
    bytes: Box<[u8]>,
    /// Bytes at its beginning that are gone already.
    gone: usize,
}

impl Piece {
    fn start(&self) -> Seq {
        self.seq + self.gone as u32
    }

    fn end(&self) -> Seq {
        self.seq + self.bytes.len() as u32
    }
}

/// One flow's segments.
#[derive(Debug, Default)]
pub(super) struct Held(VecDeque<Piece>);

impl Held {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keeps what of `bytes` is not here yet, as far as there is room.
    pub(super) fn insert(&mut self, mut seq: Seq, mut bytes: &[u8], budget: &mut Budget) {
        // The first piece that ends after the new one begins: everything before stays before.
        let mut at = self.0.partition_point(|piece| !seq.before(piece.end()));
        while !bytes.is_empty() && self.0.len() < MOST_SEGMENTS {
            let until = self.0.get(at).map(Piece::start);
            // Up to the next piece, which may begin before.
            let free = until.map_or(bytes.len(), |start| {
                bytes.len().min(start.since(seq) as usize)
            });
            if free > 0 {
                if !budget.take(free) {
                    return;
                }
                let piece = Piece {
                    seq,
                    bytes: bytes[..free].into(),
                    gone: 0,
                };
                self.0.insert(at, piece);
                at += 1;
            }
            // Then over it.
            let Some(next) = self.0.get(at) else { return };
            let skip = (next.end().since(seq) as usize).min(bytes.len());
            bytes = &bytes[skip..];
            seq += skip as u32;
            at += 1;
        }
    }

    /// The first byte from `next` on that is missing.
    pub(super) fn reach(&self, next: Seq) -> Seq {
        let mut reach = next;
        for piece in &self.0 {
            if reach.before(piece.start()) {
                break;
            }
            reach = reach.max(piece.end());
        }
        reach
    }

    /// The bytes at `next`, if they are here.
    pub(super) fn front(&self, next: Seq) -> Option<&[u8]> {
        let first = self.0.front()?;
        (first.start() == next).then(|| &first.bytes[first.gone..])
    }

    /// Takes so many bytes away from the front.
    pub(super) fn advance(&mut self, bytes: usize, budget: &mut Budget) {
        if let Some(first) = self.0.front_mut() {
            first.gone = (first.gone + bytes).min(first.bytes.len());
            if first.gone == first.bytes.len() {
                budget.give(first.bytes.len());
                self.0.pop_front();
            }
        }
        if self.0.is_empty() {
            self.0 = VecDeque::new();
        }
    }

    /// Drops everything before `next`, which came another way.
    pub(super) fn drop_before(&mut self, next: Seq, budget: &mut Budget) {
        while let Some(first) = self.0.front() {
            let old = next.since(first.start()) as usize;
            if old == 0 {
                break;
            }
            self.advance(old, budget);
        }
    }

    /// The runs after `next` with a hole before each, four at most: what a selective
    /// acknowledgement tells.
    pub(super) fn islands(&self, next: Seq) -> ([(Seq, Seq); 4], usize) {
        let mut islands = [(next, next); 4];
        let mut count = 0;
        for piece in &self.0 {
            if !next.before(piece.start()) {
                continue;
            }
            if count > 0 && islands[count - 1].1 == piece.start() {
                islands[count - 1].1 = piece.end();
            } else if count == islands.len() {
                break;
            } else {
                islands[count] = (piece.start(), piece.end());
                count += 1;
            }
        }
        (islands, count)
    }

    /// Drops all of it, with the flow.
    pub(super) fn clear(&mut self, budget: &mut Budget) {
        for piece in self.0.drain(..) {
            budget.give(piece.bytes.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROOM: usize = 1 << 20;

    proptest! {
        #[test]
        fn segments_in_any_order_come_out_as_the_stream(
            start: u32,
            cuts in proptest::collection::vec((0_u32..300, 1_usize..60), 1..80),
            taken in proptest::collection::vec(1_usize..50, 1..200),
        ) {
            let stream: Vec<u8> = (0..400_u32).map(|at| ((at * 31) >> 3) as u8).collect();
            let base = Seq(start);
            let mut budget = Budget::new(ROOM);
            let mut held = Held::default();
            let mut next = base;
            let mut out: Vec<u8> = Vec::new();
            let mut sizes = taken.iter().cycle();
            for (at, length) in cuts {
                let seq = base + at;
                let bytes = &stream[at as usize..(at as usize + length).min(400)];
                let old = (next.since(seq) as usize).min(bytes.len());
                held.insert(seq + old as u32, &bytes[old..], &mut budget);
                while let Some(front) = held.front(next) {
                    let size = (*sizes.next().unwrap()).min(front.len());
                    out.extend(&front[..size]);
                    held.advance(size, &mut budget);
                    next += size as u32;
                }
                let (islands, count) = held.islands(next);
                for island in &islands[..count] {
                    prop_assert!(next.before(island.0) && island.0.before(island.1));
                }
                prop_assert_eq!(held.reach(next), next);
            }
            prop_assert_eq!(&out[..], &stream[..out.len()]);
            held.clear(&mut budget);
            prop_assert_eq!(budget.left, ROOM);
        }
    }

    #[test]
    fn a_spent_budget_drops() {
        let mut budget = Budget::new(200);
        let mut held = Held::default();
        held.insert(Seq(10), &[1; 100], &mut budget);
        held.insert(Seq(500), &[2; 100], &mut budget);
        assert_eq!(held.reach(Seq(10)), Seq(110));
        assert_eq!(held.islands(Seq(0)).1, 1);
        held.drop_before(Seq(60), &mut budget);
        assert_eq!(held.front(Seq(60)), Some(&[1; 50][..]));
        held.drop_before(Seq(300), &mut budget);
        assert!(held.is_empty());
        assert_eq!(budget.left, 200);
    }
}
