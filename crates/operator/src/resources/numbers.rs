//! Server ids: each object's members get a block of their own, for good.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::names;
use api::resolved::Resolved;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use protocol::{AgentConfig, paths};
use tokio::sync::Mutex;

use super::{Trouble, call};
use crate::Context;

/// First server ids by namespace, root and object. What was given out stays so: it is read back from the objects'
/// ConfigMaps when the operator starts.
pub(crate) type SharedNumbers = Arc<Mutex<BTreeMap<(String, String), BTreeMap<String, u32>>>>;

/// The `server_id` of ordinal 0. `family`: names of the topology's objects.
pub(super) async fn first_server_id(
    context: &Context,
    object: &Resolved,
    root: &str,
    family: &[String],
) -> Result<u32, Trouble> {
    let mut numbers = context.numbers.lock().await;
    let known = numbers.entry((object.namespace.clone(), root.to_owned())).or_default();
    known.retain(|name, _| family.contains(name));
    if let Some(start) = object.server_id_start {
        known.insert(object.name.clone(), start);
        return Ok(start);
    }
    for name in family {
        if !known.contains_key(name)
            && let Some(start) = read(context, &object.namespace, name).await?
        {
            known.insert(name.clone(), start);
        }
    }
    if let Some(start) = known.get(&object.name) {
        return Ok(*start);
    }
    let start = if object.name == root { 1 } else { free(known.values().copied()) };
    known.insert(object.name.clone(), start);
    Ok(start)
}

/// The first block that no other object's begins in.
fn free(taken: impl Iterator<Item = u32>) -> u32 {
    let block = names::SERVER_ID_BLOCK;
    let blocks: std::collections::BTreeSet<u32> = taken.map(|start| start / block).collect();
    (1..u32::MAX / block).find(|n| !blocks.contains(n)).unwrap_or(1) * block + 1
}

async fn read(context: &Context, namespace: &str, object: &str) -> Result<Option<u32>, Trouble> {
    let api: Api<ConfigMap> = Api::namespaced(context.client.clone(), namespace);
    let name = names::config(object);
    let config = call(|| format!("read ConfigMap {name}"), api.get_opt(&name)).await?;
    let json = config.and_then(|config| config.data?.remove(paths::AGENT_JSON));
    Ok(json.and_then(|json| serde_json::from_str::<AgentConfig>(&json).ok()).map(|agent| agent.server_id_base))
}

#[cfg(test)]
mod tests {
    use super::free;

    #[test]
    fn blocks_of_a_hundred() {
        assert_eq!(free([1].into_iter()), 101);
        assert_eq!(free([1, 101, 301].into_iter()), 201);
        assert_eq!(free([1, 200].into_iter()), 101);
    }
}
