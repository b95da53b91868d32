//! Redirects connections of this machine's processes to listed addresses, before the first packet is sent.

use core::ffi::c_void;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{bpf_sock_addr, bpf_sock_tuple};
use aya_ebpf::helpers::{
    bpf_get_current_cgroup_id, bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_sk_lookup_tcp, bpf_sk_release,
};
use aya_ebpf::programs::SockAddrContext;
use entrepot_ebpf_common::address::{Address, Endpoint, mapped, unmapped};
use entrepot_ebpf_common::decision::{Surroundings, decide};
use entrepot_ebpf_common::outcome::Outcome;
use entrepot_ebpf_common::settings::Settings;

use crate::maps;

const TCP: u32 = 6;
/// `BPF_F_CURRENT_NETNS`: the namespace of the socket.
const CURRENT_NAMESPACE: u64 = u64::MAX;

/// `connect` to an IPv4 address.
#[inline(always)]
pub fn connect4(context: &SockAddrContext) {
    // SAFETY: the kernel passes a valid context; each field is read at its own width.
    let (ip, port) = unsafe { ((*context.sock_addr).user_ip4, (*context.sock_addr).user_port) };
    let destination = Endpoint::new(mapped(ip.to_ne_bytes()), u16::from_be(port as u16));
    let Some(door) = redirection(context, &destination) else { return };
    let Some(v4) = unmapped(&door.address) else { return };
    // SAFETY: as above; these two fields may be written.
    unsafe {
        (*context.sock_addr).user_ip4 = u32::from_ne_bytes(v4);
        (*context.sock_addr).user_port = u32::from(door.port.to_be());
    }
}

/// `connect` to an IPv6 address.
#[inline(always)]
pub fn connect6(context: &SockAddrContext) {
    let port = unsafe { (*context.sock_addr).user_port };
    let destination = Endpoint::new(user_ip6(context), u16::from_be(port as u16));
    let Some(door) = redirection(context, &destination) else { return };
    set_user_ip6(context, &door.address);
    // SAFETY: this field may be written.
    unsafe { (*context.sock_addr).user_port = u32::from(door.port.to_be()) };
}

/// The IPv6 address in a context.
#[inline(always)]
pub fn user_ip6(context: &SockAddrContext) -> Address {
    let mut address = [0; 16];
    let mut word = 0;
    while word < 4 {
        // SAFETY: the context is valid; the verifier requires that each word of 32 bits is read on its own.
        let bytes = unsafe { (&raw const (*context.sock_addr).user_ip6[word]).read_volatile() }.to_ne_bytes();
        address[4 * word] = bytes[0];
        address[4 * word + 1] = bytes[1];
        address[4 * word + 2] = bytes[2];
        address[4 * word + 3] = bytes[3];
        word += 1;
    }
    address
}

/// Writes the IPv6 address of a context.
#[inline(always)]
pub fn set_user_ip6(context: &SockAddrContext, address: &Address) {
    let mut word = 0;
    while word < 4 {
        let at = 4 * word;
        let value = u32::from_ne_bytes([address[at], address[at + 1], address[at + 2], address[at + 3]]);
        // SAFETY: as above.
        unsafe { (&raw mut (*context.sock_addr).user_ip6[word]).write_volatile(value) };
        word += 1;
    }
}

/// The door if this connection is redirected, after its destination was stored; otherwise None.
#[inline(always)]
fn redirection(context: &SockAddrContext, destination: &Endpoint) -> Option<&'static Endpoint> {
    if unsafe { (*context.sock_addr).protocol } != TCP {
        return None;
    }
    let settings = maps::settings()?;
    let mut outcome = decide(settings, destination, &Process(context));
    if outcome as u32 == Outcome::Redirected as u32 {
        // SAFETY: this kind of context has a cookie.
        let cookie = unsafe { bpf_get_socket_cookie(context.as_ptr()) };
        if maps::BY_COOKIE.insert(cookie, destination, 0).is_err() {
            outcome = Outcome::Failed;
        }
    }
    maps::count(outcome);
    if outcome as u32 == Outcome::Redirected as u32 { Some(settings.door_for(&destination.address)) } else { None }
}

/// The surroundings of a process that connects.
struct Process<'a>(&'a SockAddrContext);

impl Surroundings for Process<'_> {
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
    fn is_own(&self, settings: &Settings) -> bool {
        // SAFETY: the context is valid; the socket may be null, which is checked first.
        let mark = unsafe {
            let socket = (*self.0.sock_addr).__bindgen_anon_1.sk;
            if socket.is_null() { 0 } else { (*socket).mark }
        };
        if mark == settings.own_mark {
            return true;
        }
        // SAFETY: the helper has no arguments; the value of the map is not read.
        unsafe { maps::EXEMPT.get(bpf_get_current_cgroup_id()).is_some() }
    }

    #[inline(always)]
    fn is_in_namespace(&self, settings: &Settings) -> bool {
        // SAFETY: both arguments are allowed; null asks for the machine's first namespace.
        let (own, first) =
            unsafe { (bpf_get_netns_cookie(self.0.as_ptr()), bpf_get_netns_cookie(core::ptr::null_mut())) };
        own == if settings.netns_cookie == 0 { first } else { settings.netns_cookie }
    }

    #[inline(always)]
    fn door_listens(&self, door: &Endpoint) -> bool {
        listener(self.0.sock_addr.cast::<bpf_sock_addr>().cast(), door)
    }
}

/// Whether a socket listens at `door`, in the namespace of the context's socket.
#[inline(always)]
fn listener(context: *mut c_void, door: &Endpoint) -> bool {
    // SAFETY: all zeros are a valid tuple; only fields of plain numbers are written.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    let size = match unmapped(&door.address) {
        Some(v4) => {
            tuple.__bindgen_anon_1.ipv4.daddr = u32::from_ne_bytes(v4);
            tuple.__bindgen_anon_1.ipv4.dport = door.port.to_be();
            12
        }
        None => {
            // SAFETY: both types have sixteen bytes.
            tuple.__bindgen_anon_1.ipv6.daddr = unsafe { core::mem::transmute::<Address, [u32; 4]>(door.address) };
            tuple.__bindgen_anon_1.ipv6.dport = door.port.to_be();
            36
        }
    };
    // SAFETY: the tuple lives as long as the call; the socket that is returned is released.
    unsafe {
        let socket = bpf_sk_lookup_tcp(context, &mut tuple, size, CURRENT_NAMESPACE, 0);
        if socket.is_null() {
            return false;
        }
        bpf_sk_release(socket.cast());
        true
    }
}
