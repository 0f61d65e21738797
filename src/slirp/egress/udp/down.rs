//! From the world to the container.

use std::io::IoSlice;

use super::super::reactor::Shared;
use super::super::wire::ip::{self, Pair};
use super::super::wire::udp;
use super::Mapping;
use crate::sys::inet::{self, BATCH, Received};

/// Room for one datagram, or what the kernel put together: 64 KiB, and some more so that the
/// beginnings of many do not fall into the same lines of the cache.
pub(super) const SLOT: usize = 65_536 + 25 * 64;

/// Calls for one mapping before others have their turn.
const ROUNDS: usize = 4;

/// Bytes of datagrams written as one packet.
const LARGEST: usize = 65_000;

/// Datagrams written as one packet.
const MOST: usize = 64;

impl Mapping {
    /// Passes on what has come.
    pub(super) fn receive(&mut self, shared: &mut Shared, slots: &mut [u8]) {
        for _ in 0..ROUNDS {
            let mut came = [None; BATCH];
            let got = inet::receive_datagrams(&self.socket, slots, SLOT, |slot, received| {
                came[slot] = Some(received);
            });
            let Ok(got) = got else { return };
            let mut at = 0;
            while at < got {
                at += self.write_some(shared, slots, &came[at..got], at);
            }
            if got < BATCH {
                return;
            }
        }
    }

    /// Writes the first of those that came, and those after it that go along; how many.
    fn write_some(
        &self,
        shared: &mut Shared,
        slots: &[u8],
        came: &[Option<Received>],
        first_slot: usize,
    ) -> usize {
        let Some(first) = came.first().copied().flatten() else {
            return 1;
        };
        let Some(seen) = shared.settings.origin(first.source) else {
            return 1;
        };
        let Some(pair) = Pair::new(seen.ip(), self.guest.ip()) else {
            return 1;
        };
        let bytes = |slot: usize, length: usize| &slots[slot * SLOT..slot * SLOT + length];
        let size = first.segment.map_or(first.length, usize::from);
        let fits = size + udp::LEN + usize::from(pair.header_len()) <= shared.settings.mtu as usize;
        let ports = (seen.port(), self.guest.port());
        if !shared.link.segments_udp() || !fits || size == 0 {
            // One by one, and in fragments where they are too large.
            let all = bytes(first_slot, first.length);
            if all.is_empty() {
                write(shared, pair, ports, all, fits);
            }
            for datagram in all.chunks(size.max(1)) {
                write(shared, pair, ports, datagram, fits);
            }
            return 1;
        }
        // The header, then the datagrams.
        let mut parts = [IoSlice::new(&[]); 1 + MOST];
        let mut total = 0;
        let mut count = 0;
        for next in came.iter().copied() {
            let Some(next) = next else { break };
            let alone = next.segment.is_some() && count > 0;
            let full = count == MOST || total + next.length > LARGEST;
            let odd = next.length > size || next.length == 0;
            if next.source != first.source || alone || (count > 0 && (full || odd)) {
                break;
            }
            parts[1 + count] = IoSlice::new(bytes(first_slot + count, next.length));
            count += 1;
            total += next.length;
            // A shorter one is the last of its run.
            if next.segment.is_some() || next.length < size {
                break;
            }
        }
        let segment = (total > size).then_some(size as u16);
        let header = udp::build(pair, ports.0, ports.1, total, segment);
        parts[0] = IoSlice::new(header.bytes());
        shared.link.write_pieces(&parts[..=count]);
        count
    }
}

fn write(
    shared: &mut Shared,
    pair: Pair,
    (source, destination): (u16, u16),
    datagram: &[u8],
    fits: bool,
) {
    if fits {
        let header = udp::build(pair, source, destination, datagram.len(), None);
        shared.link.write(&header, datagram);
        return;
    }
    let sum = udp::sum(pair, source, destination, datagram);
    let mut message = udp::header(source, destination, datagram.len(), sum).to_vec();
    message.extend(datagram);
    shared.write_message(pair, ip::UDP, &message);
}
