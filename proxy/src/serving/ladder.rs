//! Which way bytes take on this machine, found out once at start: said in the log and shown as a metric.

use std::fmt;

use entrepot_kernel::ring;

/// The rungs in use.
#[derive(Clone, Debug)]
pub struct Ladder {
    /// Serving threads.
    pub workers: usize,
    /// How cold bytes are read.
    pub cold_reads: ColdReads,
}

/// How bytes that are not in the page cache are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ColdReads {
    /// By each thread's io_uring.
    Ring,
    /// By a pool of threads.
    Pool,
}

impl Ladder {
    /// Asks the kernel. `workers` and `io_uring` are what the configuration says; zero workers is one a core.
    pub fn climb(workers: usize, io_uring: bool) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let cold_reads = match ring::probe() {
            _ if !io_uring => ColdReads::Pool,
            Ok(()) => ColdReads::Ring,
            Err(error) => {
                tracing::warn!(
                    "the kernel gives no io_uring ({error}; see the sysctl kernel.io_uring_disabled and seccomp); cold \
                     reads take a pool of threads"
                );
                ColdReads::Pool
            }
        };
        Self { workers: if workers == 0 { cores } else { workers }, cold_reads }
    }
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

impl fmt::Display for Ladder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (workers, cold) = (self.workers, self.cold_reads.word());
        write!(
            formatter,
            "{workers} serving threads; cached bodies leave by sendfile, under TLS sealed from the mapping; cold reads \
             by {cold}"
        )
    }
}
