//! Too many connections: a crowd that takes all that the primary has, and holds them.

use std::time::Duration;

use mysql_async::Conn;
use tokio::runtime::Runtime;

use super::super::cluster::Failure;
use super::clients;
use super::entry::{Entry, Path};

/// More than any server of these tests takes.
const MOST: usize = 400;
const LIMIT: Duration = Duration::from_secs(10);

/// Connections that do nothing.
pub(crate) struct Crowd {
    runtime: Runtime,
    connections: Vec<Conn>,
}

impl Crowd {
    /// Connects until the server takes no more.
    pub(crate) fn gather(entry: &Entry) -> Result<Self, Failure> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| format!("runtime: {e}"))?;
        let connections = runtime.block_on(async {
            let mut path = Path::new(entry.clone());
            let mut connections = Vec::new();
            let gathering = async {
                while connections.len() < MOST {
                    match clients::connect(&mut path).await {
                        Ok(connection) => connections.push(connection),
                        Err(failure) => return failure,
                    }
                }
                format!("the server takes {MOST} connections")
            };
            let end = tokio::time::timeout(LIMIT, gathering).await;
            (connections, end.unwrap_or_else(|_| "no more in time".to_owned()))
        });
        let (connections, end) = connections;
        if connections.is_empty() {
            return Err(format!("no connection at all: {end}"));
        }
        Ok(Self { runtime, connections })
    }

    /// Goes home.
    pub(crate) fn disperse(self) {
        self.runtime.block_on(async {
            for connection in self.connections {
                let _ = tokio::time::timeout(Duration::from_millis(100), connection.disconnect()).await;
            }
        });
    }
}
