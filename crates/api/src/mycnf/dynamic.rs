//! Options that a running server takes over by `SET GLOBAL`, so that a change needs no restart.

use std::collections::BTreeMap;

use super::{ConfigOption, options};

/// Dynamic global variables of 10.11 to 11.8 whose option has the same name, takes effect for new sessions at the latest, and
/// has nothing to do with who may write and who replicates from whom.
/// `innodb_buffer_pool_size` is not among them: 11.8 never grows beyond `innodb_buffer_pool_size_max`, which is what the server
/// was started with, and 11.8.6 was seen to crash (SIGSEGV) in 3 of 10 changes of it.
/// (<https://mariadb.com/docs/server/server-management/variables-and-modes/server-system-variables>, "Dynamic: Yes".)
pub const DYNAMIC: &[&str] = &[
    "aria_pagecache_age_threshold",
    "binlog_cache_size",
    "binlog_commit_wait_count",
    "binlog_commit_wait_usec",
    "binlog_expire_logs_seconds",
    "binlog_stmt_cache_size",
    "bulk_insert_buffer_size",
    "connect_timeout",
    "default_week_format",
    "eq_range_index_dive_limit",
    "general_log",
    "group_concat_max_len",
    "histogram_size",
    "idle_readonly_transaction_timeout",
    "idle_transaction_timeout",
    "idle_write_transaction_timeout",
    "init_connect",
    "innodb_adaptive_hash_index",
    "innodb_deadlock_detect",
    "innodb_flush_neighbors",
    "innodb_io_capacity",
    "innodb_io_capacity_max",
    "innodb_lock_wait_timeout",
    "innodb_lru_scan_depth",
    "innodb_max_dirty_pages_pct",
    "innodb_max_dirty_pages_pct_lwm",
    "innodb_max_purge_lag",
    "innodb_old_blocks_time",
    "innodb_print_all_deadlocks",
    "innodb_stats_persistent_sample_pages",
    "innodb_strict_mode",
    "interactive_timeout",
    "join_buffer_size",
    "key_buffer_size",
    "local_infile",
    "lock_wait_timeout",
    "log_bin_trust_function_creators",
    "log_output",
    "log_queries_not_using_indexes",
    "log_slow_rate_limit",
    "log_slow_verbosity",
    "log_warnings",
    "long_query_time",
    "max_allowed_packet",
    "max_binlog_cache_size",
    "max_binlog_size",
    "max_connect_errors",
    "max_connections",
    "max_heap_table_size",
    "max_length_for_sort_data",
    "max_prepared_stmt_count",
    "max_relay_log_size",
    "max_sort_length",
    "max_statement_time",
    "min_examined_row_limit",
    "net_buffer_length",
    "net_read_timeout",
    "net_retry_count",
    "net_write_timeout",
    "optimizer_search_depth",
    "optimizer_switch",
    "optimizer_use_condition_selectivity",
    "query_cache_limit",
    "query_cache_size",
    "read_buffer_size",
    "read_rnd_buffer_size",
    "slave_net_timeout",
    "slow_launch_time",
    "slow_query_log",
    "sort_buffer_size",
    "sql_mode",
    "table_definition_cache",
    "table_open_cache",
    "thread_cache_size",
    "tmp_memory_table_size",
    "tmp_table_size",
    "userstat",
    "wait_timeout",
];

/// Whether a change of this option needs no restart. (`loose_` options are for servers that may not know them.)
fn is_dynamic(option: &ConfigOption) -> bool {
    !option.loose && DYNAMIC.binary_search(&option.name.as_str()).is_ok()
}

/// The dynamic variables that these parts of a `my.cnf` set, later ones win. Values as `SET GLOBAL` takes them: sizes in
/// bytes, `ON` for a bare option.
pub fn variables(parts: &[String]) -> BTreeMap<String, String> {
    let all = parts.iter().flat_map(|part| options(part));
    all.filter(is_dynamic).map(|option| (option.name, value(option.value.as_deref()))).collect()
}

/// What these parts set that a server reads only when it starts.
pub fn fixed(parts: &[String]) -> Vec<(String, Option<String>)> {
    let all = parts.iter().flat_map(|part| options(part));
    all.filter(|option| !is_dynamic(option)).map(|option| (option.name, option.value)).collect()
}

fn value(given: Option<&str>) -> String {
    let Some(given) = given else { return "ON".to_owned() };
    let bytes = |digits: &str, exponent: u32| digits.parse::<u64>().ok()?.checked_mul(1024_u64.checked_pow(exponent)?);
    let sized = given.char_indices().last().and_then(|(at, unit)| {
        let exponent = "KMGTPE".find(unit.to_ascii_uppercase())? as u32 + 1;
        bytes(&given[..at], exponent)
    });
    sized.map_or_else(|| given.to_owned(), |bytes| bytes.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_once_each() {
        assert!(DYNAMIC.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn later_parts_win_and_sizes_are_bytes() {
        let parts = [
            "[mariadbd]\nmax-connections=100\nlog-bin=x\n".to_owned(),
            "[client]\nwait_timeout=1\n[mariadb]\nmax_connections = 200\ntmp-table-size=64M # more\nslow_query_log\n\
             sql_mode='STRICT_ALL_TABLES'\nloose-max-statement-time=2\nlong_query_time=0.5\n"
                .to_owned(),
        ];
        let found = variables(&parts);
        let found: Vec<_> = found.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(
            found,
            [
                ("long_query_time", "0.5"),
                ("max_connections", "200"),
                ("slow_query_log", "ON"),
                ("sql_mode", "STRICT_ALL_TABLES"),
                ("tmp_table_size", "67108864"),
            ]
        );
        let rest = fixed(&parts);
        assert_eq!(
            rest,
            [("log_bin".to_owned(), Some("x".to_owned())), ("max_statement_time".to_owned(), Some("2".to_owned()))]
        );
    }
}
