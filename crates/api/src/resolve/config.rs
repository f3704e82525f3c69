//! What a user's `my.cnf` and environment may say.

use super::Mistakes;
use crate::mycnf::{ConfigOption, value};

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
];

fn same(given: Option<&str>, wanted: &str) -> bool {
    let normal = |text: &str| match text.to_lowercase().as_str() {
        "1" | "true" | "yes" => "on".to_owned(),
        other => other.trim_end_matches('/').to_owned(),
    };
    normal(given.unwrap_or("on")) == wanted
}

/// Checks what can be known without the server; gives `server-id`, the first of the object's block.
pub(super) fn check(
    options: &[ConfigOption],
    port: u16,
    mistakes: &mut Mistakes,
    warnings: &mut Mistakes,
) -> Option<u32> {
    let at = |option: &ConfigOption| format!("spec.myCnf (line {}: {})", option.line, option.name.replace('_', "-"));
    for option in options {
        if let Some((_, why)) = FORBIDDEN.iter().find(|(name, _)| *name == option.name) {
            mistakes.add(at(option), format!("not possible: {why}"));
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
    let option = value(options, "server_id")?;
    match option.value.as_deref().and_then(|text| text.parse::<u32>().ok()) {
        Some(id) if id > 0 && id < u32::MAX - 100 => Some(id),
        _ => {
            mistakes.add(at(option), "must be a number from 1 to 4294967194");
            None
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
