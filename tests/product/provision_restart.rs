//! Restarts under a real systemd: no connection is refused, no pull is lost, and a server that hangs is restarted.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use entrepot_tests::daemons::Dockerd;
use entrepot_tests::entrepot::{Entrepot, Settings, binary};
use entrepot_tests::fake::{Answer, Fake};
use entrepot_tests::images;
use entrepot_tests::ledger::Ledger;
use entrepot_tests::machine::Machine;
use entrepot_tests::process::Process;
use entrepot_tests::world::{PROXY_ADDRESS, World};
use http::HeaderMap;

const SIZE: usize = 3 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// Publishes an image whose first layer stops in its middle. Returns the image and the path of that layer.
fn publish(fake: &Fake, seed: u64) -> (String, String) {
    let image = images::random(seed, 2, SIZE);
    let name = fake.publish(&image, "team/app", &seed.to_string());
    let path = format!("/v2/team/app/blobs/{}", image.layers()[0].digest);
    fake.answer(&path, &[Answer::Gate(SIZE / 3), Answer::Good]);
    (name, path)
}

fn wait_for(ledger: &Ledger, path: &str) {
    ledger.wait_for(PATIENCE, |seen| seen.path == path && seen.method == "GET");
}

/// A request of a client that comes now. It is sent at once, and answered later. An error is a refused connection.
fn arrive(world: &World) -> std::io::Result<TcpStream> {
    world.client.run(|| {
        let address: SocketAddr = format!("{PROXY_ADDRESS}:3128").parse().expect("an address");
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: appliance\r\nConnection: close\r\n\r\n")?;
        Ok(stream)
    })
}

fn status_line(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    // After a reset, the rest of the answer is missing.
    let _ = stream.read_to_string(&mut answer);
    answer.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn a_pull_goes_on_through_a_restart_and_who_comes_meanwhile_waits() {
    let world = World::new();
    let fake = Fake::start(&world, "fake.test");
    let machine = Machine::boot(&world);
    let client = machine.provision();
    let dockerd = Dockerd::start(&client);
    let (name, path) = publish(&fake, 71);
    let before = machine.property("entrepot", "MainPID");
    thread::scope(|scope| {
        let pull = scope.spawn(|| dockerd.pull(&name));
        wait_for(&fake.ledger, &path);
        let restart = scope.spawn(|| machine.run("systemctl restart entrepot"));
        machine.wait_property("entrepot", "StatusText", |text| text.starts_with("stopping"));
        let newcomer = arrive(&world).expect("nobody is refused while the old server ends");
        fake.open_gate();
        pull.join().expect("no panic").expect_success("the pull through the restart");
        restart.join().expect("no panic").expect_success("systemctl restart");
        assert_eq!(status_line(newcomer), "HTTP/1.1 200 OK", "who came meanwhile");
    });
    assert_ne!(machine.property("entrepot", "MainPID"), before);
    assert_eq!(fake.ledger.gets_of(&path), 1, "the answer that was running came to its end");
}

#[test]
fn a_pull_that_the_deadline_cuts_off_goes_on_with_the_next_server() {
    let world = World::new();
    let fake = Fake::start(&world, "fake.test");
    let machine = Machine::boot(&world);
    let client = machine.provision();
    machine.expect("printf '[proxy]\\ndrain_timeout = \"1s\"\\n' >>/etc/entrepot/entrepot.toml");
    machine.expect("systemctl restart entrepot");
    let dockerd = Dockerd::start_with(&client, &["--max-download-attempts=5"]);
    let (name, path) = publish(&fake, 72);
    thread::scope(|scope| {
        let pull = scope.spawn(|| dockerd.pull(&name));
        wait_for(&fake.ledger, &path);
        machine.expect("systemctl restart entrepot");
        pull.join().expect("no panic").expect_success("the pull that was cut off");
    });
    dockerd.forget();
    dockerd.pull(&name).expect_success("a second pull");
    let asked: Vec<_> = fake.ledger.all().into_iter().filter(|seen| seen.path == path).collect();
    let range = |headers: &HeaderMap| headers.get("range").map(|range| range.to_str().expect("text").to_owned());
    let ranges: Vec<_> = asked.iter().map(|seen| range(&seen.headers)).collect();
    assert_eq!(ranges, [None, Some(format!("bytes={}-", SIZE / 3))], "nothing is fetched twice");
}

#[test]
fn nobody_is_refused_through_restarts_and_a_kill() {
    let world = World::new();
    let machine = Machine::boot(&world);
    machine.provision();
    let done = Arc::new(AtomicBool::new(false));
    let (came, refused) = thread::scope(|scope| {
        let arriving = scope.spawn(|| {
            let (mut came, mut refused) = (0, Vec::new());
            while !done.load(Ordering::Relaxed) {
                came += 1;
                match arrive(&world) {
                    Ok(stream) => drop(status_line(stream)),
                    Err(error) => refused.push(error.to_string()),
                }
            }
            refused.dedup();
            (came, refused)
        });
        for _ in 0..3 {
            machine.expect("systemctl restart entrepot");
        }
        machine.expect("systemctl kill --signal=KILL entrepot");
        machine.wait_property("entrepot", "NRestarts", |count| count == "1");
        machine.wait_property("entrepot", "ActiveState", |state| state == "active");
        done.store(true, Ordering::Relaxed);
        arriving.join().expect("no panic")
    });
    assert!(came > 10, "{came} connections");
    assert_eq!(refused, Vec::<String>::new(), "of {came} connections");
    assert_eq!(status_line(arrive(&world).expect("it listens")), "HTTP/1.1 200 OK");
}

#[test]
fn a_server_that_hangs_is_started_anew() {
    let world = World::new();
    let machine = Machine::boot(&world);
    machine.provision();
    machine.expect(
        "mkdir /etc/systemd/system/entrepot.service.d; cd /etc/systemd/system/entrepot.service.d; \
         printf '[Service]\\nWatchdogSec=2\\n' >test.conf; systemctl daemon-reload; systemctl restart entrepot",
    );
    let first = machine.property("entrepot", "WatchdogTimestampMonotonic");
    machine.wait_property("entrepot", "WatchdogTimestampMonotonic", |now| now != first);
    assert_eq!(machine.property("entrepot", "NRestarts"), "0", "a server that answers is left alone");
    machine.expect("systemctl kill --signal=STOP entrepot");
    machine.wait_property("entrepot", "NRestarts", |count| count == "1");
    machine.wait_property("entrepot", "ActiveState", |state| state == "active");
    assert_eq!(status_line(arrive(&world).expect("it listens")), "HTTP/1.1 200 OK");
}

/// Other programs than systemd's first process pass sockets too.
#[test]
fn sockets_are_taken_from_whoever_passes_them() {
    let world = World::new();
    let file = world.path("entrepot.toml");
    std::fs::write(&file, Settings::new().toml(&world)).expect("the configuration");
    let mut command = Command::new("systemd-socket-activate");
    command.args(["--listen=0.0.0.0:3128", "--listen=0.0.0.0:3999", "--fdname=proxy:other", "-E", "SSL_CERT_FILE"]);
    command.arg(binary()).args(["serve", "--config"]).arg(&file).env("SSL_CERT_FILE", world.internet_ca());
    let process = Process::start(&world.proxy, command);
    process.wait_line("Listening on 0.0.0.0:3128", PATIENCE);
    let first = arrive(&world).expect("it waits in the socket");
    let entrepot = Entrepot::adopt(&world, process);
    assert_eq!(status_line(first), "HTTP/1.1 200 OK");
    let said = entrepot.process().wait_line("took over the listening socket", PATIENCE);
    assert!(said.contains("0.0.0.0:3128"), "{said}");
    let warned = entrepot.process().wait_line("is not configured here and not used", PATIENCE);
    assert!(warned.contains("other") && warned.contains("0.0.0.0:3999"), "{warned}");
}

#[test]
fn the_configuration_alone_says_what_is_listened_on() {
    let world = World::new();
    let machine = Machine::boot(&world);
    machine.provision();
    machine.expect("printf '[proxy]\\nlisten = [\"0.0.0.0:3128\", \"[::]:3200\"]\\n' >>/etc/entrepot/entrepot.toml");
    machine.expect("systemctl restart entrepot");
    assert_eq!(machine.property("entrepot", "StatusText"), "serving; proxy on 0.0.0.0:3128, [::]:3200");
    assert_eq!(machine.property("entrepot", "NFileDescriptorStore"), "6", "the socket for [::]:3128 is gone");
    assert_eq!(status_line(arrive(&world).expect("it listens")), "HTTP/1.1 200 OK");

    machine.expect("echo 'nonsense = 1' >>/etc/entrepot/entrepot.toml; systemctl reload entrepot");
    machine.wait_property("entrepot", "StatusText", |text| text.contains("the last good one stays in force"));
    assert_eq!(status_line(arrive(&world).expect("it listens")), "HTTP/1.1 200 OK");
    let lines = machine.expect("journalctl -u entrepot -p err -o cat");
    assert!(lines.contains("the configuration is bad"), "errors have their level in the journal:\n{lines}");
}
