//! buildkitd as a client of mirrors: tables at the end of `buildkitd.toml`.

use super::super::host::Host;
use super::super::plan::{Mirror, Plan, PlanError};
use super::additions;
use super::texts;

const FILE: &str = "/etc/buildkit/buildkitd.toml";

/// Each registry by way of the mirror.
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
