//! From the container to the host's socket.

use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown, send, shutdown};

use super::super::reactor::Shared;
use super::super::wire::seq::Seq;
use super::super::wire::tcp::{Segment, flags};
use super::open::EVENTS;
use super::{End, Flow, Stage, Verdict};
use crate::sys::inet;

/// The widest window offered.
const WIDEST: u32 = 8 << 20;

/// Bytes that are acknowledged at once rather than when there is nothing else to do.
const BURST: u32 = 256 << 10;

impl Flow {
    /// Takes in a segment's data and FIN.
    pub(super) fn data(&mut self, shared: &mut Shared, segment: &Segment<'_>) -> Verdict {
        if segment.is_empty() {
            // Outside the window it is a probe, of ours or a keep-alive, and wants an answer.
            if segment.seq != self.received && !self.is_inside(segment.seq) {
                self.owes = true;
            }
            return Ok(());
        }
        self.owes = true;
        let end = segment.seq + segment.payload.len() as u32;
        if segment.has(flags::FIN) && self.guest_fin.is_none() && !self.edge.before(end) {
            self.guest_fin = Some(end);
        }
        let old = (self.taken.since(segment.seq) as usize).min(segment.payload.len());
        let seq = segment.seq + old as u32;
        let room = self.edge.since(seq) as usize;
        let fresh = &segment.payload[old..];
        let fresh = &fresh[..fresh.len().min(room)];
        if !fresh.is_empty() && !self.guest_done {
            self.take(shared, seq, fresh)?;
        }
        self.advance(shared)
    }

    fn is_inside(&self, seq: Seq) -> bool {
        !seq.before(self.received) && !self.edge.before(seq)
    }

    /// Gives the host's socket what is next, and holds what is not or does not fit.
    fn take(&mut self, shared: &mut Shared, seq: Seq, bytes: &[u8]) -> Verdict {
        if seq != self.taken || self.held.front(self.taken).is_some() {
            self.held.insert(seq, bytes, &mut shared.budget);
            return Ok(());
        }
        let sent = self.send(bytes)?;
        self.taken += sent as u32;
        if sent < bytes.len() {
            self.held
                .insert(self.taken, &bytes[sent..], &mut shared.budget);
        }
        if !self.held.is_empty() {
            self.held.drop_before(self.taken, &mut shared.budget);
        }
        Ok(())
    }

    /// How much of it the host's socket took.
    fn send(&self, bytes: &[u8]) -> Result<usize, End> {
        match send(
            &self.socket,
            bytes,
            SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
        ) {
            Ok(sent) => Ok(sent),
            Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS | Errno::NOMEM) => Ok(0),
            Err(_) => Err(End::ResetGuest),
        }
    }

    /// Gives the socket what was held, moves on what has been received, and passes the end on.
    fn advance(&mut self, shared: &mut Shared) -> Verdict {
        while let Some(front) = self.held.front(self.taken) {
            let length = front.len();
            let sent = self.send(front)?;
            self.held.advance(sent, &mut shared.budget);
            self.taken += sent as u32;
            if sent < length {
                self.wait_for_room(shared);
                break;
            }
        }
        self.received = self.held.reach(self.taken);
        if let Some(fin) = self.guest_fin {
            if self.received == fin {
                self.guest_done = true;
                self.received += 1;
            }
            if self.taken == fin && !self.shut {
                self.shut = true;
                if shutdown(&self.socket, Shutdown::Write).is_err() {
                    return Err(End::ResetGuest);
                }
                self.acknowledge(shared);
            }
        }
        if self.received.since(self.acknowledged) >= BURST {
            self.acknowledge(shared);
        }
        Ok(())
    }

    /// Moves the edge to what the host's socket has room for, or asks to be told of room.
    pub(super) fn offer(&mut self, shared: &Shared) {
        // While more than half of the last offer is left, asking would be a waste.
        if self.edge.since(self.taken) > self.offered / 2 && self.offered > 0 {
            return;
        }
        if self.guest_done || self.held.front(self.taken).is_some() {
            return;
        }
        let Ok(space) = inet::send_space(&self.socket) else {
            return;
        };
        let free = space.limit.saturating_sub(space.queued);
        // The kernel calls a socket writable from a third of free room on (sock.h,
        // sk_stream_is_writeable); with less, the container would send in dribs and drabs.
        if free < space.queued / 2 {
            self.wait_for_room(shared);
            return;
        }
        self.offered = free.min(WIDEST);
        self.edge = self.edge.max(self.taken + self.offered);
    }

    fn wait_for_room(&mut self, shared: &Shared) {
        if !self.wants_room && self.stage == Stage::Open {
            self.wants_room = true;
            shared.watch_anew(&self.socket, self.token(), EVENTS);
        }
    }

    /// Takes in that the host's socket has room.
    pub(super) fn room_again(&mut self, shared: &mut Shared) -> Verdict {
        if !self.wants_room {
            return Ok(());
        }
        self.wants_room = false;
        let edge = self.edge;
        self.advance(shared)?;
        self.offer(shared);
        if self.edge != edge || self.received != self.acknowledged {
            self.owes = true;
        }
        Ok(())
    }
}
