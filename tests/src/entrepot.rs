//! The product under test: it is started in the proxy's namespace with a configuration, awaited until it is ready,
//! examined through its doors, and killed. When it is dropped, its whole output is searched for panics and for the
//! passwords of the tests.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use nix::sys::signal::Signal;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::Value;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{interval, timeout};

use crate::clients::Client;
use crate::door::Door;
use crate::images::sha256;
use crate::process::{Finished, Process, Stream, finish};
use crate::serve::{BoxError, full};
pub use crate::settings::Settings;
use crate::world::{PROXY_ADDRESS, World};

/// Every password of the tests contains this text. No output may contain it.
pub const CANARY: &str = "canary-";
pub(crate) const ADMIN: &str = "127.0.0.1:3130";
const READY: Duration = Duration::from_secs(10);

/// A running entrepot.
pub struct Entrepot<'w> {
    world: &'w World,
    settings: Settings,
    process: Process,
    ca: PathBuf,
    was_killed: bool,
}

impl<'w> Entrepot<'w> {
    /// Starts the product and returns when it is ready.
    pub fn start(world: &'w World, settings: Settings) -> Self {
        let process = spawn(world, &settings);
        let entrepot = Self { world, settings, process, ca: world.path("entrepot-ca.pem"), was_killed: false };
        entrepot.wait_ready();
        entrepot
    }

    /// Takes over an entrepot that the test started in its own way, and returns when it is ready.
    pub fn adopt(world: &'w World, process: Process) -> Self {
        let ca = world.path("entrepot-ca.pem");
        let entrepot = Self { world, settings: Settings::default(), process, ca, was_killed: false };
        entrepot.wait_ready();
        entrepot
    }

    /// Starts it again on the same data, after `kill` or `terminate`.
    pub fn restart(&mut self) {
        self.check_output();
        self.process = spawn(self.world, &self.settings);
        self.was_killed = false;
        self.wait_ready();
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
        self.was_killed = true;
    }

    /// Sends SIGTERM and returns the exit status.
    pub fn terminate(&mut self) -> ExitStatus {
        self.process.signal(Signal::SIGTERM);
        self.was_killed = true;
        self.process.wait_exit(Duration::from_secs(30))
    }

    /// Writes other settings to the file that the product was started with.
    pub fn rewrite(&self, settings: &Settings) {
        std::fs::write(self.world.path("entrepot.toml"), settings.toml(self.world)).expect("the configuration");
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Real clients behind this proxy, trusting its certificates only.
    pub fn client(&self) -> Client<'w> {
        Client::behind(self.world, &format!("http://{PROXY_ADDRESS}:3128"), self.ca.clone())
    }

    /// Real clients on the same network without a proxy, trusting its certificates only.
    pub fn neighbour(&self) -> Client<'w> {
        Client::beside(self.world, self.ca.clone())
    }

    /// A bare client of the proxy's door.
    pub fn door(&self) -> Door {
        Door::new(&self.world.client, proxy_address(), &self.ca)
    }

    /// The CA file that clients trust.
    pub fn ca(&self) -> PathBuf {
        self.ca.clone()
    }

    /// The value of a metric without labels.
    pub fn metric(&self, name: &str) -> f64 {
        let (status, text) = self.admin(Method::GET, "/metrics");
        assert_eq!(status, 200, "/metrics");
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or_else(|| panic!("{name} is no metric without labels"))
    }

    /// The connections that the doors refused for a reason.
    pub fn refused_connections(&self, reason: &str) -> f64 {
        self.metric(&format!("entrepot_connections_refused_total{{reason=\"{reason}\"}}"))
    }

    /// The memory of its own that the process has now, without mapped files.
    pub fn memory_mib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.process.pid());
        let status = std::fs::read_to_string(path).expect("the process lives");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("RssAnon");
        line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).expect("a number") / 1024
    }

    /// SHA-256 of the CA's certificate, lower-case hex.
    pub fn fingerprint(&self) -> String {
        let pem = std::fs::read(&self.ca).expect("the CA");
        sha256(&CertificateDer::from_pem_slice(&pem).expect("a certificate")).trim_start_matches("sha256:").to_owned()
    }

    /// `GET /api/cache/stats`
    pub fn stats(&self) -> Value {
        let (status, body) = self.admin(Method::GET, "/api/cache/stats");
        assert_eq!(status, 200, "the stats: {body}");
        serde_json::from_str(&body).expect("JSON")
    }

    /// A number of the stats.
    pub fn stat(&self, name: &str) -> u64 {
        self.stats()[name].as_u64().unwrap_or_else(|| panic!("{name} is a number in {}", self.stats()))
    }

    /// Waits until this many blobs are stored: a client gets its last byte before the disk does.
    pub fn wait_stored(&self, blobs: u64) {
        let asking = async move {
            let mut ticks = interval(Duration::from_millis(5));
            loop {
                ticks.tick().await;
                let stream = TcpStream::connect(ADMIN).await.expect("the administrator's port");
                let (_, stats) = ask(stream, Method::GET, "/api/cache/stats").await.expect("the stats");
                let stats: Value = serde_json::from_str(&stats).expect("JSON");
                if stats["stores"].as_u64().is_some_and(|stores| stores >= blobs) {
                    return;
                }
            }
        };
        let stored = self.world.proxy.wait(async move { timeout(READY, asking).await });
        assert!(stored.is_ok(), "{blobs} blobs stored: {}", self.stats());
    }

    /// One request to the administrator's unix socket.
    pub fn admin(&self, method: Method, path: &str) -> (u16, String) {
        let (socket, path) = (socket(self.world), path.to_owned());
        self.world.proxy.wait(async move {
            let stream = UnixStream::connect(socket).await.expect("the administrator's socket");
            ask(stream, method, &path).await.expect("an answer of the administrator's door")
        })
    }

    /// One request to the administrator's TCP port, as any user of the proxy's host can send it.
    pub fn admin_tcp(&self, method: Method, path: &str) -> (u16, String) {
        let path = path.to_owned();
        self.world.proxy.wait(async move {
            let stream = TcpStream::connect(ADMIN).await.expect("the administrator's port");
            ask(stream, method, &path).await.expect("an answer of the administrator's door")
        })
    }

    /// The access log so far.
    pub fn access_log(&self) -> Vec<Value> {
        let lines = self.process.lines(Stream::Stdout);
        lines.iter().filter_map(|line| serde_json::from_str(line).ok()).filter(is_access).collect()
    }

    /// The first line of the access log that contains `part`. Waits for it.
    pub fn wait_access(&self, part: &str) -> Value {
        serde_json::from_str(&self.process.wait_line(part, READY)).expect("the access log is JSON")
    }

    /// Runs `entrepot` with these arguments on the proxy's host to its end.
    pub fn command(&self, arguments: &[&str]) -> Finished {
        run(self.world, &self.settings, arguments)
    }

    fn wait_ready(&self) {
        let began = Instant::now();
        let ended = |process: &Process| process.has_ended();
        while !self.world.proxy.wait(ready_soon()) {
            if ended(&self.process) || began.elapsed() > READY {
                self.process.wait_line("(being ready)", Duration::from_millis(200));
            }
        }
        let fetched = self.world.client.wait(async {
            let stream = TcpStream::connect(proxy_address()).await.expect("the proxy's door is open when it is ready");
            ask(stream, Method::GET, "/ca.crt").await.expect("the CA")
        });
        assert_eq!(fetched.0, 200, "/ca.crt");
        std::fs::write(&self.ca, fetched.1).expect("the CA file");
    }

    fn check_output(&self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            for line in self.process.lines(stream) {
                assert!(!line.contains("panicked at"), "the product panicked: {line}");
                assert!(!line.contains(CANARY), "a password of the tests in the output: {line}");
            }
        }
    }
}

impl Drop for Entrepot<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let lines = self.process.lines(Stream::Stderr);
            eprintln!("entrepot's last words:\n{}", lines[lines.len().saturating_sub(30)..].join("\n"));
            return;
        }
        assert!(self.was_killed || !self.process.has_ended(), "the product ended by itself");
        self.process.kill();
        self.check_output();
    }
}

/// Runs `entrepot` with these arguments and a configuration to its end.
pub fn run(world: &World, settings: &Settings, arguments: &[&str]) -> Finished {
    finish(&world.proxy, command(world, settings, arguments), Duration::from_secs(30))
}

/// The product's binary, beside the tests' own.
pub fn binary() -> PathBuf {
    let own = std::env::current_exe().expect("the path of this test");
    let path = own.ancestors().nth(2).expect("target/debug/deps/NAME").join("entrepot");
    assert!(path.exists(), "{} is missing: run tests/run, or cargo build -p entrepot", path.display());
    path
}

fn spawn(world: &World, settings: &Settings) -> Process {
    Process::start(&world.proxy, command(world, settings, &["serve"]))
}

fn command(world: &World, settings: &Settings, arguments: &[&str]) -> Command {
    let file = world.path("entrepot.toml");
    std::fs::write(&file, settings.toml(world)).expect("the configuration");
    let mut command = Command::new(binary());
    command.args(&arguments[..1]).arg("--config").arg(file).args(&arguments[1..]);
    command.env("SSL_CERT_FILE", world.internet_ca()).env("HOME", world.path(""));
    for (name, value) in settings.environment() {
        command.env(name, value);
    }
    command
}

pub(crate) fn socket(world: &World) -> PathBuf {
    world.path("admin.sock")
}

fn proxy_address() -> SocketAddr {
    format!("{PROXY_ADDRESS}:3128").parse().expect("an address")
}

fn is_access(value: &Value) -> bool {
    value.get("access_time").is_some()
}

/// Whether `/readyz` succeeds within a moment. Asks repeatedly until then.
async fn ready_soon() -> bool {
    let asking = async {
        let mut ticks = interval(Duration::from_millis(10));
        loop {
            ticks.tick().await;
            if let Ok(stream) = TcpStream::connect(ADMIN).await
                && ask(stream, Method::GET, "/readyz").await.is_ok_and(|(status, _)| status == 200)
            {
                return;
            }
        }
    };
    timeout(Duration::from_millis(500), asking).await.is_ok()
}

async fn ask<S>(stream: S, method: Method, path: &str) -> Result<(u16, String), BoxError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("host", "localhost").body(full(Bytes::new()))?;
    let answer = sender.send_request(request).await?;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}
