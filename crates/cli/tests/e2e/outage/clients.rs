//! Clients that write through the primary's service, row by row, and note when each write was acknowledged. After a failure they connect
//! anew every 10 ms, with limits of 200 ms for a connection and for an answer. An outage is the longest time that one client has tried to
//! write, from its first attempt until it was acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Opts, OptsBuilder};

use super::super::chaos::Entry;
use super::super::cluster::{Cluster, Failure};

const LIMIT: Duration = Duration::from_millis(200);
const RECONNECT: Duration = Duration::from_millis(10);
const WRITERS: usize = 4;
/// Light load.
const PAUSE: Duration = Duration::from_millis(20);

/// Their table and account.
pub(super) const PREPARE: &str = "CREATE DATABASE outage; \
    CREATE TABLE outage.written (client INT, sequence INT, PRIMARY KEY (client, sequence)); \
    CREATE USER outage@'%' IDENTIFIED BY 'outage-of-the-bench'; GRANT ALL ON outage.* TO outage@'%'";

/// A row: client, and its number.
type Row = (usize, u64);

/// The rows of a member.
pub(super) fn written(cluster: &Cluster, namespace: &str, pod: &str) -> Result<BTreeSet<Row>, Failure> {
    let text = cluster.sql(namespace, pod, "SELECT client, sequence FROM outage.written")?;
    text.lines().map(|line| row(line).ok_or_else(|| format!("{pod}: not a row: {line:?}"))).collect()
}

/// The last row of each client on a member.
pub(super) fn latest(cluster: &Cluster, namespace: &str, pod: &str) -> Result<BTreeMap<usize, u64>, Failure> {
    let text = cluster.sql(namespace, pod, "SELECT client, MAX(sequence) FROM outage.written GROUP BY client")?;
    text.lines().map(|line| row(line).ok_or_else(|| format!("{pod}: not a row: {line:?}"))).collect()
}

fn row(line: &str) -> Option<Row> {
    let (client, sequence) = line.split_once('\t')?;
    Some((client.parse().ok()?, sequence.parse().ok()?))
}

/// What was acknowledged to a client.
type Acknowledged = Arc<Mutex<Vec<Write>>>;

/// An acknowledged write.
#[derive(Debug, Clone, Copy)]
struct Write {
    /// When the client first tried to write after its last one was acknowledged.
    wanted: Instant,
    acknowledged: Instant,
    sequence: u64,
}

pub(super) struct Clients {
    runtime: tokio::runtime::Runtime,
    stop: Arc<AtomicBool>,
    all: Vec<Acknowledged>,
}

impl Clients {
    pub(super) fn start(cluster: &Cluster, namespace: &str) -> Result<Self, Failure> {
        let Entry::Address(service) = Entry::of(cluster, namespace, "db-primary")? else {
            return Err(
                "outages are measured in the sandbox only: elsewhere a client's way in takes longer than they do"
                    .to_owned(),
            );
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|e| format!("clients: {e}"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let all: Vec<Acknowledged> = (0..WRITERS).map(|_| Acknowledged::default()).collect();
        for (client, acknowledged) in all.iter().enumerate() {
            runtime.spawn(write(client, service, Arc::clone(&stop), Arc::clone(acknowledged)));
        }
        Ok(Self { runtime, stop, all })
    }

    /// The longest that any client has waited for a write since `from`; without end where one has written nothing since.
    pub(super) fn longest_wait(&self, from: Instant) -> Duration {
        let waits = self.all.iter().map(|acknowledged| {
            let acknowledged = acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
            let first = acknowledged.partition_point(|write| write.acknowledged < from);
            acknowledged[first..].iter().map(|write| write.acknowledged - write.wanted).max().unwrap_or(Duration::MAX)
        });
        waits.max().unwrap_or_default()
    }

    /// The last row of each client that was acknowledged.
    pub(super) fn latest(&self) -> BTreeMap<usize, u64> {
        let last = |acknowledged: &Acknowledged| {
            acknowledged.lock().unwrap_or_else(PoisonError::into_inner).last().map(|write| write.sequence)
        };
        self.all.iter().enumerate().filter_map(|(client, acknowledged)| Some((client, last(acknowledged)?))).collect()
    }

    /// Ends them; what was acknowledged.
    pub(super) fn finish(self) -> BTreeSet<Row> {
        self.stop.store(true, Ordering::Relaxed);
        self.runtime.shutdown_timeout(Duration::from_secs(1));
        let rows = self.all.iter().enumerate().flat_map(|(client, acknowledged)| {
            let acknowledged = acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
            acknowledged.iter().map(|write| (client, write.sequence)).collect::<Vec<_>>()
        });
        rows.collect()
    }
}

async fn write(client: usize, service: SocketAddr, stop: Arc<AtomicBool>, acknowledged: Acknowledged) {
    let (mut sequence, mut wanted) = (0_u64, Instant::now());
    while !stop.load(Ordering::Relaxed) {
        let opts: Opts = OptsBuilder::default()
            .ip_or_hostname(service.ip().to_string())
            .tcp_port(service.port())
            .prefer_socket(false)
            .user(Some("outage"))
            .pass(Some("outage-of-the-bench"))
            .stmt_cache_size(0)
            .max_allowed_packet(Some(1 << 20))
            .wait_timeout(Some(28800))
            .into();
        if let Ok(Ok(mut connection)) = tokio::time::timeout(LIMIT, Conn::new(opts)).await {
            loop {
                sequence += 1;
                let row = format!("INSERT INTO outage.written VALUES ({client}, {sequence})");
                let Ok(Ok(())) = tokio::time::timeout(LIMIT, connection.query_drop(row)).await else { break };
                let write = Write { wanted, acknowledged: Instant::now(), sequence };
                acknowledged.lock().unwrap_or_else(PoisonError::into_inner).push(write);
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                tokio::time::sleep(PAUSE).await;
                wanted = Instant::now();
            }
            tokio::spawn(async move { tokio::time::timeout(LIMIT, connection.disconnect()).await });
        }
        tokio::time::sleep(RECONNECT).await;
    }
}
