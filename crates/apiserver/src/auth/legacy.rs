//! Secrets that hold a service account's token for good, as clusters have them for clients that cannot ask for one.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::tokens::{Bound, issue};
use crate::admission::text;
use crate::server::Server;

const TYPE: &str = "kubernetes.io/service-account-token";

/// Such a token ends with its secret: a hundred years are never over before that.
const SECONDS: i64 = 100 * 365 * 86_400;

/// Fills the secrets of this type that have no token yet.
pub(crate) fn fill(server: &Server) {
    let resource = (String::new(), "secrets".to_owned());
    for object in server.store().list(&resource, None).1 {
        if !object.json().contains(TYPE) {
            continue;
        }
        let mut secret = object.value();
        let account = text(&secret, "/metadata/annotations/kubernetes.io~1service-account.name");
        let accounts = (String::new(), "serviceaccounts".to_owned());
        let Some(account) = server.store().get(&accounts, &object.namespace, account) else { continue };
        if text(&secret, "/type") != TYPE || secret.pointer("/data/token").is_some() {
            continue;
        }
        let account = account.value();
        let uid = text(&secret, "/metadata/uid").to_owned();
        let bound = Bound { kind: "Secret".to_owned(), name: object.name.clone(), uid };
        let (token, _) = issue(server, &account, &[super::tokens::AUDIENCE.to_owned()], SECONDS, Some(&bound));
        let authority = server.options().ca.clone().unwrap_or_default();
        if !secret["data"].is_object() {
            secret["data"] = json!({});
        }
        for (key, value) in [("token", &token), ("namespace", &object.namespace), ("ca.crt", &authority)] {
            secret["data"][key] = Value::from(STANDARD.encode(value));
        }
        secret["metadata"]["annotations"]["kubernetes.io/service-account.uid"] = account["metadata"]["uid"].clone();
        if let Err(error) = server.store().put(&resource, secret, object.revision) {
            // Somebody else was faster: the change that this made is looked at next.
            tracing::debug!(%error, name = object.name, "a token secret is left for later");
        }
    }
}
