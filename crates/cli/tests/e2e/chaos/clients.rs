//! Clients: writers through the service of the primary, who note what they were told, and readers through that of the replicas.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Opts, OptsBuilder};
use tokio::task::JoinHandle;

use super::super::cluster::Failure;
use super::entry::{Entry, Path};
use super::history::{History, Outcome, RowId, Write};

/// The account of all clients; it does not pass `read_only`.
pub(crate) const ACCOUNT: &str = "chaos";
pub(crate) const PASSWORD: &str = "chaos-of-the-tests";

/// Clients connect anew so often.
const RECONNECT_EVERY: Duration = Duration::from_millis(10);
const CONNECT_LIMIT: Duration = Duration::from_millis(500);
/// An answer that has not come by then is not waited for: the outcome is unknown.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// Light load: two cores carry all servers.
const PAUSE: Duration = Duration::from_millis(40);
const READ_EVERY: Duration = Duration::from_millis(50);
/// Readers move on to another member after so many reads.
const READS_A_CONNECTION: u32 = 20;

/// What a server says when it has certainly not written: `read_only` (1290, 1836), no such table or no right to it (1142, 1146, 1044,
/// 1049), a lock that was not had (1205, 1213: rolled back). All else may have been written.
const REFUSALS: [u16; 8] = [1044, 1049, 1142, 1146, 1205, 1213, 1290, 1836];

/// The clients at work.
pub(crate) struct Clients {
    runtime: tokio::runtime::Runtime,
    stop: Arc<AtomicBool>,
    resting: Arc<AtomicBool>,
    started: Instant,
    acknowledged: Arc<AtomicU64>,
    writers: Mutex<Vec<JoinHandle<Writes>>>,
    readers: Vec<JoinHandle<Reads>>,
}

#[derive(Default)]
struct Writes {
    writes: Vec<Write>,
    failed_connections: u64,
}

#[derive(Default)]
struct Reads {
    seen: HashSet<RowId>,
    done: u64,
    failed: u64,
}

impl Clients {
    pub(crate) fn start(primary: &Entry, replicas: &Entry, writers: u32, readers: u32) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|e| format!("runtime: {e}"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let readers =
            (0..readers).map(|_| runtime.spawn(read(Path::new(replicas.clone()), Arc::clone(&stop)))).collect();
        let clients = Self {
            runtime,
            stop,
            resting: Arc::default(),
            started: Instant::now(),
            acknowledged,
            writers: Mutex::default(),
            readers,
        };
        for _ in 0..writers {
            clients.join(primary.clone());
        }
        Ok(clients)
    }

    /// One more writer, which may have a way of its own.
    pub(crate) fn join(&self, entry: Entry) {
        let mut writers = self.writers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let writer = Writer {
            client: u32::try_from(writers.len() + 1).unwrap_or(u32::MAX),
            path: Path::new(entry),
            stop: Arc::clone(&self.stop),
            resting: Arc::clone(&self.resting),
            acknowledged: Arc::clone(&self.acknowledged),
            started: self.started,
        };
        writers.push(self.runtime.spawn(writer.write()));
    }

    /// Writers send nothing more for now, or go on.
    pub(crate) fn rest(&self, rest: bool) {
        self.resting.store(rest, Ordering::Relaxed);
    }

    /// Since the beginning of the run.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// How many rows were acknowledged so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Ends all; what they saw.
    pub(crate) fn finish(self) -> Result<History, Failure> {
        self.stop.store(true, Ordering::Relaxed);
        let mut history = History::default();
        self.runtime.block_on(async {
            for writer in self.writers.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
                let written = writer.await.map_err(|e| format!("writer: {e}"))?;
                history.writes.extend(written.writes);
                history.failed_connections += written.failed_connections;
            }
            let mut seen = HashSet::new();
            for reader in self.readers {
                let reads = reader.await.map_err(|e| format!("reader: {e}"))?;
                seen.extend(reads.seen);
                history.reads += reads.done;
                history.failed_reads += reads.failed;
            }
            history.seen.extend(seen);
            Ok(history)
        })
    }
}

pub(crate) async fn connect(path: &mut Path) -> Result<Conn, Failure> {
    let address = path.address().await?;
    let opts: Opts = OptsBuilder::default()
        .ip_or_hostname(address.ip().to_string())
        .tcp_port(address.port())
        .prefer_socket(false)
        .user(Some(ACCOUNT))
        .pass(Some(PASSWORD))
        .stmt_cache_size(0)
        .max_allowed_packet(Some(1 << 20))
        .wait_timeout(Some(28800))
        .into();
    match tokio::time::timeout(CONNECT_LIMIT, Conn::new(opts)).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no login in time".to_owned()),
    }
}

/// A statement's first value, in time.
async fn ask<T>(connection: &mut Conn, sql: &str) -> Option<T>
where
    T: mysql_async::prelude::FromValue + Send + 'static,
{
    tokio::time::timeout(ANSWER_LIMIT, connection.query_first::<T, _>(sql)).await.ok()?.ok()?
}

struct Writer {
    client: u32,
    path: Path,
    stop: Arc<AtomicBool>,
    resting: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    started: Instant,
}

impl Writer {
    async fn write(self) -> Writes {
        let Self { client, mut path, stop, resting, acknowledged, started } = self;
        let mut all = Writes::default();
        let mut sequence = 0;
        while !stop.load(Ordering::Relaxed) {
            let opened = match connect(&mut path).await {
                Ok(mut connection) => {
                    ask::<u32>(&mut connection, "SELECT @@server_id").await.map(|id| (connection, id))
                }
                Err(_) => None,
            };
            let Some((mut connection, server_id)) = opened else {
                all.failed_connections += 1;
                path.broken();
                tokio::time::sleep(RECONNECT_EVERY).await;
                continue;
            };
            while !stop.load(Ordering::Relaxed) {
                if resting.load(Ordering::Relaxed) {
                    tokio::time::sleep(RECONNECT_EVERY).await;
                    continue;
                }
                sequence += 1;
                let row = RowId { client, sequence };
                let sql = format!(
                    "INSERT INTO chaos.writes (client, sequence, server) VALUES ({client}, {sequence}, @@server_id)"
                );
                let sent = started.elapsed();
                let outcome = match tokio::time::timeout(ANSWER_LIMIT, connection.query_drop(sql)).await {
                    Ok(Ok(())) => Outcome::Acknowledged,
                    Ok(Err(mysql_async::Error::Server(error))) if REFUSALS.contains(&error.code) => Outcome::Refused,
                    Ok(Err(_)) | Err(_) => Outcome::Unknown,
                };
                all.writes.push(Write { row, server_id, sent, ended: started.elapsed(), outcome });
                if outcome != Outcome::Acknowledged {
                    break;
                }
                acknowledged.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(PAUSE).await;
            }
            path.broken();
            // Said farewell to in the background: a server that hangs does not hold its client up.
            tokio::spawn(async move { tokio::time::timeout(CONNECT_LIMIT, connection.disconnect()).await });
            tokio::time::sleep(RECONNECT_EVERY).await;
        }
        all
    }
}

async fn read(mut path: Path, stop: Arc<AtomicBool>) -> Reads {
    let mut all = Reads::default();
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut connection) = connect(&mut path).await else {
            all.failed += 1;
            path.broken();
            tokio::time::sleep(READ_EVERY).await;
            continue;
        };
        for _ in 0..READS_A_CONNECTION {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            // The last row of each client: an index tells it.
            let last =
                connection.query::<(u32, u64), _>("SELECT client, MAX(sequence) FROM chaos.writes GROUP BY client");
            let Ok(Ok(rows)) = tokio::time::timeout(ANSWER_LIMIT, last).await else {
                all.failed += 1;
                break;
            };
            all.done += 1;
            all.seen.extend(rows.into_iter().map(|(client, sequence)| RowId { client, sequence }));
            tokio::time::sleep(READ_EVERY).await;
        }
        path.broken();
        tokio::spawn(async move { tokio::time::timeout(CONNECT_LIMIT, connection.disconnect()).await });
    }
    all
}
