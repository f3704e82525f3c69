//! The topology's intent, from its resolved objects.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use api::resolved::{ReplicationIntent, Resolved, Role, WantedPrimary};
use api::{names, resolved};
use topology::action::Endpoint;
use topology::intent::{Durability, Failover, HandsOff, Intent, MemberIntent, Recovery, ReplicaIntent, Request};
use topology::member::MemberName;

/// Root's annotation: a person's word on whose data counts.
const USE_DATA_OF: &str = "k8s.mariadb.com/use-data-of";
/// Replicas beat every second, or faster where `slave_net_timeout` is short: at most a third of it.
const HEARTBEAT_MS: u32 = 1000;

/// Clients may finish their transactions for so long when the primary hands over.
const GRACE: Duration = Duration::ZERO;

/// What of an object is not in its resolved form.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) resolved: Resolved,
    /// Server id of ordinal 0.
    pub(super) server_id_base: u32,
    /// Ordinals beyond what is wanted whose pods are still there: members until they are gone.
    pub(super) leaving: Vec<u32>,
}

impl Object {
    /// All ordinals that have a member.
    pub(super) fn ordinals(&self) -> impl Iterator<Item = u32> {
        (0..self.resolved.replicas).chain(self.leaving.iter().copied())
    }
}

/// What is not in the objects.
#[derive(Debug, Clone, Default)]
pub(super) struct Asked {
    /// `kubectl mariadb switchover`.
    pub(super) request: Option<Request>,
    /// Members whose pods shall be restarted or taken away.
    pub(super) vacate: BTreeSet<MemberName>,
}

/// Makes the intent. `objects` has the root first. `server_ids`: what agents say of themselves, which is what counts.
pub(super) fn intent(
    objects: &[Object],
    annotations: Option<&BTreeMap<String, String>>,
    server_ids: &BTreeMap<MemberName, u32>,
    asked: Asked,
) -> Option<Intent> {
    let root = &objects.first()?.resolved;
    let members: Vec<MemberIntent> = objects.iter().flat_map(|object| members(root, object, server_ids)).collect();
    let replication = root.replication.as_ref();
    // On the root it is the whole topology's; on another object its members'.
    let hands_off = match (root.suspend, root.maintenance) {
        (true, _) => Some(HandsOff::Suspend),
        (false, true) => Some(HandsOff::Maintenance),
        (false, false) => None,
    };
    let wanted_primary = match replication.map(|replication| &replication.wanted_primary) {
        Some(WantedPrimary::Member(member)) => member.clone(),
        Some(WantedPrimary::PodIndex(index)) => names::pod(&root.name, *index),
        None => names::pod(&root.name, 0),
    };
    Some(Intent {
        topology: root.name.clone(),
        replication: replication.is_some(),
        hands_off,
        wanted_primary: MemberName(wanted_primary),
        durability: durability(replication),
        failover: replication.map(failover).unwrap_or_default(),
        request: asked.request,
        vacate: asked.vacate,
        use_data_of: annotations.and_then(|all| all.get(USE_DATA_OF)).map(|name| MemberName(name.clone())),
        replication_user: replication.map(|replication| replication.account.user.clone()).unwrap_or_default(),
        members,
    })
}

fn durability(replication: Option<&ReplicationIntent>) -> Durability {
    match replication.map(|replication| (replication.durability, replication.semi_sync)) {
        Some((api::spec::Durability::Strict, _)) => Durability::Strict,
        Some((api::spec::Durability::Safe, _)) => Durability::Safe,
        Some((api::spec::Durability::Available, semi_sync)) => Durability::Available { semi_sync },
        None => Durability::Available { semi_sync: false },
    }
}

fn failover(replication: &ReplicationIntent) -> Failover {
    Failover {
        automatic: replication.automatic_failover,
        delay: replication.failover_delay,
        timeout: replication.failover_timeout,
        retries: replication.failover_retries,
        cooldown: replication.failover_cooldown,
        sync_timeout: replication.replica.sync_timeout,
        grace: GRACE,
    }
}

fn members(root: &Resolved, object: &Object, server_ids: &BTreeMap<MemberName, u32>) -> Vec<MemberIntent> {
    let resolved = &object.resolved;
    let through = through(root, resolved);
    let settings = resolved.replication.as_ref().or(root.replication.as_ref()).map(|replication| &replication.replica);
    let delayed = settings.is_some_and(|replica| !replica.delay.is_zero());
    let semi_sync = settings.is_none_or(|replica| replica.semi_sync);
    let candidate =
        settings.and_then(|replica| replica.candidate).unwrap_or(through.is_none() && !delayed && semi_sync);
    object
        .ordinals()
        .map(|ordinal| {
            let name = MemberName(names::pod(&resolved.name, ordinal));
            let host = names::member_host(&name.0, &resolved.namespace);
            MemberIntent {
                object: resolved.name.clone(),
                server_id: server_ids.get(&name).copied().unwrap_or(object.server_id_base + ordinal),
                hands_off: resolved.suspend || resolved.maintenance,
                server: Endpoint { host: host.clone(), port: resolved.port },
                agent: Endpoint { host, port: protocol::AGENT_PORT },
                donor: through.is_none() && !delayed,
                candidate,
                surplus: ordinal >= resolved.replicas,
                replica: replica(root, settings, through.clone()),
                name,
            }
        })
        .collect()
}

fn replica(root: &Resolved, settings: Option<&resolved::ReplicaIntent>, through: Option<Endpoint>) -> ReplicaIntent {
    let net_timeout = settings.map_or(Duration::from_secs(30), |replica| replica.net_timeout);
    let third = u32::try_from(net_timeout.as_millis() / 3).unwrap_or(u32::MAX).max(1);
    ReplicaIntent {
        through,
        tls: root.tls,
        connect_retry: settings.map_or(1, |replica| replica.connect_retry),
        connect_retries: settings.map_or(10, |replica| replica.connection_retries),
        heartbeat_ms: HEARTBEAT_MS.min(third),
        delay: settings.map_or(0, |replica| u32::try_from(replica.delay.as_secs()).unwrap_or(u32::MAX)),
        max_lag: settings.map_or(30, |replica| replica.max_lag),
        recovery: Recovery {
            enabled: settings.is_none_or(|replica| replica.recovery_enabled),
            threshold: settings.map_or(Duration::from_secs(300), |replica| replica.recovery_threshold),
        },
    }
}

/// A service other than the root's own: whoever connects through it is in another region, or so.
fn through(root: &Resolved, object: &Resolved) -> Option<Endpoint> {
    let Some(Role::ReplicaOf { primary: _, through: Some(service) }) =
        object.replication.as_ref().map(|replication| &replication.role)
    else {
        return None;
    };
    let own = service.namespace == root.namespace
        && (service.name == root.name || service.name == names::primary_service(&root.name));
    (!own).then(|| Endpoint { host: names::member_host(&service.name, &service.namespace), port: root.port })
}

/// Gives each object its block of server ids: the root's starts where it says (1), each further object's where it says
/// or at the next free hundred (101, 201, ...). `objects` has the root first, the others as they were created.
pub(super) fn number(objects: Vec<Resolved>) -> Vec<Object> {
    let mut taken: Vec<u32> = objects.iter().skip(1).filter_map(|object| object.server_id_start).collect();
    objects
        .into_iter()
        .enumerate()
        .map(|(i, resolved)| {
            let server_id_base = match (i, resolved.server_id_start) {
                (_, Some(start)) => start,
                (0, None) => 1,
                (_, None) => {
                    let block = names::SERVER_ID_BLOCK;
                    let free =
                        (1..1_000_000).map(|n| n * block + 1).find(|start| !taken.contains(start)).unwrap_or(block + 1);
                    taken.push(free);
                    free
                }
            };
            Object { resolved, server_id_base, leaving: Vec::new() }
        })
        .collect()
}
