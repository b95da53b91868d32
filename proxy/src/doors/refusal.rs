//! Why a door refuses a request before anybody is asked. The one place where that becomes HTTP.

use entrepot_core::error::ErrorCode;
use entrepot_core::host::RegistryHost;
use http::StatusCode;
use http::header::CONNECTION;

use crate::doors::decision;
use entrepot_net::http::reply::Reply;
use entrepot_observe::labels::Refused;

/// A refusal of a door's.
#[derive(Debug)]
pub(super) enum DoorRefusal {
    /// The request has passed this process before (T6 in `docs/threats.md`).
    Loop,
    /// The request names another host than its connection is for (T7).
    Misdirected {
        /// The host that the connection is for.
        expected: RegistryHost,
    },
    /// The configuration does not let clients reach the host.
    Policy(decision::PolicyRefusal),
    /// The target of a request through the proxy is not one. Says what would be.
    Target(&'static str),
}

impl DoorRefusal {
    /// The reply. It ends the connection: nothing behind a refused CONNECT is ever read.
    pub(super) fn into_reply(self) -> Reply {
        let reply = match self {
            Self::Loop => Reply::error(ErrorCode::Loop, "").because(Refused::Loop),
            Self::Misdirected { expected } => {
                let message = format!("this connection is for {expected}");
                Reply::error(ErrorCode::Misdirected, &message).because(Refused::Misdirected)
            }
            Self::Policy(refusal) => {
                let message = format!("entrepot: {}", refusal.message());
                Reply::error(ErrorCode::Denied, &message).because(Refused::Policy)
            }
            Self::Target(expected) => {
                let message = format!("{expected}\n");
                Reply::full(StatusCode::BAD_REQUEST, "text/plain", message).because(Refused::Target)
            }
        };
        reply.with(CONNECTION, "close")
    }
}
