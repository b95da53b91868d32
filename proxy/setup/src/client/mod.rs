//! Points a container runtime of this machine at an appliance, and takes that back.
//!
//! ```text
//! set-up   appliance   which appliance, and does its CA have the expected fingerprint
//!          runtimes/*  pure: Host (files as they are) and Target (the appliance) in, Plan (new files, commands) out
//!          verify      pulls a manifest by the way that is about to be set up
//!          execute     journal first, then files, then commands; `change` takes a failed run back
//! undo     execute     the journal backwards
//! status   status      the journal against the files as they are
//! ```
//!
//! Arrows inside: `runtimes` → `scripts` → `texts` → `target`; `execute` → `change` → `journal`, `steps` → `plan` →
//! `host`.
//!
//! Invariants: a file that is not from a set-up is never replaced: the plan is refused instead, in one line. Everything
//! that changes is in the journal before it changes, with its earlier content, so that undo restores it byte for byte,
//! even after an interrupted run. Nothing is written before the appliance's certificate has the expected fingerprint.

pub mod appliance;
pub mod change;
pub mod containerd_version;
pub mod execute;
pub mod host;
pub mod journal;
pub mod plan;
pub mod runtimes;
pub(crate) mod scripts;
pub mod status;
pub mod steps;
pub mod target;
pub(crate) mod texts;
mod trust;
pub mod verify;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A container runtime that can be set up. The comments are help texts of the command line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// Docker Engine
    Docker,
    /// containerd, for Kubernetes or by itself
    Containerd,
    /// Podman, Buildah and Skopeo
    Podman,
    /// CRI-O
    Crio,
    /// k3s, server or agent
    K3s,
    /// The nodes of Kind clusters on this machine
    Kind,
    /// A buildkitd that runs as a service
    Buildkit,
}

/// How the runtime's pulls reach the appliance. The comments are help texts of the command line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The runtime's HTTPS_PROXY
    Proxy,
    /// The appliance's registry as a mirror of other registries
    Mirror,
    /// Nothing but trust: the network or `entrepot redirect` leads connections there
    Redirect,
}

impl Runtime {
    /// As on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Containerd => "containerd",
            Self::Podman => "podman",
            Self::Crio => "crio",
            Self::K3s => "k3s",
            Self::Kind => "kind",
            Self::Buildkit => "buildkit",
        }
    }
}

impl Mode {
    /// As on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Mirror => "mirror",
            Self::Redirect => "redirect",
        }
    }
}
