//! The way out over a real TUN device, between two real network namespaces.
//!
//! The runner becomes root of a user and network namespace of its own, which plays the host; a
//! second network namespace plays the network with its container. The serving thread is confined as
//! it is in earnest. Says so and passes where the host allows no user namespaces or has no
//! /dev/net/tun.

#[path = "common/runner.rs"]
mod runner;

use std::io::{ErrorKind, Read, Write};
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket,
};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::Duration;

use moss::slirp::egress::{self, Limits, Link, Settings};
use moss::sys::loopback;
use moss::sys::netlink::Socket;
use moss::sys::netlink::link::LONGEST;
use moss::userns::seccomp;
use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, Timeout, set_ip_mtu_discover,
    set_ipv6_mtu_discover, set_socket_timeout,
};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, recv, send, socket_with,
};

use runner::Run;

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const GUEST6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);

/// Until somebody is taken to be dead; nothing here takes a second.
const PATIENCE: Option<Duration> = Some(Duration::from_secs(120));

/// Bytes of a transfer: several times what all buffers on the way hold.
const TRANSFER: usize = 48 << 20;

/// Pings that are known at a time.
const PINGS: usize = 16;

/// Plays a case, given the network's namespace.
type Case = fn(&OwnedFd);

fn main() -> ExitCode {
    let cases: [(&str, Case); 8] = [
        ("streams_are_whole_in_both_directions_and_families", streams),
        ("refusals_come_as_refusals", refusals),
        ("datagrams_go_there_and_back_in_bursts", datagrams),
        (
            "datagrams_larger_than_the_link_are_put_together",
            large_datagrams,
        ),
        ("a_ping_is_answered", ping),
        ("a_ping_is_answered_after_many", pings),
        ("what_the_host_finds_too_large_is_told", too_large),
        ("many_connections_at_once", many),
    ];
    let Some(mut run) = Run::new(cases.iter().map(|(name, _)| *name)) else {
        return ExitCode::SUCCESS;
    };
    if let Err(error) = become_host() {
        runner::skip(format_args!("no namespaces of one's own: {error}"));
        return ExitCode::SUCCESS;
    }
    let (network, link) = match std::thread::spawn(make_network).join().expect("the thread") {
        Ok(made) => made,
        Err(error) => {
            runner::skip(format_args!("no TUN device: {error}"));
            return ExitCode::SUCCESS;
        }
    };
    let (stop, stopper) = std::io::pipe().expect("a pipe");
    let server = std::thread::spawn(move || {
        confine();
        let settings = Settings {
            gateway_v4: Some(GATEWAY),
            gateway_v6: Some(GATEWAY6),
            host_loopback: true,
            limits: Limits {
                echo: PINGS,
                ..Limits::default()
            },
            ..Settings::default()
        };
        egress::serve(link, &settings, stop.as_fd())
    });
    for (name, case) in cases {
        run.play(name, name, || case(&network));
    }
    drop(stopper);
    server
        .join()
        .expect("the thread")
        .expect("it served to the end");
    run.end()
}

/// Makes this process root of namespaces of its own, while it has one thread.
fn become_host() -> std::io::Result<()> {
    let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?;
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    loopback::bring_up()?;
    std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0")
}

/// In a thread of its own: a network's namespace with its device, and a container's addresses.
fn make_network() -> std::io::Result<(OwnedFd, Link)> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    loopback::bring_up()?;
    std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0")?;
    let link = Link::open("tun0", 1500)?;
    // As where the interfaces on the way take longer packets: what is read here does so by itself,
    // if the kernel has heard of them.
    let longest = Socket::open()?.longest_ipv4("tun0")?;
    let link = link.with_longest(longest.map_or(0, |_| LONGEST));
    let flags = SocketFlags::CLOEXEC;
    let any = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
    let index = rustix::net::netdevice::name_to_index(&any, "tun0")?;
    add_address(index, &GUEST.octets())?;
    add_address(index, &GUEST6.octets())?;
    Ok((
        std::fs::File::open("/proc/thread-self/ns/net")?.into(),
        link,
    ))
}

/// `RTM_NEWADDR` (rtnetlink(7)) with the whole address as prefix.
fn add_address(index: u32, address: &[u8]) -> std::io::Result<()> {
    let family = if address.len() == 4 {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let mut body = vec![
        family as u8,
        8 * address.len() as u8,
        libc::IFA_F_NODAD as u8,
        0,
    ];
    body.extend(index.to_ne_bytes());
    body.extend((4 + address.len() as u16).to_ne_bytes());
    body.extend(libc::IFA_LOCAL.to_ne_bytes());
    body.extend(address);
    ask(libc::RTM_NEWADDR, libc::NLM_F_CREATE, &body)
}

/// `RTM_NEWLINK` with the length of the longest packet that crosses the host's loopback.
fn set_loopback_mtu(mtu: u32) -> std::io::Result<()> {
    let mut body = vec![0; 4];
    // Its index is 1 in every namespace.
    body.extend(1_u32.to_ne_bytes());
    body.extend([0; 8]);
    body.extend(8_u16.to_ne_bytes());
    body.extend(libc::IFLA_MTU.to_ne_bytes());
    body.extend(mtu.to_ne_bytes());
    ask(libc::RTM_NEWLINK, 0, &body)
}

/// A request of rtnetlink(7), done or refused.
fn ask(kind: u16, flags: i32, body: &[u8]) -> std::io::Result<()> {
    let mut request = Vec::new();
    request.extend((16 + body.len() as u32).to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags;
    request.extend((flags as u16).to_ne_bytes());
    request.extend([0; 8]);
    request.extend(body);
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    send(&socket, &request, SendFlags::empty())?;
    let mut answer = [0; 512];
    recv(&socket, &mut answer[..], RecvFlags::empty())?;
    match i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]) {
        0 => Ok(()),
        error => Err(std::io::Error::from_raw_os_error(-error)),
    }
}

/// Confines the serving thread as slirp does, and sees that what is not its business fails there.
fn confine() {
    let filter = seccomp::only(egress::SYSTEM_CALLS).expect("a filter");
    egress::confine(&filter).expect("confined");
    let refused = |error: Errno| assert_eq!(error, Errno::PERM);
    let unix = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::empty(),
        None,
    );
    refused(unix.expect_err("a socket of the host's services"));
    let file = rustix::fs::open("/proc/self/status", OFlags::RDONLY, Mode::empty());
    refused(file.expect_err("a file"));
    let name = nix::sys::utsname::uname();
    assert_eq!(name.expect_err("the host's name"), nix::Error::EPERM);
}

/// Has a thread do something as the container.
fn as_container<T: Send>(network: &OwnedFd, act: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(network, CloneFlags::CLONE_NEWNET).expect("into the network");
            act()
        });
        thread.join().expect("the container's part")
    })
}

/// The gateway's and the loopback's address of a family.
fn families() -> [(IpAddr, IpAddr); 2] {
    [
        (GATEWAY.into(), Ipv4Addr::LOCALHOST.into()),
        (GATEWAY6.into(), Ipv6Addr::LOCALHOST.into()),
    ]
}

/// Bytes in which every misplaced one shows: of a length that divides nothing.
fn pattern() -> Vec<u8> {
    let mut state = 1_u32;
    (0..1_000_003)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}

fn write_all(stream: &mut TcpStream) {
    let pattern = pattern();
    let mut left = TRANSFER;
    while left > 0 {
        let part = &pattern[..left.min(pattern.len())];
        stream.write_all(part).expect("written");
        left -= part.len();
    }
    stream.shutdown(Shutdown::Write).expect("ended");
}

fn read_all(stream: &mut TcpStream) {
    let pattern = pattern();
    let mut buffer = vec![0; 256 << 10];
    let mut at = 0;
    loop {
        let got = stream.read(&mut buffer).expect("read");
        if got == 0 {
            assert_eq!(at, TRANSFER);
            return;
        }
        for part in buffer[..got].chunks(pattern.len()) {
            let place = at % pattern.len();
            let (first, rest) = part.split_at(part.len().min(pattern.len() - place));
            assert!(first == &pattern[place..place + first.len()], "at {at}");
            assert!(rest == &pattern[..rest.len()], "after {at}");
            at += part.len();
        }
    }
}

fn both_ways(mut stream: TcpStream) {
    stream.set_read_timeout(PATIENCE).expect("patience");
    stream.set_write_timeout(PATIENCE).expect("patience");
    let mut writer = stream.try_clone().expect("a second handle");
    std::thread::scope(|scope| {
        scope.spawn(|| write_all(&mut writer));
        read_all(&mut stream);
    });
}

fn streams(network: &OwnedFd) {
    for (gateway, loopback) in families() {
        let listener = TcpListener::bind((loopback, 0)).expect("a listener");
        let port = listener.local_addr().expect("its address").port();
        std::thread::scope(|scope| {
            scope.spawn(|| both_ways(listener.accept().expect("a connection").0));
            as_container(network, || {
                both_ways(TcpStream::connect((gateway, port)).expect("connected"));
            });
        });
    }
}

fn refusals(network: &OwnedFd) {
    for (gateway, loopback) in families() {
        // A port that was free a moment ago.
        let port = TcpListener::bind((loopback, 0))
            .and_then(|listener| listener.local_addr())
            .expect("a port")
            .port();
        let own: IpAddr = if gateway.is_ipv4() {
            GUEST.into()
        } else {
            GUEST6.into()
        };
        as_container(network, || {
            let refused = TcpStream::connect((gateway, port)).expect_err("nobody listens");
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
            let socket = UdpSocket::bind((own, 0)).expect("a socket");
            socket.connect((gateway, port)).expect("an address");
            socket.set_read_timeout(PATIENCE).expect("patience");
            socket.send(b"anybody?").expect("sent");
            let refused = socket.recv(&mut [0]).expect_err("nobody listens");
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        });
    }
    // The host has a loopback and nothing else.
    as_container(network, || {
        let nowhere = SocketAddr::from(([192, 0, 2, 1], 9));
        let error = TcpStream::connect(nowhere).expect_err("there is no route");
        assert_eq!(error.kind(), ErrorKind::NetworkUnreachable);
    });
}

/// A socket of the host that sends everything back until an empty datagram comes.
fn echo(socket: &UdpSocket) {
    socket.set_read_timeout(PATIENCE).expect("patience");
    let mut burst = Vec::new();
    loop {
        let mut buffer = vec![0; 70_000];
        let (length, from) = socket.recv_from(&mut buffer).expect("a datagram");
        if length == 0 {
            return;
        }
        buffer.truncate(length);
        burst.push(buffer);
        // Back at once, so that there is something to be put together.
        if burst.len() == BURST || length > 2000 {
            for datagram in burst.drain(..) {
                socket.send_to(&datagram, from).expect("sent");
            }
        }
    }
}

/// Datagrams on their way at once: what any socket's buffer takes.
const BURST: usize = 30;

fn datagrams(network: &OwnedFd) {
    for (gateway, loopback) in families() {
        let socket = UdpSocket::bind((loopback, 0)).expect("a socket");
        let port = socket.local_addr().expect("its address").port();
        std::thread::scope(|scope| {
            scope.spawn(|| echo(&socket));
            as_container(network, || {
                let own: IpAddr = if gateway.is_ipv4() {
                    GUEST.into()
                } else {
                    GUEST6.into()
                };
                let socket = UdpSocket::bind((own, 0)).expect("a socket");
                socket.connect((gateway, port)).expect("an address");
                socket.set_read_timeout(PATIENCE).expect("patience");
                for round in 0..20_u8 {
                    let size = |at: usize| if at % 7 == 6 { 300 } else { 1000 };
                    for at in 0..BURST {
                        let mut bytes = vec![round; size(at)];
                        bytes[0] = at as u8;
                        socket.send(&bytes).expect("sent");
                    }
                    for at in 0..BURST {
                        let mut bytes = [0; 2000];
                        let length = socket.recv(&mut bytes).expect("an answer");
                        assert_eq!((length, bytes[0]), (size(at), at as u8));
                        assert!(bytes[1..length].iter().all(|&byte| byte == round));
                    }
                }
                socket.send(b"").expect("sent");
            });
        });
    }
}

fn large_datagrams(network: &OwnedFd) {
    let bytes = &pattern()[..60_000];
    for (gateway, loopback) in families() {
        let socket = UdpSocket::bind((loopback, 0)).expect("a socket");
        let port = socket.local_addr().expect("its address").port();
        std::thread::scope(|scope| {
            scope.spawn(|| echo(&socket));
            as_container(network, || {
                let own: IpAddr = if gateway.is_ipv4() {
                    GUEST.into()
                } else {
                    GUEST6.into()
                };
                let socket = UdpSocket::bind((own, 0)).expect("a socket");
                socket.connect((gateway, port)).expect("an address");
                socket.set_read_timeout(PATIENCE).expect("patience");
                for length in [1473, 5000, 60_000] {
                    socket.send(&bytes[..length]).expect("sent");
                    let mut answer = vec![0; 70_000];
                    // Below the echo's measure of a large one, a burst is made full.
                    if length < 2000 {
                        for _ in 1..BURST {
                            socket.send(&bytes[..length]).expect("sent");
                        }
                        for _ in 1..BURST {
                            socket.recv(&mut answer).expect("an answer");
                        }
                    }
                    let got = socket.recv(&mut answer).expect("an answer");
                    assert!(answer[..got] == bytes[..length], "{length}");
                }
                socket.send(b"").expect("sent");
            });
        });
    }
}

/// A ping socket, which asks the gateway.
fn ping_socket() -> OwnedFd {
    let flags = SocketFlags::CLOEXEC;
    let protocol = Some(ipproto::ICMP);
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, protocol)
        .expect("a ping socket");
    set_socket_timeout(&socket, Timeout::Recv, PATIENCE).expect("patience");
    rustix::net::connect(&socket, &SocketAddr::from((GATEWAY, 0))).expect("an address");
    socket
}

/// Each socket has a number of its own.
fn pings(network: &OwnedFd) {
    as_container(network, || {
        for _ in 0..2 * PINGS {
            let socket = ping_socket();
            let request = [8, 0, 0, 0, 0, 0, 0, 7];
            send(&socket, &request, SendFlags::empty()).expect("sent");
            let mut answer = [0; 100];
            let (length, _) = recv(&socket, &mut answer[..], RecvFlags::empty()).expect("it");
            assert_eq!((length, answer[0]), (request.len(), 0));
        }
    });
}

fn ping(network: &OwnedFd) {
    as_container(network, || {
        let socket = ping_socket();
        let mut request = vec![8, 0, 0, 0, 0, 0, 0, 7];
        // Larger than the link too.
        request.extend(&pattern()[..4000]);
        send(&socket, &request, SendFlags::empty()).expect("sent");
        let mut answer = vec![0; 10_000];
        let (length, _) = recv(&socket, &mut answer[..], RecvFlags::empty()).expect("an answer");
        assert_eq!((length, answer[0], answer[7]), (request.len(), 0, 7));
        assert!(answer[8..length] == request[8..]);
    });
}

/// Where the host knows that the path takes less than the network's link does.
fn too_large(network: &OwnedFd) {
    const FITS: usize = 1300;
    const LARGE: usize = 1440;
    set_loopback_mtu(1400).expect("a smaller loopback");
    let too_large = |outcome: rustix::io::Result<()>| {
        assert_eq!(outcome.expect_err("too large"), Errno::MSGSIZE);
    };
    for (gateway, loopback) in families() {
        let v6 = gateway.is_ipv6();
        let server = UdpSocket::bind((loopback, 0)).expect("a socket");
        let port = server.local_addr().expect("its address").port();
        let own: IpAddr = if v6 { GUEST6.into() } else { GUEST.into() };
        std::thread::scope(|scope| {
            scope.spawn(|| echo(&server));
            as_container(network, || {
                // One after the other, since what one was told the next must be told again.
                for _ in 0..2 {
                    let socket = UdpSocket::bind((own, 0)).expect("a socket");
                    socket.connect((gateway, port)).expect("an address");
                    socket.set_read_timeout(PATIENCE).expect("patience");
                    // Never in fragments, and whatever is known of the path.
                    set_probing(&socket, v6);
                    let mut bytes = vec![1; LARGE];
                    socket.send(&bytes).expect("sent");
                    too_large(recv(&socket, &mut bytes[..], RecvFlags::empty()).map(|_| ()));
                    // Those that fit still go many at a time.
                    for _ in 0..BURST {
                        socket.send(&bytes[..FITS]).expect("sent");
                    }
                    for _ in 0..BURST {
                        assert_eq!(socket.recv(&mut bytes).expect("an answer"), FITS);
                    }
                }
                let socket = UdpSocket::bind((own, 0)).expect("a socket");
                socket.send_to(b"", (gateway, port)).expect("sent");
            });
        });
    }
    as_container(network, || {
        let socket = ping_socket();
        let mut request = vec![8, 0, 0, 0, 0, 0, 0, 7];
        request.resize(LARGE, 1);
        let mut answer = [0; 2000];
        for _ in 0..2 {
            set_probing(&socket, false);
            send(&socket, &request, SendFlags::empty()).expect("sent");
            too_large(recv(&socket, &mut answer[..], RecvFlags::empty()).map(|_| ()));
            // In fragments, as the sender allows, it arrives.
            let dont = Ipv4PathMtuDiscovery::DONT;
            set_ip_mtu_discover(&socket, dont).expect("in fragments");
            send(&socket, &request, SendFlags::empty()).expect("sent");
            let (length, _) = recv(&socket, &mut answer[..], RecvFlags::empty()).expect("it");
            assert_eq!((length, answer[0]), (LARGE, 0));
        }
    });
    set_loopback_mtu(65_536).expect("the loopback as it was");
}

/// Has a socket send whole what its device takes.
fn set_probing(socket: impl AsFd, v6: bool) {
    match v6 {
        false => set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::PROBE),
        true => set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::PROBE),
    }
    .expect("probing");
}

fn many(network: &OwnedFd) {
    const CONNECTIONS: usize = 200;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener");
    let port = listener.local_addr().expect("its address").port();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut all: Vec<_> = (0..CONNECTIONS)
                .map(|_| listener.accept().expect("a connection").0)
                .collect();
            for stream in &mut all {
                let mut byte = [0];
                stream.read_exact(&mut byte).expect("a byte");
                stream.write_all(&byte).expect("written");
            }
        });
        as_container(network, || {
            let mut all: Vec<_> = (0..CONNECTIONS)
                .map(|_| TcpStream::connect((GATEWAY, port)).expect("connected"))
                .collect();
            for (at, stream) in all.iter_mut().enumerate() {
                stream.set_read_timeout(PATIENCE).expect("patience");
                stream.write_all(&[at as u8]).expect("written");
            }
            for (at, stream) in all.iter_mut().enumerate() {
                let mut byte = [0];
                stream.read_exact(&mut byte).expect("the byte");
                assert_eq!(byte, [at as u8]);
                assert_eq!(stream.read(&mut byte).expect("the end"), 0);
            }
        });
    });
}
