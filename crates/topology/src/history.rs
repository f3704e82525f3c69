//! Arithmetic on GTIDs: what a server has, what it lacks, and what it should not have.
//!
//! Sequence numbers alone do not tell two histories apart (a lost primary at 0-1-15 and its successor at 0-2-15);
//! the pair (domain, server id) does. So histories are compared pair by pair.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::gtid::{BinlogState, Gtid, GtidPosition};
use crate::member::ServerState;
use crate::record::Term;

impl GtidPosition {
    /// Sequence number reached in a domain; 0 where there is none.
    pub fn sequence(&self, domain: u32) -> u64 {
        self.0.get(&domain).map_or(0, |gtid| gtid.sequence)
    }

    /// Is every domain of `other` reached here? Meaningful between positions of one history.
    pub fn covers(&self, other: &GtidPosition) -> bool {
        other.0.iter().all(|(&domain, gtid)| self.sequence(domain) >= gtid.sequence)
    }

    /// Transactions that `other` has and this has not, as sequence numbers say (0 when none).
    pub fn behind(&self, other: &GtidPosition) -> u64 {
        other.0.iter().map(|(&domain, gtid)| gtid.sequence.saturating_sub(self.sequence(domain))).sum()
    }

    /// The later of both in every domain.
    #[must_use]
    pub fn furthest(&self, other: &GtidPosition) -> GtidPosition {
        let mut result = self.clone();
        for (&domain, &gtid) in &other.0 {
            if gtid.sequence > result.sequence(domain) {
                result.0.insert(domain, gtid);
            }
        }
        result
    }
}

impl BinlogState {
    /// Has this transaction passed through the binary log (or one after it of the same server and domain)?
    pub fn has(&self, gtid: Gtid) -> bool {
        self.0.get(&(gtid.domain, gtid.server_id)).is_some_and(|&sequence| sequence >= gtid.sequence)
    }

    /// Takes a transaction in.
    pub fn add(&mut self, gtid: Gtid) {
        let sequence = self.0.entry((gtid.domain, gtid.server_id)).or_default();
        *sequence = gtid.sequence.max(*sequence);
    }

    /// The last transaction of every pair.
    pub fn transactions(&self) -> impl Iterator<Item = Gtid> + '_ {
        self.0.iter().map(|(&(domain, server_id), &sequence)| Gtid { domain, server_id, sequence })
    }

    /// All that `other` has is here.
    pub fn covers(&self, other: &BinlogState) -> bool {
        other.transactions().all(|gtid| self.has(gtid))
    }

    /// Both together.
    #[must_use]
    pub fn union(&self, other: &BinlogState) -> BinlogState {
        let mut result = self.clone();
        other.transactions().for_each(|gtid| result.add(gtid));
        result
    }
}

/// Transactions of one server in one domain that a member has and the primary's history has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Errant {
    /// Replication domain.
    pub domain: u32,
    /// Who wrote them.
    pub server_id: u32,
    /// Up to here the primary's history has them (0: none).
    pub known: u64,
    /// Last one that the member has.
    pub last: u64,
}

impl fmt::Display for Errant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Errant { domain, server_id, known, last } = self;
        match known {
            // Sequence numbers are the domain's: how many of those before it are this server's is not known.
            0 => write!(f, "up to {domain}-{server_id}-{last}"),
            known if known + 1 == *last => write!(f, "{domain}-{server_id}-{last}"),
            known => write!(f, "{domain}-{server_id}-{}..{last}", known + 1),
        }
    }
}

/// What a server has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    /// Pair by pair, as far as its own binary log tells.
    pub state: BinlogState,
    /// Where its data began if it is a copy, or what it last applied: everything of that history up to here is in the
    /// data, although a copy's binary log starts empty and knows nothing of it.
    pub base: GtidPosition,
}

impl History {
    /// Of a server as it reports itself.
    pub fn of(server: &ServerState) -> Self {
        let mut state = server.gtid_binlog_state.clone();
        for &gtid in server.gtid_binlog_pos.0.values().chain(server.gtid_slave_pos.0.values()) {
            state.add(gtid);
        }
        Self { state, base: server.gtid_slave_pos.clone() }
    }

    /// Is this transaction surely in the data? A pair that the binary log knows is judged by it, but for what the writer wrote in a term
    /// that was passed over, before it wrote on in a later one. Of a pair that it does not know, what lies before the base counts if
    /// it was written in one of the writer's own terms.
    pub fn contains(&self, gtid: Gtid, terms: &[Term]) -> bool {
        match self.state.0.get(&(gtid.domain, gtid.server_id)) {
            Some(&sequence) if sequence > gtid.sequence => {
                out_of_term(Gtid { sequence, ..gtid }, terms) || !out_of_term(gtid, terms)
            }
            Some(&sequence) => sequence == gtid.sequence,
            None => self.base.sequence(gtid.domain) >= gtid.sequence && written_in_term(gtid, terms),
        }
    }

    /// What `member` has and this history, the primary's, has not.
    pub fn errant_of(&self, member: &History, terms: &[Term]) -> Vec<Errant> {
        member
            .state
            .transactions()
            .filter(|&gtid| !self.contains(gtid, terms))
            .map(|gtid| Errant {
                domain: gtid.domain,
                server_id: gtid.server_id,
                known: match self.state.0.get(&(gtid.domain, gtid.server_id)) {
                    Some(&sequence) if sequence > gtid.sequence => last_in_term(gtid, terms),
                    known => known.copied().unwrap_or(0),
                },
                last: gtid.sequence,
            })
            .collect()
    }
}

/// Is all of this, which a server has received, in its data? What it has replicated counts by its numbers. Beyond that only the very
/// transaction counts: where somebody has written on a replica, what it wrote bears the numbers that the primary gives, too.
pub fn has_applied(server: &ServerState, received: &GtidPosition) -> bool {
    received.0.values().all(|&gtid| applied(server, gtid))
}

/// The same for one transaction.
pub fn applied(server: &ServerState, gtid: Gtid) -> bool {
    server.gtid_slave_pos.sequence(gtid.domain) >= gtid.sequence || server.gtid_binlog_state.has(gtid)
}

/// A transaction in which this server's binary log differs from what it was, `before`, other than by what has been replicated since:
/// somebody has written on the server, or emptied its log.
pub fn changed_since(server: &ServerState, before: &BinlogState) -> Option<Gtid> {
    let replicated = |gtid: &Gtid| {
        let position = server.gtid_slave_pos.0.get(&gtid.domain);
        position.is_some_and(|last| last.server_id == gtid.server_id && last.sequence >= gtid.sequence)
    };
    let new = server.gtid_binlog_state.transactions().find(|gtid| !before.has(*gtid) && !replicated(gtid));
    new.or_else(|| before.transactions().find(|gtid| !server.gtid_binlog_state.has(*gtid)))
}

/// Was this surely not written while its writer was primary, or not taken over by those after it? What lies before the first known term
/// is not judged.
pub fn out_of_term(gtid: Gtid, terms: &[Term]) -> bool {
    gtid.sequence > first_known(gtid.domain, terms) && !written_in_term(gtid, terms)
}

fn first_known(domain: u32, terms: &[Term]) -> u64 {
    terms.first().map_or(u64::MAX, |term| term.start.sequence(domain))
}

/// Was this surely written while its writer was primary, and taken over by those after it? What lies before the first known
/// term (the record was lost once) is not sure: to take it for granted there would let errant transactions pass as part of
/// every history.
pub fn written_in_term(gtid: Gtid, terms: &[Term]) -> bool {
    line(gtid.domain, terms).any(|(term, until)| {
        // Whoever wrote what a term began with: its primary had it.
        let own =
            term.server_id == gtid.server_id && (term.start.sequence(gtid.domain) + 1..=until).contains(&gtid.sequence);
        own || term.start.0.get(&gtid.domain) == Some(&gtid)
    })
}

/// The last transaction of this writer before this one that was taken over by those after it; 0: none is known.
fn last_in_term(gtid: Gtid, terms: &[Term]) -> u64 {
    let before = |(term, until): (&Term, u64)| {
        (term.server_id == gtid.server_id && until < gtid.sequence && until > term.start.sequence(gtid.domain))
            .then_some(until)
    };
    line(gtid.domain, terms).find_map(before).unwrap_or(0)
}

/// The terms that the last one goes back to, the latest first, each with what was taken over of it.
fn line(domain: u32, terms: &[Term]) -> impl Iterator<Item = (&Term, u64)> {
    let (mut rest, mut until) = (terms, u64::MAX);
    std::iter::from_fn(move || {
        let (term, before) = rest.split_last()?;
        let taken_over = std::mem::replace(&mut until, term.start.sequence(domain));
        rest = if before.is_empty() { before } else { &before[..=predecessor(term, domain, before)] };
        Some((term, taken_over))
    })
}

/// The term that this one went on from: the last one whose primary wrote what this one started with. The terms in between
/// were passed over: without a promise, or at a person's word, somebody may be taken who had received nothing of them.
fn predecessor(term: &Term, domain: u32, before: &[Term]) -> usize {
    let start = term.start.0.get(&domain);
    let wrote = |start: &Gtid| {
        before
            .iter()
            .rposition(|other| other.server_id == start.server_id && other.start.sequence(domain) < start.sequence)
    };
    start.and_then(wrote).unwrap_or(before.len().saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::scenario::replica_state;

    fn position(text: &str) -> GtidPosition {
        text.parse().expect("a position")
    }

    fn state(text: &str) -> BinlogState {
        text.parse().expect("a binlog state")
    }

    fn history(state_text: &str, base: &str) -> History {
        History { state: state(state_text), base: position(base) }
    }

    fn errant(primary: &History, member: &History, terms: &[Term]) -> String {
        primary.errant_of(member, terms).iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    fn term(epoch: u64, server_id: u32, start: &str) -> Term {
        Term { epoch, server_id, data_id: crate::DataId(format!("d{epoch}")), start: position(start) }
    }

    #[test]
    fn equal_sequences_of_two_writers_are_told_apart() {
        let old = history("0-1-15", "");
        let new = history("0-1-12,0-2-15", "0-1-12");
        assert_eq!(errant(&new, &old, &[]), "0-1-13..15");
    }

    #[test]
    fn a_copy_has_what_lies_before_its_base() {
        let copy = history("", "0-1-50");
        let replica = history("0-1-50", "");
        assert_eq!(errant(&copy, &replica, &[term(1, 1, "")]), "");
        assert_eq!(errant(&copy, &history("0-1-51", ""), &[term(1, 1, "")]), "up to 0-1-51");
    }

    #[test]
    fn a_copy_does_not_have_what_was_written_out_of_term() {
        let copy = history("", "0-1-50");
        let terms = [term(1, 1, "")];
        assert_eq!(errant(&copy, &history("0-101-40", ""), &terms), "up to 0-101-40");
    }

    #[test]
    fn without_terms_only_what_the_binary_log_tells_counts() {
        let replica = history("0-1-20", "0-1-20");
        let errant_one = history("0-1-19,0-103-20", "0-1-19");
        assert_eq!(errant(&replica, &errant_one, &[]), "up to 0-103-20");
        assert_eq!(errant(&replica, &errant_one, &[term(2, 101, "0-1-20")]), "up to 0-103-20");
    }

    #[test]
    fn terms_bound_each_writer() {
        let terms = [term(1, 1, ""), term(2, 101, "0-1-10"), term(3, 1, "0-101-20")];
        let in_term = |text: &str| written_in_term(text.parse().expect("a GTID"), &terms);
        assert!(in_term("0-1-10"));
        assert!(!in_term("0-1-11"), "its first term was over");
        assert!(in_term("0-101-11"));
        assert!(!in_term("0-101-21"));
        assert!(in_term("0-1-21"), "its second term");
    }

    #[test]
    fn a_term_that_was_passed_over_is_nobodys_history() {
        // db-1 was taken without 27..30 and wrote its own; then db-3 was, who went on from those of db-2.
        let terms = [term(1, 1, ""), term(2, 2, "0-1-26"), term(3, 1, "0-1-26"), term(4, 3, "0-2-30")];
        let in_term = |text: &str| written_in_term(text.parse().expect("a GTID"), &terms);
        assert!(in_term("0-1-26") && in_term("0-2-30") && in_term("0-3-31"));
        assert!(!in_term("0-1-28"));
        let copy = history("0-3-34", "0-3-34");
        assert_eq!(errant(&copy, &history("0-1-28", ""), &terms), "up to 0-1-28");
    }

    /// Found by simulation: an acker on which somebody had written had received, and acknowledged, a transaction of the same number. It counted
    /// as applied and was forgotten, and another member was made primary without it.
    #[test]
    fn what_somebody_wrote_on_a_replica_is_not_what_it_received_under_the_same_number() {
        let mut server = replica_state("db-1", 2, "a").server.expect("a server");
        (server.gtid_slave_pos, server.gtid_binlog_pos) = (position("0-1-37"), position("0-2-38"));
        server.gtid_binlog_state = state("0-1-37,0-2-38");
        assert!(has_applied(&server, &position("0-1-37")));
        assert!(!has_applied(&server, &position("0-1-38")));
        // As a copy: its own binary log knows nothing of what came before.
        server.gtid_binlog_state = state("0-2-38");
        assert!(has_applied(&server, &position("0-1-37")));
    }

    #[test]
    fn what_changed_since_is_what_nobody_replicated() {
        let mut server = replica_state("db-1", 2, "a").server.expect("a server");
        let mut changed = |log: &str, applied: &str| {
            (server.gtid_binlog_state, server.gtid_slave_pos) = (state(log), position(applied));
            changed_since(&server, &state("0-1-30,0-2-7")).map(|gtid| gtid.to_string())
        };
        assert_eq!(changed("0-1-30,0-2-7", "0-1-30"), None);
        assert_eq!(changed("0-1-35,0-2-7", "0-1-35"), None, "it replicates on");
        assert_eq!(changed("0-1-35,0-2-36", "0-1-35").as_deref(), Some("0-2-36"));
        assert_eq!(changed("0-1-30,0-2-31", "0-1-35").as_deref(), Some("0-2-31"), "its number says nothing");
        assert_eq!(changed("0-1-30,0-2-7,1-2-1", "0-1-30").as_deref(), Some("1-2-1"));
        assert_eq!(changed("0-1-36,0-2-7", "0-1-35").as_deref(), Some("0-1-36"), "under another one's server id");
        assert_eq!(changed("0-2-1", "0-1-30").as_deref(), Some("0-1-30"), "an emptied log");
    }

    /// Found by simulation: while db-1 was down its primary lost its disk, another one went on without the last transactions, and then the
    /// first one again, which soon had written more than db-1 had of it.
    #[test]
    fn a_writer_that_writes_again_does_not_cover_what_was_passed_over() {
        let terms = [term(1, 1, ""), term(2, 3, "0-1-34"), term(3, 1, "0-3-43")];
        let primary = history("0-1-300,0-3-43", "0-3-43");
        assert_eq!(errant(&primary, &history("0-1-40", ""), &terms), "0-1-35..40");
        assert_eq!(errant(&primary, &history("0-1-34", ""), &terms), "");
        assert_eq!(errant(&primary, &history("0-1-200,0-3-43", ""), &terms), "");
        // What was taken at a person's word is history, whoever wrote it.
        let terms = [term(1, 1, ""), term(2, 5, "0-5-33")];
        assert_eq!(errant(&history("0-1-30,0-5-60", ""), &history("0-5-33", ""), &terms), "");
    }

    #[test]
    fn behind_counts_by_domain() {
        assert_eq!(position("0-1-5").behind(&position("0-2-8,1-1-3")), 6);
        assert_eq!(position("0-1-5").behind(&position("0-1-4")), 0);
    }

    fn any_state() -> impl Strategy<Value = BinlogState> {
        prop::collection::btree_map((0..3u32, 1..5u32), 1..20u64, 0..8).prop_map(BinlogState)
    }

    fn any_position() -> impl Strategy<Value = GtidPosition> {
        prop::collection::btree_map(0..3u32, (1..5u32, 1..20u64), 0..3).prop_map(|domains| {
            GtidPosition(
                domains
                    .into_iter()
                    .map(|(domain, (server_id, sequence))| (domain, Gtid { domain, server_id, sequence }))
                    .collect(),
            )
        })
    }

    proptest! {
        #[test]
        fn text_round_trip(s in any_state(), p in any_position()) {
            prop_assert_eq!(&s.to_string().parse::<BinlogState>().expect("own text"), &s);
            prop_assert_eq!(&p.to_string().parse::<GtidPosition>().expect("own text"), &p);
        }

        #[test]
        fn covers_is_a_partial_order(a in any_state(), b in any_state(), c in any_state()) {
            prop_assert!(a.covers(&a));
            prop_assert!(!(a.covers(&b) && b.covers(&c)) || a.covers(&c));
            prop_assert!(!(a.covers(&b) && b.covers(&a)) || a == b);
        }

        #[test]
        fn union_is_the_least_upper_bound(a in any_state(), b in any_state(), c in any_state()) {
            let both = a.union(&b);
            prop_assert!(both.covers(&a) && both.covers(&b));
            prop_assert_eq!(&both, &b.union(&a));
            prop_assert!(!(c.covers(&a) && c.covers(&b)) || c.covers(&both));
        }

        #[test]
        fn furthest_covers_both(a in any_position(), b in any_position()) {
            let far = a.furthest(&b);
            prop_assert!(far.covers(&a) && far.covers(&b));
            prop_assert_eq!(a.behind(&b) == 0, a.covers(&b));
        }

        #[test]
        fn nothing_is_errant_exactly_when_all_is_contained(a in any_state(), b in any_state()) {
            let (primary, member) = (History { state: a.clone(), ..History::default() }, History { state: b.clone(), ..History::default() });
            prop_assert_eq!(primary.errant_of(&member, &[]).is_empty(), a.covers(&b));
        }

        #[test]
        fn errant_names_just_what_is_missing(a in any_state(), b in any_state()) {
            let (primary, member) = (History { state: a.clone(), ..History::default() }, History { state: b.clone(), ..History::default() });
            for e in primary.errant_of(&member, &[]) {
                let gtid = |sequence| Gtid { domain: e.domain, server_id: e.server_id, sequence };
                prop_assert!(b.has(gtid(e.last)) && !a.has(gtid(e.last)));
                prop_assert!(e.known == 0 || a.has(gtid(e.known)));
                prop_assert!(e.known < e.last);
            }
        }
    }
}
