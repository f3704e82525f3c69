//! The controller's clock: monotonic, and close enough to the wall's to show to people.

use std::time::Instant;

use k8s_openapi::jiff::Timestamp;
use topology::Time;

#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    started: Instant,
    wall: Timestamp,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self { started: Instant::now(), wall: Timestamp::now() }
    }

    pub(super) fn now(&self) -> Time {
        let wall = u64::try_from(self.wall.as_millisecond()).unwrap_or(0);
        Time(wall).after(self.started.elapsed())
    }
}
