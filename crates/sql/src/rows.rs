//! Rows to `topology` types, by column name: the set of columns differs between versions.

use std::str::FromStr;

use mysql_async::{Row, Value};
use topology::member::{ReplicationState, SemiSync, ServerError, ServerState, ThreadState};

use crate::SqlError;

/// A row, for reading by name.
pub(crate) struct Named<'a> {
    pub(crate) what: &'static str,
    pub(crate) row: &'a Row,
}

impl Named<'_> {
    pub(crate) fn text(&self, column: &str) -> Result<Option<String>, SqlError> {
        let index = self.row.columns_ref().iter().position(|c| c.name_str().eq_ignore_ascii_case(column));
        let index = index.ok_or_else(|| self.error(format!("no column {column}")))?;
        Ok(match self.row.as_ref(index) {
            None | Some(Value::NULL) => None,
            Some(Value::Bytes(bytes)) => Some(String::from_utf8_lossy(bytes).into_owned()),
            Some(Value::Int(number)) => Some(number.to_string()),
            Some(Value::UInt(number)) => Some(number.to_string()),
            Some(other) => Some(other.as_sql(true)),
        })
    }

    pub(crate) fn some(&self, column: &str) -> Result<String, SqlError> {
        Ok(self.text(column)?.unwrap_or_default())
    }

    pub(crate) fn parsed<T: FromStr>(&self, column: &str) -> Result<T, SqlError> {
        let text = self.some(column)?;
        text.parse().map_err(|_| self.error(format!("{column} is {text:?}")))
    }

    fn error(&self, message: String) -> SqlError {
        SqlError::Answer { what: self.what, message }
    }
}

/// The query that [`server`] reads.
pub(crate) const SERVER: &str = "SELECT @@version AS version, @@read_only AS read_only, @@gtid_binlog_pos AS binlog_pos, \
     @@gtid_slave_pos AS slave_pos, @@gtid_binlog_state AS binlog_state, @@rpl_semi_sync_master_enabled AS waits, \
     @@rpl_semi_sync_slave_enabled AS acknowledges, \
     @@rpl_semi_sync_master_timeout >= 1000000000000 AND @@rpl_semi_sync_master_wait_no_slave \
       AND @@rpl_semi_sync_master_wait_point = 'AFTER_SYNC' AS without_end";

/// What a server that others follow knows of them. Not asked of a replica: the query hangs there while `STOP SLAVE` does.
pub(crate) const SEMI_SYNC: &str = "SELECT VARIABLE_NAME AS name, VARIABLE_VALUE AS value FROM information_schema.GLOBAL_STATUS \
     WHERE VARIABLE_NAME IN ('RPL_SEMI_SYNC_MASTER_CLIENTS', 'RPL_SEMI_SYNC_MASTER_WAIT_SESSIONS')";

pub(crate) fn server(row: &Row, replication: Option<ReplicationState>) -> Result<ServerState, SqlError> {
    let row = Named { what: "state", row };
    Ok(ServerState {
        version: row.some("version")?,
        read_only: row.some("read_only")? != "0",
        gtid_binlog_pos: row.parsed("binlog_pos")?,
        gtid_slave_pos: row.parsed("slave_pos")?,
        gtid_binlog_state: row.parsed("binlog_state")?,
        replication,
        log_reset: false,
        semi_sync: SemiSync {
            waits: row.some("waits")? != "0",
            acknowledges: row.some("acknowledges")? != "0",
            without_end: row.some("without_end")? != "0",
            clients: 0,
            waiting: 0,
        },
    })
}

/// Of [`SEMI_SYNC`].
pub(crate) fn semi_sync(rows: &[Row], known: &mut SemiSync) -> Result<(), SqlError> {
    for row in rows {
        let row = Named { what: "semi-sync status", row };
        let value = row.parsed("value")?;
        match row.some("name")?.to_ascii_uppercase().as_str() {
            "RPL_SEMI_SYNC_MASTER_CLIENTS" => known.clients = value,
            "RPL_SEMI_SYNC_MASTER_WAIT_SESSIONS" => known.waiting = value,
            _ => {}
        }
    }
    Ok(())
}

/// Changes whenever something comes from the source: heartbeats do not count while data flows, and data does not move the
/// heartbeats. With the heartbeat period, seconds.
pub(crate) fn reception(row: &Row) -> Result<(String, f64), SqlError> {
    let row = Named { what: "SHOW ALL SLAVES STATUS", row };
    let signs =
        ["Slave_received_heartbeats", "Master_Log_File", "Read_Master_Log_Pos", "Gtid_IO_Pos", "Slave_IO_Running"];
    let mut text = String::new();
    for sign in signs {
        text.push_str(&row.some(sign)?);
        text.push('/');
    }
    Ok((text, row.parsed("Slave_heartbeat_period")?))
}

/// Transactions that were applied since the server's start.
pub(crate) fn applied(row: &Row) -> Result<u64, SqlError> {
    let row = Named { what: "SHOW ALL SLAVES STATUS", row };
    let kinds = ["Slave_DDL_Groups", "Slave_Non_Transactional_Groups", "Slave_Transactional_Groups"];
    kinds.iter().map(|kind| row.parsed::<u64>(kind)).sum()
}

pub(crate) fn replication(row: &Row) -> Result<ReplicationState, SqlError> {
    let row = Named { what: "SHOW ALL SLAVES STATUS", row };
    let thread = |column| {
        Ok::<_, SqlError>(match row.some(column)?.as_str() {
            "Yes" => ThreadState::Yes,
            "No" => ThreadState::No,
            _ => ThreadState::Connecting,
        })
    };
    let error = |errno, message| {
        let errno = row.parsed::<u32>(errno)?;
        Ok::<_, SqlError>(if errno == 0 { None } else { Some(ServerError { errno, message: row.some(message)? }) })
    };
    Ok(ReplicationState {
        host: row.some("Master_Host")?,
        port: row.parsed("Master_Port")?,
        user: row.some("Master_User")?,
        io: thread("Slave_IO_Running")?,
        sql: thread("Slave_SQL_Running")?,
        gtid_io_pos: row.parsed("Gtid_IO_Pos")?,
        receives: false,
        io_error: error("Last_IO_Errno", "Last_IO_Error")?,
        sql_error: error("Last_SQL_Errno", "Last_SQL_Error")?,
        passed_over: 0,
        seconds_behind: row.text("Seconds_Behind_Master")?.and_then(|text| text.parse().ok()),
    })
}
