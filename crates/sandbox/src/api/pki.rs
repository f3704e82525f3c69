//! The sandbox's certificates: an authority, the API server's certificate and the administrator's.

use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::ApiError;

/// A certificate and its key, as PEM.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    pub(super) certificate: String,
    pub(super) key: String,
}

impl Pair {
    pub(super) fn chain(&self) -> Result<Vec<CertificateDer<'static>>, ApiError> {
        CertificateDer::pem_slice_iter(self.certificate.as_bytes()).collect::<Result<_, _>>().map_err(|e| failed(&e))
    }

    pub(super) fn private_key(&self) -> Result<PrivateKeyDer<'static>, ApiError> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(|e| failed(&e))
    }
}

/// All of them. They live as long as the sandbox's state.
#[derive(Debug, Clone)]
pub(super) struct Pki {
    pub(super) authority: Pair,
    pub(super) server: Pair,
    pub(super) administrator: Pair,
}

fn failed(error: &dyn std::fmt::Display) -> ApiError {
    ApiError(format!("certificates: {error}"))
}

impl Pki {
    /// Reads the certificates, or makes those that are missing.
    pub(super) fn open(dir: &Path, api: Ipv4Addr) -> Result<Self, ApiError> {
        std::fs::create_dir_all(dir).map_err(|e| failed(&e))?;
        let authority = load_or(dir, "ca", make_authority)?;
        let issuer = || -> Result<Issuer<'static, KeyPair>, rcgen::Error> {
            Issuer::from_ca_cert_pem(&authority.certificate, KeyPair::from_pem(&authority.key)?)
        };
        let server = load_or(dir, "server", || {
            let names = [
                "localhost",
                "kubernetes",
                "kubernetes.default",
                "kubernetes.default.svc",
                "kubernetes.default.svc.cluster.local",
            ];
            let mut params = CertificateParams::new(names.map(str::to_owned).to_vec())?;
            for address in [Ipv4Addr::LOCALHOST, api] {
                params.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(address)));
            }
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            leaf(params, &[(DnType::CommonName, "kube-apiserver")], &issuer()?)
        })?;
        let administrator = load_or(dir, "admin", || {
            let mut params = CertificateParams::new(Vec::new())?;
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            let subject = [(DnType::OrganizationName, "system:masters"), (DnType::CommonName, "kubernetes-admin")];
            leaf(params, &subject, &issuer()?)
        })?;
        Ok(Self { authority, server, administrator })
    }
}

fn load_or(dir: &Path, name: &str, make: impl FnOnce() -> Result<Pair, rcgen::Error>) -> Result<Pair, ApiError> {
    let (certificate, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
    if let (Ok(certificate), Ok(key)) = (std::fs::read_to_string(&certificate), std::fs::read_to_string(&key)) {
        return Ok(Pair { certificate, key });
    }
    let pair = make().map_err(|e| failed(&e))?;
    // The certificate last: with it the pair is complete.
    write_private(&key, &pair.key)
        .and_then(|()| write_private(&certificate, &pair.certificate))
        .map_err(|e| failed(&e))?;
    Ok(pair)
}

/// Writes a file that only its owner reads, in one step.
pub(super) fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    let temporary = path.with_extension("tmp");
    let _ = std::fs::remove_file(&temporary);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    std::fs::rename(&temporary, path)
}

fn make_authority() -> Result<Pair, rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = name(&[(DnType::CommonName, "sandbox")]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let certificate = params.self_signed(&key)?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn leaf(
    mut params: CertificateParams,
    subject: &[(DnType, &str)],
    issuer: &Issuer<'_, KeyPair>,
) -> Result<Pair, rcgen::Error> {
    let key = KeyPair::generate()?;
    params.distinguished_name = name(subject);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, issuer)?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn name(parts: &[(DnType, &str)]) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    for (kind, value) in parts {
        name.push(kind.clone(), *value);
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_kept() {
        let dir = std::env::temp_dir().join(format!("sandbox-pki-{}", std::process::id()));
        let first = Pki::open(&dir, Ipv4Addr::new(10, 70, 128, 1)).expect("first");
        let second = Pki::open(&dir, Ipv4Addr::new(10, 70, 128, 1)).expect("second");
        assert_eq!(first.server.certificate, second.server.certificate);
        assert_eq!(first.administrator.chain().expect("chain").len(), 1);
        std::fs::remove_dir_all(&dir).expect("cleanup");
    }
}
