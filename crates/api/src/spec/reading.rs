//! What cannot be read of one object must not hide all others: a list or watch fails as a whole where one object does not fit its
//! type. So a field that the cluster's schema let through and that is no value of ours is left out, and named by `resolve`.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::MariaDBSpec;
use crate::resolve::Mistake;

impl Serialize for MariaDBSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for MariaDBSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = Value::deserialize(deserializer)?;
        let whole = match Self::deserialize(&value) {
            Ok(spec) => return Ok(spec),
            Err(error) => Mistake { path: "spec".to_owned(), message: error.to_string() },
        };
        let mut unreadable = Vec::new();
        if let Value::Object(fields) = &mut value {
            let reads = |fields: Value| Self::deserialize(&fields).map(drop).map_err(|error| error.to_string());
            weed(fields, "spec", &reads, &mut unreadable);
        }
        match Self::deserialize(&value) {
            Ok(spec) => Ok(Self { unreadable, ..spec }),
            Err(_) => Ok(Self { unreadable: vec![whole], ..Self::default() }),
        }
    }
}

/// Takes out the fields that cannot be read, the innermost that are to blame. `reads` is asked of an object like this one with
/// fewer fields.
fn weed(
    fields: &mut Map<String, Value>,
    path: &str,
    reads: &dyn Fn(Value) -> Result<(), String>,
    unreadable: &mut Vec<Mistake>,
) {
    let alone = |key: &str, field: Value| Value::Object(Map::from_iter([(key.to_owned(), field)]));
    // A field that is looked at alone lacks the neighbours that must be there: that is no fault of its.
    let lonely = reads(Value::Object(Map::new())).is_err();
    let excused = |error: String| if lonely && error.starts_with("missing field") { Ok(()) } else { Err(error) };
    let keys: Vec<String> = fields.keys().cloned().collect();
    for key in keys {
        let Some(field) = fields.get_mut(&key) else { continue };
        let path = format!("{path}.{key}");
        let reads = |field: Value| reads(alone(&key, field));
        let Err(message) = reads(field.clone()).or_else(excused) else { continue };
        if let Value::Object(inner) = field {
            weed(inner, &path, &reads, unreadable);
        }
        // Nothing in it was to blame, or what is left is not enough.
        if let Err(error) = reads(field.clone()).or_else(excused) {
            if !unreadable.iter().any(|known| known.path.starts_with(&path)) {
                let message = if field.is_object() { error } else { message };
                unreadable.push(Mistake { path, message });
            }
            fields.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::core::ObjectList;
    use serde_json::json;

    use super::*;
    use crate::MariaDB;

    #[test]
    fn one_object_does_not_spoil_a_list() {
        let bad = json!({ "storage": { "size": 0 } });
        // As it is derived, it would.
        assert!(MariaDBSpec::deserialize(&bad).is_err());
        let item = |name: &str, spec: &Value| json!({ "metadata": { "name": name }, "spec": spec });
        let list = json!({ "apiVersion": "k8s.mariadb.com/v1alpha1", "kind": "MariaDBList", "metadata": {},
            "items": [item("bad", &bad), item("good", &json!({ "replicas": 1 }))] });
        let list: ObjectList<MariaDB> = serde_json::from_value(list).unwrap();
        assert_eq!(list.items[0].spec.unreadable[0].path, "spec.storage.size");
        assert_eq!(list.items[1].spec.replicas, Some(1));
    }
}
