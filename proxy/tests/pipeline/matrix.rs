//! The rights matrix, generated: no client gets a private byte that upstream, asked with the client's own credential or
//! with the shared account, would refuse (T1 in docs/threats.md), and no client gets a wrong byte. A cell is a client, an
//! object, a state of the image here and upstream, a way to ask, a second registry, and an account.
//!
//! A world is made for each state, second registry and account; its cells are asked in it, those of strangers first. The
//! model is one function, [`Cell::verdict`]. A run asks a part of all cells, chosen by a seed that changes each day and is
//! printed; `ENTREPOT_MATRIX=all` asks all of them, `ENTREPOT_MATRIX=<seed>` repeats a run.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::Method;

use crate::harness::{
    Answer, Ask, Gate, Image, NOBODY, Proxy, Reading, Reply, Setup, TokenServer, Upstream, bytes, digest_of, eventually,
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Client {
    Nothing,
    AnonymousToken,
    OthersToken,
    Revoked,
    Expired,
    WrongScope,
    Valid,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Object {
    Tag,
    Digest,
    Blob,
    Range,
    Head,
    Referrers,
    Artefact,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Cold,
    Filling,
    Paused,
    Warm,
    Stale,
    Offline,
    GonePrivate,
    Gone,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Proxy,
    /// A connection that was led here: it is to the registry already.
    Transparent,
    Ns,
    PathMirror,
    /// Plain HTTP to a name that is listed with https.
    Port80,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Second {
    Honest,
    /// It tells the right length, breaks off, and then has nothing.
    Claims,
    Lies,
    Hangs,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Account {
    None,
    Shared,
    Strict,
    Refused,
}

const CLIENTS: [Client; 7] = [
    Client::Nothing,
    Client::AnonymousToken,
    Client::OthersToken,
    Client::Revoked,
    Client::Expired,
    Client::WrongScope,
    Client::Valid,
];
const OBJECTS: [Object; 7] =
    [Object::Tag, Object::Digest, Object::Blob, Object::Range, Object::Head, Object::Referrers, Object::Artefact];
const STATES: [State; 8] = [
    State::Cold,
    State::Filling,
    State::Paused,
    State::Warm,
    State::Stale,
    State::Offline,
    State::GonePrivate,
    State::Gone,
];
const WAYS: [Way; 5] = [Way::Proxy, Way::Transparent, Way::Ns, Way::PathMirror, Way::Port80];
const SECONDS: [Second; 4] = [Second::Honest, Second::Claims, Second::Lies, Second::Hangs];
const ACCOUNTS: [Account; 4] = [Account::None, Account::Shared, Account::Strict, Account::Refused];
/// The cells of one run.
const CELLS_MIN: usize = 5000;
/// One of this many cells is asked.
const PART: u64 = 5;
/// The same of the cells of the client with the right.
const PART_OF_VALID: u64 = 3;

const ARTEFACT: &str = "/team/secret/-/archive.tgz";
const REPOSITORY: &str = "team/secret";

/// What upstream's rules say about a cell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    /// The client gets the content.
    Given,
    /// It may get it or an error, never other bytes.
    Permitted,
    /// It gets no byte of it, and does not hear that it exists.
    Refused,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Cell {
    client: Client,
    object: Object,
    state: State,
    way: Way,
    account: Account,
}

impl Cell {
    /// The model. Upstream gives everything of the repository to one user, and to the account.
    fn verdict(self) -> Verdict {
        // A login that comes by a mirror name is for us, and upstream does not see it.
        let is_mirror = matches!(self.way, Way::Ns | Way::PathMirror);
        let by_client = self.client == Client::Valid && !is_mirror;
        // The account stands in for registry content only, and only where requests are answered here.
        let by_account = self.account == Account::Shared && self.object != Object::Artefact && self.way != Way::Port80;
        let is_up = !matches!(self.state, State::Stale | State::Offline | State::Gone);
        match (by_client, by_account) {
            (true, _) if is_up => Verdict::Given,
            (true, _) | (_, true) => Verdict::Permitted,
            (false, false) => Verdict::Refused,
        }
    }

    fn exists(self) -> bool {
        !(self.object == Object::Artefact && matches!(self.way, Way::Ns | Way::PathMirror))
    }
}

/// A registry with a private image, a proxy before it, and the image in its state.
struct World {
    upstream: Upstream,
    second: Upstream,
    proxy: Proxy,
    image: Image,
    archive: Bytes,
    claim: String,
    /// A token that stands for nobody, of upstream or, where the account stands in, of entrepot.
    anonymous: String,
    gate: Gate,
    second_gate: Gate,
    _reading: Option<Reading>,
}

impl World {
    async fn new(state: State, second_is: Second, account: Account) -> Self {
        let (upstream, second) = (Upstream::start().await, Upstream::start().await);
        let (image, archive) = (Image::new(REPOSITORY, 7), bytes(8, 70_000));
        let (gate, second_gate) = (Gate::closed(), Gate::closed());
        image.publish(&upstream, "1");
        let content = Answer::content(image.layer.clone());
        let layer = match state {
            State::Filling | State::Paused => content.gated_at(30_000, &gate),
            _ => content,
        };
        upstream.blob_as(REPOSITORY, &image.layer_digest, layer);
        let referrers = format!(r#"{{"schemaVersion":2,"manifests":[],"annotations":{{"a":"{}"}}}}"#, secret_text());
        upstream.on(&referrers_path(&image), move |_| Answer::json(200, referrers.clone()));
        let kept = archive.clone();
        upstream.on(ARTEFACT, move |seen| match seen.header("authorization") {
            "Bearer token-of-alice" => Answer::content(kept.clone()),
            _ => Answer::json(401, "{}").header("www-authenticate", "Basic realm=\"fake\""),
        });
        let server = TokenServer::protect(&upstream);
        for (user, repository) in [("alice", REPOSITORY), ("robot", REPOSITORY), ("bob", "team/other")] {
            server.allow(user, repository);
        }
        let claim = format!("/v2/second/app/blobs/{}", image.layer_digest);
        let lie = Answer::content(bytes(9, image.layer.len()));
        match second_is {
            Second::Honest => second.blob_as("second/app", &image.layer_digest, Answer::content(image.layer.clone())),
            Second::Lies => second.blob_as("second/app", &image.layer_digest, lie),
            Second::Hangs => second.blob_as("second/app", &image.layer_digest, lie.head_gated(&second_gate)),
            Second::Claims => {
                let (digest, begun) = (image.layer_digest.to_string(), AtomicBool::new(false));
                second.on(&claim, move |seen| {
                    match seen.method == Method::HEAD || !begun.swap(true, Ordering::Relaxed) {
                        true => lie.clone().header("docker-content-digest", &digest).reset_after(0),
                        false => Answer::json(404, "{}"),
                    }
                });
            }
        }
        let mut setup = Setup::of(&[&upstream, &second])
            .set("cache", r"patterns = ['\.tgz$']")
            .set("intercept", &format!("registries = [\"localhost:{}\"]", upstream.address.port()))
            .set("proxy", &format!("tunnel_ports = [{}]", upstream.address.port()));
        setup = match account {
            Account::None => setup,
            Account::Shared => setup.account(&upstream, "robot", "robot-password"),
            Account::Strict => setup
                .account(&upstream, "robot", "robot-password")
                .set(&Setup::registry(&upstream), "access = \"strict\""),
            Account::Refused => setup.account(&upstream, "robot", "ran-out"),
        };
        let proxy = setup.start().await;
        let mut world = Self {
            upstream,
            second,
            proxy,
            image,
            archive,
            claim,
            anonymous: String::new(),
            gate,
            second_gate,
            _reading: None,
        };
        world.fetch_a_token().await;
        world.reach(state, &server).await;
        world
    }

    /// Comes to a token as docker does: a challenge names the realm.
    async fn fetch_a_token(&mut self) {
        let challenge = self.proxy.get(&self.upstream, "/v2/").send().await;
        let challenge = challenge.header("www-authenticate");
        let realm = challenge.split("realm=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a realm");
        let path = realm.strip_prefix(&self.upstream.url("")).expect("on the registry itself");
        let token = self.proxy.get(&self.upstream, &format!("{path}?service=fake&scope=repository:{REPOSITORY}:pull"));
        let token: serde_json::Value = serde_json::from_slice(&token.send().await.body).expect("JSON");
        self.anonymous = token["token"].as_str().expect("a token").to_owned();
    }

    async fn reach(&mut self, state: State, server: &TokenServer) {
        match state {
            State::Cold => {}
            State::Filling => {
                let ask = alice(self.proxy.get(&self.upstream, &self.image.layer_path()));
                let mut reading = ask.start().await;
                reading.read(1).await;
                self.gate.reached().await;
                self._reading = Some(reading);
            }
            State::Paused => {
                let ask = alice(self.proxy.get(&self.upstream, &self.image.layer_path()));
                let mut reading = ask.start().await;
                reading.read(1).await;
                self.gate.reached().await;
                self.proxy.pull.inflight.drain().await;
                reading.until_it_ends().await;
            }
            State::Warm => self.warm().await,
            State::Stale => {
                self.warm().await;
                self.upstream.guard(|_| Some(Answer::json(503, "{}")));
            }
            State::Offline => {
                self.warm().await;
                self.upstream.stop().await;
            }
            State::Gone => {
                self.warm().await;
                self.upstream.guard(|_| Some(Answer::json(404, "{}")));
            }
            State::GonePrivate => {
                // Another image of the repository was public a moment ago.
                let old = Image::new(REPOSITORY, 6);
                old.publish(&self.upstream, "0");
                server.allow(NOBODY, REPOSITORY);
                for path in [old.tag_path("0"), old.layer_path()] {
                    self.proxy.get(&self.upstream, &path).bearer(&self.anonymous).send().await;
                }
                server.revoke(NOBODY, REPOSITORY);
                self.warm().await;
            }
        }
    }

    /// Ends what still runs, so that the next world begins alone.
    async fn end(self) {
        self.gate.open();
        self.second_gate.open();
        self.proxy.pull.inflight.drain().await;
    }

    async fn warm(&self) {
        for (path, content) in
            [(self.image.tag_path("1"), &self.image.manifest), (self.image.layer_path(), &self.image.layer)]
        {
            alice(self.proxy.get(&self.upstream, &path)).send().await.is_whole(content);
        }
        alice(self.proxy.get(&self.upstream, ARTEFACT)).send().await.is_whole(&self.archive);
        self.proxy.landed().await;
    }

    async fn ask(&self, cell: Cell) -> Option<Reply> {
        let path = match cell.object {
            Object::Tag => self.image.tag_path("1"),
            Object::Digest => self.image.manifest_path(),
            Object::Blob | Object::Range | Object::Head => self.image.layer_path(),
            Object::Referrers => referrers_path(&self.image),
            Object::Artefact => ARTEFACT.to_owned(),
        };
        let method = if cell.object == Object::Head { Method::HEAD } else { Method::GET };
        let host = self.upstream.host();
        let ask = match cell.way {
            Way::Proxy | Way::Transparent => self.proxy.ask(method, &self.upstream, &path),
            Way::Ns => self.proxy.registry(method, &format!("{path}?ns={host}")),
            Way::PathMirror => self.proxy.registry(method, &path.replacen("/v2/", &format!("/v2/{host}/"), 1)),
            Way::Port80 => self.proxy.ask_host(method, &format!("localhost:{}", self.upstream.address.port()), &path),
        };
        let ask = match cell.client {
            Client::Nothing => ask,
            Client::AnonymousToken => ask.bearer(&self.anonymous),
            Client::OthersToken => ask.bearer("token-of-bob"),
            Client::Revoked => ask.bearer("token-of-carol"),
            Client::Expired => ask.bearer("token-of-yesterday"),
            Client::WrongScope => ask.bearer("token-of-alice-for-another"),
            Client::Valid => alice(ask),
        };
        let ask = if cell.object == Object::Range { ask.range("100-4195") } else { ask };
        match cell.way {
            Way::Transparent => ask.start_over(self.proxy.visit(&self.upstream, 1 << 20)).await.rest().await.ok(),
            _ => ask.try_send().await.ok(),
        }
    }

    /// Compares an answer with the model. None as answer is one that broke off.
    fn judge(&self, cell: Cell, reply: Option<&Reply>) {
        let verdict = cell.verdict();
        let Some(reply) = reply else {
            assert_ne!(verdict, Verdict::Given, "{cell:?}: the answer broke off");
            return;
        };
        let is_success = (200..300).contains(&reply.status);
        if verdict == Verdict::Refused {
            assert!(!self.has_secret(&reply.body), "{cell:?}: private bytes with {}", reply.status);
            assert!(!is_success, "{cell:?}: {} {}", reply.status, reply.cache());
            assert_eq!(reply.header("docker-content-digest"), "", "{cell:?}: it heard that it exists");
        }
        assert!(verdict != Verdict::Given || is_success, "{cell:?}: {} {}", reply.status, reply.text());
        if is_success {
            let expected: &[u8] = match cell.object {
                Object::Tag | Object::Digest => &self.image.manifest,
                Object::Blob => &self.image.layer,
                Object::Range => &self.image.layer[100..4196],
                Object::Head => &[],
                Object::Referrers => return,
                Object::Artefact => &self.archive,
            };
            assert!(reply.body == expected, "{cell:?}: wrong bytes, {} {}", reply.status, reply.cache());
        }
    }

    fn has_secret(&self, body: &[u8]) -> bool {
        let layer = &self.image.layer;
        let (manifest, text) = (&self.image.manifest, secret_text());
        let secrets = [&manifest[manifest.len() / 2..][..64], &layer[..64], &layer[100..164], &layer[40_000..40_064]];
        let secrets = secrets.into_iter().chain([&self.archive[..64], text.as_bytes()]);
        secrets.into_iter().any(|secret| body.windows(secret.len()).any(|window| window == secret))
    }

    /// A stranger asks the second registry for the digest.
    async fn ask_second(&self, second_is: Second, state: State) {
        for range in [None, Some("0-99")] {
            let ask = self.proxy.get(&self.second, &self.claim);
            let ask = range.map_or(ask.clone(), |range| ask.range(range));
            if second_is == Second::Hangs {
                // It is asked once and never answers. The client leaves; what comes later joins that fetch.
                let asking = tokio::spawn(ask.try_send());
                let is_asked = || self.second.seen().iter().any(|seen| seen.path == self.claim);
                eventually("the second registry is asked", is_asked).await;
                asking.abort();
                continue;
            }
            let Ok(reply) = ask.try_send().await else { continue };
            let is_given = self.has_secret(&reply.body);
            assert!(
                !is_given || second_is == Second::Honest,
                "{second_is:?} {state:?}: private bytes, {}",
                reply.status
            );
        }
    }
}

fn alice(ask: Ask) -> Ask {
    ask.bearer("token-of-alice")
}

fn referrers_path(image: &Image) -> String {
    format!("/v2/{REPOSITORY}/referrers/{}", image.manifest_digest)
}

fn secret_text() -> String {
    digest_of(b"the secret of the referrers").hex()
}

/// Mixes a seed and a number (splitmix64).
fn mixed(seed: u64, number: u64) -> u64 {
    let mut z = seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[tokio::test]
async fn no_cell_gives_a_private_or_a_wrong_byte() {
    let choice = std::env::var("ENTREPOT_MATRIX").unwrap_or_default();
    let today = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() / 86_400;
    let (is_all, seed) = (choice == "all", choice.parse().unwrap_or(today));
    println!("ENTREPOT_MATRIX={seed}");
    let (mut number, mut asked) = (0, 0);
    for state in STATES {
        for second_is in SECONDS {
            for account in ACCOUNTS {
                let world = World::new(state, second_is, account).await;
                world.ask_second(second_is, state).await;
                for client in CLIENTS {
                    if client == Client::Valid {
                        world.gate.open();
                    }
                    for object in OBJECTS {
                        for way in WAYS {
                            let cell = Cell { client, object, state, way, account };
                            number += 1;
                            let part = if client == Client::Valid { PART_OF_VALID } else { PART };
                            let is_chosen = is_all || mixed(seed, number).is_multiple_of(part);
                            // A client with the right waits for a fetch that stands still.
                            let waits = cell.verdict() != Verdict::Refused
                                && client != Client::Valid
                                && matches!(state, State::Filling | State::Paused);
                            if !cell.exists() || !is_chosen || waits {
                                continue;
                            }
                            world.judge(cell, world.ask(cell).await.as_ref());
                            asked += 1;
                        }
                    }
                }
                world.ask_second(second_is, state).await;
                world.end().await;
            }
        }
    }
    println!("{asked} of {number} cells");
    assert!(asked >= CELLS_MIN, "{asked} cells");
}
