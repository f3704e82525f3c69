//! Talking to one agent: HTTP/1.1 over mutual TLS (`protocol`).

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;
use topology::Command;
use topology::member::MemberState;

use super::links::Address;

/// An agent that says more than this without a line's end is not one of ours.
const LONGEST_LINE: usize = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub(super) enum AgentError {
    #[error("connect to {host} at {ip}: {source}")]
    Connect { host: String, ip: String, source: std::io::Error },
    #[error("TLS with {host}: {source}")]
    Tls { host: String, source: std::io::Error },
    #[error("talk to {host}: {source}")]
    Http { host: String, source: hyper::Error },
    #[error("make a request: {0}")]
    Request(#[from] http::Error),
    #[error("{host} answered {status}: {text}")]
    Status { host: String, status: StatusCode, text: String },
    #[error("the answer of {host} is not understood: {message}")]
    Answer { host: String, message: String },
    #[error(transparent)]
    Refused(protocol::Refusal),
}

struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    driver: AbortOnDropHandle<()>,
}

async fn connect(address: &Address, tls: &Arc<ClientConfig>) -> Result<Connection, AgentError> {
    let host = || address.host.clone();
    let tcp = TcpStream::connect(address.socket()).await.map_err(|source| AgentError::Connect {
        host: host(),
        ip: address.ip.to_string(),
        source,
    })?;
    tcp.set_nodelay(true).map_err(|source| AgentError::Tls { host: host(), source })?;
    let name = ServerName::try_from(address.host.clone())
        .map_err(|error| AgentError::Tls { host: host(), source: std::io::Error::other(error) })?;
    let stream = TlsConnector::from(tls.clone())
        .connect(name, tcp)
        .await
        .map_err(|source| AgentError::Tls { host: host(), source })?;
    let (sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|source| AgentError::Http { host: host(), source })?;
    let driver = AbortOnDropHandle::new(tokio::spawn(async move {
        // What went wrong is told to whoever waits for the answer.
        let _ended = connection.await;
    }));
    Ok(Connection { sender, driver })
}

async fn request(
    connection: &mut Connection,
    address: &Address,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<Response<Incoming>, AgentError> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, &address.host)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))?;
    let response = connection
        .sender
        .send_request(request)
        .await
        .map_err(|source| AgentError::Http { host: address.host.clone(), source })?;
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status();
    let body = collect(response, address).await?;
    if status == StatusCode::CONFLICT
        && let Ok(refusal) = serde_json::from_slice(&body)
    {
        return Err(AgentError::Refused(refusal));
    }
    let text = String::from_utf8_lossy(&body).chars().take(300).collect();
    Err(AgentError::Status { host: address.host.clone(), status, text })
}

async fn collect(response: Response<Incoming>, address: &Address) -> Result<Bytes, AgentError> {
    let body = response.into_body().collect().await;
    Ok(body.map_err(|source| AgentError::Http { host: address.host.clone(), source })?.to_bytes())
}

fn understand<T: serde::de::DeserializeOwned>(address: &Address, bytes: &[u8]) -> Result<T, AgentError> {
    serde_json::from_slice(bytes)
        .map_err(|error| AgentError::Answer { host: address.host.clone(), message: error.to_string() })
}

/// The member's state now.
pub(super) async fn state(address: &Address, tls: &Arc<ClientConfig>) -> Result<MemberState, AgentError> {
    let mut connection = connect(address, tls).await?;
    let response = request(&mut connection, address, Method::GET, "/v1/state", Bytes::new()).await?;
    understand(address, &collect(response, address).await?)
}

/// Tells the agent to do something. `Ok`: done, or under way.
pub(super) async fn command(address: &Address, tls: &Arc<ClientConfig>, command: &Command) -> Result<(), AgentError> {
    let body = serde_json::to_vec(command)
        .map_err(|error| AgentError::Answer { host: address.host.clone(), message: error.to_string() })?;
    let mut connection = connect(address, tls).await?;
    let response = request(&mut connection, address, Method::POST, "/v1/commands", body.into()).await?;
    let _outcome: protocol::Outcome = understand(address, &collect(response, address).await?)?;
    Ok(())
}

/// A stream of states.
pub(super) struct States {
    body: Incoming,
    buffer: Vec<u8>,
    address: Address,
    _driver: AbortOnDropHandle<()>,
}

/// Opens the stream.
pub(super) async fn stream(address: &Address, tls: &Arc<ClientConfig>) -> Result<States, AgentError> {
    let mut connection = connect(address, tls).await?;
    let response = request(&mut connection, address, Method::GET, "/v1/state/stream", Bytes::new()).await?;
    let Connection { sender: _, driver } = connection;
    Ok(States { body: response.into_body(), buffer: Vec::new(), address: address.clone(), _driver: driver })
}

impl States {
    /// The next state; `None`: the stream ended.
    pub(super) async fn next(&mut self) -> Result<Option<MemberState>, AgentError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return understand(&self.address, &line).map(Some);
            }
            if self.buffer.len() > LONGEST_LINE {
                let message = "a line without an end".to_owned();
                return Err(AgentError::Answer { host: self.address.host.clone(), message });
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(source)) => return Err(AgentError::Http { host: self.address.host.clone(), source }),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}
