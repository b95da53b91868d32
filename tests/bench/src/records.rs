//! Counts what TLS 1.3 records carry without opening them: the sink's way to be cheaper than any server.
//!
//! Invariant: a record's plaintext is its length less the tag and the content type, as no server here pads. A server
//! that sent anything else would not add up to the announced length, which the sink checks.

const HEADER_BYTES: usize = 5;
/// The AEAD's tag, and the inner content type.
const OVERHEAD_BYTES: usize = 16 + 1;
const APPLICATION_DATA: u8 = 23;
const RECORD_BYTES_MAX: usize = (1 << 14) + 256;

/// A place in a stream of records.
#[derive(Default)]
pub(crate) struct RecordCounter {
    header: [u8; HEADER_BYTES],
    header_have: usize,
    payload_left: usize,
    /// Plaintext of the records that are complete.
    pub(crate) plain_bytes: u64,
    record_plain_bytes: u64,
}

impl RecordCounter {
    /// Walks over the next bytes from the socket.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while !bytes.is_empty() {
            if self.payload_left > 0 {
                let taken = self.payload_left.min(bytes.len());
                self.payload_left -= taken;
                bytes = &bytes[taken..];
                if self.payload_left == 0 {
                    self.plain_bytes += self.record_plain_bytes;
                }
                continue;
            }
            let taken = (HEADER_BYTES - self.header_have).min(bytes.len());
            self.header[self.header_have..self.header_have + taken].copy_from_slice(&bytes[..taken]);
            self.header_have += taken;
            bytes = &bytes[taken..];
            if self.header_have == HEADER_BYTES {
                self.payload_left = payload_of(self.header)?;
                self.record_plain_bytes = (self.payload_left - OVERHEAD_BYTES) as u64;
                self.header_have = 0;
            }
        }
        Ok(())
    }
}

/// The length of an application record's payload.
fn payload_of(header: [u8; HEADER_BYTES]) -> Result<usize, String> {
    let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
    if header[0] != APPLICATION_DATA || !(OVERHEAD_BYTES..=RECORD_BYTES_MAX).contains(&length) {
        return Err(format!("not a TLS 1.3 application record: {header:?}"));
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_of_the_stream_counts_the_same() {
        let mut stream = Vec::new();
        for length in [17_u16, 18, 300, 16_401] {
            stream.extend([APPLICATION_DATA, 3, 3]);
            stream.extend(length.to_be_bytes());
            stream.extend(std::iter::repeat_n(7, usize::from(length)));
        }
        for cut in [1, 2, 3, 5, 21, 1000, stream.len()] {
            let mut counter = RecordCounter::default();
            for piece in stream.chunks(cut) {
                counter.feed(piece).expect("records");
            }
            assert_eq!(counter.plain_bytes, 1 + 283 + 16_384, "cut at {cut}");
        }
    }

    #[test]
    fn an_open_record_is_refused() {
        assert!(RecordCounter::default().feed(b"HTTP/1.1 200 OK").is_err());
    }
}
