//! Datagram sockets of this process that take nothing from beyond the local link.
//!
//! It is for a library that opens its sockets itself and does not look where a packet came from: mdns-sd (RFC 6762
//! section 11 asks for the look). Up to 0.21 mdns-sd has no setting for it, takes no sockets from its caller and gives
//! none out, so its sockets are found in this process's table of descriptors. This file can go when mdns-sd offers one of
//! these.
//!
//! A packet that was sent to the link-local group cannot have passed a router. Any other counts as local only with the
//! hop limit 255, which it would have lost at a router. The kernel drops the rest before the library sees it.

use std::fs;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use nix::libc;
use socket2::{SockFilter, SockRef, Type};

/// Filters every datagram socket of this process that is bound to `port`, and returns how many there were.
///
/// Sockets that are opened later are not filtered: call it when the library has its own.
pub fn keep_to_the_link(port: u16) -> io::Result<usize> {
    let mut filtered = 0;
    for entry in fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        // Only sockets: closing a copy of a file would drop its record locks.
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        if !target.to_string_lossy().starts_with("socket:") {
            continue;
        }
        let Some(copy) = entry.file_name().to_str().and_then(|number| number.parse().ok()).and_then(copy_of) else {
            continue;
        };
        let socket = SockRef::from(&copy);
        let bound = socket.local_addr().ok().and_then(|address| address.as_socket()).map(|address| address.port());
        if bound == Some(port) && socket.r#type().is_ok_and(|kind| kind == Type::DGRAM) {
            socket.attach_filter(&link_filter())?;
            filtered += 1;
        }
    }
    Ok(filtered)
}

/// A descriptor of our own for the same open socket. None if it was closed meanwhile.
fn copy_of(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: fcntl touches no memory of ours, and a number that is not open is an error. The owner of `number` keeps
    // it.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    // SAFETY: the copy was made for us just now and nothing else knows it.
    (copy >= 0).then(|| unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Offsets from the network header, whatever the socket's own data begin with.
const NETWORK: u32 = -0x10_0000_i32 as u32;
const LOAD_WORD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
const JUMP_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
const IPV4_GROUP: u32 = 0xe000_00fb;

/// 224.0.0.251, ff02::fb, or hop limit 255.
fn link_filter() -> [SockFilter; 19] {
    let step = |code: u32, on_true, on_false, value| SockFilter::new(code as u16, on_true, on_false, value);
    let load = |code, offset: u32| step(code, 0, 0, NETWORK.wrapping_add(offset));
    [
        load(LOAD_BYTE, 0),
        step(AND, 0, 0, 0xf0),
        step(JUMP_EQUAL, 0, 4, 0x40),
        // IPv4: time to live, destination.
        load(LOAD_BYTE, 8),
        step(JUMP_EQUAL, 13, 0, 255),
        load(LOAD_WORD, 16),
        step(JUMP_EQUAL, 11, 10, IPV4_GROUP),
        // IPv6: hop limit, the destination's four words.
        load(LOAD_BYTE, 7),
        step(JUMP_EQUAL, 9, 0, 255),
        load(LOAD_WORD, 24),
        step(JUMP_EQUAL, 0, 6, 0xff02_0000),
        load(LOAD_WORD, 28),
        step(JUMP_EQUAL, 0, 4, 0),
        load(LOAD_WORD, 32),
        step(JUMP_EQUAL, 0, 2, 0),
        load(LOAD_WORD, 36),
        step(JUMP_EQUAL, 1, 0, 0xfb),
        step(RETURN, 0, 0, 0),
        step(RETURN, 0, 0, u32::MAX),
    ]
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
    use std::time::Duration;

    use super::*;

    /// Sends a packet with a hop limit below 255 and one with 255, and returns those that arrive.
    fn arrives(to: &UdpSocket, from: &UdpSocket, set_hops: impl Fn(u32)) -> Vec<u8> {
        let address = to.local_addr().expect("bound");
        for hops in [64, 255] {
            set_hops(hops);
            from.send_to(&[hops as u8], address).expect("sent");
        }
        let mut received = Vec::new();
        let mut buffer = [0];
        to.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        // The one that passes was sent last: when it is here, the other would be.
        while received.last() != Some(&255) {
            to.recv(&mut buffer).expect("the packet of this link");
            received.push(buffer[0]);
        }
        received
    }

    #[test]
    fn what_lost_a_hop_is_dropped() {
        let (to, from) = (UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)), UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)));
        let (to, from) = (to.expect("a socket"), from.expect("a socket"));
        let set = |hops| from.set_ttl(hops).expect("a time to live");
        assert_eq!(arrives(&to, &from, set), [64, 255], "without the filter both arrive");
        assert_eq!(keep_to_the_link(to.local_addr().expect("bound").port()).expect("filtered"), 1);
        assert_eq!(arrives(&to, &from, set), [255]);
    }

    #[test]
    fn likewise_by_ipv6() {
        let (to, from) = (UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)), UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)));
        let (to, from) = (to.expect("a socket"), from.expect("a socket"));
        let set = |hops| SockRef::from(&from).set_unicast_hops_v6(hops).expect("a hop limit");
        assert_eq!(keep_to_the_link(to.local_addr().expect("bound").port()).expect("filtered"), 1);
        assert_eq!(arrives(&to, &from, set), [255]);
    }
}
