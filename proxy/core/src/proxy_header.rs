//! The PROXY protocol, version 2: a relay's binary header with the addresses of the connection that it relays.
//!
//! Only TCP over IPv4 and IPv6 is read. Extensions and other protocols are skipped.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// The first bytes of every header. Neither TLS nor HTTP begins like this.
pub const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// The longest header that is read. Its addresses take at most 36 bytes, the rest are extensions.
pub const HEADER_MAX_BYTES: usize = 16 + 1024;

/// Both ends of a relayed connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Relayed {
    /// The client's address, as the relay saw it.
    pub client: SocketAddr,
    /// The address that the client connected to.
    pub destination: SocketAddr,
}

/// The result of looking at the first bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Header {
    /// More bytes are needed.
    NeedMore,
    /// The connection has no header and is not relayed.
    Absent,
    /// A header of so many bytes. None if the relay connects for itself (`LOCAL`), or if the header is not about TCP.
    Present(usize, Option<Relayed>),
    /// The signature is followed by no valid header.
    Broken,
}

const VERSION_AND_LOCAL: u8 = 0x20;
const VERSION_AND_PROXY: u8 = 0x21;
const TCP_V4: u8 = 0x11;
const TCP_V6: u8 = 0x21;
const FIXED_BYTES: usize = 16;

/// Reads the header in the first bytes of a connection.
pub fn read(bytes: &[u8]) -> Header {
    let known = bytes.len().min(SIGNATURE.len());
    if bytes[..known] != SIGNATURE[..known] {
        return Header::Absent;
    }
    let Some(fixed) = bytes.get(..FIXED_BYTES) else { return Header::NeedMore };
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let whole = FIXED_BYTES + length;
    if whole > HEADER_MAX_BYTES || !matches!(fixed[12], VERSION_AND_LOCAL | VERSION_AND_PROXY) {
        return Header::Broken;
    }
    let Some(addresses) = bytes.get(FIXED_BYTES..whole) else { return Header::NeedMore };
    if fixed[12] == VERSION_AND_LOCAL {
        return Header::Present(whole, None);
    }
    match (fixed[13], addresses.get(..12), addresses.get(..36)) {
        (TCP_V4, Some(v4), _) => Header::Present(whole, Some(relayed_v4(v4))),
        (TCP_V6, _, Some(v6)) => Header::Present(whole, Some(relayed_v6(v6))),
        (TCP_V4 | TCP_V6, ..) => Header::Broken,
        _ => Header::Present(whole, None),
    }
}

fn relayed_v4(bytes: &[u8]) -> Relayed {
    let address = |at: usize| Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]);
    Relayed { client: (address(0), port(bytes, 8)).into(), destination: (address(4), port(bytes, 10)).into() }
}

fn relayed_v6(bytes: &[u8]) -> Relayed {
    let address = |at: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&bytes[at..at + 16]);
        Ipv6Addr::from(octets)
    };
    Relayed { client: (address(0), port(bytes, 32)).into(), destination: (address(16), port(bytes, 34)).into() }
}

fn port(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        [&SIGNATURE[..], &[command, family], &(rest.len() as u16).to_be_bytes(), rest].concat()
    }

    #[test]
    fn both_families_are_read_at_any_cut() {
        let v4 = [10, 0, 0, 1, 192, 0, 2, 7, 0x9c, 0x40, 0x01, 0xbb];
        let mut v6 = vec![0; 36];
        (v6[15], v6[31], v6[33], v6[34], v6[35]) = (1, 2, 9, 0x13, 0x88);
        let cases = [
            (header(0x21, 0x11, &v4), "10.0.0.1:40000", "192.0.2.7:443"),
            (header(0x21, 0x11, &[&v4[..], &[4, 0, 1, 0]].concat()), "10.0.0.1:40000", "192.0.2.7:443"),
            (header(0x21, 0x21, &v6), "[::1]:9", "[::2]:5000"),
        ];
        for (bytes, client, destination) in cases {
            let relayed =
                Relayed { client: client.parse().expect(client), destination: destination.parse().expect(destination) };
            assert_eq!(read(&bytes), Header::Present(bytes.len(), Some(relayed)));
            assert_eq!(read(&[&bytes[..], b"\x16\x03\x01"].concat()), Header::Present(bytes.len(), Some(relayed)));
            for length in 0..bytes.len() {
                assert_eq!(read(&bytes[..length]), Header::NeedMore, "{length} bytes");
            }
        }
    }

    #[test]
    fn what_says_nothing_is_told_from_what_is_broken() {
        assert_eq!(read(&header(0x20, 0, &[])), Header::Present(16, None), "LOCAL");
        assert_eq!(read(&header(0x21, 0, &[])), Header::Present(16, None), "unspecified");
        assert_eq!(read(&header(0x21, 0x31, &[0; 216])), Header::Present(232, None), "unix");
        assert_eq!(read(&header(0x11, 0x11, &[0; 12])), Header::Broken, "another version");
        assert_eq!(read(&header(0x21, 0x11, &[0; 11])), Header::Broken, "too short");
        assert_eq!(read(&header(0x21, 0x11, &[0; 2000])), Header::Broken, "too long");
        assert_eq!(read(b"\x16\x03\x01"), Header::Absent);
        assert_eq!(read(b"\r\n\r\nGET"), Header::Absent);
    }

    proptest! {
        #[test]
        fn anything_at_all_gets_a_verdict(rest in prop::collection::vec(any::<u8>(), 0..60)) {
            let bytes = [&SIGNATURE[..], &rest].concat();
            if let Header::Present(length, _) = read(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }
    }
}
