//! The programs that the kernel runs for `entrepot redirect`.
//!
//! `host.rs` redirects new connections of this machine's processes to the door; `original.rs` keeps their destination
//! for getpeername and SO_ORIGINAL_DST. `gateway.rs` gives packets that pass through the machine to the door, and
//! `prove.rs` proves that they arrive. `observe.rs` learns addresses from DNS answers whose questions it saw. All three
//! read packets by `packet.rs`. `maps.rs` is shared by all of them and by the loader, proxy/redirect. If a program is
//! not sure about a connection or packet, it lets it pass.
#![no_std]
#![no_main]

mod gateway;
mod host;
mod maps;
mod observe;
mod original;
mod packet;
mod prove;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::macros::{cgroup_skb, cgroup_sock_addr, cgroup_sockopt, classifier, sock_ops, xdp};
use aya_ebpf::programs::{SkBuffContext, SockAddrContext, SockOpsContext, SockoptContext, TcContext, XdpContext};

/// The result of a cgroup program that lets the call proceed.
const PROCEED: i32 = 1;
/// The result of a cgroup program that drops the packet.
const DROP: i32 = 0;

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

/// A process asks for its peer's address, IPv4.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(context: SockAddrContext) -> i32 {
    original::peer_name4(&context);
    PROCEED
}

/// A process asks for its peer's address, IPv6.
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(context: SockAddrContext) -> i32 {
    original::peer_name6(&context);
    PROCEED
}

/// The kernel has chosen the source port of a new connection.
#[sock_ops]
pub fn note_client(context: SockOpsContext) -> u32 {
    original::connecting(&context);
    0
}

/// The door asks for the original destination of a connection.
#[cgroup_sockopt(getsockopt)]
pub fn answer_original(context: SockoptContext) -> i32 {
    original::answer(&context);
    PROCEED
}

/// A packet arrives for a process of this machine.
#[cgroup_skb(ingress)]
pub fn observe_host(context: SkBuffContext) -> i32 {
    observe::answer(context.as_ptr().cast());
    PROCEED
}

/// A packet of a process of this machine leaves.
#[cgroup_skb(egress)]
pub fn ask_host(context: SkBuffContext) -> i32 {
    observe::question(context.as_ptr().cast());
    PROCEED
}

/// A packet arrives at an interface of the gateway.
#[classifier]
pub fn gateway_in(context: TcContext) -> i32 {
    gateway::packet(&context)
}

/// A packet leaves by an interface of the gateway, towards its clients.
#[classifier]
pub fn observe_gateway(context: TcContext) -> i32 {
    observe::answer(context.skb.skb);
    TC_ACT_UNSPEC
}

/// A packet of a client arrives at an interface of the gateway.
#[classifier]
pub fn ask_gateway(context: TcContext) -> i32 {
    observe::question(context.skb.skb);
    TC_ACT_UNSPEC
}

/// A packet of a process of this machine leaves, and there may be the answer to a proof among them.
#[cgroup_skb(egress)]
pub fn prove_gateway(context: SkBuffContext) -> i32 {
    if prove::answer(context.as_ptr().cast()) { DROP } else { PROCEED }
}

/// The agent sends a proof into an interface. This program is never attached: the kernel runs it once for each proof
/// (`BPF_F_TEST_XDP_LIVE_FRAMES`), and the packet goes on as if the interface had received it.
#[xdp]
pub fn enter_gateway(_: XdpContext) -> u32 {
    XDP_PASS
}

/// No code that can panic is compiled in, but the compiler requires a handler.
#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel offers some helpers only to programs under the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
