//! The registries of the test internet: docker-registry behind a front. The front has the certificate of the name, asks
//! for authentication as the real registry does, counts, and can fail or redirect.

use std::net::SocketAddr;
use std::sync::Arc;

use http::StatusCode;
use http::header::AUTHORIZATION;

use crate::backend::Backend;
use crate::front::{Front, error, forward};
use crate::images::{Image, Index};
use crate::ledger::Ledger;
use crate::serve::{Server, http};
use crate::tokens::Rights;
use crate::world::{World, address_of};

/// The authentication that a registry wants.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// No authentication.
    Open,
    /// A password on every request.
    Basic,
    /// A token from `realm`.
    Bearer {
        /// The token server's address.
        realm: &'static str,
        /// Its name for the registry.
        service: &'static str,
    },
}

/// The address and the properties of a registry.
#[derive(Clone, Copy)]
pub struct Site {
    pub host: &'static str,
    pub port: u16,
    /// Whether it speaks TLS.
    pub tls: bool,
    pub auth: Auth,
    /// The prefix of names of its images, without the repository.
    pub prefix: &'static str,
}

/// Docker Hub, with a separate token server.
pub const HUB: Site = Site {
    host: "registry-1.docker.io",
    port: 443,
    tls: true,
    auth: Auth::Bearer { realm: "https://auth.docker.io/token", service: "registry.docker.io" },
    prefix: "docker.io",
};
/// GitHub's registry.
pub const GHCR: Site = Site {
    host: "ghcr.io",
    port: 443,
    tls: true,
    auth: Auth::Bearer { realm: "https://ghcr.io/token", service: "ghcr.io" },
    prefix: "ghcr.io",
};
/// Red Hat's registry.
pub const QUAY: Site = Site {
    host: "quay.io",
    port: 443,
    tls: true,
    auth: Auth::Bearer { realm: "https://quay.io/v2/auth", service: "quay.io" },
    prefix: "quay.io",
};
/// A private registry with passwords, on a port of its own.
pub const PRIVATE: Site =
    Site { host: "reg.private.test", port: 5000, tls: true, auth: Auth::Basic, prefix: "reg.private.test:5000" };
/// A registry without TLS.
pub const PLAIN: Site =
    Site { host: "plain.test", port: 5001, tls: false, auth: Auth::Open, prefix: "plain.test:5001" };
/// One of a wildcard's registries, open to every client.
pub const PKG: Site = Site { host: "eu.pkg.dev", port: 443, tls: true, auth: Auth::Open, prefix: "eu.pkg.dev" };

/// A running registry.
pub struct Upstream<'w> {
    /// The requests that it got.
    pub ledger: Ledger,
    world: &'w World,
    front: Arc<Front>,
    backend: Backend,
    servers: Vec<Server>,
}

/// A host that blobs are redirected to.
pub struct Cdn {
    /// The requests that it got.
    pub ledger: Ledger,
    _server: Server,
}

impl<'w> Upstream<'w> {
    /// Starts `site`, and its token server.
    pub fn start(world: &'w World, site: Site) -> Self {
        let address: SocketAddr = format!("{}:{}", address_of(site.host), site.port).parse().expect("an address");
        let backend_port = match address {
            SocketAddr::V4(v4) => 6000 + u16::from(v4.ip().octets()[3]),
            SocketAddr::V6(_) => unreachable!("this internet is IPv4"),
        };
        let backend = Backend::start(world, backend_port);
        let ledger = Ledger::default();
        let front = Arc::new(Front::new(site, ledger.clone(), backend_port));
        let handler = {
            let front = Arc::clone(&front);
            http(move |request| Arc::clone(&front).answer(request))
        };
        let tls = |host| site.tls.then(|| world.authority.server(&[host], &["h2", "http/1.1"]));
        let mut servers = vec![Server::start(&world.internet, address, tls(site.host), Arc::clone(&handler))];
        if site.host == HUB.host {
            let token_host = "auth.docker.io";
            let address = format!("{}:443", address_of(token_host)).parse().expect("an address");
            servers.push(Server::start(&world.internet, address, tls(token_host), handler));
        }
        Self { ledger, world, front, backend, servers }
    }

    /// Uploads an image; returns the name that clients pull.
    pub fn publish(&self, image: &Image, repository: &str, tag: &str) -> String {
        self.backend.publish(self.world, image, repository, tag);
        self.name(repository, tag)
    }

    /// Uploads a list; returns the name that clients pull.
    pub fn publish_index(&self, index: &Index, repository: &str, tag: &str) -> String {
        self.backend.publish_index(self.world, index, repository, tag);
        self.name(repository, tag)
    }

    /// The digest that the registry itself has for a tag.
    pub fn digest_of(&self, repository: &str, tag: &str) -> String {
        self.backend.digest_of(self.world, repository, tag)
    }

    /// The name of an image of this registry for clients.
    pub fn name(&self, repository: &str, tag: &str) -> String {
        format!("{}/{repository}:{tag}", self.front.site.prefix)
    }

    /// The URL of a path in this registry.
    pub fn url(&self, path: &str) -> String {
        let Site { host, port, tls, .. } = self.front.site;
        match (tls, port) {
            (true, 443) => format!("https://{host}{path}"),
            (true, port) => format!("https://{host}:{port}{path}"),
            (false, port) => format!("http://{host}:{port}{path}"),
        }
    }

    /// Accounts, private repositories, tokens.
    pub fn rights(&self) -> &Rights {
        &self.front.rights
    }

    /// Refuses connections, the token server's too.
    pub fn off(&self) {
        self.servers.iter().for_each(Server::switch_off);
    }

    /// Accepts connections again.
    pub fn on(&self) {
        self.servers.iter().for_each(Server::switch_on);
    }

    /// Answers blob GETs with a redirect to a CDN.
    pub fn redirect_blobs(&self, code: StatusCode, host: &'static str) {
        *self.front.redirect.lock().expect("no holder panics") = Some((code, host));
    }

    /// Answers all requests of the registry API with this status. None makes the answers correct again.
    pub fn fail_with(&self, status: Option<StatusCode>) {
        *self.front.failing.lock().expect("no holder panics") = status;
    }
}

impl Cdn {
    /// Starts a CDN with every registry's blobs. Like real ones, it refuses an Authorization header.
    pub fn start(world: &World, host: &'static str) -> Self {
        let ledger = Ledger::default();
        let address = format!("{}:443", address_of(host)).parse().expect("an address");
        let seen = ledger.clone();
        let handler = http(move |request| {
            let ledger = seen.clone();
            async move {
                let path = request.uri().path().to_owned();
                ledger.record(request.method(), &path, request.headers());
                let place = path[1..].split_once('/').and_then(|(port, rest)| Some((port.parse().ok()?, rest)));
                match place {
                    Some((port, rest)) if !request.headers().contains_key(AUTHORIZATION) => {
                        forward(port, &format!("/{rest}"), host, request, &ledger).await
                    }
                    _ => error(StatusCode::BAD_REQUEST, "INVALID"),
                }
            }
        });
        let tls = world.authority.server(&[host], &["h2", "http/1.1"]);
        Self { ledger, _server: Server::start(&world.internet, address, Some(tls), handler) }
    }
}
