//! Compares what clients were told with what is left: every promise of docs/failover.md, section 2, that can be seen from
//! outside.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use super::history::{History, Member, Outcome, Remains, RowId, Term, Write};

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Violation {
    /// A row was acknowledged, and is not there.
    Lost { row: RowId, server_id: u32, acknowledged: Duration, missing_on: String },
    /// A row is there more than once.
    Duplicated { row: RowId, times: usize, member: String },
    /// A row is there that nobody sent.
    NeverSent { row: RowId, member: String },
    /// A row is there although its client was told that it is not.
    RefusedButThere { row: RowId, member: String },
    /// A reader saw a row that nobody sent.
    ReadNeverSent { row: RowId },
    /// A server acknowledged what was sent to it after another one had done so as its successor, or in a term of nobody's.
    TwoWriters { row: RowId, server_id: u32, sent: Duration, why: String },
    /// A binary log has a transaction of another server in a primary's term.
    StrangerInTerm { member: String, gtid: String, epoch: u64, holder: u32 },
    /// Two binary logs have different transactions in one place.
    Forked { place: String, one: String, other: String },
    /// Members are not equal in the end.
    Diverged { one: String, other: String, how: String },
    /// The record's terms do not follow upon each other.
    TermsOutOfOrder { before: u64, after: u64 },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost { row, server_id, acknowledged, missing_on } => write!(
                f,
                "lost: row {row}, acknowledged by server {server_id} at {:.3} s, is not on {missing_on}",
                acknowledged.as_secs_f64()
            ),
            Self::Duplicated { row, times, member } => write!(f, "duplicated: row {row} is {times} times on {member}"),
            Self::NeverSent { row, member } => write!(f, "phantom: row {row} on {member} was never sent"),
            Self::RefusedButThere { row, member } => {
                write!(f, "phantom: row {row} is on {member}, and its client was told that it failed")
            }
            Self::ReadNeverSent { row } => write!(f, "phantom: a reader saw row {row}, which was never sent"),
            Self::TwoWriters { row, server_id, sent, why } => write!(
                f,
                "two writers: row {row}, sent at {:.3} s, was acknowledged by server {server_id}: {why}",
                sent.as_secs_f64()
            ),
            Self::StrangerInTerm { member, gtid, epoch, holder } => {
                write!(f, "two writers: {member} has {gtid} in epoch {epoch}, which is server {holder}'s")
            }
            Self::Forked { place, one, other } => write!(f, "two writers: at {place} stand {one} and {other}"),
            Self::Diverged { one, other, how } => write!(f, "divergence: {one} and {other} differ: {how}"),
            Self::TermsOutOfOrder { before, after } => {
                write!(f, "two writers: epoch {after} began before epoch {before}")
            }
        }
    }
}

impl Violation {
    /// One word for the kind, for counts.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Lost { .. } => "lost",
            Self::Duplicated { .. } => "duplicated",
            Self::NeverSent { .. } | Self::RefusedButThere { .. } | Self::ReadNeverSent { .. } => "phantom",
            Self::TwoWriters { .. }
            | Self::StrangerInTerm { .. }
            | Self::Forked { .. }
            | Self::TermsOutOfOrder { .. } => "two writers",
            Self::Diverged { .. } => "divergence",
        }
    }
}

/// Everything that is wrong.
pub(crate) fn check(history: &History, remains: &Remains) -> Vec<Violation> {
    let mut violations = Vec::new();
    let sent: HashMap<RowId, &Write> = history.writes.iter().map(|write| (write.row, write)).collect();
    for member in &remains.members {
        rows(&sent, member, &mut violations);
    }
    lost(history, &remains.members, &mut violations);
    violations
        .extend(history.seen.iter().filter(|row| !sent.contains_key(row)).map(|&row| Violation::ReadNeverSent { row }));
    writers(history, &remains.terms, &mut violations);
    for pair in remains.terms.windows(2) {
        if pair[1].epoch <= pair[0].epoch || pair[1].start < pair[0].start {
            violations.push(Violation::TermsOutOfOrder { before: pair[0].epoch, after: pair[1].epoch });
        }
    }
    for member in &remains.members {
        strangers(member, &remains.terms, &mut violations);
    }
    forks(&remains.members, &mut violations);
    divergence(&remains.members, &mut violations);
    violations.sort();
    violations.dedup();
    violations
}

/// What readers saw and is gone: no promise is broken (it was not acknowledged, or the member that showed it was expelled), but told.
pub(crate) fn seen_and_gone(history: &History, remains: &Remains) -> usize {
    let Some(member) = remains.members.first() else { return 0 };
    let there: HashSet<RowId> = member.rows.iter().copied().collect();
    history.seen.iter().filter(|row| !there.contains(row)).count()
}

/// Rows that are there too often, or should not be.
fn rows(sent: &HashMap<RowId, &Write>, member: &Member, violations: &mut Vec<Violation>) {
    let mut times: BTreeMap<RowId, usize> = BTreeMap::new();
    for &row in &member.rows {
        *times.entry(row).or_default() += 1;
    }
    for (row, times) in times {
        let member = member.name.clone();
        match sent.get(&row).map(|write| write.outcome) {
            None => violations.push(Violation::NeverSent { row, member: member.clone() }),
            Some(Outcome::Refused) => violations.push(Violation::RefusedButThere { row, member: member.clone() }),
            Some(Outcome::Acknowledged | Outcome::Unknown) => {}
        }
        if times > 1 {
            violations.push(Violation::Duplicated { row, times, member });
        }
    }
}

/// Rows that were acknowledged and are missing somewhere.
fn lost(history: &History, members: &[Member], violations: &mut Vec<Violation>) {
    let there: Vec<(&str, HashSet<RowId>)> =
        members.iter().map(|member| (member.name.as_str(), member.rows.iter().copied().collect())).collect();
    for write in history.writes.iter().filter(|write| write.outcome == Outcome::Acknowledged) {
        let without: Vec<&str> =
            there.iter().filter(|(_, rows)| !rows.contains(&write.row)).map(|(name, _)| *name).collect();
        if !without.is_empty() {
            violations.push(Violation::Lost {
                row: write.row,
                server_id: write.server_id,
                acknowledged: write.ended,
                missing_on: without.join(", "),
            });
        }
    }
}

/// Acknowledgements, put into terms: each belongs to a term of its server that is not before any term that was seen to have
/// begun when it was sent. Where there is none, two servers acknowledged side by side.
fn writers(history: &History, terms: &[Term], violations: &mut Vec<Violation>) {
    let mut writes: Vec<&Write> =
        history.writes.iter().filter(|write| write.outcome == Outcome::Acknowledged).collect();
    writes.sort_by_key(|write| write.ended);
    // What was acknowledged by a moment, and the latest term in which; in the order of time.
    let mut begun: Vec<(Duration, usize)> = Vec::new();
    for write in writes {
        let known = begun.partition_point(|(at, _)| *at < write.sent);
        let floor = known.checked_sub(1).map_or(0, |last| begun[last].1);
        let fitting = terms.iter().enumerate().skip(floor).find(|(_, term)| term.server_id == write.server_id);
        if let Some((index, _)) = fitting {
            let latest = begun.last().map_or(index, |(_, latest)| index.max(*latest));
            begun.push((write.ended, latest));
        } else {
            let why = match terms.get(floor) {
                Some(term) => format!(
                    "epoch {} was server {}'s by then, and no later one was server {}'s",
                    term.epoch, term.server_id, write.server_id
                ),
                None => "the record has no term of it".to_owned(),
            };
            violations.push(Violation::TwoWriters {
                row: write.row,
                server_id: write.server_id,
                sent: write.sent,
                why,
            });
        }
    }
}

/// The terms' own domain: all that primaries write is in it.
const DOMAIN: u32 = 0;

/// Transactions of a server in a term that is another one's.
fn strangers(member: &Member, terms: &[Term], violations: &mut Vec<Violation>) {
    for transaction in member.binlog.iter().filter(|transaction| transaction.domain == DOMAIN) {
        let after = terms.partition_point(|term| term.start < transaction.sequence);
        let Some(term) = after.checked_sub(1).map(|index| &terms[index]) else { continue };
        if term.server_id != transaction.server_id {
            violations.push(Violation::StrangerInTerm {
                member: member.name.clone(),
                gtid: format!("{}-{}-{}", transaction.domain, transaction.server_id, transaction.sequence),
                epoch: term.epoch,
                holder: term.server_id,
            });
        }
    }
}

/// One place in the history, two transactions: by two servers, or with other rows.
fn forks(members: &[Member], violations: &mut Vec<Violation>) {
    let mut places = HashMap::new();
    for member in members {
        for transaction in &member.binlog {
            let place = (transaction.domain, transaction.sequence);
            let (first, known) = *places.entry(place).or_insert((member, transaction));
            if known != transaction {
                let tell = |member: &Member, transaction: &super::history::Transaction| {
                    let rows: Vec<String> = transaction.rows.iter().map(ToString::to_string).collect();
                    format!("server {}'s on {} with rows [{}]", transaction.server_id, member.name, rows.join(" "))
                };
                violations.push(Violation::Forked {
                    place: format!("{}-*-{}", place.0, place.1),
                    one: tell(first, known),
                    other: tell(member, transaction),
                });
            }
        }
    }
}

/// Members that are not equal.
fn divergence(members: &[Member], violations: &mut Vec<Violation>) {
    let Some((first, others)) = members.split_first() else { return };
    for other in others.iter().filter(|other| other.fingerprint != first.fingerprint) {
        violations.push(Violation::Diverged {
            one: first.name.clone(),
            other: other.name.clone(),
            how: format!("{} and {}", first.fingerprint, other.fingerprint),
        });
    }
}
