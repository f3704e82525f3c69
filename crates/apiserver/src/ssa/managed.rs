//! `metadata.managedFields`.

use serde_json::{Value, json};

use super::set::FieldSet;

/// How many managers of updates are kept apart.
const UPDATERS: usize = 10;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) manager: String,
    pub(crate) apply: bool,
    pub(crate) api_version: String,
    pub(crate) subresource: String,
    pub(crate) time: Option<String>,
    pub(crate) set: FieldSet,
}

impl Entry {
    /// Whether two entries are of one manager. An applier is the same in all versions.
    pub(crate) fn is_of(&self, other: &Self) -> bool {
        self.manager == other.manager
            && self.apply == other.apply
            && self.subresource == other.subresource
            && (self.apply || self.api_version == other.api_version)
    }

    /// How a conflict names the manager.
    pub(crate) fn shown(&self) -> String {
        let subresource = if self.subresource.is_empty() {
            String::new()
        } else {
            format!(" with subresource {:?}", self.subresource)
        };
        if self.apply {
            return format!("{:?}{subresource}", self.manager);
        }
        format!("{:?}{subresource} using {}", self.manager, self.api_version)
    }
}

/// Reads the entries of an object; `None` when they make no sense.
pub(crate) fn read(list: &Value) -> Option<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in list.as_array()? {
        let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let apply = match text("operation").as_str() {
            "Apply" => true,
            "Update" => false,
            _ => return None,
        };
        if text("fieldsType") != "FieldsV1" {
            return None;
        }
        let set = FieldSet::parse(entry.get("fieldsV1").unwrap_or(&json!({})))?;
        let time = entry.get("time").and_then(Value::as_str).map(str::to_owned);
        entries.push(Entry {
            manager: text("manager"),
            apply,
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time,
            set,
        });
    }
    Some(entries)
}

/// Writes entries in their order: appliers first, then by age.
pub(crate) fn write(mut entries: Vec<Entry>) -> Value {
    entries.retain(|e| !e.set.is_empty());
    cap(&mut entries);
    entries.sort_by(|a, b| {
        let key = |e: &Entry| {
            (
                !e.apply,
                e.time.clone().unwrap_or_default(),
                e.manager.clone(),
                e.api_version.clone(),
                e.subresource.clone(),
            )
        };
        key(a).cmp(&key(b))
    });
    let entry = |e: &Entry| {
        let mut value = json!({
            "manager": e.manager, "operation": if e.apply { "Apply" } else { "Update" }, "apiVersion": e.api_version,
            "fieldsType": "FieldsV1", "fieldsV1": e.set.render(),
        });
        if let Some(time) = &e.time {
            value["time"] = time.clone().into();
        }
        if !e.subresource.is_empty() {
            value["subresource"] = e.subresource.clone().into();
        }
        value
    };
    entries.iter().map(entry).collect()
}

/// Folds the oldest updaters into one when there are too many.
fn cap(entries: &mut Vec<Entry>) {
    let mut updaters: Vec<Entry> = entries.iter().filter(|e| !e.apply).cloned().collect();
    if updaters.len() <= UPDATERS {
        return;
    }
    entries.retain(|e| e.apply);
    updaters.sort_by(|a, b| (&a.time, &a.manager).cmp(&(&b.time, &b.manager)));
    while updaters.len() > UPDATERS {
        let oldest = updaters.remove(0);
        let ancient = |e: &Entry| e.manager == "ancient-changes" && e.api_version == oldest.api_version;
        if oldest.manager == "ancient-changes" {
            let next = updaters.remove(0);
            let set = oldest.set.union(&next.set);
            updaters
                .insert(0, Entry { manager: "ancient-changes".to_owned(), set, subresource: String::new(), ..next });
        } else if let Some(found) = updaters.iter_mut().find(|e| ancient(e)) {
            found.set = found.set.union(&oldest.set);
        } else {
            let next = updaters.remove(0);
            let set = oldest.set.union(&next.set);
            updaters
                .insert(0, Entry { manager: "ancient-changes".to_owned(), set, subresource: String::new(), ..next });
        }
    }
    entries.extend(updaters);
}
