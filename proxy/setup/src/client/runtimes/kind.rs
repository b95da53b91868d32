//! The nodes of Kind: containers with a systemd and a containerd of their own. The shell script for hosts without this
//! program runs inside each node. It is made here, with the fingerprint that was checked, and not downloaded.

use crate::client::plan::{Plan, PlanError};
use crate::client::scripts::{Script, undo};
use crate::client::target::Target;
use crate::client::{Mode, Runtime};

/// The plan that runs the script in every node, and the undo script later.
pub(super) fn plan(mode: Mode, target: &Target, nodes: &[String]) -> Result<Plan, PlanError> {
    if nodes.is_empty() {
        let missing = "running container with the label io.x-k8s.kind.cluster".to_owned();
        return Err(PlanError::NotInstalled { runtime: Runtime::Kind, missing });
    }
    if mode == Mode::Redirect {
        let reason = "nodes are containers; run `entrepot redirect host` on this machine and use --mode proxy there";
        return Err(PlanError::Impossible { runtime: Runtime::Kind, mode, reason });
    }
    if mode == Mode::Mirror {
        target.mirror()?;
    }
    let script = Script::Containerd.for_target(target);
    let inside = |node: &String, script: &str, arguments: &[&str]| {
        let mut command: Vec<String> = ["docker", "exec", node, "sh", "-c", script, "sh"].map(str::to_owned).into();
        command.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        command
    };
    let mode = mode.word();
    Ok(Plan {
        commands: nodes.iter().map(|node| inside(node, &script, &["--mode", mode])).collect(),
        undo_commands: nodes.iter().map(|node| inside(node, &undo(), &[])).collect(),
        notes: vec!["nodes that are made later need the same again".to_owned()],
        ..Plan::default()
    })
}
