//! The certificates that TLS trusts upstream (threat T17): the system's roots and those of the configuration, but never
//! our own authority's.
//!
//! Each trust profile has its own rustls configuration, so that a session without verification is never resumed where
//! verification is on. The verifier that accepts everything is private to this file.

use std::sync::Arc;

use entrepot_core::host::RegistryHost;
use entrepot_core::origin::OriginPattern;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::ParsedCertificate;
use rustls::version::{TLS12, TLS13};
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use tracing::warn;
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

use entrepot_config::ready::{RegistryPolicy, Upstream};

/// The trust profiles: the default, and those of registries with their own settings.
pub(crate) struct Trust {
    default: Arc<ClientConfig>,
    registries: Vec<(OriginPattern, Arc<ClientConfig>)>,
}

/// TLS sessions that each profile keeps for resumption.
const SESSIONS_MAX: usize = 512;

impl Trust {
    /// Reads the system's roots from disk (`SSL_CERT_FILE` and `SSL_CERT_DIR` have precedence), so do not call it on the
    /// event loop. No profile trusts the `own` authorities.
    pub(crate) fn new(upstream: &Upstream, registries: &[RegistryPolicy], own: &[CertificateDer<'static>]) -> Self {
        let roots = Roots::new(system_roots(), own);
        let default = roots.profile(&[&upstream.extra_roots], upstream.verify);
        let registries = registries
            .iter()
            .map(|registry| {
                let usual = registry.extra_roots.is_empty() && registry.verify == upstream.verify;
                let config = match usual {
                    true => Arc::clone(&default),
                    false => roots.profile(&[&upstream.extra_roots, &registry.extra_roots], registry.verify),
                };
                (registry.registry.clone(), config)
            })
            .collect();
        Self { default, registries }
    }

    /// The profile for `host`: that of the first matching registry entry, which `Config::registry` uses too.
    pub(crate) fn for_host(&self, host: &RegistryHost) -> &Arc<ClientConfig> {
        self.registries.iter().find(|(registry, _)| registry.covers(host)).map_or(&self.default, |(_, config)| config)
    }
}

fn system_roots() -> Vec<CertificateDer<'static>> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        warn!(%error, "a part of the system's certificate store cannot be read; its certificates are not trusted");
    }
    found.certs
}

/// The system's roots, and our own authorities, which are never trusted.
struct Roots {
    system: RootCertStore,
    own: RootCertStore,
}

impl Roots {
    fn new(system: Vec<CertificateDer<'static>>, own: &[CertificateDer<'static>]) -> Self {
        let mut roots = Self { system: RootCertStore::empty(), own: RootCertStore::empty() };
        roots.own.add_parsable_certificates(own.iter().cloned());
        let mut store = RootCertStore::empty();
        let (added, skipped) = store.add_parsable_certificates(system);
        if added == 0 {
            warn!(
                skipped,
                "the system trusts no certificate authority; install ca-certificates or set SSL_CERT_FILE, \
                 else only registries with a ca_file can be reached"
            );
        }
        store.roots.retain(|anchor| !roots.is_own(anchor));
        roots.system = store;
        roots
    }

    fn profile(&self, extra: &[&[CertificateDer<'static>]], verify: bool) -> Arc<ClientConfig> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .expect("aws-lc has cipher suites for TLS 1.2 and 1.3");
        let mut config = if verify {
            let pinned: Vec<_> = extra.concat().into_iter().filter(|certificate| self.accepts(certificate)).collect();
            let mut store = self.system.clone();
            store.add_parsable_certificates(pinned.iter().cloned());
            let store = Arc::new(store);
            match WebPkiServerVerifier::builder_with_provider(Arc::clone(&store), provider).build() {
                Ok(chains) => builder
                    .dangerous()
                    .with_custom_certificate_verifier(Arc::new(Verified { chains, pinned }))
                    .with_no_client_auth(),
                // There are no roots: every handshake fails with "unknown issuer", which tells what is missing.
                Err(_) => builder.with_root_certificates(store).with_no_client_auth(),
            }
        } else {
            let verifier = Arc::new(Unverified { provider });
            builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
        Arc::new(config)
    }

    fn accepts(&self, certificate: &CertificateDer<'static>) -> bool {
        let mut store = RootCertStore::empty();
        let usable = store.add(certificate.clone()).is_ok() && !store.roots.iter().any(|anchor| self.is_own(anchor));
        if !usable {
            warn!("a configured ca_file holds a certificate that is unusable or entrepot's own; it is not trusted");
        }
        usable
    }

    /// Compares keys, so that a renewed or renamed root of ours is recognised.
    fn is_own(&self, anchor: &TrustAnchor<'_>) -> bool {
        self.own.roots.iter().any(|own| own.subject_public_key_info == anchor.subject_public_key_info)
    }
}

/// Verifies chains and names. A server may also present a configured certificate itself. Many registries use a self-signed
/// certificate of `openssl req -x509`, which claims to be an authority. A chain check refuses it even if it is
/// configured as trusted.
#[derive(Debug)]
struct Verified {
    chains: Arc<WebPkiServerVerifier>,
    pinned: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verified {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.pinned.iter().any(|pinned| pinned == end_entity) {
            verify_validity(end_entity, now)?;
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            return Ok(ServerCertVerified::assertion());
        }
        self.chains.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

fn verify_validity(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let seconds = i64::try_from(now.as_secs()).map_err(|_| CertificateError::Expired)?;
    let now = ASN1Time::from_timestamp(seconds).map_err(|_| CertificateError::Expired)?;
    match (now < parsed.validity().not_before, now > parsed.validity().not_after) {
        (true, _) => Err(CertificateError::NotValidYet.into()),
        (_, true) => Err(CertificateError::Expired.into()),
        _ => Ok(()),
    }
}

/// Accepts every certificate (`verify = false`): the connection is encrypted, but the server is unknown. The handshake's
/// signature is not checked either. It would prove nothing, and certificates that need this setting are often malformed.
#[derive(Debug)]
struct Unverified {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Identity, acceptor, names, registry, self_signed, signed, upstream};
    use tokio::io::duplex;
    use tokio_rustls::TlsConnector;

    /// Shakes hands with a server that has `identity`.
    async fn handshake(config: &Arc<ClientConfig>, identity: &Identity, name: &str) -> Result<(), String> {
        let (near, far) = duplex(64 * 1024);
        let acceptor = acceptor(identity, &["http/1.1"]);
        tokio::spawn(async move { acceptor.accept(far).await.map(drop) });
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let shaken = TlsConnector::from(Arc::clone(config)).connect(name, near).await;
        shaken.map(drop).map_err(|error| error.to_string())
    }

    fn with_roots(extra: &CertificateDer<'static>) -> Arc<ClientConfig> {
        Roots::new(Vec::new(), &[]).profile(&[std::slice::from_ref(extra)], true)
    }

    #[tokio::test]
    async fn only_configured_roots_are_trusted_besides_the_systems() {
        let (mine, other) = (signed(), signed());
        let trusting = with_roots(&mine.root);
        handshake(&trusting, &mine, "localhost").await.expect("trusted");
        for (identity, name, said) in [(&other, "localhost", "UnknownIssuer"), (&mine, "ghcr.io", "not valid for name")]
        {
            let error = handshake(&trusting, identity, name).await.expect_err(name);
            assert!(error.contains(said), "{error}");
        }
        let nobody = Roots::new(Vec::new(), &[]).profile(&[], true);
        assert!(handshake(&nobody, &mine, "localhost").await.is_err());
    }

    #[tokio::test]
    async fn a_self_signed_certificate_is_trusted_by_itself_for_its_name_and_time() {
        let identity = self_signed(names());
        let trusting = with_roots(&identity.root);
        handshake(&trusting, &identity, "localhost").await.expect("pinned");
        let error = handshake(&trusting, &identity, "ghcr.io").await.expect_err("another name");
        assert!(error.contains("not valid for name"), "{error}");
        let mut past = names();
        past.not_after = rcgen::date_time_ymd(2020, 1, 1);
        let expired = self_signed(past);
        let error = handshake(&with_roots(&expired.root), &expired, "localhost").await.expect_err("expired");
        assert!(error.contains("xpired"), "{error}");
    }

    #[tokio::test]
    async fn our_own_authority_is_trusted_nowhere() {
        let own = signed();
        let roots = Roots::new(vec![own.root.clone()], std::slice::from_ref(&own.root));
        for profile in [roots.profile(&[], true), roots.profile(&[std::slice::from_ref(&own.root)], true)] {
            assert!(handshake(&profile, &own, "localhost").await.is_err());
        }
        let stranger = Roots::new(vec![own.root.clone()], &[]).profile(&[], true);
        handshake(&stranger, &own, "localhost").await.expect("the system's root counts where it is not ours");
    }

    #[tokio::test]
    async fn registries_have_profiles_of_their_own() {
        let (mine, other) = (signed(), signed());
        let mut lenient = registry("lenient.example");
        lenient.verify = false;
        let mut private = registry("*.private.example:5000");
        private.extra_roots = vec![mine.root.clone()];
        let mut settings = upstream();
        settings.extra_roots = vec![other.root.clone()];
        let trust = Trust::new(&settings, &[lenient, private, registry("plain.example")], &[]);
        for (host, trusts_mine, trusts_other) in [
            ("lenient.example", true, true),
            ("a.private.example:5000", true, true),
            ("a.private.example", false, true),
            ("plain.example", false, true),
            ("ghcr.io", false, true),
        ] {
            let config = trust.for_host(&host.parse().expect(host));
            assert_eq!(handshake(config, &mine, "localhost").await.is_ok(), trusts_mine, "{host}");
            assert_eq!(handshake(config, &other, "localhost").await.is_ok(), trusts_other, "{host}");
        }
        let plain = trust.for_host(&"plain.example".parse().expect("a host"));
        assert!(Arc::ptr_eq(plain, &trust.default), "sessions are shared where trust is the same");
    }

    #[test]
    fn certificates_that_cannot_be_read_are_skipped() {
        let good = signed().root;
        let roots = Roots::new(vec![CertificateDer::from(vec![1, 2, 3]), good.clone()], &[]);
        assert_eq!(roots.system.len(), 1);
        roots.profile(&[&[CertificateDer::from(vec![1, 2, 3])]], true);
    }
}
