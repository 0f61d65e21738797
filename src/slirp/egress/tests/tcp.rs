use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;

use super::super::{Limits, Settings};
use super::{Rig, Trouble, settings};

/// A listener of the host, and its port.
fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// A connection from a container to the host, open on both sides.
fn connected(rig: &mut Rig, room: usize) -> (SocketHandle, TcpStream) {
    let (listener, port) = listen();
    let handle = rig.connect(port, 40_000, room);
    rig.until("the container's side is open", |rig| {
        rig.socket(handle).may_send()
    });
    let (stream, _) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    (handle, stream)
}

/// Reads what there is; whether the stream goes on.
fn drain(stream: &mut TcpStream, into: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 65_536];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return false,
            Ok(got) => into.extend(&buffer[..got]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Bytes in which every misplaced one shows.
fn stream(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}

/// Both ends send `length` bytes, close, and must have received the other's.
fn both_ways(rig: &mut Rig, length: usize) {
    let (handle, mut host) = connected(rig, 65_000);
    let (up, down) = (stream(length), stream(length + 1));
    let (mut sent_up, mut sent_down) = (0, 0);
    let (mut got_up, mut got_down): (Vec<u8>, Vec<u8>) = Default::default();
    let mut host_open = true;
    rig.until("all bytes arrived", |rig| {
        let guest = rig.socket(handle);
        if sent_up < up.len() && guest.can_send() {
            sent_up += guest.send_slice(&up[sent_up..]).unwrap();
            if sent_up == up.len() {
                guest.close();
            }
        }
        while guest.can_recv() {
            guest
                .recv(|bytes| {
                    got_down.extend(&*bytes);
                    (bytes.len(), ())
                })
                .unwrap();
        }
        if sent_down < down.len()
            && let Ok(sent) = host.write(&down[sent_down..])
        {
            sent_down += sent;
            if sent_down == down.len() {
                host.shutdown(Shutdown::Write).unwrap();
            }
        }
        host_open = host_open && drain(&mut host, &mut got_up);
        !host_open && got_down.len() == down.len()
    });
    assert!(got_up == up, "what the host got");
    assert!(got_down == down, "what the container got");
    rig.until("the flow is gone", |rig| rig.egress.flows() == 0);
}

#[test]
fn streams_go_both_ways_and_end() {
    both_ways(&mut Rig::new(&settings()), 3 << 20);
}

#[test]
fn streams_survive_loss_repetition_and_disorder() {
    let mut rig = Rig::new(&settings());
    rig.trouble = Trouble {
        lost: 3,
        repeated: 3,
        late: 5,
    };
    both_ways(&mut rig, 400_000);
}

#[test]
fn streams_go_without_a_peek_offset_too() {
    let mut rig = Rig::new(&settings());
    rig.egress.peek_without_offset();
    both_ways(&mut rig, 1 << 20);
    rig.trouble = Trouble {
        lost: 3,
        repeated: 0,
        late: 5,
    };
    both_ways(&mut rig, 200_000);
}

#[test]
fn a_refused_connection_is_reset() {
    let mut rig = Rig::new(&settings());
    let (listener, port) = listen();
    drop(listener);
    let handle = rig.connect(port, 40_000, 1000);
    rig.step();
    rig.until("it is closed", |rig| {
        rig.socket(handle).state() == State::Closed
    });
    assert_eq!(rig.egress.flows(), 0);
}

#[test]
fn loopback_is_closed_unless_allowed() {
    let mut rig = Rig::new(&Settings {
        host_loopback: false,
        ..settings()
    });
    let (listener, port) = listen();
    let handle = rig.connect(port, 40_000, 1000);
    rig.step();
    rig.until("it is closed", |rig| {
        rig.socket(handle).state() == State::Closed
    });
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn whoever_wants_all_leaves_some_to_the_others() {
    let mut rig = Rig::new(&Settings {
        limits: Limits {
            tcp: 12,
            ..Limits::default()
        },
        ..settings()
    });
    let (_listener, port) = listen();
    for local in 40_000..40_012 {
        let handle = rig.connect(port, local, 1000);
        rig.step();
        rig.until("it is settled", |rig| {
            let socket = rig.socket(handle);
            socket.may_send() || socket.state() == State::Closed
        });
    }
    let taken = rig.egress.flows();
    assert!((6..10).contains(&taken), "{taken}");
    let other = Ipv4Addr::new(10, 0, 0, 3);
    let handle = rig.connect_from(other, port, 40_000, 1000);
    rig.until("it is open", |rig| rig.socket(handle).may_send());
    assert_eq!(rig.egress.flows(), taken + 1);
}

#[test]
fn at_the_limit_connections_are_refused_and_later_ones_are_not() {
    let mut rig = Rig::new(&Settings {
        limits: Limits {
            tcp: 1,
            ..Limits::default()
        },
        ..settings()
    });
    let (first, host) = connected(&mut rig, 1000);
    let (_listener, port) = listen();
    let second = rig.connect(port, 40_001, 1000);
    rig.step();
    rig.until("it is refused", |rig| {
        rig.socket(second).state() == State::Closed
    });
    assert!(rig.socket(first).is_active());
    rig.socket(first).abort();
    rig.until("its place is free", |rig| rig.egress.flows() == 0);
    drop(host);
    let third = rig.connect(port, 40_002, 1000);
    rig.until("it is open", |rig| rig.socket(third).may_send());
}

#[test]
fn each_side_may_close_first() {
    let mut rig = Rig::new(&settings());
    let (handle, mut host) = connected(&mut rig, 1000);
    host.write_all(b"last words").unwrap();
    host.shutdown(Shutdown::Write).unwrap();
    rig.until("the container knows", |rig| {
        rig.socket(handle).state() == State::CloseWait
    });
    // The other direction is as open as before.
    rig.socket(handle).send_slice(b"still here").unwrap();
    let mut got: Vec<u8> = Vec::new();
    rig.until("the host hears", |_| {
        drain(&mut host, &mut got);
        got == b"still here"
    });
    rig.socket(handle).close();
    rig.until("the flow is gone", |rig| rig.egress.flows() == 0);
    assert!(!drain(&mut host, &mut got));
}

#[test]
fn resets_cross_in_both_directions() {
    let mut rig = Rig::new(&settings());
    let (handle, mut host) = connected(&mut rig, 1000);
    rig.socket(handle).abort();
    rig.until(
        "the host is reset",
        |_| matches!(host.read(&mut [0]), Err(error) if error.kind() == ErrorKind::ConnectionReset),
    );
    assert_eq!(rig.egress.flows(), 0);

    let (handle, host) = connected(&mut rig, 1000);
    rustix::net::sockopt::set_socket_linger(&host, Some(Duration::ZERO)).unwrap();
    drop(host);
    rig.until("the container is reset", |rig| {
        rig.socket(handle).state() == State::Closed
    });
    assert_eq!(rig.egress.flows(), 0);
}

#[test]
fn who_does_not_read_stops_the_other() {
    let mut rig = Rig::new(&settings());
    let (handle, mut host) = connected(&mut rig, 4096);
    // A container that doesn't read: its window closes, and the host's buffers fill.
    let bytes = stream(32 << 20);
    let mut sent = 0;
    let mut idle = 0;
    while idle < 200 {
        match host.write(&bytes[sent..]) {
            Ok(more) => (sent, idle) = (sent + more, 0),
            Err(_) => idle += 1,
        }
        rig.step();
    }
    assert!(sent < bytes.len(), "somebody took all of it");
    // Long after, the closed window opens and everything comes.
    rig.wait(Duration::from_secs(900));
    let mut got: Vec<u8> = Vec::new();
    rig.until("everything came", |rig| {
        rig.socket(handle)
            .recv(|bytes| {
                got.extend(&*bytes);
                (bytes.len(), ())
            })
            .unwrap();
        got.len() == sent
    });
    assert!(got == bytes[..sent]);
}

#[test]
fn a_host_that_does_not_read_closes_the_window() {
    let mut rig = Rig::new(&settings());
    let (handle, mut host) = connected(&mut rig, 65_000);
    let bytes = stream(64 << 20);
    let mut sent = 0;
    let mut idle = 0;
    while idle < 200 {
        let guest = rig.socket(handle);
        match guest.send_slice(&bytes[sent..]).unwrap() {
            0 => idle += 1,
            more => (sent, idle) = (sent + more, 0),
        }
        rig.step();
    }
    assert!(sent < bytes.len(), "somebody took all of it");
    // Long after, it is still there.
    rig.wait(Duration::from_secs(900));
    let mut got: Vec<u8> = Vec::new();
    rig.until("everything came", |_| {
        drain(&mut host, &mut got);
        got.len() == sent
    });
    assert!(got == bytes[..sent]);
}

#[test]
fn a_container_that_fell_silent_is_asked_and_given_up() {
    let mut rig = Rig::new(&settings());
    let (handle, mut host) = connected(&mut rig, 1000);
    // Asked after two hours, it answers and is kept.
    rig.wait(Duration::from_secs(7201));
    rig.step();
    rig.wait(Duration::from_secs(7201));
    rig.step();
    assert!(rig.socket(handle).may_send());
    assert_eq!(rig.egress.flows(), 1);
    // Gone without a word, it is not.
    rig.trouble.lost = 100;
    for _ in 0..40 {
        rig.wait(Duration::from_secs(7201));
    }
    assert_eq!(rig.egress.flows(), 0);
    let reset = host.read(&mut [0]).unwrap_err();
    assert_eq!(reset.kind(), ErrorKind::ConnectionReset);
}
