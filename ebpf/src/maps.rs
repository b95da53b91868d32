//! The maps, and the few ways in which the programs use them. The loader knows them by name.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::{Key, LpmTrie};
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray};
use entrepot_ebpf_common::address::{Address, Endpoint};
use entrepot_ebpf_common::decision::FOR_EVER;
use entrepot_ebpf_common::dns::MESSAGE_MAX_BYTES;
use entrepot_ebpf_common::outcome::Outcome;
use entrepot_ebpf_common::settings::Settings;

/// What the loader wrote before it attached anything.
#[map]
pub static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);

/// Until when everything is in order, in nanoseconds of the monotonic clock. The agent moves it on.
#[map]
pub static HEALTHY_UNTIL: Array<u64> = Array::with_max_entries(1, 0);

/// Addresses of listed names, and until when they hold.
#[map]
pub static ADDRESSES: LruHashMap<Address, u64> = LruHashMap::with_max_entries(16_384, 0);

/// Networks that the administrator named.
#[map]
pub static PREFIXES: LpmTrie<Address, u32> = LpmTrie::with_max_entries(1024, BPF_F_NO_PREALLOC);

/// Hashes of listed names, and what they stand for.
#[map]
pub static NAMES: HashMap<u64, u32> = HashMap::with_max_entries(4096, 0);

/// Control groups whose processes are left alone.
#[map]
pub static EXEMPT: HashMap<u64, u32> = HashMap::with_max_entries(64, 0);

/// Where redirected sockets meant to go, by the socket's cookie.
#[map]
pub static BY_COOKIE: LruHashMap<u64, Endpoint> = LruHashMap::with_max_entries(65_536, 0);

/// The same by the socket's own address and port, as the door sees it.
#[map]
pub static BY_CLIENT: LruHashMap<Endpoint, Endpoint> = LruHashMap::with_max_entries(65_536, 0);

/// One counter for each outcome; the loader knows how many there are, and a little room does not hurt.
#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(32, 0);

/// Room for a DNS message, which is more than the stack has.
#[map]
pub static MESSAGES: PerCpuArray<[u8; MESSAGE_MAX_BYTES]> = PerCpuArray::with_max_entries(1, 0);

/// A number on its way past the verifier.
#[map]
pub static FORGETTING: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// The settings, once the loader has written them.
#[inline(always)]
pub fn settings() -> Option<&'static Settings> {
    SETTINGS.get(0)
}

/// One more of this outcome.
#[inline(always)]
pub fn count(outcome: Outcome) {
    if outcome as u32 == Outcome::OtherPort as u32 {
        return;
    }
    if let Some(counter) = COUNTERS.get_ptr_mut(outcome as u32) {
        // SAFETY: the counter belongs to this processor, and programs are not interrupted by others of their kind.
        unsafe { *counter += 1 };
    }
}

/// Until when an address is listed; zero where it is not.
#[inline(always)]
pub fn listed_until_ns(address: &Address) -> u64 {
    // SAFETY: the value is copied before anything else can happen to it.
    if let Some(until_ns) = unsafe { ADDRESSES.get(address) } {
        return *until_ns;
    }
    match PREFIXES.get(Key::new(128, *address)) {
        Some(_) => FOR_EVER,
        None => 0,
    }
}

/// Until when everything is in order.
#[inline(always)]
pub fn healthy_until_ns() -> u64 {
    HEALTHY_UNTIL.get(0).copied().unwrap_or(0)
}

/// Nanoseconds of the monotonic clock.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: it takes nothing.
    unsafe { bpf_ktime_get_ns() }
}
