//! Locking replicas out, by account. An open connection survives a lock, and its acknowledgements count: so a lock always
//! means that the connections are gone, too.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::quote;
use crate::rows::Named;
use crate::session::{Session, SqlError};

const LIMIT: Duration = Duration::from_secs(5);
/// Connections that do not go in this time: a failure.
const GONE_LIMIT: Duration = Duration::from_secs(5);

fn names(accounts: &[String]) -> String {
    accounts.iter().map(|account| format!("{}@'%'", quote(account))).collect::<Vec<_>>().join(", ")
}

impl Session {
    /// Locks the accounts (those that exist; not in the binary log), kills their connections until none is left, and looks
    /// once more: a login that had begun before the lock completes after it.
    pub async fn lock_accounts(&mut self, accounts: &[String]) -> Result<(), SqlError> {
        if accounts.is_empty() {
            return Ok(());
        }
        self.set_locked(accounts, true).await?;
        let list = accounts.iter().map(|account| quote(account)).collect::<Vec<_>>().join(", ");
        let sql = format!("SELECT ID AS id FROM information_schema.PROCESSLIST WHERE USER IN ({list})");
        let until = Instant::now() + GONE_LIMIT;
        let mut clear = 0;
        loop {
            let rows = self.rows("processlist", LIMIT, &sql).await?;
            if rows.is_empty() {
                clear += 1;
                if clear == 2 {
                    return Ok(());
                }
            } else {
                clear = 0;
                if Instant::now() > until {
                    let message = format!("{} connections of {list} do not end", rows.len());
                    return Err(SqlError::Answer { what: "lock", message });
                }
                for row in &rows {
                    let id: u64 = Named { what: "processlist", row }.parsed("id")?;
                    match self.run("KILL", LIMIT, &format!("KILL {id}")).await {
                        Err(error) if error.errno().is_none() => return Err(error),
                        _ => {}
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The accounts may log in again.
    pub async fn unlock_accounts(&mut self, accounts: &[String]) -> Result<(), SqlError> {
        if accounts.is_empty() { Ok(()) } else { self.set_locked(accounts, false).await }
    }

    async fn set_locked(&mut self, accounts: &[String], locked: bool) -> Result<(), SqlError> {
        let word = if locked { "LOCK" } else { "UNLOCK" };
        self.run("sql_log_bin", LIMIT, "SET SESSION sql_log_bin=0").await?;
        let sql = format!("ALTER USER IF EXISTS {} ACCOUNT {word}", names(accounts));
        let result = self.run("ALTER USER", LIMIT, &sql).await;
        self.run("sql_log_bin", LIMIT, "SET SESSION sql_log_bin=1").await?;
        result
    }

    /// Who a connection belongs to; `None`: it is gone.
    pub async fn user_of(&mut self, connection: u64) -> Result<Option<String>, SqlError> {
        let sql = format!("SELECT USER AS user FROM information_schema.PROCESSLIST WHERE ID = {connection}");
        let rows = self.rows("processlist", LIMIT, &sql).await?;
        rows.first().map(|row| Named { what: "processlist", row }.some("user")).transpose()
    }

    /// Accounts for any host that replicate and are locked.
    pub async fn locked_accounts(&mut self) -> Result<BTreeSet<String>, SqlError> {
        const SQL: &str = "SELECT g.User AS user FROM mysql.global_priv g JOIN mysql.user u ON u.User = g.User AND u.Host = g.Host \
             WHERE g.Host = '%' AND u.Repl_slave_priv = 'Y' AND JSON_VALUE(g.Priv, '$.account_locked') IN ('1', 'true')";
        let rows = self.rows("locked accounts", LIMIT, SQL).await?;
        rows.iter().map(|row| Named { what: "locked accounts", row }.some("user")).collect()
    }
}
