//! Where an API server may be that an agent names: an agent's owner must not have this server connect to itself, to its neighbours
//! on the machine, or to what a cloud tells its machines (SSRF).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use underpass_core::{Networks, RegistrationRules};
use underpass_upstream::Places;

/// The rules of one cluster.
#[derive(Clone, Debug)]
pub struct RegisteredPlaces(Option<Networks>);

impl RegisteredPlaces {
    /// Those of an administrator: their networks and nothing else, or else anywhere but where no API server has a reason to be.
    pub fn new(rules: &RegistrationRules) -> Self {
        let networks: Networks = rules.addresses.iter().copied().collect();
        Self((!rules.addresses.is_empty()).then_some(networks))
    }

    /// May the API server be at this address?
    pub fn allow(&self, address: IpAddr) -> bool {
        match &self.0 {
            Some(networks) => networks.contain(address),
            None => !is_reserved(address) && !is_this_machine(address),
        }
    }
}

impl Places for RegisteredPlaces {
    fn may_be_at(&self, address: IpAddr) -> bool {
        self.allow(address)
    }
}

/// Addresses of metadata services beside the link-local ones, and of Azure's agent on each machine.
const METADATA: [IpAddr; 3] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
];

fn is_reserved(address: IpAddr) -> bool {
    let address = address.to_canonical();
    if METADATA.contains(&address) {
        return true;
    }
    match address {
        IpAddr::V4(address) => is_reserved_v4(address),
        IpAddr::V6(address) => {
            address.is_unspecified()
                || address.is_loopback()
                || address.is_multicast()
                || address.is_unicast_link_local()
                || within_v6(address).any(|inner| is_reserved(inner.into()))
        }
    }
}

fn is_reserved_v4(address: Ipv4Addr) -> bool {
    // 0.0.0.0/8 (this host), and 192.0.0.0/24 of RFC 6890, where Oracle's cloud has a metadata service.
    let [first, second, third, _] = address.octets();
    first == 0
        || (first, second, third) == (192, 0, 0)
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
}

/// IPv4 addresses that a gateway would take a packet to: NAT64 (RFC 6052), 6to4 (RFC 3056), and the old compatible form.
fn within_v6(address: Ipv6Addr) -> impl Iterator<Item = Ipv4Addr> {
    let segments = address.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    let [first, second, third, .., high, low] = segments;
    let nat64 = segments.starts_with(&[0x64, 0xff9b]).then(|| v4(high, low));
    let compatible = segments.starts_with(&[0; 6]).then(|| v4(high, low));
    let sixtofour = (first == 0x2002).then(|| v4(second, third));
    [nat64, compatible, sixtofour].into_iter().flatten()
}

/// The system sends from an address to itself where it has that address. No packet is sent.
fn is_this_machine(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let from = || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect((address, 9))?;
        socket.local_addr()
    };
    from().is_ok_and(|from| from.ip() == address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(networks: &[&str]) -> RegisteredPlaces {
        RegisteredPlaces::new(&RegistrationRules {
            addresses: networks.iter().map(|text| text.parse().unwrap()).collect(),
        })
    }

    fn allowed(places: &RegisteredPlaces, address: &str) -> bool {
        places.allow(address.parse().unwrap())
    }

    #[test]
    fn rule_2_an_agent_sends_the_server_nowhere_near_itself() {
        let places = places(&[]);
        for address in [
            "10.255.254.253",
            "192.0.2.7",
            "203.0.113.9",
            "2001:db8::1",
            "64:ff9b::c000:207",
        ] {
            assert!(allowed(&places, address), "{address}");
        }
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.8.9.1",
            "169.254.169.254",
            "169.254.0.1",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b::7f00:1",
            "2002:7f00:1::1",
            "2002:a9fe:a9fe::",
            "fe80::1",
            "fd00:ec2::254",
            "ff02::1",
        ] {
            assert!(!allowed(&places, address), "{address}");
        }
    }

    #[test]
    fn rule_2_an_address_of_this_machine_is_none_of_an_api_server() {
        // The one from which it would reach another machine.
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        if socket.connect("192.0.2.1:9").is_err() {
            return;
        }
        let own = socket.local_addr().unwrap().ip();
        assert!(!places(&[]).allow(own), "{own}");
    }

    #[test]
    fn rule_2_an_administrators_networks_are_the_only_ones() {
        let places = places(&["127.0.0.1", "10.1.0.0/16"]);
        for (address, expected) in [
            ("127.0.0.1", true),
            ("::ffff:127.0.0.1", true),
            ("127.0.0.2", false),
            ("10.1.2.3", true),
            ("10.2.0.1", false),
            ("203.0.113.9", false),
        ] {
            assert_eq!(allowed(&places, address), expected, "{address}");
        }
    }
}
