//! The end of a gateway's proof (`entrepot_ebpf_common::proof`): the door's answer to a connection of the agent's own
//! is noted and goes no further, before anybody is asked for the address of a client that does not exist.

use aya_ebpf::bindings::__sk_buff;
use entrepot_ebpf_common::address::Endpoint;

use crate::maps;
use crate::packet::{TCP, addresses, ports, transport};

/// The loopback interface has this number in every namespace. An answer that takes it is for this machine: it never
/// reaches a client (`tcp_fwmark_accept` does that).
const LOOPBACK: u32 = 1;

/// Handles a packet that leaves this machine. Returns whether it was the answer to a proof.
#[inline(always)]
pub fn answer(skb: *mut __sk_buff) -> bool {
    is_answer(skb).unwrap_or(false)
}

/// Notes the time if the packet is an answer to a proof. None if it is none.
#[inline(always)]
fn is_answer(skb: *mut __sk_buff) -> Option<bool> {
    let settings = maps::settings()?;
    if settings.proofs.count == 0 {
        return None;
    }
    let tcp = transport(skb, TCP)?;
    let [door_port, client_port] = ports(skb, &tcp)?;
    let [door, _] = addresses(skb, &tcp)?;
    let place = settings.proofs.place(client_port, &Endpoint::new(door, door_port))?;
    let proved = maps::PROVED.get_ptr_mut(place)?;
    // SAFETY: the kernel passes a valid context.
    if unsafe { (*skb).ifindex } == LOOPBACK {
        return Some(true);
    }
    // SAFETY: the entry is a number that is written whole; two answers at once have about the same time.
    unsafe { proved.write_volatile(maps::now_ns()) };
    Some(true)
}
