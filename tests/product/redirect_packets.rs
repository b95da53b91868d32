//! The packets that a gateway takes: those of its interface, with an Ethernet header or without one. Packets of a VLAN
//! that the interface is not on pass.

use std::process::Command;
use std::time::Duration;

use entrepot_tests::agent::Agent;
use entrepot_tests::entrepot::{Entrepot, Settings};
use entrepot_tests::process::{Finished, finish};
use entrepot_tests::world::{World, address_of};

/// A client's first segment by IPv4, as Python builds it: `syn(source, port, destination)`.
const SYN: &str = r#"
import socket, struct, sys, time
def total(data):
    value = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while value >> 16:
        value = (value & 0xFFFF) + (value >> 16)
    return struct.pack("!H", ~value & 0xFFFF)
def syn(source, port, destination):
    ends = socket.inet_aton(source) + socket.inet_aton(destination)
    tcp = struct.pack("!HHIIBBHHH", port, 443, 7, 0, 5 << 4, 2, 65535, 0, 0)
    tcp = tcp[:16] + total(ends + struct.pack("!HH", 6, len(tcp)) + tcp) + tcp[18:]
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 1, 0, 64, 6, 0) + ends
    return ip[:10] + total(ip) + ip[12:] + tcp
"#;

/// Sends the segment in a frame to the router, with a tag of VLAN 20 if there is a third argument.
const SEND: &str = r#"
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
link.bind((sys.argv[1], 0))
router = bytes.fromhex(sys.argv[2].replace(":", ""))
tag = struct.pack("!HH", 0x8100, 20) if len(sys.argv) > 4 else b""
link.send(router + bytes(6) + tag + b"\x08\x00" + syn("10.90.1.2", 41000 + len(tag), sys.argv[3]))
"#;

/// Makes an interface without an Ethernet header, waits for a line, sends the segment in, and prints what comes back.
const TUN: &str = r#"
import fcntl, os, select, subprocess
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", b"tun9", 0x1001))
subprocess.run(["ip", "address", "add", "10.99.0.1/24", "dev", "tun9"], check=True)
subprocess.run(["ip", "link", "set", "tun9", "up"], check=True)
print("up", flush=True)
sys.stdin.readline()
os.write(tun, syn("10.99.0.7", 41000, sys.argv[1]))
end = time.time() + 10
while time.time() < end and select.select([tun], [], [], 10)[0]:
    packet = os.read(tun, 2048)
    if packet[0] >> 4 == 4 and packet[9] == 6 and packet[16:20] == socket.inet_aton("10.99.0.7"):
        print(socket.inet_ntoa(packet[12:16]), packet[33], flush=True)
        break
"#;

fn python(script: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", &format!("{SYN}{script}")]).args(arguments);
    command
}

fn send(world: &World, arguments: &[&str]) -> Finished {
    finish(&world.client, python(SEND, arguments), Duration::from_secs(20)).expect_success("a frame")
}

#[test]
fn a_tagged_packet_of_another_vlan_passes() {
    let world = World::new();
    world.route_clients();
    let _entrepot = Entrepot::start(&world, Settings::new());
    let network = format!("{}/32", address_of("eu.pkg.dev"));
    let arguments = ["gateway", "--interface", "down0", "--prefix", &network];
    let agent = Agent::start(&world, &world.proxy, &Settings::new(), &arguments);
    let links = |namespace| {
        let mut show = Command::new("ip");
        show.args(["-o", "link", "show", "up"]);
        finish(namespace, show, Duration::from_secs(10)).expect_success("ip link").stdout
    };
    let router = links(&world.proxy);
    let router = router.lines().find(|line| line.contains("down0")).and_then(|line| line.split("ether ").nth(1));
    let router = router.and_then(|line| line.split(' ').next()).expect("a hardware address");
    let client = links(&world.client);
    let name = |line: &str| Some(line.split(": ").nth(1)?.split('@').next()?.to_owned());
    let client = client.lines().filter_map(name).find(|name| name != "lo").expect("the client's interface");
    let to = [client.as_str(), router, address_of("eu.pkg.dev")];
    send(&world, &[&to[..], &["tagged"]].concat());
    send(&world, &to);
    // The untagged one comes after the tagged one.
    agent.wait_status("the untagged packet", |_| agent.count("redirected") > 0);
    assert_eq!(agent.count("redirected"), 1);
}

#[test]
fn an_interface_without_an_ethernet_header_works() {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::process::Stdio;

    let world = World::new();
    world.route_clients();
    let _entrepot = Entrepot::start(&world, Settings::new());
    let destination = address_of("eu.pkg.dev");
    let network = format!("{destination}/32");
    let mut command = python(TUN, &[destination]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut tun = world.proxy.run(move || command.spawn().expect("python3"));
    let mut lines = BufReader::new(tun.stdout.take().expect("a pipe")).lines();
    let mut line = || lines.next().expect("a line").expect("text");
    assert_eq!(line(), "up");
    let arguments = ["gateway", "--interface", "tun9", "--prefix", &network];
    let agent = Agent::start(&world, &world.proxy, &Settings::new(), &arguments);
    tun.stdin.take().expect("a pipe").write_all(b"go\n").expect("told");
    // The flags SYN and ACK.
    assert_eq!(line(), format!("{destination} 18"), "the door's answer, from the address that the client asked for");
    assert!(tun.wait().expect("ended").success());
    assert_eq!(agent.count("redirected"), 1);
}
