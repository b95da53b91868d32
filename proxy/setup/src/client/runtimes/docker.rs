//! Docker Engine's own file, `daemon.json`: it has no drop-ins, so one member is added where it is missing.

use serde_json::{Map, Value, json};

use super::super::host::Host;
use super::super::plan::{Mirror, Plan, PlanError};
use super::additions;
use super::texts::{self, DOCKER_MIRRORS as MIRRORS};

const FILE: &str = "/etc/docker/daemon.json";

/// Docker's mirrors stand for Docker Hub alone; its own client takes everything else directly.
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

/// A proxy in `daemon.json` would win over the service's environment.
pub(super) fn refuse_proxies(host: &Host) -> Result<(), PlanError> {
    let Some(text) = host.text(FILE)? else { return Ok(()) };
    if members(&text)?.contains_key("proxies") {
        let (path, what) = (FILE.to_owned(), "sets proxies already".to_owned());
        let hint = "take them away first, where this appliance is to be used".to_owned();
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
