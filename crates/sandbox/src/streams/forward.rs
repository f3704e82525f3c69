//! `kubectl port-forward`: for each connection a stream for its bytes and one for an error, inside of a WebSocket.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::spdy::{Decoder, Encoder, Frame};
use crate::network::NetnsThread;
use crate::node::shared::PodShared;

/// Forwards until the client goes.
pub(super) async fn serve(pod: Arc<PodShared>, socket: WebSocket) {
    let (mut sink, mut source) = socket.split();
    let (output, mut outbox) = mpsc::channel::<Bytes>(16);
    let writer = tokio::spawn(async move {
        while let Some(frame) = outbox.recv().await {
            if sink.send(Message::Binary(frame)).await.is_err() {
                return;
            }
        }
        let _ = sink.close().await;
    });
    let mut session =
        Session { pod, output, encoder: Encoder::default(), errors: HashMap::new(), open: HashMap::new() };
    let mut decoder = Decoder::new();
    'session: while let Some(Ok(message)) = source.next().await {
        let data = match message {
            Message::Binary(data) => data,
            Message::Close(_) => break,
            _ => continue,
        };
        decoder.push(&data);
        loop {
            match decoder.next() {
                Ok(Some(Frame::GoAway)) => break 'session,
                Ok(Some(frame)) => session.handle(frame).await,
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!("port-forward: {error}");
                    break 'session;
                }
            }
        }
    }
    drop(session);
    let _ = tokio::time::timeout(Duration::from_secs(1), writer).await;
}

struct Session {
    pod: Arc<PodShared>,
    output: mpsc::Sender<Bytes>,
    encoder: Encoder,
    /// Error streams by the connection's number.
    errors: HashMap<String, u32>,
    /// What leads to the pod, by stream. Dropping it ends the client's side.
    open: HashMap<u32, mpsc::Sender<Bytes>>,
}

impl Session {
    async fn handle(&mut self, frame: Frame) {
        match frame {
            Frame::Open { stream, headers, fin: _ } => {
                let header = |name: &str| headers.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone());
                let request = header("requestid").unwrap_or_default();
                let _ = self.output.send(self.encoder.reply(stream)).await;
                if header("streamtype").as_deref() == Some("error") {
                    self.errors.insert(request, stream);
                    return;
                }
                let port = header("port").and_then(|p| p.parse().ok()).unwrap_or(0);
                let error = self.errors.remove(&request);
                let (sender, receiver) = mpsc::channel(16);
                self.open.insert(stream, sender);
                tokio::spawn(connect(Arc::clone(&self.pod), port, stream, error, receiver, self.output.clone()));
            }
            Frame::Data { stream, data, fin } => {
                if let Some(sender) = self.open.get(&stream).filter(|_| !data.is_empty()) {
                    let _ = sender.send(data).await;
                }
                if fin {
                    self.open.remove(&stream);
                }
            }
            Frame::Reset { stream } => drop(self.open.remove(&stream)),
            Frame::Ping { id } => drop(self.output.send(Encoder::ping(id)).await),
            Frame::GoAway | Frame::Other => {}
        }
    }
}

/// One connection, from its beginning to its end.
async fn connect(
    pod: Arc<PodShared>,
    port: u16,
    stream: u32,
    error: Option<u32>,
    input: mpsc::Receiver<Bytes>,
    output: mpsc::Sender<Bytes>,
) {
    let result = match dial(&pod, port).await {
        Ok(connection) => copy(connection, stream, input, &output).await,
        Err(error) => Err(format!(
            "error forwarding port {port} to pod {}, uid : failed to connect to localhost:{port} inside namespace: {error}",
            pod.uid
        )),
    };
    let _ = output.send(Encoder::data(stream, b"", true)).await;
    if let Some(error) = error {
        let text = result.err().unwrap_or_default();
        let _ = output.send(Encoder::data(error, text.as_bytes(), true)).await;
    }
}

/// Connects from inside the pod, so that servers which listen on loopback only are reached too.
async fn dial(pod: &PodShared, port: u16) -> std::io::Result<TcpStream> {
    let network = pod.network.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let network = network.ok_or_else(|| std::io::Error::other("the pod has no network"))?;
    let thread = NetnsThread::enter(&network.namespace)?;
    let connection = thread
        .run(move || {
            let local = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            std::net::TcpStream::connect_timeout(&local, Duration::from_secs(10))
        })
        .await??;
    connection.set_nonblocking(true)?;
    connection.set_nodelay(true)?;
    TcpStream::from_std(connection)
}

async fn copy(
    connection: TcpStream,
    stream: u32,
    mut input: mpsc::Receiver<Bytes>,
    output: &mpsc::Sender<Bytes>,
) -> Result<(), String> {
    let (mut reader, mut writer) = connection.into_split();
    let forward = tokio::spawn(async move {
        while let Some(data) = input.recv().await {
            if writer.write_all(&data).await.is_err() {
                return;
            }
        }
        let _ = writer.shutdown().await;
    });
    let mut buffer = vec![0u8; 16 << 10];
    let result = loop {
        match reader.read(&mut buffer).await {
            Ok(0) => break Ok(()),
            Ok(length) => {
                if output.send(Encoder::data(stream, &buffer[..length], false)).await.is_err() {
                    break Ok(());
                }
            }
            Err(error) => break Err(error.to_string()),
        }
    };
    forward.abort();
    result
}
