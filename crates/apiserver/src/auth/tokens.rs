//! Tokens of service accounts: JSON Web Tokens, signed with a key of this server's own (HS256:
//! nobody else verifies them).

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use rand::RngCore as _;
use ring::hmac;
use serde_json::{Value, json};

use crate::admission::text;
use crate::identity::Identity;
use crate::server::Server;

/// The audience of tokens for this server, and their issuer.
pub(super) const AUDIENCE: &str = "https://kubernetes.default.svc.cluster.local";

/// Signs tokens, with a key that is kept as long as the server's state.
#[derive(Debug)]
pub(crate) struct Signer(hmac::Key);

impl Signer {
    /// Reads the key from the server's directory, or makes one; without a directory it is new each
    /// time.
    pub(crate) fn open(dir: Option<&Path>) -> std::io::Result<Self> {
        let path = dir.map(|dir| dir.join("token.key"));
        let mut key = [0; 32];
        match path.as_ref().map(std::fs::read) {
            Some(Ok(bytes)) if bytes.len() == key.len() => key.copy_from_slice(&bytes),
            _ => {
                rand::rng().fill_bytes(&mut key);
                if let Some(path) = path {
                    use std::io::Write as _;
                    use std::os::unix::fs::OpenOptionsExt as _;
                    let mut file =
                        std::fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)?;
                    file.write_all(&key)?;
                    file.sync_all()?;
                }
            }
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &key)))
    }

    /// The signed token of these claims.
    fn sign(&self, claims: &Value) -> String {
        let header = BASE64.encode(json!({"alg": "HS256", "typ": "JWT"}).to_string());
        let body = format!("{header}.{}", BASE64.encode(claims.to_string()));
        let signature = BASE64.encode(hmac::sign(&self.0, body.as_bytes()));
        format!("{body}.{signature}")
    }

    /// The claims of a token that this server signed.
    fn read(&self, token: &str) -> Option<Value> {
        let (body, signature) = token.rsplit_once('.')?;
        hmac::verify(&self.0, body.as_bytes(), &BASE64.decode(signature).ok()?).ok()?;
        let (_, claims) = body.split_once('.')?;
        serde_json::from_slice(&BASE64.decode(claims).ok()?).ok()
    }
}

/// What a token is bound to.
pub(super) struct Bound {
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) uid: String,
}

/// Makes a token for a service account.
pub(super) fn issue(
    server: &Server,
    account: &Value,
    audiences: &[String],
    seconds: i64,
    bound: Option<&Bound>,
) -> (String, jiff::Timestamp) {
    let now = jiff::Timestamp::now();
    let expires = now.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or(jiff::Timestamp::MAX);
    let (namespace, name, uid) =
        (text(account, "/metadata/namespace"), text(account, "/metadata/name"), text(account, "/metadata/uid"));
    let mut own = json!({"namespace": namespace, "serviceaccount": {"name": name, "uid": uid}});
    if let Some(bound) = bound {
        own[bound.kind.to_lowercase()] = json!({"name": bound.name, "uid": bound.uid});
    }
    let claims = json!({
        "aud": audiences, "iss": AUDIENCE, "sub": format!("system:serviceaccount:{namespace}:{name}"), "jti": uuid::Uuid::new_v4().to_string(),
        "iat": now.as_second(), "nbf": now.as_second(), "exp": expires.as_second(), "kubernetes.io": own,
    });
    (server.signer().sign(&claims), expires)
}

/// Checks a token: whose it is, and which of the audiences it is for. What it is bound to must
/// still be there.
pub(super) fn verify(server: &Server, token: &str, audiences: &[String]) -> Result<(Identity, Vec<String>), String> {
    let invalid = || "invalid bearer token".to_owned();
    let claims = server.signer().read(token).ok_or_else(invalid)?;
    if claims["exp"].as_i64().unwrap_or(0) < jiff::Timestamp::now().as_second() {
        return Err("[invalid bearer token, service account token has expired]".into());
    }
    let own: Vec<String> =
        claims["aud"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    let shared: Vec<String> = audiences.iter().filter(|a| own.contains(a)).cloned().collect();
    if shared.is_empty() {
        return Err(format!(
            "[invalid bearer token, token audiences {own:?} is invalid for the target audiences {audiences:?}]"
        ));
    }
    let facts = &claims["kubernetes.io"];
    let namespace = text(facts, "/namespace");
    let exists = |plural: &str, key: &str| {
        let found =
            server.store().get(&(String::new(), plural.to_owned()), namespace, text(facts, &format!("/{key}/name")));
        found.is_some_and(|o| text(&o.value(), "/metadata/uid") == text(facts, &format!("/{key}/uid")))
    };
    if !exists("serviceaccounts", "serviceaccount")
        || (facts.get("pod").is_some() && !exists("pods", "pod"))
        || (facts.get("secret").is_some() && !exists("secrets", "secret"))
    {
        return Err("[invalid bearer token, service account token has been invalidated]".into());
    }
    let mut extra =
        vec![("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("JTI={}", text(&claims, "/jti"))])];
    if facts.get("pod").is_some() {
        extra.push(("authentication.kubernetes.io/pod-name".into(), vec![text(facts, "/pod/name").into()]));
        extra.push(("authentication.kubernetes.io/pod-uid".into(), vec![text(facts, "/pod/uid").into()]));
    }
    let identity = Identity {
        name: text(&claims, "/sub").to_owned(),
        uid: text(facts, "/serviceaccount/uid").to_owned(),
        groups: vec![
            "system:serviceaccounts".into(),
            format!("system:serviceaccounts:{namespace}"),
            "system:authenticated".into(),
        ],
        extra,
    };
    Ok((identity, shared))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_token_is_refused() {
        let signer = Signer::open(None).unwrap();
        let token = signer.sign(&json!({"sub": "a"}));
        assert_eq!(signer.read(&token), Some(json!({"sub": "a"})));
        assert_eq!(signer.read(&format!("{token}x")), None);
        assert_eq!(Signer::open(None).unwrap().read(&token), None);
    }
}
