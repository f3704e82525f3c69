//! Markers: a small row of the operator's own, committed to prove something about everything before it.

use std::time::Duration;

use topology::Gtid;

use crate::rows::Named;
use crate::session::{Session, SqlError};

const LIMIT: Duration = Duration::from_secs(5);
/// In `mysql`, where it does not disturb users' lists of databases.
const TABLE: &str = "mysql.mariadb_operator_marker";
const NO_SUCH_TABLE: u32 = 1146;

impl Session {
    /// Makes the table of markers where it is missing. Goes to the binary log: only on a primary.
    pub async fn ensure_marker_table(&mut self) -> Result<(), SqlError> {
        const SQL: &str = "SELECT 1 FROM information_schema.TABLES WHERE TABLE_SCHEMA='mysql' AND TABLE_NAME='mariadb_operator_marker'";
        if !self.rows("marker table", LIMIT, SQL).await?.is_empty() {
            return Ok(());
        }
        let sql = format!(
            "CREATE TABLE IF NOT EXISTS {TABLE} (id TINYINT UNSIGNED NOT NULL PRIMARY KEY, at TIMESTAMP(6) NOT NULL) ENGINE=InnoDB"
        );
        self.run("CREATE TABLE", LIMIT, &sql).await
    }

    /// Commits a marker: returns when it is acknowledged, where commits wait; its transaction.
    pub async fn commit_marker(&mut self, limit: Duration) -> Result<Option<Gtid>, SqlError> {
        let sql = format!("REPLACE INTO {TABLE} (id, at) VALUES (1, NOW(6))");
        match self.run("marker", limit, &sql).await {
            Err(error) if error.errno() == Some(NO_SUCH_TABLE) => {
                self.ensure_marker_table().await?;
                self.run("marker", limit, &sql).await?;
            }
            other => other?,
        }
        let rows = self.rows("last_gtid", LIMIT, "SELECT @@last_gtid AS gtid").await?;
        let text =
            rows.first().map(|row| Named { what: "last_gtid", row }.some("gtid")).transpose()?.unwrap_or_default();
        Ok(text.parse().ok())
    }
}

/// How acknowledgements stand on a primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Acknowledgements {
    /// `Rpl_semi_sync_master_clients`.
    pub clients: u64,
    /// `Rpl_semi_sync_master_wait_sessions`.
    pub waiting: u64,
    /// `Rpl_semi_sync_master_yes_tx`: transactions that were acknowledged.
    pub acknowledged: u64,
}

impl Session {
    /// How acknowledgements stand. Not for replicas: the query hangs there while `STOP SLAVE` does.
    pub async fn acknowledgements(&mut self) -> Result<Acknowledgements, SqlError> {
        const SQL: &str = "SELECT VARIABLE_NAME AS name, VARIABLE_VALUE AS value FROM information_schema.GLOBAL_STATUS WHERE \
             VARIABLE_NAME LIKE 'RPL\\_SEMI\\_SYNC\\_MASTER\\_%'";
        let mut known = Acknowledgements::default();
        for row in &self.rows("semi-sync status", LIMIT, SQL).await? {
            let row = Named { what: "semi-sync status", row };
            let number = || row.parsed("value");
            match row.some("name")?.to_ascii_uppercase().as_str() {
                "RPL_SEMI_SYNC_MASTER_CLIENTS" => known.clients = number()?,
                "RPL_SEMI_SYNC_MASTER_WAIT_SESSIONS" => known.waiting = number()?,
                "RPL_SEMI_SYNC_MASTER_YES_TX" => known.acknowledged = number()?,
                _ => {}
            }
        }
        Ok(known)
    }

    /// A small write of our own that does not reach the binary log. `None`: it hangs, and is left alone. Where there is no table
    /// yet, nothing.
    pub async fn try_own_write(&mut self, limit: Duration) -> Option<Result<(), SqlError>> {
        if let Err(error) = self.run("sql_log_bin", limit, "SET SESSION sql_log_bin=0").await {
            return Some(Err(error));
        }
        let sql = format!("REPLACE INTO {TABLE} (id, at) VALUES (2, NOW(6))");
        match self.try_run("own write", limit, &sql).await {
            Some(Err(error)) if error.errno() == Some(NO_SUCH_TABLE) => Some(Ok(())),
            other => other,
        }
    }

    /// Does this connection's statement wait for a lock on all writes (of a backup, say), or for an acknowledgement?
    pub async fn waits_for_a_lock(&mut self, id: u32) -> Result<bool, SqlError> {
        let sql = format!("SELECT STATE AS state FROM information_schema.PROCESSLIST WHERE ID = {id}");
        let rows = self.rows("processlist", LIMIT, &sql).await?;
        let state =
            rows.first().map(|row| Named { what: "processlist", row }.some("state")).transpose()?.unwrap_or_default();
        Ok(["read lock", "backup lock", "metadata lock", "semi-sync"].iter().any(|sign| state.contains(sign)))
    }
}
