//! The reader of DNS messages: tables of real shapes, and random messages.

use super::*;
use crate::names::hash;
use proptest::prelude::*;

/// A message under construction.
struct Wire(Vec<u8>);

impl Wire {
    fn answer(question: &str, records: u16) -> Self {
        let mut wire = Self(vec![0x12, 0x34, 0x81, 0x80, 0, 1]);
        wire.0.extend(records.to_be_bytes());
        wire.0.extend([0, 0, 0, 0]);
        wire.name(question);
        wire.0.extend([0, 1, 0, 1]);
        wire
    }

    fn name(&mut self, name: &str) {
        for label in name.split('.').filter(|label| !label.is_empty()) {
            self.0.push(label.len() as u8);
            self.0.extend(label.bytes());
        }
        self.0.push(0);
    }

    /// A record whose name points back to the question.
    fn record(mut self, kind: u16, ttl_s: u32, data: &[u8]) -> Self {
        self.0.extend([0xc0, 12]);
        self.rest(kind, ttl_s, data)
    }

    fn rest(mut self, kind: u16, ttl_s: u32, data: &[u8]) -> Self {
        self.0.extend(kind.to_be_bytes());
        self.0.extend([0, 1]);
        self.0.extend(ttl_s.to_be_bytes());
        self.0.extend((data.len() as u16).to_be_bytes());
        self.0.extend(data);
        self
    }

    fn question(question: &str) -> Self {
        let mut wire = Self::answer(question, 0);
        (wire.0[2], wire.0[3]) = (1, 0);
        wire
    }

    fn asked(&self, listed: &[(&str, u32)]) -> Option<Asked> {
        let mut buffer = [0; MESSAGE_MAX_BYTES];
        buffer[..self.0.len()].copy_from_slice(&self.0);
        let message = Message { buffer: &mut buffer, length: self.0.len() };
        read_question(message, |value| value, |found| flags_of(listed, found))
    }

    fn read(&self, listed: &[(&str, u32)]) -> (Result<(), Unread>, Vec<(Address, u32)>) {
        self.read_if(listed, |_| true)
    }

    fn read_if(
        &self,
        listed: &[(&str, u32)],
        was_asked: impl FnOnce(Asked) -> bool,
    ) -> (Result<(), Unread>, Vec<(Address, u32)>) {
        let mut buffer = [0; MESSAGE_MAX_BYTES];
        buffer[..self.0.len()].copy_from_slice(&self.0);
        let mut learned = Vec::new();
        let flags = |found| flags_of(listed, found);
        let message = Message { buffer: &mut buffer, length: self.0.len() };
        let learn = |address: &Address, ttl_s| learned.push((*address, ttl_s));
        let outcome = read_answer(message, |value| value, flags, was_asked, learn);
        (outcome, learned)
    }
}

fn flags_of(listed: &[(&str, u32)], found: u64) -> u32 {
    listed.iter().find(|(name, _)| hash(name) == found).map_or(0, |(_, flags)| *flags)
}

const V4: [u8; 4] = [192, 0, 2, 7];
const V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];

#[test]
fn chains_of_both_families_are_read() {
    let mut alias = Wire(Vec::new());
    alias.name("edge.cdn.example");
    let wire = Wire::answer("Registry-1.docker.IO", 5)
        .record(5, 30, &alias.0)
        .record(1, 60, &V4)
        .record(46, 60, &[9; 90])
        .record(28, 61, &V6)
        .record(1, 0x0102_0304, &[10, 0, 0, 1]);
    let (outcome, learned) = wire.read(&[("registry-1.docker.io", EXACT)]);
    assert_eq!(outcome, Ok(()));
    assert_eq!(learned, [(mapped(V4), 60), (V6, 61), (mapped([10, 0, 0, 1]), 0x0102_0304)]);
}

#[test]
fn names_match_exactly_or_from_below() {
    type Listed<'a> = &'a [(&'a str, u32)];
    let cases: [(&str, Listed<'_>, bool); 9] = [
        ("ghcr.io", &[("ghcr.io", EXACT)], true),
        ("a.ghcr.io", &[("ghcr.io", EXACT)], false),
        ("ghcr.io.evil", &[("ghcr.io", EXACT | BELOW)], false),
        ("xghcr.io", &[("ghcr.io", EXACT | BELOW)], false),
        ("eu.pkg.dev", &[("pkg.dev", BELOW)], true),
        ("a.b.c.pkg.dev", &[("pkg.dev", BELOW)], true),
        ("pkg.dev", &[("pkg.dev", BELOW)], false),
        ("pkg.dev", &[("pkg.dev", BELOW | EXACT)], true),
        ("dev", &[("pkg.dev", BELOW | EXACT)], false),
    ];
    for (question, listed, expected) in cases {
        let (outcome, learned) = Wire::answer(question, 1).record(1, 1, &V4).read(listed);
        assert_eq!((outcome.is_ok(), learned.len() == 1), (expected, expected), "{question} {listed:?}");
    }
}

#[test]
fn an_answer_repeats_its_question_or_teaches_nothing() {
    let listed = [("ghcr.io", EXACT), ("pkg.dev", BELOW)];
    for name in ["ghcr.io", "EU.pkg.dev", "a.b.pkg.dev"] {
        let asked = Wire::question(name).asked(&listed).expect(name);
        assert_eq!(asked, Asked { id: 0x1234, name: hash(name) }, "the whole name counts, also below a listed one");
        let answer = Wire::answer(name, 1).record(1, 60, &V4);
        assert_eq!(answer.read_if(&listed, |it| it == asked), (Ok(()), vec![(mapped(V4), 60)]), "{name}");
        assert_eq!(answer.read_if(&listed, |_| false), (Err(Unread::Unasked), vec![]), "{name}");
        let other_name = Wire::answer("x.pkg.dev", 1).record(1, 60, &V4);
        assert_eq!(other_name.read_if(&listed, |it| it == asked), (Err(Unread::Unasked), vec![]), "{name}");
        let mut other_number = Wire(answer.0.clone());
        other_number.0[1] ^= 1;
        assert_eq!(other_number.read_if(&listed, |it| it == asked), (Err(Unread::Unasked), vec![]), "{name}");
        assert_eq!(answer.asked(&listed), None, "an answer is no question");
        assert_eq!(Wire::question(name).read_if(&listed, |_| true), (Err(Unread::Irrelevant), vec![]), "{name}");
    }
    assert_eq!(Wire::question("shop.example").asked(&listed), None);
    assert_eq!(Wire::answer("shop.example", 1).read_if(&listed, |_| panic!("not listed")).0, Err(Unread::Irrelevant));
    let question = Wire::question("ghcr.io");
    let end = question.0.len() - 5;
    assert!((0..end).all(|length| Wire(question.0[..length].to_vec()).asked(&listed).is_none()), "cut short");
}

#[test]
fn every_byte_of_a_question_is_a_field() {
    assert_eq!(size_of::<Question>(), 2 * size_of::<Address>() + 8 + 2 + 2 + 4, "no padding between");
}

#[test]
fn names_in_full_are_stepped_over() {
    let mut wire = Wire::answer("ghcr.io", 1);
    wire.name("some.very.long.name.that.is.not.compressed");
    let wire = wire.rest(1, 5, &V4);
    assert_eq!(wire.read(&[("ghcr.io", EXACT)]), (Ok(()), vec![(mapped(V4), 5)]));
}

#[test]
fn what_is_no_answer_teaches_nothing() {
    let listed = [("ghcr.io", EXACT)];
    let good = Wire::answer("ghcr.io", 1).record(1, 1, &V4);
    for (offset, value, what) in [
        (2, 0x01, "a query"),
        (2, 0x91, "another opcode"),
        (3, 0x83, "NXDOMAIN"),
        (5, 0, "no question"),
        (5, 2, "two questions"),
        (7, 0, "no records"),
        (12, 0xc0, "a question that is compressed"),
        (12, 0x45, "a label of a reserved kind"),
        (13, 0xe4, "a letter that is not ASCII"),
    ] {
        let mut wire = Wire(good.0.clone());
        wire.0[offset] = value;
        assert_eq!(wire.read(&listed), (Err(Unread::Irrelevant), vec![]), "{what}");
    }
    assert_eq!(good.read(&listed).0, Ok(()));
}

#[test]
fn what_breaks_off_keeps_what_came_before() {
    let listed = [("ghcr.io", EXACT)];
    let wire = Wire::answer("ghcr.io", 2).record(1, 1, &V4).record(1, 1, &[10, 0, 0, 2]);
    for length in 0..wire.0.len() {
        let (outcome, learned) = Wire(wire.0[..length].to_vec()).read(&listed);
        assert!(outcome.is_err(), "{length} bytes");
        assert!(learned.len() <= 1, "{length} bytes");
    }
    let endless = (0..40).fold(Wire::answer("ghcr.io", 40), |wire, last| wire.record(1, 1, &[10, 0, 0, last]));
    let (outcome, learned) = endless.read(&listed);
    assert_eq!((outcome, learned.len()), (Err(Unread::Broken), RECORDS_MAX));
}

/// A reader of the plain kind, to compare with: allocates, recurses over compression, knows no bounds.
fn plainly(wire: &[u8], exact: &str) -> Option<Vec<(Address, u32)>> {
    let word = |at: usize| Some(u16::from_be_bytes([*wire.get(at)?, *wire.get(at + 1)?]));
    let mut at = 12;
    let mut labels = Vec::new();
    loop {
        match *wire.get(at)? as usize {
            0 => break,
            length => labels.push(String::from_utf8_lossy(wire.get(at + 1..at + 1 + length)?).to_lowercase()),
        }
        at += 1 + *wire.get(at)? as usize;
    }
    if labels.join(".") != exact {
        return None;
    }
    at += 5;
    let mut learned = Vec::new();
    for _ in 0..word(6)? {
        while !matches!(wire.get(at)?, 0 | 0xc0..) {
            at += 1 + *wire.get(at)? as usize;
        }
        at += if wire[at] == 0 { 1 } else { 2 };
        let ttl_s = u32::from(word(at + 4)?) << 16 | u32::from(word(at + 6)?);
        let data = wire.get(at + 10..at + 10 + word(at + 8)? as usize)?;
        match (word(at)?, data.len()) {
            (1, 4) => learned.push((mapped([data[0], data[1], data[2], data[3]]), ttl_s)),
            (28, 16) => learned.push((data.try_into().expect("16 bytes"), ttl_s)),
            _ => {}
        }
        at += 10 + data.len();
    }
    Some(learned)
}

fn records() -> impl Strategy<Value = Vec<(u16, u32, Vec<u8>)>> {
    let data = |length: usize| prop::collection::vec(any::<u8>(), length);
    let record = prop_oneof![
        (Just(1), any::<u32>(), data(4)),
        (Just(28), any::<u32>(), data(16)),
        (any::<u16>(), any::<u32>(), (0..40usize).prop_flat_map(data)),
    ];
    prop::collection::vec(record, 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn any_bytes_at_all_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..600), everything: bool) {
        let mut buffer = [0; MESSAGE_MAX_BYTES];
        buffer[..bytes.len()].copy_from_slice(&bytes);
        let mut learned = 0;
        let listed = |_| if everything { EXACT | BELOW } else { 0 };
        let message = Message { buffer: &mut buffer, length: bytes.len() };
        let _ = read_answer(message, |value| value, listed, |_| true, |_, _| learned += 1);
        prop_assert!(everything || learned == 0);
        buffer[..bytes.len()].copy_from_slice(&bytes);
        let message = Message { buffer: &mut buffer, length: bytes.len() };
        prop_assert!(everything || read_question(message, |value| value, listed).is_none());
    }

    #[test]
    fn good_answers_are_read_as_a_plain_reader_does(records in records(), cut in 0usize..2000, flip in 0usize..2000) {
        let wire = Wire::answer("quay.io", records.len() as u16);
        let mut wire = records.iter().fold(wire, |wire, (kind, ttl_s, data)| wire.record(*kind, *ttl_s, data));
        let listed = [("quay.io", EXACT)];
        prop_assert_eq!(Some(wire.read(&listed).1), plainly(&wire.0, "quay.io"));
        // Damaged, it may say something else, but not break anything, nor teach from beyond its end.
        let place = flip % wire.0.len();
        wire.0[place] ^= 0x55;
        wire.0.truncate(cut.max(1));
        let (outcome, learned) = wire.read(&listed);
        if outcome.is_ok() && wire.0[4..6] == [0, 1] {
            prop_assert_eq!(Some(learned), plainly(&wire.0, "quay.io"));
        }
    }
}
