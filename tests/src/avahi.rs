//! A real Avahi in a namespace, with its own D-Bus. Machines of the local network resolve names with it.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::namespace::Namespace;
use crate::process::{Finished, Process, finish};
use crate::world::World;

const START: Duration = Duration::from_secs(20);
/// `avahi-resolve` gives up after five seconds by itself.
const ANSWER: Duration = Duration::from_secs(15);

/// A running Avahi.
pub struct Avahi<'w> {
    namespace: &'w Namespace,
    _daemon: Process,
    _bus: Process,
}

impl<'w> Avahi<'w> {
    /// Starts an Avahi on a machine called `host`. Returns when it has that name, or another one because of a conflict.
    pub fn start(world: &World, namespace: &'w Namespace, host: &str) -> Self {
        let folder = world.make_directory(&format!("avahi-{}", namespace.name()));
        let bus_file = folder.join("bus.conf");
        std::fs::write(&bus_file, BUS).expect("the bus's configuration");
        let mut bus = Command::new("dbus-daemon");
        bus.arg("--nofork").arg("--print-address").arg("--config-file").arg(bus_file);
        let bus = Process::start(namespace, bus);
        bus.wait_line("unix:path=", START);
        let file = folder.join("avahi.conf");
        std::fs::write(&file, AVAHI.replace("HOST", host)).expect("Avahi's configuration");
        let mut daemon = Command::new("avahi-daemon");
        daemon.arg("-f").arg(file).args(["--no-drop-root", "--no-chroot", "--no-rlimits"]);
        let daemon = Process::start(namespace, daemon);
        daemon.wait_line("Server startup complete", START);
        Self { namespace, _daemon: daemon, _bus: bus }
    }

    /// The IPv4 or IPv6 address of a name. None if no machine answers.
    pub fn resolve(&self, family: &str, name: &str) -> Option<String> {
        let mut command = Command::new("avahi-resolve");
        command.args([family, "-n", name]);
        let Finished { stdout, .. } = finish(self.namespace, command, ANSWER);
        stdout.split_whitespace().nth(1).map(str::to_owned)
    }

    /// Asks again until the address is `wanted`, for at most `within`.
    pub fn wait_resolved(&self, name: &str, wanted: Option<&str>, within: Duration) {
        let began = Instant::now();
        loop {
            let address = self.resolve("-4", name);
            if address.as_deref() == wanted {
                return;
            }
            assert!(began.elapsed() < within, "{name} is {address:?}, not {wanted:?}");
        }
    }

    /// Starts `avahi-browse`, which prints the services that come and go.
    pub fn browse(&self, service: &str) -> Process {
        let mut command = Command::new("avahi-browse");
        command.args(["-rpk", service]);
        Process::start(self.namespace, command)
    }
}

const BUS: &str = r#"<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default"><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy>
</busconfig>
"#;

const AVAHI: &str = "[server]
host-name=HOST
use-ipv4=yes
use-ipv6=yes
[publish]
publish-workstation=no
";
