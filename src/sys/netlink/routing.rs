//! Routes, and the rules by which a packet finds its table of them (ip-route(8), ip-rule(8)).

use std::io;
use std::net::IpAddr;

use super::message::{CREATE, EXCLUSIVE, Message, REPLACE};
use super::{Block, Socket};

// linux/rtnetlink.h
const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const GET_ROUTE: u16 = 26;
const NEW_RULE: u16 = 32;
const DELETE_RULE: u16 = 33;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTA_TABLE: u16 = 15;
/// `RTPROT_STATIC`.
const STATIC: u8 = 4;

// linux/fib_rules.h
const FRA_DST: u16 = 1;
const FRA_SRC: u16 = 2;
const FRA_IIFNAME: u16 = 3;
const FRA_PRIORITY: u16 = 6;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_TABLE: u16 = 15;
const FRA_IP_PROTO: u16 = 22;
const FRA_SPORT_RANGE: u16 = 23;
const FRA_DPORT_RANGE: u16 = 24;

/// The main table, and that of the host's own addresses.
pub const MAIN: u32 = 254;
/// The table of local addresses.
pub const LOCAL: u32 = 255;

/// What becomes of packets to a route's destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// They are sent on.
    Unicast = 1,
    /// They are for this host.
    Local = 2,
}

/// A route.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// Where to.
    pub to: Block,
    /// What becomes of them.
    pub kind: Kind,
    /// By way of which neighbour.
    pub via: Option<IpAddr>,
    /// By which interface.
    pub interface: Option<u32>,
    /// Which address a connection has that does not choose one.
    pub source: Option<IpAddr>,
    /// In which table.
    pub table: u32,
}

/// What a rule does with the packets that it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Looks for a route in this table; the next rule where there is none.
    Table(u32),
    /// Drops them without a word.
    Blackhole,
    /// Refuses them.
    Prohibit,
}

/// A rule.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rule<'a> {
    /// Rules are tried by rising preference.
    pub preference: u32,
    /// IPv6, not IPv4.
    pub ipv6: bool,
    /// Came in by this interface.
    pub interface: Option<&'a str>,
    /// From there.
    pub from: Option<Block>,
    /// To there.
    pub to: Option<Block>,
    /// Of this protocol of IP.
    pub protocol: Option<u8>,
    /// From this port, where the protocol has ports.
    pub source_port: Option<u16>,
    /// To this port.
    pub destination_port: Option<u16>,
    /// A route to everywhere does not count, and rules further on are tried.
    pub no_default: bool,
    /// What is done.
    pub action: Action,
}

impl Default for Action {
    fn default() -> Self {
        Self::Table(MAIN)
    }
}

fn family(ipv6: bool) -> u8 {
    u8::try_from(if ipv6 { libc::AF_INET6 } else { libc::AF_INET }).unwrap_or_default()
}

/// The part of a table's number that fits the fixed part; the whole goes into an attribute.
fn short(table: u32) -> u8 {
    u8::try_from(table).unwrap_or(0)
}

impl Route {
    fn message(&self, kind: u16, flags: u16) -> Message {
        // rtm_scope: host for local addresses, link without a gateway, else universe.
        let scope = match (self.kind, self.via) {
            (Kind::Local, _) => 254,
            (Kind::Unicast, None) => 253,
            (Kind::Unicast, Some(_)) => 0,
        };
        let fixed = [
            family(self.to.0.is_ipv6()),
            self.to.1,
            0,
            0,
            short(self.table),
            STATIC,
            scope,
            self.kind as u8,
            0,
            0,
            0,
            0,
        ];
        let mut message = Message::new(kind, flags, &fixed).u32(RTA_TABLE, self.table);
        if self.to.1 > 0 {
            message = message.address(RTA_DST, self.to.0);
        }
        if let Some(via) = self.via {
            message = message.address(RTA_GATEWAY, via);
        }
        if let Some(interface) = self.interface {
            message = message.u32(RTA_OIF, interface);
        }
        match self.source {
            Some(source) => message.address(RTA_PREFSRC, source),
            None => message,
        }
    }
}

impl Rule<'_> {
    fn message(&self, kind: u16, flags: u16) -> Message {
        let length = |block: Option<Block>| block.map_or(0, |(_, length)| length);
        // FR_ACT_TO_TBL, FR_ACT_BLACKHOLE, FR_ACT_PROHIBIT
        let (table, action) = match self.action {
            Action::Table(table) => (table, 1),
            Action::Blackhole => (0, 6),
            Action::Prohibit => (0, 8),
        };
        let fixed = [
            family(self.ipv6),
            length(self.to),
            length(self.from),
            0,
            short(table),
            0,
            0,
            action,
            0,
            0,
            0,
            0,
        ];
        let mut message = Message::new(kind, flags, &fixed).u32(FRA_PRIORITY, self.preference);
        if table != 0 {
            message = message.u32(FRA_TABLE, table);
        }
        if self.no_default {
            message = message.u32(FRA_SUPPRESS_PREFIXLEN, 0);
        }
        if let Some(interface) = self.interface {
            message = message.text(FRA_IIFNAME, interface);
        }
        if let Some(from) = self.from {
            message = message.address(FRA_SRC, from.0);
        }
        if let Some(to) = self.to {
            message = message.address(FRA_DST, to.0);
        }
        if let Some(protocol) = self.protocol {
            message = message.u8(FRA_IP_PROTO, protocol);
        }
        let ports = [
            (FRA_SPORT_RANGE, self.source_port),
            (FRA_DPORT_RANGE, self.destination_port),
        ];
        for (attribute, port) in ports {
            if let Some(port) = port {
                let [a, b] = port.to_ne_bytes();
                message = message.bytes(attribute, &[a, b, a, b]);
            }
        }
        message
    }
}

impl Socket {
    /// Adds a route.
    pub fn add_route(&self, route: &Route) -> io::Result<()> {
        self.request(route.message(NEW_ROUTE, CREATE | EXCLUSIVE))
    }

    /// Adds a route, in place of one with the same destination.
    pub fn replace_route(&self, route: &Route) -> io::Result<()> {
        self.request(route.message(NEW_ROUTE, CREATE | REPLACE))
    }

    /// Removes a route.
    pub fn delete_route(&self, route: &Route) -> io::Result<()> {
        self.request(route.message(DELETE_ROUTE, 0))
    }

    /// Adds a rule.
    pub fn add_rule(&self, rule: &Rule<'_>) -> io::Result<()> {
        self.request(rule.message(NEW_RULE, CREATE | EXCLUSIVE))
    }

    /// Removes a rule.
    pub fn delete_rule(&self, rule: &Rule<'_>) -> io::Result<()> {
        self.request(rule.message(DELETE_RULE, 0))
    }

    /// Destinations of the main table's routes but the default one: what the namespace reaches.
    pub fn destinations(&self, ipv6: bool) -> io::Result<Vec<Block>> {
        let mut fixed = [0; 12];
        fixed[0] = family(ipv6);
        let mut found = Vec::new();
        self.dump(Message::new(GET_ROUTE, 0, &fixed), |head, attributes| {
            let table = attributes.u32(RTA_TABLE).unwrap_or_else(|| head[4].into());
            let to = attributes.address(RTA_DST);
            if let Some(to) = to.filter(|_| table == MAIN) {
                found.push((to, head[1]));
            }
        })?;
        Ok(found)
    }
}
