//! Does anything still come from the source? A silent cut shows nowhere else for a long time.

use std::time::{Duration, Instant};

use crate::passages::Passages;

/// So many heartbeats may be missed.
const MISSED: f64 = 3.0;
/// What a heartbeat may be late by.
const SLACK: Duration = Duration::from_millis(300);

/// What came from a replica's source last, and when; and what its SQL thread made of it.
#[derive(Debug, Default)]
pub struct Reception {
    last: Option<(String, Instant)>,
    pub(crate) passages: Passages,
}

impl Reception {
    /// Its position is about to be set on purpose: until [`begin_anew`](Self::begin_anew) nothing is concluded from it.
    pub fn hold(&mut self) {
        self.passages.hold();
    }

    /// Its position was set on purpose.
    pub fn begin_anew(&mut self) {
        self.passages.forget();
    }

    /// The server was started anew.
    pub fn restarted(&mut self) {
        self.passages.restarted();
    }

    /// Takes in how it stands; does it still receive?
    pub(crate) fn note(&mut self, signs: String, heartbeat_seconds: f64, now: Instant) -> bool {
        match &self.last {
            Some((known, at)) if *known == signs => {
                let limit = Duration::try_from_secs_f64(heartbeat_seconds * MISSED).unwrap_or(Duration::MAX);
                now.duration_since(*at) <= limit.saturating_add(SLACK)
            }
            _ => {
                self.last = Some((signs, now));
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_three_heartbeats() {
        let mut reception = Reception::default();
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        assert!(reception.note("1".into(), 1.0, at(0)));
        assert!(reception.note("1".into(), 1.0, at(3000)));
        assert!(!reception.note("1".into(), 1.0, at(3400)));
        assert!(reception.note("2".into(), 1.0, at(9000)));
    }
}
