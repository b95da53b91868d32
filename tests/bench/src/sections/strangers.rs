//! One stranger and an honest client: the time of the client's pulls of a cached manifest, alone and while the stranger
//! goes on. Each pull has a connection of its own. nginx is not measured: it opens no tunnels and takes no pushes.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::task::JoinSet;

use crate::BoxError;
use crate::client::Target;
use crate::content::Blob;
use crate::figures::Samples;
use crate::lab::{Lab, MIB, manifest_path, warm};
use crate::report::Measured;
use crate::servers::{PROXY_PORT, UNBOUNDED};

const REGISTRY_PORT: u16 = 5000;
const DEAD_NAMES: usize = 900;
const SLOW_BODIES: usize = 100;
const UPLOADS: usize = 1000;
const BODY_BYTES: usize = 4 << 20;
/// The doors' places in the section with silent connections, of which the stranger wants twice as many.
const PLACES: usize = 1000;
const FEW_PLACES: &str = "max_connections = 1000\nmax_connections_per_client = 1000\n";

pub(super) async fn run(lab: &Lab) -> Result<Measured, BoxError> {
    let image = lab.image(1, MIB, "strangers");
    let path = manifest_path(&image.manifest.digest);
    let resolver = SilentResolver::start().await?;
    let mut measured = Measured::default();
    for what in ["900 dead names", "silent connections, doors full", "100 slow manifests", "1,000 uploads begun"] {
        let bounds = if what.starts_with("silent") { FEW_PLACES } else { UNBOUNDED };
        let [mut alone, mut beside] = [Samples::default(), Samples::default()];
        for _ in 0..lab.options.rounds {
            let server = lab.entrepot_with(&lab.folder("entrepot")?, bounds).await?;
            warm(&server.tls, &path, &image.manifest).await?;
            alone.push(pulls_ms(lab, &server.tls, &path, &image.manifest).await?);
            let _stranger = match what {
                "900 dead names" => dead_names(&resolver).await?,
                "100 slow manifests" => slow_manifests().await?,
                "1,000 uploads begun" => uploads_begun().await?,
                _ => silent_connections().await?,
            };
            beside.push(pulls_ms(lab, &server.tls, &path, &image.manifest).await?);
        }
        measured.reading(&format!("{what}: beside the stranger against alone"), "×", &beside.over(&alone));
        measured.reading(&format!("{what}: a pull alone"), "ms", &alone);
        measured.reading(&format!("{what}: a pull beside the stranger"), "ms", &beside);
    }
    Ok(measured)
}

/// The median of some pulls.
async fn pulls_ms(lab: &Lab, target: &Target, path: &str, manifest: &Blob) -> Result<f64, BoxError> {
    let mut pulls = Samples::default();
    for _ in 0..lab.either(200, 20) {
        let begin = Instant::now();
        target.pull_checked(path, manifest).await?;
        pulls.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    Ok(pulls.median())
}

/// The resolver of the run, which hears questions and never answers.
struct SilentResolver {
    heard: Arc<AtomicUsize>,
    hearing: tokio::task::JoinHandle<()>,
}

impl SilentResolver {
    async fn start() -> Result<Self, BoxError> {
        let socket = UdpSocket::bind("127.0.0.1:53").await?;
        let heard = Arc::new(AtomicUsize::new(0));
        let counting = Arc::clone(&heard);
        let hearing = tokio::spawn(async move {
            let mut question = [0; 512];
            while socket.recv_from(&mut question).await.is_ok() {
                counting.fetch_add(1, Ordering::SeqCst);
            }
        });
        Ok(Self { heard, hearing })
    }
}

impl Drop for SilentResolver {
    fn drop(&mut self) {
        self.hearing.abort();
    }
}

async fn connect(port: u16) -> Result<TcpStream, BoxError> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::new(127, 0, 0, 66), 0).into())?;
    Ok(socket.connect((Ipv4Addr::LOCALHOST, port).into()).await?)
}

async fn dead_names(resolver: &SilentResolver) -> Result<Vec<TcpStream>, BoxError> {
    let (before, mut held) = (resolver.heard.load(Ordering::SeqCst), Vec::new());
    for number in 0..DEAD_NAMES {
        let mut stream = connect(PROXY_PORT).await?;
        let head = format!("CONNECT dead{number}.test:443 HTTP/1.1\r\nHost: dead{number}.test\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        held.push(stream);
    }
    while resolver.heard.load(Ordering::SeqCst) == before {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(held)
}

async fn silent_connections() -> Result<Vec<TcpStream>, BoxError> {
    let mut held = Vec::new();
    for _ in 0..PLACES * 2 {
        held.push(connect(PROXY_PORT).await?);
    }
    Ok(held)
}

/// Begins uploads, as fast as they are answered, on one connection that stays open.
async fn uploads_begun() -> Result<Vec<TcpStream>, BoxError> {
    let mut stream = connect(REGISTRY_PORT).await?;
    let mut answers = Vec::new();
    for _ in 0..UPLOADS {
        let head = "POST /v2/stranger/app/blobs/uploads/ HTTP/1.1\r\nHost: docker-registry.local:5000\r\n\
                    Content-Length: 0\r\n\r\n";
        stream.write_all(head.as_bytes()).await?;
        let before = answers.len();
        while !has_answer(&answers[before..]) {
            if stream.read_buf(&mut answers).await? == 0 {
                return Err("the registry closed the stranger's connection".into());
            }
        }
    }
    Ok(vec![stream])
}

/// Whether these bytes hold a whole answer: its head, and the body of an error.
fn has_answer(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
    body.len() >= length.unwrap_or(0)
}

async fn slow_manifests() -> Result<Vec<TcpStream>, BoxError> {
    let mut sending = JoinSet::new();
    for number in 0..SLOW_BODIES {
        sending.spawn(async move {
            let mut stream = connect(REGISTRY_PORT).await.map_err(|error| error.to_string())?;
            let head = format!(
                "PUT /v2/stranger/app/manifests/t{number} HTTP/1.1\r\nHost: docker-registry.local:5000\r\n\
                 Content-Type: application/vnd.oci.image.index.v1+json\r\nContent-Length: {BODY_BYTES}\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await.map_err(|error| error.to_string())?;
            stream.write_all(&vec![b' '; BODY_BYTES - 1]).await.map_err(|error| error.to_string())?;
            Ok::<_, String>(stream)
        });
    }
    Ok(sending.join_all().await.into_iter().collect::<Result<_, _>>()?)
}
