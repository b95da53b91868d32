//! Everything that shows the product from outside: the access log (one line a request), events, metrics, and the trail
//! of decisions that they are read from.
//!
//! ```text
//! a request ─► trail (decisions; words in labels) ─► request_log ─► access_record ─► access_log ─► sink ─► a file, stdout
//!                 └─► metrics ─► /metrics
//! everything else that happens ─► events ─► sink ─► stderr
//! ```
//!
//! Every crate above calls into this one, and it calls none of them. Nothing here blocks a caller: log lines go through
//! a bounded queue and are dropped and counted if their reader is stuck; metrics are atomic counters.

pub mod access_log;
pub mod access_record;
pub mod events;
pub mod human;
pub mod labels;
pub mod metrics;
pub mod request_id;
pub mod request_log;
pub mod sink;
pub mod trail;
