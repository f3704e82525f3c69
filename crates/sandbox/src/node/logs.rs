//! Containers' output: one file for each run of a container, a line with time and stream for each line of output, of
//! bounded size.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::{broadcast, mpsc, watch};

/// A file is put aside when it is this large; one older file is kept.
const MAX_FILE: u64 = 10 << 20;
/// Longer lines are stored in parts.
const MAX_LINE: usize = 8 << 10;

/// Which stream a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// The log of one run of a container.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: Mutex<(File, u64)>,
    written: watch::Sender<u64>,
    live: broadcast::Sender<(Stream, Bytes)>,
}

impl Log {
    /// Creates (or continues) the file.
    pub fn open(path: &Path) -> std::io::Result<Arc<Self>> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        let size = file.metadata()?.len();
        Ok(Arc::new(Self {
            path: path.to_owned(),
            file: Mutex::new((file, size)),
            written: watch::Sender::new(0),
            live: broadcast::Sender::new(16),
        }))
    }

    /// Output as it comes, for those who are attached.
    pub fn live(&self) -> broadcast::Receiver<(Stream, Bytes)> {
        self.live.subscribe()
    }

    /// Changes whenever something was written; ends with the log.
    pub fn written(&self) -> watch::Receiver<u64> {
        self.written.subscribe()
    }

    /// Copies a pipe into the log until its end.
    pub async fn copy(self: Arc<Self>, stream: Stream, pipe: OwnedFd) {
        let Ok(mut pipe) = pipe::Receiver::from_owned_fd(pipe) else { return };
        let mut pending: Vec<u8> = Vec::new();
        let mut buffer = [0u8; 4096];
        loop {
            match pipe.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(length) => self.append(stream, &mut pending, &buffer[..length]),
            }
        }
        if !pending.is_empty() {
            self.write_line(stream, &pending, false);
        }
    }

    /// Takes bytes of output; whole lines are written.
    pub fn append(&self, stream: Stream, pending: &mut Vec<u8>, bytes: &[u8]) {
        if self.live.receiver_count() > 0 {
            let _ = self.live.send((stream, Bytes::copy_from_slice(bytes)));
        }
        pending.extend_from_slice(bytes);
        let mut start = 0;
        while let Some(end) = pending[start..].iter().position(|b| *b == b'\n') {
            self.write_line(stream, &pending[start..start + end], true);
            start += end + 1;
        }
        pending.drain(..start);
        if pending.len() >= MAX_LINE {
            self.write_line(stream, pending, false);
            pending.clear();
        }
        self.written.send_modify(|n| *n += 1);
    }

    fn write_line(&self, stream: Stream, text: &[u8], whole: bool) {
        let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%9fZ");
        let stream = if stream == Stream::Stdout { "stdout" } else { "stderr" };
        let tag = if whole { 'F' } else { 'P' };
        let mut line = format!("{time} {stream} {tag} ").into_bytes();
        line.extend_from_slice(text);
        line.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if file.1 + line.len() as u64 > MAX_FILE {
            let renamed = std::fs::rename(&self.path, rotated(&self.path));
            if let Ok(new) = renamed.and_then(|()| OpenOptions::new().append(true).create(true).open(&self.path)) {
                *file = (new, 0);
            }
        }
        if file.0.write_all(&line).is_ok() {
            file.1 += line.len() as u64;
        }
    }
}

fn rotated(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

/// What of a log is wanted.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    /// Only the last lines.
    pub tail: Option<usize>,
    /// Only lines from then on.
    pub since: Option<jiff::Timestamp>,
    /// Each line begins with its time.
    pub timestamps: bool,
    /// At most this many bytes.
    pub limit_bytes: Option<u64>,
    /// Only this stream.
    pub stream: Option<Stream>,
}

/// A line of the file, taken apart.
struct Line<'a> {
    time: &'a str,
    stream: Stream,
    whole: bool,
    text: &'a [u8],
}

fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = if parts.next()? == b"stderr" { Stream::Stderr } else { Stream::Stdout };
    let whole = parts.next()? != b"P";
    Some(Line { time, stream, whole, text: parts.next()? })
}

/// Sends a log's lines; with `follow` (and for as long as it lives) new ones too.
pub async fn read(path: PathBuf, options: LogOptions, follow: Option<watch::Receiver<u64>>, out: mpsc::Sender<Bytes>) {
    let mut reader = Reader { path, options, position: 0, sent: 0, inode: 0 };
    let mut first = true;
    let mut follow = follow;
    loop {
        if let Some(follow) = &mut follow {
            follow.mark_unchanged();
        }
        let sender = out.clone();
        let step = tokio::task::spawn_blocking(move || {
            let going = reader.step(first, &sender);
            (reader, going)
        });
        let Ok((back, going)) = step.await else { return };
        reader = back;
        first = false;
        let Some(changes) = &mut follow else { return };
        if !going {
            return;
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() {
                // The container has ended: what it wrote last, then the end.
                follow = None;
            },
            () = out.closed() => return,
        }
    }
}

struct Reader {
    path: PathBuf,
    options: LogOptions,
    position: u64,
    sent: u64,
    inode: u64,
}

impl Reader {
    /// Sends what is there and not sent yet. False: nobody listens any more.
    fn step(&mut self, first: bool, out: &mpsc::Sender<Bytes>) -> bool {
        use std::os::unix::fs::MetadataExt;
        let mut skip = 0;
        let old = rotated(&self.path);
        if first {
            if let Some(tail) = self.options.tail {
                let total = self.count(&old) + self.count(&self.path);
                skip = total.saturating_sub(tail);
            }
            if old.is_file() && !self.send(&old, 0, &mut skip, out).0 {
                return false;
            }
        }
        let Ok(metadata) = std::fs::metadata(&self.path) else { return true };
        if !first && metadata.ino() != self.inode {
            let (going, _) = self.send(&old, self.position, &mut skip, out);
            self.position = 0;
            if !going {
                return false;
            }
        }
        self.inode = metadata.ino();
        let (going, position) = self.send(&self.path.clone(), self.position, &mut skip, out);
        self.position = position;
        going
    }

    fn wanted(&self, line: &Line<'_>) -> bool {
        let in_time = self.options.since.is_none_or(|s| line.time.parse::<jiff::Timestamp>().is_ok_and(|t| t >= s));
        in_time && self.options.stream.is_none_or(|s| s == line.stream)
    }

    fn count(&self, path: &Path) -> usize {
        let Ok(file) = File::open(path) else { return 0 };
        BufReader::new(file)
            .split(b'\n')
            .map_while(Result::ok)
            .filter(|line| parse(line).is_some_and(|l| l.whole && self.wanted(&l)))
            .count()
    }

    fn send(&mut self, path: &Path, from: u64, skip: &mut usize, out: &mpsc::Sender<Bytes>) -> (bool, u64) {
        let Ok(mut file) = File::open(path) else { return (true, from) };
        if file.seek(SeekFrom::Start(from)).is_err() {
            return (true, from);
        }
        let mut reader = BufReader::new(file);
        let mut position = from;
        let mut raw = Vec::new();
        loop {
            raw.clear();
            let Ok(length) = reader.read_until(b'\n', &mut raw) else { return (true, position) };
            // A line that is still being written is left for the next time.
            if length == 0 || raw.last() != Some(&b'\n') {
                return (true, position);
            }
            position += length as u64;
            raw.pop();
            let Some(line) = parse(&raw) else { continue };
            if !self.wanted(&line) {
                continue;
            }
            if *skip > 0 {
                *skip -= usize::from(line.whole);
                continue;
            }
            let mut text = Vec::with_capacity(line.text.len() + 40);
            if self.options.timestamps {
                text.extend_from_slice(line.time.as_bytes());
                text.push(b' ');
            }
            text.extend_from_slice(line.text);
            if line.whole {
                text.push(b'\n');
            }
            if let Some(limit) = self.options.limit_bytes {
                text.truncate(limit.saturating_sub(self.sent) as usize);
                if text.is_empty() {
                    return (false, position);
                }
            }
            self.sent += text.len() as u64;
            if out.blocking_send(Bytes::from(text)).is_err() {
                return (false, position);
            }
        }
    }
}

/// The end of a log, for messages of containers that failed.
pub fn tail(path: &Path, lines: usize, bytes: usize) -> String {
    let Ok(file) = File::open(path) else { return String::new() };
    let mut last = std::collections::VecDeque::new();
    for line in BufReader::new(file).split(b'\n').map_while(Result::ok) {
        if let Some(line) = parse(&line) {
            last.push_back(String::from_utf8_lossy(line.text).into_owned());
            if last.len() > lines {
                last.pop_front();
            }
        }
    }
    let mut text: String = last.into_iter().map(|l| l + "\n").collect();
    if text.len() > bytes {
        let cut = (text.len() - bytes..text.len()).find(|i| text.is_char_boundary(*i)).unwrap_or(text.len());
        text.drain(..cut);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(path: &Path, options: LogOptions) -> String {
        let (sender, mut receiver) = mpsc::channel(64);
        tokio::spawn(read(path.to_owned(), options, None, sender));
        let mut text = Vec::new();
        while let Some(bytes) = receiver.recv().await {
            text.extend_from_slice(&bytes);
        }
        String::from_utf8(text).expect("text")
    }

    #[tokio::test]
    async fn lines_come_back() {
        let dir = std::env::temp_dir().join(format!("sandbox-logs-{}", std::process::id()));
        let path = dir.join("0.log");
        let log = Log::open(&path).expect("open");
        let mut pending = Vec::new();
        log.append(Stream::Stdout, &mut pending, b"one\ntwo\nthr");
        log.append(Stream::Stdout, &mut pending, b"ee\n");
        assert_eq!(all(&path, LogOptions::default()).await, "one\ntwo\nthree\n");
        assert_eq!(all(&path, LogOptions { tail: Some(1), ..LogOptions::default() }).await, "three\n");
        let stamped = all(&path, LogOptions { tail: Some(1), timestamps: true, ..LogOptions::default() }).await;
        assert!(stamped.ends_with("Z three\n"), "{stamped}");
        assert_eq!(tail(&path, 2, 100), "two\nthree\n");
        std::fs::remove_dir_all(&dir).expect("cleanup");
    }
}
