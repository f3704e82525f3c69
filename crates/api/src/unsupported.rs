//! Fields that are accepted although what they ask for is not built yet. An object that uses one says so, by path, in its
//! condition `UnsupportedField`. A feature that gets built takes its lines out of here.

use crate::resolve::dig;
use crate::spec::MariaDBSpec;

/// Paths below `spec`, and whether any value counts or only `true`.
const NOT_BUILT: &[(&str, Counts)] = &[
    ("metrics", Counts::IfEnabled),
    ("networkPolicy", Counts::IfEnabled),
    ("adopt", Counts::IfEnabled),
    ("bootstrapFrom", Counts::Always),
    ("tls.serverCASecretRef", Counts::Always),
    ("tls.serverCertSecretRef", Counts::Always),
    ("tls.clientCASecretRef", Counts::Always),
    ("tls.clientCertSecretRef", Counts::Always),
    ("tls.serverCertIssuerRef", Counts::Always),
    ("tls.clientCertIssuerRef", Counts::Always),
    ("replication.standaloneProbes", Counts::IfTrue),
    ("replication.replica.ssl", Counts::IfEnabled),
    ("replication.replica.bootstrapFrom", Counts::Always),
];

#[derive(Clone, Copy)]
enum Counts {
    /// Any value.
    Always,
    /// The value `true`.
    IfTrue,
    /// An object whose `enabled` is true.
    IfEnabled,
}

/// Paths (from `spec`) of fields in use whose behaviour is not built yet.
pub fn unsupported(spec: &MariaDBSpec) -> Vec<String> {
    let Ok(value) = serde_json::to_value(spec) else { return Vec::new() };
    NOT_BUILT
        .iter()
        .filter(|(path, counts)| {
            let Some(found) = dig(&value, path) else { return false };
            match counts {
                Counts::Always => true,
                Counts::IfTrue => found == &serde_json::Value::Bool(true),
                Counts::IfEnabled => dig(found, "enabled") == Some(&serde_json::Value::Bool(true)),
            }
        })
        .map(|(path, _)| format!("spec.{path}"))
        .collect()
}
