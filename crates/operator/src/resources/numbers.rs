//! Server ids: each object's members get a block of their own, for good. Two members of a topology with one id would each drop
//! what the other wrote: who asks for a number that is another's is refused.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use api::resolved::Resolved;
use api::{Mistake, names};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use protocol::{AgentConfig, paths};
use tokio::sync::Mutex;

use super::{Trouble, call};
use crate::Context;

/// First server ids by namespace, root and object. What was given out stays so: it is read back from the objects'
/// ConfigMaps when the operator starts.
pub(crate) type SharedNumbers = Arc<Mutex<BTreeMap<(String, String), BTreeMap<String, u32>>>>;

/// The `server_id` of ordinal 0. `family`: the topology's objects, with the number of members of each.
pub(super) async fn first_server_id(
    context: &Context,
    object: &Resolved,
    root: &Resolved,
    family: &BTreeMap<String, u32>,
) -> Result<u32, Trouble> {
    let mut numbers = context.numbers.lock().await;
    let known = numbers.entry((object.namespace.clone(), root.name.clone())).or_default();
    known.retain(|name, _| family.contains_key(name));
    for name in family.keys() {
        if !known.contains_key(name)
            && let Some(start) = read(context, &object.namespace, name).await?
        {
            known.insert(name.clone(), start);
        }
    }
    // The root's numbers are its own, also where another object is looked at first.
    known.entry(root.name.clone()).or_insert_with(|| root.server_id_start.unwrap_or(1));
    let others: BTreeMap<&str, RangeInclusive<u32>> = known
        .iter()
        .filter(|(name, _)| **name != object.name)
        .map(|(name, start)| (name.as_str(), range(*start, family.get(name).copied().unwrap_or(1))))
        .collect();
    let start = object.server_id_start.or_else(|| known.get(&object.name).copied());
    let start = start.unwrap_or_else(|| free(others.values(), object.replicas));
    let own = range(start, object.replicas);
    if let Some((other, theirs)) = others.iter().find(|(_, theirs)| overlap(&own, theirs)) {
        return Err(Trouble::Mistakes(vec![taken(object, &own, other, theirs)]));
    }
    known.insert(object.name.clone(), start);
    Ok(start)
}

fn range(start: u32, members: u32) -> RangeInclusive<u32> {
    start..=start.saturating_add(members.max(1) - 1)
}

fn overlap(one: &RangeInclusive<u32>, other: &RangeInclusive<u32>) -> bool {
    one.start() <= other.end() && other.start() <= one.end()
}

fn taken(object: &Resolved, own: &RangeInclusive<u32>, other: &str, theirs: &RangeInclusive<u32>) -> Mistake {
    let said = |range: &RangeInclusive<u32>| match (range.start(), range.end()) {
        (start, end) if start == end => start.to_string(),
        (start, end) => format!("{start} to {end}"),
    };
    let in_cnf = || api::mycnf::value(&api::mycnf::options(object.my_cnf.as_deref()?), "server_id").map(drop);
    let path = match object.server_id_start {
        Some(_) if in_cnf().is_some() => "spec.myCnf (server-id)",
        Some(_) => "spec.replication.serverIdStartIndex",
        None => "spec.replicas",
    };
    let (own, theirs) = (said(own), said(theirs));
    let message = format!(
        "the members of {} would have the server ids {own}, and those of {other} have {theirs}: they must be unique in a topology",
        object.name
    );
    Mistake { path: path.to_owned(), message }
}

/// The start of the first block that no other object's begins in, and whose numbers are nobody's.
fn free<'a>(taken: impl Iterator<Item = &'a RangeInclusive<u32>> + Clone, members: u32) -> u32 {
    let block = names::SERVER_ID_BLOCK;
    let begins = |n: u32| taken.clone().any(|theirs| theirs.start() / block == n);
    let meets = |n: u32| taken.clone().any(|theirs| overlap(theirs, &range(n * block + 1, members)));
    (1..u32::MAX / block).find(|&n| !begins(n) && !meets(n)).unwrap_or(1) * block + 1
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
    use super::{free, range};

    #[test]
    fn blocks_of_a_hundred() {
        assert_eq!(free([range(1, 1)].iter(), 3), 101);
        assert_eq!(free([range(1, 3), range(101, 1), range(301, 1)].iter(), 1), 201);
        assert_eq!(free([range(1, 1), range(200, 1)].iter(), 3), 101);
        // A block that others reach into is left to them.
        assert_eq!(free([range(1, 1), range(200, 50)].iter(), 100), 301);
        assert_eq!(free([range(90, 20)].iter(), 1), 201);
    }
}
