//! The limit of open files. It is raised as far as the system lets us, and what it cannot hold is bounded by it.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Files that are not a connection's: listeners, logs, the index, rings, blobs that are kept open.
const OWN_FILES: u64 = 64;
/// A client's connection, and one to upstream or a file of the store.
const FILES_PER_CONNECTION: u64 = 2;

/// Each pull takes several file descriptors, and the usual soft limit is 1024.
pub(super) fn raise() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!("the limit of open files stays at {soft}: {error}");
    }
}

/// The connections that may be open at once: as many as configured, if the limit of open files can hold them.
pub(super) fn connections(configured: usize) -> usize {
    let Ok((limit, _)) = getrlimit(Resource::RLIMIT_NOFILE) else { return configured };
    let fitting = fitting(configured, limit);
    if fitting < configured {
        tracing::warn!(
            "{fitting} connections may be open at once instead of {configured} (proxy.max_connections), because the limit \
             of open files is {limit}; raise it (LimitNOFILE of a unit, --ulimit nofile of a container)"
        );
    }
    fitting
}

fn fitting(configured: usize, limit: u64) -> usize {
    let held = limit.saturating_sub(OWN_FILES) / FILES_PER_CONNECTION;
    configured.min(usize::try_from(held).unwrap_or(usize::MAX)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_scale_with_the_limit_of_files() {
        for (configured, limit, expected) in [
            (10_000, 1 << 20, 10_000),
            (10_000, u64::MAX, 10_000),
            (10_000, 1024, 480),
            (10_000, 256, 96),
            (50, 256, 50),
            (10_000, 64, 1),
            (10_000, 0, 1),
        ] {
            assert_eq!(fitting(configured, limit), expected, "{configured} with {limit} files");
        }
    }
}
