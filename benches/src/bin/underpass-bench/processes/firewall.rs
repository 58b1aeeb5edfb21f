//! A firewall between two networks that loses its state without a word.

use std::collections::HashMap;

use anyhow::{Result, bail};

/// A flow's ends as the agents' side sees them: protocol, address and port there, address and port here.
type Flow = (u8, [u8; 4], u16, [u8; 4], u16);

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Which way a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Towards the agents.
    In,
    /// From them.
    Out,
}

/// Decides on each packet.
#[derive(Debug, Default)]
pub(super) struct Firewall {
    /// The flows, and whether they carry.
    flows: HashMap<Flow, bool>,
    drop_udp: bool,
}

impl Firewall {
    /// Does as the harness asks.
    ///
    /// # Errors
    /// Where it asks for something else.
    pub(super) fn order(&mut self, order: &str) -> Result<()> {
        match order {
            // Packets for a flow are dropped until the agents' side has sent something.
            "forget-udp" => self.flows.iter_mut().for_each(|(flow, carries)| {
                *carries &= flow.0 != UDP;
            }),
            "drop-udp" => self.drop_udp = true,
            // Packets of a connection that is not known are dropped, in both directions, unless it begins.
            "forget-tcp" => self.flows.iter_mut().for_each(|(flow, carries)| {
                *carries &= flow.0 != TCP;
            }),
            "heal" => self.drop_udp = false,
            other => bail!("no such order: {other}"),
        }
        Ok(())
    }

    /// Whether a packet may pass. Packets of other protocols than TCP and UDP over IPv4 may.
    pub(super) fn passes(&mut self, way: Way, packet: &[u8]) -> bool {
        let Some((flow, begins)) = parse(way, packet) else {
            return true;
        };
        match flow.0 {
            UDP if self.drop_udp => false,
            UDP if way == Way::Out => {
                self.flows.insert(flow, true);
                true
            }
            _ if begins => {
                self.flows.insert(flow, true);
                true
            }
            // Other flows begin with their first packet.
            _ => *self.flows.entry(flow).or_insert(true),
        }
    }
}

/// The packet's flow, and whether it begins a TCP connection.
fn parse(way: Way, packet: &[u8]) -> Option<(Flow, bool)> {
    let first = *packet.first()?;
    if first >> 4 != 4 {
        return None;
    }
    let header = usize::from(first & 0xf) * 4;
    let protocol = *packet.get(9)?;
    if protocol != TCP && protocol != UDP {
        return None;
    }
    let address = |at: usize| packet.get(at..at + 4)?.try_into().ok();
    let port = |at: usize| Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?));
    let (from, to) = (address(12)?, address(16)?);
    let (from_port, to_port) = (port(header)?, port(header + 2)?);
    let flow = match way {
        Way::Out => (protocol, from, from_port, to, to_port),
        Way::In => (protocol, to, to_port, from, from_port),
    };
    // SYN without ACK (RFC 9293, section 3.1).
    let begins = protocol == TCP && packet.get(header + 13)? & 0x12 == 0x02;
    Some((flow, begins))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(protocol: u8, way: Way, agents_port: u16, flags: u8) -> Vec<u8> {
        let (agents, server) = ([198, 18, 0, 2], [198, 18, 0, 1]);
        let mut packet = vec![0; 40];
        packet[0] = 0x45;
        packet[9] = protocol;
        let ((from, from_port), (to, to_port)) = match way {
            Way::Out => ((agents, agents_port), (server, 443)),
            Way::In => ((server, 443), (agents, agents_port)),
        };
        packet[12..16].copy_from_slice(&from);
        packet[16..20].copy_from_slice(&to);
        packet[20..22].copy_from_slice(&u16::to_be_bytes(from_port));
        packet[22..24].copy_from_slice(&u16::to_be_bytes(to_port));
        packet[33] = flags;
        packet
    }

    #[test]
    fn a_udp_flow_that_is_forgotten_lives_again_once_the_agent_sends() {
        let mut firewall = Firewall::default();
        assert!(firewall.passes(Way::Out, &packet(UDP, Way::Out, 1, 0)));
        assert!(firewall.passes(Way::In, &packet(UDP, Way::In, 1, 0)));
        firewall.order("forget-udp").unwrap();
        assert!(!firewall.passes(Way::In, &packet(UDP, Way::In, 1, 0)));
        assert!(firewall.passes(Way::Out, &packet(UDP, Way::Out, 1, 0)));
        assert!(firewall.passes(Way::In, &packet(UDP, Way::In, 1, 0)));
        firewall.order("drop-udp").unwrap();
        assert!(!firewall.passes(Way::Out, &packet(UDP, Way::Out, 1, 0)));
        firewall.order("heal").unwrap();
        assert!(firewall.passes(Way::Out, &packet(UDP, Way::Out, 1, 0)));
    }

    #[test]
    fn a_tcp_connection_that_is_forgotten_is_dead_and_others_begin() {
        const SYN: u8 = 2;
        const ACK: u8 = 0x10;
        let mut firewall = Firewall::default();
        assert!(firewall.passes(Way::Out, &packet(TCP, Way::Out, 1, SYN)));
        firewall.order("forget-tcp").unwrap();
        for way in [Way::In, Way::Out] {
            assert!(!firewall.passes(way, &packet(TCP, way, 1, ACK)));
        }
        assert!(firewall.passes(Way::Out, &packet(TCP, Way::Out, 2, SYN)));
        assert!(firewall.passes(Way::In, &packet(TCP, Way::In, 2, SYN | ACK)));
        assert!(firewall.order("burn").is_err());
    }
}
