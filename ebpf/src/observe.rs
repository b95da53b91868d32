//! Learns addresses of listed names from passing DNS answers, before the client that asked can connect.

use core::ffi::c_void;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_skb_load_bytes;
use aya_ebpf::programs::TcContext;
use entrepot_ebpf_common::dns::{MESSAGE_MAX_BYTES, Message, Unread, read};
use entrepot_ebpf_common::outcome::Outcome;

use crate::maps;

const DNS_PORT: u16 = 53;
const UDP: u8 = 17;
const UDP_BYTES: u32 = 8;
const ETHERNET_BYTES: u32 = 14;
const SECOND_NS: u64 = 1_000_000_000;
/// The shortest validity: clients keep addresses longer than DNS allows, for example in connection pools.
const TTL_MIN_S: u64 = 120;
const TTL_MAX_S: u64 = 24 * 3600;

/// A frame of Ethernet.
#[inline(always)]
pub fn frame(context: &TcContext) {
    packet(context.skb.skb, ETHERNET_BYTES);
}

/// A packet whose IP header is at `offset`. Fragments and extension headers are ignored; the agent resolves the listed
/// names itself too.
#[inline(always)]
pub fn packet(skb: *mut __sk_buff, offset: u32) {
    let Some(first) = load::<u8>(skb, offset) else { return };
    let udp = match first >> 4 {
        4 => {
            let (Some(protocol), Some(fragment)) = (load::<u8>(skb, offset + 9), load::<[u8; 2]>(skb, offset + 6))
            else {
                return;
            };
            // The flag for more fragments, and the fragment's offset.
            if protocol != UDP || u16::from_be_bytes(fragment) & 0x3fff != 0 {
                return;
            }
            offset + u32::from(first & 0x0f) * 4
        }
        6 => match load::<u8>(skb, offset + 6) {
            Some(UDP) => offset + 40,
            _ => return,
        },
        _ => return,
    };
    match load::<[u8; 2]>(skb, udp) {
        Some(port) if u16::from_be_bytes(port) == DNS_PORT => message(skb, udp + UDP_BYTES),
        _ => {}
    }
}

#[inline(always)]
fn message(skb: *mut __sk_buff, offset: u32) {
    // SAFETY: the kernel passes a valid context.
    let length = unsafe { (*skb).len }.saturating_sub(offset);
    // A longer message is read as far as there is room. It counts as unread if that is not enough.
    let length = opaque(if length > MESSAGE_MAX_BYTES as u32 { MESSAGE_MAX_BYTES as u32 } else { length });
    if length == 0 {
        return;
    }
    // The verifier requires both bounds on one register; without this, the compiler merges them into one comparison.
    let length = opaque(length);
    if length > MESSAGE_MAX_BYTES as u32 {
        return;
    }
    let Some(room) = maps::MESSAGES.get_ptr_mut(0) else { return };
    // SAFETY: the room belongs to this processor, and no other program of this kind interrupts this one. It has
    // `MESSAGE_MAX_BYTES`, and no more are loaded.
    let buffer = unsafe {
        if bpf_skb_load_bytes(skb.cast(), offset, room.cast::<c_void>(), length) != 0 {
            return;
        }
        &mut *room
    };
    let now_ns = maps::now_ns();
    // SAFETY: the value is copied at once.
    let listed = |hash: u64| unsafe { maps::NAMES.get(hash) }.copied().unwrap_or(0);
    let Some(slot) = maps::FORGETTING.get_ptr_mut(0) else { return };
    // SAFETY: the slot belongs to this processor. The verifier does not know the value of what is read from a map.
    let forget = |value: u64| unsafe {
        slot.write_volatile(value);
        slot.read_volatile()
    };
    let outcome = read(Message { buffer, length: length as usize }, forget, listed, |address, ttl_s| {
        let ttl_s = u64::from(ttl_s).clamp(TTL_MIN_S, TTL_MAX_S);
        let learned = maps::ADDRESSES.insert(address, now_ns + ttl_s * SECOND_NS, 0);
        maps::count(if learned.is_ok() { Outcome::Learned } else { Outcome::Failed });
    });
    if matches!(outcome, Err(Unread::Broken)) {
        maps::count(Outcome::DnsUnread);
    }
}

/// The same number, hidden from the compiler's optimisation.
#[inline(always)]
fn opaque(number: u32) -> u32 {
    // SAFETY: this reads a local variable.
    unsafe { (&raw const number).read_volatile() }
}

/// Reads a value from the packet; None if the packet is too short.
#[inline(always)]
pub fn load<T: Copy>(skb: *mut __sk_buff, offset: u32) -> Option<T> {
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    // SAFETY: the call writes all bytes of the value or fails; `T` is always made of plain numbers.
    unsafe {
        match bpf_skb_load_bytes(skb.cast(), offset, value.as_mut_ptr().cast(), size_of::<T>() as u32) {
            0 => Some(value.assume_init()),
            _ => None,
        }
    }
}
