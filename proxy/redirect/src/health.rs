//! Asks the door twice a second whether it answers. Connections are redirected only while it does.
//!
//! The question is an HTTP request for a name that only a transparent door knows, so neither a process that hangs nor
//! another server on that port passes. An answer counts for two seconds, so an agent that hangs ends the redirection
//! too.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use entrepot_core::host::RegistryHost;
use nix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

use super::plan::DoorPlace;
use entrepot_core::door_rights::{self, DoorRights};
use entrepot_core::sniff::HEALTH_HOST;
use entrepot_core::unplaced::{self, Unplaced};

/// Finds the addresses of a host name by multicast DNS, for up to this time. Blocks.
pub type FindByMdns = fn(&str, Duration) -> Vec<IpAddr>;

/// The interval between two questions.
pub(super) const INTERVAL: Duration = Duration::from_millis(500);
/// The longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// The time for which an answer counts.
pub(super) const VALIDITY: Duration = Duration::from_secs(2);
/// The interval at which an appliance that does not answer is looked up again.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(5);
const ANSWER: &str = "HTTP/1.1 204";
/// The longest answer that is read.
const ANSWER_MAX_BYTES: u64 = 8192;

/// The doors that answer, at most one for each family.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Doors {
    pub(super) v4: Option<SocketAddr>,
    pub(super) v6: Option<SocketAddr>,
}

/// Finds the doors that answer.
pub(super) struct Probe {
    place: DoorPlace,
    find_by_mdns: FindByMdns,
    candidates: Vec<SocketAddr>,
    looked_up: Option<Instant>,
    unplaced: Vec<Unplaced>,
    rights: DoorRights,
}

/// The answer of a door.
struct Answer {
    unplaced: Vec<Unplaced>,
    rights: DoorRights,
}

impl Doors {
    pub(super) fn any(self) -> bool {
        self.v4.is_some() || self.v6.is_some()
    }
}

impl Probe {
    pub(super) fn new(place: DoorPlace, find_by_mdns: FindByMdns) -> Self {
        Self {
            place,
            find_by_mdns,
            candidates: Vec::new(),
            looked_up: None,
            unplaced: Vec::new(),
            rights: DoorRights::ALL,
        }
    }

    /// The rights that all doors have which answered last.
    pub(super) fn rights(&self) -> DoorRights {
        self.rights
    }

    /// The connections that the doors could not place, as told in the last answers.
    pub(super) fn unplaced(&mut self) -> Vec<Unplaced> {
        std::mem::take(&mut self.unplaced)
    }

    /// Asks the known doors. If none answers, looks for others and asks those.
    pub(super) async fn ask(&mut self) -> Doors {
        let doors = self.ask_known().await;
        if doors.any() || !self.look_up().await {
            return doors;
        }
        self.ask_known().await
    }

    async fn ask_known(&mut self) -> Doors {
        let answers = futures_util::future::join_all(self.candidates.iter().map(|door| answer(*door))).await;
        let mut answering = self.candidates.iter().zip(&answers).filter(|(_, it)| it.is_some()).map(|(door, _)| *door);
        let v4 = answering.clone().find(SocketAddr::is_ipv4);
        let doors = Doors { v4, v6: answering.find(SocketAddr::is_ipv6) };
        self.rights = DoorRights::ALL;
        for answer in answers.into_iter().flatten() {
            self.unplaced.extend(answer.unplaced);
            self.rights = self.rights.and(answer.rights);
        }
        doors
    }

    /// Returns whether there are candidates that were not asked before.
    async fn look_up(&mut self) -> bool {
        if self.looked_up.is_some_and(|at| at.elapsed() < LOOKUP_INTERVAL) {
            return false;
        }
        self.looked_up = Some(Instant::now());
        let found = match &self.place {
            DoorPlace::Local(doors) => doors.clone(),
            DoorPlace::Appliance(appliance) => find_appliance(appliance, self.find_by_mdns).await,
        };
        let is_new = found.iter().any(|door| !self.candidates.contains(door));
        self.candidates = found;
        is_new
    }
}

/// The addresses of an appliance's transparent door. A name below `.local` is looked up by multicast DNS first, since
/// not every system's resolver does that; any other name by the system's resolver.
async fn find_appliance(appliance: &RegistryHost, find_by_mdns: FindByMdns) -> Vec<SocketAddr> {
    if appliance.name().ends_with(".local") {
        let name = appliance.name().to_owned();
        let found = spawn_blocking(move || find_by_mdns(&name, PATIENCE)).await.unwrap_or_default();
        if !found.is_empty() {
            return found.into_iter().map(|ip| SocketAddr::new(ip, appliance.port())).collect();
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

/// The present time of the clock that the programs read.
pub(super) fn monotonic_ns() -> u64 {
    let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC) else { return 0 };
    let (seconds, nanoseconds) = (u64::try_from(now.tv_sec()), u64::try_from(now.tv_nsec()));
    seconds.unwrap_or(0) * 1_000_000_000 + nanoseconds.unwrap_or(0)
}

/// The answer of a door. None if it does not answer as one.
async fn answer(door: SocketAddr) -> Option<Answer> {
    let asking = async {
        let mut stream = TcpStream::connect(door).await.ok()?;
        let question = format!("GET / HTTP/1.1\r\nHost: {HEALTH_HOST}\r\n\r\n");
        stream.write_all(question.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        // An answer ends with the connection. Of one that breaks off, the beginning counts.
        let _ = stream.take(ANSWER_MAX_BYTES).read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).ok()?;
        let is_door = answer.starts_with(ANSWER);
        is_door.then(|| Answer { unplaced: unplaced::read(&answer), rights: door_rights::read(&answer) })
    };
    timeout(PATIENCE, asking).await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    fn no_mdns(_: &str, _: Duration) -> Vec<IpAddr> {
        Vec::new()
    }

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
        let mut probe = Probe::new(DoorPlace::Local(vec![other, good]), no_mdns);
        assert_eq!(probe.ask().await, Doors { v4: Some(good), v6: None });
        assert_eq!(probe.unplaced(), []);
        let mut probe = Probe::new(DoorPlace::Local(vec![other]), no_mdns);
        assert_eq!(probe.ask().await, Doors::default());
    }

    #[tokio::test]
    async fn a_door_tells_what_it_could_not_place() {
        let door =
            server(b"HTTP/1.1 204 No Content\r\nEntrepot-Unplaced: to=192.0.2.1\r\nEntrepot-Door: mark=no\r\n\r\n")
                .await;
        let mut probe = Probe::new(DoorPlace::Local(vec![door]), no_mdns);
        assert_eq!(probe.ask().await.v4, Some(door));
        assert_eq!(probe.unplaced(), [Unplaced::To([192, 0, 2, 1].into())]);
        assert_eq!(probe.unplaced(), [], "each answer once");
        assert_eq!(probe.rights(), DoorRights { is_transparent: true, can_mark: false });
    }

    #[tokio::test]
    async fn an_appliance_below_local_is_found_by_mdns() {
        let good = server(b"HTTP/1.1 204 No Content\r\n\r\n").await;
        let appliance = RegistryHost::parse_with_port(&format!("registry.local:{}", good.port())).expect("a host");
        let find: FindByMdns =
            |name, _| if name == "registry.local" { vec![[127, 0, 0, 1].into()] } else { Vec::new() };
        assert_eq!(Probe::new(DoorPlace::Appliance(appliance), find).ask().await.v4, Some(good));
    }

    #[tokio::test]
    async fn an_appliance_may_be_an_address() {
        let good = server(b"HTTP/1.1 204 No Content\r\n\r\n").await;
        let appliance = RegistryHost::parse_with_port(&good.to_string()).expect("a host");
        let mut probe = Probe::new(DoorPlace::Appliance(appliance), no_mdns);
        assert_eq!(probe.ask().await.v4, Some(good));
        assert!(monotonic_ns() > 0);
    }
}
