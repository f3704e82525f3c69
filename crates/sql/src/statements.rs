//! What the operator says to a server.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use topology::GtidPosition;
use topology::action::{Source, Waits};
use topology::member::{LONG, LongTransaction, ReplicationState, ServerState, ThreadState};

use crate::Reception;
use crate::passages::Standing;
use crate::rows::{self, Named};
use crate::session::{Session, SqlError};
use crate::{identifier, quote};

/// Of `PROCESSLIST`: neither the server's own threads nor ours over the socket.
const IS_A_CLIENT: &str = "USER NOT IN ('system user', 'event_scheduler', 'mysql')";
/// The connection to be killed is gone already.
const NO_SUCH_THREAD: u32 = 1094;
/// `STOP SLAVE` of a member that is to open: its IO thread is stopped already, or caught in `connect()`.
const FORGET_LIMIT: Duration = Duration::from_millis(500);
/// Statements that only read.
const READ_LIMIT: Duration = Duration::from_secs(5);
/// Statements that change something small.
const CHANGE_LIMIT: Duration = Duration::from_secs(10);
/// Starting and stopping replication: STOP SLAVE can hang in connect() (up to `slave_net_timeout`).
const REPLICATION_LIMIT: Duration = Duration::from_secs(20);

/// How a replica is told to follow.
#[derive(Debug, Clone)]
pub struct Follow<'a> {
    /// The source and how to log in there.
    pub source: &'a Source,
    /// Password of the account.
    pub password: &'a str,
    /// It was primary.
    pub demote: bool,
    /// The connection is known to have this password (the server does not show it).
    pub password_known: bool,
    /// CA that the source's certificate must come from; with TLS only.
    pub ca: &'a Path,
}

/// An account to make.
#[derive(Debug, Clone)]
pub struct Account<'a> {
    /// Its name; the host is `%`.
    pub user: &'a str,
    /// Its password.
    pub password: &'a str,
    /// May it replicate? Else it can log in and nothing more.
    pub replicates: bool,
    /// It must use TLS.
    pub tls: bool,
    /// It is locked when it is made; one that exists stays as it is.
    pub locked: bool,
}

impl Session {
    /// The server's facts. Whoever else asks at the same time shares `reception`: it is held for no longer than a note takes.
    pub async fn state(&mut self, reception: &Mutex<Reception>) -> Result<ServerState, SqlError> {
        const SLAVES: &str = "SHOW ALL SLAVES STATUS";
        let reception = || reception.lock().unwrap_or_else(PoisonError::into_inner);
        let mut replication = None;
        let mut applied = 0;
        for row in &self.rows(SLAVES, READ_LIMIT, SLAVES).await? {
            if (Named { what: SLAVES, row }).some("Connection_name")?.is_empty() {
                let (signs, heartbeat) = rows::reception(row)?;
                let mut known = rows::replication(row)?;
                known.receives = reception().note(signs, heartbeat, Instant::now()) && known.io == ThreadState::Yes;
                applied = rows::applied(row)?;
                replication = Some(known);
            }
        }
        let alone = replication.is_none();
        let rows = self.rows("state", READ_LIMIT, rows::SERVER).await?;
        let row = rows.first().ok_or(SqlError::Answer { what: "state", message: "no row".into() })?;
        let mut server = rows::server(row, replication)?;
        server.log_reset = {
            let mut reception = reception();
            reception.passages.note_log(&server.gtid_binlog_state);
            reception.passages.log_reset
        };
        if let Some(known) = &mut server.replication {
            let standing = Standing { position: server.gtid_slave_pos.clone(), applied };
            let idle = known.sql == ThreadState::Yes
                && server.gtid_slave_pos.covers(&known.gtid_io_pos)
                && known.gtid_io_pos.covers(&server.gtid_slave_pos);
            let rests = reception().passages.note(standing, idle);
            if rests && let Some(thread) = self.sql_thread().await? {
                reception().passages.rest(thread);
            }
            known.passed_over = reception().passages.passed_over;
        }
        // (Where a STOP SLAVE hangs in connect(), SHOW GLOBAL STATUS does, too.)
        if alone {
            let status = self.rows("semi-sync status", READ_LIMIT, rows::SEMI_SYNC).await?;
            rows::semi_sync(&status, &mut server.semi_sync)?;
        }
        Ok(server)
    }

    /// Number of the SQL thread; another one after each start.
    async fn sql_thread(&mut self) -> Result<Option<u64>, SqlError> {
        const THREAD: &str = "SELECT MAX(ID) AS id FROM information_schema.PROCESSLIST WHERE COMMAND = 'Slave_SQL'";
        let rows = self.rows("SQL thread", READ_LIMIT, THREAD).await?;
        let row = rows.first().map(|row| Named { what: "SQL thread", row });
        Ok(row.map(|row| row.text("id")).transpose()?.flatten().and_then(|id| id.parse().ok()))
    }

    /// The default replication connection.
    pub async fn replication(&mut self) -> Result<Option<ReplicationState>, SqlError> {
        let rows = self.rows("SHOW ALL SLAVES STATUS", READ_LIMIT, "SHOW ALL SLAVES STATUS").await?;
        for row in &rows {
            if (Named { what: "SHOW ALL SLAVES STATUS", row }).some("Connection_name")?.is_empty() {
                return rows::replication(row).map(Some);
            }
        }
        Ok(None)
    }

    /// Stops what is to be forgotten next. `false`: its STOP hangs (in `connect()`), and is to be tried again; nothing is received
    /// any more all the same.
    pub async fn leave_source(&mut self) -> Result<bool, SqlError> {
        let stopped = self.try_run("STOP SLAVE", FORGET_LIMIT, "STOP SLAVE").await.transpose()?;
        Ok(stopped.is_some())
    }

    /// Forgets a replication connection that is still configured, the history kept (never RESET MASTER: other replicas would
    /// lose rows in silence). `false`: it cannot be stopped yet.
    pub async fn forget_source(&mut self) -> Result<bool, SqlError> {
        if self.replication().await?.is_none() {
            return Ok(true);
        }
        if !self.leave_source().await? {
            return Ok(false);
        }
        self.run("RESET SLAVE ALL", CHANGE_LIMIT, "RESET SLAVE ALL").await.map(|()| true)
    }

    /// Commits wait for an acknowledgement, or not; then it opens for writes.
    pub async fn open_for_writes(&mut self, wait: Waits) -> Result<(), SqlError> {
        self.set_waiting(wait).await?;
        self.run("read_only=OFF", CHANGE_LIMIT, "SET GLOBAL read_only=OFF").await?;
        self.run("event_scheduler=ON", CHANGE_LIMIT, "SET GLOBAL event_scheduler=ON").await
    }

    /// What commits wait for.
    pub async fn set_waiting(&mut self, waits: Waits) -> Result<(), SqlError> {
        let sql = match waits {
            Waits::Off => "SET GLOBAL rpl_semi_sync_master_enabled=OFF",
            Waits::AsConfigured => "SET GLOBAL rpl_semi_sync_master_enabled=ON",
            // A timeout of 31 years: the greatest value that MariaDB accepts overflows its own arithmetic.
            Waits::WithoutEnd => {
                "SET GLOBAL rpl_semi_sync_master_wait_point=AFTER_SYNC, rpl_semi_sync_master_wait_no_slave=ON, \
                 rpl_semi_sync_master_timeout=1000000000000, rpl_semi_sync_master_enabled=ON"
            }
        };
        self.run("rpl_semi_sync_master_enabled", CHANGE_LIMIT, sql).await
    }

    /// `STOP SLAVE IO_THREAD`, with a stopped SQL thread started first while that keeps the relay log. `None`: it hangs.
    pub async fn stop_receiving(&mut self, limit: Duration) -> Option<Result<(), SqlError>> {
        let replication = match self.replication().await {
            Ok(Some(replication)) => replication,
            Ok(None) => return Some(Ok(())),
            Err(error) => return Some(Err(error)),
        };
        if replication.io == ThreadState::No {
            return Some(Ok(()));
        }
        if replication.sql == ThreadState::No
            && let Err(error) = self.run("START SLAVE SQL_THREAD", CHANGE_LIMIT, "START SLAVE SQL_THREAD").await
        {
            return Some(Err(error));
        }
        self.try_run("STOP SLAVE IO_THREAD", limit, "STOP SLAVE IO_THREAD").await
    }

    /// Waits until all of this is applied; `false`: not in time.
    pub async fn await_position(&mut self, position: &GtidPosition, limit: Duration) -> Result<bool, SqlError> {
        let sql =
            format!("SELECT MASTER_GTID_WAIT({}, {:.3}) AS result", quote(&position.to_string()), limit.as_secs_f64());
        let rows = self.rows("MASTER_GTID_WAIT", limit + READ_LIMIT, &sql).await?;
        let row = rows.first().ok_or(SqlError::Answer { what: "MASTER_GTID_WAIT", message: "no row".into() })?;
        Ok(Named { what: "MASTER_GTID_WAIT", row }.some("result")? == "0")
    }

    /// Ends statements about replication that other sessions of ours still run.
    pub async fn end_replication_statements(&mut self) -> Result<(), SqlError> {
        const SQL: &str = "SELECT ID AS id FROM information_schema.PROCESSLIST WHERE ID <> CONNECTION_ID() AND USER = 'mysql' \
             AND (INFO LIKE 'START SLAVE%' OR INFO LIKE 'CHANGE MASTER%' OR INFO LIKE 'SELECT MASTER_GTID_WAIT%')";
        for row in self.rows("processlist", READ_LIMIT, SQL).await? {
            let id: u64 = Named { what: "processlist", row: &row }.parsed("id")?;
            self.end_connection(id).await?;
        }
        Ok(())
    }

    /// Closes for writes and cuts the clients, so that they connect to the primary. Clients in a transaction may finish it
    /// for `grace`. Within `limit`, or it fails with nothing changed.
    pub async fn set_read_only(&mut self, grace: Duration, limit: Duration) -> Result<(), SqlError> {
        let until = Instant::now() + grace;
        while Instant::now() < until && self.writers().await? > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.limit_lock_waits(limit).await?;
        self.run("read_only=ON", limit + Duration::from_secs(1), "SET GLOBAL read_only=ON").await?;
        self.run("event_scheduler=OFF", CHANGE_LIMIT, "SET GLOBAL event_scheduler=OFF").await?;
        self.cut_clients().await
    }

    /// One that is gone already is as good.
    async fn end_connection(&mut self, id: u64) -> Result<(), SqlError> {
        match self.run("KILL", CHANGE_LIMIT, &format!("KILL {id}")).await {
            Err(error) if error.errno() != Some(NO_SUCH_THREAD) => Err(error),
            _ => Ok(()),
        }
    }

    async fn cut_clients(&mut self) -> Result<(), SqlError> {
        for id in self.clients().await? {
            self.end_connection(id).await?;
        }
        Ok(())
    }

    /// Nothing is committed on this server while this session lasts, by root neither (`FLUSH TABLES WITH READ LOCK`). That waits for
    /// `LOCK TABLES ... WRITE`, not for queries and open transactions: clients are cut before.
    pub async fn lock_commits(&mut self, limit: Duration) -> Result<(), SqlError> {
        const LOCK: &str = "FLUSH TABLES WITH READ LOCK";
        self.cut_clients().await?;
        self.limit_lock_waits(limit).await?;
        self.run(LOCK, limit + Duration::from_secs(1), LOCK).await
    }

    /// What this session asks for gives up a lock that it does not get in this time.
    async fn limit_lock_waits(&mut self, limit: Duration) -> Result<(), SqlError> {
        let wait = limit.as_secs().max(1);
        self.run("lock_wait_timeout", CHANGE_LIMIT, &format!("SET SESSION lock_wait_timeout={wait}")).await
    }

    /// Transactions of clients that have written.
    async fn writers(&mut self) -> Result<u64, SqlError> {
        const SQL: &str = "SELECT COUNT(*) AS n FROM information_schema.INNODB_TRX WHERE trx_rows_modified > 0";
        let rows = self.rows("writers", READ_LIMIT, SQL).await?;
        rows.first().map_or(Ok(0), |row| Named { what: "writers", row }.parsed("n"))
    }

    /// The oldest transaction of a client that has written and is open for longer than [`LONG`]. (One that waits for an acknowledgement
    /// is committed.)
    pub async fn long_transaction(&mut self) -> Result<Option<LongTransaction>, SqlError> {
        const WHAT: &str = "long transactions";
        // `trx_started` is in the system's time zone, whatever `default_time_zone` says.
        let sql = format!(
            "SELECT ID AS id, USER AS user, TIMESTAMPDIFF(SECOND, trx_started, CONVERT_TZ(NOW(), @@time_zone, 'SYSTEM')) AS seconds \
             FROM information_schema.INNODB_TRX JOIN information_schema.PROCESSLIST ON ID = trx_mysql_thread_id \
             WHERE trx_rows_modified > 0 AND {IS_A_CLIENT} \
             AND IFNULL(STATE, '') NOT LIKE 'Waiting for semi-sync%' HAVING seconds >= {} ORDER BY seconds DESC LIMIT 1",
            LONG.as_secs()
        );
        let rows = self.rows(WHAT, READ_LIMIT, &sql).await?;
        let Some(row) = rows.first().map(|row| Named { what: WHAT, row }) else { return Ok(None) };
        let seconds: u64 = row.parsed("seconds")?;
        let step = if seconds < 60 { 10 } else { 60 };
        let seconds = seconds / step * step;
        Ok(Some(LongTransaction { connection: row.parsed("id")?, user: row.some("user")?, seconds }))
    }

    /// Connections of clients: neither the server's own threads nor replicas nor ours over the socket.
    async fn clients(&mut self) -> Result<Vec<u64>, SqlError> {
        let sql = format!(
            "SELECT ID AS id FROM information_schema.PROCESSLIST WHERE ID <> CONNECTION_ID() AND {IS_A_CLIENT} \
             AND COMMAND NOT IN ('Binlog Dump', 'Daemon')"
        );
        let rows = self.rows("processlist", READ_LIMIT, &sql).await?;
        rows.iter().map(|row| Named { what: "processlist", row }.parsed("id")).collect()
    }

    /// Makes the account or sets it right; an account that is right already is left alone, so that nothing is written to the
    /// binary log.
    pub async fn ensure_account(&mut self, account: &Account<'_>) -> Result<(), SqlError> {
        let name = format!("{}@'%'", quote(account.user));
        let tls = if account.tls { "ANY" } else { "" };
        let sql = format!(
            "SELECT (authentication_string = PASSWORD({password}) OR Password = PASSWORD({password})) AS same, ssl_type AS tls, \
             Repl_slave_priv AS replicates FROM mysql.user WHERE User={user} AND Host='%'",
            user = quote(account.user),
            password = quote(account.password),
        );
        let found = self.rows("account", READ_LIMIT, &sql).await?;
        if let Some(row) = found.first() {
            let row = Named { what: "account", row };
            let replicates = if account.replicates { "Y" } else { "N" };
            if row.some("same")? == "1" && row.some("tls")? == tls && row.some("replicates")? == replicates {
                return Ok(());
            }
        }
        let require = if account.tls { "REQUIRE SSL" } else { "REQUIRE NONE" };
        let password = quote(account.password);
        // Nobody acknowledges before it is admitted.
        let locked = if account.locked { "ACCOUNT LOCK" } else { "" };
        self.run(
            "CREATE USER",
            CHANGE_LIMIT,
            &format!("CREATE USER IF NOT EXISTS {name} IDENTIFIED BY {password} {require} {locked}"),
        )
        .await?;
        self.run("ALTER USER", CHANGE_LIMIT, &format!("ALTER USER {name} IDENTIFIED BY {password} {require}")).await?;
        if account.replicates {
            self.run("GRANT", CHANGE_LIMIT, &format!("GRANT REPLICATION SLAVE ON *.* TO {name}")).await?;
        }
        Ok(())
    }

    /// Sets an account's password everywhere it has one (for every host), where it differs.
    pub async fn ensure_password(&mut self, user: &str, password: &str) -> Result<(), SqlError> {
        let sql = format!(
            "SELECT Host AS host FROM mysql.user WHERE User={user} AND NOT (authentication_string = PASSWORD({p}) OR Password = PASSWORD({p}))",
            user = quote(user),
            p = quote(password)
        );
        for row in self.rows("accounts", READ_LIMIT, &sql).await? {
            let host = Named { what: "accounts", row: &row }.some("host")?;
            let sql = format!("ALTER USER {}@{} IDENTIFIED BY {}", quote(user), quote(&host), quote(password));
            self.run("ALTER USER", CHANGE_LIMIT, &sql).await?;
        }
        Ok(())
    }

    /// Is the default connection configured just so? The password cannot be seen.
    pub async fn follows(&mut self, follow: &Follow<'_>) -> Result<bool, SqlError> {
        const WHAT: &str = "SHOW ALL SLAVES STATUS";
        if !follow.password_known {
            return Ok(false);
        }
        let Source { endpoint, user, tls, connect_retry, heartbeat_ms, delay } = follow.source;
        let yes_or_no = if *tls { "Yes" } else { "No" };
        let ca = if *tls { follow.ca.to_string_lossy().into_owned() } else { String::new() };
        let wanted = [
            ("Master_Host", endpoint.host.clone()),
            ("Master_Port", endpoint.port.to_string()),
            ("Master_User", user.clone()),
            ("Using_Gtid", "Slave_Pos".to_owned()),
            ("Connect_Retry", connect_retry.to_string()),
            ("SQL_Delay", delay.to_string()),
            ("Master_SSL_Allowed", yes_or_no.to_owned()),
            ("Master_SSL_Verify_Server_Cert", yes_or_no.to_owned()),
            ("Master_SSL_CA_File", ca),
        ];
        for row in &self.rows(WHAT, READ_LIMIT, WHAT).await? {
            let row = Named { what: WHAT, row };
            if !row.some("Connection_name")?.is_empty() {
                continue;
            }
            for (column, wanted) in &wanted {
                if row.some(column)? != *wanted {
                    return Ok(false);
                }
            }
            let heartbeat: f64 = row.parsed("Slave_heartbeat_period")?;
            return Ok((heartbeat * 1000.0 - f64::from(*heartbeat_ms)).abs() < 1.0);
        }
        Ok(false)
    }

    /// `CHANGE MASTER`; both threads are stopped. What the relay log held is gone afterwards.
    pub async fn point_at(&mut self, follow: &Follow<'_>) -> Result<(), SqlError> {
        let Source { endpoint, user, tls, connect_retry, heartbeat_ms, delay } = follow.source;
        // Every MASTER_SSL option each time: some survive RESET SLAVE ALL.
        let ssl = if *tls {
            format!(
                "MASTER_SSL=1, MASTER_SSL_CA={}, MASTER_SSL_VERIFY_SERVER_CERT=1",
                quote(&follow.ca.to_string_lossy())
            )
        } else {
            "MASTER_SSL=0, MASTER_SSL_CA='', MASTER_SSL_VERIFY_SERVER_CERT=0".to_owned()
        };
        let sql = format!(
            "CHANGE MASTER TO MASTER_HOST={host}, MASTER_PORT={port}, MASTER_USER={user}, MASTER_PASSWORD={password}, \
             MASTER_USE_GTID=slave_pos,{demote} MASTER_CONNECT_RETRY={connect_retry}, MASTER_HEARTBEAT_PERIOD={heartbeat}, \
             MASTER_DELAY={delay}, {ssl}, MASTER_SSL_CAPATH='', MASTER_SSL_CERT='', MASTER_SSL_KEY='', MASTER_SSL_CIPHER=''",
            // What it wrote as primary counts as applied.
            demote = if follow.demote { " MASTER_DEMOTE_TO_SLAVE=1," } else { "" },
            host = quote(&endpoint.host),
            port = endpoint.port,
            user = quote(user),
            password = quote(follow.password),
            heartbeat = f64::from(*heartbeat_ms) / 1000.0,
        );
        self.run("CHANGE MASTER", CHANGE_LIMIT, &sql).await
    }

    /// `START SLAVE`.
    pub async fn start_replication(&mut self) -> Result<(), SqlError> {
        self.run("START SLAVE", REPLICATION_LIMIT, "START SLAVE").await
    }

    /// `STOP SLAVE` (fine where nothing is configured).
    pub async fn stop_replication(&mut self) -> Result<(), SqlError> {
        self.run("STOP SLAVE", REPLICATION_LIMIT, "STOP SLAVE").await
    }

    /// What was replicated before is no position any more: only its own binary log tells. With both threads stopped.
    pub async fn forget_positions(&mut self) -> Result<(), SqlError> {
        const CONFLICTS: u32 = 1947;
        // Somebody may write in between.
        let mut attempts = 20;
        loop {
            let result =
                self.run("gtid_slave_pos", CHANGE_LIMIT, "SET GLOBAL gtid_slave_pos=@@GLOBAL.gtid_binlog_pos").await;
            attempts -= 1;
            match result {
                Err(error) if error.errno() == Some(CONFLICTS) && attempts > 0 => {}
                other => return other,
            }
        }
    }

    /// `gtid_slave_pos`, on a server that does not replicate yet.
    pub async fn set_slave_position(&mut self, position: &GtidPosition) -> Result<(), SqlError> {
        self.run("gtid_slave_pos", CHANGE_LIMIT, &format!("SET GLOBAL gtid_slave_pos={}", quote(&position.to_string())))
            .await
    }

    /// `SET GLOBAL` of a dynamic variable. Numbers and words (`DEFAULT`, `ON`) as they are, everything else quoted.
    pub async fn set_variable(&mut self, name: &str, value: &str) -> Result<(), SqlError> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let plain = value.bytes().all(word) && !value.is_empty() || value.parse::<f64>().is_ok_and(f64::is_finite);
        let value = if plain { value.to_owned() } else { quote(value) };
        let name = identifier(&name.replace('-', "_"));
        self.run("SET GLOBAL", CHANGE_LIMIT, &format!("SET GLOBAL {name}={value}")).await
    }
}
