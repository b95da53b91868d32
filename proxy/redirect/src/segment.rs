//! The segments of a proof: a client's first segment of a connection, and the one that breaks it off. Pure.

use std::net::{IpAddr, SocketAddr};

/// A segment from a client that does not exist.
#[derive(Clone, Copy)]
pub(super) enum Segment {
    /// SYN.
    Open,
    /// RST, with the number that the door waits for.
    Break,
}

/// The addresses of a proof.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ends {
    pub(super) client: SocketAddr,
    /// Of the same family.
    pub(super) destination: SocketAddr,
}

/// A hardware address.
pub(super) type HardwareAddress = [u8; 6];

/// The sender's hardware address: one that is administered locally.
const SENDER: HardwareAddress = [0x02, 0, 0, 0, 0xe8, 0x01];
const ETHERTYPE_V4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_V6: [u8; 2] = [0x86, 0xdd];
const TCP: u8 = 6;
const TCP_BYTES: u16 = 20;
const IPV4_BYTES: u16 = 20;
const HOPS: u8 = 64;
const SEQUENCE: u32 = 0xe8_00_00_00;
const WINDOW: u16 = 65_535;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;

/// The Ethernet frame with a segment, to the interface with this address.
pub(super) fn frame(receiver: HardwareAddress, ends: Ends, segment: Segment) -> Vec<u8> {
    let (client, destination) = (octets(ends.client.ip()), octets(ends.destination.ip()));
    let tcp = tcp(ends, segment, &[client.as_slice(), &destination].concat());
    let ethertype = if ends.client.is_ipv4() { ETHERTYPE_V4 } else { ETHERTYPE_V6 };
    let mut frame = [receiver.as_slice(), &SENDER, &ethertype].concat();
    if ends.client.is_ipv4() {
        let mut header = vec![0x45, 0];
        header.extend((IPV4_BYTES + TCP_BYTES).to_be_bytes());
        header.extend([0, 0, 0x40, 0, HOPS, TCP, 0, 0]);
        header.extend([client, destination].concat());
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum);
        frame.extend(header);
    } else {
        frame.extend([0x60, 0, 0, 0]);
        frame.extend(TCP_BYTES.to_be_bytes());
        frame.extend([TCP, HOPS]);
        frame.extend([client, destination].concat());
    }
    frame.extend(tcp);
    frame
}

/// The TCP header. `addresses` are the first part of the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1); the
/// rest of it sums up to the same for both families.
fn tcp(ends: Ends, segment: Segment, addresses: &[u8]) -> Vec<u8> {
    let (sequence, flags) = match segment {
        Segment::Open => (SEQUENCE, SYN),
        Segment::Break => (SEQUENCE + 1, RST),
    };
    let mut header = [ends.client.port().to_be_bytes(), ends.destination.port().to_be_bytes()].concat();
    header.extend(sequence.to_be_bytes());
    header.extend([0, 0, 0, 0, 5 << 4, flags]);
    header.extend(WINDOW.to_be_bytes());
    header.extend([0, 0, 0, 0]);
    let sum = checksum(&[addresses, &[0, TCP], &TCP_BYTES.to_be_bytes(), &header].concat());
    header[16..18].copy_from_slice(&sum);
    header
}

/// The checksum of the internet protocols (RFC 1071) over an even number of bytes.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(client: &str, destination: &str) -> Ends {
        Ends { client: client.parse().expect("an address"), destination: destination.parse().expect("an address") }
    }

    /// A receiver sums up the header and what it covers, checksum included, and gets zero.
    #[test]
    fn checksums_are_those_that_a_receiver_expects() {
        for segment in [Segment::Open, Segment::Break] {
            let v4 = frame([1; 6], ends("10.0.0.9:40000", "192.0.2.7:443"), segment);
            assert_eq!((v4.len(), &v4[..6], &v4[12..15]), (54, &[1; 6][..], &[0x08, 0x00, 0x45][..]));
            assert_eq!(checksum(&v4[14..34]), [0, 0], "IPv4");
            let pseudo = [&v4[26..34], &[0, TCP, 0, 20], &v4[34..]].concat();
            assert_eq!(checksum(&pseudo), [0, 0], "TCP by IPv4");
            let v6 = frame([1; 6], ends("[fd00::9]:40000", "[2001:db8::7]:443"), segment);
            assert_eq!((v6.len(), &v6[12..15], v6[20]), (74, &[0x86, 0xdd, 0x60][..], TCP));
            let pseudo = [&v6[22..54], &[0, 0, 0, 20, 0, 0, 0, TCP], &v6[54..]].concat();
            assert_eq!(checksum(&pseudo), [0, 0], "TCP by IPv6");
        }
    }

    #[test]
    fn the_second_segment_breaks_off_what_the_first_opened() {
        let ends = ends("10.0.0.9:40000", "192.0.2.7:443");
        let (open, reset) = (frame([0; 6], ends, Segment::Open), frame([0; 6], ends, Segment::Break));
        let sequence = |frame: &[u8]| u32::from_be_bytes([frame[38], frame[39], frame[40], frame[41]]);
        assert_eq!((open[47], reset[47], sequence(&reset) - sequence(&open)), (SYN, RST, 1));
        assert_eq!(u16::from_be_bytes([open[34], open[35]]), 40_000);
    }
}
