//! The `rustls::ServerConfig` of a name: the parts that all names share, and that name's certificate.
//!
//! `leaf` keeps the results. All names share tickets and the session cache on purpose. rustls resumes a session only
//! under the SNI that it began with. A client without SNI asks for the session of the name that it dialled. No session
//! carries rights (there is no client authentication), so an attacker gains nothing by mixing sessions.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::{Ticketer, default_provider};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ProducesTickets, ServerSessionMemoryCache, StoresServerSessions};
use rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};
use rustls::{CipherSuite, ServerConfig, version};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// The most sessions of clients without tickets. Each entry is a few hundred bytes.
const SESSIONS_MAX: usize = 4096;

/// AES-128-GCM needs 10 rounds, AES-256 needs 14, and this cipher bounds the cache's TLS bandwidth. The other suites
/// keep rustls' order after these.
const PREFERRED: [CipherSuite; 3] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
];

/// The server that a certificate is for, which decides about its key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Whose {
    /// This server, under its own names.
    Own,
    /// A registry.
    Others,
}

/// The parts that all names share.
pub(super) struct Template {
    provider: Arc<CryptoProvider>,
    ticketer: Arc<dyn ProducesTickets>,
    sessions: Arc<dyn StoresServerSessions>,
    leaf_key: Arc<dyn SigningKey>,
    own_key: Arc<dyn SigningKey>,
}

impl Template {
    /// Prepares the shared parts. `own_key` is that of our own name, `leaf_key` the one key of all other leaves.
    pub(super) fn new(
        leaf_key: PrivateKeyDer<'static>,
        own_key: &PrivateKeyDer<'static>,
    ) -> Result<Self, rustls::Error> {
        let mut provider = default_provider();
        provider.cipher_suites.sort_by_key(|suite| !PREFERRED.contains(&suite.suite()));
        Ok(Self {
            provider: Arc::new(provider),
            ticketer: Ticketer::new()?,
            sessions: ServerSessionMemoryCache::new(SESSIONS_MAX),
            leaf_key: aws_lc_rs::sign::any_supported_type(&leaf_key)?,
            own_key: aws_lc_rs::sign::any_supported_type(own_key)?,
        })
    }

    /// A configuration that always uses `chain`, whatever SNI says, because the dialled name has decided already.
    pub(super) fn config(
        &self,
        chain: Vec<CertificateDer<'static>>,
        whose: Whose,
    ) -> Result<Arc<ServerConfig>, rustls::Error> {
        let key = match whose {
            Whose::Own => &self.own_key,
            Whose::Others => &self.leaf_key,
        };
        let certified = CertifiedKey::new(chain, Arc::clone(key));
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.ignore_client_order = true;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.ticketer = Arc::clone(&self.ticketer);
        config.session_storage = Arc::clone(&self.sessions);
        // Early data can be replayed by any machine on the path, and a push must not happen twice.
        config.max_early_data_size = 0;
        // The record layer after the handshake is ours (`entrepot-record`).
        config.enable_secret_extraction = true;
        Ok(Arc::new(config))
    }
}
