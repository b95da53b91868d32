//! A machine with a real systemd as its first process: a Debian tree in its own namespaces, at the proxy's place in the
//! world. Provisioned services run there under the same units, users and limits as on a real machine.
//!
//! mmdebstrap makes the tree once, from the package sources of this machine, and keeps it in the target directory. Each
//! machine puts its own files over it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::agent::ControlGroup;
use crate::clients::Client;
use crate::entrepot::binary;
use crate::process::{Finished, Process, finish};
use crate::world::{PROXY_ADDRESS, World};

/// A running machine.
pub struct Machine<'w> {
    world: &'w World,
    pid: String,
    _systemd: Process,
    // It is removed after its processes are gone.
    _group: ControlGroup,
}

/// The command that makes an appliance of a machine. The repository is at /repository there.
pub const PROVISION: &str = "/repository/provision/appliance --binary /repository/target/debug/entrepot";

const BOOT: Duration = Duration::from_secs(90);
const COMMAND: Duration = Duration::from_secs(120);
/// The packages that a machine needs to boot and to verify registries, and no more.
const PACKAGES: &str = "systemd-sysv,dbus,ca-certificates";

impl<'w> Machine<'w> {
    /// Boots a machine without the product. Returns when all its units have started.
    pub fn boot(world: &'w World) -> Self {
        let group = ControlGroup::new("machine");
        let place = world.make_directory("machine");
        std::fs::copy(world.internet_ca(), place.join("internet-ca.pem")).expect("the internet's authority");
        std::fs::write(place.join("boot"), include_str!("machine.sh")).expect("the script");
        let mut command = Command::new("sh");
        command.args(["-euc", "echo $$ >\"$1\"; shift; exec \"$@\"", "sh", &group.processes(), "unshare"]);
        command.args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--cgroup"]);
        command.args(["--uts", "--ipc", "sh"]).arg(place.join("boot"));
        command.arg(debian_tree()).arg(&place).arg(repository());
        let systemd = Process::start(&world.proxy, command);
        let line = systemd.wait_line("systemd is process", BOOT);
        let pid = line.rsplit(' ').next().unwrap_or_default().to_owned();
        let machine = Self { world, pid, _systemd: systemd, _group: group };
        let began = Instant::now();
        // The first attempts fail, because systemd does not answer yet.
        while !machine
            .run("systemctl is-system-running --wait 2>/dev/null | grep -E 'running|degraded'")
            .status
            .success()
        {
            assert!(began.elapsed() < BOOT, "systemd does not come up in the test's machine");
        }
        machine
    }

    /// Makes the machine an appliance that also intercepts fake.test. Returns clients behind it that trust its CA.
    #[track_caller]
    pub fn provision(&self) -> Client<'w> {
        self.expect("echo REGISTRIES=fake.test >/root/dotenv");
        self.expect(&format!("{PROVISION} --env /root/dotenv"));
        self.client()
    }

    /// Clients on the network behind this appliance that trust its CA.
    #[track_caller]
    pub fn client(&self) -> Client<'w> {
        let ca = self.world.path("appliance-ca.pem");
        let fetched = Client::beside(self.world, ca.clone()).curl(&[&format!("http://{PROXY_ADDRESS}:3128/ca.crt")]);
        std::fs::write(&ca, fetched.expect_success("the CA").stdout).expect("the CA file");
        Client::behind(self.world, &format!("http://{PROXY_ADDRESS}:3128"), ca)
    }

    /// A property of a unit.
    #[track_caller]
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.expect(&format!("systemctl show {unit} -p {name} --value")).trim_end().to_owned()
    }

    /// Waits until a property of a unit fulfils `wanted`.
    #[track_caller]
    pub fn wait_property(&self, unit: &str, name: &str, wanted: impl Fn(&str) -> bool) {
        let began = Instant::now();
        loop {
            let found = self.property(unit, name);
            if wanted(&found) {
                return;
            }
            assert!(began.elapsed() < BOOT, "{unit}: {name} stays {found}");
        }
    }

    /// Runs a shell script there to its end, as root.
    pub fn run(&self, script: &str) -> Finished {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid, "--mount", "--pid", "--uts", "--ipc", "--cgroup", "--root", "--wd"]);
        command.args(["sh", "-c", script]).env("HOME", "/root");
        finish(&self.world.proxy, command, COMMAND)
    }

    /// Runs a script that has to succeed, and returns its standard output.
    #[track_caller]
    pub fn expect(&self, script: &str) -> String {
        self.run(script).expect_success(script).stdout
    }
}

/// A Debian tree that no test may change: a minimal system with systemd.
pub fn debian_tree() -> PathBuf {
    static MAKING: Mutex<()> = Mutex::new(());
    let _one = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let (suite, mirror) = debian();
    let place = target().join(format!("debian-{suite}"));
    if !place.join("etc/debian_version").exists() {
        let unfinished = target().join(format!("debian-{suite}.{}", std::process::id()));
        let mut making = Command::new("mmdebstrap");
        making.args(["--quiet", "--variant=minbase", "--mode=root", "--format=directory", "--include", PACKAGES]);
        making.arg(&suite).arg(&unfinished).arg(&mirror);
        let made = making.output().expect("mmdebstrap is installed (tests/run installs it)");
        if !made.status.success() {
            // An unfinished tree is of no use.
            let _ = std::fs::remove_dir_all(&unfinished);
        }
        assert!(made.status.success(), "mmdebstrap: {}", String::from_utf8_lossy(&made.stderr));
        if std::fs::rename(&unfinished, &place).is_err() {
            // Another test was faster.
            std::fs::remove_dir_all(&unfinished).expect("our own directory");
        }
    }
    place
}

/// This machine's suite of Debian, and the source of its packages.
fn debian() -> (String, String) {
    let mut asking = Command::new("apt-get");
    asking.args(["indextargets", "--format", "$(ORIGIN) $(COMPONENT) $(CODENAME) $(REPO_URI)", "Created-By: Packages"]);
    let answer = asking.output().expect("apt-get is a part of every Debian");
    let text = String::from_utf8_lossy(&answer.stdout);
    let mut sources = text.lines().filter_map(|line| line.strip_prefix("Debian main ")?.split_once(' '));
    // Suites of updates have a dash in their names.
    let (suite, mirror) =
        sources.find(|(suite, _)| !suite.contains('-')).expect("Debian's package lists: apt-get update");
    (suite.to_owned(), mirror.to_owned())
}

/// The repository that these tests belong to.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in it").to_owned()
}

fn target() -> PathBuf {
    binary().ancestors().nth(2).expect("target/debug/entrepot").to_owned()
}
