//! Decides which addresses may be dialled, and for which purpose (threats T5 and T6).
//!
//! `dial` checks every address here after it resolved a name, so a name cannot hide an address. An IPv6 address that
//! contains an IPv4 address is treated as that address. Nothing in this module does input or output.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::own::OwnSockets;

/// The purpose of a connection. It decides which addresses are refused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Purpose {
    /// A registry or its token server. Private addresses are allowed, because many registries are on-premises.
    Registry,
    /// A redirect of a registry on a public address. Only public addresses are allowed.
    RedirectFromPublic,
    /// A redirect of a registry on a private address. Private addresses are allowed.
    RedirectFromPrivate,
    /// A host that is not listed, named by a client.
    Tunnel,
    /// The parent proxy. The administrator named it, and it is often on loopback, so that is allowed.
    Parent,
    /// A receiver of notifications about pushes. Private addresses are allowed. Services on loopback and link-local
    /// addresses trust their neighbours, so those need an entry in `allow_addresses`.
    Webhook,
}

/// The reason why an address is refused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub(crate) enum AddressRefusal {
    /// An address of this machine, with a port that entrepot listens on. No exception lifts this.
    #[error("entrepot itself")]
    Own,
    /// An address of this machine, on a port that entrepot does not listen on.
    #[error("an address of this machine")]
    ThisMachine,
    /// `127.0.0.0/8`, `::1`.
    #[error("a loopback address")]
    Loopback,
    /// `169.254.0.0/16`, `fe80::/10` and the addresses where clouds keep instance metadata.
    #[error("a link-local address")]
    LinkLocal,
    /// `0.0.0.0/8`, `::`.
    #[error("an unspecified address")]
    Unspecified,
    /// `224.0.0.0/4`, `ff00::/8`, `255.255.255.255`.
    #[error("a multicast or broadcast address")]
    Multicast,
    /// Not routed on the Internet, but a host on the Internet redirected to it.
    #[error("a private address to which a public host redirected")]
    Private,
}

impl Purpose {
    /// All purposes, in the order of their declaration, which is the index of their pools.
    pub(crate) const ALL: [Self; 6] = [
        Self::Registry,
        Self::RedirectFromPublic,
        Self::RedirectFromPrivate,
        Self::Tunnel,
        Self::Parent,
        Self::Webhook,
    ];
}

/// The rules, with the administrator's exceptions and our own sockets.
#[derive(Clone, Default)]
pub(crate) struct AddressPolicy {
    allow: Vec<IpNet>,
    own: OwnSockets,
}

impl AddressPolicy {
    /// `allow` lifts the refusal of loopback, link-local, private and this machine's addresses, but never of `own`
    /// sockets.
    pub(crate) fn new(allow: Vec<IpNet>, own: OwnSockets) -> Self {
        Self { allow, own }
    }

    /// The sockets that entrepot listens on.
    pub(crate) fn own(&self) -> &OwnSockets {
        &self.own
    }

    /// Whether `address` may be dialled for `purpose`.
    pub(crate) fn check(&self, purpose: Purpose, address: SocketAddr) -> Result<(), AddressRefusal> {
        let ip = judged(address.ip());
        if self.own.contains(SocketAddr::new(ip, address.port())) {
            return Err(AddressRefusal::Own);
        }
        let allowed = || self.allow.iter().any(|net| net.contains(&ip) || net.contains(&address.ip()));
        match classify(ip) {
            // A service on this machine would take the connection for a local one. The administrator names the parent.
            Class::Public | Class::Private if purpose != Purpose::Parent && self.own.has_address(ip) && !allowed() => {
                Err(AddressRefusal::ThisMachine)
            }
            Class::Public => Ok(()),
            Class::Unspecified => Err(AddressRefusal::Unspecified),
            Class::Multicast => Err(AddressRefusal::Multicast),
            _ if purpose == Purpose::Parent || allowed() => Ok(()),
            Class::Loopback => Err(AddressRefusal::Loopback),
            Class::LinkLocal => Err(AddressRefusal::LinkLocal),
            Class::Private if purpose == Purpose::RedirectFromPublic => Err(AddressRefusal::Private),
            Class::Private => Ok(()),
        }
    }
}

/// Whether an address is routed on the Internet.
pub(crate) fn is_public(ip: IpAddr) -> bool {
    classify(judged(ip)) == Class::Public
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    Public,
    Private,
    Loopback,
    LinkLocal,
    Unspecified,
    Multicast,
}

/// The first match decides (IANA special-purpose address registries). Other IPv4 addresses are public.
const V4: [([u8; 4], u32, Class); 18] = [
    ([0, 0, 0, 0], 8, Class::Unspecified),
    ([127, 0, 0, 0], 8, Class::Loopback),
    ([169, 254, 0, 0], 16, Class::LinkLocal),
    // Metadata services of clouds outside the link-local range.
    ([100, 100, 100, 200], 32, Class::LinkLocal),
    ([168, 63, 129, 16], 32, Class::LinkLocal),
    ([10, 0, 0, 0], 8, Class::Private),
    ([172, 16, 0, 0], 12, Class::Private),
    ([192, 168, 0, 0], 16, Class::Private),
    ([100, 64, 0, 0], 10, Class::Private),
    ([192, 0, 0, 0], 24, Class::Private),
    ([192, 0, 2, 0], 24, Class::Private),
    ([192, 88, 99, 0], 24, Class::Private),
    ([198, 18, 0, 0], 15, Class::Private),
    ([198, 51, 100, 0], 24, Class::Private),
    ([203, 0, 113, 0], 24, Class::Private),
    ([224, 0, 0, 0], 4, Class::Multicast),
    ([255, 255, 255, 255], 32, Class::Multicast),
    ([240, 0, 0, 0], 4, Class::Private),
];

/// The first match decides. IPv6 addresses outside `2000::/3` are not assigned, so they are not public.
const V6: [([u16; 3], u32, Class); 8] = [
    ([0xfe80, 0, 0], 10, Class::LinkLocal),
    // Metadata services of clouds.
    ([0xfd00, 0x0ec2, 0], 32, Class::LinkLocal),
    ([0xfd20, 0x00ce, 0], 32, Class::LinkLocal),
    ([0xff00, 0, 0], 8, Class::Multicast),
    // Protocol assignments: Teredo, ORCHID, benchmarks.
    ([0x2001, 0, 0], 23, Class::Private),
    ([0x2001, 0x0db8, 0], 32, Class::Private),
    ([0x3fff, 0, 0], 20, Class::Private),
    ([0x2000, 0, 0], 3, Class::Public),
];

fn classify(ip: IpAddr) -> Class {
    match ip {
        IpAddr::V4(ip) => {
            let inside = |net: [u8; 4], length: u32| (u32::from(ip) ^ u32::from_be_bytes(net)) >> (32 - length) == 0;
            V4.iter().find(|(net, length, _)| inside(*net, *length)).map_or(Class::Public, |row| row.2)
        }
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Class::Unspecified,
        IpAddr::V6(Ipv6Addr::LOCALHOST) => Class::Loopback,
        IpAddr::V6(ip) => {
            let inside = |[a, b, c]: [u16; 3], length: u32| {
                let net = Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0);
                (u128::from(ip) ^ u128::from(net)) >> (128 - length) == 0
            };
            V6.iter().find(|(net, length, _)| inside(*net, *length)).map_or(Class::Private, |row| row.2)
        }
    }
}

/// The address that is classified: the IPv4 address inside a mapped, translated, compatible, NAT64 or 6to4 address.
fn judged(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    if v6.is_unspecified() || v6.is_loopback() {
        return ip;
    }
    let [a, b, c, d] = match v6.segments() {
        // ::a.b.c.d, ::ffff:a.b.c.d, ::ffff:0:a.b.c.d (RFC 4291, RFC 2765) and 64:ff9b::a.b.c.d (RFC 6052)
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        // 2002:aabb:ccdd:: (RFC 3056)
        | [0x2002, high, low, ..] => {
            let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
            [a, b, c, d]
        }
        _ => return ip,
    };
    Ipv4Addr::new(a, b, c, d).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use AddressRefusal as Refusal;
    use proptest::prelude::*;

    fn address(text: &str) -> SocketAddr {
        SocketAddr::new(text.parse().expect(text), 443)
    }

    #[test]
    fn spellings_of_an_address_are_judged_alike() {
        let policy = AddressPolicy::default();
        for (spellings, tunnel, redirect) in [
            (&["8.8.8.8", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1", "2606:4700::1111"][..], None, None),
            (
                &["127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1", "::127.0.0.1", "::ffff:0:127.0.0.1"],
                Some(Refusal::Loopback),
                Some(Refusal::Loopback),
            ),
            (&["64:ff9b::7f00:1", "2002:7f00:1::"], Some(Refusal::Loopback), Some(Refusal::Loopback)),
            (
                &["169.254.169.254", "::ffff:a9fe:a9fe", "64:ff9b::a9fe:a9fe", "fe80::1", "febf::1", "fd00:ec2::254"],
                Some(Refusal::LinkLocal),
                Some(Refusal::LinkLocal),
            ),
            (&["100.100.100.200", "168.63.129.16"], Some(Refusal::LinkLocal), Some(Refusal::LinkLocal)),
            (
                &["0.0.0.0", "0.1.2.3", "::", "::2", "::ffff:0.0.0.0"],
                Some(Refusal::Unspecified),
                Some(Refusal::Unspecified),
            ),
            (
                &["224.0.0.1", "239.1.1.1", "255.255.255.255", "ff02::1", "::ffff:224.0.0.1"],
                Some(Refusal::Multicast),
                Some(Refusal::Multicast),
            ),
            (
                &["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "198.18.0.1", "240.0.0.1"],
                None,
                Some(Refusal::Private),
            ),
            (
                &["fc00::1", "fd12:3456::1", "fec0::1", "2001:db8::1", "2001::1", "64:ff9b:1::1", "::ffff:10.0.0.1"],
                None,
                Some(Refusal::Private),
            ),
            (&["172.32.0.1", "172.15.0.1", "100.128.0.1", "11.0.0.1", "192.167.1.1", "2a00::1"], None, None),
        ] {
            for text in spellings {
                let verdict = |purpose| policy.check(purpose, address(text)).err();
                assert_eq!(verdict(Purpose::Tunnel), tunnel, "{text}");
                assert_eq!(verdict(Purpose::Registry), tunnel, "{text}");
                assert_eq!(verdict(Purpose::Webhook), tunnel, "{text}");
                assert_eq!(verdict(Purpose::RedirectFromPrivate), tunnel, "{text}");
                assert_eq!(verdict(Purpose::RedirectFromPublic), redirect, "{text}");
                assert_eq!(is_public(address(text).ip()), redirect.is_none(), "{text}");
            }
        }
    }

    #[test]
    fn purposes_are_listed_in_the_order_of_their_declaration() {
        assert!(Purpose::ALL.iter().enumerate().all(|(index, purpose)| *purpose as usize == index));
    }

    #[test]
    fn exceptions_lift_what_they_name_and_nothing_more() {
        let nets = ["127.0.0.0/8", "169.254.1.0/24", "10.0.0.0/8", "0.0.0.0/8", "224.0.0.0/4"];
        let allow = nets.iter().map(|net| net.parse().expect(net)).collect();
        let policy = AddressPolicy::new(allow, OwnSockets::default());
        for (text, verdict) in [
            ("127.0.0.1", Ok(())),
            ("::ffff:127.0.0.1", Ok(())),
            ("169.254.1.9", Ok(())),
            ("10.1.1.1", Ok(())),
            ("::1", Err(Refusal::Loopback)),
            ("169.254.169.254", Err(Refusal::LinkLocal)),
            ("192.168.0.1", Err(Refusal::Private)),
            ("0.0.0.0", Err(Refusal::Unspecified)),
            ("224.0.0.1", Err(Refusal::Multicast)),
        ] {
            assert_eq!(policy.check(Purpose::RedirectFromPublic, address(text)), verdict, "{text}");
        }
    }

    #[test]
    fn a_parent_proxy_may_be_on_loopback_but_not_ourselves() {
        let own = OwnSockets::new(["[::]:3128".parse().expect("an address")]);
        let policy = AddressPolicy::new(vec!["127.0.0.0/8".parse().expect("a net")], own);
        let check = |text: &str| policy.check(Purpose::Parent, text.parse().expect(text));
        assert_eq!(check("127.0.0.1:8080"), Ok(()));
        for text in ["127.0.0.1:3128", "127.9.9.9:3128", "[::1]:3128", "[::ffff:127.0.0.1]:3128", "0.0.0.0:3128"] {
            assert_eq!(check(text), Err(Refusal::Own), "{text}");
        }
    }

    #[test]
    fn this_machine_needs_an_exception() {
        let own = OwnSockets::new(["0.0.0.0:3128".parse().expect("an address")]);
        for ip in ["192.0.2.7", "2606:4700::7"] {
            own.add(ip.parse().expect(ip));
            let denying = AddressPolicy::new(Vec::new(), own.clone());
            let allowing = AddressPolicy::new(vec![IpNet::from(ip.parse::<IpAddr>().expect(ip))], own.clone());
            let door = SocketAddr::new(ip.parse().expect(ip), 3128);
            assert_eq!(denying.check(Purpose::Tunnel, address(ip)), Err(Refusal::ThisMachine), "{ip}");
            assert_eq!(denying.check(Purpose::Registry, address(ip)), Err(Refusal::ThisMachine), "{ip}");
            assert_eq!(allowing.check(Purpose::Tunnel, address(ip)), Ok(()), "{ip}");
            assert_eq!(allowing.check(Purpose::Tunnel, door), Err(Refusal::Own), "{ip}");
        }
        let policy = AddressPolicy::new(Vec::new(), own);
        assert_eq!(policy.check(Purpose::Tunnel, address("::ffff:192.0.2.7")), Err(Refusal::ThisMachine));
        assert_eq!(policy.check(Purpose::Tunnel, address("192.0.2.8")), Ok(()), "a neighbour");
    }

    proptest! {
        #[test]
        fn no_ipv6_form_hides_an_ipv4_address(bits: u32) {
            let v4 = Ipv4Addr::from(bits);
            let [a, b, c, d] = v4.octets().map(u16::from);
            let (high, low) = (a << 8 | b, c << 8 | d);
            prop_assume!(bits > 1);
            for v6 in [
                v4.to_ipv6_mapped(),
                Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
            ] {
                prop_assert_eq!(is_public(v6.into()), is_public(v4.into()), "{}", v6);
            }
        }
    }
}
