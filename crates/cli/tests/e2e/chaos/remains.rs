//! What is left on the members, read through `kubectl exec` as a person would.

use std::collections::BTreeMap;

use topology::Record;

use super::super::cluster::{Cluster, Failure};
use super::history::{Member, Remains, RowId, Term, Transaction};

/// Prints of each transaction its GTID, and of each row that it inserted into the clients' table `+client sequence`. One that
/// is cut off at the end of a file, where a server died while it wrote, was never committed; files are read one by one, since
/// `mariadb-binlog` ends at such a place.
const BINLOG: &str = r#"
set -e
files=$(mariadb -u root -p"${MARIADB_ROOT_PASSWORD}" -N -B -e 'SHOW BINARY LOGS' | cut -f 1)
cd "$(dirname "$(mariadb -u root -p"${MARIADB_ROOT_PASSWORD}" -N -B -e 'SELECT @@log_bin_basename')")"
for file in $files; do
  mariadb-binlog --no-defaults --verbose --base64-output=decode-rows "$file" || echo "cut off: $file" >&2
done | awk '
  function tell() { if (gtid != "" && (whole || !bounded)) printf "%s", gtid rows; gtid = ""; rows = "" }
  /^#[0-9]+ .*[\t ]GTID [0-9]+-[0-9]+-[0-9]+/ {
    tell()
    for (i = 1; i < NF; i++) if ($i == "GTID") gtid = $(i + 1) "\n"
    bounded = / trans/; whole = 0; ours = 0
  }
  # The next file begins with a rollback of its own.
  /^# End of log file/ { tell() }
  /^COMMIT/ || (/^ROLLBACK/ && !/added by/) { whole = 1 }
  /^### / { if ($2 == "INSERT") ours = ($4 == "`chaos`.`writes`"); else if ($2 == "UPDATE" || $2 == "DELETE") ours = 0 }
  ours && /^### +@2=/ { sub(/.*=/, ""); client = $1 }
  ours && /^### +@3=/ { sub(/.*=/, ""); rows = rows "+" client " " $1 "\n" }
  END { tell() }'
"#;

/// Everything, once the members are at rest.
pub(crate) fn collect(cluster: &Cluster, namespace: &str, root: &str, members: &[String]) -> Result<Remains, Failure> {
    let members = members.iter().map(|pod| member(cluster, namespace, pod)).collect::<Result<_, _>>()?;
    Ok(Remains { members, terms: terms(&record(cluster, namespace, root)?) })
}

/// The record, as its Lease tells it.
pub(crate) fn record(cluster: &Cluster, namespace: &str, root: &str) -> Result<Record, Failure> {
    let lease = cluster.get(namespace, "lease", &format!("{root}-topology"))?.ok_or("no record")?;
    let annotations: BTreeMap<String, String> = lease["metadata"]["annotations"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect();
    let holder = lease["spec"]["holderIdentity"].as_str();
    Record::parse(holder, |key| annotations.get(key).map(String::as_str)).map_err(|e| e.to_string())
}

fn terms(record: &Record) -> Vec<Term> {
    let start = |term: &topology::record::Term| term.start.0.get(&0).map_or(0, |gtid| gtid.sequence);
    record
        .history
        .iter()
        .map(|term| Term { epoch: term.epoch, server_id: term.server_id, start: start(term) })
        .collect()
}

/// Equal on members that are equal: all user data, and how far the history goes.
pub(crate) fn fingerprint(cluster: &Cluster, namespace: &str, pod: &str) -> Result<String, Failure> {
    let text = cluster.sql(namespace, pod, "SELECT @@gtid_current_pos; CHECKSUM TABLE chaos.writes")?;
    Ok(text.replace(['\n', '\t'], " "))
}

fn member(cluster: &Cluster, namespace: &str, pod: &str) -> Result<Member, Failure> {
    let fingerprint = fingerprint(cluster, namespace, pod)?;
    let text = cluster.sql(namespace, pod, "SELECT client, sequence FROM chaos.writes ORDER BY n")?;
    let rows = text
        .lines()
        .map(|line| row(line).ok_or_else(|| format!("{pod}: not a row: {line:?}")))
        .collect::<Result<_, _>>()?;
    let text = cluster.kubectl(&["exec", pod, "-n", namespace, "-c", "mariadb", "--", "sh", "-c", BINLOG])?;
    let binlog = binlog(&text).ok_or_else(|| format!("{pod}: its binary log is not understood"))?;
    Ok(Member { name: pod.to_owned(), fingerprint, rows, binlog })
}

fn row(line: &str) -> Option<RowId> {
    let mut words = line.split_whitespace();
    let row = RowId { client: words.next()?.parse().ok()?, sequence: words.next()?.parse().ok()? };
    words.next().is_none().then_some(row)
}

fn binlog(text: &str) -> Option<Vec<Transaction>> {
    let mut all: Vec<Transaction> = Vec::new();
    for line in text.lines() {
        if let Some(line) = line.strip_prefix('+') {
            all.last_mut()?.rows.push(row(line)?);
            continue;
        }
        let mut numbers = line.split('-');
        let (domain, server_id, sequence) = (numbers.next()?, numbers.next()?, numbers.next()?);
        all.push(Transaction {
            domain: domain.parse().ok()?,
            server_id: server_id.parse().ok()?,
            sequence: sequence.parse().ok()?,
            rows: Vec::new(),
        });
    }
    Some(all)
}
