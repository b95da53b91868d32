//! The rules and routes of a gateway: packets with the mark that the program sets are delivered to this machine instead
//! of being forwarded. There is one rule and one route for each family.
//!
//! ```text
//! ip rule add fwmark 0xe8 lookup 3129 preference 90        ip route add local default dev lo table 3129
//! ```
//!
//! The rule comes before those of other programs (Tailscale has 5210, wg-quick 32764). Both are watched: if another
//! program removes one, it is added again.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};

use futures_util::{StreamExt as _, TryStreamExt as _};
use rtnetlink::packet_route::route::{RouteMessage, RouteScope, RouteType};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::packet_route::tc::TcHandle;
use rtnetlink::{Error, Handle, IpVersion, MulticastGroup, RouteMessageBuilder};
use tokio::time::{Duration, sleep, timeout};

use super::RedirectError;
use entrepot_config::ready::TRANSPARENT_PORT;

/// The mark of packets for the door.
pub(super) const ROUTE_MARK: u32 = 0xe8;
/// The table of the route. Its number is the door's port, so that people recognise it.
const TABLE: u32 = TRANSPARENT_PORT as u32;
/// The preference of the rule. Lower ones come first; 0 is the kernel's own.
pub(super) const PREFERENCE: u32 = 90;
/// The pause after a change of the rules. Programs change several at once.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest time between two looks. A router has too many routes to hear of every change of them.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The loopback interface has this number in every namespace.
const LOOPBACK: u32 = 1;

/// Adds the rules and routes, after removing those that an earlier agent left.
pub(super) async fn install() -> Result<(), RedirectError> {
    let handle = connect()?;
    remove_by(&handle).await?;
    let failed = |what| move |error: Error| RedirectError::Routing { what, reason: error.to_string() };
    let rule =
        || handle.rule().add().fw_mark(ROUTE_MARK).table_id(TABLE).priority(PREFERENCE).action(RuleAction::ToTable);
    rule().v4().execute().await.map_err(failed("add the IPv4 routing rule"))?;
    if has_ipv6() {
        rule().v6().execute().await.map_err(failed("add the IPv6 routing rule"))?;
    }
    add_routes(&handle).await
}

/// Adds the routes. Those that are there stay.
async fn add_routes(handle: &Handle) -> Result<(), RedirectError> {
    let failed = |what| move |error: Error| RedirectError::Routing { what, reason: error.to_string() };
    handle.route().add(route_v4()).replace().execute().await.map_err(failed("add the IPv4 route"))?;
    if has_ipv6() {
        handle.route().add(route_v6()).replace().execute().await.map_err(failed("add the IPv6 route"))?;
    }
    Ok(())
}

/// Adds the rules and routes again whenever another program has removed one. Returns only if that is not possible.
pub(super) async fn keep() -> Result<(), RedirectError> {
    let connection = rtnetlink::new_multicast_connection(&[MulticastGroup::Ipv4Rule, MulticastGroup::Ipv6Rule]);
    let (connection, handle, mut changes) =
        connection.map_err(|source| RedirectError::System { what: "netlink socket", source })?;
    tokio::spawn(connection);
    loop {
        match timeout(LOOK_EVERY, changes.next()).await {
            Ok(None) => {
                let reason = "the kernel tells no more changes".to_owned();
                return Err(RedirectError::Routing { what: "watch the routing rules", reason });
            }
            Ok(Some(_)) => sleep(PAUSE).await,
            Err(_) => {}
        }
        // One look answers all changes until now.
        while changes.try_recv().is_ok() {}
        if !are_complete(&handle).await? {
            tracing::warn!("another program removed the routing rule for the mark {ROUTE_MARK:#x}; it is added again");
            install().await?;
        }
        add_routes(&handle).await?;
    }
}

/// The preferences of other programs' rules that come before ours and that our mark does not pass. Empty if they cannot
/// be read.
pub(super) async fn earlier_rules() -> Vec<u32> {
    let Ok(handle) = connect() else { return Vec::new() };
    let mut found = Vec::new();
    for version in [IpVersion::V4, IpVersion::V6] {
        let rules: Vec<RuleMessage> = handle.rule().get(version).execute().try_collect().await.unwrap_or_default();
        found.extend(rules.iter().filter(|rule| takes_our_mark(rule)).map(preference));
    }
    // Zero is the kernel's own.
    found.retain(|preference| (1..PREFERENCE).contains(preference));
    found.sort_unstable();
    found.dedup();
    found
}

async fn are_complete(handle: &Handle) -> Result<bool, RedirectError> {
    let failed = |error: Error| RedirectError::Routing { what: "read the routing rules", reason: error.to_string() };
    for version in [IpVersion::V4, IpVersion::V6] {
        if version == IpVersion::V6 && !has_ipv6() {
            continue;
        }
        let rules: Vec<RuleMessage> = handle.rule().get(version).execute().try_collect().await.map_err(failed)?;
        if !rules.iter().any(is_ours) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Removes the rules and routes, if there are any.
pub(super) async fn remove() -> Result<(), RedirectError> {
    remove_by(&connect()?).await
}

/// Removes the queueing discipline that was added to an interface.
pub(super) async fn remove_discipline(interface: &str) -> Result<(), RedirectError> {
    let failed = |reason: String| RedirectError::Routing { what: "remove the queueing discipline", reason };
    let index = nix::net::if_::if_nametoindex(interface).map_err(|error| failed(error.to_string()))?;
    let mut request = connect()?.qdisc().del(i32::try_from(index).unwrap_or(i32::MAX));
    request.message_mut().header.parent = TcHandle::CLSACT;
    request.execute().await.map_err(|error| failed(error.to_string()))
}

/// The families for which this machine does not forward, for messages.
pub(super) fn forwarding_off() -> Vec<&'static str> {
    let families = [("IPv4", "/proc/sys/net/ipv4/ip_forward"), ("IPv6", "/proc/sys/net/ipv6/conf/all/forwarding")];
    let is_off = |path: &str| fs::read_to_string(path).is_ok_and(|value| value.trim() == "0");
    families.into_iter().filter(|(_, path)| is_off(path)).map(|(family, _)| family).collect()
}

fn connect() -> Result<Handle, RedirectError> {
    let connection = rtnetlink::new_connection();
    let (connection, handle, _) =
        connection.map_err(|source| RedirectError::System { what: "netlink socket", source })?;
    tokio::spawn(connection);
    Ok(handle)
}

async fn remove_by(handle: &Handle) -> Result<(), RedirectError> {
    let failed = |error: Error| RedirectError::Routing { what: "remove the routing rules", reason: error.to_string() };
    for version in [IpVersion::V4, IpVersion::V6] {
        if version == IpVersion::V6 && !has_ipv6() {
            continue;
        }
        let rules: Vec<RuleMessage> = handle.rule().get(version).execute().try_collect().await.map_err(failed)?;
        for rule in rules.into_iter().filter(is_ours) {
            handle.rule().del(rule).execute().await.map_err(failed)?;
        }
    }
    for route in [route_v4(), route_v6()] {
        // An error means that there is no such route.
        let _ = handle.route().del(route).execute().await;
    }
    Ok(())
}

fn is_ours(rule: &RuleMessage) -> bool {
    let has = |wanted: RuleAttribute| rule.attributes.contains(&wanted);
    has(RuleAttribute::FwMark(ROUTE_MARK)) && has(RuleAttribute::Table(TABLE))
}

fn preference(rule: &RuleMessage) -> u32 {
    let preference = |attribute: &RuleAttribute| match attribute {
        RuleAttribute::Priority(preference) => Some(*preference),
        _ => None,
    };
    rule.attributes.iter().find_map(preference).unwrap_or(0)
}

fn takes_our_mark(rule: &RuleMessage) -> bool {
    let (mut mark, mut mask) = (None, u32::MAX);
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::FwMark(value) => mark = Some(*value),
            RuleAttribute::FwMask(value) => mask = *value,
            _ => {}
        }
    }
    mark.is_none_or(|mark| ROUTE_MARK & mask == mark)
}

fn route_v4() -> RouteMessage {
    let route = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(Ipv4Addr::UNSPECIFIED, 0);
    route.table_id(TABLE).kind(RouteType::Local).scope(RouteScope::Host).output_interface(LOOPBACK).build()
}

fn route_v6() -> RouteMessage {
    let route = RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(Ipv6Addr::UNSPECIFIED, 0);
    route.table_id(TABLE).kind(RouteType::Local).output_interface(LOOPBACK).build()
}

fn has_ipv6() -> bool {
    fs::exists("/proc/sys/net/ipv6").unwrap_or(false)
}
