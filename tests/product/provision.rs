//! `provision/appliance` on a machine with a real systemd, and on the tree of such a machine.

use entrepot_tests::images;
use entrepot_tests::machine::{Machine, PROVISION};
use entrepot_tests::upstream::{GHCR, Upstream};
use entrepot_tests::world::World;

/// Every file of the system with its kind and content, except files that a running system writes.
const SNAPSHOT: &str = r"skip='-path /var/log -o -path /var/lib/systemd -o -path /repository -o -path /var/lib/entrepot'
  { find / -xdev \( $skip \) -prune -o -printf '%p %M %U %G %l\n'
    find / -xdev \( $skip \) -prune -o -type f -exec sha256sum {} +; } | sort";

#[test]
fn a_machine_becomes_an_appliance_and_a_second_run_changes_nothing() {
    let world = World::new();
    let ghcr = Upstream::start(&world, GHCR);
    let image = ghcr.publish(&images::random(61, 2, 40_000), "team/app", "1.0");
    let machine = Machine::boot(&world);
    machine.expect("printf 'REGISTRIES=\"fake.test\"\\nAUTH_REGISTRIES=fake.test:robot:canary-$x\\n' >/root/dotenv");
    let provision = format!("{PROVISION} --env /root/dotenv");
    let said = machine.expect(&provision);
    assert!(said.contains("started entrepot.service") && said.contains("entrepot is installed"), "{said}");

    // A client on the network with only the CA pulls through it.
    let client = machine.client();
    client.skopeo_pull(&image, None).expect_success("through the appliance");
    // The registry has the usual ports.
    let registry = client.curl(&["-o", "/dev/null", "-w", "%{http_code}", "https://docker-registry.local/v2/"]);
    assert_eq!(registry.expect_success("the registry").stdout, "200");

    let state = machine.expect("systemctl show entrepot -p User -p NFileDescriptorStore -p StatusText -p NRestarts");
    for line in ["User=entrepot", "NFileDescriptorStore=5", "StatusText=serving; proxy on [::]:3128", "NRestarts=0"] {
        assert!(state.lines().any(|found| found == line), "{line} is missing:\n{state}");
    }
    assert_eq!(machine.expect("stat -c '%a %U' /etc/entrepot/entrepot.env"), "600 root\n");
    let variables = machine.expect("tr '\\0' '\\n' </proc/$(systemctl show entrepot -p MainPID --value)/environ");
    assert!(variables.contains("REGISTRIES=fake.test\n"), "{variables}");
    assert!(variables.contains("AUTH_REGISTRIES=fake.test:robot:canary-$x\n"), "{variables}");
    assert_eq!(machine.expect("cat /proc/sys/net/ipv4/tcp_slow_start_after_idle"), "0\n");

    // The server can still read the CA after root has changed it.
    machine.expect("entrepot ca rotate --yes; systemctl restart entrepot");

    let (pid, before) = (machine.expect("systemctl show entrepot -p MainPID"), machine.expect(SNAPSHOT));
    let again = machine.expect(&provision);
    assert_eq!(again, "provision/appliance: nothing to change on this machine\n");
    assert!(before.lines().count() > 1000, "{before}");
    assert_eq!(before, machine.expect(SNAPSHOT), "the second run changed a file");
    assert_eq!(pid, machine.expect("systemctl show entrepot -p MainPID"), "and it restarted the server");

    // A newer program is an upgrade.
    let newer = "cp /repository/target/debug/entrepot /root/newer; echo >>/root/newer";
    let upgraded = machine.expect(&format!("{newer}; {provision} --binary /root/newer"));
    assert!(upgraded.contains("restarted entrepot.service"), "{upgraded}");
    assert_eq!(machine.property("entrepot", "ActiveState"), "active");
}

#[test]
fn a_port_that_is_taken_is_said_before_anything_is_done_and_the_redirect_is_ready() {
    let world = World::new();
    let machine = Machine::boot(&world);
    let holder = world.proxy.run(|| std::net::TcpListener::bind("0.0.0.0:80").expect("the port"));
    let before = machine.expect(SNAPSHOT);
    let refused = machine.run(PROVISION);
    assert_eq!(refused.status.code(), Some(69), "{}", refused.stderr);
    assert!(refused.stderr.contains("port 80 is in use") && refused.stderr.lines().count() == 1, "{}", refused.stderr);
    assert_eq!(before, machine.expect(SNAPSHOT));
    // An installation beside a web server.
    machine.expect(&PROVISION.replace("appliance", "install"));
    assert_eq!(machine.property("entrepot", "NFileDescriptorStore"), "5");
    drop(holder);

    let said = machine.expect(&format!("{PROVISION} --configuration /repository/provision/host.toml --redirect"));
    assert!(said.contains("started entrepot-redirect.service"), "{said}");
    machine.wait_property("entrepot-redirect", "StatusText", |text| text.starts_with("the door answers"));
    assert!(machine.expect("entrepot redirect status").contains("redirecting"));
    // The agent restarts with the server, and leaves the server's control group alone.
    machine.expect("systemctl restart entrepot");
    machine.wait_property("entrepot-redirect", "StatusText", |text| text.starts_with("the door answers"));
}
