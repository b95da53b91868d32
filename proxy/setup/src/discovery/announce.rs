//! Announces this server: a host name with the addresses of every interface, and two services.
//!
//! The crate mdns-sd speaks the protocol in a thread of its own: probes, answers, new addresses, goodbyes. The thread
//! here starts it, reads its events, and starts it again if it ends. A failure of either does not touch the proxy.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use mdns_sd::{DaemonEvent, RRType, ServiceDaemon, ServiceInfo};

use super::facts::Facts;
use super::identity::Identity;
use super::interfaces::{excluded, is_any_chosen};
use entrepot_core::mdns_name::MdnsName;

use super::{MDNS_PORT, SERVICE, WEB_SERVICE};

/// The name and the services to announce.
pub struct Announcement {
    pub name: MdnsName,
    /// The interfaces; if empty, all of the local network.
    pub interfaces: Vec<String>,
    pub facts: Facts,
}

/// A running announcement. It goes on after a drop; only [`Announcer::stop`] ends it.
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

/// The interval at which mdns-sd looks for changed addresses.
const ADDRESS_CHECK_S: u32 = 2;
/// The wait after a failure before the next try.
const RETRY: Duration = Duration::from_secs(30);
/// The longest wait at the end, for goodbyes to be sent.
const GOODBYE: Duration = Duration::from_secs(2);
/// After this silence the thread of mdns-sd is asked for its status.
const QUIET: Duration = Duration::from_secs(60);
/// The longest wait for that status.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// The reason why nothing is announced for now.
#[derive(Debug, thiserror::Error)]
enum AnnounceError {
    #[error("mDNS: {0}")]
    Library(#[from] mdns_sd::Error),
    #[error("UDP port 5353 cannot be shared, because another program has it for itself alone")]
    NoSocket,
    #[error("the sockets of mDNS cannot be limited to the local link: {0}")]
    Filter(std::io::Error),
    #[error("the mDNS thread ended")]
    Ended,
    #[error("the mDNS thread does not answer")]
    Hung,
}

impl Announcer {
    /// Starts to announce, and keeps the name in `identity` up to date. A failure is logged and tried again.
    pub fn start(announcement: Announcement, identity: Arc<Identity>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let seen = Arc::clone(&shared);
        let work = move || run(&announcement, &identity, &seen);
        let thread = std::thread::Builder::new().name("mdns".to_owned()).spawn(work)?;
        Ok(Self { shared, thread })
    }

    /// Sends goodbyes, so that others forget the name at once, and ends. Blocks for up to two seconds: not for the
    /// event loop.
    pub fn stop(self) {
        let daemon = {
            let mut state = self.shared.lock();
            state.stopping = true;
            state.daemon.take()
        };
        self.shared.changed.notify_all();
        if let Some(Ok(ended)) = daemon.map(|daemon| daemon.shutdown()) {
            // Without goodbyes, the others forget the name when its time to live is over.
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
    let mut logged = String::new();
    loop {
        let Err(error) = session(announcement, identity, shared);
        let mut state = shared.lock();
        state.daemon = None;
        if state.stopping {
            return;
        }
        // The same error is logged once.
        let error = error.to_string();
        if error != logged {
            tracing::warn!("this server is not announced on the local network, trying again: {error}");
            logged = error;
        }
        let waited = shared.changed.wait_timeout_while(state, RETRY, |state| !state.stopping);
        if waited.unwrap_or_else(PoisonError::into_inner).0.stopping {
            return;
        }
    }
}

/// Announces until something fails or `stop` is called.
fn session(
    announcement: &Announcement,
    identity: &Identity,
    shared: &Shared,
) -> Result<std::convert::Infallible, AnnounceError> {
    let daemon = ServiceDaemon::new()?;
    let events = daemon.monitor()?;
    // Once it answers, its sockets are open.
    is_alive(&daemon)?;
    if entrepot_kernel::link_only::keep_to_the_link(MDNS_PORT).map_err(AnnounceError::Filter)? == 0 {
        // This ends its thread.
        let _ = daemon.shutdown();
        return Err(AnnounceError::NoSocket);
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
            return Err(AnnounceError::Ended);
        }
        state.daemon = Some(daemon.clone());
    }
    if !is_any_chosen(&announcement.interfaces) {
        tracing::warn!(
            "no interface of a local network was found, so nobody finds this server by its name: name the interfaces \
             (mdns.interfaces)"
        );
    }
    identity.set_host(announcement.name.host());
    tracing::info!("announcing {} on the local network", announcement.name.host());
    loop {
        match events.recv_timeout(QUIET) {
            Ok(event) => handle(&event, identity),
            Err(_) if events.is_disconnected() => return Err(AnnounceError::Ended),
            Err(_) => is_alive(&daemon)?,
        }
    }
}

fn is_alive(daemon: &ServiceDaemon) -> Result<(), AnnounceError> {
    daemon.status()?.recv_timeout(SIGN_OF_LIFE).map(drop).map_err(|_| AnnounceError::Hung)
}

/// The service of this product and the web site, on the same host.
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

fn handle(event: &DaemonEvent, identity: &Identity) {
    match event {
        DaemonEvent::NameChange(change) if matches!(change.rr_type, RRType::A | RRType::AAAA) => {
            let (asked, given) = (change.original.trim_end_matches('.'), change.new_name.trim_end_matches('.'));
            tracing::warn!(
                "another machine on {} has the name {asked}; this machine is {given} there: use that name, or set \
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
