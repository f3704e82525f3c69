//! exec and attach over WebSocket: each message begins with the number of its channel.

use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError};

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code};
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use super::{Query, StreamError, container};
use crate::node::logs::Stream;
use crate::node::running::{self, Running};
use crate::node::runtime::{ExecOptions, Streams};
use crate::node::shared::PodShared;
use crate::node::terminal::Terminal;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// Version 5: the next byte names a channel that the client has closed.
const CLOSE: u8 = 255;

/// What a client sends.
enum Input {
    Data(Bytes),
    End,
    Resize(u16, u16),
}

fn running(pod: &PodShared, name: &str) -> Result<Arc<Running>, StreamError> {
    pod.running(name).ok_or_else(|| {
        let text = format!("container {name} of pod {} in namespace {} is not running", pod.name, pod.namespace);
        StreamError::internal(format!("unable to upgrade connection: {text}"))
    })
}

/// A command to be run in a container.
pub(super) struct Exec {
    running: Arc<Running>,
    options: ExecOptions,
    stdin: bool,
    stderr: bool,
}

impl Exec {
    pub(super) fn new(pod: &PodShared, query: &Query) -> Result<Self, StreamError> {
        let name = container(pod, query)?;
        let command = query.all("command");
        if command.is_empty() {
            return Err(StreamError::bad("you must specify at least one command for the container"));
        }
        let tty = query.flag("tty");
        Ok(Self {
            running: running(pod, &name)?,
            options: ExecOptions { command, tty },
            stdin: query.flag("stdin"),
            stderr: query.flag("stderr") && !tty,
        })
    }

    pub(super) async fn serve(self, socket: WebSocket) {
        let (mut sink, source) = socket.split();
        let outcome = match self.run(&mut sink, source).await {
            Ok(outcome) => outcome,
            Err(error) => failure("InternalError", &error.to_string(), None),
        };
        let _ = sink.send(message(ERROR, outcome.to_string().as_bytes())).await;
        let _ = sink.send(farewell()).await;
        let _ = sink.close().await;
    }

    async fn run(
        &self,
        sink: &mut SplitSink<WebSocket, Message>,
        source: SplitStream<WebSocket>,
    ) -> std::io::Result<Value> {
        let mut streams = Streams::default();
        let mut readers: Vec<(u8, OwnedFd)> = Vec::new();
        let mut stdin = None;
        if !self.options.tty {
            let (reader, writer) = running::pipe()?;
            streams.stdout = Some(writer);
            readers.push((STDOUT, reader));
            let (reader, writer) = running::pipe()?;
            streams.stderr = Some(writer);
            if self.stderr {
                readers.push((STDERR, reader));
            }
            if self.stdin {
                let (reader, writer) = running::pipe()?;
                streams.stdin = Some(reader);
                stdin = Some(pipe::Sender::from_owned_fd(writer)?);
            }
        }
        let (process, terminal) = match self.running.exec(&self.options, streams).await {
            Ok(started) => started,
            Err(error) => return Ok(start_failure(&error.to_string())),
        };
        let (output, mut outbox) = mpsc::channel::<Message>(8);
        let (gone, mut client_gone) = mpsc::channel::<()>(1);
        let (sender, receiver) = mpsc::channel::<Input>(8);
        let reader = tokio::spawn(read_client(source, sender, gone));
        if let Some(terminal) = terminal {
            let terminal = Arc::new(Terminal::new(terminal)?);
            tokio::spawn(feed_terminal(Arc::clone(&terminal), receiver));
            tokio::spawn(copy_terminal(terminal, output));
        } else {
            tokio::spawn(feed_pipe(stdin, receiver));
            for (channel, fd) in readers {
                tokio::spawn(copy_pipe(pipe::Receiver::from_owned_fd(fd)?, channel, output.clone()));
            }
            drop(output);
        }
        let mut exit = None;
        loop {
            tokio::select! {
                message = outbox.recv() => match message {
                    Some(message) => if sink.send(message).await.is_err() {
                        process.signal(rustix::process::Signal::HUP);
                        break;
                    },
                    None => break,
                },
                ended = process.wait(), if exit.is_none() => {
                    exit = Some(ended);
                    // A child that it left behind may keep the pipes open.
                    let rest = tokio::time::Instant::now() + std::time::Duration::from_millis(300);
                    while let Ok(Some(message)) = tokio::time::timeout_at(rest, outbox.recv()).await {
                        if sink.send(message).await.is_err() {
                            break;
                        }
                    }
                    break;
                }
                _ = client_gone.recv() => {
                    process.signal(rustix::process::Signal::HUP);
                    break;
                }
            }
        }
        let exit = match exit {
            Some(exit) => exit,
            None => process.wait().await,
        };
        reader.abort();
        Ok(match exit.code {
            0 => success(),
            code => failure(
                "NonZeroExitCode",
                &format!("command terminated with non-zero exit code: exit status {code}"),
                Some(code),
            ),
        })
    }
}

/// A connection to the process 1 of a container.
pub(super) struct Attach {
    running: Arc<Running>,
    stdin: bool,
    stdin_once: bool,
    tty: bool,
}

impl Attach {
    pub(super) fn new(pod: &PodShared, query: &Query) -> Result<Self, StreamError> {
        let name = container(pod, query)?;
        let spec = pod.spec();
        let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let stdin_once = all.filter(|c| c.name == name).any(|c| c.stdin_once == Some(true));
        Ok(Self { running: running(pod, &name)?, stdin: query.flag("stdin"), stdin_once, tty: query.flag("tty") })
    }

    pub(super) async fn serve(self, socket: WebSocket) {
        let (mut sink, source) = socket.split();
        let mut live = self.running.log.live();
        let (gone, mut client_gone) = mpsc::channel::<()>(1);
        let (sender, receiver) = mpsc::channel::<Input>(8);
        let reader = tokio::spawn(read_client(source, sender, gone));
        if let Some(terminal) = self.running.terminal.as_ref().filter(|_| self.stdin || self.tty) {
            if let Some(terminal) = terminal.try_clone().ok().and_then(|fd| Terminal::new(fd).ok()) {
                tokio::spawn(feed_terminal(Arc::new(terminal), receiver));
            }
        } else if self.stdin {
            let mut slot = self.running.stdin.lock().unwrap_or_else(PoisonError::into_inner);
            // With `stdinOnce` the end of this client's input is the end of the container's.
            let fd = if self.stdin_once { slot.take() } else { slot.as_ref().and_then(|fd| fd.try_clone().ok()) };
            drop(slot);
            tokio::spawn(feed_pipe(fd.and_then(|fd| pipe::Sender::from_owned_fd(fd).ok()), receiver));
        }
        loop {
            tokio::select! {
                biased;
                chunk = live.recv() => match chunk {
                    Ok((stream, bytes)) => {
                        let channel = if stream == Stream::Stdout { STDOUT } else { STDERR };
                        if sink.send(message(channel, &bytes)).await.is_err() {
                            break;
                        }
                    }
                    Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => break,
                },
                () = self.running.ended() => {
                    while let Ok((stream, bytes)) = live.try_recv() {
                        let channel = if stream == Stream::Stdout { STDOUT } else { STDERR };
                        let _ = sink.send(message(channel, &bytes)).await;
                    }
                    break;
                }
                _ = client_gone.recv() => break,
            }
        }
        reader.abort();
        let _ = sink.send(message(ERROR, success().to_string().as_bytes())).await;
        let _ = sink.send(farewell()).await;
        let _ = sink.close().await;
    }
}

fn message(channel: u8, bytes: &[u8]) -> Message {
    let mut data = Vec::with_capacity(bytes.len() + 1);
    data.push(channel);
    data.extend_from_slice(bytes);
    Message::Binary(data.into())
}

/// The end as clients expect it: a normal one.
fn farewell() -> Message {
    Message::Close(Some(CloseFrame { code: close_code::NORMAL, reason: Utf8Bytes::from_static("") }))
}

fn success() -> Value {
    json!({ "metadata": {}, "status": "Success" })
}

fn failure(reason: &str, message: &str, code: Option<i32>) -> Value {
    let mut status = json!({ "metadata": {}, "status": "Failure", "message": message, "reason": reason });
    if let Some(code) = code {
        status["details"] = json!({ "causes": [{ "reason": "ExitCode", "message": code.to_string() }] });
    } else {
        status["code"] = json!(500);
    }
    status
}

/// A command that could not be started.
fn start_failure(error: &str) -> Value {
    let text = format!("Internal error occurred: error executing command in container: {error}");
    failure("InternalError", &text, None)
}

/// Takes apart what the client sends, until it goes.
async fn read_client(mut source: SplitStream<WebSocket>, input: mpsc::Sender<Input>, gone: mpsc::Sender<()>) {
    while let Some(Ok(received)) = source.next().await {
        let data: Bytes = match received {
            Message::Binary(data) => data,
            Message::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
            Message::Close(_) => break,
            Message::Ping(_) | Message::Pong(_) => continue,
        };
        let next = match data.first() {
            Some(&STDIN) => Input::Data(data.slice(1..)),
            Some(&RESIZE) => {
                let size: Value = serde_json::from_slice(&data[1..]).unwrap_or_default();
                let number = |key: &str| size[key].as_u64().and_then(|n| u16::try_from(n).ok());
                match (number("Width"), number("Height")) {
                    (Some(columns), Some(rows)) => Input::Resize(columns, rows),
                    _ => continue,
                }
            }
            Some(&CLOSE) if data.get(1) == Some(&STDIN) => Input::End,
            _ => continue,
        };
        // A process that takes no input any more is no reason to end.
        let _ = input.send(next).await;
    }
    drop(input);
    let _ = gone.send(()).await;
}

async fn feed_pipe(pipe: Option<pipe::Sender>, mut input: mpsc::Receiver<Input>) {
    let mut pipe = pipe;
    while let Some(next) = input.recv().await {
        match next {
            Input::Data(bytes) => {
                let written = match &mut pipe {
                    Some(open) => open.write_all(&bytes).await.is_ok(),
                    None => true,
                };
                if !written {
                    pipe = None;
                }
            }
            Input::End => pipe = None,
            Input::Resize(..) => {}
        }
    }
}

async fn feed_terminal(terminal: Arc<Terminal>, mut input: mpsc::Receiver<Input>) {
    while let Some(next) = input.recv().await {
        match next {
            Input::Data(bytes) => {
                if terminal.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            // The character that ends input on a terminal.
            Input::End => drop(terminal.write_all(&[4]).await),
            Input::Resize(columns, rows) => terminal.resize(columns, rows),
        }
    }
}

async fn copy_terminal(terminal: Arc<Terminal>, output: mpsc::Sender<Message>) {
    let mut buffer = [0u8; 4096];
    while let Ok(length @ 1..) = terminal.read(&mut buffer).await {
        if output.send(message(STDOUT, &buffer[..length])).await.is_err() {
            return;
        }
    }
}

async fn copy_pipe(mut pipe: pipe::Receiver, channel: u8, output: mpsc::Sender<Message>) {
    // `kubectl cp` moves whole databases through here.
    let mut buffer = vec![0u8; 32 << 10];
    while let Ok(length @ 1..) = pipe.read(&mut buffer).await {
        if output.send(message(channel, &buffer[..length])).await.is_err() {
            return;
        }
    }
}
