//! What a topology has one of is said on its root. A split object that says something else there is told so, by path, and gets
//! the root's.

use std::time::Duration;

use super::{Mistakes, dig};
use crate::duration::GoDuration;
use crate::resolved::{ReplicationIntent, Resolved, Role, RootPassword, SecretKey};
use crate::spec::MariaDBSpec;

/// Gives `object`, a split one, what its root says. `given`: the object as its user wrote it. Fields that say otherwise go to
/// the warnings; those that say the same are no news.
pub fn follow(object: &mut Resolved, given: &MariaDBSpec, root: &Resolved) {
    let written = serde_json::to_value(given).unwrap_or_default();
    let mut warnings = Mistakes::default();
    let mut compare = |same: bool, paths: &[&str]| {
        for path in paths.iter().filter(|path| !same && dig(&written, path).is_some()) {
            let message = format!("has no effect here: it is said on the topology's root, the MariaDB {}", root.name);
            warnings.add(format!("spec.{path}"), message);
        }
    };
    let passwords = |one: &RootPassword, other: &RootPassword| match (one, other) {
        (RootPassword::Secret(one), RootPassword::Secret(other)) => same_key(one, other),
        (one, other) => one == other,
    };
    compare(passwords(&object.root_password, &root.root_password), &["rootPasswordSecretKeyRef", "rootEmptyPassword"]);
    compare(object.database == root.database, &["database"]);
    let name = |resolved: &Resolved| resolved.user.as_ref().map(|user| user.name.clone());
    compare(name(object) == name(root), &["username"]);
    let key = |resolved: &Resolved| {
        resolved.user.as_ref().map(|user| (user.password.name.clone(), user.password.key.clone()))
    };
    compare(key(object) == key(root), &["passwordSecretKeyRef"]);
    compare(object.disruption_budget == root.disruption_budget, &["podDisruptionBudget"]);
    compare(object.services.primary == root.services.primary, &["primaryService"]);
    object.root_password = root.root_password.clone();
    object.database.clone_from(&root.database);
    object.user.clone_from(&root.user);

    if let (Some(own), Some(theirs)) = (&mut object.replication, &root.replication) {
        replication(own, theirs, &mut compare);
        let default = dig(&written, "replication.replica.connectionTimeout").is_none();
        net_timeout(own, default, &mut warnings);
    }
    object.warnings.append(&mut warnings.0);
}

fn same_key(one: &SecretKey, other: &SecretKey) -> bool {
    (&one.name, &one.key) == (&other.name, &other.key)
}

fn replication(own: &mut ReplicationIntent, theirs: &ReplicationIntent, compare: &mut impl FnMut(bool, &[&str])) {
    // Every field by name: a new one cannot be forgotten here.
    let ReplicationIntent {
        role: _,
        wanted_primary,
        automatic_failover,
        failover_delay,
        failover_timeout,
        failover_retries,
        failover_cooldown,
        fencing,
        durability,
        semi_sync,
        ack_timeout,
        wait_point,
        sync_binlog: _,
        gtid_domain,
        gtid_strict: _,
        account,
        replica,
    } = own;
    // Says whether a field is as the root's, and makes it so.
    macro_rules! take {
        ($field:ident, $($path:literal),+) => {
            compare(*$field == theirs.$field, &[$(concat!("replication.", $path)),+]);
            $field.clone_from(&theirs.$field);
        };
    }
    take!(wanted_primary, "primary.podIndex", "primary.member");
    take!(
        automatic_failover,
        "primary.automaticFailover",
        "primary.autoFailover",
        "failover.enabled",
        "failover.autoPromote"
    );
    take!(failover_delay, "primary.autoFailoverDelay", "primary.automaticFailoverDelay");
    take!(fencing, "primary.fencing");
    take!(failover_timeout, "failover.timeout");
    take!(failover_retries, "failover.retries");
    take!(failover_cooldown, "failover.cooldown");
    take!(durability, "durability");
    take!(semi_sync, "semiSyncEnabled");
    take!(ack_timeout, "semiSyncAckTimeout");
    take!(wait_point, "semiSyncWaitPoint");
    take!(gtid_domain, "gtid.domainId", "gtidDomainId");
    compare(
        account.user == theirs.account.user,
        &["replication.replication.user", "replication.replica.replicationUser"],
    );
    compare(
        same_key(&account.password, &theirs.account.password),
        &[
            "replication.replication.passwordSecretKeyRef",
            "replication.replica.replicationPasswordSecretKeyRef",
            "replication.replica.replPasswordSecretKeyRef",
        ],
    );
    account.clone_from(&theirs.account);
    compare(replica.sync_timeout == theirs.replica.sync_timeout, &["replication.replica.syncTimeout"]);
    replica.sync_timeout = theirs.replica.sync_timeout;
}

/// The wait that a replica's connection needs so as not to be caught in a reconnect when a failover wants it.
pub(super) fn patience(failover_timeout: Duration) -> Duration {
    failover_timeout + Duration::from_secs(5)
}

/// `slave_net_timeout` against the failover timeout that counts.
pub(super) fn net_timeout(replication: &mut ReplicationIntent, default: bool, warnings: &mut Mistakes) {
    let least = patience(replication.failover_timeout);
    let regional = matches!(replication.role, Role::ReplicaOf { through: Some(_), .. });
    let timeout = &mut replication.replica.net_timeout;
    if default {
        *timeout = if regional { Duration::from_secs(30) } else { least };
    } else if *timeout < least {
        warnings.add(
            "spec.replication.replica.connectionTimeout",
            format!(
                "{} is shorter than failover.timeout + 5s ({}): a replica may be reconnecting just when a failover needs it",
                GoDuration(*timeout),
                GoDuration(least)
            ),
        );
    }
}
