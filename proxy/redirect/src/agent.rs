//! The life of the agent: check the machine, load the programs, write their settings, attach them, then tell them
//! whether connections arrive at the door until a signal ends it all.
//!
//! Everything runs on one thread: a call to the kernel's maps takes a microsecond, and an idle agent should cost
//! nothing.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use entrepot_ebpf_common::outcome::Outcome;
use entrepot_ebpf_common::proof::Proofs;
use entrepot_ebpf_common::settings::{PORTS_MAX, Settings};
use entrepot_kernel::namespace::network_namespace_cookie;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use super::RedirectError;
use super::arrival::{Arrival, Pause};
use super::health::{Doors, FindByMdns, INTERVAL, Probe, VALIDITY, monotonic_ns};
use super::pins::{self, Pins};
use super::plan::{DoorPlace, Mode, Plan};
use super::programs::{Programs, endpoint, lock};
use super::report::{Counted, Learned, Report, Stranger};
use super::routing::{self, ROUTE_MARK};
use super::{attach, preflight, resolvers, seed, server};
use entrepot_config::ready::Config;
use entrepot_core::unplaced::Unplaced;
use entrepot_net::admin_socket::AdminSocket;
use entrepot_net::service_manager::{self, watchdog};

/// The services of other crates that the agent calls. The composition root passes them in.
#[derive(Clone, Copy)]
pub struct Environment {
    /// The mark (SO_MARK) of entrepot's own connections, which are never redirected.
    pub own_mark: u32,
    pub find_by_mdns: FindByMdns,
}

/// The places of the programs.
struct Attached {
    /// Control groups or interfaces.
    places: Vec<String>,
    /// The interfaces to which a queueing discipline was added, to be removed at the end.
    disciplined: Vec<String>,
}

/// The last judgement.
struct State {
    doors: Doors,
    proofs: Proofs,
    /// The reason why nothing is redirected. None while connections are redirected.
    pause: Option<Pause>,
    /// The reason why not every interface has proofs.
    unproved: Option<String>,
}

impl Default for State {
    fn default() -> Self {
        Self { doors: Doors::default(), proofs: Proofs::NONE, pause: Some(Pause::NoDoor), unproved: None }
    }
}

/// The time that the service manager grants for the end; it never took that long.
const TAKING_DOWN: Duration = Duration::from_secs(10);

/// The time for which connections to an address are let pass after one of them had no name.
const DIRECT_FOR: Duration = Duration::from_secs(600);

/// A running agent.
struct Agent {
    plan: Plan,
    environment: Environment,
    programs: Arc<Mutex<Programs>>,
    attached: Attached,
    state: Mutex<State>,
    since: SystemTime,
}

/// Runs the agent until a signal ends it.
pub fn run(mode: Mode, config: &Config, environment: Environment) -> Result<(), RedirectError> {
    let (plan, notices) = Plan::new(mode, config)?;
    for notice in notices {
        tracing::warn!("{notice}");
    }
    preflight::check(mode)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| RedirectError::System { what: "threads", source })?;
    let outcome = runtime.block_on(async {
        let socket = AdminSocket::bind(&config.redirect.socket)?;
        let listener = match config.redirect.listen {
            None => None,
            Some(address) => Some(listen(address).await?),
        };
        let (agent, arrival) = Agent::start(plan, environment).await?;
        let outcome = agent.clone().live(arrival, socket, listener).await;
        agent.take_down().await.and(outcome)
    });
    // A lookup that hangs in the resolver must not delay the end.
    runtime.shutdown_background();
    outcome
}

async fn listen(address: SocketAddr) -> Result<TcpListener, RedirectError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|source| RedirectError::System { what: "listening address (redirect.listen)", source })
}

impl Agent {
    /// Puts everything in place. Nothing is redirected before a door has answered.
    async fn start(plan: Plan, environment: Environment) -> Result<(Arc<Self>, Arrival), RedirectError> {
        let mut programs = Programs::load()?;
        let arrival = Arrival::new(&plan, &mut programs);
        programs.set_settings(&settings(&plan, environment.own_mark, Doors::default(), Proofs::NONE))?;
        for (hash, flags) in &plan.names {
            programs.add_name(*hash, *flags)?;
        }
        for prefix in &plan.prefixes {
            programs.add_prefix(*prefix)?;
        }
        programs.set_resolvers(&resolvers::configured(plan.mode, &plan.resolvers))?;
        let pins = if plan.enforce { Some(Pins::new()?) } else { None };
        let attached = match plan.mode {
            Mode::Host => attach_host(&mut programs, &plan, pins.as_ref())?,
            Mode::Gateway => attach_gateway(&mut programs, &plan, pins.as_ref()).await?,
        };
        if let Some(pins) = pins {
            pins.replace_others()?;
        }
        let programs = Arc::new(Mutex::new(programs));
        let state = State::default();
        let (state, since) = (Mutex::new(state), SystemTime::now());
        Ok((Arc::new(Self { plan, environment, programs, attached, state, since }), arrival))
    }

    async fn live(
        self: Arc<Self>,
        arrival: Arrival,
        socket: AdminSocket,
        listener: Option<TcpListener>,
    ) -> Result<(), RedirectError> {
        let signals = |kind| signal(kind).map_err(|source| RedirectError::System { what: "signals", source });
        let (mut terminate, mut interrupt) = (signals(SignalKind::terminate())?, signals(SignalKind::interrupt())?);
        let reporter: server::Reporter = {
            let agent = self.clone();
            Arc::new(move || agent.report())
        };
        tracing::info!(
            mode = self.plan.mode.word(),
            attached = self.attached.places.join(", "),
            "the redirect programs are attached"
        );
        service_manager::ready(format!("attached to {}", self.attached.places.join(", "))).await;
        // There is only one thread, so an answer proves that it runs.
        tokio::spawn(watchdog::watch(|| std::future::ready(true)));
        let serving = server::serve_unix(socket, reporter.clone());
        if let Some(listener) = listener {
            tokio::spawn(server::serve_tcp(listener, reporter));
        }
        tokio::spawn(seed::run(self.programs.clone(), self.plan.seeds.clone(), self.plan.seed_interval));
        tokio::spawn(resolvers::run(self.programs.clone(), self.plan.mode, self.plan.resolvers.clone()));
        let outcome = tokio::select! {
            outcome = self.watch(arrival) => outcome,
            outcome = routing::keep(), if self.plan.mode == Mode::Gateway => outcome,
            () = serving => Ok(()),
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
        };
        service_manager::stopping("removing the programs", TAKING_DOWN).await;
        outcome
    }

    /// Asks the door at every interval, and tells the programs whether connections arrive there.
    async fn watch(&self, mut arrival: Arrival) -> Result<(), RedirectError> {
        let mut probe = Probe::new(self.plan.door.clone(), self.environment.find_by_mdns);
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let doors = probe.ask().await;
            let proofs = arrival.proofs(&lock(&self.programs));
            self.tell(doors, proofs)?;
            let pause = arrival.judge(&self.programs, doors, probe.rights()).await?;
            let until_ns = if pause.is_none() { monotonic_ns() + nanoseconds(VALIDITY) } else { 0 };
            lock(&self.programs).set_healthy_until(until_ns)?;
            self.let_pass(&probe.unplaced())?;
            let unproved = arrival.unproved().map(str::to_owned);
            let before =
                std::mem::replace(&mut *lock(&self.state), State { doors, proofs, pause: pause.clone(), unproved });
            let news = match &pause {
                _ if before.pause == pause => continue,
                None => "the door answers: connections to registries are redirected".to_owned(),
                Some(pause) => format!("{pause}: connections go to their own destination"),
            };
            match pause {
                None => tracing::info!("{news}"),
                Some(_) => tracing::warn!("{news}"),
            }
            service_manager::status(&news).await;
        }
    }

    /// Tells the programs the doors' addresses and the proofs. Nothing is redirected while the doors change.
    fn tell(&self, doors: Doors, proofs: Proofs) -> Result<(), RedirectError> {
        let (doors_before, proofs_before) = {
            let state = lock(&self.state);
            (state.doors, state.proofs)
        };
        let mut programs = lock(&self.programs);
        if doors != doors_before {
            programs.set_healthy_until(0)?;
        }
        if doors.any() && (doors, proofs) != (doors_before, proofs_before) {
            programs.set_settings(&settings(&self.plan, self.environment.own_mark, doors, proofs))?;
        }
        Ok(())
    }

    /// Makes the addresses direct to which the door got connections without a name.
    fn let_pass(&self, unplaced: &[Unplaced]) -> Result<(), RedirectError> {
        let mut programs = lock(&self.programs);
        for connection in unplaced {
            let address = match connection {
                Unplaced::To(address) => Some(*address),
                Unplaced::From(client) => programs.original_of(*client),
            };
            if let Some(address) = address {
                programs.let_pass(address, monotonic_ns() + nanoseconds(DIRECT_FOR))?;
            }
        }
        Ok(())
    }

    /// Links end with the process. The rules, routes and disciplines of a gateway do not, so they are removed here.
    async fn take_down(&self) -> Result<(), RedirectError> {
        if self.plan.mode == Mode::Host || self.plan.enforce {
            return Ok(());
        }
        lock(&self.programs).detach_gateway();
        for interface in &self.attached.disciplined {
            routing::remove_discipline(interface).await?;
        }
        routing::remove().await
    }

    fn report(&self) -> Report {
        let programs = lock(&self.programs);
        let now_ns = monotonic_ns();
        let state = lock(&self.state);
        let doors = state.doors;
        let learned = |(address, until_ns): (_, u64)| Learned {
            address,
            expires_in_seconds: until_ns.saturating_sub(now_ns) / nanoseconds(Duration::from_secs(1)),
        };
        let sorted = |entries: Vec<_>| {
            let mut entries: Vec<Learned> = entries.into_iter().map(learned).collect();
            entries.sort_unstable_by_key(|learned| learned.address);
            entries
        };
        let stranger = |(address, answers)| Stranger { address, answers };
        let counted = |(outcome, count): (Outcome, u64)| Counted { outcome: outcome.word().to_owned(), count };
        Report {
            mode: self.plan.mode.word().to_owned(),
            since_unix_seconds: self.since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            attached: self.attached.places.clone(),
            door: match &self.plan.door {
                DoorPlace::Local(_) => "this machine".to_owned(),
                DoorPlace::Appliance(appliance) => appliance.to_string(),
            },
            answering: doors.v4.into_iter().chain(doors.v6).collect(),
            healthy: state.pause.is_none(),
            paused: state.pause.as_ref().map(ToString::to_string),
            unproved: state.unproved.clone(),
            enforce: self.plan.enforce,
            ports: self.plan.ports.clone(),
            addresses: sorted(programs.addresses()),
            counters: programs
                .counters()
                .into_iter()
                .filter(|(outcome, _)| *outcome != Outcome::OtherPort)
                .map(counted)
                .collect(),
            direct: sorted(programs.direct().into_iter().filter(|(_, until_ns)| *until_ns > now_ns).collect()),
            resolvers: programs.resolvers(),
            strangers: programs.strangers().into_iter().map(stranger).collect(),
        }
    }
}

/// Removes everything that agents of this network namespace have left: pinned links, rules and routes, filters. Returns
/// the number of links.
pub fn off(config: &Config) -> Result<usize, RedirectError> {
    let socket = &config.redirect.socket;
    if std::os::unix::net::UnixStream::connect(socket).is_ok() {
        return Err(RedirectError::Running { socket: socket.clone() });
    }
    let removed = pins::remove_all()?;
    attach::remove_filters(&config.redirect.interfaces);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| RedirectError::System { what: "threads", source })?;
    runtime.block_on(routing::remove())?;
    Ok(removed)
}

async fn attach_gateway(programs: &mut Programs, plan: &Plan, pins: Option<&Pins>) -> Result<Attached, RedirectError> {
    for family in routing::forwarding_off() {
        tracing::warn!(
            "{family} forwarding is off on this machine, so no {family} connection passes through it; \
            enable it: sysctl -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1"
        );
    }
    attach::remove_filters(&plan.interfaces);
    routing::install().await?;
    let disciplined = programs.attach_gateway(&plan.interfaces, pins)?;
    Ok(Attached { places: plan.interfaces.clone(), disciplined })
}

fn attach_host(programs: &mut Programs, plan: &Plan, pins: Option<&Pins>) -> Result<Attached, RedirectError> {
    let root = preflight::cgroup_root()?;
    for cgroup in preflight::cgroup_paths(&root, &plan.exempt_cgroups) {
        programs.exempt(&cgroup, &root)?;
    }
    let scopes: Vec<PathBuf> = match plan.cgroups.is_empty() {
        true => vec![root.clone()],
        false => preflight::cgroup_paths(&root, &plan.cgroups),
    };
    programs.attach_host(&root, &scopes, pins)?;
    let places = scopes.iter().map(|scope| scope.display().to_string()).collect();
    Ok(Attached { places, disciplined: Vec::new() })
}

fn settings(plan: &Plan, own_mark: u32, doors: Doors, proofs: Proofs) -> Settings {
    let mut ports = [0; PORTS_MAX];
    ports.iter_mut().zip(&plan.ports).for_each(|(slot, port)| *slot = *port);
    Settings {
        // Zero means the machine's first namespace: the fallback if the kernel does not report the cookie.
        netns_cookie: network_namespace_cookie().unwrap_or(0),
        door_v4: endpoint(doors.v4),
        door_v6: endpoint(doors.v6),
        proofs,
        own_mark,
        route_mark: ROUTE_MARK,
        ports,
        is_local: u32::from(matches!(plan.door, DoorPlace::Local(_)) && plan.mode == Mode::Host),
        enforce: u32::from(plan.enforce),
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
