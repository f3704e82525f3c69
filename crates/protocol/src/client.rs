//! Talking to an agent. Every call has a time limit; a connection serves one call, or one stream.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use topology::{Command, MemberState};

use crate::{Confirm, Outcome, Refusal, clone};

/// How long connecting (TCP and TLS) may take. An agent that is cut off costs a failover so long at most.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// How long a short answer may take.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// How long a command may take to be answered: the agent's own limits on statements lie below it.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(30);
/// A state stream that is silent for so long is dead: agents send at least twice a second. With it, three attempts to connect
/// that nobody answers (`failover.retries`) fit into five seconds (`failover.timeout`).
pub const SILENCE_LIMIT: Duration = Duration::from_millis(1500);

/// What can go wrong between controller and agent.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Where to.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// Too slow.
    #[error("{what}: no answer within {limit:?}")]
    TimedOut {
        /// Which call.
        what: &'static str,
        /// The limit.
        limit: Duration,
    },
    /// The connection broke.
    #[error("{what}: {source}")]
    Http {
        /// Which call.
        what: &'static str,
        /// Why.
        source: hyper::Error,
    },
    /// The name that the certificate must have is no name.
    #[error("{0:?} is no server name")]
    Name(String),
    /// The agent carried nothing out, and says why.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// An answer that is none of ours.
    #[error("{what}: answer {status}: {body}")]
    Unexpected {
        /// Which call.
        what: &'static str,
        /// HTTP status.
        status: StatusCode,
        /// Beginning of the body.
        body: String,
    },
    /// A stream ended or broke its form.
    #[error("stream: {0}")]
    Stream(String),
}

/// An agent to talk to.
#[derive(Clone)]
pub struct AgentClient {
    address: Address,
    name: ServerName<'static>,
    tls: Arc<ClientConfig>,
}

#[derive(Clone)]
enum Address {
    Ip(SocketAddr),
    Host(String, u16),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Host(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

async fn limited<T>(
    what: &'static str,
    limit: Duration,
    call: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    tokio::time::timeout(limit, call).await.map_err(|_| ClientError::TimedOut { what, limit })?
}

impl AgentClient {
    /// By address; `name` is what the certificate must name.
    pub fn new(address: SocketAddr, name: &str, tls: Arc<ClientConfig>) -> Result<Self, ClientError> {
        Ok(Self { address: Address::Ip(address), name: server_name(name)?, tls })
    }

    /// By host name, which the certificate must name too.
    pub fn by_host(host: &str, port: u16, tls: Arc<ClientConfig>) -> Result<Self, ClientError> {
        Ok(Self { address: Address::Host(host.to_owned(), port), name: server_name(host)?, tls })
    }

    /// The member's state.
    pub async fn state(&self) -> Result<MemberState, ClientError> {
        limited("state", ANSWER_LIMIT, async {
            let body = self.whole("state", Method::GET, "/v1/state", Bytes::new()).await?;
            serde_json::from_slice(&body).map_err(|e| ClientError::Stream(format!("state: {e}")))
        })
        .await
    }

    /// Sends a command; what the agent answers.
    pub async fn command(&self, command: &Command) -> Result<Outcome, ClientError> {
        limited("command", COMMAND_LIMIT, async {
            let body = serde_json::to_vec(command).map_err(|e| ClientError::Stream(format!("command: {e}")))?;
            let body = self.whole("command", Method::POST, "/v1/commands", body.into()).await?;
            serde_json::from_slice(&body).map_err(|e| ClientError::Stream(format!("command: {e}")))
        })
        .await
    }

    /// Asks whether this primary may stay. `Ok`: it may.
    pub async fn confirm(&self, ask: &Confirm) -> Result<(), ClientError> {
        limited("confirm", ANSWER_LIMIT, async {
            let body = serde_json::to_vec(ask).map_err(|e| ClientError::Stream(format!("confirm: {e}")))?;
            self.whole("confirm", Method::POST, "/v1/confirm", body.into()).await.map(drop)
        })
        .await
    }

    /// The member's state at every change, and at least twice a second.
    pub async fn watch(&self) -> Result<StateStream, ClientError> {
        let body = limited("state stream", CONNECT_LIMIT + ANSWER_LIMIT, self.open("state stream", "/v1/state/stream"))
            .await?;
        Ok(StateStream { body, buffer: BytesMut::new() })
    }

    /// A physical backup of the member.
    pub async fn clone_data(&self) -> Result<CloneStream, ClientError> {
        let body = limited("clone", CONNECT_LIMIT + COMMAND_LIMIT, self.open("clone", "/v1/clone")).await?;
        Ok(CloneStream { body, buffer: BytesMut::new() })
    }

    async fn open(&self, what: &'static str, path: &str) -> Result<Incoming, ClientError> {
        let response = self.send(what, Method::GET, path, Bytes::new()).await?;
        if response.status() == StatusCode::OK {
            return Ok(response.into_body());
        }
        Err(refusal(what, response).await)
    }

    async fn whole(&self, what: &'static str, method: Method, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
        let response = self.send(what, method, path, body).await?;
        if !response.status().is_success() {
            return Err(refusal(what, response).await);
        }
        let body = response.into_body().collect().await.map_err(|source| ClientError::Http { what, source })?;
        Ok(body.to_bytes())
    }

    async fn send(
        &self,
        what: &'static str,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<http::Response<Incoming>, ClientError> {
        request(&mut self.connect(what).await?, what, method, path, body).await
    }

    async fn connect(&self, what: &'static str) -> Result<Sender, ClientError> {
        let connect = async {
            let tcp = match &self.address {
                Address::Ip(address) => TcpStream::connect(address).await?,
                Address::Host(host, port) => TcpStream::connect((host.as_str(), *port)).await?,
            };
            tcp.set_nodelay(true)?;
            TlsConnector::from(Arc::clone(&self.tls)).connect(self.name.clone(), tcp).await
        };
        let stream = tokio::time::timeout(CONNECT_LIMIT, connect)
            .await
            .map_err(|_| ClientError::TimedOut { what: "connect", limit: CONNECT_LIMIT })?
            .map_err(|source| ClientError::Connect { address: self.address.to_string(), source })?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|source| ClientError::Http { what, source })?;
        // Ends with its sender, and with a response whose body is still read.
        tokio::spawn(connection);
        Ok(sender)
    }
}

type Sender = hyper::client::conn::http1::SendRequest<Full<Bytes>>;

async fn request(
    sender: &mut Sender,
    what: &'static str,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<http::Response<Incoming>, ClientError> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, "agent")
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|e| ClientError::Stream(e.to_string()))?;
    sender.send_request(request).await.map_err(|source| ClientError::Http { what, source })
}

/// A connection to an agent that is kept: what is said over it costs a round trip, and no handshakes.
pub struct Session {
    client: AgentClient,
    sender: Option<Sender>,
}

impl Session {
    /// Not connected yet.
    pub fn new(client: AgentClient) -> Self {
        Self { client, sender: None }
    }

    /// Connects, so that what follows is quick.
    pub async fn prepare(&mut self) -> Result<(), ClientError> {
        if self.sender.as_ref().is_none_or(Sender::is_closed) {
            self.sender = Some(self.client.connect("connect").await?);
        }
        Ok(())
    }

    /// As [`AgentClient::command`].
    pub async fn command(&mut self, command: &Command) -> Result<Outcome, ClientError> {
        let body = serde_json::to_vec(command).map_err(|e| ClientError::Stream(format!("command: {e}")))?;
        let call = self.whole("command", Method::POST, "/v1/commands", body.into());
        let body = limited("command", COMMAND_LIMIT, call).await?;
        serde_json::from_slice(&body).map_err(|e| ClientError::Stream(format!("command: {e}")))
    }

    /// As [`AgentClient::state`].
    pub async fn state(&mut self) -> Result<MemberState, ClientError> {
        let call = self.whole("state", Method::GET, "/v1/state", Bytes::new());
        let body = limited("state", ANSWER_LIMIT, call).await?;
        serde_json::from_slice(&body).map_err(|e| ClientError::Stream(format!("state: {e}")))
    }

    /// One call. A kept connection that turns out to be closed is opened anew, once: what is asked of an agent may be asked
    /// twice.
    async fn whole(
        &mut self,
        what: &'static str,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Bytes, ClientError> {
        // Taken out: a call that is given up leaves no half-read connection behind.
        if let Some(mut sender) = self.sender.take()
            && !sender.is_closed()
            && sender.ready().await.is_ok()
        {
            match Self::over(&mut sender, what, method.clone(), path, body.clone()).await {
                Err(ClientError::Http { .. }) => {}
                Err(other) => {
                    self.sender = Some(sender);
                    return Err(other);
                }
                Ok(answer) => {
                    self.sender = Some(sender);
                    return Ok(answer);
                }
            }
        }
        let mut sender = self.client.connect(what).await?;
        let answer = Self::over(&mut sender, what, method, path, body).await;
        self.sender = Some(sender);
        answer
    }

    async fn over(
        sender: &mut Sender,
        what: &'static str,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Bytes, ClientError> {
        let response = request(sender, what, method, path, body).await?;
        if response.status() != StatusCode::OK {
            return Err(refusal(what, response).await);
        }
        let body = response.into_body().collect().await.map_err(|source| ClientError::Http { what, source })?;
        Ok(body.to_bytes())
    }
}

fn server_name(name: &str) -> Result<ServerName<'static>, ClientError> {
    ServerName::try_from(name.to_owned()).map_err(|_| ClientError::Name(name.to_owned()))
}

async fn refusal(what: &'static str, response: http::Response<Incoming>) -> ClientError {
    let status = response.status();
    let body = match response.into_body().collect().await {
        Ok(body) => body.to_bytes(),
        Err(source) => return ClientError::Http { what, source },
    };
    if status == StatusCode::CONFLICT
        && let Ok(refusal) = serde_json::from_slice(&body)
    {
        return ClientError::Refused(refusal);
    }
    ClientError::Unexpected { what, status, body: String::from_utf8_lossy(&body).chars().take(300).collect() }
}

/// The next piece of a body; `None` at its end.
async fn next_data(what: &'static str, body: &mut Incoming) -> Result<Option<Bytes>, ClientError> {
    loop {
        match Pin::new(&mut *body).frame().await {
            None => return Ok(None),
            Some(Err(source)) => return Err(ClientError::Http { what, source }),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// A member's states, one after the other.
pub struct StateStream {
    body: Incoming,
    buffer: BytesMut,
}

impl StateStream {
    /// The next state. An error means that the stream is over.
    pub async fn next(&mut self) -> Result<MemberState, ClientError> {
        limited("state stream", SILENCE_LIMIT, async {
            loop {
                if let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                    let line = self.buffer.split_to(end + 1);
                    return serde_json::from_slice(&line).map_err(|e| ClientError::Stream(format!("state: {e}")));
                }
                match next_data("state stream", &mut self.body).await? {
                    Some(data) => self.buffer.extend_from_slice(&data),
                    None => return Err(ClientError::Stream("closed by the agent".into())),
                }
            }
        })
        .await
    }
}

/// A frame of a clone stream.
#[derive(Debug)]
pub enum CloneFrame {
    /// First: what is to come.
    Start(clone::Start),
    /// mbstream bytes.
    Data(Bytes),
    /// Last: how it ended.
    End(clone::End),
}

/// A clone on its way.
pub struct CloneStream {
    body: Incoming,
    buffer: BytesMut,
}

impl CloneStream {
    /// The next frame; `limit` bounds the silence before it.
    pub async fn next(&mut self, limit: Duration) -> Result<CloneFrame, ClientError> {
        limited("clone", limit, async {
            const HEADER: usize = 5;
            loop {
                if self.buffer.len() >= HEADER {
                    let kind = self.buffer[0];
                    let length = (&self.buffer[1..HEADER]).get_u32() as usize;
                    if self.buffer.len() >= HEADER + length {
                        self.buffer.advance(HEADER);
                        return frame(kind, self.buffer.split_to(length).freeze());
                    }
                    self.buffer.reserve(HEADER + length - self.buffer.len());
                }
                match next_data("clone", &mut self.body).await? {
                    Some(data) => self.buffer.extend_from_slice(&data),
                    None => return Err(ClientError::Stream("the donor's stream broke off".into())),
                }
            }
        })
        .await
    }
}

fn frame(kind: u8, payload: Bytes) -> Result<CloneFrame, ClientError> {
    let bad = |e: serde_json::Error| ClientError::Stream(format!("clone: {e}"));
    match kind {
        clone::DATA => Ok(CloneFrame::Data(payload)),
        clone::START => serde_json::from_slice(&payload).map(CloneFrame::Start).map_err(bad),
        clone::END => serde_json::from_slice(&payload).map(CloneFrame::End).map_err(bad),
        other => Err(ClientError::Stream(format!("clone: a frame of kind {other}"))),
    }
}
