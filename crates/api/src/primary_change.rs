//! The kind `PrimaryChange`: what is told of one failover or switchover, once it is over.
//!
//! An object of this kind is a record, like an `Event`: the operator writes it once, nobody acts on it. So it has neither
//! `spec` nor `status`; its fields lie beside `metadata`, where `kubectl describe` shows them first.

use std::borrow::Cow;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Resource;
use kube::api::ObjectMeta;
use kube::core::TypeMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

const KIND: &str = "PrimaryChange";
const PLURAL: &str = "primarychanges";

/// One failover or switchover, or an attempt at one: why, what was seen, what was done, how long it took and what was lost.
/// Written once by the operator.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PrimaryChange {
    /// `apiVersion` and `kind`.
    #[serde(flatten)]
    #[schemars(skip)]
    pub types: Option<TypeMeta>,
    /// Name, owner, labels.
    #[schemars(skip)]
    pub metadata: ObjectMeta,
    /// `Failover` or `Switchover`.
    #[serde(rename = "type")]
    pub type_: ChangeType,
    /// Whether there is a new primary.
    pub outcome: ChangeOutcome,
    /// The old primary's pod; absent: there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The new primary's pod; of a change that was rolled back, the one that was meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Number of the term that it began, or would have.
    pub epoch: i64,
    /// Why, and on what evidence.
    pub cause: ChangeCause,
    /// All of it in a sentence.
    pub message: String,
    /// How long writes were not possible, for people (`412ms`, `1.35s`); absent where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writes_down: Option<String>,
    /// What was, or may have been, lost. Absent: nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<String>,
    /// Its parts in order: what each took.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub phases: Vec<ChangePhase>,
    /// Every member at the moment of the choice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<ChangeMember>,
    /// When it was noticed, or asked for.
    pub began: MicroTime,
    /// When it was over.
    pub ended: MicroTime,
}

/// Unplanned or planned.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeType {
    /// The primary was lost.
    Failover,
    /// The primary handed over.
    Switchover,
}

/// What came of it.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeOutcome {
    /// There is a new primary.
    Done,
    /// The old one has the writes back.
    RolledBack,
    /// It was looked at, and nothing was touched.
    Refused,
}

impl ChangeType {
    /// As written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failover => "Failover",
            Self::Switchover => "Switchover",
        }
    }
}

impl ChangeOutcome {
    /// As written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "Done",
            Self::RolledBack => "RolledBack",
            Self::Refused => "Refused",
        }
    }
}

/// Why the primary changed.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ChangeCause {
    /// In a word: `ServerExited`, `Silent`, `Requested`, ...
    pub reason: String,
    /// The evidence, or who asked.
    pub message: String,
    /// The request that it answers (annotation `k8s.mariadb.com/switchover`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// Why it was rolled back, or refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_done: Option<String>,
}

/// A part of a change.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ChangePhase {
    /// `noticed`, `fenced`, `drained`, `chosen`, `promoted`, `admitted`.
    pub name: String,
    /// How long it took, for people.
    pub took: String,
    /// How long it took, in milliseconds.
    pub milliseconds: i64,
}

/// A member at the moment of the choice.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ChangeMember {
    /// Its pod.
    pub name: String,
    /// In a word: `Chosen`, `Fit`, `Behind`, `Silent`, ...
    pub verdict: String,
    /// In words.
    pub reason: String,
    /// The GTID position that it held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<String>,
    /// How it was fenced: `Stopped`, `Connecting` or `Killed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fenced: Option<String>,
}

impl Resource for PrimaryChange {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        KIND.into()
    }

    fn group((): &()) -> Cow<'_, str> {
        crate::GROUP.into()
    }

    fn version((): &()) -> Cow<'_, str> {
        crate::VERSION.into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        PLURAL.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl PrimaryChange {
    /// `apiVersion` and `kind` of an object to be written.
    pub fn type_meta() -> TypeMeta {
        TypeMeta::resource::<Self>()
    }

    /// The CRD.
    pub fn crd() -> CustomResourceDefinition {
        // As kube's derive makes schemas of kinds that have a spec.
        let generator = schemars::generate::SchemaSettings::openapi3()
            .with(|settings| {
                settings.inline_subschemas = true;
                settings.meta_schema = None;
            })
            .with_transform(schemars::transform::AddNullable::default())
            .with_transform(kube::core::schema::StructuralSchemaRewriter)
            .with_transform(kube::core::schema::OptionalEnum)
            .into_generator();
        let column = |name: &str, kind: &str, path: &str, priority: i32| json!({"name": name, "type": kind, "jsonPath": path, "priority": priority});
        let crd = json!({
            "metadata": {"name": format!("{PLURAL}.{}", crate::GROUP)},
            "spec": {
                "group": crate::GROUP,
                "names": {"kind": KIND, "plural": PLURAL, "singular": "primarychange", "shortNames": ["pcmdb"]},
                "scope": "Namespaced",
                "versions": [{
                    "name": crate::VERSION,
                    "served": true,
                    "storage": true,
                    "schema": {"openAPIV3Schema": generator.into_root_schema_for::<Self>()},
                    "additionalPrinterColumns": [
                        column("Type", "string", ".type", 0),
                        column("From", "string", ".from", 0),
                        column("To", "string", ".to", 0),
                        column("Cause", "string", ".cause.reason", 0),
                        column("Writes down", "string", ".writesDown", 0),
                        column("Age", "date", ".metadata.creationTimestamp", 0),
                        column("Outcome", "string", ".outcome", 1),
                        column("Epoch", "integer", ".epoch", 1),
                        column("Message", "string", ".message", 1),
                    ],
                }],
            },
        });
        serde_json::from_value(crd).expect("a CRD whose parts are all above")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_is_the_type() {
        let crd = PrimaryChange::crd();
        let schema = crd.spec.versions[0].schema.clone().and_then(|s| s.open_api_v3_schema).expect("a schema");
        let properties = schema.properties.expect("properties");
        assert!(!properties.contains_key("metadata") && !properties.contains_key("spec"), "{:?}", properties.keys());
        let change: PrimaryChange = serde_json::from_value(json!({
            "apiVersion": "k8s.mariadb.com/v1alpha1", "kind": "PrimaryChange", "metadata": {"name": "db-2"},
            "type": "Failover", "outcome": "Done", "from": "db-0", "to": "db-1", "epoch": 2,
            "cause": {"reason": "ServerExited", "message": "killed"}, "message": "m", "writesDown": "410ms",
            "phases": [{"name": "fenced", "took": "12ms", "milliseconds": 12}],
            "members": [{"name": "db-1", "verdict": "Chosen", "reason": "chosen", "position": "0-1-5"}],
            "lost": ["x"], "began": "2026-11-23T10:00:00.000000Z", "ended": "2026-11-23T10:00:01.000000Z"
        }))
        .expect("a change");
        let written = serde_json::to_value(&change).expect("JSON");
        assert_eq!(written["kind"], "PrimaryChange");
        for key in written.as_object().expect("an object").keys() {
            assert!(
                ["apiVersion", "kind", "metadata"].contains(&key.as_str()) || properties.contains_key(key),
                "{key}"
            );
        }
    }
}
