//! The parts of a packet that `gateway.rs` and `observe.rs` read.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_skb_load_bytes;
use entrepot_ebpf_common::address::{Address, mapped};

/// The length of an Ethernet header.
pub const ETHERNET_BYTES: u32 = 14;

/// The addresses of the source and the destination of a packet whose IP header is at `ip`.
#[inline(always)]
pub fn addresses(skb: *mut __sk_buff, ip: u32, is_v4: bool) -> Option<[Address; 2]> {
    if !is_v4 {
        return load(skb, ip + 8);
    }
    let [from, to]: [[u8; 4]; 2] = load(skb, ip + 12)?;
    Some([mapped(from), mapped(to)])
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
