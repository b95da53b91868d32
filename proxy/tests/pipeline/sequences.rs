//! Random sequences of requests, grants, revocations, outages and new images, against a model of what upstream has said
//! (T1 in docs/threats.md). The model is told what upstream saw, and nothing of what the proxy remembers.
//!
//! The seed changes each day and is printed; `ENTREPOT_SEQUENCES=<seed>` repeats a run.

use std::time::{SystemTime, UNIX_EPOCH};

use http::Method;

use crate::harness::{Answer, Image, NOBODY, Proxy, TokenServer, Upstream};

const REPOSITORY: &str = "team/app";
const CLIENTS: [&str; 3] = [NOBODY, "alice", "bob"];
const IMAGES: usize = 4;
const SEQUENCES: u64 = 12;
const STEPS: usize = 90;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Health {
    Up,
    Broken,
    Down,
}

/// What upstream has said so far.
#[derive(Default)]
struct Model {
    /// The clients that upstream allows now.
    allowed: [bool; 3],
    /// The clients that upstream served since it last refused them.
    served: [bool; 3],
    /// The images of which anything came through the proxy.
    linked: [bool; IMAGES],
    /// The images that an anonymous client could have been given when or after they came, with no refusal since.
    public: [bool; IMAGES],
}

impl Model {
    /// Whether the client may be given the image, if upstream is in this state.
    fn permits(&self, client: usize, image: usize, health: Health) -> bool {
        // Nobody has no proof of its own: only that content is public.
        let by_proof = self.served[client] && CLIENTS[client] != NOBODY;
        (health == Health::Up && self.allowed[client]) || by_proof || self.public[image]
    }

    /// Upstream answered a request of this client during a request for this image.
    fn hear(&mut self, client: usize, image: usize) {
        let is_yes = self.allowed[client];
        self.served[client] = is_yes;
        self.linked[image] |= is_yes;
        match (CLIENTS[client] == NOBODY, is_yes) {
            (true, true) => self.public = self.linked,
            (true, false) => self.public = [false; IMAGES],
            (false, _) => {}
        }
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

#[tokio::test]
async fn no_sequence_gives_what_upstream_has_not_allowed() {
    let today = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() / 86_400;
    let seed = std::env::var("ENTREPOT_SEQUENCES").ok().and_then(|seed| seed.parse().ok()).unwrap_or(today);
    println!("ENTREPOT_SEQUENCES={seed}");
    let mut given = 0;
    for sequence in 0..SEQUENCES {
        given += run(seed, sequence).await;
    }
    assert!(given > 100, "most requests are refused, so nothing is shown: {given}");
}

/// One sequence. Returns how many requests were answered with content.
async fn run(seed: u64, sequence: u64) -> usize {
    let mut random = Random((seed << 8 | sequence) | 1 << 60);
    let upstream = Upstream::start().await;
    let images: Vec<Image> = (0..IMAGES as u64).map(|number| Image::new(REPOSITORY, 100 + number)).collect();
    images[0].publish(&upstream, "0");
    let (server, mut published, mut health) = (TokenServer::protect(&upstream), 1, Health::Up);
    let (mut model, mut given) = (Model::default(), 0);
    let proxy = Proxy::before(&[&upstream]).await;
    proxy.get(&upstream, &images[0].tag_path("0")).send().await;
    let path = format!("/token?service=fake&scope=repository:{REPOSITORY}:pull");
    assert!(proxy.get(&upstream, &path).send().await.text().contains("token-of-nobody"));
    let mut told = Vec::new();
    for step in 0..STEPS {
        match random.below(12) {
            0 => {
                let client = random.below(CLIENTS.len());
                model.allowed[client] = !model.allowed[client];
                match model.allowed[client] {
                    true => server.allow(CLIENTS[client], REPOSITORY),
                    false => server.revoke(CLIENTS[client], REPOSITORY),
                }
                told.push(format!("{} allowed: {}", CLIENTS[client], model.allowed[client]));
            }
            1 if published < IMAGES => {
                images[published].publish(&upstream, &published.to_string());
                published += 1;
                told.push(format!("{published} images"));
            }
            2 => {
                let next = [Health::Up, Health::Broken, Health::Down][random.below(3)];
                change(&upstream, &server, health, next).await;
                health = next;
                told.push(format!("{health:?}"));
            }
            _ => {
                let (client, image) = (random.below(CLIENTS.len()), random.below(published));
                let what = &images[image];
                let (path, content) = match random.below(3) {
                    0 => (what.tag_path(&image.to_string()), &what.manifest),
                    1 => (what.manifest_path(), &what.manifest),
                    _ => (what.layer_path(), &what.layer),
                };
                told.push(format!("{} asks {path}", CLIENTS[client]));
                upstream.forget();
                let token = format!("token-of-{}", CLIENTS[client]);
                let was_permitted = model.permits(client, image, health);
                let reply = proxy.ask(Method::GET, &upstream, &path).bearer(&token).try_send().await;
                proxy.landed().await;
                let has_asked = upstream.seen().iter().any(|seen| seen.header("authorization").contains(&token));
                if has_asked && health == Health::Up {
                    model.hear(client, image);
                }
                let reply = reply.ok().filter(|reply| reply.status == 200);
                let story = || format!("seed {seed}, sequence {sequence}, step {step}: {}", told.join("; "));
                match reply {
                    Some(reply) => {
                        assert!(reply.body == content, "wrong bytes: {}", story());
                        assert!(was_permitted, "given, {}: {}", reply.cache(), story());
                        given += 1;
                    }
                    None => assert!(!(health == Health::Up && model.allowed[client]), "refused: {}", story()),
                }
            }
        }
    }
    given
}

/// Changes the state of upstream. The rules of the token server are a guard, and so is an outage.
async fn change(upstream: &Upstream, server: &TokenServer, from: Health, to: Health) {
    if from == Health::Down && to != Health::Down {
        upstream.resume().await;
    }
    match to {
        Health::Up => server.guard_again(upstream),
        Health::Broken => upstream.guard(|_| Some(Answer::json(503, "{}"))),
        Health::Down => upstream.stop().await,
    }
}
