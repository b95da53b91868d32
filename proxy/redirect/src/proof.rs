//! Proves that packets of a gateway's clients arrive at the door and that answers leave towards them.
//!
//! ```text
//! first segment ─► interface (as if received) ─► gateway_in ─► routing, firewall ─► door
//!                                                       prove_gateway ◄── its answer, which ends here
//! ```
//!
//! The client of a proof does not exist: its address is a neighbour's on the interface's network, so that filters and
//! the check of the way back treat it as a client's. Nothing of a proof reaches the network. The door breaks the
//! connection off at once.
//!
//! Invariant: a proof is made whether or not clients are redirected, so that the end of a fault is seen too.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Mutex;
use std::time::Duration;

use entrepot_ebpf_common::proof::{PROOFS_MAX, Proofs, place};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::{InterfaceFlags, if_nametoindex};
use tokio::time::sleep;

use super::RedirectError;
use super::health::{Doors, monotonic_ns};
use super::programs::{Programs, endpoint, lock};
use super::segment::{Ends, HardwareAddress, Segment, frame};

/// Makes the proofs of an agent.
pub(super) struct Prover {
    interfaces: Vec<String>,
    /// The destinations: known addresses of registries, whose packets have the same routes as clients'.
    v4: SocketAddr,
    v6: SocketAddr,
    first_port: u16,
}

/// The result of a round of proofs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Proven {
    /// All packets arrived.
    Arrives {
        /// Whether there was any packet.
        is_any: bool,
        /// The interfaces that are up and could not be tried.
        untried: Vec<String>,
    },
    /// A packet did not arrive, or the door's answer did not leave.
    Lost { interface: String, family: &'static str },
}

/// An interface that is up.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
struct Interface {
    index: u32,
    hardware: HardwareAddress,
    /// The address of a neighbour, which may or may not exist.
    v4: Option<IpAddr>,
    v6: Option<IpAddr>,
}

/// The destinations while no registry's address is known (RFC 5737, RFC 3849).
const DOCUMENTATION: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(192, 0, 2, 1), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
/// The lowest source port of proofs. Clients choose theirs from 1024 on.
const PORT_MIN: u16 = 512;
/// The segments that are sent before a packet counts as lost. A door with a full queue drops some.
const TRIES: usize = 3;
/// The pause between them. The kernel usually answers before the call that sends the segment returns.
const PAUSE: Duration = Duration::from_millis(20);

impl Prover {
    /// `port` is one that is redirected.
    pub(super) fn new(interfaces: &[String], port: u16) -> Self {
        // Agents of several network namespaces of one machine should not see each other's answers.
        let chosen = monotonic_ns() ^ u64::from(std::process::id());
        let first_port = PORT_MIN + u16::try_from(chosen % 32).unwrap_or(0) * PROOFS_MAX as u16;
        let (v4, v6) = DOCUMENTATION;
        Self {
            interfaces: interfaces.to_vec(),
            v4: SocketAddr::from((v4, port)),
            v6: SocketAddr::from((v6, port)),
            first_port,
        }
    }

    /// Chooses the destinations among the addresses of registries that are known now.
    pub(super) fn choose(&mut self, known: &[IpAddr]) {
        let (v4, v6) = DOCUMENTATION;
        choose(&mut self.v4, known, v4.into());
        choose(&mut self.v6, known, v6.into());
    }

    /// The proofs as the programs know them.
    pub(super) fn settings(&self) -> Proofs {
        Proofs {
            v4: endpoint(Some(self.v4)),
            v6: endpoint(Some(self.v6)),
            first_port: u32::from(self.first_port),
            count: u32::try_from(self.interfaces.len()).unwrap_or(PROOFS_MAX).min(PROOFS_MAX),
        }
    }

    /// Tries every interface that is up, by each family that a door answers by.
    pub(super) async fn prove(&self, programs: &Mutex<Programs>, doors: Doors) -> Result<Proven, RedirectError> {
        let up = up(&self.interfaces);
        let (mut is_any, mut untried) = (false, Vec::new());
        for (number, name) in (0u16..).zip(&self.interfaces) {
            let Some(interface) = up.get(name) else { continue };
            let ends = self.ends(number, interface, doors);
            if ends.is_empty() {
                untried.push(name.clone());
            }
            for ends in ends {
                let place = place(u32::from(number), ends.destination.is_ipv4());
                match arrives(programs, interface, ends, place).await {
                    Ok(true) => is_any = true,
                    Ok(false) => {
                        let family = if ends.destination.is_ipv4() { "IPv4" } else { "IPv6" };
                        return Ok(Proven::Lost { interface: name.clone(), family });
                    }
                    // The interface went meanwhile, as those of PPP and WireGuard do.
                    Err(RedirectError::Proof { .. }) if !is_there(name, interface.index) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(Proven::Arrives { is_any, untried })
    }

    /// The proofs of an interface. Empty if its networks have no address for a client, or too many others come before.
    fn ends(&self, number: u16, interface: &Interface, doors: Doors) -> Vec<Ends> {
        if u32::from(number) >= PROOFS_MAX {
            return Vec::new();
        }
        let port = self.first_port + number;
        let families = [(doors.v4, interface.v4, self.v4), (doors.v6, interface.v6, self.v6)].into_iter();
        let ends = |(door, client, destination): (Option<SocketAddr>, Option<IpAddr>, SocketAddr)| {
            door.and(client).map(|client| Ends { client: SocketAddr::new(client, port), destination })
        };
        families.filter_map(ends).collect()
    }
}

/// Keeps the destination while it is known, so that one proof can be compared with the next.
fn choose(destination: &mut SocketAddr, known: &[IpAddr], otherwise: IpAddr) {
    if known.contains(&destination.ip()) {
        return;
    }
    let same_family = known.iter().copied().filter(|address| address.is_ipv4() == otherwise.is_ipv4());
    destination.set_ip(same_family.min().unwrap_or(otherwise));
}

async fn arrives(
    programs: &Mutex<Programs>,
    interface: &Interface,
    ends: Ends,
    place: u32,
) -> Result<bool, RedirectError> {
    let since_ns = monotonic_ns();
    for _ in 0..TRIES {
        lock(programs).send_into(interface.index, &frame(interface.hardware, ends, Segment::Open))?;
        let mut answered = lock(programs).proved_ns(place) >= since_ns;
        if !answered {
            sleep(PAUSE).await;
            answered = lock(programs).proved_ns(place) >= since_ns;
        }
        lock(programs).send_into(interface.index, &frame(interface.hardware, ends, Segment::Break))?;
        if answered {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_there(name: &str, index: u32) -> bool {
    if_nametoindex(name) == Ok(index)
}

/// Those of the interfaces that are up and have a carrier, by their names.
fn up(interfaces: &[String]) -> HashMap<String, Interface> {
    let mut found: HashMap<String, Interface> = HashMap::new();
    let needed = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
    let entries = getifaddrs().into_iter().flatten();
    for entry in entries.filter(|it| it.flags.contains(needed) && interfaces.contains(&it.interface_name)) {
        let Ok(index) = if_nametoindex(entry.interface_name.as_str()) else { continue };
        let interface = found.entry(entry.interface_name).or_default();
        interface.index = index;
        let Some(address) = entry.address else { continue };
        let mask = entry.netmask;
        if let Some(link) = address.as_link_addr() {
            // An interface without an Ethernet header has none.
            interface.hardware = link.addr().unwrap_or_default();
        } else if let (Some(own), Some(mask)) =
            (address.as_sockaddr_in(), mask.and_then(|it| Some(*it.as_sockaddr_in()?)))
        {
            interface.v4 = interface.v4.or(neighbour(own.ip().into(), mask.ip().into()));
        } else if let (Some(own), Some(mask)) =
            (address.as_sockaddr_in6(), mask.and_then(|it| Some(*it.as_sockaddr_in6()?)))
            && !own.ip().is_unicast_link_local()
        {
            interface.v6 = interface.v6.or(neighbour(own.ip().into(), mask.ip().into()));
        }
    }
    found
}

/// Another address of a network. None if the network has no place for one.
fn neighbour(own: IpAddr, mask: IpAddr) -> Option<IpAddr> {
    fn next(own: u128, mask: u128, all: u128) -> Option<u128> {
        let hosts = all & !mask;
        // The first and the last address are the network's and the broadcast's, unless there are only two.
        let is_usable = |host: u128| hosts == 1 || (host != 0 && host != hosts);
        let host = own & hosts;
        let other = [host.wrapping_add(1) & hosts, host.wrapping_sub(1) & hosts].into_iter();
        let other = other.filter(|other| *other != host).find(|other| is_usable(*other))?;
        Some((own & mask) | other)
    }
    match (own, mask) {
        (IpAddr::V4(own), IpAddr::V4(mask)) => {
            let found = next(own.to_bits().into(), mask.to_bits().into(), u32::MAX.into())?;
            Some(Ipv4Addr::from_bits(u32::try_from(found).ok()?).into())
        }
        (IpAddr::V6(own), IpAddr::V6(mask)) => {
            Some(Ipv6Addr::from_bits(next(own.to_bits(), mask.to_bits(), u128::MAX)?).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_neighbour_is_another_host_of_the_network() {
        for (own, mask, expected) in [
            ("10.90.1.1", "255.255.255.0", Some("10.90.1.2")),
            ("10.90.1.254", "255.255.255.0", Some("10.90.1.253")),
            ("10.0.0.2", "255.255.255.252", Some("10.0.0.1")),
            ("10.0.0.0", "255.255.255.254", Some("10.0.0.1")),
            ("10.0.0.1", "255.255.255.255", None),
            ("fd90::1", "ffff:ffff:ffff:ffff::", Some("fd90::2")),
            ("fd90::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None),
        ] {
            let parse = |text: &str| text.parse::<IpAddr>().expect("an address");
            assert_eq!(neighbour(parse(own), parse(mask)), expected.map(parse), "{own} {mask}");
        }
    }

    #[test]
    fn an_interface_is_tried_by_each_family_that_a_door_and_an_address_are_there_for() {
        let names: Vec<String> = (0..=PROOFS_MAX).map(|number| format!("eth{number}")).collect();
        let prover = Prover::new(&names, 443);
        assert_eq!(prover.settings().count, PROOFS_MAX);
        let (v4, v6) = ("10.0.0.2".parse().ok(), "fd00::2".parse().ok());
        let (door4, door6) = ("127.0.0.1:3129".parse().ok(), "[::1]:3129".parse().ok());
        let last = u16::try_from(PROOFS_MAX).expect("few") - 1;
        for (number, client, doors, expected) in [
            (0, (v4, v6), (door4, door6), vec!["10.0.0.2", "fd00::2"]),
            (last, (v4, v6), (door4, None), vec!["10.0.0.2"]),
            (0, (v4, v6), (None, door6), vec!["fd00::2"]),
            (0, (v4, None), (None, door6), vec![]),
            (0, (None, None), (door4, door6), vec![]),
            (last + 1, (v4, v6), (door4, door6), vec![]),
        ] {
            let interface = Interface { v4: client.0, v6: client.1, ..Interface::default() };
            let ends = prover.ends(number, &interface, Doors { v4: doors.0, v6: doors.1 });
            let clients: Vec<String> = ends.iter().map(|ends| ends.client.ip().to_string()).collect();
            assert_eq!(clients, expected, "{number} {client:?} {doors:?}");
            assert!(ends.iter().all(|ends| ends.client.is_ipv4() == ends.destination.is_ipv4()), "{ends:?}");
        }
    }

    #[test]
    fn proofs_go_to_known_addresses_of_registries_from_ports_that_clients_do_not_choose() {
        let mut prover = Prover::new(&["eth0".to_owned(), "eth1".to_owned()], 443);
        let settings = prover.settings();
        assert_eq!((settings.count, settings.v4.port, settings.v6.port), (2, 443, 443));
        assert!(settings.first_port >= 512 && settings.first_port + PROOFS_MAX <= 1024);
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        for (known, v4, v6) in [
            (&["10.0.0.9", "10.0.0.8", "fd00::1"][..], "10.0.0.8", "fd00::1"),
            (&["10.0.0.8", "10.0.0.7"], "10.0.0.8", "2001:db8::1"),
            (&["10.0.0.7"], "10.0.0.7", "2001:db8::1"),
            (&[], "192.0.2.1", "2001:db8::1"),
        ] {
            let known: Vec<IpAddr> = known.iter().map(|text| address(text)).collect();
            prover.choose(&known);
            assert_eq!((prover.v4.ip(), prover.v6.ip()), (address(v4), address(v6)), "{known:?}");
        }
    }
}
