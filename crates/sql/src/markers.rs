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
