//! The set-up of each runtime: pure functions from the machine's files and the appliance to a [`Plan`]. The texts of
//! the files are in `texts`.

mod additions;
mod buildkit;
mod containerd;
mod docker;
mod k3s;
mod kind;
mod podman;
mod registries_conf;
mod service;
#[cfg(test)]
mod tests;

use super::containerd_version::ContainerdVersion;
use super::host::Host;
use super::plan::{Plan, PlanError};
use super::target::Target;
use super::texts::mirrored;
use super::{Mode, Runtime, trust};
use service::Service;

/// The facts about a machine that are not in its files.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The names of the containers of this machine's Kind clusters.
    pub kind_nodes: Vec<String>,
    /// None if there is no containerd, or if its version is not understood.
    pub containerd: Option<ContainerdVersion>,
}

/// The plan, or the reason why there is none.
pub fn plan(runtime: Runtime, mode: Mode, host: &Host, target: &Target, found: &Found) -> Result<Plan, PlanError> {
    if runtime == Runtime::Kind {
        return kind::plan(mode, target, &found.kind_nodes);
    }
    let mut plan = Plan::default();
    let service = service::of(runtime, host)?;
    trust::trust(host, &target.ca_pem, &mut plan)?;
    match mode {
        Mode::Proxy => proxy(runtime, service.as_ref(), host, target, &mut plan)?,
        Mode::Mirror => mirror(runtime, host, target, found, &mut plan)?,
        Mode::Redirect => plan.notes.push(
            "this machine trusts the appliance now; its connections reach the appliance if that is its gateway, or if \
             `entrepot redirect host` runs here"
                .to_owned(),
        ),
    }
    if let Some(service) = &service {
        service.restart(host, &mut plan);
    }
    Ok(plan)
}

fn proxy(
    runtime: Runtime,
    service: Option<&Service>,
    host: &Host,
    target: &Target,
    plan: &mut Plan,
) -> Result<(), PlanError> {
    if runtime == Runtime::Docker {
        docker::refuse_proxies(host)?;
    }
    match service {
        Some(service) => service.proxy(host, target, plan),
        None => podman::proxy(host, target, plan),
    }
}

fn mirror(runtime: Runtime, host: &Host, target: &Target, found: &Found, plan: &mut Plan) -> Result<(), PlanError> {
    let mirror = target.mirror_for(runtime)?;
    match runtime {
        Runtime::Docker => docker::mirror(host, &mirror, plan),
        Runtime::Containerd => {
            let with_referrers = found.containerd.is_some_and(ContainerdVersion::knows_referrers);
            containerd::mirror(host, &mirror, with_referrers, plan)
        }
        Runtime::Podman | Runtime::Crio => registries_conf::mirror(host, &mirror, &registries(target), plan),
        Runtime::K3s => k3s::mirror(&mirror, plan),
        Runtime::Buildkit => buildkit::mirror(host, &mirror, &registries(target), plan),
        Runtime::Kind => Ok(()),
    }
}

/// The registries for files that name them: the well-known ones, then the appliance's. Each is named once, because
/// TOML refuses a table that stands twice.
fn registries(target: &Target) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for name in mirrored().map(str::to_owned).chain(target.registries.iter().cloned()) {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    all
}
