//! Reads DNS answers (RFC 1035) for the addresses of listed names. The same code runs in the kernel and in the tests.
//!
//! Only the name in the question counts: if it is listed, every A and AAAA record of the answer is one of its
//! addresses, also at the end of a CNAME chain. The names of records are skipped, so compression costs nothing. A wrong
//! answer does no harm: connections to an address that was learned in error are redirected to the door, and the door
//! goes by the name in the connection.
//!
//! For the verifier every loop has a fixed bound, and every index is masked to the size of the buffer. The verifier
//! follows each possible value of a variable, which would be millions in a loop. `forget` returns its argument in a way
//! that hides the value from the verifier.

use crate::address::{Address, mapped};
use crate::names::{BELOW, EMPTY, EXACT, prepend};

/// The part of a message that is read.
pub const MESSAGE_MAX_BYTES: usize = 2048;
/// The most records that are read of one answer.
const RECORDS_MAX: usize = 32;
/// The most labels in the name of a record that is not compressed.
const LABELS_MAX: usize = 32;
/// The longest name on the wire, with its length bytes and the root.
const NAME_MAX_BYTES: usize = 255;
const HEADER_BYTES: usize = 12;
/// A bit that is set in the length bytes of the question's name. No letter of that name has it.
const LABEL_MARK: u8 = 0x80;

const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;

/// A message: the first `length` bytes of the buffer, which is changed while it is read.
pub struct Message<'a> {
    /// The bytes.
    pub buffer: &'a mut [u8; MESSAGE_MAX_BYTES],
    /// The length of the message in the buffer.
    pub length: usize,
}

/// The reason why nothing, or not everything, was learned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unread {
    /// Not an answer, an answer with an error, or an answer about a name that is not listed.
    Irrelevant,
    /// An answer about a listed name that is malformed, or longer than the part that is read.
    Broken,
}

/// Reads an answer. `forget` returns its argument. `listed` returns `names::EXACT`, `BELOW`, both or zero for the hash
/// of a suffix. `learn` gets each address with its time to live in seconds.
#[inline(always)]
pub fn read(
    mut message: Message<'_>,
    forget: impl Fn(u64) -> u64,
    listed: impl Fn(u64) -> u32,
    mut learn: impl FnMut(&Address, u32),
) -> Result<(), Unread> {
    let records = header(&message)?;
    let name_end = forget(mark_labels(&mut message, &forget)? as u64) as usize;
    message.length = forget(message.length as u64) as usize;
    if !is_listed(&message, name_end, &forget, listed) {
        return Err(Unread::Irrelevant);
    }
    // The zero of the root is followed by the question's type and class.
    let mut at = forget(name_end as u64 + 1 + 4) as usize;
    let mut index = 0;
    while index < RECORDS_MAX {
        if index >= records {
            return Ok(());
        }
        at = forget(record(&message, at, &forget, &mut learn)? as u64) as usize;
        index += 1;
    }
    Err(Unread::Broken)
}

impl Message<'_> {
    #[inline(always)]
    fn byte(&self, at: usize) -> u8 {
        self.buffer[at & (MESSAGE_MAX_BYTES - 1)]
    }

    #[inline(always)]
    fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.byte(at), self.byte(at + 1)])
    }
}

/// The number of records in the answer section, if the message is a successful answer to one question.
#[inline(always)]
fn header(message: &Message<'_>) -> Result<usize, Unread> {
    if message.length < HEADER_BYTES || message.length > MESSAGE_MAX_BYTES {
        return Err(Unread::Irrelevant);
    }
    // A response (QR), to a standard query (opcode 0), that succeeded (RCODE 0).
    let is_answer = message.byte(2) & 0xf8 == 0x80 && message.byte(3) & 0x0f == 0;
    let records = message.word(6) as usize;
    if is_answer && message.word(4) == 1 && records > 0 { Ok(records) } else { Err(Unread::Irrelevant) }
}

/// Marks the length bytes of the question's name. Returns the position of its root.
#[inline(always)]
fn mark_labels(message: &mut Message<'_>, forget: &impl Fn(u64) -> u64) -> Result<usize, Unread> {
    let mut left = 0u64;
    let mut offset = 0;
    while offset < NAME_MAX_BYTES {
        let at = HEADER_BYTES + offset;
        if at >= message.length {
            return Err(Unread::Irrelevant);
        }
        left = forget(left);
        let byte = message.byte(at);
        // No listed name has such bytes: they are compression in a question, or letters that are not ASCII.
        if byte >= LABEL_MARK {
            return Err(Unread::Irrelevant);
        }
        if left != 0 {
            left -= 1;
        } else {
            if byte == 0 {
                return Ok(at);
            }
            if byte > 63 {
                return Err(Unread::Irrelevant);
            }
            left = u64::from(byte);
            message.buffer[at & (MESSAGE_MAX_BYTES - 1)] = byte | LABEL_MARK;
        }
        offset += 1;
    }
    Err(Unread::Irrelevant)
}

/// Whether the name that ends before `end`, with marked labels, is listed, or below a listed name.
#[inline(always)]
fn is_listed(message: &Message<'_>, end: usize, forget: &impl Fn(u64) -> u64, listed: impl Fn(u64) -> u32) -> bool {
    let mut hash = EMPTY;
    let mut back = 1;
    while back < NAME_MAX_BYTES {
        if end < HEADER_BYTES + back {
            return false;
        }
        let at = end - back;
        let byte = message.byte(at);
        hash = forget(prepend(hash, byte & !LABEL_MARK));
        if byte & LABEL_MARK != 0 {
            let flags = listed(hash);
            if at == HEADER_BYTES {
                return flags & EXACT != 0;
            }
            if flags & BELOW != 0 {
                return true;
            }
        }
        back += 1;
    }
    false
}

/// Reads the record at `at`. Returns the position of the next one.
#[inline(always)]
fn record(
    message: &Message<'_>,
    at: usize,
    forget: &impl Fn(u64) -> u64,
    learn: &mut impl FnMut(&Address, u32),
) -> Result<usize, Unread> {
    let at = forget(step_over_name(message, at, forget)? as u64) as usize;
    let data = at + 10;
    if data > message.length {
        return Err(Unread::Broken);
    }
    let (kind, length) = (message.word(at), message.word(at + 8) as usize);
    let ttl_s = u32::from(message.word(at + 4)) << 16 | u32::from(message.word(at + 6));
    let next = data + length;
    if next > message.length {
        return Err(Unread::Broken);
    }
    if kind == TYPE_A && length == 4 {
        let byte = |index| message.byte(data + index);
        learn(&mapped([byte(0), byte(1), byte(2), byte(3)]), ttl_s);
    } else if kind == TYPE_AAAA && length == 16 {
        let mut address: Address = [0; 16];
        let mut index = 0;
        while index < 16 {
            address[index] = message.byte(data + index);
            index += 1;
        }
        learn(&address, ttl_s);
    }
    Ok(next)
}

#[inline(always)]
fn step_over_name(message: &Message<'_>, mut at: usize, forget: &impl Fn(u64) -> u64) -> Result<usize, Unread> {
    let mut label = 0;
    while label < LABELS_MAX {
        if at >= message.length {
            return Err(Unread::Broken);
        }
        let byte = message.byte(at);
        if byte == 0 {
            return Ok(at + 1);
        }
        // A pointer is the end of the name.
        if byte >= 0xc0 {
            return Ok(at + 2);
        }
        if byte > 63 {
            return Err(Unread::Broken);
        }
        at = forget(at as u64 + 1 + u64::from(byte)) as usize;
        label += 1;
    }
    Err(Unread::Broken)
}

#[cfg(test)]
mod tests;
