//! How quick the sandbox is: as fast as it can, or with a cluster's delays.

use std::time::Duration;

/// Waiting times before a failed container runs again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Before the second restart; the first is at once.
    pub first: Duration,
    /// Never longer than this.
    pub most: Duration,
    /// A run of this length clears the account.
    pub reset: Duration,
}

impl Backoff {
    /// The wait after the `n`th failure in a row.
    pub fn delay(self, failures: u32) -> Duration {
        match failures {
            0 | 1 => Duration::ZERO,
            n => self.first.saturating_mul(1 << (n - 2).min(16)).min(self.most),
        }
    }
}

/// The sandbox's speed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// For containers that fail and images that cannot be had.
    pub crash_backoff: Backoff,
    /// How often a node says that it is alive.
    pub heartbeat: Duration,
    /// A node that was silent for so long is not ready.
    pub node_grace: Duration,
}

impl Pace {
    /// For trying and for tests.
    pub const QUICK: Self = Self {
        crash_backoff: Backoff {
            first: Duration::from_secs(1),
            most: Duration::from_secs(30),
            reset: Duration::from_secs(60),
        },
        heartbeat: Duration::from_secs(2),
        node_grace: Duration::from_secs(8),
    };

    /// As a kubelet.
    pub const CLUSTER: Self = Self {
        crash_backoff: Backoff {
            first: Duration::from_secs(10),
            most: Duration::from_secs(300),
            reset: Duration::from_secs(600),
        },
        heartbeat: Duration::from_secs(10),
        node_grace: Duration::from_secs(50),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double() {
        let seconds: Vec<u64> = (1..8).map(|n| Pace::QUICK.crash_backoff.delay(n).as_secs()).collect();
        assert_eq!(seconds, [0, 1, 2, 4, 8, 16, 30]);
    }
}
