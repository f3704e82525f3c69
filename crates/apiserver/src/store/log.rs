//! The store on disk: a snapshot, and a log of what was written since. A record is one line; a
//! process that dies while it writes leaves an unfinished last line, which is dropped.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use super::{Resource, StoreError};

/// A log shorter than this is never folded into a snapshot.
const LONG: u64 = 4 << 20;

/// One write.
#[derive(Debug)]
pub(super) struct Record<'a> {
    /// The revision it made.
    pub(super) revision: u64,
    /// What kind of object.
    pub(super) resource: &'a Resource,
    /// Namespace.
    pub(super) namespace: &'a str,
    /// Name; empty in the first line of a snapshot, which holds the revision alone.
    pub(super) name: &'a str,
    /// The object, or `None` when it was deleted.
    pub(super) json: Option<&'a str>,
}

/// The open log.
#[derive(Debug)]
pub(super) struct Log {
    dir: PathBuf,
    file: File,
    length: u64,
    snapshot: u64,
}

impl Log {
    /// Reads snapshot and log, in order.
    pub(super) fn open(dir: &Path, mut load: impl FnMut(Record<'_>)) -> Result<Self, StoreError> {
        fs::create_dir_all(dir).map_err(|e| failed("create", dir, e))?;
        let snapshot_path = dir.join("snapshot");
        let snapshot = match File::open(&snapshot_path) {
            Ok(file) => read(file, 0, &mut load).map_err(|e| failed("read", &snapshot_path, e))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Read::default(),
            Err(e) => return Err(failed("open", &snapshot_path, e)),
        };
        let path = dir.join("log");
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| failed("open", &path, e))?;
        let clone = file.try_clone().map_err(|e| failed("open", &path, e))?;
        let log = read(clone, snapshot.revision, &mut load).map_err(|e| failed("read", &path, e))?;
        file.set_len(log.length)
            .and_then(|()| file.seek(SeekFrom::Start(log.length)))
            .map_err(|e| failed("truncate", &path, e))?;
        Ok(Self { dir: dir.to_owned(), file, length: log.length, snapshot: snapshot.length })
    }

    /// Appends one record, in one write.
    pub(super) fn append(&mut self, record: &Record<'_>) -> Result<(), StoreError> {
        let line = line(record);
        if let Err(error) = self.file.write_all(line.as_bytes()) {
            // Half a line must not stand before the next one.
            let _ = self.file.set_len(self.length).and_then(|()| self.file.seek(SeekFrom::Start(self.length)));
            return Err(failed("write", &self.dir.join("log"), error));
        }
        self.length += line.len() as u64;
        Ok(())
    }

    /// Whether it is time for a snapshot.
    pub(super) fn is_long(&self) -> bool {
        self.length > LONG.max(self.snapshot * 2)
    }

    /// Writes everything that is alive, and begins the log anew.
    pub(super) fn snapshot<'a>(
        &mut self,
        revision: u64,
        records: impl Iterator<Item = Record<'a>>,
    ) -> Result<(), StoreError> {
        let (new, path) = (self.dir.join("snapshot.new"), self.dir.join("snapshot"));
        let write = || -> io::Result<u64> {
            let mut out = BufWriter::new(File::create(&new)?);
            let nothing = (String::new(), String::new());
            out.write_all(
                line(&Record { revision, resource: &nothing, namespace: "", name: "", json: None }).as_bytes(),
            )?;
            for record in records {
                out.write_all(line(&record).as_bytes())?;
            }
            let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.sync_all()?;
            let length = file.metadata()?.len();
            fs::rename(&new, &path)?;
            Ok(length)
        };
        self.snapshot = write().map_err(|e| failed("write", &path, e))?;
        // Should this be missed, the log's records are older than the snapshot and are skipped.
        self.file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)))
            .map_err(|e| failed("truncate", &self.dir.join("log"), e))?;
        self.length = 0;
        Ok(())
    }
}

/// Fields separated by tabs; neither names nor compact JSON hold tabs or line ends.
fn line(record: &Record<'_>) -> String {
    let Record { revision, resource: (group, plural), namespace, name, json } = record;
    format!("{revision}\t{group}\t{plural}\t{namespace}\t{name}\t{}\n", json.unwrap_or_default())
}

fn parse(line: &str) -> Option<(u64, Resource, &str, &str, Option<&str>)> {
    let mut fields = line.splitn(6, '\t');
    let revision = fields.next()?.parse().ok()?;
    let resource = (fields.next()?.to_owned(), fields.next()?.to_owned());
    let (namespace, name, json) = (fields.next()?, fields.next()?, fields.next()?);
    Some((revision, resource, namespace, name, (!json.is_empty()).then_some(json)))
}

#[derive(Default)]
struct Read {
    revision: u64,
    length: u64,
}

/// Loads the records after `after`; stops at the first line that is not whole.
fn read(file: File, after: u64, load: &mut impl FnMut(Record<'_>)) -> io::Result<Read> {
    let mut reader = BufReader::new(file);
    let mut outcome = Read::default();
    let mut text = String::new();
    loop {
        text.clear();
        let length = match reader.read_line(&mut text) {
            Err(e) if e.kind() == io::ErrorKind::InvalidData => return Ok(outcome),
            other => other?,
        };
        if length == 0 || !text.ends_with('\n') {
            return Ok(outcome);
        }
        let Some((revision, resource, namespace, name, json)) = parse(text.trim_end_matches('\n')) else {
            return Ok(outcome);
        };
        outcome.revision = outcome.revision.max(revision);
        outcome.length += length as u64;
        if revision > after {
            load(Record { revision, resource: &resource, namespace, name, json });
        }
    }
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> StoreError {
    StoreError::Io { action, path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Store;

    #[test]
    fn a_torn_line_is_dropped_and_the_rest_survives() {
        let dir = std::env::temp_dir().join(format!("apiserver-log-{}", std::process::id()));
        let kind = (String::new(), "configmaps".to_owned());
        let object = |name: &str| json!({"metadata": {"name": name, "namespace": "d"}});
        let revision = {
            let store = Store::open(Some(&dir)).unwrap();
            store.put(&kind, object("a"), 0).unwrap();
            let b = store.put(&kind, object("b"), 0).unwrap();
            store.delete(&kind, object("b"), b.revision).unwrap();
            store.revision()
        };
        let log = dir.join("log");
        let mut text = std::fs::read_to_string(&log).unwrap();
        text.push_str("99\t\tconfig");
        std::fs::write(&log, text).unwrap();
        let store = Store::open(Some(&dir)).unwrap();
        assert_eq!(store.revision(), revision);
        assert_eq!(store.list(&kind, None).1.len(), 1);
        store.put(&kind, object("c"), 0).unwrap();
        drop(store);
        assert_eq!(Store::open(Some(&dir)).unwrap().list(&kind, None).1.len(), 2);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
