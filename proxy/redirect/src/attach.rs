//! Attaches the programs: to control groups on a host, to interfaces on a gateway.
//!
//! A link that is not pinned ends with this process. Kernels before 6.6 have no links for interfaces: there the program
//! is a filter of the `clsact` queueing discipline, and the agent removes both at the end.

use std::fs::File;
use std::path::{Path, PathBuf};

use aya::programs::links::FdLink;
use aya::programs::tc::{self, TcError};
use aya::programs::{
    CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSockAddr, CgroupSockopt, ProgramError, SchedClassifier,
    SockOps, TcAttachType,
};

use super::RedirectError;
use super::pins::Pins;
use super::preflight;
use super::programs::{Programs, chain, open_cgroup};

/// The programs on `connect` and `getpeername`.
const SOCK_ADDR: [&str; 4] = ["connect4", "connect6", "getpeername4", "getpeername6"];
/// The observers of DNS on a host, with the direction of the packets.
const OBSERVERS: [(&str, CgroupSkbAttachType); 2] =
    [("ask_host", CgroupSkbAttachType::Egress), ("observe_host", CgroupSkbAttachType::Ingress)];
/// The programs of a gateway, with the direction of the packets.
pub(super) const CLASSIFIERS: [(&str, TcAttachType); 3] = [
    ("ask_gateway", TcAttachType::Ingress),
    ("gateway_in", TcAttachType::Ingress),
    ("observe_gateway", TcAttachType::Egress),
];
/// Several links on one control group are always allowed; the flag is for an older way to attach.
const MODE: CgroupAttachMode = CgroupAttachMode::Single;

impl Programs {
    /// Attaches the redirecting programs to the control groups in `scopes`. The programs that have to see every process
    /// are attached to `root`: a resolver may run in any group and receive the answers of DNS, and so may the door.
    pub(super) fn attach_host(
        &mut self,
        root: &Path,
        scopes: &[PathBuf],
        pins: Option<&Pins>,
    ) -> Result<(), RedirectError> {
        let whole = open_cgroup(root, root)?;
        self.observe(&whole, root, pins)?;
        let note: &mut SockOps = self.program("note_client")?;
        note.load().map_err(|error| refused("note_client", &error))?;
        for name in SOCK_ADDR {
            let program: &mut CgroupSockAddr = self.program(name)?;
            program.load().map_err(|error| refused(name, &error))?;
        }
        for (number, scope) in scopes.iter().enumerate() {
            let cgroup = open_cgroup(scope, root)?;
            let failed = |name, error: &ProgramError| not_attached(name, scope.display(), error);
            let note: &mut SockOps = self.program("note_client")?;
            let link = note.attach(&cgroup, MODE).map_err(|error| failed("note_client", &error))?;
            if let Some(pins) = pins {
                let link = note.take_link(link).map_err(|error| failed("note_client", &error))?;
                pins.keep(FdLink::try_from(link), "note_client", number)?;
            }
            for name in SOCK_ADDR {
                let program: &mut CgroupSockAddr = self.program(name)?;
                let link = program.attach(&cgroup, MODE).map_err(|error| failed(name, &error))?;
                if let Some(pins) = pins {
                    let link = program.take_link(link).map_err(|error| failed(name, &error))?;
                    pins.keep(FdLink::try_from(link), name, number)?;
                }
            }
        }
        Ok(())
    }

    /// Attaches the observers of DNS, and the program that answers SO_ORIGINAL_DST. The latter is never pinned: without
    /// an agent, the door has only the names in connections.
    fn observe(&mut self, whole: &File, root: &Path, pins: Option<&Pins>) -> Result<(), RedirectError> {
        let failed = |name, error: &ProgramError| not_attached(name, root.display(), error);
        for (name, direction) in OBSERVERS {
            let observer: &mut CgroupSkb = self.program(name)?;
            observer.load().map_err(|error| refused(name, &error))?;
            let link = observer.attach(whole, direction, MODE);
            let link = link.map_err(|error| failed(name, &error))?;
            if let Some(pins) = pins {
                let link = observer.take_link(link).map_err(|error| failed(name, &error))?;
                pins.keep(FdLink::try_from(link), name, 0)?;
            }
        }
        let answer: &mut CgroupSockopt = self.program("answer_original")?;
        answer.load().map_err(|error| refused("answer_original", &error))?;
        answer.attach(whole, MODE).map(drop).map_err(|error| failed("answer_original", &error))
    }

    /// Attaches to the interfaces towards the clients. Returns those to which a queueing discipline was added.
    pub(super) fn attach_gateway(
        &mut self,
        interfaces: &[String],
        pins: Option<&Pins>,
    ) -> Result<Vec<String>, RedirectError> {
        let has_links = preflight::kernel_has_links_for_interfaces();
        let mut disciplined = Vec::new();
        for (name, _) in CLASSIFIERS {
            let program: &mut SchedClassifier = self.program(name)?;
            program.load().map_err(|error| refused(name, &error))?;
        }
        for interface in interfaces {
            if !has_links && add_discipline(interface)? {
                disciplined.push(interface.clone());
            }
            for (name, direction) in CLASSIFIERS {
                let failed = |error: &ProgramError| not_attached(name, interface, error);
                let program: &mut SchedClassifier = self.program(name)?;
                let link = program.attach(interface, direction).map_err(|error| failed(&error))?;
                match pins {
                    Some(pins) if has_links => {
                        let link = program.take_link(link).map_err(|error| failed(&error))?;
                        pins.keep_named(FdLink::try_from(link), &format!("{name}-{interface}"))?;
                    }
                    // A filter stays after this process unless somebody removes it.
                    Some(_) => std::mem::forget(program.take_link(link).map_err(|error| failed(&error))?),
                    None => {}
                }
            }
        }
        Ok(disciplined)
    }
}

impl Programs {
    /// Attaches the observer of answers to proofs, and loads their entrance. An error means that this machine can make no
    /// proofs.
    pub(super) fn attach_proofs(&mut self) -> Result<(), RedirectError> {
        let root = preflight::cgroup_root()?;
        let observer: &mut CgroupSkb = self.program("prove_gateway")?;
        observer.load().map_err(|error| refused("prove_gateway", &error))?;
        let attached = observer.attach(open_cgroup(&root, &root)?, CgroupSkbAttachType::Egress, MODE);
        attached.map_err(|error| not_attached("prove_gateway", root.display(), &error))?;
        self.load_entrance()
    }

    /// Detaches the gateway's programs from their interfaces.
    pub(super) fn detach_gateway(&mut self) {
        for (name, _) in CLASSIFIERS {
            if let Ok(program) = self.program::<SchedClassifier>(name)
                && let Err(error) = program.unload()
            {
                tracing::warn!("the program {name} stays until this process ends: {error}");
            }
        }
    }
}

/// Removes the filters that an earlier agent left. There are none if the kernel has links for interfaces.
pub(super) fn remove_filters(interfaces: &[String]) {
    for (interface, (name, direction)) in interfaces.iter().flat_map(|interface| CLASSIFIERS.map(|it| (interface, it)))
    {
        if tc::qdisc_detach_program(interface, direction, name).is_ok() {
            tracing::info!(interface, "removed the filter {name}");
        }
    }
}

/// Returns false if the interface had the discipline already.
fn add_discipline(interface: &str) -> Result<bool, RedirectError> {
    match tc::qdisc_add_clsact(interface) {
        Ok(()) => Ok(true),
        Err(TcError::AlreadyAttached) => Ok(false),
        Err(error) => Err(RedirectError::Attach {
            program: "clsact queueing discipline",
            place: interface.to_owned(),
            reason: chain(&error),
        }),
    }
}

fn refused(program: &'static str, error: &ProgramError) -> RedirectError {
    RedirectError::Load { program, reason: chain(error) }
}

fn not_attached(program: &'static str, place: impl std::fmt::Display, error: &ProgramError) -> RedirectError {
    RedirectError::Attach { program, place: place.to_string(), reason: chain(error) }
}
