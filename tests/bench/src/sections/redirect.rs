//! The cost of redirection for connections that it leaves alone, and of the agent at rest. nginx has no part in it: the
//! comparison is the same machine without the programs.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use entrepot_tests::namespace::Namespace;

use crate::BoxError;
use crate::figures::Samples;
use crate::lab::{GIB, Lab};
use crate::process::Process;
use crate::report::Measured;
use crate::servers::Server;

/// The door of the server that the bench runs.
const DOOR: &str = "127.0.0.1:3129";
/// A destination that nobody redirects, on a port that is.
const OTHER: &str = "127.0.0.3:443";
/// One that is redirected.
const LISTED: &str = "127.0.0.4:443";
const BULK: &str = "10.98.2.2:443";
const START: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

pub(super) async fn run(lab: &Lab) -> Result<Measured, BoxError> {
    let mut measured = Measured::default();
    let server = lab.entrepot(&lab.folder("entrepot")?).await?;
    connects(lab, &server, &mut measured).await?;
    bulk(lab, &server, &mut measured).await?;
    server.process.terminate().await?;
    Ok(measured)
}

/// connect() with and without the programs, in turn.
async fn connects(lab: &Lab, server: &Server, measured: &mut Measured) -> Result<(), BoxError> {
    let count = lab.either(5000, 500);
    let listener = TcpListener::bind(OTHER)?;
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let [mut other, mut led, mut idle]: [Samples; 3] = Default::default();
    let [mut other_before, mut other_with, mut led_before, mut led_with]: [Samples; 4] = Default::default();
    for _ in 0..lab.options.rounds {
        let (without_other, without_led) = (connect_us(OTHER, count)?, connect_us(DOOR, count)?);
        let agent = start_agent(lab, server, &["host", "--prefix", "127.0.0.4/32"]).await?;
        let (with_other, with_led) = (connect_us(OTHER, count)?, connect_us(LISTED, count)?);
        idle.push(idle_percent(agent.pid(), lab.either(Duration::from_secs(20), Duration::from_secs(3))).await?);
        agent.terminate().await?;
        other.push(with_other - without_other);
        led.push(with_led - without_led);
        for (samples, value) in [
            (&mut other_before, without_other),
            (&mut other_with, with_other),
            (&mut led_before, without_led),
            (&mut led_with, with_led),
        ] {
            samples.push(value);
        }
    }
    measured.goal("redirect-connect-other", &other);
    measured.goal("redirect-connect-listed", &led);
    measured.goal("redirect-idle", &idle);
    measured.reading("connect() to another destination, no agent, median", "µs", &other_before);
    measured.reading("connect() to another destination, agent attached, median", "µs", &other_with);
    measured.reading("connect() to the door itself, no agent, median", "µs", &led_before);
    measured.reading("connect() that is led to the door, median", "µs", &led_with);
    Ok(())
}

/// A bulk upload that is routed through this machine, on a port that is redirected, to an address that is not.
async fn bulk(lab: &Lab, server: &Server, measured: &mut Measured) -> Result<(), BoxError> {
    let bytes = lab.either(8 * GIB, GIB / 2);
    let (client, far) = network()?;
    let listener = far.run(|| TcpListener::bind(BULK))?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            drain(stream);
        }
    });
    let [mut without, mut with]: [Samples; 2] = Default::default();
    client.run(move || upload_gbit_per_s(bytes))?;
    for _ in 0..lab.options.rounds {
        without.push(client.run(move || upload_gbit_per_s(bytes))?);
        let agent = start_agent(lab, server, &["gateway", "--interface", "benchlan0"]).await?;
        with.push(client.run(move || upload_gbit_per_s(bytes))?);
        agent.terminate().await?;
    }
    measured.goal("redirect-gateway-bulk", &with.over(&without));
    measured.reading("routed bulk upload, nothing attached", "Gbit/s", &without);
    measured.reading("routed bulk upload, gateway attached", "Gbit/s", &with);
    Ok(())
}

/// The agent, once the door has answered it.
async fn start_agent(lab: &Lab, server: &Server, arguments: &[&str]) -> Result<Process, BoxError> {
    let log = server.directory.join("agent.log");
    let _ = std::fs::remove_file(&log);
    let mut command = Command::new(&lab.binary);
    command.arg("redirect").arg("--config").arg(server.directory.join("entrepot.toml")).args(arguments);
    let mut agent = Process::start(&mut command, &log)?;
    let deadline = Instant::now() + START;
    loop {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        if said.contains("the door answers") {
            return Ok(agent);
        }
        if agent.has_ended()? || Instant::now() > deadline {
            return Err(format!("the agent does not redirect; it said:\n{said}").into());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The median of so many connects, in microseconds.
fn connect_us(to: &str, count: usize) -> Result<f64, BoxError> {
    let address: SocketAddr = to.parse()?;
    let mut samples = Samples::default();
    for _ in 0..count {
        let began = Instant::now();
        let stream = TcpStream::connect(address).map_err(|error| format!("connecting to {to}: {error}"))?;
        samples.push(began.elapsed().as_secs_f64() * 1e6);
        drop(stream);
    }
    Ok(samples.median())
}

/// The share of one processor that a process takes while nothing happens, by the scheduler's own nanoseconds.
async fn idle_percent(pid: u32, window: Duration) -> Result<f64, BoxError> {
    let (before_ns, began) = (ran_ns(pid)?, Instant::now());
    tokio::time::sleep(window).await;
    Ok((ran_ns(pid)? - before_ns) / (began.elapsed().as_secs_f64() * 1e9) * 100.0)
}

fn ran_ns(pid: u32) -> Result<f64, BoxError> {
    let mut total_ns = 0.0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let line = std::fs::read_to_string(task?.path().join("schedstat"))?;
        total_ns += line.split(' ').next().unwrap_or_default().parse::<f64>()?;
    }
    Ok(total_ns)
}

/// A client and a far server with this namespace as the router between them.
fn network() -> Result<(Namespace, Namespace), BoxError> {
    let (client, far) = (Namespace::new("bench-client", Vec::new()), Namespace::new("bench-far", Vec::new()));
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    for (interface, peer, own, other) in
        [("benchlan0", &client, "10.98.1.1", "10.98.1.2"), ("benchwan0", &far, "10.98.2.1", "10.98.2.2")]
    {
        let namespace = peer.net_path().display().to_string();
        for arguments in [
            format!("link add {interface} type veth peer name eth0 netns {namespace}"),
            format!("addr add {own}/24 dev {interface}"),
            format!("link set {interface} up"),
        ] {
            let status = Command::new("ip").args(arguments.split(' ')).status()?;
            if !status.success() {
                return Err(format!("ip {arguments}: {status}").into());
            }
        }
        peer.ip(&format!("addr add {other}/24 dev eth0\nlink set eth0 up\nroute add default via {own}\n"));
    }
    Ok((client, far))
}

fn drain(mut stream: TcpStream) {
    let mut room = vec![0; 1 << 20];
    while stream.read(&mut room).is_ok_and(|count| count > 0) {}
    // The last byte that was sent has been read: the client waits for this.
    let _ = stream.write_all(b"!");
}

fn upload_gbit_per_s(bytes: u64) -> Result<f64, std::io::Error> {
    let mut stream = TcpStream::connect(BULK)?;
    let block = vec![7; 1 << 20];
    let began = Instant::now();
    for _ in 0..bytes / block.len() as u64 {
        stream.write_all(&block)?;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    stream.read_exact(&mut [0])?;
    Ok(bytes as f64 * 8.0 / 1e9 / began.elapsed().as_secs_f64())
}
