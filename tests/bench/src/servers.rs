//! The two servers that are compared, in front of the same registry. Each has a folder of its own, is reached over TLS and
//! plain, and ends when it is dropped.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use entrepot_tests::authority::Authority;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::BoxError;
use crate::client::{Manner, Target, parse_head, trust};
use crate::machine;
use crate::process::Process;
use crate::upstream;

/// The name that skopeo knows nginx by; the run's hosts file has it.
pub(crate) const NGINX_NAME: &str = "nginx.bench.test";
pub(crate) const NGINX_TLS_PORT: u16 = 8443;
const NGINX_PLAIN_PORT: u16 = 8080;
pub(crate) const PROXY_PORT: u16 = 3128;
const ADMIN_PORT: u16 = 3130;
const START_PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(1);
/// Bounds of the doors that no section meets.
pub(crate) const UNBOUNDED: &str = "max_connections = 50000\nmax_connections_per_client = 50000\n";
const NGINX: &str = include_str!("../nginx.conf");

/// A running server.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) process: Process,
    /// Over TLS, as `https://` registries are.
    pub(crate) tls: Target,
    /// Without, as `http://` registries are.
    pub(crate) plain: Target,
    /// Where its cache is.
    pub(crate) directory: PathBuf,
    /// Whom its clients trust.
    pub(crate) ca: PathBuf,
}

impl Server {
    /// Processor time so far, all processes and threads.
    pub(crate) fn cpu_seconds(&self) -> Result<f64, BoxError> {
        machine::cpu_seconds(self.process.pid())
    }
}

/// The registry itself, over TLS and plain.
pub(crate) fn direct(authority: &Authority) -> Result<(Target, Target), BoxError> {
    let tls = target(upstream::TLS_PORT, upstream::TLS_PORT, Manner::Origin);
    let tls = Target { tls: Some(trust(&authority.certificate_pem())?), ..tls };
    Ok((tls, target(upstream::PLAIN_PORT, upstream::PLAIN_PORT, Manner::Origin)))
}

/// Starts nginx with an empty cache.
pub(crate) async fn start_nginx(directory: &Path, authority: &Authority) -> Result<Server, BoxError> {
    fs::create_dir_all(directory)?;
    let (leaf, key) = authority.leaf_pem(&[upstream::NAME, NGINX_NAME]);
    let ca = directory.join("upstream-ca.pem");
    fs::write(directory.join("leaf.pem"), leaf)?;
    fs::write(directory.join("leaf.key"), key)?;
    fs::write(&ca, authority.certificate_pem())?;
    let settings = NGINX
        .replace("@WORKERS@", &machine::cores().to_string())
        .replace("@DIRECTORY@", &directory.display().to_string())
        .replace("@PLAIN@", &format!("127.0.0.1:{NGINX_PLAIN_PORT}"))
        .replace("@TLS@", &format!("127.0.0.1:{NGINX_TLS_PORT}"))
        .replace("@UPSTREAM_CA@", &ca.display().to_string())
        .replace("@UPSTREAM@", &format!("{}:{}", upstream::NAME, upstream::TLS_PORT));
    let file = directory.join("nginx.conf");
    fs::write(&file, settings)?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(directory).arg("-e").arg(directory.join("error.log")).arg("-c").arg(file);
    let mut process = Process::start(&mut command, &directory.join("output.log"))?;
    let plain = target(NGINX_PLAIN_PORT, upstream::PLAIN_PORT, Manner::Origin);
    let tls = target(NGINX_TLS_PORT, upstream::TLS_PORT, Manner::Origin);
    let tls = Target { tls: Some(trust(&authority.certificate_pem())?), ..tls };
    wait_listening(tls.address, &mut process, directory).await?;
    Ok(Server { name: "nginx", process, tls, plain, directory: directory.to_owned(), ca })
}

/// Starts entrepot on what its folder holds; returns when its CA is given out, so that it can be trusted.
pub(crate) async fn start_entrepot(
    binary: &Path,
    directory: &Path,
    authority: &Authority,
    bounds: &str,
) -> Result<Server, BoxError> {
    let mut process = spawn_entrepot(binary, directory, authority, bounds)?;
    let address = (Ipv4Addr::LOCALHOST, PROXY_PORT).into();
    wait_listening(address, &mut process, directory).await?;
    let pem = fetch_ca(address).await?;
    let ca = directory.join("client-ca.pem");
    fs::write(&ca, &pem)?;
    let tls = Target { tls: Some(trust(&pem)?), ..target(PROXY_PORT, upstream::TLS_PORT, Manner::Connect) };
    let plain = target(PROXY_PORT, upstream::PLAIN_PORT, Manner::Forward);
    Ok(Server { name: "entrepot", process, tls, plain, directory: directory.to_owned(), ca })
}

/// Where entrepot keeps its data below its folder.
pub(crate) fn data_directory(directory: &Path) -> PathBuf {
    directory.join("data")
}

/// Starts entrepot and does not wait for anything.
pub(crate) fn spawn_entrepot(
    binary: &Path,
    directory: &Path,
    authority: &Authority,
    bounds: &str,
) -> Result<Process, BoxError> {
    let data = data_directory(directory);
    fs::create_dir_all(&data)?;
    let upstream_ca = directory.join("upstream-ca.pem");
    fs::write(&upstream_ca, authority.certificate_pem())?;
    let (name, tls, plain) = (upstream::NAME, upstream::TLS_PORT, upstream::PLAIN_PORT);
    let settings = format!(
        "data_dir = {data:?}\n\
         [proxy]\nlisten = [\"127.0.0.1:{PROXY_PORT}\"]\n{bounds}\
         [registry]\nanonymous = \"push\"\n\
         [admin]\nlisten = \"127.0.0.1:{ADMIN_PORT}\"\n\
         [cache]\nmax_size = \"64g\"\n\
         [intercept]\nregistries = [\"{name}:{tls}\", \"{name}:{plain}\"]\n\
         [upstream]\nextra_ca = {upstream_ca:?}\nallow_addresses = [\"127.0.0.0/8\"]\n\
         [registries.\"{name}:{plain}\"]\nscheme = \"http\"\n",
    );
    let file = directory.join("entrepot.toml");
    fs::write(&file, settings)?;
    let mut command = Command::new(binary);
    command.arg("serve").arg("--config").arg(file).env("HOME", directory);
    Process::start(&mut command, &directory.join("output.log"))
}

/// Returns at the first moment that a connection is taken.
pub(crate) async fn wait_listening(address: SocketAddr, process: &mut Process, log: &Path) -> Result<(), BoxError> {
    let deadline = Instant::now() + START_PATIENCE;
    while TcpStream::connect(address).await.is_err() {
        if process.has_ended()? || Instant::now() > deadline {
            let log = fs::read_to_string(log.join("output.log")).unwrap_or_default();
            return Err(format!("nothing listens on {address}; the server said:\n{log}").into());
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

async fn fetch_ca(address: SocketAddr) -> Result<String, BoxError> {
    let mut tcp = TcpStream::connect(address).await?;
    tcp.write_all(b"GET /ca.crt HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    tcp.read_to_end(&mut answer).await?;
    match parse_head(&answer)? {
        Some((head, body)) if head.status == 200 => Ok(String::from_utf8(answer[body..].to_vec())?),
        _ => Err("entrepot does not give out its CA".into()),
    }
}

fn target(port: u16, registry_port: u16, manner: Manner) -> Target {
    let authority = format!("{}:{registry_port}", upstream::NAME);
    Target { address: (Ipv4Addr::LOCALHOST, port).into(), authority, manner, tls: None }
}
