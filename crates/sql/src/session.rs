//! A connection for one purpose.

use std::path::PathBuf;
use std::time::Duration;

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Opts, OptsBuilder, Row};

/// How long a login may take.
const LOGIN_LIMIT: Duration = Duration::from_secs(5);

/// Where to log in.
#[derive(Clone)]
pub enum Target {
    /// Over the unix socket.
    Socket {
        /// The socket.
        path: PathBuf,
        /// The account.
        user: String,
        /// Its password.
        password: String,
    },
}

/// What can go wrong with a statement.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// No login.
    #[error("cannot log in: {0}")]
    Login(String),
    /// The server refused the statement.
    #[error("{what}: {errno}: {message}")]
    Refused {
        /// Which statement.
        what: &'static str,
        /// MariaDB's number.
        errno: u32,
        /// MariaDB's words.
        message: String,
    },
    /// The connection broke.
    #[error("{what}: {message}")]
    Broken {
        /// Which statement.
        what: &'static str,
        /// Why.
        message: String,
    },
    /// No answer in time; the session is of no use any more.
    #[error("{what}: no answer within {limit:?}")]
    TimedOut {
        /// Which statement.
        what: &'static str,
        /// The limit.
        limit: Duration,
    },
    /// An answer that cannot be understood.
    #[error("{what}: {message}")]
    Answer {
        /// Which statement.
        what: &'static str,
        /// What.
        message: String,
    },
}

impl SqlError {
    /// MariaDB's number, when the server refused.
    pub fn errno(&self) -> Option<u32> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// PascalCase, for events and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Login(_) => "LoginFailed",
            Self::Refused { .. } => "StatementRefused",
            Self::Broken { .. } => "ConnectionBroken",
            Self::TimedOut { .. } => "StatementTimedOut",
            Self::Answer { .. } => "AnswerNotUnderstood",
        }
    }
}

/// A logged-in connection.
pub struct Session {
    conn: Option<Conn>,
    target: Target,
    id: u32,
    /// A statement was sent, and its answer not read to the end.
    busy: bool,
}

impl Session {
    /// Logs in.
    pub async fn open(target: &Target) -> Result<Self, SqlError> {
        let conn = connect(target).await?;
        Ok(Self { id: conn.id(), conn: Some(conn), target: target.clone(), busy: false })
    }

    /// Nothing is under way on it, and as far as is known it is not broken.
    pub fn is_idle(&self) -> bool {
        self.conn.is_some() && !self.busy
    }

    /// Forgets all that was set for this session (`COM_RESET_CONNECTION`): as if logged in anew. `false`: it is of no use any more.
    pub async fn reset(&mut self) -> bool {
        let Some(conn) = self.conn.as_mut().filter(|_| !self.busy) else { return false };
        matches!(tokio::time::timeout(LOGIN_LIMIT, conn.reset()).await, Ok(Ok(true)))
    }

    /// Does the server answer on it (`COM_PING`)?
    pub async fn ping(&mut self) -> bool {
        let Some(conn) = self.conn.as_mut().filter(|_| !self.busy) else { return false };
        matches!(tokio::time::timeout(LOGIN_LIMIT, conn.ping()).await, Ok(Ok(())))
    }

    /// Runs a statement, without its rows.
    pub async fn run(&mut self, what: &'static str, limit: Duration, sql: &str) -> Result<(), SqlError> {
        self.rows(what, limit, sql).await.map(drop)
    }

    /// Runs a statement; its rows.
    pub async fn rows(&mut self, what: &'static str, limit: Duration, sql: &str) -> Result<Vec<Row>, SqlError> {
        let Some(conn) = self.conn.as_mut() else {
            return Err(SqlError::Broken { what, message: "the session is over".into() });
        };
        // Left so where whoever asked does not wait for the answer.
        self.busy = true;
        let answer = tokio::time::timeout(limit, conn.query::<Row, _>(sql)).await;
        self.busy = false;
        match answer {
            Ok(Ok(rows)) => Ok(rows),
            Ok(Err(mysql_async::Error::Server(error))) => {
                Err(SqlError::Refused { what, errno: u32::from(error.code), message: error.message })
            }
            Ok(Err(error)) => {
                self.conn = None;
                Err(SqlError::Broken { what, message: error.to_string() })
            }
            Err(_) => {
                self.abandon().await;
                Err(SqlError::TimedOut { what, limit })
            }
        }
    }

    /// The server's number of this connection.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Runs a statement; when it takes longer than `limit` it is left alone and goes on (`None`): one that hangs where it
    /// cannot be ended. The session is of no use then.
    pub async fn try_run(&mut self, what: &'static str, limit: Duration, sql: &str) -> Option<Result<(), SqlError>> {
        let Some(mut conn) = self.conn.take() else {
            return Some(Err(SqlError::Broken { what, message: "the session is over".into() }));
        };
        let sql = sql.to_owned();
        let (done, result) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let result = conn.query_drop(sql).await;
            let _ = done.send((conn, result));
        });
        match tokio::time::timeout(limit, result).await {
            Ok(Ok((conn, result))) => {
                self.conn = Some(conn);
                Some(match result {
                    Ok(()) => Ok(()),
                    Err(mysql_async::Error::Server(error)) => {
                        Err(SqlError::Refused { what, errno: u32::from(error.code), message: error.message })
                    }
                    Err(error) => {
                        self.conn = None;
                        Err(SqlError::Broken { what, message: error.to_string() })
                    }
                })
            }
            Ok(Err(_)) => Some(Err(SqlError::Broken { what, message: "given up".into() })),
            Err(_) => None,
        }
    }

    /// The statement that does not answer is ended by the server before the failure is reported: it must not take
    /// effect later.
    async fn abandon(&mut self) {
        self.conn = None;
        let end = async {
            let mut other = connect(&self.target).await?;
            other.query_drop(format!("KILL {}", self.id)).await.map_err(|e| SqlError::Login(e.to_string()))
        };
        match tokio::time::timeout(LOGIN_LIMIT, end).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "a statement that timed out could not be ended"),
            Err(_) => tracing::warn!("a statement that timed out could not be ended: the server does not answer"),
        }
    }
}

async fn connect(target: &Target) -> Result<Conn, SqlError> {
    let Target::Socket { path, user, password } = target;
    let opts: Opts = OptsBuilder::default()
        .socket(Some(path.to_string_lossy()))
        .prefer_socket(true)
        .user(Some(user))
        .pass(Some(password))
        .stmt_cache_size(0)
        .into();
    match tokio::time::timeout(LOGIN_LIMIT, Conn::new(opts)).await {
        Ok(Ok(conn)) => Ok(conn),
        Ok(Err(error)) => Err(SqlError::Login(error.to_string())),
        Err(_) => Err(SqlError::Login(format!("no answer within {LOGIN_LIMIT:?}"))),
    }
}
