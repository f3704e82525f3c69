//! `PrimaryChange` objects: one for each change of primary that is over, written aside.

use std::time::Duration;

use api::primary_change::{ChangeCause, ChangeMember, ChangeOutcome, ChangePhase, ChangeType};
use api::{PrimaryChange, names};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, ResourceExt as _};
use tokio::sync::mpsc;
use topology::plan::{Judged, Outcome};
use topology::{Change, Course, Time};

use super::FIELD_MANAGER;

/// So many are kept of a topology.
const KEPT: usize = 50;
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
                Ok(Err(kube::Error::Api(status))) if status.code == 409 => break,
                // It will never be taken: the namespace is being deleted, or the kind is not there.
                Ok(Err(kube::Error::Api(status))) if (400..500).contains(&status.code) && status.code != 429 => {
                    tracing::error!(namespace, change = name, error = status.message, "a change was not written down");
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

/// What a controller that starts must know of earlier changes: what has been told, and what was too much already.
pub(super) async fn recall(api: &Api<PrimaryChange>, root: &str, uid: &str, now: Time) -> Result<Course, String> {
    let of_topology = ListParams::default().labels(&format!("{}={root}", names::TOPOLOGY_LABEL));
    match tokio::time::timeout(LIMIT, api.list(&of_topology)).await.map_err(|_| "no answer".to_owned())? {
        Ok(list) => Ok(known(&list.items, uid, now)),
        // The kind is not there: nothing was ever told.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Course::default()),
        Err(error) => Err(error.to_string()),
    }
}

fn known(all: &[PrimaryChange], uid: &str, now: Time) -> Course {
    let own = |change: &&PrimaryChange| change.owner_references().iter().any(|owner| owner.uid == uid);
    let mut course = Course::default();
    for change in all.iter().filter(own).filter(|change| change.outcome == ChangeOutcome::Done) {
        // Another controller's clock may have been ahead.
        let ended = Time(u64::try_from(change.ended.0.as_millisecond()).unwrap_or(0)).min(now);
        course.told = course.told.max(u64::try_from(change.epoch).unwrap_or(0));
        course.changed = course.changed.max(Some(ended));
        if change.type_ == ChangeType::Failover {
            course.failovers.push(ended);
        }
    }
    course
}

async fn forget_old(api: &Api<PrimaryChange>, root: &str) -> Result<(), String> {
    let of_topology = ListParams::default().labels(&format!("{}={root}", names::TOPOLOGY_LABEL));
    let list = tokio::time::timeout(LIMIT, api.list(&of_topology)).await.map_err(|_| "no answer".to_owned())?;
    let mut all = list.map_err(|error| error.to_string())?.items;
    all.sort_by_key(|change| std::cmp::Reverse(change.began.0));
    for old in all.iter().skip(KEPT) {
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
    let Change { switchover, outcome, cause, epoch, from, to, members, phases, began, ended, closed_for, lost } =
        change;
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
            // One name for one change, however often it is written.
            name: Some(format!("{root}-{epoch}-{}", short(began.0))),
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
    use topology::plan::{Cause, Phase, Verdict};

    fn change() -> Change {
        Change {
            switchover: false,
            outcome: Outcome::Done,
            cause: Cause { reason: "ServerExited".into(), message: "signal 9".into(), request: None },
            epoch: 2,
            from: Some(MemberName("db-0".into())),
            to: Some(MemberName("db-1".into())),
            members: vec![Judged {
                name: MemberName("db-1".into()),
                position: "0-1-7".parse().expect("a position"),
                fenced: Some(topology::member::Fenced::Stopped),
                verdict: Verdict::Chosen,
            }],
            phases: vec![(Phase::Fenced, Time(1_020)), (Phase::Drained, Time(1_050)), (Phase::Promoted, Time(1_400))],
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
        let all = [
            of("u", Change { epoch: 3, switchover: true, ended: Time(9_000), ..change() }),
            of("u", change()),
            of("u", Change { epoch: 4, switchover: true, outcome: rolled_back, ended: Time(10_000), ..change() }),
            // Of an object of that name which is gone.
            of("v", Change { epoch: 7, ended: Time(9_500), ..change() }),
        ];
        let course = known(&all, "u", Time(20_000));
        assert_eq!((course.told, course.changed, course.failovers), (3, Some(Time(9_000)), vec![Time(1_400)]));
        assert_eq!(known(&all, "u", Time(5_000)).changed, Some(Time(5_000)));
    }

    #[test]
    fn durations() {
        let said = [0, 999, 1000, 9_994, 12_345, 125_000].map(|n| human(Duration::from_millis(n)));
        assert_eq!(said, ["0ms", "999ms", "1.00s", "9.99s", "12.3s", "2m5s"]);
    }
}
