//! The agents' configuration and the servers' `my.cnf`, in parts of which later ones win: the operator's defaults, the
//! user's, the spec's fields, what must hold. What differs between members, and where files lie, the agent adds.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use api::resolved::{ReplicationIntent, Role};
use api::spec::{Durability, ParallelMode, WaitPoint};
use api::{mycnf, names, quantity};
use k8s_openapi::api::core::v1::{ConfigMap, Probe};
use protocol::config::{Commits, ExecProbe, UserProbes};
use protocol::{AgentConfig, paths};

use crate::{Input, hash, metadata};

/// Longest text of a generated duration option, seconds.
const MAX_NET_TIMEOUT: u64 = 31_536_000;

pub(crate) struct Config {
    data: BTreeMap<String, String>,
    /// Hash of what needs a restart to take effect.
    pub(crate) restart_hash: String,
}

pub(crate) fn render(input: &Input<'_>) -> Config {
    let agent = agent(input);
    let parts = [defaults(input), user(input), spec(input), enforced(input)];
    let restart_hash = hash(&(at_start(agent.clone()), mycnf::fixed(&parts)));
    let variables = serde_json::to_string_pretty(&mycnf::variables(&parts)).expect("a map of strings is JSON");
    let mut data: BTreeMap<String, String> =
        paths::CNF_PARTS.iter().map(|name| (*name).to_owned()).zip(parts).collect();
    let agent = serde_json::to_string_pretty(&agent).expect("a struct of plain fields is JSON");
    data.insert(paths::AGENT_JSON.to_owned(), agent + "\n");
    data.insert(paths::VARIABLES_JSON.to_owned(), variables + "\n");
    Config { data, restart_hash }
}

/// What the agent reads once. The rest (whether others joined the topology, limits) is no reason to restart a member.
fn at_start(agent: AgentConfig) -> AgentConfig {
    AgentConfig { single_member: false, max_lag_seconds: 0, failover_timeout_ms: 0, lease_limit_ms: None, ..agent }
}

pub(crate) fn config_map(input: &Input<'_>, config: Config) -> ConfigMap {
    ConfigMap {
        metadata: metadata::child(input, &names::config(&input.object.name), &[]),
        data: Some(config.data),
        ..ConfigMap::default()
    }
}

fn agent(input: &Input<'_>) -> AgentConfig {
    let (object, root) = (input.object, input.root);
    AgentConfig {
        topology: root.name.clone(),
        topology_uid: root.uid.clone(),
        lease: names::lease(&root.name),
        server_id_base: input.server_id_base,
        port: object.port,
        replication: object.replication.is_some(),
        single_member: input.single_member,
        database: object.database.clone(),
        username: object.user.as_ref().map(|user| user.name.clone()),
        root_empty_password: object.root_password == api::resolved::RootPassword::Empty,
        time_zone_tables: true,
        tls: object.tls,
        max_lag_seconds: object.replication.as_ref().map_or(30, |replication| replication.replica.max_lag),
        commits: commits(input),
        failover_timeout_ms: input
            .root
            .replication
            .as_ref()
            .map_or(0, |replication| u64::try_from(replication.failover_timeout.as_millis()).unwrap_or(u64::MAX)),
        lease_limit_ms: lease_limit(input),
        grace_seconds: u64::try_from(object.pod.termination_grace_seconds).unwrap_or(0),
        probes: UserProbes {
            liveness: exec(object.probes.liveness.as_ref()),
            readiness: exec(object.probes.readiness.as_ref()),
        },
    }
}

/// The root says so for the whole topology.
fn commits(input: &Input<'_>) -> Commits {
    match input.root.replication.as_ref().map(|replication| replication.durability) {
        Some(Durability::Strict) => Commits { promised: true, strict: true },
        Some(Durability::Safe) => Commits { promised: true, strict: false },
        Some(Durability::Available) | None => Commits::default(),
    }
}

/// Where no acknowledgement stands between two writers, time does; only where somebody would be replaced for being silent.
fn lease_limit(input: &Input<'_>) -> Option<u64> {
    let replication = input.root.replication.as_ref()?;
    let limited = replication.durability == Durability::Available && replication.automatic_failover;
    limited.then(|| u64::try_from(replication.failover_timeout.as_millis()).unwrap_or(u64::MAX))
}

fn exec(probe: Option<&Probe>) -> Option<ExecProbe> {
    let probe = probe?;
    let command = probe.exec.as_ref()?.command.clone()?;
    let timeout_seconds = probe.timeout_seconds.and_then(|seconds| u32::try_from(seconds).ok()).unwrap_or(1).max(1);
    Some(ExecProbe { command, timeout_seconds })
}

/// What a production server wants, for users to override.
fn defaults(input: &Input<'_>) -> String {
    let mut text = String::from(
        "# The operator's defaults. Set what you want otherwise in spec.myCnf.\n\
         [mariadbd]\n\
         log-bin=mariadb-bin\n\
         relay-log=relay-bin\n\
         sync-binlog=1\n\
         innodb-flush-log-at-trx-commit=1\n\
         binlog-expire-logs-seconds=604800\n\
         # Since 11.8 a primary without replicas would keep its binary logs for ever.\n\
         loose-slave-connections-needed-for-purge=0\n\
         # Accounts are for any host: names of clients need not be looked up.\n\
         skip-name-resolve=ON\n\
         character-set-server=utf8mb4\n",
    );
    // Half of the memory that the container may use, where it is limited.
    let limit = input
        .object
        .pod
        .resources
        .as_ref()
        .and_then(|resources| resources.limits.as_ref()?.get("memory"))
        .and_then(|limit| quantity::parse(&limit.0).ok());
    if let Some(limit) = limit {
        const MIB: f64 = 1_048_576.0;
        let _ = writeln!(text, "innodb-buffer-pool-size={}M", (limit / 2.0 / MIB).max(16.0) as u64);
    }
    text
}

fn user(input: &Input<'_>) -> String {
    // As it stands: a complaint of the server names a line, which must be the user's line.
    let mut text = input.user_cnf.to_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

fn spec(input: &Input<'_>) -> String {
    let mut text = String::from("# From the spec's fields.\n[mariadbd]\n");
    let mut set = |name: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(text, "{name}={value}");
    };
    set("port", &input.object.port);
    if let Some(zone) = &input.object.time_zone {
        set("default-time-zone", zone);
    }
    if input.object.tls_required {
        set("require-secure-transport", &"ON");
    }
    if let Some(replication) = &input.object.replication {
        let given = mycnf::options(input.user_cnf);
        // Fields that the user left alone do not override what the same user says in `myCnf`.
        let mut unless_given = |name: &str, default: bool, value: &dyn std::fmt::Display| {
            if !default || mycnf::value(&given, &name.replace('-', "_")).is_none() {
                set(name, value);
            }
        };
        let domain = input.root.replication.as_ref().map_or(replication.gtid_domain, |root| root.gtid_domain);
        unless_given("sync-binlog", replication.sync_binlog == 1, &replication.sync_binlog);
        unless_given("gtid-domain-id", domain == 0, &domain);
        let replica = &replication.replica;
        unless_given("slave-parallel-threads", replica.parallel_threads == 4, &replica.parallel_threads);
        unless_given(
            "slave-parallel-mode",
            replica.parallel_mode == ParallelMode::default(),
            &replica.parallel_mode.as_str(),
        );
        let regional = matches!(replication.role, Role::ReplicaOf { through: Some(_), .. });
        let default =
            if regional { Duration::from_secs(30) } else { replication.failover_timeout + Duration::from_secs(5) };
        let net_timeout = replica.net_timeout.as_secs().clamp(1, MAX_NET_TIMEOUT);
        unless_given("slave-net-timeout", replica.net_timeout == default, &net_timeout);
        if let Some(root) = input.root.replication.as_ref().filter(|root| root.durability == Durability::Available) {
            waits(&mut text, root, root.semi_sync && acknowledges(input));
        }
    }
    text
}

/// Under `Available` commits wait for a while, and not at all where nobody acknowledges. Whether they wait is set by whoever
/// opens a primary.
fn waits(text: &mut String, root: &ReplicationIntent, acknowledges: bool) {
    let point = match root.wait_point {
        WaitPoint::AfterSync => "AFTER_SYNC",
        WaitPoint::AfterCommit => "AFTER_COMMIT",
    };
    let _ = write!(
        text,
        "rpl-semi-sync-master-timeout={}\nrpl-semi-sync-master-wait-point={point}\nrpl-semi-sync-master-wait-no-slave=OFF\n\
         # A STOP takes so long where the primary does not answer.\n\
         rpl-semi-sync-slave-kill-conn-timeout=1\n\
         rpl-semi-sync-slave-enabled={}\n",
        root.ack_timeout.as_millis(),
        if acknowledges { "ON" } else { "OFF" }
    );
}

/// What replication stands on; `resolve` tells users whose `my.cnf` says otherwise.
fn enforced(input: &Input<'_>) -> String {
    let strict = input.object.replication.as_ref().is_none_or(|replication| replication.gtid_strict);
    let mut text = format!(
        "# What must hold.\n\
         [mariadbd]\n\
         binlog-format=ROW\n\
         log-slave-updates=ON\n\
         gtid-strict-mode={}\n\
         read-only=ON\n\
         skip-slave-start=ON\n\
         event-scheduler=OFF\n\
         # Relay logs are data: a server that throws them away at its start may throw away what only it has.\n\
         relay-log-recovery=OFF\n",
        if strict { "ON" } else { "OFF" }
    );
    if commits(input).promised {
        // Waits are switched on by whoever opens a primary. A timeout of 31 years: the server never gives up by itself (the
        // greatest value that MariaDB accepts overflows its own arithmetic).
        text.push_str(
            "sync-binlog=1\n\
             sync-relay-log=1\n\
             rpl-semi-sync-master-enabled=OFF\n\
             rpl-semi-sync-master-wait-point=AFTER_SYNC\n\
             rpl-semi-sync-master-wait-no-slave=ON\n\
             rpl-semi-sync-master-timeout=1000000000000\n\
             rpl-semi-sync-slave-kill-conn-timeout=1\n",
        );
        let _ = writeln!(text, "rpl-semi-sync-slave-enabled={}", if acknowledges(input) { "ON" } else { "OFF" });
    }
    text
}

/// Members that may acknowledge: candidates.
fn acknowledges(input: &Input<'_>) -> bool {
    let Some(replication) = &input.object.replication else { return false };
    let replica = &replication.replica;
    let regional = matches!(replication.role, Role::ReplicaOf { through: Some(_), .. });
    replica.candidate.unwrap_or(!regional && replica.delay.is_zero() && replica.semi_sync)
}
