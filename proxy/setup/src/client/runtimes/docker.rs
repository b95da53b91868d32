//! Docker Engine's `daemon.json`, which has no drop-ins: the mirror is one more member of its object.

use serde_json::{Map, Value, json};

use super::additions;
use crate::client::host::Host;
use crate::client::plan::{Plan, PlanError};
use crate::client::target::Mirror;
use crate::client::texts::{self, DOCKER_MIRRORS as MIRRORS};

const FILE: &str = "/etc/docker/daemon.json";

/// Sends pulls from Docker Hub to the mirror. Docker has no mirrors for other registries.
pub(super) fn mirror(host: &Host, mirror: &Mirror, plan: &mut Plan) -> Result<(), PlanError> {
    let wanted = json!([mirror.url()]);
    let text = match host.text(FILE)? {
        None => texts::daemon_json(mirror),
        Some(text) => match members(&text)?.get(MIRRORS) {
            Some(present) if *present == wanted => text,
            Some(_) => return Err(foreign(&format!("has {MIRRORS} already"), &mirror.url())),
            None => {
                additions::json(&text, MIRRORS, &wanted).ok_or_else(|| foreign("cannot be added to", &mirror.url()))?
            }
        },
    };
    plan.extend(FILE, text);
    plan.notes.push("Docker's mirrors are for Docker Hub only; --mode proxy takes every registry".to_owned());
    Ok(())
}

/// An error if `daemon.json` names a proxy: that would take precedence over the service's environment.
pub(super) fn refuse_proxies(host: &Host) -> Result<(), PlanError> {
    let Some(text) = host.text(FILE)? else { return Ok(()) };
    if members(&text)?.contains_key("proxies") {
        let (path, what) = (FILE.to_owned(), "sets proxies already".to_owned());
        let hint = "remove them first to use this appliance".to_owned();
        return Err(PlanError::Foreign { path, what, hint });
    }
    Ok(())
}

fn members(text: &str) -> Result<Map<String, Value>, PlanError> {
    serde_json::from_str(text).map_err(|_| PlanError::Foreign {
        path: FILE.to_owned(),
        what: "is not a JSON object".to_owned(),
        hint: "repair it first".to_owned(),
    })
}

fn foreign(what: &str, url: &str) -> PlanError {
    let hint = format!("add {url} to {MIRRORS} there yourself, or use --mode proxy");
    PlanError::Foreign { path: FILE.to_owned(), what: what.to_owned(), hint }
}
