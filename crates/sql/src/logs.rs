//! Where a server's logs lie.

use std::path::PathBuf;
use std::time::Duration;

use crate::rows::Named;
use crate::session::{Session, SqlError};

const LIMIT: Duration = Duration::from_secs(5);

/// The index files of a server's logs, as the server names them (relative to its data directory, or absolute).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogIndexes {
    /// Of the binary log; `None` where it is off.
    pub binary: Option<PathBuf>,
    /// Of the relay log.
    pub relay: Option<PathBuf>,
}

impl Session {
    /// Where the server's logs lie.
    pub async fn log_indexes(&mut self) -> Result<LogIndexes, SqlError> {
        const SQL: &str = "SELECT @@log_bin_index AS bin, @@relay_log_index AS relay";
        const WHAT: &str = "log indexes";
        let rows = self.rows(WHAT, LIMIT, SQL).await?;
        let row = rows.first().ok_or(SqlError::Answer { what: WHAT, message: "no row".into() })?;
        let row = Named { what: WHAT, row };
        let path = |text: Option<String>| text.filter(|text| !text.is_empty()).map(PathBuf::from);
        Ok(LogIndexes { binary: path(row.text("bin")?), relay: path(row.text("relay")?) })
    }

    /// A global variable's number.
    pub async fn number(&mut self, variable: &'static str) -> Result<u64, SqlError> {
        let rows = self.rows(variable, LIMIT, &format!("SELECT @@GLOBAL.{variable} AS value")).await?;
        let row = rows.first().ok_or(SqlError::Answer { what: variable, message: "no row".into() })?;
        Named { what: variable, row }.parsed("value")
    }
}
