//! The parts of a packet that `gateway.rs`, `observe.rs` and `prove.rs` read.
//!
//! Every position counts from the IP header, so that packets with an Ethernet header and packets without any
//! (WireGuard, tun, PPP) are read alike.

use core::ffi::c_void;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_skb_load_bytes_relative;
use entrepot_ebpf_common::address::{Address, mapped};

/// The protocol numbers of TCP and UDP.
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
const ETHERTYPE_V4: u16 = 0x0800;
const ETHERTYPE_V6: u16 = 0x86dd;
/// `BPF_HDR_START_NET`: positions count from the network header.
const FROM_IP_HEADER: u32 = 1;
/// The flag for more fragments, and the fragment's offset.
const IS_FRAGMENT: u16 = 0x3fff;

/// The transport header of a packet.
pub struct Transport {
    pub is_v4: bool,
    /// The position of the header.
    pub at: u32,
}

/// The transport header, if it is of this protocol. None for fragments, extension headers, and packets of a VLAN that
/// the interface is not on (a trunk has the packets of all its VLANs, with the tag beside the packet).
#[inline(always)]
pub fn transport(skb: *mut __sk_buff, protocol: u8) -> Option<Transport> {
    // SAFETY: the kernel passes a valid context.
    let (ethertype, is_tagged) = unsafe { (u16::from_be((*skb).protocol as u16), (*skb).vlan_present != 0) };
    if is_tagged {
        return None;
    }
    match ethertype {
        ETHERTYPE_V4 => {
            let first: u8 = load(skb, 0)?;
            let fragment = u16::from_be_bytes(load(skb, 6)?);
            if load::<u8>(skb, 9)? != protocol || fragment & IS_FRAGMENT != 0 {
                return None;
            }
            Some(Transport { is_v4: true, at: u32::from(first & 0x0f) * 4 })
        }
        ETHERTYPE_V6 if load::<u8>(skb, 6)? == protocol => Some(Transport { is_v4: false, at: 40 }),
        _ => None,
    }
}

/// The ports of the source and the destination.
#[inline(always)]
pub fn ports(skb: *mut __sk_buff, transport: &Transport) -> Option<[u16; 2]> {
    let [source, destination]: [u16; 2] = load(skb, transport.at)?;
    Some([u16::from_be(source), u16::from_be(destination)])
}

/// The addresses of the source and the destination.
#[inline(always)]
pub fn addresses(skb: *mut __sk_buff, transport: &Transport) -> Option<[Address; 2]> {
    if !transport.is_v4 {
        return load(skb, 8);
    }
    let [from, to]: [[u8; 4]; 2] = load(skb, 12)?;
    Some([mapped(from), mapped(to)])
}

/// Reads a value from the packet; None if the packet is too short.
#[inline(always)]
pub fn load<T: Copy>(skb: *mut __sk_buff, position: u32) -> Option<T> {
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    // SAFETY: the call writes all bytes of the value or fails; `T` is always made of plain numbers.
    unsafe { load_bytes(skb, position, value.as_mut_ptr().cast(), size_of::<T>() as u32).then(|| value.assume_init()) }
}

/// Copies `length` bytes of the packet to `into`, which has room for them. False if the packet is too short.
#[inline(always)]
pub unsafe fn load_bytes(skb: *mut __sk_buff, position: u32, into: *mut c_void, length: u32) -> bool {
    // SAFETY: the caller answers for the room; the kernel passes a valid context.
    unsafe { bpf_skb_load_bytes_relative(skb.cast(), position, into, length, FROM_IP_HEADER) == 0 }
}
