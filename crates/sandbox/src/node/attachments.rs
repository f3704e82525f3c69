//! Which node uses which persistent volume, and which volumes hang.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::PersistentVolume;

/// The volumes that pods use.
#[derive(Debug, Default)]
pub struct Attachments {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// Node and pods (by UID) of each volume that is in use.
    used: BTreeMap<String, (String, BTreeSet<String>)>,
    hanging: BTreeSet<String>,
}

/// A volume that a pod cannot have now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Pods of another node use it, as far as anybody knows.
    #[error("Volume is already exclusively attached to one node and can't be attached to another")]
    OtherNode,
    /// Another pod uses it, and its access mode allows one only.
    #[error("volume uses the ReadWriteOncePod access mode and is already in use by another pod")]
    OtherPod,
    /// Its disk does not answer.
    #[error("the volume's disk does not answer (`sandbox volume hang`)")]
    Hanging,
}

impl Attachments {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pod takes a volume, and keeps it until [`Attachments::detach`]. Tells whether it is the only one.
    pub fn attach(&self, volume: &PersistentVolume, node: &str, pod: &str) -> Result<bool, Refusal> {
        let name = volume.metadata.name.clone().unwrap_or_default();
        let modes: Vec<&str> =
            volume.spec.iter().flat_map(|s| s.access_modes.iter().flatten()).map(String::as_str).collect();
        let shared = modes.iter().any(|m| *m == "ReadWriteMany" || *m == "ReadOnlyMany");
        let mut table = self.table();
        if table.hanging.contains(&name) {
            return Err(Refusal::Hanging);
        }
        let (user, pods) = table.used.entry(name).or_insert_with(|| (node.to_owned(), BTreeSet::new()));
        if user != node && !shared {
            return Err(Refusal::OtherNode);
        }
        if modes == ["ReadWriteOncePod"] && pods.iter().any(|p| p != pod) {
            return Err(Refusal::OtherPod);
        }
        pods.insert(pod.to_owned());
        Ok(pods.len() == 1)
    }

    /// Nothing of the pod runs any more.
    pub fn detach(&self, pod: &str) {
        self.table().used.retain(|_, (_, pods)| {
            pods.remove(pod);
            !pods.is_empty()
        });
    }

    /// Notes that a volume hangs, or does not any more; false when that was known.
    pub fn set_hanging(&self, volume: &str, hangs: bool) -> bool {
        let mut table = self.table();
        if hangs { table.hanging.insert(volume.to_owned()) } else { table.hanging.remove(volume) }
    }

    /// The volumes that hang.
    pub fn hanging(&self) -> Vec<String> {
        self.table().hanging.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_node_at_a_time() {
        let volume = |mode: &str| -> PersistentVolume {
            serde_json::from_value(
                serde_json::json!({ "metadata": { "name": mode }, "spec": { "accessModes": [mode] } }),
            )
            .expect("a volume")
        };
        let table = Attachments::default();
        let (once, many, pod) = (volume("ReadWriteOnce"), volume("ReadWriteMany"), volume("ReadWriteOncePod"));
        assert_eq!(table.attach(&once, "a", "1"), Ok(true));
        assert_eq!(table.attach(&once, "a", "2"), Ok(false));
        assert_eq!(table.attach(&once, "b", "3"), Err(Refusal::OtherNode));
        table.detach("1");
        assert_eq!(table.attach(&once, "b", "3"), Err(Refusal::OtherNode));
        table.detach("2");
        assert_eq!(table.attach(&once, "b", "3"), Ok(true));
        assert_eq!(table.attach(&many, "a", "1"), Ok(true));
        assert_eq!(table.attach(&many, "b", "3"), Ok(false));
        assert_eq!(table.attach(&pod, "a", "1"), Ok(true));
        assert_eq!(table.attach(&pod, "a", "2"), Err(Refusal::OtherPod));
        assert!(table.set_hanging("ReadWriteMany", true));
        assert_eq!(table.attach(&many, "a", "9"), Err(Refusal::Hanging));
    }
}
