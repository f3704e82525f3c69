//! Mutual TLS between controller and agents: one CA a topology.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// A certificate with its key, and the CA that others' certificates must come from. PEM.
#[derive(Clone)]
pub struct Identity {
    /// CA certificates.
    pub ca: Vec<u8>,
    /// Own certificate chain.
    pub certificate: Vec<u8>,
    /// Its key.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity(..)")
    }
}

/// What is wrong with certificates.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The PEM cannot be read.
    #[error("{what} is not readable PEM: {source}")]
    Pem {
        /// Which one.
        what: &'static str,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// The certificates do not make a configuration.
    #[error("certificates do not fit: {0}")]
    Rustls(#[from] rustls::Error),
    /// The CA does not make a verifier.
    #[error("the CA cannot verify clients: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

type Parts = (Arc<RootCertStore>, Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Identity {
    fn parts(&self) -> Result<Parts, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&self.ca) {
            roots.add(certificate.map_err(|source| TlsError::Pem { what: "the CA", source })?)?;
        }
        let chain = CertificateDer::pem_slice_iter(&self.certificate)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|source| TlsError::Pem { what: "the certificate", source })?;
        let key =
            PrivateKeyDer::from_pem_slice(&self.key).map_err(|source| TlsError::Pem { what: "the key", source })?;
        Ok((Arc::new(roots), chain, key))
    }

    /// For connecting to agents.
    pub fn client(&self) -> Result<ClientConfig, TlsError> {
        let (roots, chain, key) = self.parts()?;
        Ok(ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?)
    }

    /// For serving as an agent: a client certificate of the same CA is needed.
    pub fn server(&self) -> Result<ServerConfig, TlsError> {
        let (roots, chain, key) = self.parts()?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build()?;
        Ok(ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?)
    }
}
