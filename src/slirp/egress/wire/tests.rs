use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::ip::{Fragment, Pair};
use super::seq::Seq;
use super::tcp::{Options, Spoken};
use super::*;

fn pairs() -> impl Strategy<Value = Pair> {
    prop_oneof![
        any::<([u8; 4], [u8; 4])>().prop_map(|(a, b)| Pair::V4(a.into(), b.into())),
        any::<([u8; 16], [u8; 16])>().prop_map(|(a, b)| Pair::V6(a.into(), b.into())),
    ]
}

/// Everything that is ever asked of bytes from the device.
fn read_all(bytes: &[u8]) {
    let Some((_, packet)) = vnet::parse(bytes) else {
        return;
    };
    let _ = ip::parse_quoted(packet);
    let Some(packet) = ip::parse(packet) else {
        return;
    };
    let _ = packet.pair.verifies(packet.protocol, packet.payload);
    if let Some(segment) = tcp::parse(packet.payload) {
        let _ = (segment.options(), segment.len());
    }
    let _ = udp::parse(packet.payload);
    let _ = icmp::parse(packet.pair, packet.payload);
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        read_all(&bytes);
        // The same as a packet of either family, so that the upper layers are reached.
        for version in [0x45, 0x4f, 0x60] {
            let mut packet = vec![0; vnet::LEN];
            packet.extend(&bytes);
            if packet.len() > vnet::LEN + 6 {
                packet[vnet::LEN] = version;
                let length = (packet.len() - vnet::LEN) as u16;
                let length = if version == 0x60 { length.saturating_sub(40) } else { length };
                let place = vnet::LEN + if version == 0x60 { 4 } else { 2 };
                packet[place..place + 2].copy_from_slice(&length.to_be_bytes());
                if version != 0x60 && packet.len() >= vnet::LEN + 60 {
                    let header = if version == 0x45 { 20 } else { 60 };
                    packet[vnet::LEN + 10..vnet::LEN + 12].fill(0);
                    let sum = checksum::finish(checksum::add(
                        0,
                        &packet[vnet::LEN..vnet::LEN + header],
                    ));
                    packet[vnet::LEN + 10..vnet::LEN + 12].copy_from_slice(&sum);
                }
            }
            read_all(&packet);
        }
    }

    #[test]
    fn what_is_built_reads_the_same(
        pair in pairs(), source: u16, destination: u16, seq: u32, ack: u32, flags: u8,
        window: u16, mss: Option<u16>, scale in proptest::option::of(0_u8..15), sack: bool,
        payload in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let options = Options { mss, scale, sack };
        let spoken = Spoken {
            source, destination, seq: Seq(seq), ack: Seq(ack), flags, window, options, sack: &[],
        };
        let mut bytes = tcp::build(pair, &spoken, payload.len(), 1460).bytes().to_vec();
        bytes.extend(&payload);
        let (offload, packet) = vnet::parse(&bytes).unwrap();
        prop_assert!(offload.trusted);
        let packet = ip::parse(packet).unwrap();
        prop_assert_eq!((packet.pair, packet.protocol), (pair, ip::TCP));
        let segment = tcp::parse(packet.payload).unwrap();
        prop_assert_eq!(segment.options(), options);
        prop_assert_eq!((segment.source, segment.destination), (source, destination));
        prop_assert_eq!((segment.seq, segment.ack), (Seq(seq), Seq(ack)));
        prop_assert_eq!((segment.flags, segment.window), (flags, window));
        prop_assert_eq!(segment.payload, &payload[..]);
    }

    #[test]
    fn a_datagram_verifies(
        pair in pairs(), ports: (u16, u16),
        payload in proptest::collection::vec(any::<u8>(), 0..99),
    ) {
        let sum = udp::sum(pair, ports.0, ports.1, &payload);
        let mut message = udp::header(ports.0, ports.1, payload.len(), sum).to_vec();
        message.extend(&payload);
        prop_assert!(pair.verifies(ip::UDP, &message));
        message[0] ^= 1;
        prop_assert!(!pair.verifies(ip::UDP, &message));
    }

    #[test]
    fn fragments_say_where_they_belong(
        pair in pairs(), id: u16, offset in 0_usize..8000, more: bool,
    ) {
        prop_assume!(more || offset > 0);
        let part = Fragment { id: id.into(), offset: offset * 8, more };
        let mut bytes = udp::fragment(pair, ip::UDP, 16, part).packet().to_vec();
        bytes.extend([7; 16]);
        let packet = ip::parse(&bytes).unwrap();
        prop_assert_eq!(packet.fragment, Some(part));
        prop_assert_eq!((packet.protocol, packet.payload), (ip::UDP, &[7; 16][..]));
    }

    #[test]
    fn sequence_numbers_wrap(start: u32, ahead in 0_u32..0x7fff_ffff) {
        let (a, b) = (Seq(start), Seq(start) + ahead);
        prop_assert_eq!(b.since(a), ahead);
        prop_assert_eq!(a.since(b), 0);
        prop_assert_eq!(a.before(b), ahead > 0);
        prop_assert_eq!(a.max(b), b);
        prop_assert_eq!(b - ahead, a);
    }
}

#[test]
fn an_error_quotes_and_verifies() {
    let v4 = Pair::V4(Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
    let v6 = Pair::V6(Ipv6Addr::LOCALHOST, Ipv6Addr::UNSPECIFIED);
    for pair in [v4, v6] {
        let mut room = [0; 1280];
        let length = icmp::error(pair, icmp::Reason::TooBig(1400), &[9; 2000], &mut room);
        assert_eq!(length, 8 + icmp::most_quoted(pair));
        let Some(icmp::Message::TooBig(told)) = icmp::parse(pair, &room[..length]) else {
            panic!("it reads as what it is");
        };
        assert_eq!((told.mtu, told.quoted[0]), (1400, 9));
        room[8] ^= 1;
        assert_eq!(icmp::parse(pair, &room[..length]), None);
    }
}

#[test]
fn extension_headers_are_walked_and_bounded() {
    let packet = |extensions: usize| {
        let mut bytes = vec![0x60, 0, 0, 0, 0, 0, 0, 64];
        bytes.extend([0; 32]);
        for at in 0..extensions {
            let next = if at + 1 == extensions { ip::UDP } else { 60 };
            bytes.extend([next, 0, 1, 4, 0, 0, 0, 0]);
        }
        bytes.extend([1, 2, 3]);
        let length = (bytes.len() - 40) as u16;
        bytes[4..6].copy_from_slice(&length.to_be_bytes());
        bytes
    };
    let three = packet(3);
    let read = ip::parse(&three).unwrap();
    assert_eq!((read.protocol, read.payload), (ip::UDP, &[1, 2, 3][..]));
    assert_ne!(
        ip::parse(&packet(30)).map(|read| read.protocol),
        Some(ip::UDP)
    );
}

#[test]
fn a_packet_longer_than_ipv4_can_say_leaves_its_length_to_the_kernel() {
    let pair = Pair::V4([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    for (length, told) in [(65_515, u16::MAX), (65_516, 0), (190_000, 0)] {
        let mut header = header::Header::new(vnet::Offer::Whole);
        header.push_ip(pair, ip::TCP, length, None);
        assert_eq!(&header.packet()[2..4], &told.to_be_bytes(), "{length}");
    }
}
