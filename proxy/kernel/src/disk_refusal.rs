//! A file system that takes no writes at the moment, and what to do about it. It is no fault of what was to be written,
//! so the caller goes on without keeping it.

use std::fmt;
use std::io;

/// Why a file system takes no writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskRefusal {
    /// It is mounted read-only.
    ReadOnly,
    /// It has no room, or the quota of this user is used up.
    Full,
}

impl DiskRefusal {
    /// The refusal behind an error. None for every other error, one of permissions included: that is a matter of the
    /// configuration.
    pub fn of(error: &io::Error) -> Option<Self> {
        match error.kind() {
            io::ErrorKind::ReadOnlyFilesystem => Some(Self::ReadOnly),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some(Self::Full),
            _ => None,
        }
    }

    /// The remedy, for administrators.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::ReadOnly => "mount it writable",
            Self::Full => "free space on it",
        }
    }
}

impl fmt::Display for DiskRefusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::ReadOnly => "is read-only",
            Self::Full => "is full",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_file_system_that_takes_no_writes_refuses() {
        const EROFS: i32 = 30;
        const ENOSPC: i32 = 28;
        const EDQUOT: i32 = 122;
        const EACCES: i32 = 13;
        const EIO: i32 = 5;
        const ENOENT: i32 = 2;
        for (code, refusal) in [
            (EROFS, Some(DiskRefusal::ReadOnly)),
            (ENOSPC, Some(DiskRefusal::Full)),
            (EDQUOT, Some(DiskRefusal::Full)),
            (EACCES, None),
            (EIO, None),
            (ENOENT, None),
        ] {
            assert_eq!(DiskRefusal::of(&io::Error::from_raw_os_error(code)), refusal, "{code}");
        }
    }
}
