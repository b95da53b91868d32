//! Whether connections that are redirected arrive: the door answers, has the rights that it needs, a gateway's proofs
//! come back, and its clients get answers. Else the reason, with its likely cause.

use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use entrepot_core::door_rights::DoorRights;
use entrepot_ebpf_common::outcome::Outcome;
use entrepot_ebpf_common::proof::Proofs;
use tokio::time::Instant;

use super::RedirectError;
use super::causes;
use super::health::{Doors, monotonic_ns};
use super::plan::{DoorPlace, Mode, Plan};
use super::programs::{Programs, lock};
use super::proof::{Proven, Prover};
use super::traffic::Traffic;

/// The reason why connections are not redirected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Pause {
    NoDoor,
    /// The door does not accept connections to addresses of other machines.
    NotTransparent,
    /// The server on this machine would be redirected to itself.
    CannotMark,
    /// A gateway's proof did not come back.
    Lost {
        interface: String,
        family: &'static str,
        cause: String,
    },
    /// No client of a gateway answers the door.
    ClientsLost {
        cause: String,
    },
}

/// Judges whether connections arrive.
pub(super) struct Arrival {
    mode: Mode,
    is_local: bool,
    /// Whether the administrator says which processes are the server's.
    has_exemptions: bool,
    interfaces: Vec<String>,
    /// None on a host, and where no proofs can be made.
    prover: Option<Prover>,
    /// The reason why not every interface has proofs.
    unproved: Option<String>,
    traffic: Traffic,
    last: Option<Pause>,
    /// The time of the last look for a cause.
    looked: Option<Instant>,
}

/// The interval at which the cause is looked for again, since one may go and another come.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

impl fmt::Display for Pause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDoor => formatter.write_str("the door does not answer"),
            Self::NotTransparent => formatter.write_str(
                "the door may not accept connections to other addresses: give its process CAP_NET_ADMIN (a unit of systemd: \
                 AmbientCapabilities=CAP_NET_ADMIN) and restart it",
            ),
            Self::CannotMark => formatter.write_str(
                "the server on this machine cannot mark its own connections, so they would be redirected to itself: give \
                 its process CAP_NET_ADMIN and restart it, or name its control group (--exempt-cgroup)",
            ),
            Self::Lost { interface, family, cause } => {
                write!(formatter, "{family} packets of {interface} do not arrive at the door: {cause}")
            }
            Self::ClientsLost { cause } => write!(formatter, "no client gets an answer of the door: {cause}"),
        }
    }
}

impl Arrival {
    /// Prepares the proofs of a gateway, and names the known causes that are there at the start.
    pub(super) fn new(plan: &Plan, programs: &mut Programs) -> Self {
        let is_gateway = plan.mode == Mode::Gateway;
        let mut arrival = Self {
            mode: plan.mode,
            is_local: matches!(plan.door, DoorPlace::Local(_)),
            has_exemptions: !plan.exempt_cgroups.is_empty(),
            interfaces: plan.interfaces.clone(),
            prover: None,
            unproved: None,
            traffic: Traffic::new(0, 0),
            last: None,
            looked: None,
        };
        if let (true, Some(port)) = (is_gateway, plan.ports.first()) {
            match programs.attach_proofs() {
                Ok(()) => arrival.prover = Some(Prover::new(&plan.interfaces, *port)),
                Err(error) => arrival.without_proofs(error.to_string()),
            }
            let causes = plan.interfaces.iter().flat_map(|interface| causes::by_settings(interface));
            causes.for_each(|cause| tracing::warn!("{cause}"));
        }
        arrival
    }

    /// The next proofs, as the programs have to know them.
    pub(super) fn proofs(&mut self, programs: &Programs) -> Proofs {
        let Some(prover) = &mut self.prover else { return Proofs::NONE };
        let now_ns = monotonic_ns();
        let known = programs.addresses().into_iter().filter(|(_, until_ns)| *until_ns > now_ns);
        prover.choose(&known.map(|(address, _)| address).collect::<Vec<_>>());
        prover.settings()
    }

    /// The reason why not every interface has proofs. None if all have, or none are needed.
    pub(super) fn unproved(&self) -> Option<&str> {
        self.unproved.as_deref()
    }

    /// The reason to redirect nothing now. None if connections arrive.
    pub(super) async fn judge(
        &mut self,
        programs: &Mutex<Programs>,
        doors: Doors,
        rights: DoorRights,
    ) -> Result<Option<Pause>, RedirectError> {
        let pause = match self.mode {
            _ if !doors.any() => Some(Pause::NoDoor),
            Mode::Host => (self.is_local && !rights.can_mark && !self.has_exemptions).then_some(Pause::CannotMark),
            Mode::Gateway if !rights.is_transparent => Some(Pause::NotTransparent),
            Mode::Gateway => self.lost(programs, doors).await?,
        };
        self.last.clone_from(&pause);
        Ok(pause)
    }

    async fn lost(&mut self, programs: &Mutex<Programs>, doors: Doors) -> Result<Option<Pause>, RedirectError> {
        let (redirected, arrived) = {
            let programs = lock(programs);
            (programs.count(Outcome::Redirected), programs.count(Outcome::Arrived))
        };
        if let Some(prover) = &self.prover {
            match prover.prove(programs, doors).await {
                Ok(Proven::Arrives { untried, .. }) if !untried.is_empty() => {
                    self.without_proofs(format!("no proof can be made for {}", untried.join(", ")));
                }
                Ok(Proven::Arrives { is_any, .. }) => {
                    if is_any {
                        self.unproved = None;
                    }
                }
                Ok(Proven::Lost { interface, family }) => {
                    // Clients that were led there meanwhile are lost for the same reason.
                    self.traffic = Traffic::new(redirected, arrived);
                    let known = match &self.last {
                        Some(Pause::Lost { interface: known, cause, .. }) if *known == interface => Some(cause.clone()),
                        _ => None,
                    };
                    let cause = self.likely_cause(programs, known, &interface).await?;
                    return Ok(Some(Pause::Lost { interface, family, cause }));
                }
                // An older kernel, or one that is out of memory. Clients' own connections are counted all the same.
                Err(RedirectError::Proof { reason }) => {
                    self.without_proofs(RedirectError::Proof { reason }.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        if !self.traffic.is_lost(redirected, arrived, Instant::now()) {
            return Ok(None);
        }
        let known = match &self.last {
            Some(Pause::ClientsLost { cause }) => Some(cause.clone()),
            _ => None,
        };
        let interface = self.interfaces.first().cloned().unwrap_or_default();
        let cause = self.likely_cause(programs, known, &interface).await?;
        Ok(Some(Pause::ClientsLost { cause }))
    }

    /// The cause that is known, for a while. Else nothing is redirected from now on, and then one is looked for.
    async fn likely_cause(
        &mut self,
        programs: &Mutex<Programs>,
        known: Option<String>,
        interface: &str,
    ) -> Result<String, RedirectError> {
        if let (Some(cause), Some(looked)) = (known, self.looked)
            && looked.elapsed() < LOOK_AGAIN
        {
            return Ok(cause);
        }
        lock(programs).set_healthy_until(0)?;
        let cause = causes::likely(interface).await;
        self.looked = Some(Instant::now());
        Ok(cause)
    }

    fn without_proofs(&mut self, why: String) {
        let reason = format!("{why}; whether packets arrive there is judged by clients' connections alone");
        if self.unproved.as_ref() != Some(&reason) {
            tracing::warn!("{reason}");
            self.unproved = Some(reason);
        }
    }
}
