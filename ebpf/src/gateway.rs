//! Packets that pass through this machine: the first packet of a connection to a listed address is given to the door's
//! listening socket, and later packets to the socket of that connection.
//!
//! The listening socket is transparent (IP_TRANSPARENT), so its connections have the original destination as their
//! local address. The mark makes the agent's routing rule deliver the packet here instead of forwarding it.

use core::ffi::c_void;

use aya_ebpf::bindings::{__sk_buff, TC_ACT_OK, TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_sock, bpf_sock_tuple};
use aya_ebpf::helpers::{bpf_sk_assign, bpf_sk_release, bpf_skc_lookup_tcp};
use aya_ebpf::programs::TcContext;
use entrepot_ebpf_common::address::{Address, Endpoint, unmapped};
use entrepot_ebpf_common::decision::{Surroundings, decide};
use entrepot_ebpf_common::outcome::Outcome;
use entrepot_ebpf_common::settings::Settings;

use crate::maps;
use crate::packet::{TCP, addresses, load, ports, transport};

/// `BPF_F_CURRENT_NETNS`: the namespace of the interface.
const CURRENT_NAMESPACE: u64 = u64::MAX;
/// A state of a socket (`BPF_TCP_LISTEN`).
const LISTEN: u32 = 10;
/// The state of a connection whose client has not answered the door yet (`BPF_TCP_NEW_SYN_RECV`).
const NEW_SYN_RECV: u32 = 12;
const FLAG_SYN: u8 = 0x02;
const FLAG_ACK: u8 = 0x10;

/// The addresses and flags of a TCP segment.
struct Segment {
    source: Endpoint,
    destination: Endpoint,
    flags: u8,
}

/// Handles a packet that arrived at an interface. Returns what the kernel does with it.
#[inline(always)]
pub fn packet(context: &TcContext) -> i32 {
    let skb = context.skb.skb;
    let Some(settings) = maps::settings() else { return TC_ACT_UNSPEC };
    let Some(segment) = segment(skb, settings) else { return TC_ACT_UNSPEC };
    let is_proof = settings.proofs.place(segment.source.port, &segment.destination).is_some();
    // A connection of the door stays with it, even if the address was learned or forgotten meanwhile.
    let found = lookup(skb, &segment.source, &segment.destination);
    if !found.is_null() {
        // SAFETY: the socket is not null and is released once.
        unsafe {
            let state = (*found).state;
            if state != LISTEN {
                if state == NEW_SYN_RECV && segment.opening() == FLAG_ACK && !is_proof {
                    maps::count(Outcome::Arrived);
                }
                return if assign(skb, found, settings) { TC_ACT_OK } else { TC_ACT_UNSPEC };
            }
            bpf_sk_release(found.cast());
        }
    }
    if is_proof {
        // It goes nowhere else, also if the door is gone. Health depends on it, so it does not depend on health.
        let is_given =
            segment.opening() == FLAG_SYN && to_listener(skb, settings, &segment) as u32 == Outcome::Redirected as u32;
        return if is_given { TC_ACT_OK } else { TC_ACT_SHOT };
    }
    if segment.opening() != FLAG_SYN {
        return TC_ACT_UNSPEC;
    }
    let mut outcome = decide(settings, &segment.destination, &Passing);
    if outcome as u32 == Outcome::Redirected as u32 {
        outcome = to_listener(skb, settings, &segment);
    }
    maps::count(outcome);
    if outcome as u32 == Outcome::Redirected as u32 { TC_ACT_OK } else { TC_ACT_UNSPEC }
}

/// Gives a new connection to the door's listening socket.
#[inline(always)]
fn to_listener(skb: *mut __sk_buff, settings: &Settings, segment: &Segment) -> Outcome {
    let door = settings.door_for(&segment.destination.address);
    let listener = lookup(skb, &segment.source, door);
    if listener.is_null() {
        return Outcome::NoListener;
    }
    // SAFETY: the socket is not null and is released once.
    unsafe {
        if (*listener).state != LISTEN {
            bpf_sk_release(listener.cast());
            return Outcome::NoListener;
        }
        if assign(skb, listener, settings) { Outcome::Redirected } else { Outcome::Failed }
    }
}

/// Gives the packet to a socket, and releases the socket.
#[inline(always)]
unsafe fn assign(skb: *mut __sk_buff, socket: *mut bpf_sock, settings: &Settings) -> bool {
    // SAFETY: the caller guarantees that both pointers are valid.
    unsafe {
        let assigned = bpf_sk_assign(skb.cast(), socket.cast(), 0) == 0;
        bpf_sk_release(socket.cast());
        if assigned {
            (*skb).mark = settings.route_mark;
        }
        assigned
    }
}

#[inline(always)]
fn lookup(skb: *mut __sk_buff, source: &Endpoint, destination: &Endpoint) -> *mut bpf_sock {
    // SAFETY: all zeros are a valid tuple; both address types have sixteen bytes; the tuple lives as long as the call.
    unsafe {
        let mut tuple: bpf_sock_tuple = core::mem::zeroed();
        let size = match (unmapped(&source.address), unmapped(&destination.address)) {
            (Some(from), Some(to)) => {
                let v4 = &mut tuple.__bindgen_anon_1.ipv4;
                (v4.saddr, v4.daddr) = (u32::from_ne_bytes(from), u32::from_ne_bytes(to));
                (v4.sport, v4.dport) = (source.port.to_be(), destination.port.to_be());
                12
            }
            _ => {
                let v6 = &mut tuple.__bindgen_anon_1.ipv6;
                v6.saddr = core::mem::transmute::<Address, [u32; 4]>(source.address);
                v6.daddr = core::mem::transmute::<Address, [u32; 4]>(destination.address);
                (v6.sport, v6.dport) = (source.port.to_be(), destination.port.to_be());
                36
            }
        };
        bpf_skc_lookup_tcp(skb.cast::<c_void>(), &mut tuple, size, CURRENT_NAMESPACE, 0)
    }
}

impl Segment {
    /// The flags that the opening of a connection is told by.
    #[inline(always)]
    fn opening(&self) -> u8 {
        self.flags & (FLAG_SYN | FLAG_ACK)
    }
}

/// The segment in a packet, if its port is one that is redirected. Every packet of the interface passes here, so most
/// fields are read only if the port matches.
#[inline(always)]
fn segment(skb: *mut __sk_buff, settings: &Settings) -> Option<Segment> {
    let tcp = transport(skb, TCP)?;
    let [source_port, port] = ports(skb, &tcp)?;
    if !settings.has_port(port) {
        return None;
    }
    let [source, destination] = addresses(skb, &tcp)?;
    Some(Segment {
        source: Endpoint::new(source, source_port),
        destination: Endpoint::new(destination, port),
        flags: load(skb, tcp.at + 13)?,
    })
}

/// The surroundings of a packet. Its interface is the agent's, where no packets of entrepot itself arrive.
struct Passing;

impl Surroundings for Passing {
    #[inline(always)]
    fn now_ns(&self) -> u64 {
        maps::now_ns()
    }

    #[inline(always)]
    fn healthy_until_ns(&self) -> u64 {
        maps::healthy_until_ns()
    }

    #[inline(always)]
    fn listed_until_ns(&self, address: &Address) -> u64 {
        maps::listed_until_ns(address)
    }

    #[inline(always)]
    fn direct_until_ns(&self, address: &Address) -> u64 {
        maps::direct_until_ns(address)
    }

    #[inline(always)]
    fn is_own(&self, _: &Settings) -> bool {
        false
    }

    #[inline(always)]
    fn is_in_namespace(&self, _: &Settings) -> bool {
        true
    }

    #[inline(always)]
    fn door_listens(&self, _: &Endpoint) -> bool {
        true
    }
}
