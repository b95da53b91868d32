//! The maps, and the functions by which the programs use them. The loader finds the maps by name.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::{Key, LpmTrie};
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray};
use entrepot_ebpf_common::address::{Address, Endpoint};
use entrepot_ebpf_common::decision::FOR_EVER;
use entrepot_ebpf_common::dns::{MESSAGE_MAX_BYTES, Question};
use entrepot_ebpf_common::outcome::Outcome;
use entrepot_ebpf_common::proof::PROOFS_MAX;
use entrepot_ebpf_common::settings::Settings;

/// The settings. The loader writes them before it attaches anything.
#[map]
pub static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);

/// The time until which the door counts as healthy, in nanoseconds of the monotonic clock. The agent extends it.
#[map]
pub static HEALTHY_UNTIL: Array<u64> = Array::with_max_entries(1, 0);

/// Addresses of listed names, each with its time of expiry.
#[map]
pub static ADDRESSES: LruHashMap<Address, u64> = LruHashMap::with_max_entries(16_384, 0);

/// Addresses whose connections go to their own destination, each with the time until which they do.
#[map]
pub static DIRECT: LruHashMap<Address, u64> = LruHashMap::with_max_entries(1024, 0);

/// The resolvers whose answers count.
#[map]
pub static RESOLVERS: HashMap<Address, u32> = HashMap::with_max_entries(64, 0);

/// The questions about listed names that went to these resolvers, each with its time.
#[map]
pub static QUESTIONS: LruHashMap<Question, u64> = LruHashMap::with_max_entries(16_384, 0);

/// The senders of answers about listed names that did not count, each with the number of these answers.
#[map]
pub static STRANGERS: LruHashMap<Address, u64> = LruHashMap::with_max_entries(64, 0);

/// Networks from the configuration.
#[map]
pub static PREFIXES: LpmTrie<Address, u32> = LpmTrie::with_max_entries(1024, BPF_F_NO_PREALLOC);

/// Hashes of listed names, each with `EXACT`, `BELOW` or both.
#[map]
pub static NAMES: HashMap<u64, u32> = HashMap::with_max_entries(4096, 0);

/// Control groups whose processes are left alone.
#[map]
pub static EXEMPT: HashMap<u64, u32> = HashMap::with_max_entries(64, 0);

/// The original destinations of redirected sockets, by the socket's cookie.
#[map]
pub static BY_COOKIE: LruHashMap<u64, Endpoint> = LruHashMap::with_max_entries(65_536, 0);

/// The original destinations by the socket's own address and port, which the door sees as its peer.
#[map]
pub static BY_CLIENT: LruHashMap<Endpoint, Endpoint> = LruHashMap::with_max_entries(65_536, 0);

/// One counter for each outcome. The number of outcomes is smaller; the loader reads only as many as there are.
#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(32, 0);

/// The times of the last answers to proofs, in nanoseconds of the monotonic clock, by their place
/// (`entrepot_ebpf_common::proof`).
#[map]
pub static PROVED: Array<u64> = Array::with_max_entries(2 * PROOFS_MAX, 0);

/// Room for DNS messages, which are too large for the stack: one for answers, one for questions. A packet that arrives
/// can interrupt one that leaves, so they share nothing.
#[map]
pub static MESSAGES: PerCpuArray<[u8; MESSAGE_MAX_BYTES]> = PerCpuArray::with_max_entries(2, 0);

/// A number goes through this map to make the verifier forget its value. Answers and questions have a place each.
#[map]
pub static FORGETTING: PerCpuArray<u64> = PerCpuArray::with_max_entries(2, 0);

/// The settings.
#[inline(always)]
pub fn settings() -> Option<&'static Settings> {
    SETTINGS.get(0)
}

/// Counts an outcome.
#[inline(always)]
pub fn count(outcome: Outcome) {
    if outcome as u32 == Outcome::OtherPort as u32 {
        return;
    }
    if let Some(counter) = COUNTERS.get_ptr_mut(outcome as u32) {
        // SAFETY: the counter belongs to this processor, and no other program of this kind interrupts this one.
        unsafe { *counter += 1 };
    }
}

/// The time until which an address is listed; zero if it is not.
#[inline(always)]
pub fn listed_until_ns(address: &Address) -> u64 {
    // SAFETY: the value is copied before it can change.
    if let Some(until_ns) = unsafe { ADDRESSES.get(address) } {
        return *until_ns;
    }
    match PREFIXES.get(Key::new(128, *address)) {
        Some(_) => FOR_EVER,
        None => 0,
    }
}

/// The time until which connections to an address are let pass; zero if they are not.
#[inline(always)]
pub fn direct_until_ns(address: &Address) -> u64 {
    // SAFETY: the value is copied before it can change.
    unsafe { DIRECT.get(address) }.copied().unwrap_or(0)
}

/// Whether the answers from this address count.
#[inline(always)]
pub fn is_resolver(address: &Address) -> bool {
    // SAFETY: the value is not read.
    unsafe { RESOLVERS.get(address) }.is_some()
}

/// Notes the sender of an answer that did not count.
#[inline(always)]
pub fn note_stranger(address: &Address) {
    // SAFETY: the value is copied. Two processors may count one answer less together.
    let count = unsafe { STRANGERS.get(address) }.copied().unwrap_or(0);
    let _ = STRANGERS.insert(address, count + 1, 0);
}

/// The time until which the door counts as healthy.
#[inline(always)]
pub fn healthy_until_ns() -> u64 {
    HEALTHY_UNTIL.get(0).copied().unwrap_or(0)
}

/// Nanoseconds of the monotonic clock.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: the helper has no arguments.
    unsafe { bpf_ktime_get_ns() }
}
