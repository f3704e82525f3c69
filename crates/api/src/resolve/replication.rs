//! `spec.replication` to what it means.

use std::time::Duration;

use kube::ResourceExt as _;

use super::{Mistakes, follow, secret_key};
use crate::duration::GoDuration;
use crate::names;
use crate::resolved::{Account, ReplicaIntent, ReplicationIntent, Role, ServiceRef, WantedPrimary};
use crate::spec::{Durability, GtidMode, MariaDB, Replica, Replication, ReplicationAccount, WaitPoint};

const PREFIX: &str = "spec.replication";

pub(super) fn resolve(
    object: &MariaDB,
    replication: Replication,
    replicas: u32,
    mistakes: &mut Mistakes,
    warnings: &mut Mistakes,
) -> ReplicationIntent {
    let Replication {
        enabled: _,
        primary,
        failover,
        durability,
        semi_sync_enabled,
        semi_sync_ack_timeout,
        semi_sync_wait_point,
        sync_binlog,
        gtid,
        gtid_domain_id,
        gtid_strict_mode,
        server_id_start_index: _,
        replication: account,
        replica,
        standalone_probes: _,
    } = replication;
    let primary = primary.unwrap_or_default();
    let failover = failover.unwrap_or_default();
    let gtid = gtid.unwrap_or_default();
    let replica = replica.unwrap_or_default();
    let duration = |given: Option<GoDuration>, default: u64| given.map_or(Duration::from_secs(default), |d| d.0);

    let automatic_failover = mistakes.agree(&[
        ("spec.replication.primary.automaticFailover", primary.automatic_failover),
        ("spec.replication.primary.autoFailover", primary.auto_failover),
        ("spec.replication.failover.enabled", failover.enabled),
        ("spec.replication.failover.autoPromote", failover.auto_promote),
    ]);
    let failover_delay = mistakes.agree(&[
        ("spec.replication.primary.autoFailoverDelay", primary.auto_failover_delay),
        ("spec.replication.primary.automaticFailoverDelay", primary.automatic_failover_delay),
    ]);
    let gtid_domain = mistakes.agree(&[
        ("spec.replication.gtid.domainId", gtid.domain_id),
        ("spec.replication.gtidDomainId", gtid_domain_id),
    ]);
    if gtid.enabled == Some(false) {
        mistakes.add(format!("{PREFIX}.gtid.enabled"), "GTIDs are always on");
    }
    let semi_sync = semi_sync_enabled.unwrap_or(true);
    let durability = match (durability, semi_sync) {
        (Some(Durability::Safe | Durability::Strict), false) => {
            mistakes.add(
                format!("{PREFIX}.durability"),
                "Safe and Strict need semi-synchronous replication: semiSyncEnabled is false",
            );
            Durability::Available
        }
        (Some(given), _) => given,
        (None, true) => Durability::Safe,
        (None, false) => Durability::Available,
    };
    if durability != Durability::Available {
        for (field, given) in [
            ("semiSyncAckTimeout", semi_sync_ack_timeout.is_some()),
            ("semiSyncWaitPoint", semi_sync_wait_point.is_some()),
        ] {
            if given {
                mistakes.add(
                    format!("{PREFIX}.{field}"),
                    format!("only with durability: Available ({durability:?} decides it)"),
                );
            }
        }
    }
    let role = role(object, &replica, mistakes);
    let wanted_primary = match (primary.pod_index, primary.member) {
        (Some(_), Some(_)) => {
            mistakes.add(format!("{PREFIX}.primary.member"), "excludes podIndex");
            WantedPrimary::PodIndex(0)
        }
        (_, Some(member)) => WantedPrimary::Member(member),
        (index, None) => {
            let index = index.unwrap_or(0);
            if index < 0 || index as u32 >= replicas.max(1) {
                mistakes.add(
                    format!("{PREFIX}.primary.podIndex"),
                    format!("{index} is no member: spec.replicas is {replicas}"),
                );
            }
            WantedPrimary::PodIndex(index.max(0) as u32)
        }
    };
    let failover_timeout = duration(failover.timeout, 5);
    let default_timeout = replica.connection_timeout.is_none();
    let mut resolved = ReplicationIntent {
        wanted_primary,
        automatic_failover: automatic_failover.unwrap_or(true),
        failover_delay: failover_delay.map_or(Duration::ZERO, |d| d.0),
        failover_timeout,
        failover_retries: failover.retries.unwrap_or(3).max(0) as u32,
        failover_cooldown: duration(failover.cooldown, 60),
        fencing: primary.fencing.is_some_and(|fencing| fencing.enabled == Some(true)),
        durability,
        semi_sync,
        ack_timeout: duration(semi_sync_ack_timeout, 10),
        wait_point: semi_sync_wait_point.unwrap_or(WaitPoint::AfterSync),
        sync_binlog: sync_binlog.unwrap_or(1).max(0) as u32,
        gtid_domain: gtid_domain.unwrap_or(0).clamp(0, i64::from(u32::MAX)) as u32,
        gtid_strict: gtid_strict_mode.unwrap_or(true),
        account: resolve_account(object, &role, account.unwrap_or_default(), &replica, mistakes),
        replica: resolve_replica(replica, mistakes, warnings),
        role,
    };
    // Of a split object's, its root's failover timeout decides: see `follow`.
    if default_timeout || resolved.role == Role::Root {
        follow::net_timeout(&mut resolved, default_timeout, warnings);
    }
    resolved
}

/// Without `enabled: true` nothing of it takes effect but the server id.
pub(super) fn refuse_disabled(replication: &Replication, mistakes: &mut Mistakes) {
    let written = serde_json::to_value(replication).unwrap_or_default();
    for (field, value) in written.as_object().into_iter().flatten() {
        if matches!(field.as_str(), "enabled" | "serverIdStartIndex") {
            continue;
        }
        let inner = value.as_object().filter(|inner| field == "replica" && inner.contains_key("primaryName"));
        let path = if inner.is_some() { "replica.primaryName" } else { field };
        mistakes.add(format!("{PREFIX}.{path}"), "takes effect only with spec.replication.enabled: true");
    }
}

fn role(object: &MariaDB, replica: &Replica, mistakes: &mut Mistakes) -> Role {
    let Some(primary) = replica.primary_name.clone() else {
        if replica.primary_service.is_some() {
            mistakes.add(format!("{PREFIX}.replica.primaryService"), "needs replica.primaryName");
        }
        return Role::Root;
    };
    if primary == object.name_any() {
        mistakes.add(format!("{PREFIX}.replica.primaryName"), "is the object itself: a circle");
    }
    let namespace = object.namespace().unwrap_or_default();
    let through = replica.primary_service.clone().and_then(|service| {
        let service =
            ServiceRef { namespace: service.namespace.unwrap_or_else(|| namespace.clone()), name: service.name };
        // The root's own services mean the primary itself: members are followed by their own names, which never point elsewhere.
        let own = service.namespace == namespace
            && (service.name == primary || service.name == names::primary_service(&primary));
        (!own).then_some(service)
    });
    Role::ReplicaOf { primary, through }
}

fn resolve_account(
    object: &MariaDB,
    role: &Role,
    account: ReplicationAccount,
    replica: &Replica,
    mistakes: &mut Mistakes,
) -> Account {
    let user = mistakes.agree(&[
        ("spec.replication.replication.user", account.user),
        ("spec.replication.replica.replicationUser", replica.replication_user.clone()),
    ]);
    let password = mistakes.agree(&[
        ("spec.replication.replication.passwordSecretKeyRef", account.password_secret_key_ref),
        (
            "spec.replication.replica.replicationPasswordSecretKeyRef",
            replica.replication_password_secret_key_ref.clone(),
        ),
        ("spec.replication.replica.replPasswordSecretKeyRef", replica.repl_password_secret_key_ref.clone()),
    ]);
    if let Some(user) = &user
        && (user.is_empty() || user.len() > 64 || matches!(user.as_str(), "root" | "mysql" | "mariadb.sys"))
    {
        mistakes.add(
            format!("{PREFIX}.replication.user"),
            format!("{user:?} cannot be used: the server's own, empty or too long"),
        );
    }
    let root = match role {
        Role::Root => object.name_any(),
        Role::ReplicaOf { primary, .. } => primary.clone(),
    };
    Account {
        user: user.unwrap_or_else(|| "repl".to_owned()),
        password: secret_key(password, &names::replication_secret(&root)),
    }
}

fn resolve_replica(replica: Replica, mistakes: &mut Mistakes, warnings: &mut Mistakes) -> ReplicaIntent {
    let max_lag = mistakes.agree(&[
        ("spec.replication.replica.maxLagSeconds", replica.max_lag_seconds.map(|seconds| seconds.max(1) as u64)),
        ("spec.replication.replica.maxDelay", replica.max_delay.map(GoDuration::seconds_up)),
    ]);
    if matches!(replica.gtid, Some(GtidMode::CurrentPos | GtidMode::CurrentPosGo)) {
        warnings.add(format!("{PREFIX}.replica.gtid"), "current_pos is unsafe across failovers; slave_pos is used");
    }
    // The default depends on the failover timeout that counts: the caller sets it.
    let net_timeout = replica.connection_timeout.map_or(Duration::ZERO, |d| d.0);
    if replica.connection_timeout.is_some() && net_timeout < Duration::from_secs(1) {
        mistakes.add(format!("{PREFIX}.replica.connectionTimeout"), "at least 1s");
    }
    if replica.candidate == Some(true) {
        for (field, held) in [
            ("delay", replica.delay.is_some_and(|delay| !delay.0.is_zero())),
            ("semiSync: false", replica.semi_sync == Some(false)),
        ] {
            if held {
                mistakes.add(
                    format!("{PREFIX}.replica.candidate"),
                    format!(
                        "contradicts {PREFIX}.replica.{field}: such members do not hold what the primary has committed"
                    ),
                );
            }
        }
    }
    let recovery = replica.recovery.unwrap_or_default();
    ReplicaIntent {
        semi_sync: replica.semi_sync.unwrap_or(true),
        candidate: replica.candidate,
        net_timeout,
        connection_retries: replica.connection_retries.map_or(10, |retries| retries.max(1) as u32),
        connect_retry: replica.connection_retry_seconds.unwrap_or(1).max(1) as u32,
        max_lag: max_lag.unwrap_or(30) as u32,
        delay: replica.delay.map_or(Duration::ZERO, |d| d.0),
        parallel_threads: replica.parallel_threads.unwrap_or(4).max(0) as u32,
        parallel_mode: replica.parallel_mode.unwrap_or_default(),
        sync_timeout: replica.sync_timeout.map_or(Duration::from_secs(10), |d| d.0),
        recovery_enabled: recovery.enabled.unwrap_or(true),
        recovery_threshold: recovery.error_duration_threshold.map_or(Duration::from_secs(300), |d| d.0),
    }
}
