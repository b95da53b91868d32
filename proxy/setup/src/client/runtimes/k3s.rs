//! k3s as a client of mirrors: `registries.yaml`, which is one file without drop-ins.

use super::super::plan::{Mirror, Plan, PlanError};
use super::texts;

const FILE: &str = "/etc/rancher/k3s/registries.yaml";

/// Every registry, by way of the mirror. A file that is there already is somebody's: the executor refuses to replace it.
pub(super) fn mirror(mirror: &Mirror, plan: &mut Plan) -> Result<(), PlanError> {
    plan.write(FILE, texts::registries_yaml(mirror));
    Ok(())
}
