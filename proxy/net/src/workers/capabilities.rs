//! The paths that bytes take on this machine. They are detected once at start, logged, and shown as a metric.

use std::fmt;

use entrepot_kernel::ring;

use crate::stream::kernel_tls::kernel_seals;
use entrepot_config::ready::DataPlane;

/// The paths in use.
#[derive(Clone, Debug)]
pub struct Capabilities {
    /// The number of serving threads.
    pub workers: usize,
    /// The way that cold bytes are read.
    pub cold_reads: ColdReads,
    /// Whether the kernel encrypts TLS records.
    pub kernel_seals: bool,
}

/// The ways to read bytes that are not in the page cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ColdReads {
    /// Each thread's io_uring reads them.
    Ring,
    /// A pool of threads reads them.
    Pool,
}

impl Capabilities {
    /// Asks the kernel for the features that the configuration wants. Zero workers means one for each core. `ktls` is
    /// the value in force until a reload changes it.
    pub fn detect(wanted: &DataPlane, ktls: bool) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let cold_reads = match ring::probe() {
            _ if !wanted.io_uring => ColdReads::Pool,
            Ok(()) => ColdReads::Ring,
            Err(error) => {
                tracing::warn!(
                    "the kernel gives no io_uring ({error}; see the sysctl kernel.io_uring_disabled and seccomp); cold \
                     reads take a pool of threads"
                );
                ColdReads::Pool
            }
        };
        let workers = if wanted.workers == 0 { cores } else { wanted.workers };
        Self { workers, cold_reads, kernel_seals: kernel_seals(ktls) }
    }
}

/// The labels of the metric that shows whether the kernel or this process makes TLS records: the one in use, and the
/// other.
pub fn sealing(ktls: bool) -> (&'static str, &'static str) {
    if kernel_seals(ktls) { ("kernel", "own") } else { ("own", "kernel") }
}

impl ColdReads {
    /// Its name in logs and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ring => "io_uring",
            Self::Pool => "threads",
        }
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (workers, cold) = (self.workers, self.cold_reads.word());
        let sealing = if self.kernel_seals { "the kernel" } else { "us" };
        write!(
            formatter,
            "{workers} serving threads; cached bodies leave by sendfile, under TLS sealed by {sealing}; cold reads by \
             {cold}"
        )
    }
}
