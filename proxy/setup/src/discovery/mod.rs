//! Announces this appliance on the local network, and finds others: multicast DNS (RFC 6762) with services (RFC 6763).
//!
//! ```text
//! entrepot serve             announce   a thread of ours, which watches the thread of the crate mdns-sd; that one has
//!                                       port 5353, shared with Avahi or systemd-resolved
//! entrepot discover, client  browse     the appliances that answer
//!                            probe      the facts and the CA certificate of one appliance, by HTTP
//! ```
//!
//! `facts` has the list of keys that describe an appliance; `identity` has the name and addresses of this machine.
//!
//! Invariants: serving never depends on this module: a failure is logged and tried again. Questions that passed a
//! router are not answered ([`entrepot_kernel::link_only`]).

pub mod announce;
pub mod browse;
pub mod facts;
pub mod identity;
mod interfaces;
pub mod probe;

/// The service type of this product.
pub(crate) const SERVICE: &str = "_docker-registry._tcp.local.";
/// The service type that programs list as web sites.
pub(crate) const WEB_SERVICE: &str = "_http._tcp.local.";

/// The UDP port of mDNS, which all responders of a machine share.
const MDNS_PORT: u16 = 5353;
