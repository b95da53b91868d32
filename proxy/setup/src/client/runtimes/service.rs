//! Runtimes that are systemd services: a drop-in sets the proxy in their environment, and they are restarted.

use crate::client::Runtime;
use crate::client::host::{Host, UNIT_FOLDERS};
use crate::client::plan::{Plan, PlanError};
use crate::client::target::Target;
use crate::client::texts;

/// The service of a runtime on this machine.
pub(super) struct Service {
    unit: &'static str,
    /// The names HTTPS_PROXY and NO_PROXY begin with this.
    prefix: &'static str,
    /// Files with variables that distributions make the unit read.
    environment_files: &'static [&'static str],
}

/// Units by preference, prefix, environment files; None if the runtime has no service.
fn known(runtime: Runtime) -> Option<(&'static [&'static str], &'static str, &'static [&'static str])> {
    Some(match runtime {
        Runtime::Docker => (&["docker.service"], "", &["/etc/default/docker", "/etc/sysconfig/docker"]),
        Runtime::Containerd => (&["containerd.service"], "", &["/etc/default/containerd"]),
        Runtime::Crio => (&["crio.service", "cri-o.service"], "", &["/etc/default/crio", "/etc/sysconfig/crio"]),
        // The prefix limits the proxy to the containerd inside: k3s itself talks to the cluster.
        Runtime::K3s => (
            &["k3s.service", "k3s-agent.service"],
            "CONTAINERD_",
            &["/etc/systemd/system/k3s.service.env", "/etc/systemd/system/k3s-agent.service.env"],
        ),
        Runtime::Buildkit => (&["buildkit.service", "buildkitd.service"], "", &[]),
        Runtime::Podman | Runtime::Kind => return None,
    })
}

/// The runtime's service; None if the runtime has none (Podman). An error if the runtime is not installed.
pub(super) fn of(runtime: Runtime, host: &Host) -> Result<Option<Service>, PlanError> {
    let Some((units, prefix, environment_files)) = known(runtime) else {
        let missing = || PlanError::NotInstalled { runtime, missing: "/etc/containers".to_owned() };
        return if host.exists("/etc/containers") { Ok(None) } else { Err(missing()) };
    };
    let missing = || PlanError::NotInstalled { runtime, missing: units.join(" or ") };
    let unit = host.unit(units).ok_or_else(missing)?;
    Ok(Some(Service { unit, prefix, environment_files }))
}

impl Service {
    /// Adds the drop-in; an error if the unit has another proxy already.
    pub(super) fn proxy(&self, host: &Host, target: &Target, plan: &mut Plan) -> Result<(), PlanError> {
        let own = format!("/etc/systemd/system/{}.d/entrepot.conf", self.unit);
        if let Some(path) = self.foreign_proxy(host, &own)? {
            return Err(PlanError::Foreign {
                path,
                what: format!("gives {} a proxy already", self.unit),
                hint: "remove that first to use this appliance".to_owned(),
            });
        }
        plan.write(own, texts::drop_in(self.prefix, target));
        Ok(())
    }

    /// Restarts the service if it runs, so that it reads its environment and the trust store again. systemd reloads its
    /// units in every mode, because the drop-in of another mode may have been removed.
    pub(super) fn restart(&self, host: &Host, plan: &mut Plan) {
        if !host.runs_systemd() {
            plan.notes.push(format!("systemd does not run here: restart {} yourself", self.unit));
            return;
        }
        plan.run_both_ways(&["systemctl", "daemon-reload"]);
        plan.run_both_ways(&["systemctl", "try-restart", self.unit]);
    }

    fn foreign_proxy(&self, host: &Host, own: &str) -> Result<Option<String>, PlanError> {
        let variable = format!("{}https_proxy=", self.prefix.to_ascii_lowercase());
        let mut files: Vec<String> = self.environment_files.iter().map(|path| (*path).to_owned()).collect();
        for folder in UNIT_FOLDERS {
            files.push(format!("{folder}/{}", self.unit));
            files.extend(host.files(&format!("{folder}/{}.d", self.unit), ".conf"));
        }
        for path in files.into_iter().filter(|path| path != own) {
            let text = host.text(&path)?.unwrap_or_default().to_ascii_lowercase();
            let mut lines = text.lines().map(str::trim_start).filter(|line| !line.starts_with(['#', ';']));
            if lines.any(|line| sets(line, &variable)) {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }
}

/// Whether the line sets this variable, and not another one whose name has the same ending.
fn sets(line: &str, variable: &str) -> bool {
    line.match_indices(variable)
        .any(|(at, _)| !line[..at].ends_with(|before: char| before.is_ascii_alphanumeric() || before == '_'))
}
