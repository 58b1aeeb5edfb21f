//! The peer of a connection, and the client of a request on it.
//!
//! The two differ behind a load balancer that ends TLS and speaks HTTP to us: then one connection carries the requests of many
//! clients, and each says in `X-Forwarded-For` where it comes from. Any client can write that header. So an entry is believed
//! as far as its writer is trusted: our own peer wrote the last entry, the host that this entry names wrote the one before it,
//! and so on.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{Networks, limits, list};

/// Each proxy adds the address that it got the request from.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The peer of a connection: a client, or a proxy that is trusted to name its client.
///
/// The address is not the client's, as a rule, where the peer is a proxy: [`Peer::client`] tells the client of a request.
#[derive(Clone, Debug)]
pub struct Peer {
    address: IpAddr,
    /// The proxies that are trusted, where the peer is one of them.
    trusted: Option<Networks>,
}

impl Peer {
    /// The peer at `address`, as the socket or a trusted PROXY protocol header says. `proxies` are trusted to name their
    /// clients in `X-Forwarded-For`.
    pub fn new(address: IpAddr, proxies: &Networks) -> Self {
        let address = address.to_canonical();
        Self {
            address,
            trusted: proxies.contain(address).then(|| proxies.clone()),
        }
    }

    /// The peer's own address, for bounds that apply before there is a request.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The client that these headers' request comes from: the last entry of `X-Forwarded-For` that is no trusted proxy, where
    /// the peer is one. An entry that is no address says nothing, and neither do those before it: then the client is the last
    /// proxy that is known.
    ///
    /// To be called before the headers are cleaned: `Connection: X-Forwarded-For` must not take it away.
    pub fn client(&self, headers: &HeaderMap) -> IpAddr {
        let Some(trusted) = &self.trusted else {
            return self.address;
        };
        let lines = headers.get_all(X_FORWARDED_FOR).iter().rev();
        let entries = lines.flat_map(|line| list::tokens(line).rev());
        let mut known = self.address;
        for entry in entries.take(limits::FORWARDED_HOPS) {
            let Some(address) = address(entry) else { break };
            known = address;
            if !trusted.contain(address) {
                break;
            }
        }
        known
    }

    /// Is the peer a proxy that asks for others? The connection's own proofs are then the proxy's, and not its clients'.
    pub fn asks_for_others(&self) -> bool {
        self.trusted.is_some()
    }
}

/// A client's own connection.
impl From<IpAddr> for Peer {
    fn from(address: IpAddr) -> Self {
        Self::new(address, &Networks::default())
    }
}

/// One entry: an address, with or without a port, an IPv6 one with or without brackets.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(entry).ok()?;
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    let (address, port) = match text.strip_prefix('[') {
        Some(bracketed) => {
            let (address, port) = bracketed.split_once(']')?;
            (IpAddr::V6(address.parse().ok()?), port)
        }
        None => {
            let (address, _) = text.split_once(':')?;
            (
                IpAddr::V4(address.parse().ok()?),
                text.get(address.len()..)?,
            )
        }
    };
    let sane = port.is_empty() || port.strip_prefix(':')?.parse::<u16>().is_ok();
    sane.then_some(address.to_canonical())
}

/// An address for the next hop: one, and nothing else.
pub fn forwarded_for(client: IpAddr) -> Option<HeaderValue> {
    HeaderValue::from_str(&client.to_canonical().to_string()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies() -> Networks {
        ["10.0.0.0/8", "2001:db8:1::/48"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect()
    }

    fn client(peer: &str, lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(
                X_FORWARDED_FOR,
                HeaderValue::from_bytes(line.as_bytes()).unwrap(),
            );
        }
        let peer = Peer::new(peer.parse().unwrap(), &proxies());
        peer.client(&headers).to_string()
    }

    #[test]
    fn rule_4_a_client_cannot_say_where_it_is() {
        for line in ["203.0.113.9", "10.0.0.2", "::1", "x"] {
            assert_eq!(client("192.0.2.1", &[line]), "192.0.2.1");
        }
        // The client's entries stand before the proxy's.
        assert_eq!(client("10.0.0.1", &["203.0.113.9, 192.0.2.1"]), "192.0.2.1");
        assert_eq!(
            client("10.0.0.1", &["203.0.113.9", "192.0.2.1"]),
            "192.0.2.1"
        );
        assert_eq!(client("10.0.0.1", &["10.0.0.7, 192.0.2.1"]), "192.0.2.1");
    }

    #[test]
    fn the_last_that_is_no_proxy_is_the_client() {
        assert_eq!(client("10.0.0.1", &["192.0.2.1"]), "192.0.2.1");
        let through_three = ["9.9.9.9, 192.0.2.1 ,10.2.0.1", "2001:db8:1::5,,10.3.0.1"];
        assert_eq!(client("::ffff:10.0.0.1", &through_three), "192.0.2.1");
        // One that asks for itself.
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["10.0.0.9, 10.0.0.8"]), "10.0.0.9");
    }

    #[test]
    fn what_stands_before_nonsense_is_not_believed() {
        for line in [
            "203.0.113.9, unknown",
            "203.0.113.9, 192.0.2.1.5",
            "203.0.113.9, \u{e9}",
            "203.0.113.9 192.0.2.1",
            "\"203.0.113.9\"",
            "192.0.2.1:",
            "192.0.2.1:70000",
            "192.0.2.1:x",
            "[192.0.2.1]",
            "[2001:db8::1",
            "[2001:db8::1]x",
            "2001:db8::1%eth0",
            "for=192.0.2.1",
        ] {
            assert_eq!(client("10.0.0.1", &[line]), "10.0.0.1", "{line}");
        }
        assert_eq!(client("10.0.0.1", &["192.0.2.1, -, 10.4.4.4"]), "10.4.4.4");
    }

    #[test]
    fn ports_and_brackets_are_taken_off() {
        for (entry, expected) in [
            ("192.0.2.1:4711", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("[::ffff:192.0.2.1]:9", "192.0.2.1"),
            // Eight groups and no port: a port needs brackets.
            ("2001:db8:1:2:3:4:5:443", "2001:db8:1:2:3:4:5:443"),
        ] {
            assert_eq!(client("10.0.0.1", &[entry]), expected, "{entry}");
        }
    }

    #[test]
    fn rule_11_a_long_list_is_not_walked_to_its_end() {
        let hops = vec!["10.0.0.2"; limits::FORWARDED_HOPS].join(",");
        let line = format!("192.0.2.1,{hops}");
        assert_eq!(client("10.0.0.1", &[&line]), "10.0.0.2");
    }
}
