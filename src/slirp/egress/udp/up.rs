//! From the container to the world.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Instant;

use rustix::io::Errno;

use super::super::errors;
use super::super::reactor::{Next, Read, Shared};
use super::super::table::Id;
use super::super::wire::header::Header;
use super::super::wire::icmp::Reason;
use super::super::wire::ip::{self, Pair};
use super::super::wire::udp::{self, Datagram};
use super::super::wire::vnet::Offer;
use super::{Mapping, Udp};
use crate::sys::inet;

/// Datagrams in one send (linux/udp.h, `UDP_MAX_SEGMENTS` before Linux 6.9).
const MOST: usize = 64;

/// Bytes in one send.
const LARGEST: usize = 65_000;

/// Datagrams of one mapping to one destination that are to be sent together.
#[derive(Debug)]
pub(super) struct Run {
    mapping: Id,
    to: SocketAddr,
    /// As the container called it.
    remote: SocketAddr,
    pair: Pair,
    hop_limit: u8,
    dont_fragment: bool,
    /// Of each but the last.
    size: usize,
    total: usize,
    /// Where they are.
    places: Vec<Range<usize>>,
    /// Nothing may follow.
    closed: bool,
}

impl Udp {
    /// Takes in a datagram whose UDP header is at `start` of what will be given to
    /// [`Udp::flush`].
    pub(in super::super) fn datagram(
        &mut self,
        shared: &mut Shared,
        read: &Read,
        datagram: &Datagram<'_>,
        start: usize,
        now: Instant,
    ) -> Next {
        let pair = read.pair;
        let guest = SocketAddr::new(pair.source(), datagram.source);
        let remote = SocketAddr::new(pair.destination(), datagram.destination);
        let length = datagram.payload.len();
        let place = start + udp::LEN..start + udp::LEN + length;
        if let Some(run) = &mut self.run {
            let same = run.pair == pair
                && run.remote == remote
                && self.mappings.find(&guest) == Some(run.mapping)
                && run.hop_limit == read.hop_limit
                && run.dont_fragment == read.dont_fragment;
            let fits = !run.closed
                && read.segment.is_none()
                && length > 0
                && length <= run.size
                && run.places.len() < MOST
                && run.total + length <= LARGEST;
            if !same || !fits {
                return Next::FlushAndRetry;
            }
            run.closed = length < run.size;
            run.total += length;
            run.places.push(place);
            return Next::Keep;
        }
        let Some(to) = shared.settings.destination(remote) else {
            refuse(shared, pair, guest, remote, Reason::Port, datagram.payload);
            return Next::Done;
        };
        let Some(mapping) = self.mapping(shared, guest, now) else {
            refuse(
                shared,
                pair,
                guest,
                remote,
                Reason::Prohibited,
                datagram.payload,
            );
            return Next::Done;
        };
        let size = read.segment.map_or(length, usize::from);
        self.run = Some(Run {
            mapping,
            to,
            remote,
            pair,
            hop_limit: read.hop_limit,
            dont_fragment: read.dont_fragment,
            size,
            total: length,
            places: vec![place],
            closed: length != size || read.segment.is_some() || length == 0,
        });
        Next::Keep
    }

    /// Sends the run that has gathered; `bytes` is where its datagrams are.
    pub(in super::super) fn flush(&mut self, shared: &mut Shared, bytes: &[u8], now: Instant) {
        let Some(run) = self.run.take() else {
            return;
        };
        let Some(mapping) = self.mappings.get(run.mapping) else {
            return;
        };
        mapping.imitate(
            &Read {
                pair: run.pair,
                protocol: ip::UDP,
                hop_limit: run.hop_limit,
                dont_fragment: run.dont_fragment,
                trusted: true,
                segment: None,
            },
            run.remote,
        );
        mapping.refresh(shared, now);
        let mut parts = [IoSlice::new(&[]); MOST];
        let mut count = 0;
        for (part, place) in parts.iter_mut().zip(&run.places) {
            *part = IoSlice::new(bytes.get(place.clone()).unwrap_or_default());
            count += 1;
        }
        let parts = &parts[..count];
        let sent = if run.total > run.size {
            mapping.send_run(&run, parts)
        } else {
            mapping.send(run.to, parts, None)
        };
        let Err(error) = sent else { return };
        let reason = match Errno::from_io_error(&error) {
            Some(Errno::MSGSIZE) => mapping.pass_errors_on(shared).map(Reason::TooBig),
            other => other.and_then(errors::reason),
        };
        if let Some(reason) = reason {
            let guest = mapping.guest;
            let first = parts.first().map_or(&[][..], |part| part);
            refuse(shared, run.pair, guest, run.remote, reason, first);
        }
    }
}

impl Mapping {
    /// Sends all of a run at once, or where the path can't do that, one after the other.
    fn send_run(&mut self, run: &Run, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let together = self.segments;
        if together {
            match self.send(run.to, parts, u16::try_from(run.size).ok()) {
                Err(error) if is_of_segments(&error) => {}
                outcome => return outcome,
            }
        }
        let datagrams = parts.iter().flat_map(|part| part.chunks(run.size.max(1)));
        let mut outcome = Ok(());
        for datagram in datagrams {
            // A shorter one may go where the others can't.
            outcome = outcome.and(self.send(run.to, &[IoSlice::new(datagram)], None));
        }
        // Where they fail alone too it is the path, which takes smaller ones.
        self.segments = together && outcome.is_err();
        outcome
    }

    /// Sends, past an error that an earlier datagram left behind. Where the socket has no room,
    /// the datagrams are lost, as on any link.
    fn send(&self, to: SocketAddr, parts: &[IoSlice<'_>], segment: Option<u16>) -> io::Result<()> {
        match inet::send_datagrams(&self.socket, to, parts, segment) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            // Nothing of it is left to be told twice.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Err(error),
            Err(_) => {}
        }
        inet::send_datagrams(&self.socket, to, parts, segment).map(|_| ())
    }
}

/// Whether a run failed that may go datagram by datagram: the device can't cut it, or they are too
/// large for the path (`EINVAL` in older kernels).
fn is_of_segments(error: &io::Error) -> bool {
    let number = error.raw_os_error();
    matches!(number, Some(libc::EINVAL | libc::EIO | libc::EMSGSIZE))
}

/// Tells the container that its datagram went nowhere.
fn refuse(
    shared: &Shared,
    pair: Pair,
    guest: SocketAddr,
    remote: SocketAddr,
    reason: Reason,
    payload: &[u8],
) {
    let mut header = Header::new(Offer::Whole);
    header.push_ip(pair, ip::UDP, udp::LEN + payload.len(), None);
    header.push(&udp::header(
        guest.port(),
        remote.port(),
        payload.len(),
        [0, 0],
    ));
    let mut quoted = header.packet().to_vec();
    quoted.extend(&payload[..payload.len().min(512)]);
    shared.link.write_error(pair.reversed(), reason, &quoted);
}
