//! Binary and relay log files, read event by event: which transactions they hold, and where in the files these lie.
//!
//! Layout of events: <https://mariadb.com/kb/en/2-binlog-event-header/>. Only what bounds a transaction is looked at: its
//! GTID event opens it; an XID, an XA PREPARE or a `COMMIT` closes it, and of one that stands alone (DDL) its one statement.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};

use topology::{Gtid, GtidPosition};

const MAGIC: &[u8; 4] = b"\xfebin";
const HEADER: u64 = 19;
/// The greatest event that MariaDB writes.
const LONGEST: u64 = 1 << 30;
/// A format description or a GTID is never longer.
const SHORT: u64 = 64 * 1024;

mod kind {
    pub(super) const QUERY: u8 = 2;
    pub(super) const STOP: u8 = 3;
    pub(super) const ROTATE: u8 = 4;
    pub(super) const INTVAR: u8 = 5;
    pub(super) const SLAVE: u8 = 7;
    pub(super) const RAND: u8 = 13;
    pub(super) const USER_VAR: u8 = 14;
    pub(super) const FORMAT: u8 = 15;
    pub(super) const XID: u8 = 16;
    pub(super) const TABLE_MAP: u8 = 19;
    pub(super) const INCIDENT: u8 = 26;
    pub(super) const HEARTBEAT: u8 = 27;
    pub(super) const XA_PREPARE: u8 = 38;
    pub(super) const ANNOTATE_ROWS: u8 = 160;
    pub(super) const BINLOG_CHECKPOINT: u8 = 161;
    pub(super) const GTID: u8 = 162;
    pub(super) const GTID_LIST: u8 = 163;
    pub(super) const START_ENCRYPTION: u8 = 164;
}

/// A piece of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    /// Which of the files.
    pub(crate) file: usize,
    /// First byte.
    pub(crate) from: u64,
    /// Behind the last one.
    pub(crate) to: u64,
}

/// A whole transaction.
#[derive(Debug)]
pub(crate) struct Transaction<'a> {
    pub(crate) gtid: Gtid,
    /// The format description event that it is read with.
    pub(crate) format: &'a [u8],
    /// Its events: several pieces where a relay log was rotated, or its source came back, in between.
    pub(crate) parts: &'a [Part],
}

/// A transaction that has begun.
struct Open {
    gtid: Gtid,
    alone: bool,
    parts: Vec<Part>,
}

/// Goes through whole transactions, in the files' order. What is cut off at the end of a file is left out; a group may go on
/// in the next file.
pub(crate) fn transactions(
    files: &[PathBuf],
    mut each: impl FnMut(&Transaction<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let mut open: Option<Open> = None;
    let mut format = Vec::new();
    for (index, path) in files.iter().enumerate() {
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        one_file(index, path, &mut open, &mut format, &mut each).map_err(named)?;
    }
    Ok(())
}

fn one_file(
    index: usize,
    path: &Path,
    open: &mut Option<Open>,
    format: &mut Vec<u8>,
    each: &mut impl FnMut(&Transaction<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut reader = BufReader::with_capacity(64 * 1024, file);
    let mut magic = [0; 4];
    if size < 4 {
        return Ok(());
    }
    reader.read_exact(&mut magic)?;
    if &magic != MAGIC {
        return Err(io::Error::other("is no binary log, or an encrypted one"));
    }
    let mut at = 4;
    while at + HEADER <= size {
        let mut header = [0; HEADER as usize];
        reader.read_exact(&mut header)?;
        let kind = header[4];
        let length = u64::from(u32::from_le_bytes([header[9], header[10], header[11], header[12]]));
        if !(HEADER..=LONGEST).contains(&length) || at + length > size {
            return Ok(()); // Cut off.
        }
        let here = Part { file: index, from: at, to: at + length };
        let mut read = 0;
        let mut ends = false;
        match kind {
            kind::START_ENCRYPTION => return Err(io::Error::other("is encrypted")),
            kind::FORMAT if length <= SHORT => {
                let mut bytes = header.to_vec();
                bytes.resize(length as usize, 0);
                reader.read_exact(&mut bytes[HEADER as usize..])?;
                read = length - HEADER;
                // "In use": set in place while the file is written, and not part of its checksum.
                bytes[17] &= !1;
                *format = bytes;
            }
            kind::GTID if length >= HEADER + 13 => {
                let mut body = [0; 13];
                reader.read_exact(&mut body)?;
                read = 13;
                let [s0, s1, s2, s3, s4, s5, s6, s7, d0, d1, d2, d3, flags] = body;
                let gtid = Gtid {
                    domain: u32::from_le_bytes([d0, d1, d2, d3]),
                    server_id: u32::from_le_bytes([header[5], header[6], header[7], header[8]]),
                    sequence: u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
                };
                *open = Some(Open { gtid, alone: flags & 1 == 1, parts: vec![here] });
            }
            other if of_no_transaction(other) => {}
            _ => {
                if let Some(open) = open.as_mut() {
                    match open.parts.last_mut() {
                        Some(last) if last.file == index && last.to == at => last.to = here.to,
                        _ => open.parts.push(here),
                    }
                    ends = if open.alone {
                        !prepares(kind)
                    } else if kind == kind::QUERY {
                        let (taken, commits) = commits(&mut reader, length - HEADER, checksum(format))?;
                        read = taken;
                        commits
                    } else {
                        matches!(kind, kind::XID | kind::XA_PREPARE)
                    };
                }
            }
        }
        if ends && let Some(Open { gtid, alone: _, parts }) = open.take() {
            each(&Transaction { gtid, format, parts: &parts })?;
        }
        let rest = length - HEADER - read;
        reader.seek_relative(i64::try_from(rest).map_err(io::Error::other)?)?;
        at += length;
    }
    Ok(())
}

/// Events between transactions, or of the file itself.
fn of_no_transaction(kind: u8) -> bool {
    matches!(
        kind,
        kind::STOP
            | kind::ROTATE
            | kind::SLAVE
            | kind::FORMAT
            | kind::INCIDENT
            | kind::HEARTBEAT
            | kind::BINLOG_CHECKPOINT
            | kind::GTID_LIST
            | kind::START_ENCRYPTION
    )
}

/// Events that come before the one statement of a transaction that stands alone.
fn prepares(kind: u8) -> bool {
    matches!(kind, kind::GTID | kind::INTVAR | kind::RAND | kind::USER_VAR | kind::TABLE_MAP | kind::ANNOTATE_ROWS)
}

/// Bytes of the checksum behind each event: the format description ends with the algorithm and its own checksum.
fn checksum(format: &[u8]) -> u64 {
    let algorithm = format.len().checked_sub(5).and_then(|at| format.get(at)).copied().unwrap_or(0);
    if algorithm == 1 { 4 } else { 0 }
}

/// Is this query the end of a transaction? With how much was read of it.
fn commits(reader: &mut impl Read, body: u64, checksum: u64) -> io::Result<(u64, bool)> {
    const FIXED: u64 = 13;
    // A statement so long is neither COMMIT nor ROLLBACK, whatever precedes it.
    const MOST: u64 = 4096;
    if body < FIXED + checksum || body > MOST {
        return Ok((0, false));
    }
    let mut bytes = vec![0; body as usize];
    reader.read_exact(&mut bytes)?;
    let schema = usize::from(bytes[8]);
    let status = usize::from(u16::from_le_bytes([bytes[11], bytes[12]]));
    let from = FIXED as usize + status + schema + 1;
    let to = bytes.len() - checksum as usize;
    let text = bytes.get(from..to).unwrap_or_default();
    Ok((body, text.eq_ignore_ascii_case(b"COMMIT") || text.eq_ignore_ascii_case(b"ROLLBACK")))
}

/// Does it begin as a binary or relay log? (Aria's logs are numbered files, too.)
pub(crate) fn is_one(path: &Path) -> bool {
    let mut magic = [0; 4];
    File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && &magic == MAGIC
}

/// How far these files go: the last transaction of each domain.
pub(crate) fn reach(files: &[PathBuf]) -> io::Result<GtidPosition> {
    let mut reached = GtidPosition::default();
    transactions(files, |transaction| {
        let gtid = transaction.gtid;
        if gtid.sequence > reached.sequence(gtid.domain) {
            reached.0.insert(gtid.domain, gtid);
        }
        Ok(())
    })?;
    Ok(reached)
}

/// Writes transactions as a binary log.
pub(crate) struct Writer<W> {
    to: W,
    format: Vec<u8>,
    source: Option<(usize, File)>,
    begun: bool,
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(to: W) -> Self {
        Self { to, format: Vec::new(), source: None, begun: false }
    }

    /// Copies one from the files that it was found in.
    pub(crate) fn add(&mut self, files: &[PathBuf], transaction: &Transaction<'_>) -> io::Result<()> {
        if !self.begun {
            self.to.write_all(MAGIC)?;
            self.begun = true;
        }
        if self.format != transaction.format {
            self.to.write_all(transaction.format)?;
            self.format = transaction.format.to_vec();
        }
        for part in transaction.parts {
            let mut file = match self.source.take() {
                Some((index, file)) if index == part.file => file,
                _ => File::open(files.get(part.file).ok_or_else(|| io::Error::other("no such file"))?)?,
            };
            file.seek(SeekFrom::Start(part.from))?;
            let copied = io::copy(&mut (&mut file).take(part.to - part.from), &mut self.to)?;
            if copied != part.to - part.from {
                return Err(io::Error::other("the file became shorter"));
            }
            self.source = Some((part.file, file));
        }
        Ok(())
    }

    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.to.flush()?;
        Ok(self.to)
    }
}

/// The files of an index, in order. Its lines are relative to the data directory.
pub(crate) fn indexed(data: &Path, index: &Path) -> io::Result<Vec<PathBuf>> {
    let text = match std::fs::read_to_string(data.join(index)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| data.join(line)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: u8, server_id: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 4];
        bytes.push(kind);
        bytes.extend(server_id.to_le_bytes());
        bytes.extend((19 + body.len() as u32).to_le_bytes());
        bytes.extend([0; 6]);
        bytes.extend(body);
        bytes
    }

    fn gtid(server_id: u32, sequence: u64, alone: bool) -> Vec<u8> {
        let mut body = sequence.to_le_bytes().to_vec();
        body.extend(0_u32.to_le_bytes());
        body.push(u8::from(alone));
        body.extend([0; 6]);
        event(kind::GTID, server_id, &body)
    }

    fn query(text: &str) -> Vec<u8> {
        let mut body = vec![0; 13];
        body[8] = 3;
        body.extend(b"app\0");
        body.extend(text.as_bytes());
        event(kind::QUERY, 1, &body)
    }

    /// Without checksums.
    fn format() -> Vec<u8> {
        event(kind::FORMAT, 1, &[0; 60])
    }

    fn file(name: &str, events: &[Vec<u8>]) -> PathBuf {
        let path = std::env::temp_dir().join(format!("binlog-{name}-{}", std::process::id()));
        let bytes: Vec<u8> = MAGIC.iter().copied().chain(events.iter().flatten().copied()).collect();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn found(files: &[PathBuf]) -> Vec<(String, usize)> {
        let mut all = Vec::new();
        transactions(files, |t| {
            all.push((t.gtid.to_string(), t.parts.len()));
            Ok(())
        })
        .unwrap();
        all
    }

    #[test]
    fn transactions_end_where_they_end() {
        let rows = || event(30, 1, &[7; 40]);
        let path = file(
            "ends",
            &[
                format(),
                gtid(1, 1, true),
                query("CREATE TABLE t (v INT)"),
                gtid(1, 2, false),
                rows(),
                event(kind::XID, 1, &[0; 8]),
                gtid(2, 3, false),
                query("INSERT INTO myisam VALUES (1)"),
                query("COMMIT"),
                // Given up by the source, and sent again.
                gtid(2, 4, false),
                rows(),
                gtid(2, 4, false),
                rows(),
                event(kind::XID, 2, &[0; 8]),
                gtid(2, 5, false),
                rows(),
            ],
        );
        let files = [path];
        let one = |text: &str| (text.to_owned(), 1);
        assert_eq!(found(&files), [one("0-1-1"), one("0-1-2"), one("0-2-3"), one("0-2-4")]);
        assert_eq!(reach(&files).unwrap().to_string(), "0-2-4");
        std::fs::remove_file(&files[0]).unwrap();
    }

    #[test]
    fn a_rotated_relay_log_and_a_cut_tail() {
        let rows = || event(30, 1, &[7; 40]);
        let xid = || event(kind::XID, 1, &[0; 8]);
        let first = file("first", &[format(), gtid(1, 1, false), rows(), event(kind::ROTATE, 1, &[0; 20])]);
        let second = file("second", &[format(), rows(), xid(), gtid(1, 2, false), rows(), xid()]);
        let whole = std::fs::read(&second).unwrap();
        let files = [first, second];
        assert_eq!(found(&files), [("0-1-1".to_owned(), 2), ("0-1-2".to_owned(), 1)]);
        // Written out, they are the same without what lies between.
        let mut writer = Writer::new(Vec::new());
        transactions(&files, |t| writer.add(&files, t)).unwrap();
        let expected: Vec<u8> =
            [MAGIC.to_vec(), format(), gtid(1, 1, false), rows(), rows(), xid(), gtid(1, 2, false), rows(), xid()]
                .concat();
        assert_eq!(writer.finish().unwrap(), expected);
        std::fs::write(&files[1], &whole[..whole.len() - 3]).unwrap();
        assert_eq!(found(&files).len(), 1);
        for file in files {
            std::fs::remove_file(file).unwrap();
        }
    }
}
