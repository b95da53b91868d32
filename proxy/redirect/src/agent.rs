//! The agent's life: check, load, tell, attach; then keep the programs' idea of health true until a signal ends it.
//!
//! Everything runs on one thread: a call to the kernel's maps takes a microsecond, and an idle agent should cost nothing.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use entrepot_ebpf_common::outcome::Outcome;
use entrepot_ebpf_common::settings::{PORTS_MAX, Settings};
use entrepot_kernel::namespace::network_namespace_cookie;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use super::RedirectError;
use super::health::{Doors, INTERVAL, Probe, VALIDITY, monotonic_ns};
use super::pins::{self, Pins};
use super::plan::{DoorPlace, Mode, Plan};
use super::programs::{Programs, endpoint};
use super::report::{Counted, Learned, Report};
use super::routing::{self, ROUTE_MARK};
use super::{attach, preflight, seed, server};
use entrepot_config::ready::Config;
use entrepot_net::admin_socket::AdminSocket;
use entrepot_net::service_manager::{self, watchdog};
use entrepot_upstream::dial::OWN_MARK;

/// Where the programs are, and what has to be taken away besides their links.
struct Attached {
    places: Vec<String>,
    /// Interfaces that got a queueing discipline for it.
    disciplined: Vec<String>,
}

/// More than taking everything away ever took.
const TAKING_DOWN: Duration = Duration::from_secs(10);

/// A running agent.
struct Agent {
    plan: Plan,
    programs: Arc<Mutex<Programs>>,
    attached: Attached,
    doors: Mutex<Doors>,
    since: SystemTime,
}

/// Runs the agent until a signal ends it; says on stderr how it goes.
pub fn run(mode: Mode, config: &Config) -> Result<(), RedirectError> {
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
        let agent = Agent::start(plan).await?;
        let outcome = agent.clone().live(socket, listener).await;
        agent.take_down().await.and(outcome)
    });
    // A lookup that hangs in the resolver must not hold the end up.
    runtime.shutdown_background();
    outcome
}

async fn listen(address: SocketAddr) -> Result<TcpListener, RedirectError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|source| RedirectError::System { what: "listening address (redirect.listen)", source })
}

impl Agent {
    /// Everything is in place when this returns, and nothing is redirected before a door has answered.
    async fn start(plan: Plan) -> Result<Arc<Self>, RedirectError> {
        let mut programs = Programs::load()?;
        programs.set_settings(&settings(&plan, Doors::default()))?;
        for (hash, flags) in &plan.names {
            programs.add_name(*hash, *flags)?;
        }
        for prefix in &plan.prefixes {
            programs.add_prefix(*prefix)?;
        }
        let pins = if plan.enforce { Some(Pins::new()?) } else { None };
        let attached = match plan.mode {
            Mode::Host => attach_host(&mut programs, &plan, pins.as_ref())?,
            Mode::Gateway => attach_gateway(&mut programs, &plan, pins.as_ref()).await?,
        };
        if let Some(pins) = pins {
            pins.replace_others()?;
        }
        let programs = Arc::new(Mutex::new(programs));
        Ok(Arc::new(Self { plan, programs, attached, doors: Mutex::default(), since: SystemTime::now() }))
    }

    async fn live(self: Arc<Self>, socket: AdminSocket, listener: Option<TcpListener>) -> Result<(), RedirectError> {
        let signals = |kind| signal(kind).map_err(|source| RedirectError::System { what: "signals", source });
        let (mut terminate, mut interrupt) = (signals(SignalKind::terminate())?, signals(SignalKind::interrupt())?);
        let reporter: server::Reporter = {
            let agent = self.clone();
            Arc::new(move || agent.report())
        };
        tracing::info!(
            mode = self.plan.mode.word(),
            attached = self.attached.places.join(", "),
            "redirect programs are attached"
        );
        service_manager::ready(format!("attached to {}", self.attached.places.join(", "))).await;
        // One thread does everything: that it runs this is its answer.
        tokio::spawn(watchdog::watch(|| std::future::ready(true)));
        let serving = server::serve_unix(socket, reporter.clone());
        if let Some(listener) = listener {
            tokio::spawn(server::serve_tcp(listener, reporter));
        }
        tokio::spawn(seed::run(self.programs.clone(), self.plan.seeds.clone(), self.plan.seed_interval));
        let outcome = tokio::select! {
            outcome = self.watch() => outcome,
            () = serving => Ok(()),
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
        };
        service_manager::stopping("taking the programs away", TAKING_DOWN).await;
        outcome
    }

    /// Asks the door again and again, and tells the programs.
    async fn watch(&self) -> Result<(), RedirectError> {
        let mut probe = Probe::new(self.plan.door.clone());
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let doors = probe.ask().await;
            let before = std::mem::replace(&mut *lock(&self.doors), doors);
            self.tell_programs(before, doors)?;
            let news = match (before.any(), doors.any()) {
                (false, true) => "the door answers: connections to registries are redirected",
                (true, false) => "the door does not answer: connections go where they meant to",
                _ => continue,
            };
            match doors.any() {
                true => tracing::info!("{news}"),
                false => tracing::warn!("{news}"),
            }
            service_manager::status(news).await;
        }
    }

    fn tell_programs(&self, before: Doors, doors: Doors) -> Result<(), RedirectError> {
        let mut programs = lock(&self.programs);
        if doors != before {
            // Nothing is led anywhere while the place changes.
            programs.set_healthy_until(0)?;
            if doors.any() {
                programs.set_settings(&settings(&self.plan, doors))?;
            }
        }
        if doors.any() {
            programs.set_healthy_until(monotonic_ns() + nanoseconds(VALIDITY))?;
        }
        Ok(())
    }

    /// Links go with the programs; what the gateway put beside them does not.
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
        let doors = *lock(&self.doors);
        let learned = |(address, until_ns): (_, u64)| Learned {
            address,
            expires_in_seconds: until_ns.saturating_sub(now_ns) / nanoseconds(Duration::from_secs(1)),
        };
        let counted = |(outcome, count): (Outcome, u64)| Counted { outcome: outcome.word().to_owned(), count };
        let mut addresses: Vec<Learned> = programs.addresses().into_iter().map(learned).collect();
        addresses.sort_unstable_by_key(|learned| learned.address);
        Report {
            mode: self.plan.mode.word().to_owned(),
            since_unix_seconds: self.since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            attached: self.attached.places.clone(),
            door: match &self.plan.door {
                DoorPlace::Local(_) => "this machine".to_owned(),
                DoorPlace::Appliance(appliance) => appliance.to_string(),
            },
            answering: doors.v4.into_iter().chain(doors.v6).collect(),
            healthy: doors.any(),
            enforce: self.plan.enforce,
            ports: self.plan.ports.clone(),
            addresses,
            counters: programs
                .counters()
                .into_iter()
                .filter(|(outcome, _)| *outcome != Outcome::OtherPort)
                .map(counted)
                .collect(),
        }
    }
}

/// Removes what agents of this network namespace have left: pinned links, rules and routes, filters.
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
            switch it on: sysctl -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1"
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

fn settings(plan: &Plan, doors: Doors) -> Settings {
    let mut ports = [0; PORTS_MAX];
    ports.iter_mut().zip(&plan.ports).for_each(|(slot, port)| *slot = *port);
    Settings {
        // Zero stands for the machine's first namespace, where the kernel cannot say which one it is.
        netns_cookie: network_namespace_cookie().unwrap_or(0),
        door_v4: endpoint(doors.v4),
        door_v6: endpoint(doors.v6),
        own_mark: OWN_MARK,
        route_mark: ROUTE_MARK,
        ports,
        is_local: u32::from(matches!(plan.door, DoorPlace::Local(_)) && plan.mode == Mode::Host),
        enforce: u32::from(plan.enforce),
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
