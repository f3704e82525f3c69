//! What happened, for people: one line each, and in the end everybody as they are.

use topology::Stamp;
use topology::action::{Action, Opening, Waits};

use crate::server::{Disk, Entry};
use crate::world::{Member, World};

pub(crate) fn stamp(stamp: Stamp) -> String {
    format!("({},{})", stamp.epoch, stamp.revision)
}

impl World {
    fn clock(&self) -> String {
        format!("{:7.1} s", (self.now.0 - 1_000_000) as f64 / 1000.0)
    }

    /// A line of the story.
    pub(crate) fn tell(&mut self, line: impl FnOnce() -> String) {
        if self.settings.story {
            let line = format!("{}  {}", self.clock(), line());
            self.story.push(line);
        }
    }

    /// A line of one transaction's own story.
    pub(crate) fn trace(&mut self, entry: Entry, line: impl FnOnce() -> String) {
        if self.settings.story {
            let line = format!("{}  {}", self.clock(), line());
            self.trails.entry(entry.tag).or_default().push(line);
        }
    }

    /// An order as it arrives, and whether it is carried out.
    pub(crate) fn tell_order(&mut self, n: usize, command: &topology::Command, refused: Option<&str>) {
        if !self.settings.story {
            return;
        }
        let (at, action) = (stamp(command.stamp), self.words(&command.action));
        let end = refused.map_or_else(String::new, |why| format!(": refused, {why}"));
        self.tell(|| format!("{at} db-{n} {action}{end}"));
    }

    fn words(&self, action: &Action) -> String {
        let host = |host: &str| self.by_host(host).map_or_else(|| host.to_owned(), |n| format!("db-{n}"));
        let accounts = |accounts: &[String]| {
            let names =
                accounts.iter().map(|account| match account.rsplit('_').next().and_then(|id| id.parse::<u32>().ok()) {
                    Some(id) if id > 0 => format!("db-{}", id - 1),
                    _ => account.clone(),
                });
            let names = names.collect::<Vec<_>>().join(" and ");
            if names.is_empty() { "nobody".to_owned() } else { names }
        };
        match action {
            Action::Initialise { .. } => "makes the first data".to_owned(),
            Action::Clone { donor, replaces: None, .. } => format!("is copied from {}", host(&donor.host)),
            Action::Clone { donor, .. } => format!("is seeded afresh, a copy of {}", host(&donor.host)),
            Action::StartServer { as_replica: true } => {
                "starts its server, and drops what nobody acknowledged".to_owned()
            }
            Action::StartServer { as_replica: false } => "starts its server".to_owned(),
            Action::RestartServer => "restarts its server".to_owned(),
            Action::OpenForWrites { opening: Opening { wait, lock, unlock, anew: _ } } => {
                let wait = if *wait == Waits::Off { "commits do not wait" } else { "commits wait" };
                format!("opens for writes: {wait}, {} locked out, {} let in", accounts(lock), accounts(unlock))
            }
            Action::SetReadOnly { kill: true, .. } => "goes read-only, or is killed".to_owned(),
            Action::SetReadOnly { kill: false, .. } => "goes read-only".to_owned(),
            Action::EnsureReplicationAccounts { .. } => "makes the replication accounts".to_owned(),
            Action::Lock { accounts: all } => format!("locks {} out", accounts(all)),
            Action::Unlock { accounts: all } => format!("lets {} in", accounts(all)),
            Action::CommitMarker => "commits a marker".to_owned(),
            Action::SetWaiting { on: true } => "lets commits wait".to_owned(),
            Action::SetWaiting { on: false } => "lets commits wait no more".to_owned(),
            Action::Fence => "is fenced: it receives nothing more".to_owned(),
            Action::AwaitPosition { position, .. } => format!("is to reach {position}"),
            Action::ReplayRelayLog => "applies its relay log".to_owned(),
            Action::SaveErrant { errant } => {
                let errant = errant.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                format!("saves what the primary never had: {errant}")
            }
            Action::Follow { source, demote } => {
                let demote = if *demote { ", as a former primary" } else { "" };
                format!("follows {}{demote}", host(&source.endpoint.host))
            }
            Action::StartReplication => "starts to replicate".to_owned(),
            Action::PointAt { source } => format!("is pointed at {}", host(&source.endpoint.host)),
            Action::StopReceiving => "stops receiving".to_owned(),
        }
    }

    /// The story so far, the record and the members as they are, and what became of one transaction.
    pub(crate) fn whole_story(&self, about: Option<Entry>) -> Vec<String> {
        if !self.settings.story {
            return Vec::new();
        }
        let mut story = self.story.clone();
        let record = &self.lease.record;
        let holder = record.holder.as_ref().map_or("nobody", |holder| holder.member.0.as_str());
        let ackers: Vec<&str> = record.ackers.values().map(|acker| acker.member.0.as_str()).collect();
        let ackers = if ackers.is_empty() { "none".to_owned() } else { ackers.join(" and ") };
        let solo = if record.solo { ", solo" } else { "" };
        story.push(format!("in the end: {holder} is primary of epoch {}, ackers: {ackers}{solo}", record.epoch));
        story.extend(self.members.iter().map(|member| format!("  {}: {}", member.name, member.portrait())));
        if let Some(entry) = about {
            story.push(format!("what became of {entry}:"));
            story.extend(self.trails.get(&entry.tag).into_iter().flatten().map(|line| format!("  {line}")));
        }
        story
    }
}

impl Member {
    /// For people.
    pub(crate) fn portrait(&self) -> String {
        let server = match &self.process {
            None if !self.up => "its node is off",
            None => "no server runs",
            Some(process) if process.hangs.is_some() => "its server is frozen",
            Some(process) if process.starting > 0 => "its server starts",
            Some(process) if process.read_only => "read-only",
            Some(process) if process.waits => "open, commits wait",
            Some(_) => "open",
        };
        format!("{server}; {}", self.disk.portrait())
    }
}

/// Runs of one writer: `0-1-1..40 0-2-41..43`.
pub(crate) fn spans(entries: &[Entry]) -> String {
    let runs = entries.chunk_by(|a, b| a.server_id == b.server_id && a.sequence + 1 == b.sequence);
    let text = runs.map(|run| match run {
        [] => String::new(),
        [one] => one.to_string(),
        [first, .., last] => format!("{first}..{}", last.sequence),
    });
    let text = text.collect::<Vec<_>>().join(" ");
    if text.is_empty() { "nothing".to_owned() } else { text }
}

impl Disk {
    /// For people.
    pub(crate) fn portrait(&self) -> String {
        if self.data_id.is_none() {
            return "no data".to_owned();
        }
        let mut parts = vec![spans(&self.content)];
        if self.binlog_from > 0 {
            parts.push(format!("its binary log begins after {} of them", self.binlog_from));
        }
        let waiting = &self.content[self.content.len() - self.waiting..];
        for (name, entries) in [("unacknowledged", waiting), ("received", &self.relay), ("aside", &self.aside)] {
            if !entries.is_empty() {
                parts.push(format!("{name} {}", spans(entries)));
            }
        }
        parts.extend(self.slave_pos.map(|position| format!("replicated up to {position}")));
        parts.join(", ")
    }
}
