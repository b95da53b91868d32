//! Exit codes, from sysexits.h: scripts and systemd tell by them whose fault a failure was.

/// The command was used wrongly.
pub const USAGE: u8 = 64;
/// Something that is needed cannot be reached.
pub const UNAVAILABLE: u8 = 69;
/// A bug of ours.
pub const BUG: u8 = 70;
/// A file or disk failed.
pub const IO: u8 = 74;
/// Not permitted.
pub const PERMISSION: u8 = 77;
/// The configuration is bad.
pub const CONFIGURATION: u8 = 78;
