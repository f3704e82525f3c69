//! The controller's own client certificate for a topology's agents: issued in memory from the topology's CA.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use protocol::Identity;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose};
use rustls::ClientConfig;

#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    #[error("the secret {secret} has no {key}")]
    Missing { secret: String, key: &'static str },
    #[error("{key} of the secret {secret} is not understood: {message}")]
    Malformed { secret: String, key: &'static str, message: String },
    #[error("a client certificate could not be issued: {message}")]
    Issue { message: String },
}

fn entry<'a>(secret: &'a Secret, name: &str, key: &'static str) -> Result<&'a [u8], TlsError> {
    let missing = || TlsError::Missing { secret: name.to_owned(), key };
    secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice()).ok_or_else(missing)
}

/// Issues a certificate for a week and makes the TLS set-up that trusts the topology's CA alone.
pub(super) fn client_config(secret: &Secret, now: Timestamp) -> Result<Arc<ClientConfig>, TlsError> {
    let name = secret.metadata.name.clone().unwrap_or_default();
    let malformed = |key: &'static str, message: String| TlsError::Malformed { secret: name.clone(), key, message };
    let trusted = entry(secret, &name, "ca.crt")?;
    let text = |key: &'static str| {
        std::str::from_utf8(entry(secret, &name, key)?).map_err(|error| malformed(key, error.to_string()))
    };
    let ca_key = KeyPair::from_pem(text("tls.key")?).map_err(|error| malformed("tls.key", error.to_string()))?;
    let issuer =
        Issuer::from_ca_cert_pem(text("tls.crt")?, ca_key).map_err(|error| malformed("tls.crt", error.to_string()))?;

    let issue = |message: String| TlsError::Issue { message };
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, protocol::CONTROLLER_COMMON_NAME);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    // Whole days are enough, from yesterday (clocks differ) to next week; links are made anew far more often.
    let day = |days: i64| {
        let date = now.to_zoned(TimeZone::UTC).saturating_add(days.days()).date();
        rcgen::date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    (params.not_before, params.not_after) = (day(-1), day(8));
    let key = KeyPair::generate().map_err(|error| issue(error.to_string()))?;
    let certificate = params.signed_by(&key, &issuer).map_err(|error| issue(error.to_string()))?;

    let identity = Identity {
        ca: trusted.to_vec(),
        certificate: certificate.pem().into_bytes(),
        key: key.serialize_pem().into_bytes(),
    };
    identity.client().map(Arc::new).map_err(|error| malformed("ca.crt", error.to_string()))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use rcgen::{BasicConstraints, IsCa};

    use super::*;

    #[test]
    fn a_certificate_is_issued_from_the_secret() {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).expect("a CA").pem();
        let data = [("ca.crt", ca.clone()), ("tls.crt", ca), ("tls.key", key.serialize_pem())];
        let mut secret = Secret {
            data: Some(data.map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes()))).into()),
            ..Secret::default()
        };
        assert!(client_config(&secret, Timestamp::now()).is_ok());
        secret.data.as_mut().expect("data").remove("tls.key");
        let error = client_config(&secret, Timestamp::now()).expect_err("no key");
        assert!(error.to_string().contains("has no tls.key"), "{error}");
    }
}
