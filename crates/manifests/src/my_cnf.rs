//! The parts of `my.cnf`: defaults < the user's < what the spec says < what must hold.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use protocol::paths::CNF_PARTS;

use crate::Plan;

/// The parts by file name.
pub(crate) fn parts(plan: &Plan<'_>) -> BTreeMap<String, String> {
    let [defaults, user, spec, enforced] = CNF_PARTS;
    let (default_values, spec_values) = values(plan);
    BTreeMap::from([
        (defaults.to_owned(), default_part(&default_values)),
        (user.to_owned(), user_part(plan)),
        (spec.to_owned(), section("The spec's fields.", &spec_values)),
        (enforced.to_owned(), enforced_part(plan)),
    ])
}

/// The user's text comes first and unchanged: its line numbers are what messages name.
fn user_part(plan: &Plan<'_>) -> String {
    let mut text = plan.object.my_cnf.clone().unwrap_or_default();
    if let Some(more) = &plan.my_cnf_from {
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(more);
    }
    text
}

type Values = Vec<(&'static str, String)>;

fn section(comment: &str, values: &Values) -> String {
    let mut text = format!("# {comment}\n[mariadbd]\n");
    for (name, value) in values {
        let _ = writeln!(text, "{name}={value}");
    }
    text
}

/// Values of spec fields: those that are as by default lie below the user's `my.cnf`, the others above it.
fn values(plan: &Plan<'_>) -> (Values, Values) {
    let mut below = Values::new();
    let mut above = Values::new();
    let mut put = |name, value: String, default: &str| {
        if value == default { below.push((name, value)) } else { above.push((name, value)) }
    };
    if let Some(zone) = &plan.object.time_zone {
        put("default-time-zone", format!("'{zone}'"), "");
    }
    if plan.object.tls_required {
        put("require-secure-transport", "ON".into(), "");
    }
    if let Some(replication) = &plan.object.replication {
        let replica = &replication.replica;
        put("sync-binlog", replication.sync_binlog.to_string(), "1");
        put("gtid-domain-id", replication.gtid_domain.to_string(), "0");
        put("gtid-strict-mode", on(replication.gtid_strict), "ON");
        put("slave-parallel-threads", replica.parallel_threads.to_string(), "4");
        put("slave-parallel-mode", replica.parallel_mode.as_str().to_owned(), "optimistic");
        put("slave-net-timeout", replica.net_timeout.as_secs().max(1).to_string(), "10");
    }
    (below, above)
}

fn on(value: bool) -> String {
    if value { "ON" } else { "OFF" }.to_owned()
}

fn default_part(values: &Values) -> String {
    let mut text = String::from(
        "# The operator's defaults; anything here can be changed in spec.myCnf.\n\
         [mariadbd]\n\
         # Names of clients are not looked up: a slow DNS server would be a slow login.\n\
         skip-name-resolve=ON\n\
         host-cache-size=0\n\
         innodb-flush-log-at-trx-commit=1\n\
         binlog-expire-logs-seconds=604800\n\
         # Without this a lone primary keeps its binary logs for ever (11.8 counts connected replicas).\n\
         loose-slave-connections-needed-for-purge=0\n\
         relay-log=relay-bin\n\
         relay-log-purge=ON\n\
         log-bin=mariadb-bin\n",
    );
    for (name, value) in values {
        let _ = writeln!(text, "{name}={value}");
    }
    text
}

fn enforced_part(plan: &Plan<'_>) -> String {
    let mut text = String::from(
        "# What must hold.\n\
         [mariadbd]\n\
         binlog-format=ROW\n\
         log-slave-updates=ON\n",
    );
    if plan.object.tls {
        text.push_str("ssl=ON\n");
    }
    text
}
