//! Reads DNS messages (RFC 1035): questions about listed names, and answers to them for their addresses. The same code
//! runs in the kernel and in the tests.
//!
//! Only the name in the question counts: if it is listed, every A and AAAA record of the answer is one of its
//! addresses, also at the end of a CNAME chain. The names of records are skipped, so compression costs nothing. An
//! answer teaches something only if the caller knows its question ([`Question`]): anybody can send a datagram from
//! port 53.
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

/// A question on its way, as its answer has to repeat it. It is a key of a map, so every byte is defined.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Question {
    /// The address that was asked.
    pub resolver: Address,
    /// The address that asked.
    pub client: Address,
    /// The hash of the name (`names`).
    pub name: u64,
    /// The port that asked.
    pub client_port: u16,
    /// The number of the message.
    pub id: u16,
    /// Keeps the size a multiple of eight.
    pub padding: u32,
}

/// The part of a question that is in the message: its number, and the hash of its name, which is listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asked {
    /// The number of the message.
    pub id: u16,
    /// The hash of the name.
    pub name: u64,
}

/// The time in which an answer has to come.
pub const ANSWER_WITHIN_NS: u64 = 5_000_000_000;

/// The reason why nothing, or not everything, was learned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unread {
    /// Not an answer, an answer with an error, or an answer about a name that is not listed.
    Irrelevant,
    /// An answer about a listed name for which the caller knows no question.
    Unasked,
    /// An answer about a listed name that is malformed, or longer than the part that is read.
    Broken,
}

/// Reads a question about a listed name; None for every other message. The arguments are those of [`read_answer`].
#[inline(always)]
pub fn read_question(
    mut message: Message<'_>,
    forget: impl Fn(u64) -> u64,
    listed: impl Fn(u64) -> u32,
) -> Option<Asked> {
    if message.length < HEADER_BYTES || message.length > MESSAGE_MAX_BYTES {
        return None;
    }
    // A standard query (QR and opcode are 0) with one question.
    if message.byte(2) & 0xf8 != 0 || message.word(4) != 1 {
        return None;
    }
    match asked(&mut message, &forget, listed) {
        Ok((asked, _)) => Some(asked),
        Err(_) => None,
    }
}

/// Reads an answer. `forget` returns its argument. `listed` returns `names::EXACT`, `BELOW`, both or zero for the hash
/// of a suffix. `was_asked` returns whether this question was asked. `learn` gets each address with its time to live in
/// seconds.
#[inline(always)]
pub fn read_answer(
    mut message: Message<'_>,
    forget: impl Fn(u64) -> u64,
    listed: impl Fn(u64) -> u32,
    was_asked: impl FnOnce(Asked) -> bool,
    mut learn: impl FnMut(&Address, u32),
) -> Result<(), Unread> {
    let records = header(&message)?;
    let (asked, name_end) = asked(&mut message, &forget, listed)?;
    // The zero of the root is followed by the question's type and class.
    let mut at = forget(name_end as u64 + 1 + 4) as usize;
    if !was_asked(asked) {
        return Err(Unread::Unasked);
    }
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

/// The question of a message, if its name is listed, and the position of the name's root.
#[inline(always)]
fn asked(
    message: &mut Message<'_>,
    forget: &impl Fn(u64) -> u64,
    listed: impl Fn(u64) -> u32,
) -> Result<(Asked, usize), Unread> {
    let name_end = forget(mark_labels(message, forget)? as u64) as usize;
    message.length = forget(message.length as u64) as usize;
    match listed_name(message, name_end, forget, listed) {
        Some(name) => Ok((Asked { id: message.word(0), name }, name_end)),
        None => Err(Unread::Irrelevant),
    }
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
///
/// A byte of a label and the length of the next one go the same way, by arithmetic: the verifier would follow each
/// branch through all bytes that come after it.
#[inline(always)]
fn mark_labels(message: &mut Message<'_>, forget: &impl Fn(u64) -> u64) -> Result<usize, Unread> {
    let mut left = forget(0);
    let mut offset = 0;
    while offset < NAME_MAX_BYTES {
        let at = HEADER_BYTES + offset;
        if at >= message.length {
            return Err(Unread::Irrelevant);
        }
        let byte = u64::from(message.byte(at));
        // No listed name has such bytes: they are compression in a question, or letters that are not ASCII.
        if byte >= u64::from(LABEL_MARK) {
            return Err(Unread::Irrelevant);
        }
        // One inside a label, zero at a length.
        let inside = forget((left | left.wrapping_neg()) >> 63);
        let length = (1 - inside) * byte;
        if length > 63 {
            return Err(Unread::Irrelevant);
        }
        if inside | byte == 0 {
            return Ok(at);
        }
        message.buffer[at & (MESSAGE_MAX_BYTES - 1)] = (byte | (1 - inside) << 7) as u8;
        left = forget(inside * left.wrapping_sub(1) + length);
        offset += 1;
    }
    Err(Unread::Irrelevant)
}

/// The hash of the name that ends before `end`, with marked labels, if it is listed, or below a listed name.
#[inline(always)]
fn listed_name(
    message: &Message<'_>,
    end: usize,
    forget: &impl Fn(u64) -> u64,
    listed: impl Fn(u64) -> u32,
) -> Option<u64> {
    // A name to which the last byte belongs is below a listed one.
    const FOUND: u64 = 4;
    let mut hash = EMPTY;
    // The flags of the suffix up to the last byte, and `FOUND`.
    let mut seen = forget(0);
    let mut back = 1;
    while back <= NAME_MAX_BYTES {
        if end < HEADER_BYTES + back {
            // Nothing is in front of the last byte, so its suffix is the whole name.
            return if seen & (FOUND | u64::from(EXACT)) != 0 { Some(hash) } else { None };
        }
        let byte = message.byte(end - back);
        hash = forget(prepend(hash, byte & !LABEL_MARK));
        let flags = if byte & LABEL_MARK != 0 { listed(hash) } else { 0 };
        let is_below = u64::from(BELOW);
        seen = forget((seen & FOUND) | (seen & is_below) << 1 | u64::from(flags & (EXACT | BELOW)));
        back += 1;
    }
    None
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
