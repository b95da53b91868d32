//! Learns addresses of listed names from passing DNS answers, before the client that asked can connect.
//!
//! Anybody can send a datagram from port 53, so an answer counts only if its question was seen on the way to a
//! configured resolver, with the same addresses, ports, number and name, within the last seconds. It counts once.
//!
//! If a packet is interrupted by another of its kind on the same processor, its question or answer is misread. That
//! costs nothing, because the agent resolves the listed names itself too.

use core::ffi::c_void;

use aya_ebpf::bindings::__sk_buff;
use entrepot_ebpf_common::address::Address;
use entrepot_ebpf_common::dns::{
    ANSWER_WITHIN_NS, Asked, MESSAGE_MAX_BYTES, Message, Question, Unread, read_answer, read_question,
};
use entrepot_ebpf_common::outcome::Outcome;

use crate::maps;
use crate::packet::{UDP, addresses, load, load_bytes, ports, transport};

const DNS_PORT: u16 = 53;
const UDP_BYTES: u32 = 8;
const SECOND_NS: u64 = 1_000_000_000;
/// The shortest validity: clients keep addresses longer than DNS allows, for example in connection pools.
const TTL_MIN_S: u64 = 120;
const TTL_MAX_S: u64 = 3600;

/// The places of the two kinds of messages in the maps for one processor.
const ANSWERS: u32 = 0;
const QUESTIONS: u32 = 1;

/// A datagram.
struct Datagram {
    source: Address,
    destination: Address,
    source_port: u16,
    destination_port: u16,
    /// The position and the length of its content.
    content: u32,
    length: u32,
}

/// Handles a packet on its way to the client that asked.
#[inline(always)]
pub fn answer(skb: *mut __sk_buff) {
    let Some(datagram) = datagram(skb) else { return };
    if datagram.source_port != DNS_PORT {
        return;
    }
    let Some(slot) = maps::FORGETTING.get_ptr_mut(ANSWERS) else { return };
    let Some(message) = message(skb, forget(slot, u64::from(datagram.content)) as u32, datagram.length, ANSWERS) else {
        return;
    };
    let now_ns = maps::now_ns();
    // Whether the sender is a resolver is asked late: the verifier would follow both cases through the whole message.
    let was_asked = |asked: Asked| {
        if !maps::is_resolver(&datagram.source) {
            return false;
        }
        let question = question_of(&datagram.source, &datagram.destination, datagram.destination_port, asked);
        // SAFETY: the value is copied at once.
        let Some(asked_ns) = unsafe { maps::QUESTIONS.get(question) }.copied() else { return false };
        let _ = maps::QUESTIONS.remove(question);
        now_ns < asked_ns + ANSWER_WITHIN_NS
    };
    let outcome = read_answer(
        message,
        |value| forget(slot, value),
        listed,
        was_asked,
        |address, ttl_s| {
            let ttl_s = u64::from(ttl_s).clamp(TTL_MIN_S, TTL_MAX_S);
            let learned = maps::ADDRESSES.insert(address, now_ns + ttl_s * SECOND_NS, 0);
            maps::count(if learned.is_ok() { Outcome::Learned } else { Outcome::Failed });
        },
    );
    match outcome {
        Err(Unread::Broken) => maps::count(Outcome::DnsUnread),
        Err(Unread::Unasked) => {
            let is_resolver = maps::is_resolver(&datagram.source);
            maps::count(if is_resolver { Outcome::DnsUnasked } else { Outcome::DnsOtherResolver });
            maps::note_stranger(&datagram.source);
        }
        Ok(()) | Err(Unread::Irrelevant) => {}
    }
}

/// Handles a packet on its way from the client that asks.
#[inline(always)]
pub fn question(skb: *mut __sk_buff) {
    let Some(datagram) = datagram(skb) else { return };
    if datagram.destination_port != DNS_PORT || !maps::is_resolver(&datagram.destination) {
        return;
    }
    let Some(slot) = maps::FORGETTING.get_ptr_mut(QUESTIONS) else { return };
    let Some(message) = message(skb, forget(slot, u64::from(datagram.content)) as u32, datagram.length, QUESTIONS)
    else {
        return;
    };
    let Some(asked) = read_question(message, |value| forget(slot, value), listed) else { return };
    let question = question_of(&datagram.destination, &datagram.source, datagram.source_port, asked);
    let _ = maps::QUESTIONS.insert(question, maps::now_ns(), 0);
}

#[inline(always)]
fn question_of(resolver: &Address, client: &Address, client_port: u16, asked: Asked) -> Question {
    Question { resolver: *resolver, client: *client, name: asked.name, client_port, id: asked.id, padding: 0 }
}

/// The datagram of DNS in a packet.
#[inline(always)]
fn datagram(skb: *mut __sk_buff) -> Option<Datagram> {
    let udp = transport(skb, UDP)?;
    let [source_port, destination_port] = ports(skb, &udp)?;
    // Every packet passes here, so the addresses are read only if the ports match.
    if source_port != DNS_PORT && destination_port != DNS_PORT {
        return None;
    }
    let [source, destination] = addresses(skb, &udp)?;
    let length = u32::from(u16::from_be_bytes(load(skb, udp.at + 4)?)).saturating_sub(UDP_BYTES);
    Some(Datagram { source, destination, source_port, destination_port, content: udp.at + UDP_BYTES, length })
}

/// Loads the message at `offset` into this processor's room for its kind. The length is the datagram's own: the
/// packet's counts its link's header too.
#[inline(always)]
fn message(skb: *mut __sk_buff, offset: u32, length: u32, kind: u32) -> Option<Message<'static>> {
    // A longer message is read as far as there is room. It counts as unread if that is not enough.
    let length = opaque(if length > MESSAGE_MAX_BYTES as u32 { MESSAGE_MAX_BYTES as u32 } else { length });
    if length == 0 {
        return None;
    }
    // The verifier requires both bounds on one register; without this, the compiler merges them into one comparison.
    let length = opaque(length);
    if length > MESSAGE_MAX_BYTES as u32 {
        return None;
    }
    let room = maps::MESSAGES.get_ptr_mut(kind)?;
    // SAFETY: the room belongs to this processor and this kind of packet. It has `MESSAGE_MAX_BYTES`, and no more are
    // loaded.
    let buffer = unsafe {
        if !load_bytes(skb, offset, room.cast::<c_void>(), length) {
            return None;
        }
        &mut *room
    };
    Some(Message { buffer, length: length as usize })
}

/// The flags of a name in the list, by its hash.
#[inline(always)]
fn listed(hash: u64) -> u32 {
    // SAFETY: the value is copied at once.
    unsafe { maps::NAMES.get(hash) }.copied().unwrap_or(0)
}

/// The same number, hidden from the verifier, which does not know the value of what is read from a map.
#[inline(always)]
fn forget(slot: *mut u64, value: u64) -> u64 {
    // SAFETY: the slot belongs to this processor and this kind of packet.
    unsafe {
        slot.write_volatile(value);
        slot.read_volatile()
    }
}

/// The same number, hidden from the compiler's optimisation.
#[inline(always)]
fn opaque(number: u32) -> u32 {
    // SAFETY: this reads a local variable.
    unsafe { (&raw const number).read_volatile() }
}
