//! What a user's `my.cnf` and environment may say.

use super::Mistakes;
use crate::mycnf::{ConfigOption, options, value};
use crate::{Mistake, Resolved};

/// Options that the operator owns, with what to use instead. A user's value that says the same is fine.
const OWNED: &[(&str, Option<&str>, &str)] = &[
    ("datadir", Some("/var/lib/mysql/data"), "data lies in a folder of the member's volume"),
    ("socket", Some("/run/mysqld/mysqld.sock"), "clients and the agent look for it there"),
    ("pid_file", None, "the agent supervises the server"),
    ("user", None, "the pod's security context decides"),
    ("log_bin_index", None, "follows log-bin"),
    ("read_only", Some("on"), "servers start read-only; the primary is opened by the operator"),
    ("skip_slave_start", Some("on"), "replication is started by the operator"),
    ("log_slave_updates", Some("on"), "any replica may become a source"),
    ("gtid_strict_mode", None, "use spec.replication.gtidStrictMode"),
    ("binlog_format", Some("row"), "replication is row-based"),
    ("event_scheduler", None, "on on the primary, off elsewhere"),
    ("report_host", None, "each member reports its own name"),
    (
        "relay_log_recovery",
        Some("off"),
        "what a replica has received is kept: it may be all that is left of the primary",
    ),
    ("init_rpl_role", None, "decided by the agent"),
    ("rpl_semi_sync_master_enabled", None, "use spec.replication.durability"),
    ("rpl_semi_sync_slave_enabled", None, "use spec.replication.durability"),
];

/// Options with which the server would not start or not be found.
const FORBIDDEN: &[(&str, &str)] = &[
    ("skip_networking", "replicas and clients could not connect"),
    ("skip_log_bin", "replication needs the binary log"),
    ("disable_log_bin", "replication needs the binary log"),
    ("skip_grant_tables", "everybody could do everything"),
    ("bootstrap", "the agent initialises members"),
    ("plugin_dir", "comes with the image"),
    ("replicate_same_server_id", "the server does not start with it and log-slave-updates"),
    ("wsrep_on", "members replicate by GTID, not by Galera"),
];

fn same(given: Option<&str>, wanted: &str) -> bool {
    let normal = |text: &str| match text.to_lowercase().as_str() {
        "1" | "true" | "yes" => "on".to_owned(),
        "0" | "false" | "no" => "off".to_owned(),
        other => other.trim_end_matches('/').to_owned(),
    };
    normal(given.unwrap_or("on")) == wanted
}

/// Why an option cannot be had. The server takes any beginning of a name that is no other option's: `skip-grant` is
/// `skip-grant-tables`.
fn forbidden(option: &ConfigOption) -> Option<&'static str> {
    let short = option.name.len() > "skip_".len();
    let means =
        |name: &str| name == option.name || (short && name.starts_with("skip_") && name.starts_with(&option.name));
    if option.name == "wsrep_on" && option.value.as_deref().is_some_and(|value| same(Some(value), "off")) {
        return None;
    }
    FORBIDDEN.iter().find(|(name, _)| means(name)).map(|(_, why)| *why)
}

/// Addresses at which nobody else reaches a server.
const LOOPBACK: &[&str] = &["127.0.0.1", "localhost", "::1"];

/// Checks a ConfigMap's part of the user's `my.cnf`. It follows `own`, the spec's part, in the same groups. Warnings go to
/// the resolved intent.
pub fn check_config_map(own: &str, whole: &str, object: &mut Resolved) -> Result<(), Vec<Mistake>> {
    let own_lines = own.lines().count() as u32;
    let options: Vec<ConfigOption> = options(whole).into_iter().filter(|option| option.line > own_lines).collect();
    let (mut mistakes, mut warnings) = (Mistakes::default(), Mistakes::default());
    let at = |option: &ConfigOption| place(own_lines, option);
    refuse(&options, object.port, &at, &mut mistakes, &mut warnings);
    if let Some(option) = value(&options, "server_id") {
        warnings.add(at(option), "does not take effect: say it in spec.myCnf or spec.replication.serverIdStartIndex");
    }
    object.warnings.append(&mut warnings.0);
    if mistakes.0.is_empty() { Ok(()) } else { Err(mistakes.0) }
}

/// Where an option of the user's whole `my.cnf` stands, whose first lines are the spec's.
pub fn place(own_lines: u32, option: &ConfigOption) -> String {
    let (field, line) = match option.line.checked_sub(own_lines) {
        Some(line @ 1..) => ("spec.myCnfConfigMapKeyRef", line),
        _ => ("spec.myCnf", option.line),
    };
    format!("{field} (line {line}: {})", option.name.replace('_', "-"))
}

/// Checks what can be known without the server; gives `server-id`, the first of the object's block.
pub(super) fn check(
    options: &[ConfigOption],
    port: u16,
    mistakes: &mut Mistakes,
    warnings: &mut Mistakes,
) -> Option<u32> {
    let at = |option: &ConfigOption| place(u32::MAX, option);
    refuse(options, port, &at, mistakes, warnings);
    let option = value(options, "server_id")?;
    match option.value.as_deref().and_then(|text| text.parse::<u32>().ok()) {
        Some(id) if id > 0 && id < u32::MAX - 100 => Some(id),
        _ => {
            mistakes.add(at(option), "must be a number from 1 to 4294967194");
            None
        }
    }
}

fn refuse(
    options: &[ConfigOption],
    port: u16,
    at: &dyn Fn(&ConfigOption) -> String,
    mistakes: &mut Mistakes,
    warnings: &mut Mistakes,
) {
    for option in options {
        if let Some(why) = forbidden(option) {
            mistakes.add(at(option), format!("not possible: {why}"));
        }
        let value = option.value.as_deref();
        if option.name == "bind_address" && value.is_some_and(|value| LOOPBACK.contains(&value)) {
            mistakes.add(at(option), "not possible: replicas and clients could not connect");
        }
        if let Some((_, wanted, why)) = OWNED.iter().find(|(name, ..)| *name == option.name)
            && !wanted.is_some_and(|wanted| same(option.value.as_deref(), wanted))
        {
            let given = option.value.as_deref().unwrap_or("on");
            // gtid-strict-mode as written in the seed is the default and takes effect.
            if option.name == "gtid_strict_mode" && same(Some(given), "on") {
                continue;
            }
            warnings.add(at(option), format!("{given:?} does not take effect: {why}"));
        }
        if option.name == "port" && option.value.as_deref() != Some(port.to_string().as_str()) {
            warnings.add(at(option), format!("does not take effect: spec.port is {port}"));
        }
    }
}

/// The field to use instead of a variable of the image that makes accounts or databases.
pub(super) fn refused_variable(name: &str) -> Option<&'static str> {
    let (_, rest) = name.split_once('_').filter(|(prefix, _)| matches!(*prefix, "MARIADB" | "MYSQL"))?;
    Some(match rest {
        "ROOT_PASSWORD" | "ROOT_PASSWORD_FILE" | "ROOT_PASSWORD_HASH" | "RANDOM_ROOT_PASSWORD" | "ROOT_HOST" => {
            "spec.rootPasswordSecretKeyRef"
        }
        "ALLOW_EMPTY_ROOT_PASSWORD" | "ALLOW_EMPTY_PASSWORD" => "spec.rootEmptyPassword",
        "DATABASE" => "spec.database",
        "USER" | "PASSWORD" | "PASSWORD_FILE" | "PASSWORD_HASH" => "spec.username and spec.passwordSecretKeyRef",
        "REPLICATION_USER"
        | "REPLICATION_PASSWORD"
        | "REPLICATION_PASSWORD_FILE"
        | "REPLICATION_PASSWORD_HASH"
        | "MASTER_HOST"
        | "MASTER_PORT" => "spec.replication",
        _ => return None,
    })
}
