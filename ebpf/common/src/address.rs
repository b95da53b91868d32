//! Addresses as keys of maps: always 16 bytes, IPv4 in its mapped form, so that one map serves both families.

/// An IPv6 address, or an IPv4 address as `::ffff:a.b.c.d`.
pub type Address = [u8; 16];

/// An address and a port, in host byte order.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Zeros if there is no such endpoint.
    pub address: Address,
    /// Zero if there is no such endpoint.
    pub port: u16,
    /// Keeps the size a multiple of four, with every byte defined: the kernel compares keys byte by byte.
    pub padding: u16,
}

/// The prefix of IPv4 addresses in IPv6 (RFC 4291 section 2.5.5.2).
const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// The mapped form of an IPv4 address.
#[inline(always)]
pub const fn mapped([a, b, c, d]: [u8; 4]) -> Address {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// The IPv4 address inside a mapped one; None if the address is not mapped.
#[inline(always)]
pub fn unmapped(address: &Address) -> Option<[u8; 4]> {
    let [prefix @ .., a, b, c, d] = *address;
    if prefix == MAPPED { Some([a, b, c, d]) } else { None }
}

impl Endpoint {
    /// No endpoint.
    pub const NONE: Self = Self { address: [0; 16], port: 0, padding: 0 };

    /// An endpoint whose padding is zero.
    #[inline(always)]
    pub const fn new(address: Address, port: u16) -> Self {
        Self { address, port, padding: 0 }
    }

    /// The size in bytes.
    pub const SIZE: usize = size_of::<Self>();

    /// The bytes as the programs read them.
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..16].copy_from_slice(&self.address);
        bytes[16..18].copy_from_slice(&self.port.to_ne_bytes());
        bytes
    }

    /// An endpoint from the bytes that the programs wrote.
    pub fn from_bytes(bytes: [u8; Self::SIZE]) -> Self {
        let [address @ .., low, high, _, _] = bytes;
        Self::new(address, u16::from_ne_bytes([low, high]))
    }

    /// Whether there is one.
    #[inline(always)]
    pub const fn exists(&self) -> bool {
        self.port != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn endpoints_are_the_bytes_of_their_fields() {
        let endpoint = Endpoint::new(mapped([192, 0, 2, 7]), 443);
        let bytes = endpoint.to_bytes();
        assert_eq!(
            (&bytes[..16], &bytes[16..18], &bytes[18..]),
            (&endpoint.address[..], &443u16.to_ne_bytes()[..], &[0, 0][..])
        );
        assert_eq!(Endpoint::from_bytes(bytes), endpoint);
    }

    #[test]
    fn mapped_addresses_are_those_of_the_standard_library() {
        for address in [Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(192, 0, 2, 255)] {
            assert_eq!(mapped(address.octets()), address.to_ipv6_mapped().octets());
            assert_eq!(unmapped(&mapped(address.octets())), Some(address.octets()));
        }
        assert_eq!(unmapped(&[0; 16]), None);
        assert_eq!(unmapped(&std::net::Ipv6Addr::LOCALHOST.octets()), None);
    }
}
