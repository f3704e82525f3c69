//! An own CA per topology, and certificates from it for each object's servers and agents.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use api::{Resolved, names};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use kube::Api;
use kube::api::PostParams;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};

use super::apply::{apply, refusal};
use super::secrets::describe;
use super::{Trouble, call};
use crate::Context;
use crate::watches::Child;

/// Annotation: what a certificate was issued for. It is issued anew when that is something else.
const ISSUED_FOR: &str = "k8s.mariadb.com/issued-for";
const CA_DAYS: i64 = 3650;
const LEAF_DAYS: i64 = 365;

const CA_CERTIFICATE: &str = "ca.crt";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// A topology's CA.
pub(super) struct Ca {
    certificate: String,
    key: String,
}

/// Whose a certificate is, and what for.
pub(super) struct Leaf<'a> {
    pub(super) secret: String,
    pub(super) common_name: &'a str,
    pub(super) names: &'a [String],
}

fn trouble(what: &str, error: impl std::fmt::Display) -> Trouble {
    Trouble::Certificate { what: what.to_owned(), message: error.to_string() }
}

fn text(secret: &Secret, key: &str) -> Option<String> {
    String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok()
}

fn data<const N: usize>(entries: [(&str, &str); N]) -> BTreeMap<String, ByteString> {
    entries.map(|(key, value)| (key.to_owned(), ByteString(value.as_bytes().to_vec()))).into()
}

/// Validity of so many days from yesterday (clocks differ).
fn validity(params: &mut CertificateParams, days: i64, now: Timestamp) {
    let day = |days: i64| {
        let date = now.to_zoned(TimeZone::UTC).saturating_add(days.days()).date();
        rcgen::date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    (params.not_before, params.not_after) = (day(-1), day(days));
}

/// Names of the longest that objects may have fit: X.509 allows 64 characters (RFC 5280, `ub-common-name`).
fn common_name(root: &str) -> String {
    format!("{root} CA")
}

/// A Secret that somebody else made is neither overwritten nor trusted.
fn refuse_others(secret: &Secret, owner: (&str, &str)) -> Result<(), Trouble> {
    let name = secret.metadata.name.as_deref().unwrap_or_default();
    refusal("Secret", name, &Child::of(&secret.metadata), owner).map_or(Ok(()), Err)
}

fn new_ca(root: &str, now: Timestamp) -> Result<Ca, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name(root));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    validity(&mut params, CA_DAYS, now);
    let key = KeyPair::generate()?;
    Ok(Ca { certificate: params.self_signed(&key)?.pem(), key: key.serialize_pem() })
}

/// The CA of a topology; the root's own loop makes it (`maker`: metadata of what it makes).
pub(super) async fn ca(context: &Context, root: &Resolved, maker: Option<&ObjectMeta>) -> Result<Ca, Trouble> {
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &root.namespace);
    let name = names::ca(&root.name);
    let what = || format!("Secret {name} (the topology's CA)");
    if let Some(secret) = call(what, api.get_opt(&name)).await? {
        refuse_others(&secret, (&root.name, &root.uid))?;
        if let Some(meta) = maker {
            describe(&api, &secret, meta).await?;
        }
        return match (text(&secret, CERTIFICATE), text(&secret, KEY)) {
            (Some(certificate), Some(key)) => Ok(Ca { certificate, key }),
            _ => Err(Trouble::Certificate { what: what(), message: format!("it has no {CERTIFICATE} or no {KEY}") }),
        };
    }
    let Some(meta) = maker else {
        return Err(Trouble::Waiting {
            reason: "CertificateNotReady",
            message: format!("waiting for the MariaDB {} to make the Secret {name}", root.name),
        });
    };
    let ca = new_ca(&root.name, Timestamp::now()).map_err(|error| trouble(&what(), error))?;
    let secret = Secret {
        metadata: ObjectMeta { name: Some(name.clone()), ..meta.clone() },
        data: Some(data([(CA_CERTIFICATE, &ca.certificate), (CERTIFICATE, &ca.certificate), (KEY, &ca.key)])),
        type_: Some("kubernetes.io/tls".to_owned()),
        ..Secret::default()
    };
    let post = PostParams { field_manager: Some(names::RESOURCES_MANAGER.to_owned()), ..PostParams::default() };
    call(what, api.create(&post, &secret)).await?;
    Ok(ca)
}

fn issue(ca: &Ca, leaf: &Leaf<'_>, now: Timestamp) -> Result<(String, String), rcgen::Error> {
    let issuer = Issuer::from_ca_cert_pem(&ca.certificate, KeyPair::from_pem(&ca.key)?)?;
    let mut params = CertificateParams::new(leaf.names.to_vec())?;
    for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        params.subject_alt_names.push(SanType::IpAddress(address));
    }
    params.distinguished_name.push(DnType::CommonName, leaf.common_name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyAgreement];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    validity(&mut params, LEAF_DAYS, now);
    let key = KeyPair::generate()?;
    Ok((params.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
}

/// Sees to it that a certificate for these names exists.
pub(super) async fn ensure(
    context: &Context,
    namespace: &str,
    ca: &Ca,
    leaf: &Leaf<'_>,
    meta: &ObjectMeta,
) -> Result<(), Trouble> {
    let api: Api<Secret> = Api::namespaced(context.client.clone(), namespace);
    let what = || format!("Secret {} (a certificate)", leaf.secret);
    let issued_for = manifests::hash(&(leaf.common_name, leaf.names, &ca.certificate));
    if let Some(secret) = call(what, api.get_opt(&leaf.secret)).await? {
        let (owner, uid) = Child::of(meta).owner.unwrap_or_default();
        refuse_others(&secret, (&owner, &uid))?;
        let annotations = secret.metadata.annotations.as_ref();
        let same = annotations.and_then(|all| all.get(ISSUED_FOR)) == Some(&issued_for);
        if same && text(&secret, CERTIFICATE).is_some() && text(&secret, KEY).is_some() {
            return describe(&api, &secret, meta).await;
        }
    }
    let (certificate, key) = issue(ca, leaf, Timestamp::now()).map_err(|error| trouble(&what(), error))?;
    let mut metadata = ObjectMeta { name: Some(leaf.secret.clone()), ..meta.clone() };
    metadata.annotations.get_or_insert_default().insert(ISSUED_FOR.to_owned(), issued_for);
    let secret = Secret {
        metadata,
        data: Some(data([(CA_CERTIFICATE, &ca.certificate), (CERTIFICATE, &certificate), (KEY, &key)])),
        type_: Some("kubernetes.io/tls".to_owned()),
        ..Secret::default()
    };
    apply(&api, &secret).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_name_fits_into_the_cas() {
        assert!(common_name(&"n".repeat(names::MAX_NAME)).len() <= 64);
    }

    #[test]
    fn a_certificate_is_trusted_by_its_ca() {
        let now = Timestamp::now();
        let ca = new_ca("db", now).expect("a CA");
        let names = ["db-0.default.svc".to_owned(), "*.db-internal.default.svc".to_owned()];
        let leaf = Leaf { secret: "db-agent-tls".into(), common_name: protocol::AGENT_COMMON_NAME, names: &names };
        let (certificate, key) = issue(&ca, &leaf, now).expect("a certificate");
        let identity = protocol::Identity {
            ca: ca.certificate.into_bytes(),
            certificate: certificate.into_bytes(),
            key: key.into_bytes(),
        };
        identity.server().expect("a server's configuration");
        identity.client().expect("a client's configuration");
    }
}
