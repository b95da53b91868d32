//! Podman, which has no daemon: the proxy is set in a drop-in of `containers.conf`.

use crate::client::host::Host;
use crate::client::plan::{Plan, PlanError};
use crate::client::target::Target;
use crate::client::texts;

const OWN: &str = "/etc/containers/containers.conf.d/50-entrepot.conf";

/// Adds the proxy to the engine's environment. That list is a single setting, which a drop-in would replace. So the
/// plan fails if the machine has set it already.
pub(super) fn proxy(host: &Host, target: &Target, plan: &mut Plan) -> Result<(), PlanError> {
    let files = ["/etc/containers/containers.conf".to_owned()];
    let files = files.into_iter().chain(host.files("/etc/containers/containers.conf.d", ".conf"));
    for path in files.filter(|path| path != OWN) {
        let Some(text) = host.text(&path)? else { continue };
        let foreign = |what: &str| PlanError::Foreign {
            path: path.clone(),
            what: what.to_owned(),
            hint: format!("add \"HTTPS_PROXY={}\" to env in its [engine] yourself", target.proxy_url()),
        };
        let config: toml::Table = toml::from_str(&text).map_err(|_| foreign("is not TOML"))?;
        if config.get("engine").and_then(|engine| engine.get("env")).is_some() {
            return Err(foreign("sets the engine's env already"));
        }
    }
    plan.write(OWN, texts::containers_conf(target));
    plan.notes.push("skopeo and buildah read HTTPS_PROXY from their own environment only".to_owned());
    Ok(())
}
