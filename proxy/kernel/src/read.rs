//! Reading a window of a file without blocking the thread that asks: by the thread's ring if it has one
//! ([`crate::ring::start`]), else on the runtime's blocking pool.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::buffers::Buffer;
use crate::ring;

/// A read under way. Dropping it abandons the result; the memory stays the kernel's until it is done.
pub struct Reading(Way);

enum Way {
    Ring(oneshot::Receiver<io::Result<Buffer>>),
    Pool(JoinHandle<io::Result<Buffer>>),
}

/// Begins to read `length` bytes at `offset`. A file that ends earlier gives fewer.
pub fn start(file: &Arc<File>, offset: u64, length: usize) -> Reading {
    let buffer = Buffer::new(length);
    match ring::submit_read(file, offset, length, buffer) {
        Ok(answer) => Reading(Way::Ring(answer)),
        Err(mut buffer) => {
            let file = file.clone();
            Reading(Way::Pool(spawn_blocking(move || {
                let read = read_up_to(&file, buffer.room(length), offset)?;
                buffer.set_filled(read);
                Ok(buffer)
            })))
        }
    }
}

impl Reading {
    /// The bytes, once they are there.
    pub async fn finish(&mut self) -> io::Result<Bytes> {
        let stopped = || io::Error::other("the thread that was to read has ended");
        let read = match &mut self.0 {
            Way::Ring(answer) => answer.await.map_err(|_| stopped())?,
            Way::Pool(task) => task.await.map_err(|_| stopped())?,
        };
        Ok(Bytes::from_owner(read?))
    }
}

fn read_up_to(file: &File, into: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < into.len() {
        match file.read_at(&mut into[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
