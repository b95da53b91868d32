//! k3s with a mirror: `registries.yaml`, one file without drop-ins.

use crate::client::plan::{Plan, PlanError};
use crate::client::target::Mirror;
use crate::client::texts;

const FILE: &str = "/etc/rancher/k3s/registries.yaml";

/// Sends pulls from every registry to the mirror. If the file exists, `execute` refuses to replace it.
pub(super) fn mirror(mirror: &Mirror, plan: &mut Plan) -> Result<(), PlanError> {
    plan.write(FILE, texts::registries_yaml(mirror));
    Ok(())
}
