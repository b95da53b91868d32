//! The appliance as a virtual machine: QEMU starts its image on the bridge of a [`Lan`]. The tests reach it as its
//! owner does, by SSH with a key from QEMU, and as its clients do.
//!
//! QEMU emulates, so no test needs /dev/kvm. The emulated processor has no cmpxchg16b, because with it guests of QEMU
//! 7.2 panic at random. The machine has only one processor: two that wait for each other on a busy host stand still for
//! minutes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::clients::Client;
use crate::lan::{Lan, MAC, TAP};
use crate::process::{Finished, Process, finish};
use crate::world::{PROXY_ADDRESS, World};

/// An emulated machine on two busy cores takes minutes.
pub const BOOT: Duration = Duration::from_secs(420);
/// The time for a command: making an initrd takes minutes there.
const COMMAND: Duration = Duration::from_secs(900);

/// The parts of the machine.
#[derive(Default)]
pub struct Hardware {
    /// True if it starts by EFI, false if by BIOS.
    pub efi: bool,
    /// A second disk: the file and its serial number.
    pub second_disk: Option<(PathBuf, &'static str)>,
}

/// A running appliance.
pub struct Appliance<'w> {
    world: &'w World,
    process: Process,
    serial: PathBuf,
    key: PathBuf,
}

impl<'w> Appliance<'w> {
    /// Starts `image` on its own disk, which nothing else writes. Returns at once.
    pub fn start(world: &'w World, _lan: &Lan<'_>, image: &Path, hardware: &Hardware) -> Self {
        let key = world.path("ssh-key");
        if !key.exists() {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key);
            finish(&world.client, keygen, COMMAND).expect_success("ssh-keygen");
        }
        let disk = world.make_directory("machine").join("disk.qcow2");
        let mut create = Command::new("qemu-img");
        create.args(["create", "-q", "-F", "qcow2", "-f", "qcow2", "-b"]).arg(image).arg(&disk).arg("6G");
        finish(&world.proxy, create, COMMAND).expect_success("qemu-img create");
        let serial = world.path("serial.log");
        let process = Process::start(&world.proxy, qemu(world, &disk, &serial, &key, hardware));
        Self { world, process, serial, key }
    }

    /// Waits until the appliance serves clients.
    pub fn wait_ready(&self) {
        let began = Instant::now();
        while !self.page("/", "*/*").contains("proxy is working") {
            assert!(!self.process.has_ended(), "QEMU ended: {:?}", self.process.lines(crate::process::Stream::Stderr));
            assert!(began.elapsed() < BOOT, "not ready in {BOOT:?}; the console:\n{}", self.console());
            pause(&self.world.client);
        }
    }

    /// The answer of the proxy's port, or an empty text.
    pub fn page(&self, path: &str, accept: &str) -> String {
        let mut curl = Command::new("curl");
        curl.args(["-s", "--noproxy", "*", "--retry", "3", "--retry-connrefused", "--retry-delay", "1", "-m", "15"]);
        curl.args(["-H", &format!("Accept: {accept}"), &format!("http://{PROXY_ADDRESS}:3128{path}")]);
        finish(&self.world.client, curl, Duration::from_secs(60)).stdout
    }

    /// The first serial console's text so far.
    pub fn console(&self) -> String {
        std::fs::read(&self.serial).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Waits until the serial console has shown `text`.
    pub fn wait_console(&self, text: &str) {
        let began = Instant::now();
        while !self.console().contains(text) {
            assert!(began.elapsed() < BOOT, "{text:?} is not on the console:\n{}", self.console());
            pause(&self.world.client);
        }
    }

    /// Runs a script as root to its end.
    pub fn run(&self, script: &str) -> Finished {
        let mut ssh = Command::new("ssh");
        ssh.arg("-i").arg(&self.key).args(["-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes"]);
        ssh.args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=60"]);
        ssh.arg(format!("root@{PROXY_ADDRESS}")).arg(format!("set -eu\n{script}"));
        finish(&self.world.client, ssh, COMMAND)
    }

    /// Runs a script that has to succeed, and returns its output.
    #[track_caller]
    pub fn must(&self, script: &str) -> String {
        self.run(script).expect_success(script).stdout
    }

    /// Restarts the machine as its owner does, and waits until it serves again.
    pub fn reboot(&self) {
        let before = self.boot_id().expect("it answers before the reboot");
        self.run("systemctl reboot");
        let began = Instant::now();
        while self.boot_id().is_none_or(|now| now == before) {
            assert!(began.elapsed() < BOOT, "not back in {BOOT:?}; the console:\n{}", self.console());
            pause(&self.world.client);
        }
        self.wait_ready();
    }

    /// Shuts the machine down, and waits for the end.
    pub fn power_off(&self) {
        self.run("systemctl poweroff");
        self.process.wait_exit(BOOT);
    }

    /// Makes the appliance trust the test's internet, as an administrator does.
    pub fn trust_internet(&self) {
        let ca = std::fs::read_to_string(self.world.internet_ca()).expect("the CA");
        self.must(&format!(
            "cat >/usr/local/share/ca-certificates/internet.crt <<'END'\n{ca}END\n\
             update-ca-certificates >/dev/null 2>&1\nsystemctl restart entrepot"
        ));
        self.wait_ready();
    }

    /// The CA's certificate, in a file.
    pub fn ca(&self) -> PathBuf {
        let path = self.world.path("appliance-ca.pem");
        std::fs::write(&path, self.page("/ca.crt", "*/*")).expect("the CA file");
        path
    }

    /// Clients that use the appliance's proxy and trust its CA.
    pub fn client(&self) -> Client<'w> {
        Client::behind(self.world, &format!("http://{PROXY_ADDRESS}:3128"), self.ca())
    }

    fn boot_id(&self) -> Option<String> {
        let answer = self.run("cat /proc/sys/kernel/random/boot_id");
        answer.status.success().then_some(answer.stdout)
    }
}

impl Drop for Appliance<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.process.has_ended() {
            let said = self.run("journalctl -q -b -o cat -n 60 -u entrepot -u entrepot-data").stdout;
            eprintln!("the console:\n{}\nthe appliance's last words:\n{said}", self.console());
        }
    }
}

fn qemu(world: &World, disk: &Path, serial: &Path, key: &Path, hardware: &Hardware) -> Command {
    let public = std::fs::read(key.with_extension("pub")).expect("the public key");
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max,-cx16", "-m", "1024", "-nodefaults"]);
    qemu.args(["-display", "none", "-serial"]).arg(format!("file:{}", serial.display()));
    qemu.arg("-drive").arg(format!("if=none,id=system,format=qcow2,file={}", disk.display()));
    // The boot index is named because the firmware would otherwise try the network first, for minutes.
    qemu.args(["-device", "virtio-blk-pci,drive=system,bootindex=1"]);
    qemu.args(["-netdev", &format!("tap,id=lan,ifname={TAP},script=no,downscript=no")]);
    qemu.args(["-device", &format!("virtio-net-pci,netdev=lan,mac={MAC}"), "-device", "virtio-rng-pci"]);
    let credential = "type=11,value=io.systemd.credential.binary:ssh.authorized_keys.root=";
    qemu.arg("-smbios").arg(format!("{credential}{}", STANDARD.encode(public)));
    if let Some((file, number)) = &hardware.second_disk {
        qemu.arg("-drive").arg(format!("if=none,id=second,format=raw,file={}", file.display()));
        qemu.args(["-device", &format!("virtio-blk-pci,drive=second,serial={number}")]);
    }
    if hardware.efi {
        let variables = world.path("efi-variables.fd");
        std::fs::copy("/usr/share/OVMF/OVMF_VARS_4M.fd", &variables).expect("OVMF (package ovmf)");
        qemu.args(["-drive", "if=pflash,unit=0,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd"]);
        qemu.arg("-drive").arg(format!("if=pflash,unit=1,format=raw,file={}", variables.display()));
    }
    qemu
}

/// The pause between two looks at a machine that takes minutes.
fn pause(namespace: &crate::namespace::Namespace) {
    namespace.wait(async { tokio::time::sleep(Duration::from_secs(1)).await });
}
