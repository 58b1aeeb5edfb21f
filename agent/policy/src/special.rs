//! Addresses that a name must not lead to, however they are written.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The reason that an address is special.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpecialAddress {
    /// The agent's own machine, or pod.
    Loopback,
    /// The agent's own link, and the metadata services of most clouds.
    LinkLocal,
    /// No address: Linux connects to the machine itself.
    Unspecified,
    /// Many machines at once, or all of a network.
    Multicast,
    /// A cloud's metadata service outside the link-local range.
    Metadata,
}

impl fmt::Display for SpecialAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loopback => "a loopback address",
            Self::LinkLocal => "a link-local address",
            Self::Unspecified => "an unspecified address",
            Self::Multicast => "a multicast or broadcast address",
            Self::Metadata => "the address of a cloud's metadata service",
        })
    }
}

/// RFC 6890, and RFC 1122, section 3.2.1.3, for 0.0.0.0/8. Below them, metadata services that are not link-local: Alibaba Cloud, Azure,
/// Oracle Cloud Classic.
const V4: [(Ipv4Net, SpecialAddress); 8] = [
    (v4([0, 0, 0, 0], 8), SpecialAddress::Unspecified),
    (v4([127, 0, 0, 0], 8), SpecialAddress::Loopback),
    (v4([169, 254, 0, 0], 16), SpecialAddress::LinkLocal),
    (v4([224, 0, 0, 0], 4), SpecialAddress::Multicast),
    (v4([255, 255, 255, 255], 32), SpecialAddress::Multicast),
    (v4([100, 100, 100, 200], 32), SpecialAddress::Metadata),
    (v4([168, 63, 129, 16], 32), SpecialAddress::Metadata),
    (v4([192, 0, 0, 192], 32), SpecialAddress::Metadata),
];

/// RFC 4291, section 2.4. Below it, metadata services: AWS (with the DNS and time services beside it), Google Cloud, Oracle Cloud,
/// Scaleway, Akamai, Alibaba Cloud.
const V6: [(Ipv6Net, SpecialAddress); 10] = [
    (v6(Ipv6Addr::UNSPECIFIED, 128), SpecialAddress::Unspecified),
    (v6(Ipv6Addr::LOCALHOST, 128), SpecialAddress::Loopback),
    (
        v6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
        SpecialAddress::LinkLocal,
    ),
    (
        v6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
        SpecialAddress::Multicast,
    ),
    (
        v6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0), 32),
        SpecialAddress::Metadata,
    ),
    (
        v6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254), 128),
        SpecialAddress::Metadata,
    ),
    (
        v6(Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe), 128),
        SpecialAddress::Metadata,
    ),
    (
        v6(Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42), 128),
        SpecialAddress::Metadata,
    ),
    (
        v6(Ipv6Addr::new(0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1), 128),
        SpecialAddress::Metadata,
    ),
    (
        v6(Ipv6Addr::new(0xfd00, 0x100, 0, 0, 0, 0, 0x100, 0x200), 128),
        SpecialAddress::Metadata,
    ),
];

/// Prefixes of IPv6 behind which the next 32 bits are an IPv4 address that packets reach in the end: IPv4-compatible addresses
/// (RFC 4291, section 2.5.5.1), IPv4-translated addresses (RFC 2765, section 2.1), NAT64 (RFC 6052), 6to4 (RFC 3056). IPv4-mapped
/// addresses are no IPv6 addresses to begin with.
const CARRYING_V4: [Ipv6Net; 4] = [
    v6(Ipv6Addr::UNSPECIFIED, 96),
    v6(Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, 0, 0), 96),
    v6(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96),
    v6(Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
];

/// NAT64 for local use (RFC 8215): each network chooses prefixes inside it, of these lengths (RFC 6052, section 2.2).
const LOCAL_NAT64: Ipv6Net = v6(Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48);
const LOCAL_NAT64_PREFIXES: [u8; 4] = [96, 64, 56, 48];

/// RFC 6052, section 2.2: bits 64 to 71 are no part of the IPv4 address.
const RESERVED_OCTET: u8 = 8;

const fn v4([a, b, c, d]: [u8; 4], prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(address: Ipv6Addr, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(address, prefix)
}

/// The reason that this address is special, and the range of such addresses that it is in, in the address's own form.
pub(crate) fn special(address: IpAddr) -> Option<(SpecialAddress, IpNet)> {
    match address.to_canonical() {
        IpAddr::V4(address) => special_v4(address).map(|(range, kind)| (kind, range.into())),
        IpAddr::V6(address) => {
            let own = V6.iter().find(|(range, _)| range.contains(&address));
            let own = own.map(|(range, kind)| (*kind, (*range).into()));
            own.or_else(|| carried(address))
        }
    }
}

fn special_v4(address: Ipv4Addr) -> Option<(Ipv4Net, SpecialAddress)> {
    V4.into_iter().find(|(range, _)| range.contains(&address))
}

/// Of the IPv4 address inside.
fn carried(address: Ipv6Addr) -> Option<(SpecialAddress, IpNet)> {
    if LOCAL_NAT64.contains(&address) {
        // Only its network knows the prefix's length, so that each counts. A short prefix leaves zeros behind the address, which read
        // as 0.0.0.0 behind a long one; no translator leads there.
        let readings = LOCAL_NAT64_PREFIXES.into_iter();
        let mut readings = readings.filter_map(|prefix| carried_behind(address, prefix));
        return readings.find(|(kind, _)| *kind != SpecialAddress::Unspecified);
    }
    let mut prefixes = CARRYING_V4.into_iter();
    let prefix = prefixes.find(|prefix| prefix.contains(&address))?;
    carried_behind(address, prefix.prefix_len())
}

/// Of the IPv4 address behind so many bits, which are whole octets.
fn carried_behind(address: Ipv6Addr, prefix: u8) -> Option<(SpecialAddress, IpNet)> {
    let octets = (0..).zip(address.octets());
    let mut octets = octets.filter(|(index, _)| *index >= prefix / 8 && *index != RESERVED_OCTET);
    let mut next = || octets.next().map(|(_, octet)| octet);
    let inside = Ipv4Addr::new(next()?, next()?, next()?, next()?);
    let (range, kind) = special_v4(inside)?;
    let mut length = prefix + range.prefix_len();
    if prefix / 8 <= RESERVED_OCTET && length > RESERVED_OCTET * 8 {
        length += 8;
    }
    let range = Ipv6Net::new(address, length).ok()?;
    Some((kind, range.trunc().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(address: &str) -> Option<SpecialAddress> {
        special(address.parse().unwrap()).map(|(kind, _)| kind)
    }

    #[test]
    fn rule_17_special_addresses_are_known_in_every_disguise() {
        use SpecialAddress::{LinkLocal, Loopback, Metadata, Multicast, Unspecified};
        for (address, expected) in [
            ("127.0.0.1", Loopback),
            ("127.255.255.254", Loopback),
            ("::1", Loopback),
            ("::ffff:127.0.0.1", Loopback),
            ("::127.0.0.1", Loopback),
            ("64:ff9b::7f00:1", Loopback),
            ("2002:7f00:1::", Loopback),
            ("2002:7f00:1:1:2:3:4:5", Loopback),
            ("0.0.0.0", Unspecified),
            ("0.1.2.3", Unspecified),
            ("::", Unspecified),
            ("::ffff:0.0.0.0", Unspecified),
            ("169.254.169.254", LinkLocal),
            ("::ffff:169.254.169.254", LinkLocal),
            ("64:ff9b::a9fe:a9fe", LinkLocal),
            ("2002:a9fe:a9fe::1", LinkLocal),
            ("fe80::1", LinkLocal),
            ("febf::1", LinkLocal),
            ("224.0.0.1", Multicast),
            ("239.255.255.250", Multicast),
            ("255.255.255.255", Multicast),
            ("ff02::1", Multicast),
            ("fd00:ec2::254", Metadata),
            ("fd00:ec2::23", Metadata),
            ("fd20:ce::254", Metadata),
            ("fd00:c1::a9fe:a9fe", Metadata),
            ("fd00:42::42", Metadata),
            ("fd00:a9fe:a9fe::1", Metadata),
            ("fd00:100::100:200", Metadata),
            ("168.63.129.16", Metadata),
            ("::ffff:168.63.129.16", Metadata),
            ("100.100.100.200", Metadata),
            ("192.0.0.192", Metadata),
            ("::ffff:0:127.0.0.1", Loopback),
            ("::ffff:0:169.254.169.254", LinkLocal),
            // 64:ff9b:1::/48, with a prefix of 96, 64, 56 and 48 bits.
            ("64:ff9b:1::a9fe:a9fe", LinkLocal),
            ("64:ff9b:1:ffff::127.0.0.1", Loopback),
            ("64:ff9b:1:2:a9:fea9:fe00:0", LinkLocal),
            ("64:ff9b:1:2a9:fe:a9fe::", LinkLocal),
            ("64:ff9b:1:a9fe:a9:fe00::", LinkLocal),
            ("64:ff9b:1:a83f:81:1000::", Metadata),
        ] {
            assert_eq!(kind(address), Some(expected), "{address}");
        }
        for ordinary in [
            "10.0.0.1",
            "128.0.0.1",
            "169.253.0.1",
            "192.0.2.1",
            "fd00::1",
            "fec0::1",
            "2001:db8::1",
            "64:ff9b::a00:1",
            "64:ff9b:1::a00:1",
            "64:ff9b:1:2:a:0:100:0",
            "64:ff9b:1:20a:0:1::",
            "64:ff9b:1:a00:0:100::",
            "64:ff9b:2::7f00:1",
            "::ffff:0:10.0.0.1",
            "fd00:42::41",
            "fd00:ec3::254",
            "2002:a00:1::1",
            "::ffff:10.0.0.1",
        ] {
            assert_eq!(kind(ordinary), None, "{ordinary}");
        }
    }

    #[test]
    fn the_range_has_the_form_of_the_address() {
        let range = |address: &str| special(address.parse().unwrap()).unwrap().1.to_string();
        assert_eq!(range("127.0.0.1"), "127.0.0.0/8");
        assert_eq!(range("::ffff:127.0.0.1"), "127.0.0.0/8");
        assert_eq!(range("64:ff9b::7f00:1"), "64:ff9b::7f00:0/104");
        assert_eq!(range("2002:a9fe:a9fe::1"), "2002:a9fe::/32");
        assert_eq!(range("::ffff:0:127.0.0.1"), "::ffff:0:7f00:0/104");
        for (address, expected) in [
            ("64:ff9b:1::7f00:1", "64:ff9b:1::7f00:0/104"),
            ("64:ff9b:1:2:7f:0:100:0", "64:ff9b:1:2:7f::/80"),
            ("64:ff9b:1:27f:0:1::", "64:ff9b:1:27f::/64"),
            ("64:ff9b:1:2a9:fe:a9fe::", "64:ff9b:1:2a9:fe::/80"),
            ("64:ff9b:1:7f00:0:100::", "64:ff9b:1:7f00::/56"),
            ("64:ff9b:1:a83f:81:1000::", "64:ff9b:1:a83f:81:1000::/88"),
        ] {
            assert_eq!(range(address), expected, "{address}");
        }
    }
}
