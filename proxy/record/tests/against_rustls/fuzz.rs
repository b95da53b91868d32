//! The fuzz target for the record layer's receiving side. An input's bytes say what a client does after its handshake,
//! honest or not. Whatever it does, nothing panics, nothing grows, and only bytes that the client sealed are handed on,
//! in their order.
//!
//! CI tries 5,000 inputs, the same in each run. `ENTREPOT_FUZZ_INPUTS=1000000` tries more. A failure names its input, and
//! `ENTREPOT_FUZZ_FROM` begins there the next time.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use entrepot_record::{HEADER_BYTES, RECORD_MAX_BYTES, Received, Session, record_bytes};
use rustls::{ContentType, SupportedCipherSuite};

use super::Random;
use super::peer::{Ciphers, pair, suites};

const INPUTS: u64 = 5_000;
const INPUT_MAX_BYTES: usize = 600;
/// The longest message that is ever said to a client: a record with an alert or a key update.
const CONTROL_MAX_BYTES: usize = 64;

/// An input that is read from its front. It never ends: behind its last byte are zeros.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or_default()
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::from(u16::from_be_bytes([self.byte(), self.byte()])) % bound
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.byte()).collect()
    }
}

/// A client that does what an input says.
struct Client {
    ciphers: Ciphers,
    /// All application data that it sealed.
    said: Vec<u8>,
    last: Vec<u8>,
}

impl Client {
    /// The bytes that it sends next.
    fn act(&mut self, input: &mut Input<'_>) -> Vec<u8> {
        match input.byte() % 9 {
            0 | 1 => {
                let length = input.below(40);
                let content = input.bytes(length);
                self.seal(23, content)
            }
            2 => {
                let length = RECORD_MAX_BYTES - 20 + input.below(40);
                self.seal(23, vec![b'x'; length])
            }
            3 => {
                // In TLS 1.3 a type of zero is padding.
                let kind = input.byte().max(1);
                let length = input.below(40);
                let content = input.bytes(length);
                self.seal(kind, content)
            }
            4 => {
                let update = vec![24, 0, 0, 1, input.byte() % 3];
                self.seal(22, update)
            }
            5 => self.last.clone(),
            6 => {
                let length = input.below(60);
                input.bytes(length)
            }
            7 => {
                let mut record = self.seal(23, b"changed".to_vec());
                let place = input.below(record.len());
                record[place] ^= input.byte().max(1);
                record
            }
            _ => {
                let mut record = self.seal(23, b"cut short".to_vec());
                record.truncate(input.below(record.len()));
                record
            }
        }
    }

    fn seal(&mut self, kind: u8, content: Vec<u8>) -> Vec<u8> {
        let record = self.ciphers.seal(ContentType::from(kind), &content);
        if kind == 23 {
            self.said.extend(content);
        }
        self.last.clone_from(&record);
        record
    }
}

/// The result of an input: the application data that was handed on, and whether the connection was ended.
#[derive(Default)]
struct Tally {
    heard_bytes: usize,
    ended: bool,
}

/// The target.
fn receive(suite: SupportedCipherSuite, input: &[u8]) -> Tally {
    let (client, mut session) = pair(suite);
    let mut client = Client { ciphers: Ciphers::of(client, suite), said: Vec::new(), last: Vec::new() };
    let (mut input, mut wire, mut tally, mut heard) = (Input(input), Vec::new(), Tally::default(), Vec::new());
    while !input.0.is_empty() && !tally.ended {
        wire.extend(client.act(&mut input));
        tally.ended = take_records(&mut session, &mut wire, &mut heard);
        // A record that is incomplete waits. It can never be longer than its header may say.
        assert!(wire.len() <= 2 * (HEADER_BYTES + RECORD_MAX_BYTES + 2048), "{} bytes wait", wire.len());
    }
    assert!(client.said.starts_with(&heard), "something was heard that the client did not say");
    tally.heard_bytes = heard.len();
    tally
}

/// Takes every whole record off the wire, as a connection does. Returns whether it has ended.
fn take_records(session: &mut Session, wire: &mut Vec<u8>, heard: &mut Vec<u8>) -> bool {
    loop {
        let length = match record_bytes(wire) {
            Ok(Some(length)) if length <= wire.len() => length,
            Ok(_) => return false,
            Err(error) => {
                session.refuse(&error);
                check_control(session);
                return true;
            }
        };
        let mut record: Vec<u8> = wire.drain(..length).collect();
        let received = session.receive(&mut record);
        check_control(session);
        match received {
            Ok(Received::Data(range)) => heard.extend_from_slice(&record[range]),
            Ok(Received::Nothing) => {}
            Ok(Received::Closed) | Err(_) => return true,
        }
    }
}

fn check_control(session: &mut Session) {
    let messages = session.take_control();
    assert!(messages.len() <= 2, "{} answers to one record", messages.len());
    assert!(messages.iter().all(|message| message.bytes.len() <= CONTROL_MAX_BYTES));
}

#[test]
fn whatever_a_client_sends_is_heard_as_it_was_said_or_ends_it() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number("ENTREPOT_FUZZ_FROM").unwrap_or(0);
    let (suites, mut heard, mut ended) = (suites(), 0, 0);
    for seed in first..first + number("ENTREPOT_FUZZ_INPUTS").unwrap_or(INPUTS) {
        // Neighbours among the seeds begin far apart (Knuth's multiplicative hashing).
        let mut random = Random((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let length = random.below(INPUT_MAX_BYTES);
        let input = random.bytes(length);
        let suite = suites[random.below(suites.len())];
        let tried = catch_unwind(AssertUnwindSafe(|| receive(suite, &input)));
        let tally = tried.unwrap_or_else(|panic| {
            eprintln!("{suite:?} fails for input {seed}: ENTREPOT_FUZZ_FROM={seed} ENTREPOT_FUZZ_INPUTS=1 repeats it");
            resume_unwind(panic)
        });
        heard += usize::from(tally.heard_bytes > 0);
        ended += usize::from(tally.ended);
    }
    assert!(heard > 0 || first > 0, "no input was ever understood");
    assert!(ended > 0 || first > 0, "no input was ever refused");
}
