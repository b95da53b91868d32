//! Takes the report of each request from every door: the access log and the counters.

use std::sync::Arc;

use super::access_log::AccessLog;
use super::metrics::Metrics;

/// Shared by all doors.
pub struct RequestLog {
    /// A line for each request.
    pub access_log: AccessLog,
    /// Counters.
    pub metrics: Arc<Metrics>,
}
