//! The record: the few facts that decide who may write and who may acknowledge.
//!
//! It is kept in one Kubernetes `Lease` per topology: the holder's data id is the lease's `holderIdentity`, the
//! rest are annotations. Controller and agents both read and swap it, so its text form lives here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use crate::action::Stamp;
use crate::gtid::GtidPosition;
use crate::member::{DataId, MemberName};
use crate::plan::Cause;
use crate::time::Time;

/// Annotations of the Lease.
pub mod annotation {
    /// Number of the current primary's term.
    pub const EPOCH: &str = "k8s.mariadb.com/epoch";
    /// Number of the last decision.
    pub const REVISION: &str = "k8s.mariadb.com/revision";
    /// The holder's pod.
    pub const HOLDER_MEMBER: &str = "k8s.mariadb.com/holder";
    /// The holder's pod's UID.
    pub const HOLDER_POD_UID: &str = "k8s.mariadb.com/holder-pod-uid";
    /// Those whose acknowledgement counts: `dataId/member/serverId`, separated by commas.
    pub const ACKERS: &str = "k8s.mariadb.com/ackers";
    /// `true`: it is not proven that the ackers hold everything the primary ever returned.
    pub const SOLO: &str = "k8s.mariadb.com/solo";
    /// Each epoch: `epoch serverId dataId position`, separated by semicolons.
    pub const HISTORY: &str = "k8s.mariadb.com/history";
    /// The member chosen to be initialised, and the id its data gets: `member dataId`.
    pub const FIRST: &str = "k8s.mariadb.com/first";
    /// The primary that the objects asked for last and that was acted on: a later change asks for a switchover.
    pub const WANTED: &str = "k8s.mariadb.com/wanted";
    /// The last requests for a switchover that were answered, a line each.
    pub const ANSWERED: &str = "k8s.mariadb.com/answered";
    /// The member whose data a person has named and that has taken over: that word is spent.
    pub const HEEDED: &str = "k8s.mariadb.com/heeded";
    /// `Available`: members that may take over from a primary that nobody hears, separated by commas.
    pub const CANDIDATES: &str = "k8s.mariadb.com/candidates";
    /// `Available`: those of them that the holder's agent knew when it renewed the Lease last.
    pub const RENEWED_WITH: &str = "k8s.mariadb.com/renewed-with";
    /// `Available`: how long the holder counts that renewal for, in milliseconds.
    pub const RENEWED_FOR: &str = "k8s.mariadb.com/renewed-for";
    /// How the last epochs began: see [`Begun`](super::Begun).
    pub const BEGUN: &str = "k8s.mariadb.com/begun";
    /// All of them.
    pub const ALL: [&str; 15] = [
        EPOCH,
        REVISION,
        HOLDER_MEMBER,
        HOLDER_POD_UID,
        ACKERS,
        SOLO,
        HISTORY,
        FIRST,
        WANTED,
        ANSWERED,
        HEEDED,
        CANDIDATES,
        RENEWED_WITH,
        RENEWED_FOR,
        BEGUN,
    ];
}

/// Who holds the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its data directory: this is the identity.
    pub data_id: DataId,
    /// Its pod's name, for people and for finding it.
    pub member: MemberName,
    /// The UID of the pod that was told to open.
    pub pod_uid: String,
}

/// A member whose acknowledgement counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acker {
    /// The pod that its data was seen in.
    pub member: MemberName,
    /// Its `server_id`: names its account, also when nothing is heard of it any more.
    pub server_id: u32,
}

/// One primary's term.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// Its number.
    pub epoch: u64,
    /// Who wrote in it.
    pub server_id: u32,
    /// The data it was written to.
    pub data_id: DataId,
    /// The position at which it started.
    pub start: GtidPosition,
}

/// The member that gets the topology's first data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct First {
    /// Its name.
    pub member: MemberName,
    /// The id its data gets.
    pub data_id: DataId,
}

/// How an epoch began that a change of primary began: whoever decided that may end before it has told anybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    /// Its number.
    pub epoch: u64,
    /// Planned.
    pub switchover: bool,
    /// Why.
    pub cause: Cause,
    /// When that was noticed, by the clock of whoever decided it.
    pub began: Time,
    /// When the record named the new primary, by the same clock.
    pub swapped: Time,
    /// The old primary.
    pub from: Option<Former>,
    /// The new one.
    pub to: MemberName,
    /// What was, or may have been, lost.
    pub lost: Vec<String>,
}

/// A former primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Former {
    /// Its name.
    pub member: MemberName,
    /// The pod that was told to open.
    pub pod_uid: String,
}

/// So many answered requests are kept: an object may be put back that makes an old one again.
const ANSWERED_KEPT: usize = 8;
/// So many of them are kept.
const BEGUN_KEPT: usize = 3;
/// A text in them is cut after so many characters: what is for people must not be in the way of a swap.
const BEGUN_TEXT: usize = 500;

/// The record. [`Record::default`] is one that does not exist yet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// Number of the current primary's term; 0: there was none yet.
    pub epoch: u64,
    /// Number of the last decision; 0: nothing was decided yet.
    pub revision: u64,
    /// Who may be writable. `None` in epoch 0, and while a lost record is being rebuilt.
    pub holder: Option<Holder>,
    /// Those whose acknowledgement lets a semi-synchronous commit return, by their data.
    pub ackers: BTreeMap<DataId, Acker>,
    /// It is not proven that the ackers hold everything the primary ever returned.
    pub solo: bool,
    /// The terms so far, oldest first.
    pub history: Vec<Term>,
    /// Chosen in epoch 0, before anything is initialised; gone afterwards.
    pub first: Option<First>,
    /// The primary that the objects asked for last and that was acted on.
    pub wanted: Option<MemberName>,
    /// The last requests for a switchover that were answered, the oldest first.
    pub answered: Vec<String>,
    /// The member whose data a person has named (`use-data-of`) and that has taken over: an annotation that was left in place must not
    /// speak again in the next calamity.
    pub heeded: Option<MemberName>,
    /// `Available`: who may take over from a holder that is only suspected. Empty where that is nobody.
    pub candidates: BTreeSet<MemberName>,
    /// `Available`: the candidates that the holder's agent will ask when it cannot renew the Lease. `None`: it never renewed it in
    /// this epoch, so that nothing limits its time.
    pub renewed_with: Option<BTreeSet<MemberName>>,
    /// `Available`: how long the holder's agent counts that renewal for. Its configuration may be older than the intent.
    pub renewed_for: Option<Duration>,
    /// How the last epochs began, oldest first.
    pub begun: Vec<Begun>,
}

/// A Lease whose annotations are not a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseRecordError {
    /// The annotation.
    pub annotation: &'static str,
    /// Its text.
    pub text: String,
}

impl fmt::Display for ParseRecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "annotation {} of the lease is not understood: {:?}", self.annotation, self.text)
    }
}

impl std::error::Error for ParseRecordError {}

impl Record {
    /// The stamp of the last decision.
    pub fn stamp(&self) -> Stamp {
        Stamp { epoch: self.epoch, revision: self.revision }
    }

    /// The same content under the next revision: what every decision that acts swaps in first.
    #[must_use]
    pub fn next(&self) -> Record {
        Record { revision: self.revision + 1, ..self.clone() }
    }

    /// The swap that starts a new epoch. `solo` is set and nobody acknowledges until that is proven otherwise.
    #[must_use]
    pub fn next_epoch(&self, holder: Holder, server_id: u32, start: GtidPosition) -> Record {
        let epoch = self.epoch + 1;
        let mut history = self.history.clone();
        let member = holder.member.clone();
        history.push(Term { epoch, server_id, data_id: holder.data_id.clone(), start });
        Record {
            epoch,
            revision: self.revision + 1,
            holder: Some(holder),
            ackers: BTreeMap::new(),
            solo: true,
            history,
            first: None,
            wanted: self.wanted.clone(),
            answered: self.answered.clone(),
            heeded: self.heeded.clone(),
            candidates: self.candidates.iter().filter(|name| **name != member).cloned().collect(),
            renewed_with: None,
            renewed_for: None,
            begun: self.begun.clone(),
        }
    }

    /// Notes that a request was answered.
    pub(crate) fn note_answered(&mut self, id: &str) {
        if !self.answered.iter().any(|known| known == id) {
            self.answered.push(id.to_owned());
        }
        let excess = self.answered.len().saturating_sub(ANSWERED_KEPT);
        self.answered.drain(..excess);
    }

    /// Notes how its epoch began.
    pub(crate) fn note_begun(&mut self, begun: Begun) {
        self.begun.push(begun);
        let excess = self.begun.len().saturating_sub(BEGUN_KEPT);
        self.begun.drain(..excess);
    }

    /// The Lease's `holderIdentity`.
    pub fn holder_identity(&self) -> Option<&str> {
        self.holder.as_ref().map(|holder| holder.data_id.0.as_str())
    }

    /// The Lease's annotations. Those of [`annotation::ALL`] that are missing here must be removed from it.
    pub fn annotations(&self) -> BTreeMap<&'static str, String> {
        let mut all = BTreeMap::from([
            (annotation::EPOCH, self.epoch.to_string()),
            (annotation::REVISION, self.revision.to_string()),
            (annotation::SOLO, self.solo.to_string()),
            (
                annotation::ACKERS,
                join(self.ackers.iter().map(|(id, acker)| format!("{id}/{}/{}", acker.member, acker.server_id)), ","),
            ),
        ]);
        if let Some(Holder { data_id: _, member, pod_uid }) = &self.holder {
            all.insert(annotation::HOLDER_MEMBER, member.0.clone());
            all.insert(annotation::HOLDER_POD_UID, pod_uid.clone());
        }
        if !self.history.is_empty() {
            let terms = self.history.iter().map(|Term { epoch, server_id, data_id, start }| {
                format!("{epoch} {server_id} {data_id} {start}").trim_end().to_owned()
            });
            all.insert(annotation::HISTORY, join(terms, ";"));
        }
        if let Some(First { member, data_id }) = &self.first {
            all.insert(annotation::FIRST, format!("{member} {data_id}"));
        }
        if let Some(wanted) = &self.wanted {
            all.insert(annotation::WANTED, wanted.0.clone());
        }
        if !self.answered.is_empty() {
            all.insert(annotation::ANSWERED, self.answered.join("\n"));
        }
        if let Some(heeded) = &self.heeded {
            all.insert(annotation::HEEDED, heeded.0.clone());
        }
        let names = |members: &BTreeSet<MemberName>| join(members.iter().map(|member| member.0.clone()), ",");
        if !self.candidates.is_empty() {
            all.insert(annotation::CANDIDATES, names(&self.candidates));
        }
        if let Some(known) = &self.renewed_with {
            all.insert(annotation::RENEWED_WITH, names(known));
        }
        if let Some(limit) = self.renewed_for {
            all.insert(annotation::RENEWED_FOR, limit.as_millis().to_string());
        }
        if !self.begun.is_empty() {
            all.insert(annotation::BEGUN, join(self.begun.iter().map(Begun::to_string), "\n\n"));
        }
        all
    }

    /// Is this member's data that of an acker?
    pub fn is_acker(&self, data_id: &DataId) -> bool {
        self.ackers.contains_key(data_id)
    }

    /// Reads a Lease.
    pub fn parse<'a>(
        holder_identity: Option<&str>,
        annotation: impl Fn(&str) -> Option<&'a str>,
    ) -> Result<Record, ParseRecordError> {
        let number = |key: &'static str| match annotation(key) {
            None => Ok(0),
            Some(text) => text.parse::<u64>().map_err(|_| ParseRecordError { annotation: key, text: text.to_owned() }),
        };
        let holder = holder_identity.filter(|id| !id.is_empty()).map(|id| Holder {
            data_id: DataId(id.to_owned()),
            member: MemberName(annotation(annotation::HOLDER_MEMBER).unwrap_or_default().to_owned()),
            pod_uid: annotation(annotation::HOLDER_POD_UID).unwrap_or_default().to_owned(),
        });
        let list = |key: &str, separator: char| {
            annotation(key).unwrap_or_default().split(separator).map(str::trim).filter(|s| !s.is_empty())
        };
        let history = list(annotation::HISTORY, ';')
            .map(|text| {
                parse_term(text)
                    .ok_or_else(|| ParseRecordError { annotation: annotation::HISTORY, text: text.to_owned() })
            })
            .collect::<Result<_, _>>()?;
        let first = match annotation(annotation::FIRST) {
            None => None,
            Some(text) => {
                let (member, data_id) = text
                    .split_once(' ')
                    .ok_or_else(|| ParseRecordError { annotation: annotation::FIRST, text: text.to_owned() })?;
                Some(First { member: MemberName(member.to_owned()), data_id: DataId(data_id.to_owned()) })
            }
        };
        let ackers = list(annotation::ACKERS, ',')
            .map(|text| {
                parse_acker(text)
                    .ok_or_else(|| ParseRecordError { annotation: annotation::ACKERS, text: text.to_owned() })
            })
            .collect::<Result<_, _>>()?;
        // It tells and counts what is over: what is not understood is no reason to decide nothing.
        let begun = annotation(annotation::BEGUN).unwrap_or_default().split("\n\n").filter_map(Begun::parse).collect();
        Ok(Record {
            epoch: number(annotation::EPOCH)?,
            revision: number(annotation::REVISION)?,
            holder,
            ackers,
            solo: annotation(annotation::SOLO) == Some("true"),
            history,
            first,
            wanted: annotation(annotation::WANTED).map(|name| MemberName(name.to_owned())),
            answered: list(annotation::ANSWERED, '\n').map(str::to_owned).collect(),
            heeded: annotation(annotation::HEEDED).map(|name| MemberName(name.to_owned())),
            candidates: list(annotation::CANDIDATES, ',').map(|name| MemberName(name.to_owned())).collect(),
            renewed_with: annotation(annotation::RENEWED_WITH)
                .map(|_| list(annotation::RENEWED_WITH, ',').map(|name| MemberName(name.to_owned())).collect()),
            renewed_for: match number(annotation::RENEWED_FOR)? {
                0 => None,
                millis => Some(Duration::from_millis(millis)),
            },
            begun,
        })
    }
}

/// Its first line: `epoch failover|switchover from/pod to began swapped reason`; then lines that begin with what they are.
impl fmt::Display for Begun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { epoch, switchover, cause, began, swapped, from, to, lost } = self;
        let kind = if *switchover { "switchover" } else { "failover" };
        let from = from.as_ref().map_or("-".to_owned(), |Former { member, pod_uid }| format!("{member}/{pod_uid}"));
        write!(f, "{epoch} {kind} {from} {to} {} {} {}", began.0, swapped.0, cause.reason)?;
        let request = cause.request.iter().map(|request| ("request", request));
        let rest = std::iter::once(("because", &cause.message)).chain(lost.iter().map(|lost| ("lost", lost)));
        for (what, text) in request.chain(rest) {
            let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(BEGUN_TEXT).collect();
            write!(f, "\n{what} {text}")?;
        }
        Ok(())
    }
}

impl Begun {
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let mut words = lines.next()?.splitn(7, ' ');
        let epoch = words.next()?.parse().ok()?;
        let switchover = match words.next()? {
            "switchover" => true,
            "failover" => false,
            _ => return None,
        };
        let from = words
            .next()?
            .split_once('/')
            .map(|(member, pod_uid)| Former { member: MemberName(member.to_owned()), pod_uid: pod_uid.to_owned() });
        let to = MemberName(words.next()?.to_owned());
        let (began, swapped) = (Time(words.next()?.parse().ok()?), Time(words.next()?.parse().ok()?));
        let mut cause = Cause { reason: words.next()?.to_owned().into(), message: String::new(), request: None };
        let mut lost = Vec::new();
        for line in lines {
            match line.split_once(' ')? {
                ("request", id) => cause.request = Some(id.to_owned()),
                ("because", message) => message.clone_into(&mut cause.message),
                ("lost", what) => lost.push(what.to_owned()),
                _ => return None,
            }
        }
        Some(Self { epoch, switchover, cause, began, swapped, from, to, lost })
    }
}

fn parse_term(text: &str) -> Option<Term> {
    let mut parts = text.splitn(4, ' ');
    Some(Term {
        epoch: parts.next()?.parse().ok()?,
        server_id: parts.next()?.parse().ok()?,
        data_id: DataId(parts.next()?.to_owned()),
        start: parts.next().unwrap_or_default().parse().ok()?,
    })
}

fn parse_acker(text: &str) -> Option<(DataId, Acker)> {
    let mut parts = text.splitn(3, '/');
    let id = DataId(parts.next()?.to_owned());
    let member = MemberName(parts.next()?.to_owned());
    Some((id, Acker { member, server_id: parts.next()?.parse().ok()? }))
}

fn join(texts: impl Iterator<Item = String>, separator: &str) -> String {
    texts.collect::<Vec<_>>().join(separator)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(record: &Record) -> Record {
        let annotations = record.annotations();
        Record::parse(record.holder_identity(), |key| annotations.get(key).map(String::as_str)).expect("own text")
    }

    fn holder(id: &str) -> Holder {
        Holder { data_id: DataId(id.into()), member: MemberName("db-0".into()), pod_uid: "u-1".into() }
    }

    fn acker(member: &str) -> Acker {
        Acker { member: MemberName(member.into()), server_id: 7 }
    }

    fn begun(epoch: u64, request: Option<&str>) -> Begun {
        let message = "db-0's server ended: signal 9".into();
        let cause = Cause { reason: "ServerExited".into(), message, request: request.map(str::to_owned) };
        let lost = if epoch == 3 { vec!["all after 0-1-7".to_owned(), "more".to_owned()] } else { Vec::new() };
        let from = (epoch > 2).then(|| Former { member: MemberName("db-0".into()), pod_uid: "u-1".into() });
        let (switchover, to) = (request.is_some(), MemberName("db-1".into()));
        Begun { epoch, switchover, cause, began: Time(9), swapped: Time(12), from, to, lost }
    }

    #[test]
    fn survives_the_lease() {
        let empty = Record::default();
        let first = Record {
            first: Some(First { member: MemberName("db-0".into()), data_id: DataId("d1".into()) }),
            ..empty.next()
        };
        let opened = first.next_epoch(holder("d1"), 1, GtidPosition::default());
        let mut second = opened.next_epoch(holder("d2"), 101, "0-1-12,3-1-7".parse().expect("a position"));
        second.ackers = ["d3", "d4"].map(|id| (DataId(id.into()), acker("db-1"))).into();
        second.wanted = Some(MemberName("db-2".into()));
        second.heeded = Some(MemberName("db-1".into()));
        for n in 0..10 {
            second.note_answered(&format!("2026-11-23T10:00:0{n}Z"));
        }
        second.note_answered("2026-11-23T10:00:09Z");
        assert_eq!((second.answered.len(), second.answered[0].as_str()), (8, "2026-11-23T10:00:02Z"));
        second.solo = false;
        second.candidates = ["db-0", "db-2"].map(|name| MemberName(name.into())).into();
        second.renewed_with = Some(second.candidates.clone());
        second.renewed_for = Some(Duration::from_millis(2500));
        for epoch in 1..=4 {
            second.note_begun(begun(epoch, (epoch == 4).then_some("r-1")));
        }
        assert_eq!(second.begun.iter().map(|begun| begun.epoch).collect::<Vec<_>>(), [2, 3, 4]);
        let renewed = Record { renewed_with: Some(BTreeSet::new()), ..opened.clone() };
        for record in [empty, first, opened, second, renewed] {
            assert_eq!(round_trip(&record), record);
        }
    }

    #[test]
    fn a_new_epoch_starts_solo_and_without_ackers() {
        let record = Record {
            epoch: 3,
            revision: 17,
            ackers: [(DataId("x".into()), acker("db-1"))].into(),
            ..Record::default()
        };
        let next = record.next_epoch(holder("d9"), 7, GtidPosition::default());
        assert_eq!((next.epoch, next.revision, next.solo), (4, 18, true));
        assert!(next.ackers.is_empty());
    }

    #[test]
    fn nonsense_is_named() {
        let error = Record::parse(None, |key| (key == annotation::EPOCH).then_some("three")).expect_err("not a number");
        assert_eq!(error.to_string(), "annotation k8s.mariadb.com/epoch of the lease is not understood: \"three\"");
    }
}
