//! Pointing a container runtime of this machine at an appliance, and taking it back.
//!
//! ```text
//! cli/client ─► appliance: who, and is its CA the expected one
//!            ─► runtimes/*: pure, Host (files as they are) + Target ─► Plan (new files, commands), or a refusal
//!            ─► verify: a manifest by the way that is about to be set up
//!            ─► execute: journal first, then files, then commands; any failure is taken back (change)
//! undo       ─► journal backwards          status ─► journal against the files as they are
//! ```
//!
//! Invariants: what somebody else wrote is never replaced (a plan refuses instead, in one line); everything that is
//! changed is in the journal before it is changed, with what was there before, so that undo restores it byte for byte
//! from wherever set-up or undo was interrupted; nothing is written before the appliance's certificate has the
//! fingerprint that was asked for.

pub mod appliance;
pub mod change;
pub mod execute;
pub mod host;
pub mod journal;
pub mod plan;
pub mod runtimes;
pub mod status;
mod trust;
pub mod verify;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A container runtime that can be set up.
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

/// How its pulls come to the appliance.
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
    /// As it is written on the command line.
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
    /// As it is written on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Mirror => "mirror",
            Self::Redirect => "redirect",
        }
    }
}
