//! From the host's socket to the container.

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::super::reactor::Shared;
use super::super::wire::seq::Seq;
use super::super::wire::tcp::{Segment, flags};
use super::{End, Flow, Stage, Verdict};
use crate::sys::inet;

/// Bursts of one flow before others have their turn; acknowledgements bring it back.
const BURSTS: usize = 16;

/// What may be in flight and more still be read, where peeking has no offset and so copies that
/// again.
const REREAD: u32 = 64 << 10;

/// Acknowledged bytes that are thrown away at once rather than when half of what is in flight is: each
/// time the host's socket tells its peer of more room, and most of that work is ours.
const RELEASE: u32 = 256 << 10;

/// Duplicate acknowledgements that mean a loss (RFC 5681).
const DUPLICATES: u8 = 3;

impl Flow {
    /// Takes in a segment's acknowledgement and window; whether it acknowledges something new.
    pub(super) fn acknowledgement(
        &mut self,
        shared: &mut Shared,
        segment: &Segment<'_>,
    ) -> Result<bool, End> {
        if segment.ack.before(self.una) {
            return Ok(false);
        }
        let fresh = segment.ack.since(self.una);
        let window = u32::from(segment.window) << self.guest_scale;
        let same_window = window == self.window;
        if fresh > 0 || !segment.seq.before(self.window_seq) {
            self.window = window;
            self.widest = self.widest.max(window);
            self.window_seq = segment.seq;
        }
        if fresh == 0 {
            if self.next == self.una || self.window == 0 {
                self.retries = 0;
            } else if segment.is_empty() && same_window {
                self.duplicates = self.duplicates.saturating_add(1);
                if self.duplicates == DUPLICATES && self.recovering.is_none() {
                    self.recovering = Some(self.next);
                    self.resend(shared)?;
                }
            }
            return Ok(false);
        }
        self.retries = 0;
        self.duplicates = 0;
        let fin = self.ended && segment.ack == self.next;
        self.stale += fresh - u32::from(fin);
        self.una = segment.ack;
        if !self.peeks {
            self.release()?;
        }
        match self.recovering {
            Some(until) if self.una.before(until) => self.resend(shared)?,
            _ => self.recovering = None,
        }
        Ok(true)
    }

    /// Throws away in the host's socket what the container has, when that is worth it.
    pub(super) fn release(&mut self) -> Verdict {
        if self.peeks && self.stale < RELEASE.min(self.next.since(self.una)) {
            return Ok(());
        }
        while self.stale > 0 {
            match inet::discard(&self.socket, self.stale as usize) {
                Ok(gone) if gone > 0 => self.stale -= gone as u32,
                // It was there when it was peeked at, and nobody else reads.
                _ => return Err(End::ResetBoth),
            }
        }
        Ok(())
    }

    /// The longest payload that is sent at once: whole segments, as many as one packet holds.
    fn burst(&self, shared: &Shared) -> u32 {
        let longest = match self.key.pair.is_v6() {
            true => u16::MAX.into(),
            false => shared.link.longest(),
        };
        let room = longest - u32::from(self.key.pair.header_len()) - 20 - 40;
        let mss = u32::from(self.mss.max(1));
        (room / mss).max(1) * mss
    }

    /// Sends what the host's socket has and the container's window takes.
    pub(super) fn pump(&mut self, shared: &mut Shared) -> Verdict {
        if self.stage != Stage::Open {
            return Ok(());
        }
        for _ in 0..BURSTS {
            if !self.readable || self.ended || self.recovering.is_some() {
                break;
            }
            let in_flight = self.next.since(self.una);
            let room = self.window.saturating_sub(in_flight);
            let burst = self.burst(shared);
            // A nearly closed window is left to open (RFC 9293 3.8.6.2.1).
            let silly = room < burst.min(self.widest / 2) && in_flight > 0;
            if room == 0 || silly || (!self.peeks && in_flight > REREAD) {
                break;
            }
            let skip = if self.peeks { 0 } else { in_flight as usize };
            let want = skip + room.min(burst) as usize;
            let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
            match recv(&self.socket, &mut shared.buffer[..want], flags) {
                Ok((got, _)) if got > skip => {
                    let data = std::mem::take(&mut shared.buffer);
                    self.send_data(shared, self.next, &data[skip..got]);
                    shared.buffer = data;
                    self.next += (got - skip) as u32;
                    // More, or an end that is not known yet, comes with an edge of its own.
                    self.readable = got == want || self.hung_up;
                }
                Ok((0, _)) if skip == 0 => self.send_end(shared),
                Ok(_) if self.hung_up => self.send_end(shared),
                Ok(_) | Err(Errno::AGAIN) => self.readable = false,
                Err(Errno::INTR) => {}
                Err(_) => return Err(End::ResetGuest),
            }
        }
        Ok(())
    }

    fn send_data(&mut self, shared: &Shared, seq: Seq, data: &[u8]) {
        self.offer(shared);
        self.speak(shared, flags::ACK | flags::PSH, seq, data);
    }

    fn send_end(&mut self, shared: &Shared) {
        self.ended = true;
        self.speak(shared, flags::ACK | flags::FIN, self.next, &[]);
        self.next += 1;
    }

    /// Sends the first burst of what is in flight again.
    pub(super) fn resend(&mut self, shared: &mut Shared) -> Verdict {
        let data = self.next.since(self.una) - u32::from(self.ended);
        if data == 0 {
            if self.ended {
                self.speak(shared, flags::ACK | flags::FIN, self.una, &[]);
            }
            return Ok(());
        }
        if self.peeks && inet::set_peek_offset(&self.socket, self.stale).is_err() {
            return Err(End::ResetBoth);
        }
        let want = data.min(self.burst(shared)) as usize;
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let got = match recv(&self.socket, &mut shared.buffer[..want], flags) {
            Ok((got, _)) if got > 0 => got,
            // It was there, so what isn't any more was reset.
            _ => return Err(End::ResetGuest),
        };
        let bytes = std::mem::take(&mut shared.buffer);
        self.send_data(shared, self.una, &bytes[..got]);
        shared.buffer = bytes;
        if self.peeks && inet::set_peek_offset(&self.socket, self.stale + data).is_err() {
            return Err(End::ResetBoth);
        }
        Ok(())
    }

    /// Uses smaller segments from now on, and sends what got lost for its size again.
    pub(super) fn shrink(&mut self, shared: &mut Shared, mtu: u32) {
        let headers = u32::from(self.key.pair.header_len()) + 20;
        // Nobody may make us send crumbs (RFC 5927 7.2): IPv4's smallest of practice is 552.
        let mss = mtu.clamp(552, 65_535) - headers;
        if self.stage == Stage::Open && mss < u32::from(self.mss) {
            self.mss = mss as u16;
            if self.next != self.una {
                self.recovering = Some(self.next);
                // If that fails, so will the next, with its end.
                let _ = self.resend(shared);
            }
        }
    }
}
