//! Durations as Go writes them: `30s`, `1m30s`, `500ms`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration such as `30s`, `1m30s`, `500ms`. A bare number counts as seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoDuration(pub Duration);

impl GoDuration {
    /// Whole seconds, rounded up: a time limit never becomes shorter by rounding.
    pub fn seconds_up(self) -> u64 {
        self.0.as_secs() + u64::from(self.0.subsec_nanos() > 0)
    }
}

/// A text that is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a duration (such as 30s, 1m30s, 500ms; at most 31 years): {0:?}")]
pub struct ParseDurationError(pub String);

/// The longest duration in seconds, 31 years: sums of two still fit everywhere.
const LONGEST: u64 = 1_000_000_000;

const UNITS: [(&str, f64); 8] =
    [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9), ("d", 86400e9)];

impl FromStr for GoDuration {
    type Err = ParseDurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = || ParseDurationError(text.to_owned());
        let mut rest = text.trim();
        if rest.is_empty() {
            return Err(fail());
        }
        if let Ok(seconds) = rest.parse::<u64>() {
            return if seconds <= LONGEST { Ok(Self(Duration::from_secs(seconds))) } else { Err(fail()) };
        }
        let mut nanos = 0.0;
        while !rest.is_empty() {
            let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).ok_or_else(fail)?;
            let number: f64 = rest[..end].parse().map_err(|_| fail())?;
            rest = &rest[end..];
            let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
            let (_, factor) = UNITS.iter().find(|(name, _)| *name == &rest[..unit]).ok_or_else(fail)?;
            nanos += number * factor;
            rest = &rest[unit..];
        }
        if nanos > LONGEST as f64 * 1e9 {
            return Err(fail());
        }
        Ok(Self(Duration::from_nanos(nanos.round() as u64)))
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        if !millis.is_multiple_of(1000) {
            return write!(f, "{millis}ms");
        }
        let seconds = self.0.as_secs();
        match (seconds / 3600, seconds % 3600 / 60, seconds % 60) {
            (0, 0, s) => write!(f, "{s}s"),
            (0, m, 0) => write!(f, "{m}m"),
            (0, m, s) => write!(f, "{m}m{s}s"),
            (h, 0, 0) => write!(f, "{h}h"),
            (h, m, 0) => write!(f, "{h}h{m}m"),
            (h, m, s) => write!(f, "{h}h{m}m{s}s"),
        }
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::quantity::string_or_number(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

crate::schema::text_or_number!(
    GoDuration,
    r"^([0-9]{1,18}(\.[0-9]{1,9})?(ns|us|µs|ms|s|m|h|d))+$|^[0-9]{1,9}$",
    0_u64..=LONGEST
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_style() {
        for (text, millis) in [
            ("30s", 30_000),
            ("1m30s", 90_000),
            ("500ms", 500),
            ("1.5s", 1500),
            ("10", 10_000),
            ("2h", 7_200_000),
            ("0s", 0),
        ] {
            assert_eq!(text.parse::<GoDuration>().unwrap().0, Duration::from_millis(millis), "{text}");
        }
        for text in ["", "s", "10 s", "3x", "-1s", "1m30", "1e3s", "18446744073709551615", "999999999h"] {
            assert!(text.parse::<GoDuration>().is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_printed_is_read(millis in 0u64..1_000_000_000) {
            let duration = GoDuration(Duration::from_millis(millis));
            proptest::prop_assert_eq!(duration.to_string().parse::<GoDuration>().unwrap(), duration);
        }
    }
}
