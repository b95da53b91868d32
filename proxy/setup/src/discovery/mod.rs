//! Being found on the local network, and finding others: multicast DNS (RFC 6762) and its services (RFC 6763).
//!
//! ```text
//! serve ─► announce: thread of ours ─► mdns-sd: a thread and port 5353, shared with Avahi or resolved
//! entrepot discover, client ─► browse: who is there ─► probe: is it well, is its CA the one it announced
//! ```
//!
//! `facts` is the one place that knows what is told about an appliance and under which keys.
//!
//! Invariants: nothing here is needed to serve: what fails is logged and tried again, and the proxy goes on. Questions
//! that passed a router are not answered ([`entrepot_kernel::link_only`]).

pub mod announce;
pub mod browse;
pub mod facts;
pub mod identity;
mod interfaces;
pub mod probe;

/// The service type of this product.
pub const SERVICE: &str = "_docker-registry._tcp.local.";
/// The service type that browsers list.
pub const WEB_SERVICE: &str = "_http._tcp.local.";

/// The port that every responder of a machine shares.
const MDNS_PORT: u16 = 5353;
