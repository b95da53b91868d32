//! buildkitd with mirrors: tables at the end of `buildkitd.toml`.

use super::additions;
use crate::client::host::Host;
use crate::client::plan::{Plan, PlanError};
use crate::client::target::Mirror;
use crate::client::texts;

const FILE: &str = "/etc/buildkit/buildkitd.toml";

/// Sends pulls from each of these registries to the mirror.
pub(super) fn mirror(host: &Host, mirror: &Mirror, registries: &[String], plan: &mut Plan) -> Result<(), PlanError> {
    let tables = texts::buildkitd_tables(mirror, registries);
    match host.text(FILE)? {
        None => plan.write(FILE, tables),
        Some(text) => {
            let whole = additions::toml(&text, &tables).ok_or_else(|| PlanError::Foreign {
                path: FILE.to_owned(),
                what: "has settings for these registries already, or is not TOML".to_owned(),
                hint: format!("add \"{}/REGISTRY\" to their mirrors yourself, or use --mode proxy", mirror.authority),
            })?;
            plan.extend(FILE, whole);
        }
    }
    Ok(())
}
