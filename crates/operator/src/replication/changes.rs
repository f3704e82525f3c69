//! `PrimaryChange` objects: one for each change of primary that is over, written aside.

use std::collections::BTreeMap;
use std::time::Duration;

use api::primary_change::{ChangeCause, ChangeMember, ChangeOutcome, ChangePhase, ChangeType};
use api::{PrimaryChange, names};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, ResourceExt as _};
use tokio::sync::mpsc;
use topology::plan::{Judged, Outcome, Phase};
use topology::{Change, Course, Time};

use super::FIELD_MANAGER;

/// So many are kept of a topology.
const KEPT: usize = 50;
/// ... and at least so many that were done: what the record knows of is told by whoever finds no object of it.
const DONE_KEPT: usize = 3;
/// An API server that does not answer in this time is asked again.
const LIMIT: Duration = Duration::from_secs(10);
/// The pause after a write that failed.
const PAUSE: Duration = Duration::from_secs(2);

/// Writes them down, in order, until the runner is gone and all are written.
pub(super) async fn write_all(
    client: kube::Client,
    namespace: String,
    root: String,
    mut changes: mpsc::UnboundedReceiver<PrimaryChange>,
) {
    let api: Api<PrimaryChange> = Api::namespaced(client, &namespace);
    while let Some(change) = changes.recv().await {
        let name = change.name_any();
        let post = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        loop {
            let error = match tokio::time::timeout(LIMIT, api.create(&post, &change)).await {
                Ok(Ok(_)) => break,
                Ok(Err(kube::Error::Api(status))) if status.code == 409 => match is_written(&api, &change).await {
                    Ok(true) => break,
                    Ok(false) => {
                        tracing::error!(
                            namespace,
                            change = name,
                            "a change was not written down: another object has its name"
                        );
                        break;
                    }
                    Err(error) => error,
                },
                // It will never be taken: the namespace is being deleted, or the kind is not there.
                Ok(Err(error)) if is_final(&error) => {
                    tracing::error!(namespace, change = name, %error, "a change was not written down");
                    break;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            tracing::warn!(namespace, change = name, error, "a change is not written down yet");
            tokio::time::sleep(PAUSE).await;
        }
        if let Err(error) = forget_old(&api, &root).await {
            tracing::warn!(namespace, topology = root, error, "old changes were not removed");
        }
    }
}

/// Is the object of that name this very change? (A write whose answer was lost; or two controllers, one of them late.)
async fn is_written(api: &Api<PrimaryChange>, change: &PrimaryChange) -> Result<bool, String> {
    let found =
        tokio::time::timeout(LIMIT, api.get_opt(&change.name_any())).await.map_err(|_| "no answer".to_owned())?;
    let same = |found: PrimaryChange| {
        let owner = |change: &PrimaryChange| change.owner_references().first().map(|owner| owner.uid.clone());
        (found.epoch, found.outcome, owner(&found)) == (change.epoch, change.outcome, owner(change))
    };
    // Removed since: then somebody did not want it.
    Ok(found.map_err(|error| error.to_string())?.is_none_or(same))
}

/// What a controller that starts must know of earlier changes: what has been told, and what was too much already. Fails where the API
/// server cannot say.
pub(super) async fn recall(api: &Api<PrimaryChange>, root: &str, uid: &str, now: Time) -> Result<Course, String> {
    let found = tokio::time::timeout(LIMIT, api.list(&of_topology(root))).await.map_err(|_| "no answer".to_owned())?;
    match found {
        Ok(list) => Ok(known(&list.items, uid, now)),
        Err(error) if is_final(&error) => {
            // The kind is not there, or of another version. The record still knows the last changes.
            tracing::warn!(topology = root, %error, "earlier changes of primary cannot be read");
            Ok(Course::default())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Asking again would not help.
fn is_final(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => (400..500).contains(&status.code) && status.code != 429,
        kube::Error::SerdeError(_) => true,
        _ => false,
    }
}

fn of_topology(root: &str) -> ListParams {
    ListParams::default().labels(&format!("{}={root}", names::TOPOLOGY_LABEL))
}

fn known(all: &[PrimaryChange], uid: &str, now: Time) -> Course {
    let own = |change: &&PrimaryChange| change.owner_references().iter().any(|owner| owner.uid == uid);
    let mut epochs = BTreeMap::new();
    for change in all.iter().filter(own).filter(|change| change.outcome == ChangeOutcome::Done) {
        epochs.insert(u64::try_from(change.epoch).unwrap_or(0), change);
    }
    let mut course = Course::default();
    for (epoch, change) in epochs {
        // Another controller's clock may have been ahead.
        let swapped = swapped(change).min(now);
        (course.told, course.counted) = (epoch, epoch);
        course.changed = course.changed.max(Some(swapped));
        if change.type_ == ChangeType::Failover {
            course.failovers.push(swapped);
        }
    }
    course
}

/// When the record named the new primary, by the phases up to there.
fn swapped(change: &PrimaryChange) -> Time {
    let chosen = change.phases.iter().position(|phase| phase.name == Phase::Chosen.to_string());
    let milliseconds = match chosen {
        Some(chosen) => {
            let took: i64 = change.phases[..=chosen].iter().map(|phase| phase.milliseconds).sum();
            change.began.0.as_millisecond().saturating_add(took)
        }
        None => change.ended.0.as_millisecond(),
    };
    Time(u64::try_from(milliseconds).unwrap_or(0))
}

/// Those beyond the newest [`KEPT`], but for the last [`DONE_KEPT`] that were done.
fn too_old(mut all: Vec<PrimaryChange>) -> impl Iterator<Item = PrimaryChange> {
    all.sort_by_key(|change| std::cmp::Reverse(change.began.0));
    let mut done = 0;
    all.into_iter().enumerate().filter_map(move |(n, change)| {
        done += usize::from(change.outcome == ChangeOutcome::Done);
        let kept = n < KEPT || change.outcome == ChangeOutcome::Done && done <= DONE_KEPT;
        (!kept).then_some(change)
    })
}

async fn forget_old(api: &Api<PrimaryChange>, root: &str) -> Result<(), String> {
    let list = tokio::time::timeout(LIMIT, api.list(&of_topology(root))).await.map_err(|_| "no answer".to_owned())?;
    for old in too_old(list.map_err(|error| error.to_string())?.items) {
        let removed = tokio::time::timeout(LIMIT, api.delete(&old.name_any(), &DeleteParams::default())).await;
        match removed.map_err(|_| "no answer".to_owned())? {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(())
}

/// A change as it is told.
pub(super) fn told(change: &Change, root: &str, owner: OwnerReference) -> PrimaryChange {
    let Change {
        switchover,
        outcome,
        cause,
        epoch,
        from,
        from_pod: _,
        to,
        members,
        phases,
        began,
        ended,
        closed_for,
        lost,
    } = change;
    // One name for one change, however often it is written; an attempt that was not done may have begun at the same moment.
    let moment_of = if *outcome == Outcome::Done { *began } else { *ended };
    let (outcome, not_done) = match outcome {
        Outcome::Done => (ChangeOutcome::Done, None),
        Outcome::RolledBack { why } if refused(change) => (ChangeOutcome::Refused, Some(why.clone())),
        Outcome::RolledBack { why } => (ChangeOutcome::RolledBack, Some(why.clone())),
    };
    let mut before = *began;
    let phases = phases
        .iter()
        .map(|(phase, at)| {
            let took = at.since(before);
            before = before.max(*at);
            ChangePhase { name: phase.to_string(), took: human(took), milliseconds: milliseconds(took) }
        })
        .collect();
    PrimaryChange {
        types: Some(PrimaryChange::type_meta()),
        metadata: ObjectMeta {
            name: Some(format!("{root}-{epoch}-{}", short(moment_of.0))),
            labels: Some(names::labels(root, root)),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        type_: if *switchover { ChangeType::Switchover } else { ChangeType::Failover },
        outcome,
        from: from.as_ref().map(|member| member.0.clone()),
        to: to.as_ref().map(|member| member.0.clone()),
        epoch: i64::try_from(*epoch).unwrap_or(i64::MAX),
        cause: ChangeCause {
            reason: cause.reason.clone().into_owned(),
            message: cause.message.clone(),
            request: cause.request.clone(),
            not_done,
        },
        message: sentence(change),
        writes_down: closed_for.map(human),
        lost: lost.clone(),
        phases,
        members: members.iter().map(member).collect(),
        began: moment(*began),
        ended: moment(*ended),
    }
}

fn member(judged: &Judged) -> ChangeMember {
    let Judged { name, position, fenced, verdict } = judged;
    ChangeMember {
        name: name.0.clone(),
        verdict: verdict.reason().to_owned(),
        reason: verdict.to_string(),
        position: (!position.0.is_empty()).then(|| position.to_string()),
        fenced: fenced.map(|how| format!("{how:?}")),
    }
}

/// It came to nothing before anything was touched.
pub(super) fn refused(change: &Change) -> bool {
    change.outcome != Outcome::Done && change.switchover && change.phases.is_empty() && change.began == change.ended
}

/// All of it in a sentence.
pub(super) fn sentence(change: &Change) -> String {
    let name = |member: &Option<topology::MemberName>| member.as_ref().map_or("nobody", |name| &name.0).to_owned();
    let (from, to) = (name(&change.from), name(&change.to));
    let kind = if change.switchover { "switchover" } else { "failover" };
    let cause = format!("{}: {}", change.cause.reason, change.cause.message);
    let what = match &change.outcome {
        Outcome::Done => format!("{to} is the primary in place of {from} ({cause})"),
        Outcome::RolledBack { why } if refused(change) => {
            format!("no switchover from {from} ({cause}): {why}")
        }
        Outcome::RolledBack { why } => {
            format!("the {kind} from {from} to {to} ({cause}) was rolled back: {why}; {from} has the writes back")
        }
    };
    let down = change.closed_for.map(|down| format!("; writes were down for {}", human(down))).unwrap_or_default();
    let lost = match (change.lost.is_empty(), &change.outcome) {
        (true, Outcome::Done) => "; nothing was lost".to_owned(),
        (true, Outcome::RolledBack { .. }) => String::new(),
        (false, _) => format!("; lost: {}", change.lost.join("; ")),
    };
    format!("{what}{down}{lost}")
}

/// A duration as people read it: `412ms`, `1.35s`, `12.3s`, `2m5s`.
pub(super) fn human(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    match milliseconds {
        0..1000 => format!("{milliseconds}ms"),
        1000..10_000 => format!("{:.2}s", duration.as_secs_f64()),
        10_000..60_000 => format!("{:.1}s", duration.as_secs_f64()),
        _ => format!("{}m{}s", duration.as_secs() / 60, duration.as_secs() % 60),
    }
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A moment of the controller's clock, which starts at the wall's.
fn moment(time: Time) -> MicroTime {
    let milliseconds = i64::try_from(time.0).unwrap_or(i64::MAX);
    MicroTime(Timestamp::from_millisecond(milliseconds).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// A number in few characters that a name may have.
fn short(mut number: u64) -> String {
    let digits = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut text = Vec::new();
    while number > 0 || text.is_empty() {
        text.push(digits[usize::try_from(number % 36).unwrap_or(0)]);
        number /= 36;
    }
    text.reverse();
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use topology::MemberName;
    use topology::plan::{Cause, Verdict};

    fn change() -> Change {
        Change {
            switchover: false,
            outcome: Outcome::Done,
            cause: Cause { reason: "ServerExited".into(), message: "signal 9".into(), request: None },
            epoch: 2,
            from: Some(MemberName("db-0".into())),
            from_pod: Some("pod-0".into()),
            to: Some(MemberName("db-1".into())),
            members: vec![Judged {
                name: MemberName("db-1".into()),
                position: "0-1-7".parse().expect("a position"),
                fenced: Some(topology::member::Fenced::Stopped),
                verdict: Verdict::Chosen,
            }],
            phases: vec![(Phase::Fenced, Time(1_020)), (Phase::Chosen, Time(1_050)), (Phase::Promoted, Time(1_400))],
            began: Time(1_000),
            ended: Time(1_400),
            closed_for: Some(Duration::from_millis(1412)),
            lost: Vec::new(),
        }
    }

    #[test]
    fn a_change_is_told_whole() {
        let owner = OwnerReference { name: "db".into(), kind: "MariaDB".into(), ..OwnerReference::default() };
        let told = told(&change(), "db", owner);
        assert_eq!(told.metadata.name.as_deref(), Some("db-2-rs"));
        assert_eq!(told.phases.iter().map(|phase| phase.milliseconds).collect::<Vec<_>>(), [20, 30, 350]);
        assert_eq!(told.members[0].position.as_deref(), Some("0-1-7"));
        assert_eq!(told.members[0].fenced.as_deref(), Some("Stopped"));
        assert_eq!(
            told.message,
            "db-1 is the primary in place of db-0 (ServerExited: signal 9); writes were down for 1.41s; nothing was lost"
        );
        let rolled_back =
            Change { outcome: Outcome::RolledBack { why: "too slow".into() }, switchover: true, ..change() };
        assert!(sentence(&rolled_back).contains("was rolled back: too slow; db-0 has the writes back"));
    }

    #[test]
    fn what_a_controller_that_starts_must_know() {
        let of = |uid: &str, change: Change| {
            told(&change, "db", OwnerReference { uid: uid.into(), ..OwnerReference::default() })
        };
        let rolled_back = Outcome::RolledBack { why: "too slow".into() };
        let later = || Change { phases: vec![(Phase::Chosen, Time(8_000))], ended: Time(9_000), ..change() };
        let all = [
            of("u", Change { epoch: 3, switchover: true, ..later() }),
            of("u", change()),
            // Told once more, and late.
            of("u", Change { began: Time(900), ended: Time(9_000), ..change() }),
            of("u", Change { epoch: 4, switchover: true, outcome: rolled_back, ..later() }),
            // Of an object of that name which is gone.
            of("v", Change { epoch: 7, ..later() }),
        ];
        let course = known(&all, "u", Time(20_000));
        assert_eq!((course.told, course.changed, course.failovers), (3, Some(Time(8_000)), vec![Time(1_050)]));
        assert_eq!(known(&all, "u", Time(5_000)).changed, Some(Time(5_000)));
    }

    #[test]
    fn an_attempt_and_the_change_that_it_became_have_names_of_their_own() {
        let name = |outcome| told(&Change { outcome, ..change() }, "db", OwnerReference::default()).name_any();
        assert_ne!(name(Outcome::Done), name(Outcome::RolledBack { why: "too slow".into() }));
    }

    #[test]
    fn the_last_that_were_done_stay() {
        let of = |began: u64, outcome: Outcome| {
            let change = Change { began: Time(began), epoch: began, outcome, ..change() };
            told(&change, "db", OwnerReference::default())
        };
        let mut all: Vec<_> = (1..=5).map(|began| of(began, Outcome::Done)).collect();
        all.extend((11..=70).map(|began| of(began, Outcome::RolledBack { why: String::new() })));
        let gone: Vec<i64> = too_old(all).map(|change| change.epoch).collect();
        assert_eq!(gone, (11..=20).rev().chain([2, 1]).collect::<Vec<_>>());
    }

    #[test]
    fn durations() {
        let said = [0, 999, 1000, 9_994, 12_345, 125_000].map(|n| human(Duration::from_millis(n)));
        assert_eq!(said, ["0ms", "999ms", "1.00s", "9.99s", "12.3s", "2m5s"]);
    }
}
