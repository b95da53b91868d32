//! A registry that misbehaves as a test says. Each path has a list of answers: each is used once, and the last one for
//! ever. The fake writes its bytes itself, so no library repairs them.

mod wire;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use crate::images::{Image, Index, LIST, MANIFEST};
use crate::ledger::Ledger;
use crate::serve::{Handler, Server};
use crate::world::{World, address_of};

/// The way in which a request for a path is answered.
#[derive(Clone)]
pub enum Answer {
    /// A correct answer, with ranges too.
    Good,
    /// This many bytes of the body, then a TCP reset.
    ResetAfter(usize),
    /// This many bytes of the body, then nothing more on an open connection.
    StallAfter(usize),
    /// This many bytes of the body, then a clean close, although the length was larger.
    ShortAfter(usize),
    /// This many bytes too many. The length includes them.
    LongBy(usize),
    /// This many bytes of the body. The rest follows when the gate is opened.
    Gate(usize),
    /// Pieces of 64 KiB, one in each such interval.
    Paced(Duration),
    /// A body in chunks, without a length.
    Chunked,
    /// The whole body, whatever range was asked for.
    IgnoreRange,
    /// A compressed body, although the request did not ask for one.
    Gzip,
    /// This status with these further header lines (each ending in CRLF) and a small body.
    Status(u16, String),
    /// A redirect.
    Redirect(u16, String),
}

/// A running fake.
pub struct Fake {
    /// The requests that it got.
    pub ledger: Ledger,
    host: &'static str,
    shared: Arc<Shared>,
    server: Server,
}

struct Shared {
    ledger: Ledger,
    resources: Mutex<HashMap<String, Resource>>,
    gate: watch::Sender<bool>,
}

#[derive(Clone)]
struct Resource {
    content_type: String,
    body: Bytes,
    answers: VecDeque<Answer>,
}

/// A gate that holds back the rest of a body.
pub struct Gate(watch::Sender<bool>);

impl Gate {
    /// Opens the gate for good.
    pub fn open(&self) {
        self.0.send_replace(true);
    }
}

impl Fake {
    /// Starts a fake at `host`, port 443.
    pub fn start(world: &World, host: &'static str) -> Self {
        let ledger = Ledger::default();
        let shared = Arc::new(Shared {
            ledger: ledger.clone(),
            resources: Mutex::new(HashMap::new()),
            gate: watch::Sender::new(false),
        });
        let handler: Handler = {
            let shared = Arc::clone(&shared);
            Arc::new(move |conn| {
                let shared = Arc::clone(&shared);
                Box::pin(async move {
                    let _ = shared.converse(conn).await;
                })
            })
        };
        let address = format!("{}:443", address_of(host)).parse().expect("an address");
        let tls = world.authority.server(&[host], &["http/1.1"]);
        let server = Server::start(&world.internet, address, Some(tls), handler);
        let fake = Self { ledger, host, shared, server };
        fake.put("/v2/", "application/json", Bytes::from_static(b"{}"), &[Answer::Good]);
        fake
    }

    /// Sets the content at `path`, and the answers to requests for it.
    pub fn put(&self, path: &str, content_type: &str, body: Bytes, answers: &[Answer]) {
        let resource = Resource { content_type: content_type.to_owned(), body, answers: answers.to_vec().into() };
        self.shared.resources.lock().expect("no holder panics").insert(path.to_owned(), resource);
    }

    /// Sets the answers to requests for `path` from now on.
    pub fn answer(&self, path: &str, answers: &[Answer]) {
        let mut resources = self.shared.resources.lock().expect("no holder panics");
        let resource = resources.get_mut(path).unwrap_or_else(|| panic!("{path} was put before"));
        resource.answers = answers.to_vec().into();
    }

    /// Puts an image under a tag and its digest; returns the name that clients pull.
    pub fn publish(&self, image: &Image, repository: &str, tag: &str) -> String {
        self.put_image(image, repository);
        let path = format!("/v2/{repository}/manifests/{tag}");
        self.put(&path, MANIFEST, image.manifest.clone(), &[Answer::Good]);
        format!("{}/{repository}:{tag}", self.host)
    }

    /// Puts a list and its images under a tag and the digests; returns the name that clients pull.
    pub fn publish_index(&self, index: &Index, repository: &str, tag: &str) -> String {
        index.images.iter().for_each(|image| self.put_image(image, repository));
        for reference in [&index.digest, tag] {
            let path = format!("/v2/{repository}/manifests/{reference}");
            self.put(&path, LIST, index.manifest.clone(), &[Answer::Good]);
        }
        format!("{}/{repository}:{tag}", self.host)
    }

    fn put_image(&self, image: &Image, repository: &str) {
        for blob in &image.blobs {
            let path = format!("/v2/{repository}/blobs/{}", blob.digest);
            self.put(&path, "application/octet-stream", blob.bytes(), &[Answer::Good]);
        }
        let path = format!("/v2/{repository}/manifests/{}", image.digest);
        self.put(&path, MANIFEST, image.manifest.clone(), &[Answer::Good]);
    }

    /// The URL of a path here.
    pub fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.host)
    }

    /// The gate of `Answer::Gate`, for a task.
    pub fn gate(&self) -> Gate {
        Gate(self.shared.gate.clone())
    }

    /// Opens the gate of `Answer::Gate` for good.
    pub fn open_gate(&self) {
        self.gate().open();
    }

    /// Refuses connections.
    pub fn off(&self) {
        self.server.switch_off();
    }

    /// Accepts connections again.
    pub fn on(&self) {
        self.server.switch_on();
    }
}
