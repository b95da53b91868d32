//! Podman and CRI-O as clients of mirrors: a drop-in of `registries.conf` that names each registry.

use super::super::host::Host;
use super::super::plan::{Mirror, Plan, PlanError};
use super::texts;

const OWN: &str = "/etc/containers/registries.conf.d/50-entrepot.conf";

/// Each registry by way of the mirror; the registry itself where the mirror is gone.
pub(super) fn mirror(host: &Host, mirror: &Mirror, registries: &[String], plan: &mut Plan) -> Result<(), PlanError> {
    let files = ["/etc/containers/registries.conf".to_owned()];
    let files = files.into_iter().chain(host.files("/etc/containers/registries.conf.d", ".conf"));
    for path in files.filter(|path| path != OWN) {
        let text = host.text(&path)?.unwrap_or_default();
        if let Some(name) = registries.iter().find(|name| names(&text, name)) {
            return Err(PlanError::Foreign {
                what: format!("has settings for {name} already"),
                hint: format!("add location = \"{}/{name}\" as its [[registry.mirror]] yourself", mirror.authority),
                path,
            });
        }
    }
    plan.write(OWN, texts::registries_conf(mirror, registries));
    Ok(())
}

/// Whether the file says something about a registry. One that is not TOML is podman's to complain about.
fn names(text: &str, registry: &str) -> bool {
    let Ok(config) = toml::from_str::<toml::Table>(text) else { return false };
    let entries = config.get("registry").and_then(toml::Value::as_array).into_iter().flatten();
    entries.into_iter().any(|entry| {
        ["prefix", "location"].iter().any(|key| entry.get(key).and_then(toml::Value::as_str) == Some(registry))
    })
}
