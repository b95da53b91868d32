//! Our record layer with rustls as the other side: a real handshake each, then every kind of record.

mod fuzz;
mod peer;

use std::io::{Read, Write};

use entrepot_record::{HEADER_BYTES, RECORD_MAX_BYTES, Received, RecordError, Session};
use peer::{Ciphers, Sealing, handshake, pair, records, suites, suites_of, take};
use rustls::{AlertDescription, ClientConnection, ContentType, ProtocolVersion};

const TLS12: ProtocolVersion = ProtocolVersion::TLSv1_2;
const TLS13: ProtocolVersion = ProtocolVersion::TLSv1_3;

/// A record of ours with this content, behind the control messages that must precede it.
fn sealed(session: &mut Session, content: &[u8]) -> Vec<u8> {
    let sealer = session.sealer().expect("a key");
    let mut record = vec![0; sealer.prefix_bytes()];
    record.extend_from_slice(content);
    record.resize(record.len() + sealer.suffix_bytes(), 0);
    sealer.seal(ContentType::ApplicationData, &mut record).expect("sealed");
    [control(session), record].concat()
}

fn control(session: &mut Session) -> Vec<u8> {
    session.take_control().into_iter().flat_map(|message| message.bytes).collect()
}

/// Content goes from us to the client.
fn say(session: &mut Session, client: &mut ClientConnection, content: &[u8]) {
    take(client, &sealed(session, content));
    let mut read = vec![0; content.len()];
    client.reader().read_exact(&mut read).expect("content");
    assert!(read == content);
}

/// Content goes from the client to us.
fn hear(session: &mut Session, client: &mut ClientConnection, content: &[u8]) {
    client.writer().write_all(content).expect("room");
    let mut read = Vec::new();
    for mut record in records(client) {
        match session.receive(&mut record).expect("an honest record") {
            Received::Data(range) => read.extend_from_slice(&record[range]),
            other => assert_eq!(other, Received::Nothing),
        }
    }
    assert!(read == content);
    take(client, &control(session));
}

fn broken(received: Result<Received, RecordError>) -> AlertDescription {
    match received {
        Err(RecordError::Broken { alert, .. }) => alert,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_suite_of_both_versions_carries_both_directions() {
    assert_eq!((suites_of(TLS13).len(), suites_of(TLS12).len(), suites().len()), (3, 6, 9));
    for suite in suites() {
        let (mut client, mut session) = pair(suite);
        for length in [1, 15, 16, 17, 1000, RECORD_MAX_BYTES - 1, RECORD_MAX_BYTES] {
            let content: Vec<u8> = (0..length).map(|at| (at * 7) as u8).collect();
            say(&mut session, &mut client, &content);
            hear(&mut session, &mut client, &content);
        }
        session.close().expect("closed");
        take(&mut client, &control(&mut session));
        assert_eq!(client.reader().read(&mut [0]).expect("a clean end"), 0);
        client.send_close_notify();
        let mut close = records(&mut client).pop().expect("a record");
        assert_eq!(session.receive(&mut close), Ok(Received::Closed));
    }
}

#[test]
fn a_content_that_is_too_long_is_not_sealed() {
    for suite in suites() {
        let (_, mut session) = pair(suite);
        let sealer = session.sealer().expect("a key");
        let room = sealer.prefix_bytes() + sealer.suffix_bytes();
        for length in [room + RECORD_MAX_BYTES + 1, room - 1, 0] {
            let refused = sealer.seal(ContentType::ApplicationData, &mut vec![0; length]);
            assert_eq!(refused, Err(RecordError::Sealing), "{length}");
        }
    }
}

#[test]
fn keys_change_when_the_client_wants() {
    for suite in suites_of(TLS13) {
        let (mut client, mut session) = pair(suite);
        for _ in 0..5 {
            client.refresh_traffic_keys().expect("TLS 1.3");
            hear(&mut session, &mut client, b"under the client's next key");
            say(&mut session, &mut client, b"under our next key");
        }
    }
}

#[test]
fn keys_change_when_they_are_worn() {
    for suite in suites_of(TLS13) {
        let (mut client, mut session) = pair(suite);
        session.limit_key_use(3);
        let mut updates = 0;
        for _ in 0..12 {
            session.sealer().expect("a key");
            let messages = session.take_control();
            updates += messages.iter().filter(|message| message.kind == ContentType::Handshake).count();
            messages.iter().for_each(|message| take(&mut client, &message.bytes));
            say(&mut session, &mut client, b"an answer");
            hear(&mut session, &mut client, b"a question");
        }
        assert!((3..=6).contains(&updates), "{updates} updates");
    }
}

#[test]
fn a_worn_key_of_tls_1_2_seals_nothing_more() {
    for suite in suites_of(TLS12) {
        let (mut client, mut session) = pair(suite);
        session.limit_key_use(2);
        say(&mut session, &mut client, b"while the key lasts");
        assert_eq!(session.sealer().err(), Some(RecordError::WornOut));
        hear(&mut session, &mut client, b"receiving goes on");
    }
}

#[test]
fn a_kernel_seals_from_where_the_handshake_stopped_and_gets_the_next_keys() {
    for suite in suites_of(TLS13) {
        let (mut client, extracted, secrets) = handshake(suite);
        let (mut session, key) = Session::with_kernel(extracted, secrets).expect("a session");
        assert_eq!(session.sealer().err(), Some(RecordError::Sealing), "the key is the kernel's");
        session.limit_key_use(5);
        let mut kernel = Sealing::new(suite, key);
        let mut changes = 0;
        for round in 0..10u8 {
            if round % 4 == 1 {
                client.refresh_traffic_keys().expect("TLS 1.3");
            }
            client.writer().write_all(&[round]).expect("room");
            for mut record in records(&mut client) {
                session.receive(&mut record).expect("an honest record");
            }
            session.kernel_sealed(1).expect("counted");
            take(&mut client, &kernel.seal(ContentType::ApplicationData, &[round]));
            for message in session.take_control() {
                take(&mut client, &kernel.seal(message.kind, &message.bytes));
                if let Some(key) = message.next_key {
                    kernel = Sealing::new(suite, key);
                    changes += 1;
                }
            }
            let mut read = [255];
            client.reader().read_exact(&mut read).expect("content");
            assert_eq!(read, [round]);
        }
        assert!(changes >= 5, "{changes} changes");
    }
}

#[test]
fn a_changed_record_is_refused_wherever_it_was_changed() {
    for suite in suites() {
        for at in [0, 1, 4, HEADER_BYTES, HEADER_BYTES + 9, usize::MAX] {
            if at == 4 && suite.version().version == TLS12 {
                // There the length is what the record was cut by, and authenticated as that.
                continue;
            }
            let (mut client, mut session) = pair(suite);
            client.writer().write_all(b"twenty-four bytes of text").expect("room");
            let mut record = records(&mut client).remove(0);
            let at = at.min(record.len() - 1);
            record[at] ^= 1;
            let alert = broken(session.receive(&mut record));
            // The client learns why.
            client.read_tls(&mut &control(&mut session)[..]).expect("room");
            let told = client.process_new_packets().expect_err("a fatal alert");
            assert_eq!(told, rustls::Error::AlertReceived(alert), "{suite:?} at {at}");
        }
    }
}

#[test]
fn replayed_and_reordered_records_are_refused() {
    for suite in suites() {
        let (mut client, mut session) = pair(suite);
        client.writer().write_all(b"first").expect("room");
        let first = records(&mut client).remove(0);
        session.receive(&mut first.clone()).expect("once");
        assert_eq!(broken(session.receive(&mut first.clone())), AlertDescription::BadRecordMac);

        let (mut client, mut session) = pair(suite);
        client.writer().write_all(b"first").expect("room");
        client.send_close_notify();
        let mut second = records(&mut client).remove(1);
        assert_eq!(broken(session.receive(&mut second)), AlertDescription::BadRecordMac);
    }
}

#[test]
fn records_that_have_no_place_after_the_handshake_are_refused() {
    for (what, header, length, alert) in [
        ("plain alert", [21, 3, 3, 0, 2], 2, AlertDescription::UnexpectedMessage),
        ("change cipher spec", [20, 3, 3, 0, 1], 1, AlertDescription::UnexpectedMessage),
        ("too short", [23, 3, 3, 0, 3], 3, AlertDescription::BadRecordMac),
        ("empty", [23, 3, 3, 0, 0], 0, AlertDescription::BadRecordMac),
        ("random", [23, 3, 3, 0, 64], 64, AlertDescription::BadRecordMac),
    ] {
        for suite in suites_of(TLS13) {
            let (_, mut session) = pair(suite);
            let mut record = header.to_vec();
            record.resize(HEADER_BYTES + length, 7);
            assert_eq!(broken(session.receive(&mut record)), alert, "{what}");
        }
    }
}

#[test]
fn a_record_that_is_too_long_is_refused_before_it_is_opened() {
    for suite in suites() {
        // RFC 8446 section 5.2; RFC 5288 section 3 with its explicit nonce; RFC 7905 section 2.
        let longest = RECORD_MAX_BYTES
            + match suite.version().version {
                TLS13 => 256,
                _ if format!("{:?}", suite.suite()).contains("CHACHA20") => 16,
                _ => 8 + 16,
            };
        for (length, alert) in
            [(longest, AlertDescription::BadRecordMac), (longest + 1, AlertDescription::RecordOverflow)]
        {
            let (_, mut session) = pair(suite);
            let [high, low] = u16::try_from(length).expect("a length").to_be_bytes();
            let mut record = vec![23, 3, 3, high, low];
            record.resize(HEADER_BYTES + length, 7);
            assert_eq!(broken(session.receive(&mut record)), alert, "{suite:?}, {length}");
        }
    }
}

/// Bytes that look random and are the same in each run (Marsaglia, "Xorshift RNGs", 2003).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| (self.next() >> 32) as u8).collect()
    }
}

#[test]
fn whatever_is_no_record_of_the_client_is_an_error() {
    let mut random = Random(0x5ea1);
    for suite in suites() {
        let (_, mut session) = pair(suite);
        for round in 0..600 {
            let length = if round % 30 == 29 { random.below(18_000) } else { round / 4 };
            let mut record = random.bytes(length);
            if let Some(kind) = record.first_mut().filter(|_| round % 2 == 0) {
                *kind = 23;
            }
            session.receive(&mut record).expect_err("no record");
            assert!(session.take_control().len() <= 1, "at most the alert");
        }
    }
}

#[test]
fn whatever_the_client_seals_has_a_meaning_or_is_an_error() {
    let mut random = Random(0xc0de);
    let (mut understood, mut refused) = (0, 0);
    for suite in suites() {
        for round in 0..30 {
            let (client, mut session) = pair(suite);
            let mut ciphers = Ciphers::of(client, suite);
            for _ in 0..60 {
                let kind = match random.below(4) {
                    0 => random.next() as u8,
                    1 => 20 + random.below(5) as u8,
                    _ => 23,
                };
                let content = match random.below(5) {
                    0 => random.bytes(2),
                    1 => vec![24, 0, 0, 1, random.below(3) as u8],
                    2 => [vec![1, 0], random.bytes(30)].concat(),
                    3 => vec![1, if random.below(2) == 0 { 90 } else { random.next() as u8 }],
                    _ => {
                        let length = random.below(if round % 10 == 0 { RECORD_MAX_BYTES } else { 40 });
                        random.bytes(length)
                    }
                };
                let mut record = ciphers.seal(ContentType::from(kind), &content);
                let received = session.receive(&mut record);
                assert!(session.take_control().len() <= 1, "at most one answer to a record");
                match received {
                    Ok(Received::Data(range)) if kind == 23 => assert!(record[range] == content),
                    // In TLS 1.3 a type of zero is padding, and the content's last byte is the type.
                    Ok(Received::Data(range)) => assert!((kind, range.len() < content.len()) == (0, true)),
                    Ok(Received::Nothing) => {}
                    Ok(Received::Closed) | Err(_) => {
                        refused += 1;
                        break;
                    }
                }
                understood += 1;
            }
        }
    }
    assert!(understood > 100 && refused > 100, "{understood} understood, {refused} refused");
}

#[test]
fn alerts_mean_what_the_versions_say() {
    use AlertDescription::{CloseNotify, DecodeError, InternalError, NoRenegotiation, UserCanceled};
    const WARNING: u8 = 1;
    const FATAL: u8 = 2;
    for suite in suites() {
        let is_tls12 = suite.version().version == TLS12;
        for (level, alert, expected) in [
            (WARNING, CloseNotify, Ok(Received::Closed)),
            (FATAL, CloseNotify, Ok(Received::Closed)),
            (WARNING, UserCanceled, Ok(Received::Nothing)),
            (FATAL, InternalError, Err(RecordError::Alert(InternalError))),
            // In TLS 1.3 the level says nothing, and every other alert ends the connection.
            (
                WARNING,
                NoRenegotiation,
                if is_tls12 { Ok(Received::Nothing) } else { Err(RecordError::Alert(NoRenegotiation)) },
            ),
        ] {
            let (client, mut session) = pair(suite);
            let mut record = Ciphers::of(client, suite).seal(ContentType::Alert, &[level, u8::from(alert)]);
            assert_eq!(session.receive(&mut record), expected, "{suite:?}, {alert:?}");
            assert!(session.take_control().is_empty(), "an alert is not answered");
        }
        for content in [&[][..], &[WARNING], &[WARNING, 0, 0]] {
            let (client, mut session) = pair(suite);
            let mut record = Ciphers::of(client, suite).seal(ContentType::Alert, content);
            assert_eq!(broken(session.receive(&mut record)), DecodeError, "{content:?}");
        }
    }
}

#[test]
fn renegotiation_is_declined_and_the_connection_goes_on() {
    let hello = [1, 0, 0, 0];
    for suite in suites_of(TLS12) {
        let (client, mut session) = pair(suite);
        let mut ciphers = Ciphers::of(client, suite);
        let mut record = ciphers.seal(ContentType::Handshake, &hello);
        assert_eq!(session.receive(&mut record), Ok(Received::Nothing));
        let declined = ciphers.open(&control(&mut session));
        assert_eq!(declined, (ContentType::Alert, vec![1, u8::from(AlertDescription::NoRenegotiation)]));
        let mut record = ciphers.seal(ContentType::ApplicationData, b"more");
        let Ok(Received::Data(content)) = session.receive(&mut record) else { panic!("no data") };
        assert_eq!(&record[content], b"more");
        assert_eq!(ciphers.open(&sealed(&mut session, b"back")), (ContentType::ApplicationData, b"back".to_vec()));
    }
    for suite in suites_of(TLS13) {
        let (client, mut session) = pair(suite);
        let mut record = Ciphers::of(client, suite).seal(ContentType::Handshake, &hello);
        assert_eq!(broken(session.receive(&mut record)), AlertDescription::UnexpectedMessage);
    }
}

/// Empty records, warnings and attempts to renegotiate. Data in between make the count begin anew.
#[test]
fn many_records_in_a_row_that_bring_nothing_end_the_connection() {
    const IDLE: [(ContentType, &[u8]); 3] =
        [(ContentType::ApplicationData, &[]), (ContentType::Alert, &[1, 90]), (ContentType::Handshake, &[1, 0, 0, 0])];
    for suite in suites() {
        let kinds = if suite.version().version == TLS12 { &IDLE[..] } else { &IDLE[..2] };
        for &(kind, content) in kinds {
            let (client, mut session) = pair(suite);
            let mut ciphers = Ciphers::of(client, suite);
            for _ in 0..2 {
                for _ in 0..32 {
                    let received = session.receive(&mut ciphers.seal(kind, content));
                    assert_eq!(received, Ok(Received::Nothing), "{suite:?} {kind:?}");
                }
                let mut data = ciphers.seal(ContentType::ApplicationData, b"data");
                assert!(matches!(session.receive(&mut data), Ok(Received::Data(_))), "{suite:?} {kind:?}");
            }
            for _ in 0..32 {
                session.receive(&mut ciphers.seal(kind, content)).expect("not too many yet");
            }
            let received = session.receive(&mut ciphers.seal(kind, content));
            assert_eq!(broken(received), AlertDescription::UnexpectedMessage, "{suite:?} {kind:?}");
        }
    }
}

#[test]
fn other_handshake_messages_are_refused() {
    for suite in suites() {
        // A new session ticket, a key update with an unknown request, half a key update, nothing.
        for message in [&[4, 0, 0, 0][..], &[24, 0, 0, 1, 2], &[24, 0, 0, 1], &[]] {
            let (client, mut session) = pair(suite);
            let mut record = Ciphers::of(client, suite).seal(ContentType::Handshake, message);
            assert_eq!(broken(session.receive(&mut record)), AlertDescription::UnexpectedMessage, "{message:?}");
        }
    }
}

#[test]
fn padding_is_taken_off_and_bounded() {
    const DATA: u8 = 23;
    for suite in suites_of(TLS13) {
        let (client, mut session) = pair(suite);
        let mut ciphers = Ciphers::of(client, suite);
        // rustls pads nothing. A record of type zero is one whose type is read as padding.
        let mut pad = |content: &[u8]| ciphers.seal(ContentType::Unknown(0), content);
        let mut record = pad(&[b"padded".as_slice(), &[DATA, 0, 0, 0]].concat());
        let Ok(Received::Data(content)) = session.receive(&mut record) else { panic!("no data") };
        assert_eq!(&record[content], b"padded");
        let mut record = pad(&[vec![7; RECORD_MAX_BYTES], vec![DATA, 0]].concat());
        let Ok(Received::Data(content)) = session.receive(&mut record) else { panic!("no data") };
        assert_eq!(content.len(), RECORD_MAX_BYTES);
        let mut record = pad(&[vec![7; RECORD_MAX_BYTES + 1], vec![DATA, 0]].concat());
        assert_eq!(broken(session.receive(&mut record)), AlertDescription::RecordOverflow);
        let mut record = pad(&[0; 20]);
        assert_eq!(broken(session.receive(&mut record)), AlertDescription::UnexpectedMessage);
    }
}

#[test]
fn a_client_that_only_keeps_us_busy_is_ended() {
    for suite in suites_of(TLS13) {
        let (mut client, mut session) = pair(suite);
        let mut updates = 0;
        let ended = loop {
            client.refresh_traffic_keys().expect("TLS 1.3");
            let received = session.receive(&mut records(&mut client).remove(0));
            if received != Ok(Received::Nothing) {
                break received;
            }
            take(&mut client, &control(&mut session));
            updates += 1;
            assert!(updates < 100, "for ever");
        };
        assert_eq!(broken(ended), AlertDescription::UnexpectedMessage);
    }
    for suite in suites() {
        let (client, mut session) = pair(suite);
        let mut ciphers = Ciphers::of(client, suite);
        let empty = |_| session.receive(&mut ciphers.seal(ContentType::ApplicationData, b""));
        let ended = (0..100).map(empty).find(|received| *received != Ok(Received::Nothing)).expect("no end");
        assert_eq!(broken(ended), AlertDescription::UnexpectedMessage);
    }
}
