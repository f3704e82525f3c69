//! MariaDB's global transaction ids: `domain-server-sequence`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One transaction's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gtid {
    /// Replication domain.
    pub domain: u32,
    /// The server that first wrote it.
    pub server_id: u32,
    /// Sequence number within the domain.
    pub sequence: u64,
}

/// A text that is no GTID, or a list in which one thing stands twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseGtidError(pub String);

impl fmt::Display for ParseGtidError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a GTID (domain-server-sequence): {:?}", self.0)
    }
}

impl std::error::Error for ParseGtidError {}

impl FromStr for Gtid {
    type Err = ParseGtidError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = || ParseGtidError(text.to_owned());
        let mut parts = text.trim().splitn(3, '-');
        let mut part = || parts.next().filter(|p| p.bytes().all(|b| b.is_ascii_digit()));
        Ok(Self {
            domain: part().and_then(|p| p.parse().ok()).ok_or_else(fail)?,
            server_id: part().and_then(|p| p.parse().ok()).ok_or_else(fail)?,
            sequence: part().and_then(|p| p.parse().ok()).ok_or_else(fail)?,
        })
    }
}

impl fmt::Display for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.domain, self.server_id, self.sequence)
    }
}

/// A position: the last transaction of each domain (`gtid_slave_pos`, `gtid_binlog_pos`, `Gtid_IO_Pos`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GtidPosition(pub BTreeMap<u32, Gtid>);

/// `gtid_binlog_state`: the last sequence of each (domain, server id) that the binary log has had.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BinlogState(pub BTreeMap<(u32, u32), u64>);

fn parse_list(text: &str) -> impl Iterator<Item = Result<Gtid, ParseGtidError>> + '_ {
    text.split(',').map(str::trim).filter(|t| !t.is_empty()).map(str::parse)
}

fn write_list(f: &mut fmt::Formatter<'_>, gtids: impl Iterator<Item = Gtid>) -> fmt::Result {
    for (i, gtid) in gtids.enumerate() {
        write!(f, "{}{gtid}", if i == 0 { "" } else { "," })?;
    }
    Ok(())
}

impl FromStr for GtidPosition {
    type Err = ParseGtidError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut position = BTreeMap::new();
        for gtid in parse_list(text) {
            let gtid = gtid?;
            if position.insert(gtid.domain, gtid).is_some() {
                return Err(ParseGtidError(text.to_owned()));
            }
        }
        Ok(Self(position))
    }
}

impl fmt::Display for GtidPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_list(f, self.0.values().copied())
    }
}

impl FromStr for BinlogState {
    type Err = ParseGtidError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut state = BTreeMap::new();
        for gtid in parse_list(text) {
            let gtid = gtid?;
            if state.insert((gtid.domain, gtid.server_id), gtid.sequence).is_some() {
                return Err(ParseGtidError(text.to_owned()));
            }
        }
        Ok(Self(state))
    }
}

impl fmt::Display for BinlogState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_list(f, self.0.iter().map(|(&(domain, server_id), &sequence)| Gtid { domain, server_id, sequence }))
    }
}

macro_rules! serde_as_text {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

serde_as_text!(Gtid, GtidPosition, BinlogState);
