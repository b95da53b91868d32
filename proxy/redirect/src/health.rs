//! Whether the door answers, asked twice a second; only then are connections led there.
//!
//! The question is an HTTP request for a name that only a transparent door knows, so a process that hangs, or another
//! server on its port, does not pass. What the programs are told holds for two seconds: an agent that hangs stops
//! counting as well.

use std::net::SocketAddr;
use std::time::Duration;

use entrepot_core::host::RegistryHost;
use nix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

use super::plan::DoorPlace;
use entrepot_core::sniff::HEALTH_HOST;
use entrepot_setup::discovery::browse::browse;

/// How often the door is asked.
pub(super) const INTERVAL: Duration = Duration::from_millis(500);
/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long an answer holds for the programs.
pub(super) const VALIDITY: Duration = Duration::from_secs(2);
/// How often an appliance that does not answer is looked up anew.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(5);
const ANSWER: &[u8] = b"HTTP/1.1 204";

/// The doors that answer, one a family at most.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Doors {
    pub(super) v4: Option<SocketAddr>,
    pub(super) v6: Option<SocketAddr>,
}

/// Finds the doors that answer.
pub(super) struct Probe {
    place: DoorPlace,
    candidates: Vec<SocketAddr>,
    looked_up: Option<Instant>,
}

impl Doors {
    pub(super) fn any(self) -> bool {
        self.v4.is_some() || self.v6.is_some()
    }
}

impl Probe {
    pub(super) fn new(place: DoorPlace) -> Self {
        Self { place, candidates: Vec::new(), looked_up: None }
    }

    /// Asks the doors that are known; looks them up first where none has answered so far.
    pub(super) async fn ask(&mut self) -> Doors {
        let doors = self.ask_known().await;
        if doors.any() || !self.look_up().await {
            return doors;
        }
        self.ask_known().await
    }

    async fn ask_known(&self) -> Doors {
        let answers = futures_util::future::join_all(self.candidates.iter().map(|door| answers(*door))).await;
        let mut answering = self.candidates.iter().zip(answers).filter(|(_, answers)| *answers).map(|(door, _)| *door);
        let v4 = answering.clone().find(SocketAddr::is_ipv4);
        Doors { v4, v6: answering.find(SocketAddr::is_ipv6) }
    }

    /// Whether there are candidates that were not asked before.
    async fn look_up(&mut self) -> bool {
        if self.looked_up.is_some_and(|at| at.elapsed() < LOOKUP_INTERVAL) {
            return false;
        }
        self.looked_up = Some(Instant::now());
        let found = match &self.place {
            DoorPlace::Local(doors) => doors.clone(),
            DoorPlace::Appliance(appliance) => find_appliance(appliance).await,
        };
        let is_new = found.iter().any(|door| !self.candidates.contains(door));
        self.candidates = found;
        is_new
    }
}

/// The addresses of an appliance's transparent door: a name below `.local` by multicast DNS, which not every system's
/// resolver speaks; any other name by the system's resolver.
async fn find_appliance(appliance: &RegistryHost) -> Vec<SocketAddr> {
    if appliance.name().ends_with(".local") {
        let wanted = appliance.clone();
        let found = spawn_blocking(move || browse(PATIENCE, |found| found.host == wanted.name())).await;
        let found = found.ok().and_then(Result::ok).unwrap_or_default();
        let found = found.into_iter().filter(|found| found.host == appliance.name());
        let doors: Vec<_> =
            found.flat_map(|found| found.addresses).map(|ip| SocketAddr::new(ip, appliance.port())).collect();
        if !doors.is_empty() {
            return doors;
        }
    }
    let name = (appliance.name().to_owned(), appliance.port());
    match timeout(PATIENCE, lookup_host(name)).await {
        Ok(Ok(found)) => found.collect(),
        Ok(Err(error)) => {
            tracing::warn!("the appliance {appliance} cannot be found: {error}");
            Vec::new()
        }
        Err(_) => Vec::new(),
    }
}

/// Now, by the clock that the programs read.
pub(super) fn monotonic_ns() -> u64 {
    let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC) else { return 0 };
    let (seconds, nanoseconds) = (u64::try_from(now.tv_sec()), u64::try_from(now.tv_nsec()));
    seconds.unwrap_or(0) * 1_000_000_000 + nanoseconds.unwrap_or(0)
}

async fn answers(door: SocketAddr) -> bool {
    let asking = async {
        let mut stream = TcpStream::connect(door).await.ok()?;
        let question = format!("GET / HTTP/1.1\r\nHost: {HEALTH_HOST}\r\n\r\n");
        stream.write_all(question.as_bytes()).await.ok()?;
        let mut answer = [0; ANSWER.len()];
        stream.read_exact(&mut answer).await.ok()?;
        (answer == ANSWER).then_some(())
    };
    matches!(timeout(PATIENCE, asking).await, Ok(Some(())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn server(answer: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut question = vec![0; 1024];
                let _ = stream.read(&mut question).await;
                let _ = stream.write_all(answer).await;
            }
        });
        address
    }

    #[tokio::test]
    async fn only_a_transparent_door_is_healthy() {
        let good = server(b"HTTP/1.1 204 No Content\r\n\r\n").await;
        let other = server(b"HTTP/1.1 200 OK\r\n\r\nhello").await;
        let mut probe = Probe::new(DoorPlace::Local(vec![other, good]));
        assert_eq!(probe.ask().await, Doors { v4: Some(good), v6: None });
        let mut probe = Probe::new(DoorPlace::Local(vec![other]));
        assert_eq!(probe.ask().await, Doors::default());
    }

    #[tokio::test]
    async fn an_appliance_may_be_an_address() {
        let good = server(b"HTTP/1.1 204 No Content\r\n\r\n").await;
        let appliance = RegistryHost::parse_with_port(&good.to_string()).expect("a host");
        let mut probe = Probe::new(DoorPlace::Appliance(appliance));
        assert_eq!(probe.ask().await.v4, Some(good));
        assert!(monotonic_ns() > 0);
    }
}
