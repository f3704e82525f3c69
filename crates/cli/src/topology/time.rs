//! Moments as people read them.

use k8s_openapi::api::events::v1::Event;
use k8s_openapi::jiff::Timestamp;

pub(super) fn now() -> Timestamp {
    Timestamp::now()
}

/// `12s`, `3m`, `2h10m`, `4d`: how long ago, as kubectl says it.
pub(super) fn age(then: Timestamp, now: Timestamp) -> String {
    let seconds = (now.as_second() - then.as_second()).max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// When an event was seen last.
pub(super) fn of_event(event: &Event) -> Timestamp {
    let series = event.series.as_ref().map(|series| series.last_observed_time.0);
    let micro = event.event_time.as_ref().map(|time| time.0);
    let old = event.deprecated_last_timestamp.as_ref().map(|time| time.0);
    let made = event.metadata.creation_timestamp.as_ref().map(|time| time.0);
    series.or(micro).or(old).or(made).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        let at = |second: i64| Timestamp::from_second(second).expect("a moment");
        let said = [0, 119, 120, 7199, 7200, 172_800].map(|second| age(at(0), at(second)));
        assert_eq!(said, ["0s", "119s", "2m", "119m", "2h", "2d"]);
        assert_eq!(age(at(10), at(0)), "0s");
    }
}
