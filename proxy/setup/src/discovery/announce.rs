//! Announcing this server: a host name with the addresses of every interface, and two services.
//!
//! The crate mdns-sd does the talking in a thread of its own: probing, answering, new addresses, goodbyes. The thread
//! here opens it, listens to what it has to say, and opens it again should it end; neither can hurt the proxy.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use mdns_sd::{DaemonEvent, RRType, ServiceDaemon, ServiceInfo};

use super::facts::Facts;
use super::identity::Identity;
use super::interfaces::excluded;
use entrepot_core::mdns_name::MdnsName;

use super::{MDNS_PORT, SERVICE, WEB_SERVICE};

/// What is announced.
pub struct Announcement {
    /// The host name asked for.
    pub name: MdnsName,
    /// On these interfaces; none named: every one of the local network.
    pub interfaces: Vec<String>,
    /// What the services tell.
    pub facts: Facts,
}

/// A running announcement. Dropped without [`Announcer::stop`] it goes on.
pub struct Announcer {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    stopping: bool,
    daemon: Option<ServiceDaemon>,
}

/// How often addresses are compared; a change is announced within this time.
const ADDRESS_CHECK_S: u32 = 2;
/// Before the next try where nothing can be announced.
const RETRY: Duration = Duration::from_secs(30);
/// Goodbyes are sent within this time, or not at all.
const GOODBYE: Duration = Duration::from_secs(2);
/// Silence after which the library is asked whether it lives, and how long it may take to say so.
const QUIET: Duration = Duration::from_secs(60);
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// Why nothing is announced for now.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("mDNS: {0}")]
    Library(#[from] mdns_sd::Error),
    #[error("UDP port 5353 cannot be shared: another program holds it for itself")]
    NoSocket,
    #[error("the sockets of mDNS cannot be kept to the local link: {0}")]
    Filter(std::io::Error),
    #[error("the mDNS thread ended")]
    Ended,
    #[error("the mDNS thread does not answer")]
    Hung,
}

impl Announcer {
    /// Begins to announce, and keeps the name of `identity` true. What goes wrong is logged and tried again.
    pub fn start(announcement: Announcement, identity: Arc<Identity>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let seen = Arc::clone(&shared);
        let work = move || run(&announcement, &identity, &seen);
        let thread = std::thread::Builder::new().name("mdns".to_owned()).spawn(work)?;
        Ok(Self { shared, thread })
    }

    /// Says goodbye, so that nobody keeps the name in mind, and ends. Takes a moment: not for the event loop.
    pub fn stop(self) {
        let daemon = {
            let mut state = self.shared.lock();
            state.stopping = true;
            state.daemon.take()
        };
        self.shared.changed.notify_all();
        if let Some(Ok(ended)) = daemon.map(|daemon| daemon.shutdown()) {
            // Where it does not answer, the names run out by themselves.
            let _ = ended.recv_timeout(GOODBYE);
        }
        if self.thread.is_finished() {
            let _ = self.thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn run(announcement: &Announcement, identity: &Identity, shared: &Shared) {
    let mut said = String::new();
    loop {
        let Err(trouble) = session(announcement, identity, shared);
        let mut state = shared.lock();
        state.daemon = None;
        if state.stopping {
            return;
        }
        // The same trouble is said once.
        let trouble = trouble.to_string();
        if trouble != said {
            tracing::warn!("not announced on the local network, trying again: {trouble}");
            said = trouble;
        }
        let waited = shared.changed.wait_timeout_while(state, RETRY, |state| !state.stopping);
        if waited.unwrap_or_else(PoisonError::into_inner).0.stopping {
            return;
        }
    }
}

/// Announces until something is wrong, or the library was told to stop.
fn session(
    announcement: &Announcement,
    identity: &Identity,
    shared: &Shared,
) -> Result<std::convert::Infallible, Trouble> {
    let daemon = ServiceDaemon::new()?;
    let events = daemon.monitor()?;
    // Its sockets are open when it answers.
    is_alive(&daemon)?;
    if entrepot_kernel::link_only::keep_to_the_link(MDNS_PORT).map_err(Trouble::Filter)? == 0 {
        // Its thread goes with it.
        let _ = daemon.shutdown();
        return Err(Trouble::NoSocket);
    }
    daemon.set_ip_check_interval(ADDRESS_CHECK_S)?;
    daemon.disable_interface(excluded(&announcement.interfaces))?;
    for service in services(announcement)? {
        daemon.register(service)?;
    }
    {
        let mut state = shared.lock();
        if state.stopping {
            let _ = daemon.shutdown();
            return Err(Trouble::Ended);
        }
        state.daemon = Some(daemon.clone());
    }
    identity.set_host(announcement.name.host());
    tracing::info!("announcing {} on the local network", announcement.name.host());
    loop {
        match events.recv_timeout(QUIET) {
            Ok(event) => tell(&event, identity),
            Err(_) if events.is_disconnected() => return Err(Trouble::Ended),
            Err(_) => is_alive(&daemon)?,
        }
    }
}

fn is_alive(daemon: &ServiceDaemon) -> Result<(), Trouble> {
    daemon.status()?.recv_timeout(SIGN_OF_LIFE).map(drop).map_err(|_| Trouble::Hung)
}

/// The two services, both on the same host.
fn services(announcement: &Announcement) -> Result<[ServiceInfo; 2], mdns_sd::Error> {
    let facts = &announcement.facts;
    let txt = facts.txt();
    let host = format!("{}.", announcement.name.host());
    let service = |kind, port| {
        let service = ServiceInfo::new(kind, announcement.name.label(), &host, "", port, &txt[..])?;
        Ok::<_, mdns_sd::Error>(service.enable_addr_auto())
    };
    let registry = facts.registry_http_port.or(facts.registry_https_port).unwrap_or(facts.proxy_port);
    Ok([service(SERVICE, registry)?, service(WEB_SERVICE, facts.web_port())?])
}

fn tell(event: &DaemonEvent, identity: &Identity) {
    match event {
        DaemonEvent::NameChange(change) if matches!(change.rr_type, RRType::A | RRType::AAAA) => {
            let (asked, given) = (change.original.trim_end_matches('.'), change.new_name.trim_end_matches('.'));
            tracing::warn!(
                "another machine on {} has the name {asked}; this one is {given} there: use that name, or set \
                 mdns.hostname",
                change.intf_name
            );
            identity.set_host(given.to_owned());
        }
        DaemonEvent::IpDel(address) | DaemonEvent::IpAdd(address) if address.is_loopback() => {}
        DaemonEvent::IpAdd(address) => tracing::info!("mDNS: this machine has a new address, {address}"),
        DaemonEvent::IpDel(address) => tracing::info!("mDNS: this machine no longer has the address {address}"),
        DaemonEvent::Error(error) => tracing::warn!("mDNS: {error}"),
        _ => {}
    }
}
