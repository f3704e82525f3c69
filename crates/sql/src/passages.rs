//! Did a replica pass transactions over? `SET GLOBAL gtid_slave_pos`, typed by somebody, shows nowhere else: positions look as
//! if everything had been applied.
//!
//! Each transaction that is applied counts once (`Slave_*_Groups`) and moves its domain by one. So at rest, position less count
//! stays what it was, unless numbers were left out: by the source (`gtid_seq_no`), or by a position that was set while the SQL
//! thread was stopped, which is another thread afterwards.

//!
//! And was its binary log emptied (`RESET MASTER`)? Then what it writes as primary would begin at number 1 again.

use topology::{BinlogState, GtidPosition};

/// Answers of two connections may come in the wrong order: so many in a row that lack something do not.
const IN_A_ROW: u32 = 3;

/// How a replica stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) position: GtidPosition,
    /// Transactions applied since the server's start.
    pub(crate) applied: u64,
}

/// What was seen at rest, and what was passed over since this data came.
#[derive(Debug, Default)]
pub(crate) struct Passages {
    latest: Option<Standing>,
    rest: Option<(Standing, u64)>,
    pub(crate) passed_over: u64,
    /// Positions are being set on purpose: nothing that is seen meanwhile counts.
    held: bool,
    /// All that its binary log has held since the server's start.
    logged: BinlogState,
    /// So often in a row it held less.
    less: u32,
    /// Somebody has emptied its binary log since this data came.
    pub(crate) log_reset: bool,
}

impl Passages {
    /// Takes in how it stands. `true`: it is at rest somewhere new, and its SQL thread should be [noted](Self::rest).
    pub(crate) fn note(&mut self, standing: Standing, idle: bool) -> bool {
        if self.held {
            return false;
        }
        let again = idle && self.latest.as_ref() == Some(&standing);
        let new = self.rest.as_ref().is_none_or(|(rest, _)| *rest != standing);
        self.latest = Some(standing);
        again && new
    }

    /// Takes in what its binary log has held. (Crash recovery may shorten it, but the server was started anew then.)
    pub(crate) fn note_log(&mut self, state: &BinlogState) {
        if state.covers(&self.logged) {
            self.less = 0;
            self.logged.clone_from(state);
        } else {
            self.less += 1;
            self.log_reset |= self.less >= IN_A_ROW;
        }
    }

    /// It is at rest, and this is its SQL thread.
    pub(crate) fn rest(&mut self, thread: u64) {
        let Some(now) = self.latest.clone() else { return };
        if let Some((before, known)) = &self.rest
            && *known != thread
            && now.applied >= before.applied
        {
            // Domains that are new may begin anywhere.
            let moved: u64 = before
                .position
                .0
                .keys()
                .map(|&domain| now.position.sequence(domain).saturating_sub(before.position.sequence(domain)))
                .sum();
            self.passed_over += moved.saturating_sub(now.applied - before.applied);
        }
        self.rest = Some((now, thread));
    }

    /// Positions are about to be set on purpose; until [`forget`](Self::forget) nothing is taken in.
    pub(crate) fn hold(&mut self) {
        self.held = true;
    }

    /// Positions were set on purpose, or the server is another one: what was seen before says nothing any more.
    pub(crate) fn forget(&mut self) {
        self.held = false;
        self.latest = None;
        self.rest = None;
    }

    /// The server was started anew.
    pub(crate) fn restarted(&mut self) {
        self.forget();
        self.logged = BinlogState::default();
        self.less = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(passages: &mut Passages, position: &str, applied: u64, thread: u64) -> u64 {
        let standing = Standing { position: position.parse().expect("a position"), applied };
        assert!(!passages.note(standing.clone(), true));
        if passages.note(standing, true) {
            passages.rest(thread);
        }
        passages.passed_over
    }

    #[test]
    fn what_is_applied_counts() {
        let mut passages = Passages::default();
        assert_eq!(at(&mut passages, "0-1-100", 40, 7), 0);
        assert_eq!(at(&mut passages, "0-1-150", 90, 7), 0);
        assert_eq!(at(&mut passages, "0-1-160", 100, 8), 0, "stopped and started");
        assert_eq!(at(&mut passages, "0-1-170", 105, 8), 0, "the source left numbers out");
        assert_eq!(at(&mut passages, "0-1-180,3-1-500", 116, 9), 0, "a new domain");
        assert_eq!(at(&mut passages, "0-1-190,3-1-500", 121, 10), 5);
        assert_eq!(at(&mut passages, "0-1-191,3-1-500", 122, 11), 5, "it stays so");
    }

    #[test]
    fn what_is_set_on_purpose_is_not_passed_over() {
        let mut passages = Passages::default();
        at(&mut passages, "0-1-100", 40, 7);
        passages.hold();
        // Started anew, already at rest, while whoever does it has not heard of it yet.
        assert_eq!(at(&mut passages, "0-1-104", 40, 8), 0);
        passages.forget();
        assert_eq!(at(&mut passages, "0-1-104", 40, 8), 0);
        assert_eq!(at(&mut passages, "0-1-106", 42, 9), 0);
        assert_eq!(at(&mut passages, "0-1-109", 43, 10), 2);
    }

    #[test]
    fn an_emptied_binary_log_is_noticed() {
        let state = |text: &str| {
            let mut state = BinlogState::default();
            text.split(',').for_each(|gtid| state.add(gtid.parse().expect("a GTID")));
            state
        };
        let mut passages = Passages::default();
        for (text, reset) in [
            ("0-1-9", false),
            ("0-1-12", false),
            // Two connections, answers in the wrong order.
            ("0-1-10", false),
            ("0-1-12", false),
            ("0-2-1", false),
            ("0-2-2", false),
            ("0-2-3", true),
            ("0-1-12", true),
        ] {
            passages.note_log(&state(text));
            assert_eq!(passages.log_reset, reset, "{text}");
        }
        let mut passages = Passages::default();
        passages.note_log(&state("0-1-12"));
        passages.restarted();
        (0..5).for_each(|_| passages.note_log(&state("0-1-10")));
        assert!(!passages.log_reset, "crash recovery dropped what nobody acknowledged");
    }

    #[test]
    fn another_server_counts_anew() {
        let mut passages = Passages::default();
        at(&mut passages, "0-1-100", 40, 7);
        passages.forget();
        assert_eq!(at(&mut passages, "0-1-300", 10, 8), 0);
        assert_eq!(at(&mut passages, "0-1-310", 0, 9), 0, "its count began anew");
    }
}
