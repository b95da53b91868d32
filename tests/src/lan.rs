//! A local network for an appliance that is a virtual machine: a bridge in the proxy's namespace with the clients' link
//! and a tap on it, a DHCP server, and the way to the test's internet.
//!
//! ```text
//! client 10.90.1.2 ──┐
//! appliance 10.90.1.1 ┴ bridge 10.90.1.254 ─ router (world.proxy) ─ 10.90.2.11 … internet
//! ```
//!
//! The client has no default route, so a pull that works went through the appliance.

use std::process::Command;
use std::time::Duration;

use crate::process::Process;
use crate::world::{PROXY_ADDRESS, World};

/// The tap to which the virtual machine is connected.
pub(crate) const TAP: &str = "tap0";
/// The appliance's hardware address, by which DHCP knows it.
pub(crate) const MAC: &str = "52:54:00:90:01:01";

/// The network, with its services running.
pub struct Lan<'w> {
    world: &'w World,
    dhcp: Option<Process>,
}

impl<'w> Lan<'w> {
    /// Makes the network. With `with_dhcp`, a DHCP server gives addresses.
    pub fn new(world: &'w World, with_dhcp: bool) -> Self {
        world.proxy.ip(&format!(
            "addr flush dev down0\n\
             link add br0 type bridge mcast_snooping 0\n\
             link set down0 master br0\n\
             tuntap add {TAP} mode tap\n\
             link set {TAP} master br0\n\
             addr add 10.90.1.254/24 dev br0\n\
             link set {TAP} up\n\
             link set br0 up\n"
        ));
        world.proxy.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forwarding"));
        world.internet.ip("route add 10.90.1.0/24 via 10.90.2.1\n");
        let mut lan = Self { world, dhcp: None };
        if with_dhcp {
            lan.serve_dhcp();
        }
        lan
    }

    /// Starts DHCP: the appliance gets the proxy's address of other tests, and the internet's names.
    pub fn serve_dhcp(&mut self) {
        let mut dnsmasq = Command::new("dnsmasq");
        dnsmasq.args([
            "--keep-in-foreground",
            "--log-facility=-",
            "--log-dhcp",
            "--conf-file=/dev/null",
            "--user=root",
        ]);
        dnsmasq.args(["--interface=br0", "--except-interface=lo", "--bind-interfaces", "--no-resolv", "--pid-file"]);
        dnsmasq.arg("--dhcp-range=10.90.1.100,10.90.1.150,1h").arg(format!("--dhcp-host={MAC},{PROXY_ADDRESS}"));
        dnsmasq.arg(format!("--dhcp-leasefile={}", self.world.path("leases").display()));
        let process = Process::start(&self.world.proxy, dnsmasq);
        process.wait_line("started", Duration::from_secs(10));
        self.dhcp = Some(process);
    }
}
