//! Exit codes, from sysexits.h. Scripts and systemd read from them whose fault a failure was.

/// The command line is wrong.
pub const USAGE: u8 = 64;
/// A server or a file that the command needs cannot be reached.
pub const UNAVAILABLE: u8 = 69;
/// entrepot has a bug.
pub const BUG: u8 = 70;
/// Reading or writing a file failed.
pub const IO: u8 = 74;
/// The user may not do this.
pub const PERMISSION: u8 = 77;
/// The configuration is invalid.
pub const CONFIGURATION: u8 = 78;
