//! Sending a file's bytes from the page cache to a socket, without a copy through this process.

use std::io;
use std::os::fd::BorrowedFd;

use nix::sys::sendfile::sendfile64;

/// Sends up to `length` bytes of `file` from `offset`, and returns how many were sent. `WouldBlock` if the socket takes
/// none now. A file that ends before `offset` is an error: the bytes were promised.
pub fn send_file(socket: BorrowedFd<'_>, file: BorrowedFd<'_>, offset: u64, length: usize) -> io::Result<usize> {
    let mut offset = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    match sendfile64(socket, file, Some(&mut offset), length)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        sent => Ok(sent),
    }
}
