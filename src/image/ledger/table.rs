//! Which names directories have, in 20 to 27 bytes a name, however long it is, and at most in 27 MiB
//! and one more a million names.
//!
//! A name is known by 92 bits of a hash of it and its directory, by keys that nobody else knows: so
//! nobody can make two names meet, and in a layer of eight million it happens by chance with a
//! probability below 10⁻¹³. Names themselves are not kept, and cannot be listed.
//!
//! ```text
//! hash, 128 bits: ┌── 64: key, and place in the shard ──┐┌─ 20: mark ─┐┌ 36: - ┐┌ 8: shard ┐
//! slot, 16 bytes: └─────────────── key ─────────────────┘└─── mark ───┘└─ 44: value, 0: free ─┘
//! ```
//!
//! Open addressing, in shards: each is moved to a larger one by itself when four fifths of it are
//! taken, so that there is never much more than what is needed. When there are [`MOST`] names, all
//! shards are written to the file as they are, and looked up there from then on; what is newer is in
//! memory and asked first.

use std::hash::{BuildHasher, RandomState};
use std::io;

use super::spill::Spill;

/// Bits of a value.
pub(super) const VALUE_BITS: u32 = 44;
const VALUE: u64 = (1 << VALUE_BITS) - 1;
/// The value of what was removed. It gives its place to the next of its name.
const GONE: u64 = VALUE;

const SHARDS: usize = 256;
/// Slots of the smallest shard. One is free in each.
const SMALLEST: usize = 8;
/// Names in memory.
const MOST: usize = 1 << 20;
/// Bytes of a slot in the file.
const SLOT: usize = 16;
/// Bits a name of what tells the file's names from others.
const FILTER: usize = 8;
/// Slots that are read together.
const READ: usize = 16;

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    key: u64,
    /// Mark and value.
    rest: u64,
}

#[derive(Debug, Default)]
struct Shard {
    slots: Vec<Slot>,
    /// Slots that are not free.
    taken: usize,
}

/// All shards, since there were too many.
#[derive(Debug)]
struct Past {
    shards: Vec<Written>,
    /// Two bits of each key: where one is missing there is no need to look, and that is nearly always.
    filter: Vec<u64>,
}

/// A shard in the file.
#[derive(Debug)]
struct Written {
    place: u64,
    slots: usize,
}

#[derive(Debug)]
pub(super) struct Table {
    shards: Vec<Shard>,
    /// Slots of all of them that are not free, and how many may be.
    taken: usize,
    most: usize,
    /// The oldest first.
    past: Vec<Past>,
    keys: [RandomState; 2],
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            shards: shards(),
            taken: 0,
            most: MOST,
            past: Vec::new(),
            keys: [RandomState::new(), RandomState::new()],
        }
    }

    /// What a name was given.
    pub(super) fn get(&self, spill: &Spill<'_>, dir: u32, name: &[u8]) -> io::Result<Option<u64>> {
        let (shard, key, mark) = self.hash(dir, name);
        let mut value = self.shards[shard].get(key, mark);
        for past in self.past.iter().rev() {
            if value != 0 {
                break;
            }
            if past.may_have(key) {
                value = past.shards[shard].get(spill, key, mark)?;
            }
        }
        Ok((value != 0 && value != GONE).then_some(value))
    }

    /// Gives a name a value, which is neither zero nor the largest of its bits.
    pub(super) fn set(
        &mut self,
        spill: &mut Spill<'_>,
        dir: u32,
        name: &[u8],
        value: u64,
    ) -> io::Result<()> {
        if self.taken >= self.most {
            let mut past = Past {
                shards: Vec::with_capacity(SHARDS),
                filter: vec![0; (self.taken * FILTER / 64).next_power_of_two()],
            };
            for shard in std::mem::replace(&mut self.shards, shards()) {
                past.take(&shard.slots);
                past.shards.push(shard.write(spill)?);
            }
            self.past.push(past);
            self.taken = 0;
        }
        let (shard, key, mark) = self.hash(dir, name);
        let shard = &mut self.shards[shard];
        self.taken -= shard.taken;
        shard.set(key, mark, value, self.past.is_empty());
        self.taken += shard.taken;
        Ok(())
    }

    /// Takes a name out.
    pub(super) fn remove(
        &mut self,
        spill: &mut Spill<'_>,
        dir: u32,
        name: &[u8],
    ) -> io::Result<()> {
        match self.get(spill, dir, name)? {
            Some(_) => self.set(spill, dir, name, GONE),
            None => Ok(()),
        }
    }

    fn hash(&self, dir: u32, name: &[u8]) -> (usize, u64, u64) {
        let [key, more] = [0, 1].map(|at| self.keys[at].hash_one((dir, name)));
        (more as usize % SHARDS, key, more & !VALUE)
    }
}

fn shards() -> Vec<Shard> {
    (0..SHARDS).map(|_| Shard::default()).collect()
}

impl Slot {
    fn value(self) -> u64 {
        self.rest & VALUE
    }

    /// Whether looking for a name ends here.
    fn ends(self, key: u64, mark: u64) -> bool {
        self.value() == 0 || self.key == key && self.rest & !VALUE == mark
    }
}

/// Where looking for a name begins.
fn first(key: u64, slots: usize) -> usize {
    ((u128::from(key) * slots as u128) >> 64) as usize
}

impl Past {
    /// Words and masks of a key's bits.
    fn bits(&self, key: u64) -> [(usize, u64); 2] {
        [key, key.rotate_left(32)].map(|key| {
            let word = first(key, self.filter.len());
            (word, 1 << (key & 63))
        })
    }

    fn take(&mut self, slots: &[Slot]) {
        for slot in slots.iter().filter(|slot| slot.value() != 0) {
            for (word, bit) in self.bits(slot.key) {
                self.filter[word] |= bit;
            }
        }
    }

    fn may_have(&self, key: u64) -> bool {
        let mut bits = self.bits(key).into_iter();
        bits.all(|(word, bit)| self.filter[word] & bit != 0)
    }
}

impl Written {
    /// What a name was given; 0 if nothing.
    fn get(&self, spill: &Spill<'_>, key: u64, mark: u64) -> io::Result<u64> {
        let mut at = first(key, self.slots);
        let mut bytes = [0; READ * SLOT];
        // Free slots end it, in whatever way the file has been changed.
        let mut left = self.slots;
        while left > 0 {
            let count = READ.min(self.slots - at).min(left);
            let bytes = &mut bytes[..count * SLOT];
            spill.read(self.place + (at * SLOT) as u64, bytes)?;
            for slot in bytes.chunks_exact(SLOT) {
                let number = |half: &[u8]| half.try_into().map_or(0, u64::from_le_bytes);
                let slot = Slot {
                    key: number(&slot[..SLOT / 2]),
                    rest: number(&slot[SLOT / 2..]),
                };
                if slot.ends(key, mark) {
                    return Ok(slot.value());
                }
            }
            left -= count;
            at = (at + count) % self.slots;
        }
        Ok(0)
    }
}

impl Shard {
    /// Where a name is, or would be; `None` in a shard without slots.
    fn find(&self, key: u64, mark: u64) -> Option<usize> {
        let count = self.slots.len();
        let mut at = first(key, count);
        loop {
            let slot = self.slots.get(at)?;
            if slot.ends(key, mark) {
                return Some(at);
            }
            at = (at + 1) % count;
        }
    }

    /// What a name was given; 0 if nothing.
    fn get(&self, key: u64, mark: u64) -> u64 {
        let found = self.find(key, mark).and_then(|at| self.slots.get(at));
        found.map_or(0, |slot| slot.value())
    }

    /// `only`: there are no older ones, which would come to light without what was removed.
    fn set(&mut self, key: u64, mark: u64, value: u64, only: bool) {
        if self.taken * 5 >= self.slots.len() * 4 {
            self.grow(only);
        }
        let Some(at) = self.find(key, mark) else {
            return;
        };
        let slot = &mut self.slots[at];
        self.taken += usize::from(slot.value() == 0);
        *slot = Slot {
            key,
            rest: mark | value,
        };
    }

    /// Moves to half as many slots again as are needed; without what was removed if that may be.
    fn grow(&mut self, only: bool) {
        let is_needed = |slot: &&Slot| slot.value() != 0 && !(only && slot.value() == GONE);
        let needed = self.slots.iter().filter(is_needed).count();
        let count = (needed + needed / 2).max(SMALLEST);
        let before = std::mem::replace(&mut self.slots, vec![Slot::default(); count]);
        for slot in before.iter().filter(is_needed) {
            if let Some(at) = self.find(slot.key, slot.rest & !VALUE) {
                self.slots[at] = *slot;
            }
        }
        self.taken = needed;
    }

    fn write(self, spill: &mut Spill<'_>) -> io::Result<Written> {
        let mut bytes = Vec::with_capacity(self.slots.len() * SLOT);
        for slot in &self.slots {
            bytes.extend_from_slice(&slot.key.to_le_bytes());
            bytes.extend_from_slice(&slot.rest.to_le_bytes());
        }
        Ok(Written {
            place: spill.push(&[&bytes])?,
            slots: self.slots.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn many_come_and_go() {
        let base = tempfile::tempdir().unwrap();
        let dir = File::open(base.path()).unwrap();
        for most in [MOST, 3000] {
            let mut spill = Spill::new(dir.as_fd());
            let mut table = Table::new();
            table.most = most;
            let name = |at: u64| format!("n{}", at / 7).into_bytes();
            let dir = |at: u64| (at % 7) as u32;
            for round in 1..4 {
                for at in 0..20_000 {
                    assert_eq!(table.get(&spill, dir(at), &name(at)).unwrap(), None);
                    let value = at + round;
                    table.set(&mut spill, dir(at), &name(at), value).unwrap();
                    let found = table.get(&spill, dir(at), &name(at)).unwrap();
                    assert_eq!(found, Some(value));
                }
                for at in 0..20_000 {
                    let found = table.get(&spill, dir(at), &name(at)).unwrap();
                    assert_eq!(found, Some(at + round));
                    table.remove(&mut spill, dir(at), &name(at)).unwrap();
                }
            }
            assert_eq!(table.get(&spill, 9, b"n0").unwrap(), None);
            assert_eq!(table.past.is_empty(), most == MOST);
            // One name, over and over, takes one place.
            table.set(&mut spill, 8, b"one", 1).unwrap();
            let (taken, past) = (table.taken, table.past.len());
            for value in 1..10_000 {
                table.set(&mut spill, 8, b"one", value).unwrap();
                table.remove(&mut spill, 8, b"one").unwrap();
            }
            assert!(table.taken <= taken && table.past.len() == past);
        }
    }

    #[test]
    fn a_name_takes_little() {
        let base = tempfile::tempdir().unwrap();
        let dir = File::open(base.path()).unwrap();
        let mut spill = Spill::new(dir.as_fd());
        let mut table = Table::new();
        for at in 0..1_000_000_u32 {
            table
                .set(&mut spill, at / 1000, &at.to_le_bytes(), 1)
                .unwrap();
        }
        let slots: usize = table.shards.iter().map(|shard| shard.slots.len()).sum();
        assert!(table.past.is_empty() && slots * SLOT <= 25 * 1_000_000);
    }
}
