//! The network namespace that this process lives in, as eBPF programs know it.

use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixDatagram;

use nix::libc;

/// `SO_NETNS_COOKIE` (Linux 5.14), which libc does not name for every architecture.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// The cookie of the network namespace that this thread makes sockets in.
pub fn network_namespace_cookie() -> io::Result<u64> {
    let socket = UnixDatagram::unbound()?;
    let (mut cookie, mut length) = (0u64, size_of::<u64>() as libc::socklen_t);
    // SAFETY: both pointers are to locals that outlive the call, and `length` says how many bytes may be written; the
    // kernel keeps neither. The descriptor is open: `socket` owns it.
    let asked = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if asked == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_one_cookie() {
        let cookie = network_namespace_cookie().expect("Linux 5.14 or newer");
        assert_ne!(cookie, 0);
        assert_eq!(network_namespace_cookie().expect("again"), cookie);
    }
}
