//! Datagrams with the address of this host that they came to, and answers that leave from it
//! (ip(7), `IP_PKTINFO`; ipv6(7), `IPV6_RECVPKTINFO`): what a socket that is bound to all addresses
//! has to look at, lest its answers come from another address than was asked.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use super::inet::{Message, send_message, set};

/// The address of this host that a datagram came to, and the interface that it came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Local {
    address: IpAddr,
    interface: u32,
}

/// Has a socket tell of each datagram where it came to.
///
/// # Errors
/// None is to be expected.
pub fn tell_local(socket: impl AsFd, v6: bool) -> io::Result<()> {
    if v6 {
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, &1_i32)
    } else {
        set(&socket, libc::IPPROTO_IP, libc::IP_PKTINFO, &1_i32)
    }
}

/// Receives one datagram: its length, who sent it, and where it came to if the socket tells that.
///
/// # Errors
/// As recvmsg(2); `WouldBlock` where nothing is there.
pub fn receive(
    socket: impl AsFd,
    buffer: &mut [u8],
) -> io::Result<(usize, Option<SocketAddr>, Option<Local>)> {
    let message = Message::receive(socket, buffer, 0)?;
    let v4 = message.control::<libc::in_pktinfo>(libc::IPPROTO_IP, libc::IP_PKTINFO);
    let v6 = message.control::<libc::in6_pktinfo>(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO);
    // For what was sent to many, the address of this host that IPv4 tells beside is one to answer
    // from; IPv6's is the group's, from which nothing can be sent.
    let v4 = v4.map(|told| Local {
        address: IpAddr::from(told.ipi_spec_dst.s_addr.to_ne_bytes()),
        interface: 0,
    });
    let v6 = v6.map(|told| Local {
        address: IpAddr::from(told.ipi6_addr.s6_addr),
        interface: told.ipi6_ifindex,
    });
    let local = v4.or(v6).filter(|local| !local.address.is_multicast());
    Ok((message.length, message.name, local))
}

/// Sends one datagram from that address of this host.
///
/// # Errors
/// As sendmsg(2): `EINVAL` or `EADDRNOTAVAIL` where the address is this host's no more.
pub fn send(socket: impl AsFd, bytes: &[u8], to: SocketAddr, from: Local) -> io::Result<usize> {
    let pieces = [IoSlice::new(bytes)];
    match from.address {
        IpAddr::V4(address) => {
            let told = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr {
                    s_addr: u32::from_ne_bytes(address.octets()),
                },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            let told = (libc::IPPROTO_IP, libc::IP_PKTINFO, told);
            send_message(socket, to, &pieces, Some(told))
        }
        IpAddr::V6(address) => {
            // Elsewhere the route says by which interface.
            let interface = if address.is_unicast_link_local() {
                from.interface
            } else {
                0
            };
            let told = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr {
                    s6_addr: address.octets(),
                },
                ipi6_ifindex: interface,
            };
            let told = (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, told);
            send_message(socket, to, &pieces, Some(told))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn answers_come_from_the_address_that_was_asked() {
        // All of 127.0.0.0/8 is this host's.
        let server = UdpSocket::bind("0.0.0.0:0").unwrap();
        tell_local(&server, false).unwrap();
        let port = server.local_addr().unwrap().port();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        for address in ["127.0.0.1", "127.0.0.9"] {
            let asked: SocketAddr = format!("{address}:{port}").parse().unwrap();
            client.send_to(b"who?", asked).unwrap();
            let mut buffer = [0; 16];
            let (length, from, local) = loop {
                match receive(&server, &mut buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    other => break other.unwrap(),
                }
            };
            assert_eq!((length, from), (4, Some(client.local_addr().unwrap())));
            send(&server, b"me", from.unwrap(), local.unwrap()).unwrap();
            assert_eq!(client.recv_from(&mut buffer).unwrap(), (2, asked));
        }
    }
}
