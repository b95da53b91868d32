//! What administrators are told about a pause, and whose pause it is.

use std::fmt::Write;
use std::sync::Arc;

use entrepot_config::from_text;
use entrepot_core::secret::Secret;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use super::*;

/// Keeps every event as `LEVEL field=value …`.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

struct Line<'a>(&'a mut String);

impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        write!(self.0, " {field}={value:?}").expect("text");
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut line = event.metadata().level().to_string();
        event.record(&mut Line(&mut line));
        self.0.lock().expect("no panic").push(line);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

fn hub() -> Origin {
    "registry-1.docker.io".parse().expect("an origin")
}

fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    lines.iter().map(|(name, value)| (name.parse().expect("a name"), HeaderValue::from_static(value))).collect()
}

fn robot() -> Credential {
    let text = "[[credentials]]\nregistry = \"docker.io\"\nusername = \"robot\"\npassword = \"secret\"\n";
    let account = from_text(text).expect("configuration").live.credentials.remove(0);
    Credential::Answered(Some(Login::of_account(&account, false)))
}

fn ask(governors: &Governors, credential: &Credential) -> Asking {
    governors.ask(&hub(), Subject::Registry, credential).ok().expect("it may be asked")
}

#[test]
fn one_event_names_the_registry_the_credential_and_until_when() {
    let login = Login::new("alice", &Secret::new("secret"));
    let header = Credential::Header(login.basic().clone());
    for (credential, name) in [
        (Credential::None, "anonymous".to_owned()),
        (Credential::Answered(None), "anonymous".to_owned()),
        (robot(), "account robot".to_owned()),
        (header, format!("a client's login {}", login.id())),
        (Credential::Answered(Some(login.clone())), format!("a client's login {}", login.id())),
    ] {
        for (lines, why, source) in [
            (&[("retry-after", "60")][..], "too often", "not told"),
            (
                &[
                    ("retry-after", "60"),
                    ("ratelimit-limit", "100;w=21600"),
                    ("ratelimit-remaining", "0"),
                    ("docker-ratelimit-source", "192.0.2.7"),
                ],
                "pull quota is used up",
                "192.0.2.7",
            ),
        ] {
            let (events, governors) = (Lines::default(), Governors::default());
            tracing::subscriber::with_default(events.clone(), || {
                let asked: Vec<_> = (0..30).map(|_| ask(&governors, &credential)).collect();
                for asking in asked {
                    governors.refused(asking, headers(lines), Bytes::new());
                }
                assert!((0..30).all(|_| governors.ask(&hub(), Subject::Registry, &credential).is_err()));
            });
            let events = events.0.lock().expect("no panic");
            let [event] = &events[..] else { panic!("one event: {events:?}") };
            for said in ["WARN", "registry=registry-1.docker.io", &format!("credential=\"{name}\""), why, source, "GMT"]
            {
                assert!(event.contains(said), "{said}: {event}");
            }
            assert!(!event.contains("secret") && !event.contains(login.basic().expose()), "{event}");
        }
    }
}

#[test]
fn a_pause_is_for_one_registry_source_and_principal() {
    let governors = Governors::default();
    let of_source = |source| headers(&[("docker-ratelimit-source", source), ("retry-after", "60")]);
    let token = |text: &str| Credential::Header(Secret::new(text));
    governors.note_token(CredentialId::of("Bearer one"), CredentialId::ANONYMOUS);
    governors.note_token(CredentialId::of("Bearer two"), CredentialId::ANONYMOUS);
    let before = ask(&governors, &token("Bearer one"));
    governors.refused(ask(&governors, &token("Bearer one")), of_source("192.0.2.7"), Bytes::from_static(b"words"));
    for credential in [token("Bearer two"), Credential::None, Credential::Answered(None)] {
        let withheld = governors.ask(&hub(), Subject::Registry, &credential).err().expect("its principal waits");
        assert_eq!((&*withheld.body, &withheld.headers[RETRY_AFTER]), (&b"words"[..], &HeaderValue::from(60)));
    }
    assert!(governors.ask(&hub(), Subject::Other, &Credential::None).is_ok(), "its token server is another matter");
    for credential in [token("Bearer three"), token("Basic eDp5"), robot()] {
        ask(&governors, &credential);
    }
    assert!(governors.ask(&"ghcr.io".parse().expect("an origin"), Subject::Registry, &Credential::None).is_ok());
    assert_eq!(governors.standing(), Standing { rate_pauses: 1, ..Standing::default() });
    // The registry counts for another address now: that is another budget.
    governors.answered(before, &headers(&[("docker-ratelimit-source", "198.51.100.1")]));
    ask(&governors, &Credential::None);
}

#[test]
fn what_upstream_did_not_tell_is_not_told_as_its_word() {
    let governors = Governors::default();
    let first = governors.refused(ask(&governors, &Credential::None), HeaderMap::new(), Bytes::from_static(b"words"));
    let later = governors.ask(&hub(), Subject::Registry, &Credential::None).err().expect("it waits");
    for withheld in [first, later] {
        assert!(!withheld.headers.contains_key(RETRY_AFTER) && withheld.body == "words");
    }
}

#[test]
fn a_token_server_that_said_429_makes_its_registry_wait() {
    let governors = Governors::default();
    let Credential::Answered(Some(login)) = robot() else { panic!("an account") };
    governors.token_refused(&hub(), Some(&login), headers(&[("retry-after", "9")]), Bytes::new());
    assert!(
        governors.ask(&hub(), Subject::Registry, &robot()).is_err()
            && governors.ask(&hub(), Subject::Registry, &Credential::None).is_ok()
    );
}
