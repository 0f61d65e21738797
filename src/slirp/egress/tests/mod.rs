//! Dialogues with a container in the same process: smoltcp's stack, or packets made by hand, on
//! one side, real sockets of the host on the other, and a relay between that loses, repeats and
//! reorders. Time is an argument of both stacks; nothing here waits for a clock.

mod tcp;
mod udp;

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socketpair};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::wire::{HardwareAddress, IpCidr};

use super::wire::vnet;
use super::{Egress, Link, Settings};

pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub(super) const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

/// What the relay does to packets, in per cent of them.
#[derive(Default, Clone, Copy)]
pub(super) struct Trouble {
    pub(super) lost: u64,
    pub(super) repeated: u64,
    pub(super) late: u64,
}

/// Chance that is the same each time (xorshift).
struct Chance(u64);

impl Chance {
    fn happens(&mut self, percent: u64) -> bool {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % 100 < percent
    }
}

/// One direction of the relay.
struct Lane {
    chance: Chance,
    late: VecDeque<Vec<u8>>,
}

impl Lane {
    fn pass(&mut self, trouble: Trouble, packet: Vec<u8>, out: &mut VecDeque<Vec<u8>>) {
        if self.chance.happens(trouble.lost) {
            return;
        }
        if self.chance.happens(trouble.repeated) {
            out.push_back(packet.clone());
        }
        if self.chance.happens(trouble.late) {
            self.late.push_back(packet);
            return;
        }
        out.push_back(packet);
        // What was late comes after it.
        if self.late.len() > 2 {
            out.extend(self.late.pop_front());
        }
    }
}

/// The container's network device.
#[derive(Default)]
struct Port {
    incoming: VecDeque<Vec<u8>>,
    outgoing: VecDeque<Vec<u8>>,
}

struct Incoming(Vec<u8>);
struct Outgoing<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Incoming {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut packet = vec![0; length];
        let result = fill(&mut packet);
        self.0.push_back(packet);
        result
    }
}

impl Device for Port {
    type RxToken<'a> = Incoming;
    type TxToken<'a> = Outgoing<'a>;

    fn receive(
        &mut self,
        _: smoltcp::time::Instant,
    ) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        let packet = self.incoming.pop_front()?;
        Some((Incoming(packet), Outgoing(&mut self.outgoing)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Self::TxToken<'_>> {
        Some(Outgoing(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = 1500;
        // What comes has its checksum left open, as between the ends of a veth pair.
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities.checksum.udp = Checksum::Tx;
        capabilities
    }
}

/// A container, a relay and a way out.
pub(super) struct Rig {
    pub(super) egress: Egress,
    wire: OwnedFd,
    port: Port,
    interface: Interface,
    sockets: SocketSet<'static>,
    pub(super) trouble: Trouble,
    up: Lane,
    down: Lane,
    start: Instant,
    passed: Duration,
}

pub(super) fn settings() -> Settings {
    Settings {
        gateway_v4: Some(GATEWAY),
        host_loopback: true,
        ..Settings::default()
    }
}

impl Rig {
    pub(super) fn new(settings: &Settings) -> Self {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (wire, far) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let mut port = Port::default();
        let zero = smoltcp::time::Instant::ZERO;
        let mut interface = Interface::new(Config::new(HardwareAddress::Ip), &mut port, zero);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(GUEST.into(), 24)).unwrap();
        });
        interface
            .routes_mut()
            .add_default_ipv4_route(GATEWAY)
            .unwrap();
        let lane = |seed| Lane {
            chance: Chance(seed),
            late: VecDeque::new(),
        };
        Self {
            egress: Egress::new(Link::over(far, false), settings).unwrap(),
            wire,
            port,
            interface,
            sockets: SocketSet::new(Vec::new()),
            trouble: Trouble::default(),
            up: lane(0x9e37_79b9_7f4a_7c15),
            down: lane(0x2545_f491_4f6c_dd1d),
            start: Instant::now(),
            passed: Duration::ZERO,
        }
    }

    /// Lets both stacks do what they can now, then a millisecond pass.
    pub(super) fn step(&mut self) {
        let now = self.start + self.passed;
        let moved = self.exchange();
        while self.egress_works(now) {}
        if !moved {
            // The host's kernel may be busy in our favour.
            std::thread::yield_now();
        }
        self.passed += Duration::from_millis(1);
    }

    /// Lets that much time pass at once.
    pub(super) fn wait(&mut self, time: Duration) {
        self.passed += time;
        self.step();
    }

    fn egress_works(&mut self, now: Instant) -> bool {
        let mut ready = [rustix::event::PollFd::new(
            &self.egress,
            rustix::event::PollFlags::IN,
        )];
        let instant = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let busy = rustix::event::poll(&mut ready, Some(&instant)).unwrap() > 0;
        // Once even when nothing is ready: timers, and what is owed.
        assert!(self.egress.turn(Some(Duration::ZERO), &mut || now).unwrap());
        busy && self.exchange()
    }

    /// Carries packets both ways; whether there were any.
    fn exchange(&mut self) -> bool {
        let mut moved = false;
        let mut buffer = vec![0; 70_000];
        while let Ok((length, _)) =
            rustix::net::recv(&self.wire, &mut buffer[..], RecvFlags::empty())
        {
            moved = true;
            let packet = buffer[vnet::LEN..length].to_vec();
            self.down
                .pass(self.trouble, packet, &mut self.port.incoming);
        }
        let stamp = smoltcp::time::Instant::from_millis(self.passed.as_millis() as i64);
        self.interface
            .poll(stamp, &mut self.port, &mut self.sockets);
        let mut out = VecDeque::new();
        for packet in self.port.outgoing.drain(..) {
            self.up.pass(self.trouble, packet, &mut out);
        }
        for packet in out {
            moved = true;
            self.put(&packet);
        }
        moved
    }

    /// Steps until something holds. It is a bound on steps, and far above any that is needed.
    pub(super) fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        for _ in 0..2_000_000 {
            if holds(self) {
                return;
            }
            self.step();
        }
        panic!("never: {what}");
    }

    /// Sends a packet made by hand.
    pub(super) fn put(&self, packet: &[u8]) {
        let mut bytes = vec![0; vnet::LEN];
        bytes.extend(packet);
        // A full queue loses it.
        let _ = rustix::net::send(&self.wire, &bytes, SendFlags::empty());
    }

    /// Lets the way out work, and gives the packet that it sent, with the kernel's header.
    pub(super) fn get(&mut self) -> Vec<u8> {
        let mut buffer = vec![0; 70_000];
        for _ in 0..2_000_000 {
            let now = self.start + self.passed;
            self.egress.turn(Some(Duration::ZERO), &mut || now).unwrap();
            if let Ok((length, _)) =
                rustix::net::recv(&self.wire, &mut buffer[..], RecvFlags::empty())
            {
                buffer.truncate(length);
                return buffer;
            }
            std::thread::yield_now();
        }
        panic!("no packet came");
    }

    /// A container's socket on its way to the host's loopback.
    pub(super) fn connect(&mut self, port: u16, local: u16, room: usize) -> SocketHandle {
        self.connect_from(GUEST, port, local, room)
    }

    /// The same of a container with that address.
    pub(super) fn connect_from(
        &mut self,
        from: Ipv4Addr,
        port: u16,
        local: u16,
        room: usize,
    ) -> SocketHandle {
        self.interface.update_ip_addrs(|addresses| {
            let address = IpCidr::new(from.into(), 24);
            if !addresses.contains(&address) {
                addresses.push(address).unwrap();
            }
        });
        let buffer = || SocketBuffer::new(vec![0; room]);
        let handle = self.sockets.add(Socket::new(buffer(), buffer()));
        self.sockets
            .get_mut::<Socket<'_>>(handle)
            .connect(self.interface.context(), (GATEWAY, port), (from, local))
            .unwrap();
        handle
    }

    pub(super) fn socket(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }
}
