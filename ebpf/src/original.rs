//! The original destination of a redirected connection: returned to a client that asks for its peer, and to the door
//! that asks for SO_ORIGINAL_DST, the socket option of netfilter's REDIRECT. The door needs no rights for that.
//!
//! The client's socket is identified by its cookie. The door has another socket, so the client's address and port are
//! stored as soon as the kernel has chosen them, which is before the first packet leaves.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::BPF_SOCK_OPS_TCP_CONNECT_CB;
use aya_ebpf::helpers::bpf_get_socket_cookie;
use aya_ebpf::programs::{SockAddrContext, SockOpsContext, SockoptContext};
use entrepot_ebpf_common::address::{Address, Endpoint, mapped, unmapped};

use crate::host::{set_user_ip6, user_ip6};
use crate::maps;

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const SOL_IP: i32 = 0;
const SOL_IPV6: i32 = 41;
const SO_ORIGINAL_DST: i32 = 80;
/// The sizes of `sockaddr_in` and `sockaddr_in6`.
const SOCKADDR_V4_BYTES: usize = 16;
const SOCKADDR_V6_BYTES: usize = 28;

/// Answers `getpeername` of an IPv4 socket.
#[inline(always)]
pub fn peer_name4(context: &SockAddrContext) {
    // SAFETY: the kernel passes a valid context.
    let shown = mapped(unsafe { (*context.sock_addr).user_ip4 }.to_ne_bytes());
    let Some(original) = by_cookie(context, &shown) else { return };
    let Some(v4) = unmapped(&original.address) else { return };
    // SAFETY: as above; these two fields may be written.
    unsafe {
        (*context.sock_addr).user_ip4 = u32::from_ne_bytes(v4);
        (*context.sock_addr).user_port = u32::from(original.port.to_be());
    }
}

/// Answers `getpeername` of an IPv6 socket.
#[inline(always)]
pub fn peer_name6(context: &SockAddrContext) {
    let Some(original) = by_cookie(context, &user_ip6(context)) else { return };
    set_user_ip6(context, &original.address);
    // SAFETY: as above.
    unsafe { (*context.sock_addr).user_port = u32::from(original.port.to_be()) };
}

/// The original destination of this socket, if `shown` is the door; None for a socket that was connected to another
/// address since.
#[inline(always)]
fn by_cookie(context: &SockAddrContext, shown: &Address) -> Option<Endpoint> {
    // SAFETY: this kind of context has a cookie; the value is copied at once.
    let original = unsafe { maps::BY_COOKIE.get(bpf_get_socket_cookie(context.as_ptr())) }.copied()?;
    let door = maps::settings()?.door_for(&original.address);
    // SAFETY: the kernel passes a valid context.
    let port = u16::from_be(unsafe { (*context.sock_addr).user_port } as u16);
    if *shown == door.address && port == door.port { Some(original) } else { None }
}

/// Stores the client's address and port of a redirected connection.
#[inline(always)]
pub fn connecting(context: &SockOpsContext) {
    if context.op() != BPF_SOCK_OPS_TCP_CONNECT_CB {
        return;
    }
    // SAFETY: this kind of context has a cookie; the value is copied at once.
    let cookie = unsafe { bpf_get_socket_cookie(context.as_ptr()) };
    let Some(original) = unsafe { maps::BY_COOKIE.get(cookie) }.copied() else { return };
    // The destination's family counts: an IPv6 socket that connects to a mapped address has an IPv4 address.
    let ops = context.ops;
    // SAFETY: the context is valid. All words are read for either family: the verifier requires a constant offset for
    // each word, and otherwise the compiler would compute the offset.
    let (v4, v6) = unsafe {
        (
            (&raw const (*ops).local_ip4).read_volatile(),
            [
                (&raw const (*ops).local_ip6[0]).read_volatile(),
                (&raw const (*ops).local_ip6[1]).read_volatile(),
                (&raw const (*ops).local_ip6[2]).read_volatile(),
                (&raw const (*ops).local_ip6[3]).read_volatile(),
            ],
        )
    };
    let address = if unmapped(&original.address).is_some() { mapped(v4.to_ne_bytes()) } else { words(v6) };
    let client = Endpoint::new(address, context.local_port() as u16);
    // If the map is full, the connection has no original destination, and only the name in it counts.
    let _ = maps::BY_CLIENT.insert(client, original, 0);
}

/// Answers `getsockopt(SO_ORIGINAL_DST)` on a connection that the door accepted.
#[inline(always)]
pub fn answer(context: &SockoptContext) {
    let option = context.sockopt;
    // SAFETY: the kernel passes a valid context with a socket; each field of the socket is read at its own width, and
    // the bytes of the option are written between the two pointers that bound them.
    unsafe {
        let level = (*option).level;
        if (*option).optname != SO_ORIGINAL_DST || (level != SOL_IP && level != SOL_IPV6) {
            return;
        }
        let socket = (*option).__bindgen_anon_1.sk;
        if socket.is_null() {
            return;
        }
        let Some(settings) = maps::settings() else { return };
        let own_port = (*socket).src_port as u16;
        if settings.is_local == 0 || (own_port != settings.door_v4.port && own_port != settings.door_v6.port) {
            return;
        }
        let peer_port = u16::from_be((*socket).dst_port);
        let address = if level == SOL_IP {
            mapped((*socket).dst_ip4.to_ne_bytes())
        } else {
            words([
                (&raw const (*socket).dst_ip6[0]).read_volatile(),
                (&raw const (*socket).dst_ip6[1]).read_volatile(),
                (&raw const (*socket).dst_ip6[2]).read_volatile(),
                (&raw const (*socket).dst_ip6[3]).read_volatile(),
            ])
        };
        let client = Endpoint::new(address, peer_port);
        let Some(original) = maps::BY_CLIENT.get(client).copied() else { return };
        let written = match unmapped(&original.address) {
            Some(v4) if level == SOL_IP => write_v4(context, v4, original.port),
            None if level == SOL_IPV6 => write_v6(context, &original.address, original.port),
            _ => return,
        };
        let Some(length) = written else { return };
        (*option).optlen = length as i32;
        (*option).retval = 0;
        // Another connection may use the same port later.
        let _ = maps::BY_CLIENT.remove(client);
    }
}

#[inline(always)]
unsafe fn write_v4(context: &SockoptContext, address: [u8; 4], port: u16) -> Option<usize> {
    // SAFETY: the caller guarantees the context; the bounds are checked here.
    unsafe {
        let value = (*context.sockopt).__bindgen_anon_2.optval.cast::<u8>();
        let end = (*context.sockopt).__bindgen_anon_3.optval_end.cast::<u8>();
        if value.add(SOCKADDR_V4_BYTES) > end {
            return None;
        }
        value.cast::<u16>().write_unaligned(AF_INET);
        value.add(2).cast::<u16>().write_unaligned(port.to_be());
        value.add(4).cast::<u32>().write_unaligned(u32::from_ne_bytes(address));
        value.add(8).cast::<u64>().write_unaligned(0);
    }
    Some(SOCKADDR_V4_BYTES)
}

#[inline(always)]
unsafe fn write_v6(context: &SockoptContext, address: &Address, port: u16) -> Option<usize> {
    // SAFETY: as above.
    unsafe {
        let value = (*context.sockopt).__bindgen_anon_2.optval.cast::<u8>();
        let end = (*context.sockopt).__bindgen_anon_3.optval_end.cast::<u8>();
        if value.add(SOCKADDR_V6_BYTES) > end {
            return None;
        }
        value.cast::<u16>().write_unaligned(AF_INET6);
        value.add(2).cast::<u16>().write_unaligned(port.to_be());
        value.add(4).cast::<u32>().write_unaligned(0);
        value.add(8).cast::<Address>().write_unaligned(*address);
        value.add(24).cast::<u32>().write_unaligned(0);
    }
    Some(SOCKADDR_V6_BYTES)
}

/// An address from four words of the kernel, in network byte order.
#[inline(always)]
fn words([a, b, c, d]: [u32; 4]) -> Address {
    let (a, b, c, d) = (a.to_ne_bytes(), b.to_ne_bytes(), c.to_ne_bytes(), d.to_ne_bytes());
    [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]]
}
