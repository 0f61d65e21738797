//! A bounded table of flows: found by key from packets and by number from the kernel's events.
//!
//! A number carries the generation of its place, so an event that was queued for a flow that has
//! ended since finds nothing rather than its successor.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::time::Instant;

/// A flow's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    index: u32,
    generation: u32,
}

/// Generations count modulo this, to leave room for a kind in an event's 64 bits.
const GENERATIONS: u32 = 1 << 28;

impl Id {
    /// Both numbers in the lower 60 bits.
    pub(super) fn pack(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// The reverse of [`Id::pack`]; higher bits are left off.
    pub(super) fn unpack(bits: u64) -> Self {
        Self {
            index: bits as u32,
            generation: (bits >> 32) as u32 % GENERATIONS,
        }
    }
}

#[derive(Debug)]
struct Place<K, F> {
    generation: u32,
    content: Option<(K, F)>,
}

/// The flows of one kind.
#[derive(Debug)]
pub(super) struct Table<K, F> {
    places: Vec<Place<K, F>>,
    free: Vec<u32>,
    by_key: HashMap<K, Id>,
    most: usize,
}

impl<K: Copy + Eq + Hash, F> Table<K, F> {
    /// An empty table that takes so many.
    pub(super) fn new(most: usize) -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
            by_key: HashMap::new(),
            most,
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether another one is refused.
    pub(super) fn is_full(&self) -> bool {
        self.len() >= self.most
    }

    /// The number of the flow with that key.
    pub(super) fn find(&self, key: &K) -> Option<Id> {
        self.by_key.get(key).copied()
    }

    /// Puts in a flow that knows its own number, unless there is no room, its key is taken, or it
    /// could not be made.
    pub(super) fn insert<E>(
        &mut self,
        key: K,
        make: impl FnOnce(Id) -> Result<F, E>,
    ) -> Option<Result<Id, E>> {
        if self.is_full() || self.by_key.contains_key(&key) {
            return None;
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place {
                generation: 0,
                content: None,
            });
            (self.places.len() - 1) as u32
        });
        let place = &mut self.places[index as usize];
        let id = Id {
            index,
            generation: place.generation,
        };
        match make(id) {
            Ok(flow) => {
                place.content = Some((key, flow));
                self.by_key.insert(key, id);
                Some(Ok(id))
            }
            Err(error) => {
                self.free.push(index);
                Some(Err(error))
            }
        }
    }

    /// The flow of that number, if it is still there.
    pub(super) fn get(&mut self, id: Id) -> Option<&mut F> {
        let place = self.places.get_mut(id.index as usize)?;
        if place.generation != id.generation {
            return None;
        }
        place.content.as_mut().map(|(_, flow)| flow)
    }

    /// Takes out what was idle the longest, a sixteenth at a time so that the search is rare, of the
    /// container that has the most: nobody loses what is his to a neighbour who wants too much.
    /// `idle` tells whose a flow is, and when it is over.
    pub(super) fn make_room(&mut self, idle: impl Fn(&F) -> (IpAddr, Instant)) -> Vec<F> {
        let mut holders: HashMap<IpAddr, Vec<(Instant, Id)>> = HashMap::new();
        for (index, place) in (0..).zip(&self.places) {
            if let Some((_, flow)) = &place.content {
                let (holder, over) = idle(flow);
                let generation = place.generation;
                let id = Id { index, generation };
                holders.entry(holder).or_default().push((over, id));
            }
        }
        let most = holders.into_values().max_by_key(Vec::len);
        let mut held = most.unwrap_or_default();
        held.sort_unstable();
        held.truncate((held.len() / 16).max(1));
        held.iter().filter_map(|(_, id)| self.remove(*id)).collect()
    }

    /// Takes a flow out.
    pub(super) fn remove(&mut self, id: Id) -> Option<F> {
        let place = self.places.get_mut(id.index as usize)?;
        if place.generation != id.generation {
            return None;
        }
        let (key, flow) = place.content.take()?;
        place.generation = (place.generation + 1) % GENERATIONS;
        self.free.push(id.index);
        self.by_key.remove(&key);
        Some(flow)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_number_outlives_its_flow_without_meaning_another() {
        let mut table = Table::new(2);
        let first = table.insert('a', |_| Ok::<_, ()>(1)).unwrap().unwrap();
        assert_eq!(Id::unpack(first.pack() | 3 << 60), first);
        assert_eq!(table.remove(first), Some(1));
        let second = table.insert('b', |_| Ok::<_, ()>(2)).unwrap().unwrap();
        assert_eq!(table.get(first), None);
        assert_eq!(table.get(second), Some(&mut 2));
        assert_eq!(table.find(&'a'), None);
        assert_eq!(table.find(&'b'), Some(second));
    }

    #[test]
    fn room_is_made_by_whoever_has_the_most() {
        let now = Instant::now();
        let holder = |last: u8| IpAddr::from([10, 0, 0, last]);
        let mut table = Table::new(4);
        for (key, whose, after) in [(1, 2, 0), (2, 3, 9), (3, 3, 5), (4, 3, 7)] {
            let flow = (holder(whose), now + Duration::from_secs(after));
            table.insert(key, |_| Ok::<_, ()>(flow)).unwrap().unwrap();
        }
        assert!(table.is_full());
        let gone = table.make_room(|flow| *flow);
        assert_eq!(gone, [(holder(3), now + Duration::from_secs(5))]);
        assert!(table.find(&3).is_none());
        assert_eq!(table.len(), 3);
    }

    #[test]
    fn a_full_table_refuses_and_a_failed_flow_takes_no_place() {
        let mut table = Table::new(1);
        assert_eq!(table.insert('a', |_| Err::<u8, _>("no")), Some(Err("no")));
        assert!(!table.is_full());
        assert!(table.insert('a', |_| Ok::<_, ()>(1)).is_some());
        assert!(table.insert('b', |_| Ok::<_, ()>(1)).is_none());
        assert_eq!(table.len(), 1);
    }
}
