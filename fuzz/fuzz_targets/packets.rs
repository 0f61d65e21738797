//! Everything that is ever asked of bytes from a network's device.
#![no_main]

use moss::slirp::egress::wire::{icmp, ip, tcp, udp, vnet};

fn transport(pair: ip::Pair, protocol: u8, payload: &[u8]) {
    let _ = pair.verifies(protocol, payload);
    if let Some(segment) = tcp::parse(payload) {
        let _ = (segment.options(), segment.len(), segment.is_empty());
    }
    let _ = udp::parse(payload);
    match icmp::parse(pair, payload) {
        Some(icmp::Message::Echo(request)) => {
            let mut message = request.message.to_vec();
            icmp::set_id(pair, &mut message, !request.id);
        }
        Some(icmp::Message::TooBig(told)) => {
            let _ = ip::parse_quoted(told.quoted);
        }
        None => {}
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((_, packet)) = vnet::parse(bytes) else {
        return;
    };
    if let Some((pair, protocol, rest)) = ip::parse_quoted(packet) {
        // Without the checksums, which a fuzzer rarely meets.
        transport(pair, protocol, rest);
    }
    if let Some(packet) = ip::parse(packet) {
        transport(packet.pair, packet.protocol, packet.payload);
    }
});
