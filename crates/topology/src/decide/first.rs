//! Before there is a primary: first data, and a record that was lost.

use std::collections::BTreeMap;
use std::time::Duration;

use super::follow;
use super::judge::{applied, held};
use super::pass::{Flow, Pass};
use super::view::{Content, Member};
use crate::action::{Action, Stamp};
use crate::decision::{Refusal, list};
use crate::gtid::GtidPosition;
use crate::history::{Errant, History};
use crate::member::{MemberName, Phase, ThreadState};
use crate::memory::Kind;
use crate::record::{First, Holder, Record, Term};

/// Somebody asked for hands off: only look.
pub(super) fn hands_off(pass: &mut Pass<'_>) -> Flow {
    if pass.intent.hands_off.is_none() {
        return Flow::Next;
    }
    if let Flow::Stop = super::switchover::give_up(pass) {
        return Flow::Stop;
    }
    pass.hands_off = true;
    Flow::Stop
}

/// Two servers with one id throw each other's connections out, and their events cannot be told apart: one of them is
/// left in peace, the others are not touched. What agents say counts.
pub(super) fn duplicate_server_ids(pass: &mut Pass<'_>) -> Flow {
    let mut by_id: BTreeMap<u32, Vec<Member<'_>>> = BTreeMap::new();
    for member in pass.members() {
        if let Some(state) = member.state() {
            by_id.entry(state.server_id).or_default().push(member);
        }
    }
    for (server_id, members) in by_id.into_iter().filter(|(_, members)| members.len() > 1) {
        let stays = members
            .iter()
            .find(|member| pass.is_holder(**member))
            .or_else(|| members.iter().find(|member| *member.name() == pass.intent.wanted_primary))
            .map_or(members[0].name(), |member| member.name());
        pass.excluded.extend(members.iter().map(|member| member.name().clone()).filter(|name| name != stays));
        let members = members.iter().map(|member| member.name().clone()).collect();
        pass.refuse(Refusal::DuplicateServerId { server_id, members });
    }
    Flow::Next
}

/// The record is missing, or older than what agents have on disk (a backup put back, a deleted Lease): it is lifted
/// above everything that was ever accepted before anybody acts under it. Of a later epoch than its own it knows no
/// holder.
pub(super) fn stale_record(pass: &mut Pass<'_>) -> Flow {
    let highest = pass
        .members()
        .filter(|member| !matches!(member.content(), Content::Foreign(_)))
        .filter_map(|member| member.state().map(|state| state.accepted))
        .max()
        .unwrap_or_default();
    if highest <= pass.record.stamp() {
        return Flow::Next;
    }
    let Stamp { epoch, revision } = highest;
    let keeps_holder = epoch == pass.record.epoch;
    pass.next = Record {
        // A later epoch may have been recorded and lost, its first orders still be on their way: that number is left out.
        epoch: if keeps_holder { epoch } else { epoch + 1 },
        revision: revision + 1,
        holder: pass.record.holder.clone().filter(|_| keeps_holder),
        first: pass.record.first.clone().filter(|_| keeps_holder),
        solo: true,
        ..pass.record.clone()
    };
    note_request(pass);
    pass.operation = Some("the record is older than what the members have seen; it is being rebuilt".to_owned());
    Flow::Stop
}

/// Volumes with something in them that is not ours: named, and never touched.
pub(super) fn foreign_volumes(pass: &mut Pass<'_>) -> Flow {
    for member in pass.members() {
        if let Content::Foreign(found) = member.content() {
            pass.refuse(Refusal::ForeignVolume { member: member.name().clone(), found: found.to_owned() });
        }
    }
    Flow::Next
}

fn volumes_known(pass: &mut Pass<'_>) -> bool {
    let silent: Vec<_> = pass
        .members()
        .filter(|member| member.content() == Content::Unknown)
        .map(|member| (member.name().clone(), member.why_silent()))
        .collect();
    if !silent.is_empty() {
        pass.operation = Some(format!("waiting for {}", list(silent.iter().map(|(member, _)| member))));
        pass.refuse(Refusal::UnknownVolumes { silent, idle: Vec::new() });
        return false;
    }
    !pass.members().any(|member| matches!(member.content(), Content::Foreign(_)))
}

fn holders_of_data<'a>(pass: &Pass<'a>) -> Vec<Member<'a>> {
    pass.members().filter(|member| member.data_id().is_some()).collect()
}

/// Epoch 0: every volume is empty, so one member is chosen, written into the record, and initialised; then it starts
/// the first epoch.
pub(super) fn first_data(pass: &mut Pass<'_>) -> Flow {
    if pass.record.holder.is_some() {
        return Flow::Next;
    }
    if !volumes_known(pass) {
        return Flow::Stop;
    }
    let with_data = holders_of_data(pass);
    let chosen = pass.record.first.clone();
    let Some(wanted) = pass.member(&pass.intent.wanted_primary) else {
        pass.operation = Some(format!("waiting for {}, the wanted primary", pass.intent.wanted_primary));
        return Flow::Stop;
    };
    if let [only] = with_data[..]
        && chosen.as_ref().is_some_and(|first| first.member == *only.name() && Some(&first.data_id) == only.data_id())
    {
        return open_first(pass, only);
    }
    if !with_data.is_empty() {
        return Flow::Next;
    }
    if !pass.seen.idle_claims.is_empty() {
        pass.refuse(Refusal::UnknownVolumes { silent: Vec::new(), idle: pass.seen.idle_claims.clone() });
        return Flow::Stop;
    }
    if let Some(making) = pass.members().find(|member| member.phase() == Some(&Phase::Initialising)) {
        pass.operation = Some(format!("{} makes the first data", making.name()));
        return Flow::Stop;
    }
    if wanted.state().is_none() {
        let why = wanted.why_silent();
        pass.operation = Some(format!("waiting for {}", wanted.name()));
        pass.refuse(Refusal::UnknownVolumes { silent: vec![(wanted.name().clone(), why)], idle: Vec::new() });
        return Flow::Stop;
    }
    report_failure(pass, wanted, |member, message| Refusal::CannotInitialise { member, message });
    if !pass.can_order(wanted) {
        return Flow::Stop;
    }
    let data_id = match chosen {
        Some(First { member, data_id }) if member == *wanted.name() => data_id,
        _ => pass.new_data_id(),
    };
    pass.operation = Some(format!("{} makes the first data", wanted.name()));
    if pass.order_patiently(wanted, Action::Initialise { data_id: data_id.clone() }) {
        pass.next.first = Some(First { member: wanted.name().clone(), data_id });
        pass.event("Initialising", wanted, format!("{} makes the first data directory", wanted.name()));
    }
    Flow::Stop
}

/// Says why the last long action or start of a member failed.
pub(super) fn report_failure(
    pass: &mut Pass<'_>,
    member: Member<'_>,
    refusal: impl FnOnce(MemberName, String) -> Refusal,
) {
    match member.phase() {
        Some(Phase::Failed { reason: _, message }) => pass.refuse(refusal(member.name().clone(), message.clone())),
        Some(Phase::ConfigRefused { option: _, line: _, message }) => {
            pass.refuse(Refusal::ConfigRefused { member: member.name().clone(), message: message.clone() });
        }
        _ => {}
    }
}

fn open_first(pass: &mut Pass<'_>, first: Member<'_>) -> Flow {
    if first.server().is_some() {
        start_epoch(pass, first);
        return Flow::Stop;
    }
    pass.operation = Some(format!("{} starts", first.name()));
    start(pass, first);
    Flow::Stop
}

/// Starts a member's server, and says why it did not start the last time.
///
/// What it starts as is decided first: data that was written to as primary, and whose place another one has taken, loses in
/// crash recovery what nobody acknowledged.
pub(super) fn start(pass: &mut Pass<'_>, member: Member<'_>) {
    // Where a copy came to nothing, the server of the data that it was to replace runs on: it is only told so.
    let runs = member.state().is_some_and(|state| state.server.is_some());
    report_failure(pass, member, |member, message| match runs {
        true => Refusal::CannotClone { member, message },
        false => Refusal::CannotStart { member, message },
    });
    if member.idle() && pass.can_order(member) {
        let as_replica = pass.record.holder.is_some() && !pass.is_holder(member) && was_primary(pass, member);
        pass.order_patiently(member, Action::StartServer { as_replica });
    }
}

/// Its data was the holder's once.
pub(super) fn was_primary(pass: &Pass<'_>, member: Member<'_>) -> bool {
    member.data_id().is_some_and(|data_id| pass.record.history.iter().any(|term| term.data_id == *data_id))
}

/// The swap that makes a member primary, and what it does first. It is open for writes when it has done so.
pub(super) fn start_epoch(pass: &mut Pass<'_>, member: Member<'_>) {
    if pass.can_order(member) && name_primary(pass, member) {
        super::primary::open_at_once(pass, member);
    }
}

/// The same as a step of a plan, whatever else the member is doing, and with those that follow it at once. `false`: it does not answer.
pub(super) fn promote(pass: &mut Pass<'_>, member: Member<'_>) -> bool {
    if !name_primary(pass, member) {
        return false;
    }
    let followers = follow::beside_the_new_primary(pass, member);
    super::primary::open_at_once(pass, member);
    follow::follow_at_once(pass, member, &followers);
    true
}

/// A request that was made to a record which is gone, or before there was any, may have been met long ago: it is not met again.
fn note_request(pass: &mut Pass<'_>) {
    if let Some(request) = &pass.intent.request {
        pass.next.note_answered(&request.id);
    }
}

fn name_primary(pass: &mut Pass<'_>, member: Member<'_>) -> bool {
    let (Some(state), Some(server), Some(data_id)) = (member.state(), member.server(), member.data_id()) else {
        return false;
    };
    let holder = Holder { data_id: data_id.clone(), member: member.name().clone(), pod_uid: state.pod_uid.clone() };
    let position = server.gtid_binlog_pos.furthest(&server.gtid_slave_pos);
    if pass.record.holder.is_none() {
        note_request(pass);
    }
    pass.next = pass.next.next_epoch(holder, member.intent.server_id, position);
    pass.next.wanted.get_or_insert_with(|| pass.intent.wanted_primary.clone());
    pass.event("PrimaryChosen", member, format!("{} is the primary of epoch {}", member.name(), pass.next.epoch));
    true
}

/// The primary's numbers have begun again, and what the record knows of earlier terms means others: its history starts here.
pub(super) fn start_anew(pass: &mut Pass<'_>, primary: Member<'_>) -> Flow {
    let Some(position) = primary.server().map(|server| server.gtid_binlog_pos.clone()) else { return Flow::Next };
    if !pass.can_order(primary) || !name_primary(pass, primary) {
        return Flow::Next;
    }
    let last = pass.next.history.pop();
    pass.next.history = last.map(|term| Term { start: position, ..term }).into_iter().collect();
    pass.warn(
        "NumbersStartAnew",
        primary,
        format!(
            "somebody typed RESET MASTER on {}, the primary: epoch {} begins with its new numbers, and whoever does not know them gets \
             other data",
            primary.name(),
            pass.next.epoch
        ),
    );
    super::primary::open_anew(pass, primary);
    Flow::Stop
}

/// No record, yet there is data: all are read, and the one that has everything becomes the holder of a new epoch.
pub(super) fn lost_record(pass: &mut Pass<'_>) -> Flow {
    if pass.record.holder.is_some() {
        return Flow::Next;
    }
    let with_data = holders_of_data(pass);
    let word = word(pass);
    let Some(wanted) = word.or_else(|| pass.member(&pass.intent.wanted_primary)) else { return Flow::Stop };
    if wanted.data_id().is_none() {
        let others = with_data.iter().map(|member| member.name().clone()).collect();
        pass.refuse(Refusal::FirstVolumeEmpty { member: wanted.name().clone(), others });
        return Flow::Stop;
    }
    let mut all_read = true;
    for member in &with_data {
        if member.server().is_none() {
            all_read = false;
            start(pass, *member);
        }
    }
    // What is read of one that is open may be old already.
    all_read &= with_data.iter().all(|member| member.server().is_some_and(|server| server.read_only));
    if !all_read {
        pass.operation = Some("the record is missing; every member's data is being read".to_owned());
        return Flow::Stop;
    }
    if let Some(named) = word {
        take_at_word(pass, named);
        return Flow::Stop;
    }
    // Any of them may have acknowledged what it has received.
    let mut all_applied = true;
    for member in with_data.iter().filter(|member| member.intent.candidate) {
        all_applied &= !catches_up(pass, *member);
    }
    if !all_applied {
        return Flow::Stop;
    }
    let received = with_data.iter().map(|member| held(*member)).fold(GtidPosition::default(), |a, b| a.furthest(&b));
    let candidates = std::iter::once(wanted)
        .chain(with_data.iter().copied().filter(|member| member.intent.candidate && member.name() != wanted.name()));
    for candidate in candidates {
        if lacks(pass, candidate, &with_data).is_empty() && applied(candidate).covers(&received) {
            start_epoch(pass, candidate);
            return Flow::Stop;
        }
    }
    // Servers that were stopped at different moments may differ by what is under way; nothing is, here.
    let members = lacks(pass, wanted, &with_data);
    pass.refuse(Refusal::HistoriesDiverge { members });
    pass.look_again_in(Duration::from_secs(5));
    Flow::Stop
}

/// What it has received is applied first: it would be gone when it opens. `true`: that is under way.
fn catches_up(pass: &mut Pass<'_>, member: Member<'_>) -> bool {
    let still = member.seen.map_or(Duration::ZERO, |seen| pass.now.since(seen.memory.still_since));
    // Nothing more comes; and what its agent keeps aside of former relay logs is told when both threads are stopped.
    if member.replication().is_some_and(|replication| replication.io != ThreadState::No) {
        pass.operation = Some(format!("{} stops receiving", member.name()));
        pass.look_again_in(Duration::from_millis(200));
        if pass.can_order(member) {
            pass.order_patiently(member, Action::Fence);
        }
        return true;
    }
    let applies = member.replication().is_some_and(|replication| replication.sql == ThreadState::Yes);
    let behind = !applied(member).covers(&held(member));
    let moves = applies && behind && still < pass.intent.failover.sync_timeout;
    let replays =
        member.has_relay_log(&pass.record.history) && !member.seen.is_some_and(|seen| seen.memory.failed(Kind::Replay));
    if !replays && !moves {
        return false;
    }
    pass.operation = Some(format!("{} applies what it had received", member.name()));
    pass.look_again_in(Duration::from_millis(200));
    if replays && pass.can_order(member) {
        pass.order_patiently(member, Action::ReplayRelayLog);
    }
    true
}

/// The member that a person has named becomes primary, with everything that it had received, as far as that can be applied:
/// what may be lost was accepted with the word.
pub(super) fn take_at_word(pass: &mut Pass<'_>, named: Member<'_>) {
    if catches_up(pass, named) || !pass.can_order(named) {
        return;
    }
    let unread = |pass: &Pass<'_>, member: Member<'_>| {
        let fails = matches!(member.phase(), Some(Phase::Failed { .. }));
        member.data_id().is_some() && member.server().is_none() && !fails && !pass.is_holder(member)
    };
    if let Some(unread) = pass.members().find(|member| unread(pass, *member)) {
        pass.operation = Some(format!("{} is read before {} takes over", unread.name(), named.name()));
        return;
    }
    let others = ahead_of_its_writer(pass, named);
    if !others.is_empty() {
        pass.refuse(Refusal::NumbersUsedTwice { member: named.name().clone(), others });
        return;
    }
    let (applied, held) = (applied(named), held(named));
    if !applied.covers(&held) {
        let message = format!("{} has received up to {held} and could apply up to {applied} only", named.name());
        pass.warn("TakenAsItIs", named, message);
    }
    start_epoch(pass, named);
    pass.next.heeded = pass.intent.use_data_of.clone();
    pass.warn(
        "DataNamed",
        named,
        format!("a person has named the data of {}: it takes over; the annotation can be removed", named.name()),
    );
}

/// A word that was taken back, or given anew with another name, may be heeded again.
pub(super) fn forget_word(pass: &mut Pass<'_>) -> Flow {
    if pass.record.heeded != pass.intent.use_data_of {
        pass.next.heeded = None;
    }
    Flow::Next
}

/// Who has transactions that `writer` wrote once and does not have any more?
fn ahead_of_its_writer(pass: &Pass<'_>, writer: Member<'_>) -> Vec<(MemberName, Vec<Errant>)> {
    let Some(own) = writer.server().map(History::of) else { return Vec::new() };
    let others = pass.members().filter(|member| member.name() != writer.name());
    others
        .filter_map(|member| {
            let mut history = History::of(member.server()?);
            held(member).0.into_values().for_each(|gtid| history.state.add(gtid));
            let mut ahead = own.errant_of(&history, &pass.record.history);
            ahead.retain(|errant| errant.server_id == writer.intent.server_id);
            (!ahead.is_empty()).then(|| (member.name().clone(), ahead))
        })
        .collect()
}

/// The member with data that a person has named, where that has not been heeded yet.
pub(super) fn word<'a>(pass: &Pass<'a>) -> Option<Member<'a>> {
    let named = pass.intent.use_data_of.as_ref().filter(|named| pass.record.heeded.as_ref() != Some(named))?;
    pass.member(named).filter(|member| member.data_id().is_some())
}

fn lacks(pass: &Pass<'_>, candidate: Member<'_>, all: &[Member<'_>]) -> Vec<(MemberName, Vec<Errant>)> {
    let Some(own) = candidate.server().map(History::of) else { return Vec::new() };
    all.iter()
        .filter(|member| member.name() != candidate.name())
        .filter_map(|member| {
            let errant = own.errant_of(&History::of(member.server()?), &pass.record.history);
            (!errant.is_empty()).then(|| (member.name().clone(), errant))
        })
        .collect()
}
