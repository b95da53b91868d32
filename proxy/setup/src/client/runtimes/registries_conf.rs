//! Podman and CRI-O with a mirror: a drop-in of `registries.conf` that names each registry.

use crate::client::host::Host;
use crate::client::plan::{Plan, PlanError};
use crate::client::target::Mirror;
use crate::client::texts;

const OWN: &str = "/etc/containers/registries.conf.d/50-entrepot.conf";

/// Sends pulls from each of these registries to the mirror. The registry itself is asked if the mirror does not answer.
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

/// Whether the file has settings for a registry. A file that is not TOML has none; Podman itself complains about it.
fn names(text: &str, registry: &str) -> bool {
    let Ok(config) = toml::from_str::<toml::Table>(text) else { return false };
    let entries = config.get("registry").and_then(toml::Value::as_array).into_iter().flatten();
    entries.into_iter().any(|entry| {
        ["prefix", "location"].iter().any(|key| entry.get(key).and_then(toml::Value::as_str) == Some(registry))
    })
}
