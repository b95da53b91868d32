//! Pulls a manifest in the way that a runtime is set up for: the proof that its pulls will come through the appliance.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use entrepot_core::docker_hub;
use entrepot_core::error::said;
use entrepot_core::host::RegistryHost;
use entrepot_core::media::AcceptClass;
use entrepot_core::name::{Reference, RepositoryName};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt, Limited};
use ipnet::IpNet;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::appliance::Appliance;
use super::plan::PlanError;
use super::target::Target;
use super::{Mode, Runtime};
use entrepot_config::ready::{AccessMode, NoProxy, ParentProxy, Upstream as Settings};
use entrepot_core::origin::{Origin, Scheme};
use entrepot_observe::metrics::Metrics;
use entrepot_upstream::address_policy::Purpose;
use entrepot_upstream::credential::Credential;
use entrepot_upstream::error::{Refusal, RefusedBy, UpstreamError};
use entrepot_upstream::http_client::HttpClient;
use entrepot_upstream::operation::Operation;
use entrepot_upstream::own::Ourselves;
use entrepot_upstream::registry_client::{RegistryClient, UpstreamMemory};
use entrepot_upstream::upstream_registry::UpstreamRegistry;

/// The image whose manifest is pulled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Image {
    registry: RegistryHost,
    /// The registry as people write it, such as `docker.io`.
    name: String,
    repository: RepositoryName,
    reference: Reference,
}

/// The outcome.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The manifest came through the appliance.
    Pulled,
    /// The appliance answered with another status than 200: upstream's, or its own refusal.
    Answered(Said),
    /// An answer came, but it is not the appliance's.
    Bypassed(Said),
    /// No answer came, for this reason.
    Failed(String),
}

/// An answer in words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Said {
    pub status: StatusCode,
    /// The text of the answer, in one line. None if it has none for people.
    pub text: Option<String>,
}

/// The certificates that count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trust {
    /// The appliance's too, whether or not this machine trusts it: for the test before anything is installed.
    Appliance,
    /// Those that this machine trusts: for the test after the installation.
    Machine,
}

const DEADLINE: Duration = Duration::from_secs(30);
const MANIFEST_MAX_BYTES: usize = 8 << 20;
/// The types that runtimes accept.
const MANIFESTS: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
/// Every reply of entrepot has this header, refusals too, and it replaces what upstream sent
/// (`entrepot_net::http::exchange`). Some registries have a header of this name, with ids of other forms. `X-Cache`
/// tells less: refusals lack it, and content networks send one.
const X_REQUEST_ID: &str = "x-request-id";
/// The length of entrepot's ids (`entrepot_observe::request_id`).
const REQUEST_ID_DIGITS: usize = 16;

impl Image {
    /// Reads `REGISTRY/REPOSITORY[:TAG]`, as people write it.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, rest) = text.split_once('/')?;
        let (repository, tag) = rest.rsplit_once(':').unwrap_or((rest, "latest"));
        let repository = match name == docker_hub::NAME && !repository.contains('/') {
            true => format!("library/{repository}"),
            false => repository.to_owned(),
        };
        let host = if name == docker_hub::NAME { docker_hub::REGISTRY } else { name };
        Some(Self {
            registry: host.parse().ok()?,
            name: name.to_owned(),
            repository: repository.parse().ok()?,
            reference: tag.parse().ok()?,
        })
    }
}

impl fmt::Display for Image {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}:{}", self.name, self.repository, self.reference)
    }
}

impl Verdict {
    /// The reason why pulls do not go through the appliance. None if they do.
    pub fn failure(&self, mode: Mode, image: &Image) -> Option<String> {
        match self {
            Self::Pulled | Self::Answered(_) => None,
            Self::Failed(reason) => Some(reason.clone()),
            Self::Bypassed(said) => Some(match mode {
                // The request went to the appliance in any case.
                Mode::Proxy => format!(
                    "{host} answered {said}, and the appliance passes connections to it on unread; add it to \
                     intercept.registries there, or look with an image of another registry (--verify-image)",
                    host = image.name
                ),
                Mode::Mirror => format!("the answer is not the appliance's: {said}; another program listens there"),
                Mode::Redirect => format!("the answer came by another way: {said}"),
            }),
        }
    }
}

impl fmt::Display for Said {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.status)?;
        self.text.as_ref().map_or(Ok(()), |text| write!(formatter, ": {text}"))
    }
}

/// Pulls the manifest of `image` as a runtime does that is set up in this way.
pub async fn verify(
    (runtime, mode): (Runtime, Mode),
    appliance: &Appliance,
    target: &Target,
    image: &Image,
    trust: Trust,
) -> Result<Verdict, PlanError> {
    let settings = settings(mode, appliance, trust);
    let mut operation =
        Operation::manifest(Method::GET, &image.repository, &image.reference, AcceptClass::of(MANIFESTS));
    let registry = match mode {
        Mode::Proxy | Mode::Redirect => {
            let scheme = if image.registry.port() == 80 { Scheme::Http } else { Scheme::Https };
            registry(image.registry.clone(), scheme)
        }
        Mode::Mirror => {
            let mirror = target.mirror_for(runtime)?;
            operation.path.push_str(&format!("?ns={}", image.name));
            let (scheme, port) = if mirror.is_plain() { (Scheme::Http, 80) } else { (Scheme::Https, 443) };
            match RegistryHost::parse(&mirror.authority, port) {
                Ok(host) => registry(host, scheme),
                Err(error) => return Ok(Verdict::Failed(format!("{}: {error}", mirror.authority))),
            }
        }
    };
    let asked = tokio::time::timeout(DEADLINE, ask(settings, registry, operation)).await;
    Ok(asked.unwrap_or_else(|_| Verdict::Failed(format!("no answer within {} s", DEADLINE.as_secs()))))
}

async fn ask(settings: Settings, registry: UpstreamRegistry, operation: Operation) -> Verdict {
    // Off the event loop: this reads the system's certificates from the disk.
    let client = tokio::task::spawn_blocking(move || HttpClient::new(&settings, &[], &Ourselves::default())).await;
    let Ok(client) = client else { return Verdict::Failed("the system's certificates cannot be read".to_owned()) };
    let memory = UpstreamMemory::new(Arc::new(Metrics::new()), HeaderValue::from_static("1.1 entrepot-client-setup"));
    let upstream = RegistryClient::new(client, Arc::new(memory));
    let answer = match upstream.execute(&registry, &operation, &Credential::Answered(None)).await {
        Err(error) => return Verdict::Failed(reason(&error, &registry.origin.host)),
        Ok(answer) => answer,
    };
    let (status, is_ours) = (answer.status, is_of_entrepot(&answer.headers));
    let body = Limited::new(answer.body, MANIFEST_MAX_BYTES).collect().await;
    match body.map(|body| body.to_bytes()) {
        Ok(_) if is_ours && status == StatusCode::OK => Verdict::Pulled,
        Err(error) if is_ours && status == StatusCode::OK => Verdict::Failed(error.to_string()),
        body => {
            let text = body.ok().filter(|_| status != StatusCode::OK).and_then(|body| said(&body));
            let said = Said { status, text };
            if is_ours { Verdict::Answered(said) } else { Verdict::Bypassed(said) }
        }
    }
}

/// The reason why there is no answer. The words of the proxy or a token server are repeated as they are.
fn reason(error: &UpstreamError, host: &RegistryHost) -> String {
    if let Some(Refusal { by, status, said }) = error.answered() {
        let said = Said { status, text: said.map(str::to_owned) };
        return match by {
            RefusedBy::ParentProxy => format!("the proxy answered {said}"),
            RefusedBy::TokenServer => format!("the token server of {host} answered {said}"),
        };
    }
    match error.untrusted() {
        Some(why) => format!("the certificate that came for {host} is not trusted here: {why}"),
        None => error.to_string(),
    }
}

/// Whether the answer has an id of entrepot's form: 16 lower-case hexadecimal digits.
fn is_of_entrepot(headers: &HeaderMap) -> bool {
    headers.get(X_REQUEST_ID).is_some_and(|id| {
        id.len() == REQUEST_ID_DIGITS && id.as_bytes().iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
    })
}

fn registry(host: RegistryHost, scheme: Scheme) -> UpstreamRegistry {
    let (headers, header_methods, realms, heard_via, patience) = Default::default();
    UpstreamRegistry {
        origin: Origin { scheme, host },
        access: AccessMode::Strict,
        headers,
        header_methods,
        realms,
        purpose: Purpose::Registry,
        heard_via,
        patience,
    }
}

fn settings(mode: Mode, appliance: &Appliance, trust: Trust) -> Settings {
    let host = RegistryHost::parse(&appliance.proxy.to_string(), appliance.proxy.port()).ok();
    let proxy = host.filter(|_| mode == Mode::Proxy).map(|host| ParentProxy { host, authorization: None });
    let ca = CertificateDer::from_pem_slice(appliance.ca.pem.as_bytes()).ok();
    Settings {
        proxy,
        no_proxy: NoProxy::default(),
        extra_roots: ca.filter(|_| trust == Trust::Appliance).into_iter().collect(),
        verify: true,
        connect_timeout: DEADLINE,
        check_connect_timeout: DEADLINE,
        check_timeout: DEADLINE,
        read_timeout: DEADLINE,
        send_timeout: DEADLINE,
        tunnel_idle_timeout: DEADLINE,
        tunnel_connect_timeout: DEADLINE,
        ipv6: true,
        // The appliance may be this machine.
        allow_addresses: vec![IpNet::from(appliance.proxy.ip())],
    }
}

#[cfg(test)]
mod tests {
    use entrepot_observe::request_id::RequestId;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::discovery::facts::Facts;
    use crate::discovery::probe::CaCertificate;

    /// An answer with this body, which closes the connection.
    fn answer(status: &str, headers: &str, body: &str) -> String {
        let length = body.len();
        format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}")
    }

    /// The verdict on a mirror that gives each request this status and these headers.
    async fn verdict_on(status: &str, headers: &str) -> Verdict {
        let image = Image::parse("docker.io/busybox").expect("an image");
        verdict((Runtime::Containerd, Mode::Mirror), &image, &answer(status, headers, "{}"), "").await
    }

    /// The verdict on an appliance that answers each request with the first text, and what follows it on the same
    /// connection with the second.
    async fn verdict(way: (Runtime, Mode), image: &Image, first: &str, second: &str) -> Verdict {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let proxy = listener.local_addr().expect("an address");
        let answers = [first, second].map(|answer| answer.as_bytes().to_vec());
        let server = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                for answer in answers.iter().filter(|answer| !answer.is_empty()) {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {}
                    stream.write_all(answer).await.expect("sent");
                }
            }
        });
        let facts = Facts { registry_http_port: Some(proxy.port()), ..Facts::new(proxy.port(), "00") };
        let (host, ca) = (proxy.ip().to_string(), CaCertificate { pem: String::new(), sha256: "00".to_owned() });
        let target = Target {
            host: host.clone(),
            proxy_port: proxy.port(),
            registry_http_port: facts.registry_http_port,
            docker_mirror_port: None,
            registry_https_port: None,
            ca_pem: String::new(),
            ca_sha256: ca.sha256.clone(),
            registries: Vec::new(),
        };
        let appliance = Appliance { host, proxy, facts, ca };
        let verdict = verify(way, &appliance, &target, image, Trust::Machine).await.expect("a verdict");
        server.abort();
        verdict
    }

    #[tokio::test]
    async fn an_answer_came_through_the_appliance_if_it_has_an_id_of_its_form() {
        let own = format!("X-Request-Id: {}\r\n", RequestId::next());
        assert_eq!(verdict_on("200 OK", &own).await, Verdict::Pulled);
        let refused = Verdict::Answered(Said { status: StatusCode::FORBIDDEN, text: None });
        assert_eq!(verdict_on("403 Forbidden", &own).await, refused, "a refusal has no X-Cache");
        for others in [
            "",
            "X-Cache: Miss from cloudfront\r\n",
            "X-Request-Id: 5b1c4f0e-8a52-4d0c-b9a3-0f4f2b8f5a11\r\n",
            "X-Request-Id: 0123456789ABCDEF\r\n",
        ] {
            let other = Verdict::Bypassed(Said { status: StatusCode::OK, text: None });
            assert_eq!(verdict_on("200 OK", others).await, other, "{others:?}");
        }
    }

    /// The check says who answered and what, whichever way the answer came.
    #[tokio::test]
    async fn the_check_repeats_what_was_said() {
        let own = format!("X-Request-Id: {}\r\n", RequestId::next());
        let said = |text: &str| format!(r#"{{"errors":[{{"code":"X","message":"{text}"}}]}}"#);
        let no_dns = "entrepot: upstream reg.test is unreachable (resolving its name): no such name";
        let open = "HTTP/1.1 200 OK\r\n\r\n";
        let (proxy, mirror) = ((Runtime::Docker, Mode::Proxy), (Runtime::Containerd, Mode::Mirror));
        // Port 80 is asked in plain HTTP, so the fake needs no certificate.
        let image = Image::parse("reg.test:80/team/app").expect("an image");
        for (way, first, second, expected) in [
            // The proxy opens no tunnel.
            (
                proxy,
                answer("502 Bad Gateway", &own, &said(no_dns)),
                String::new(),
                Some(format!("the proxy answered 502 Bad Gateway: {no_dns}")),
            ),
            (
                proxy,
                answer("403 Forbidden", "", "tunnels are not allowed\n"),
                String::new(),
                Some("the proxy answered 403 Forbidden: tunnels are not allowed".to_owned()),
            ),
            (
                proxy,
                answer("404 Not Found", "", "<html></html>"),
                String::new(),
                Some("the proxy answered 404 Not Found".to_owned()),
            ),
            // The appliance answers in the registry's place.
            (proxy, open.to_owned(), answer("404 Not Found", &own, &said("manifest unknown")), None),
            (proxy, open.to_owned(), answer("502 Bad Gateway", &own, &said(no_dns)), None),
            // A registry that the appliance does not read answers by itself.
            (
                proxy,
                open.to_owned(),
                answer("404 Not Found", "", &said("manifest unknown")),
                Some(
                    "reg.test:80 answered 404 Not Found: manifest unknown, and the appliance passes connections to it on \
                     unread; add it to intercept.registries there, or look with an image of another registry \
                     (--verify-image)"
                        .to_owned(),
                ),
            ),
            (mirror, answer("404 Not Found", &own, &said("manifest unknown")), String::new(), None),
            (
                mirror,
                answer("404 Not Found", "Server: other\r\n", "nothing here\n"),
                String::new(),
                Some(
                    "the answer is not the appliance's: 404 Not Found: nothing here; another program listens there"
                        .to_owned(),
                ),
            ),
        ] {
            let verdict = verdict(way, &image, &first, &second).await;
            assert_eq!(verdict.failure(way.1, &image), expected, "{first} {second}");
            if let Verdict::Answered(said) = &verdict {
                assert!(said.to_string().contains(": "), "the text is repeated: {said}");
            }
        }
    }

    #[test]
    fn images_are_read_as_people_write_them() {
        let image = |text| Image::parse(text).map(|image| format!("{}/{}", image.registry, image.repository.as_str()));
        assert_eq!(image("docker.io/busybox"), image("docker.io/library/busybox:latest"));
        assert_eq!(image("docker.io/a/b:1").as_deref(), Some("registry-1.docker.io/a/b"));
        assert_eq!(image("reg:5000/x:y").as_deref(), Some("reg:5000/x"));
        for bad in ["busybox", "docker.io/", "docker.io/A:b", "docker.io/a:b c"] {
            assert_eq!(image(bad), None, "{bad}");
        }
    }
}
