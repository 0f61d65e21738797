use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use super::super::wire::header::Header;
use super::super::wire::icmp::{self, Message};
use super::super::wire::ip::{self, Fragment, Pair};
use super::super::wire::vnet::{self, Offer};
use super::super::wire::{checksum, udp};
use super::super::{Limits, Settings};
use super::{GATEWAY, GUEST, Rig, settings};

const TO_HOST: Pair = Pair::V4(GUEST, GATEWAY);

/// A socket of the host, and its port.
fn host() -> (UdpSocket, u16) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

/// A datagram of the container.
fn datagram(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = udp::build(TO_HOST, from, to, payload.len(), None)
        .packet()
        .to_vec();
    let sum = udp::sum(TO_HOST, from, to, payload);
    packet[26..28].copy_from_slice(&sum);
    packet.extend(payload);
    packet
}

/// Has the way out take a packet in, and gives what arrives at a host's socket.
fn arrives(rig: &mut Rig, socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 70_000];
    socket.set_nonblocking(true).unwrap();
    let mut found = None;
    rig.until("the datagram arrived", |_| {
        found = socket.recv_from(&mut buffer).ok();
        found.is_some()
    });
    let (length, from) = found.unwrap();
    buffer.truncate(length);
    (buffer, from)
}

#[test]
fn datagrams_go_there_and_back_by_one_mapping() {
    let mut rig = Rig::new(&settings());
    let (one, port_one) = host();
    let (two, port_two) = host();
    rig.put(&datagram(5000, port_one, b"first"));
    let (bytes, from_one) = arrives(&mut rig, &one);
    assert_eq!(bytes, b"first");
    rig.put(&datagram(5000, port_two, b""));
    let (bytes, from_two) = arrives(&mut rig, &two);
    assert_eq!(bytes, b"");
    // Whoever it talks to, the container has one address there.
    assert_eq!(from_one, from_two);
    assert_eq!(rig.egress.flows(), 1);
    two.send_to(b"answer", from_two).unwrap();
    let packet = rig.get();
    let packet = ip::parse(&packet[vnet::LEN..]).unwrap();
    assert_eq!(packet.pair, TO_HOST.reversed());
    let read = udp::parse(packet.payload).unwrap();
    assert_eq!((read.source, read.destination), (port_two, 5000));
    assert_eq!(read.payload, b"answer");
}

#[test]
fn runs_arrive_as_the_datagrams_that_they_are() {
    let mut rig = Rig::new(&settings());
    let (socket, port) = host();
    let (other, other_port) = host();
    let sizes = [1000, 1000, 1000, 400, 1000, 1000, 0, 1];
    for (at, size) in sizes.into_iter().enumerate() {
        rig.put(&datagram(5000, port, &vec![at as u8; size]));
    }
    rig.put(&datagram(5000, other_port, b"elsewhere"));
    rig.put(&datagram(5001, port, b"from elsewhere"));
    for (at, size) in sizes.into_iter().enumerate() {
        let (bytes, _) = arrives(&mut rig, &socket);
        assert_eq!(bytes, vec![at as u8; size]);
    }
    assert_eq!(arrives(&mut rig, &other).0, b"elsewhere");
    assert_eq!(arrives(&mut rig, &socket).0, b"from elsewhere");
}

#[test]
fn a_damaged_datagram_goes_nowhere() {
    let mut rig = Rig::new(&settings());
    let (socket, port) = host();
    let mut packet = datagram(5000, port, b"damaged");
    packet[30] ^= 1;
    rig.put(&packet);
    rig.put(&datagram(5000, port, b"whole"));
    assert_eq!(arrives(&mut rig, &socket).0, b"whole");
}

#[test]
fn the_largest_datagram_goes_there_and_back_in_fragments() {
    let mut rig = Rig::new(&settings());
    let (socket, port) = host();
    let payload: Vec<u8> = (0..65_507_u32).map(|at| (at / 3) as u8).collect();
    let sum = udp::sum(TO_HOST, 5000, port, &payload);
    let mut message = udp::header(5000, port, payload.len(), sum).to_vec();
    message.extend(&payload);
    let pieces: Vec<_> = message.chunks(1480).enumerate().collect();
    for (at, piece) in pieces.iter().rev() {
        let part = Fragment {
            id: 77,
            offset: at * 1480,
            more: at + 1 < pieces.len(),
        };
        let mut packet = udp::fragment(TO_HOST, ip::UDP, piece.len(), part)
            .packet()
            .to_vec();
        packet.extend(*piece);
        rig.put(&packet);
        rig.step();
    }
    let (bytes, from) = arrives(&mut rig, &socket);
    assert!(bytes == payload);

    socket.send_to(&payload, from).unwrap();
    let mut whole = vec![0; message.len()];
    let mut there = 0;
    while there < whole.len() {
        let packet = rig.get();
        assert!(packet.len() <= vnet::LEN + 1500);
        let packet = ip::parse(&packet[vnet::LEN..]).unwrap();
        let part = packet.fragment.unwrap();
        whole[part.offset..part.offset + packet.payload.len()].copy_from_slice(packet.payload);
        there += packet.payload.len();
    }
    assert!(TO_HOST.reversed().verifies(ip::UDP, &whole));
    assert!(udp::parse(&whole).unwrap().payload == payload);
}

/// The error that comes back, and what it quotes.
fn error(rig: &mut Rig) -> ((u8, u8), Vec<u8>) {
    let packet = rig.get();
    let packet = ip::parse(&packet[vnet::LEN..]).unwrap();
    assert_eq!(
        (packet.protocol, packet.pair.destination()),
        (ip::ICMP, GUEST.into())
    );
    assert!(checksum::holds(checksum::add(0, packet.payload)));
    let told = (packet.payload[0], packet.payload[1]);
    (told, packet.payload[8..].to_vec())
}

#[test]
fn a_port_where_nobody_listens_is_said_to_be_unreachable() {
    let mut rig = Rig::new(&settings());
    let (socket, port) = host();
    drop(socket);
    rig.put(&datagram(5000, port, b"anybody?"));
    let (told, quoted) = error(&mut rig);
    assert_eq!(told, (3, 3));
    let (pair, protocol, rest) = ip::parse_quoted(&quoted).unwrap();
    assert_eq!((pair, protocol), (TO_HOST, ip::UDP));
    let read = udp::parse(rest).unwrap();
    assert_eq!((read.source, read.destination), (5000, port));
    // The next one is sent all the same, whatever the first left behind.
    let again = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    rig.put(&datagram(5000, port, b"now"));
    assert_eq!(arrives(&mut rig, &again).0, b"now");
}

#[test]
fn mappings_are_bounded_and_end_with_silence() {
    let mut rig = Rig::new(&Settings {
        limits: Limits {
            udp: 2,
            ..Limits::default()
        },
        ..settings()
    });
    let (socket, port) = host();
    let say = |rig: &mut Rig, from: u16| {
        rig.put(&datagram(from, port, b"one"));
        arrives(rig, &socket).1
    };
    let kept = say(&mut rig, 5000);
    let idle = say(&mut rig, 5001);
    rig.wait(Duration::from_secs(1));
    assert_eq!(say(&mut rig, 5000), kept);
    // There is room for a third where the one that was idle the longest goes.
    say(&mut rig, 5002);
    assert_eq!(rig.egress.flows(), 2);
    assert_eq!(say(&mut rig, 5000), kept);
    assert_ne!(say(&mut rig, 5001), idle);
    assert_eq!(rig.egress.flows(), 2);
    rig.wait(Duration::from_secs(200));
    let kept = say(&mut rig, 5001);
    rig.wait(Duration::from_secs(200));
    assert_eq!(rig.egress.flows(), 1);
    assert_eq!(say(&mut rig, 5001), kept);
    rig.wait(Duration::from_secs(301));
    assert_eq!(rig.egress.flows(), 0);
}

#[test]
fn a_ping_is_answered_where_the_host_allows_it() {
    let mut rig = Rig::new(&settings());
    let mut message = vec![8, 0, 0, 0, 0, 0, 0, 9];
    message.extend(b"are you there?");
    icmp::set_id(TO_HOST, &mut message, 4321);
    let mut header = Header::new(Offer::Whole);
    header.push_ip(TO_HOST, ip::ICMP, message.len(), None);
    let mut packet = header.packet().to_vec();
    packet.extend(&message);
    rig.put(&packet);
    let answer = rig.get();
    let answer = ip::parse(&answer[vnet::LEN..]).unwrap();
    assert_eq!(
        (answer.protocol, answer.pair),
        (ip::ICMP, TO_HOST.reversed())
    );
    assert!(checksum::holds(checksum::add(0, answer.payload)));
    if answer.payload[0] == 3 {
        // The host's ping_group_range shuts us out, and the container is told.
        assert_eq!(answer.payload[1], 13);
        return;
    }
    assert_eq!(answer.payload[0], 0);
    assert_eq!(&answer.payload[4..], &message[4..]);
    assert_eq!(icmp::parse(TO_HOST, &message).map(|_| ()), Some(()));
    let Some(Message::Echo(request)) = icmp::parse(TO_HOST, &message) else {
        panic!("a request");
    };
    assert_eq!(request.id, 4321);
}
