//! containerd with a mirror: `certs.d/_default/hosts.toml`, and the setting that makes containerd read it.

use super::additions;
use crate::client::host::Host;
use crate::client::plan::{Plan, PlanError};
use crate::client::target::Mirror;
use crate::client::texts::{self, CONTAINERD_CERTS as CERTS};

const CONFIG: &str = "/etc/containerd/config.toml";

/// Sends pulls from every registry to the mirror. containerd asks the registry itself if the mirror does not answer.
pub(super) fn mirror(host: &Host, mirror: &Mirror, with_referrers: bool, plan: &mut Plan) -> Result<(), PlanError> {
    let folder = match host.text(CONFIG)? {
        None => {
            plan.write(CONFIG, texts::config_toml());
            CERTS.to_owned()
        }
        Some(text) => hosts_folder(&text, plan)?,
    };
    plan.write(format!("{folder}/_default/hosts.toml"), texts::hosts_toml(mirror, with_referrers));
    for name in named_hosts(host, &folder) {
        plan.notes.push(format!("{folder}/{name}/hosts.toml exists and stays in force for {name}"));
    }
    Ok(())
}

/// The plugin that pulls for Kubernetes, for each version of the configuration's format.
const PLUGINS: [(i64, &str); 3] = [(1, "cri"), (2, "io.containerd.grpc.v1.cri"), (3, "io.containerd.cri.v1.images")];

/// The folder in which containerd looks for `hosts.toml`. A configuration that names none gets the usual one.
fn hosts_folder(text: &str, plan: &mut Plan) -> Result<String, PlanError> {
    let foreign = |what: &str| PlanError::Foreign {
        path: CONFIG.to_owned(),
        what: what.to_owned(),
        hint: format!("set config_path = {CERTS:?} for the registries there yourself, or use --mode proxy"),
    };
    let config: toml::Table = toml::from_str(text).map_err(|_| foreign("is not TOML"))?;
    let version = config.get("version").and_then(toml::Value::as_integer).unwrap_or(1);
    let format = PLUGINS.iter().find(|(known, _)| *known == version);
    let format = format.ok_or_else(|| foreign("has a version of its format that is not known"))?;
    let registry = config.get("plugins").and_then(|plugins| plugins.get(format.1)?.get("registry"));
    if registry.and_then(|registry| registry.get("mirrors")).is_some() {
        return Err(foreign("names mirrors already"));
    }
    match registry.and_then(|registry| registry.get("config_path")).and_then(toml::Value::as_str) {
        // Several folders are separated by colons; the first one is searched first.
        Some(paths) if !paths.is_empty() => Ok(paths.split(':').next().unwrap_or(CERTS).to_owned()),
        _ => {
            let whole = additions::toml(text, &texts::registry_table(format.1))
                .ok_or_else(|| foreign("has registries without config_path"))?;
            plan.extend(CONFIG, whole);
            Ok(CERTS.to_owned())
        }
    }
}

fn named_hosts(host: &Host, folder: &str) -> Vec<String> {
    let names = host.files(folder, "");
    let names = names.iter().filter_map(|path| path.rsplit('/').next());
    let own = |name: &&str| *name != "_default" && host.exists(&format!("{folder}/{name}/hosts.toml"));
    names.filter(own).map(str::to_owned).collect()
}
