//! The programs that the kernel runs for `entrepot redirect`.
//!
//! `host.rs` leads connections of this machine's processes to the door as they are made; `original.rs` keeps where they
//! meant to go, for the client (getpeername) and for the door (SO_ORIGINAL_DST); `gateway.rs` leads packets that pass
//! through the machine to the door; `observe.rs` learns addresses from DNS answers. `maps.rs` is what they share with
//! each other and with the loader, proxy/src/redirect. Every program lets pass what it is not sure of.
#![no_std]
#![no_main]

mod gateway;
mod host;
mod maps;
mod observe;
mod original;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{TC_ACT_OK, TC_ACT_UNSPEC};
use aya_ebpf::macros::{cgroup_skb, cgroup_sock_addr, cgroup_sockopt, classifier, sock_ops};
use aya_ebpf::programs::{SkBuffContext, SockAddrContext, SockOpsContext, SockoptContext, TcContext};

/// What a cgroup program returns to let the call go on.
const PROCEED: i32 = 1;

/// A process connects to an IPv4 address.
#[cgroup_sock_addr(connect4)]
pub fn connect4(context: SockAddrContext) -> i32 {
    host::connect4(&context);
    PROCEED
}

/// A process connects to an IPv6 address, or a mapped IPv4 address.
#[cgroup_sock_addr(connect6)]
pub fn connect6(context: SockAddrContext) -> i32 {
    host::connect6(&context);
    PROCEED
}

/// A process asks to whom it is connected, by IPv4.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(context: SockAddrContext) -> i32 {
    original::peer_name4(&context);
    PROCEED
}

/// A process asks to whom it is connected, by IPv6.
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(context: SockAddrContext) -> i32 {
    original::peer_name6(&context);
    PROCEED
}

/// A connection is being made: from now on its source port is known.
#[sock_ops]
pub fn note_client(context: SockOpsContext) -> u32 {
    original::connecting(&context);
    0
}

/// The door asks where a connection meant to go.
#[cgroup_sockopt(getsockopt)]
pub fn answer_original(context: SockoptContext) -> i32 {
    original::answer(&context);
    PROCEED
}

/// A packet arrives for a process of this machine.
#[cgroup_skb(ingress)]
pub fn observe_host(context: SkBuffContext) -> i32 {
    observe::packet(context.as_ptr().cast(), 0);
    PROCEED
}

/// A packet arrives at an interface of the gateway.
#[classifier]
pub fn gateway_in(context: TcContext) -> i32 {
    if gateway::packet(&context) { TC_ACT_OK } else { TC_ACT_UNSPEC }
}

/// A packet leaves by an interface of the gateway, towards its clients.
#[classifier]
pub fn observe_gateway(context: TcContext) -> i32 {
    observe::frame(&context);
    TC_ACT_UNSPEC
}

/// Nothing panics here: what could is not compiled in. The compiler wants to know all the same.
#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Some helpers are there for programs under the GPL only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
