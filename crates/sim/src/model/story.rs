//! A history in words, one step a line.

use super::completions::Completion;
use super::decisions::Decision;
use super::state::{NOBODY, Operator, Order, Plan, State, Step, members};
use super::steps::Action;

/// Tells a path.
pub(super) fn tell(path: &[(State, Option<Action>)]) -> Vec<String> {
    path.windows(2).filter_map(|pair| Some(step(&pair[0].0, &pair[1].0, pair[0].1?))).collect()
}

fn operator(n: u8) -> &'static str {
    ["A", "B"][usize::from(n)]
}

fn names(set: u8) -> String {
    let names: Vec<String> = State::of(set).map(|n| format!("db-{n}")).collect();
    if names.is_empty() { "nobody".to_owned() } else { names.join(" and ") }
}

fn transactions(set: u8) -> String {
    let names: Vec<String> = (0..8).filter(|n| set & (1 << n) != 0).map(|n| format!("t{}", n + 1)).collect();
    names.join(" and ")
}

fn step(before: &State, after: &State, action: Action) -> String {
    let mut line = match action {
        Action::Write(n) => {
            let member = before.member(n);
            let by = if member.open { "a client" } else { "root" };
            let waits = if member.waits { "waits for an acknowledgement" } else { "returns at once" };
            format!("{by} writes {} on db-{n}, and {waits}", transactions(1 << before.written))
        }
        Action::Receive(n) => {
            let transaction = after.member(n).relay & !before.member(n).relay;
            let source = before.member(n).source;
            let acknowledges = if before.member(source).source == NOBODY { ", and acknowledges it" } else { "" };
            format!("db-{n} receives {} from db-{source}{acknowledges}", transactions(transaction))
        }
        Action::Apply(n) => format!("db-{n} applies {}", transactions(before.member(n).relay)),
        Action::Crash(n) => format!("db-{n} dies and starts again, read-only and receiving nothing"),
        Action::StepDown(n) => format!("db-{n} learns that it is no primary any more, and closes"),
        Action::Decide { operator: who, decision } => decided(before, operator(who), decision),
        Action::Carry { operator: who, member } => carried(before, after, who, member),
        Action::Complete { operator: who, completion } => completed(before, who, completion),
    };
    if before.record != after.record && !matches!(action, Action::Carry { .. } | Action::Write(_)) {
        let solo = if after.record.solo { ", solo" } else { "" };
        line += &format!(" [holder db-{}, ackers {}{solo}]", after.record.holder, names(after.record.ackers));
    }
    line
}

fn decided(before: &State, who: &str, decision: Decision) -> String {
    let what = match decision {
        Decision::Expel(n) => format!("db-{n} shall be expelled"),
        Decision::Admit(n) => format!("db-{n} is admitted"),
        Decision::WaitsOn => "commits shall wait again".to_owned(),
        Decision::WaitsOff => "an acknowledgement seems lost, commits shall not wait".to_owned(),
        Decision::Prove => "a marker shall clear solo".to_owned(),
        Decision::FailOver => format!("db-{} counts as dead, a failover begins", before.record.holder),
        Decision::SwitchOver(to) => format!("a switchover to db-{to} begins"),
        Decision::RollBack => "the switchover is rolled back".to_owned(),
        Decision::Reopen => format!("db-{} shall open again", before.record.holder),
        Decision::Resume => format!("(db-{}'s agent) it shall open again, with the locks it has", before.record.holder),
        Decision::LockOut => "whoever is let in and not recorded shall be locked out".to_owned(),
        Decision::Start(n) => format!("db-{n} shall receive again"),
        Decision::Follow(n) => format!("db-{n} shall follow db-{}", before.record.holder),
    };
    format!("operator {who} decides: {what}")
}

fn carried(before: &State, after: &State, who: u8, n: u8) -> String {
    let Operator { plan, primary, ackers, .. } = before.operators[usize::from(who)];
    let what = match plan {
        Plan::Nothing => "does nothing".to_owned(),
        Plan::Admit(member) | Plan::Order(Order::Unlock(member)) => format!("lets db-{member} in"),
        Plan::Order(Order::Wait(true)) => "lets commits wait".to_owned(),
        Plan::Order(Order::Wait(false)) => "lets commits wait no more".to_owned(),
        Plan::Order(Order::Open) => format!("opens for writes, and lets {} in", names(ackers)),
        Plan::Order(Order::Lock(who)) => format!("locks {} out", names(who)),
        Plan::Order(Order::Resume { wait }) => {
            format!("opens for writes as it is, commits {}", if wait { "wait" } else { "do not wait" })
        }
        Plan::Order(Order::Start(_)) => "starts to receive".to_owned(),
        Plan::Order(Order::Follow { copy: false, .. }) => format!("follows db-{primary}"),
        Plan::Order(Order::Follow { copy: true, .. }) => format!("becomes a copy of db-{primary}, and follows it"),
        Plan::Expel { member, step: Step::Begun } => locks(before, after, n, &format!("db-{member}")),
        Plan::Expel { .. } | Plan::Prove { .. } => "commits a marker".to_owned(),
        Plan::FailOver => "is fenced".to_owned(),
        Plan::SwitchOver { step: Step::Begun, .. } => "closes".to_owned(),
        Plan::SwitchOver { step: Step::At(_), .. } => locks(before, after, n, "everybody"),
        Plan::SwitchOver { step: Step::Locked(_), .. } => {
            format!("has more than was read, and lets {} in once more", names(ackers))
        }
    };
    format!("as {} had ordered, db-{n} {what}", operator(who))
}

fn locks(before: &State, after: &State, n: u8, whom: &str) -> String {
    if after.member(n).locked == before.member(n).locked {
        format!("locks nobody out, not even {whom}")
    } else if after.member(n).lingering != 0 {
        format!("locks {whom} out, and kills no connections")
    } else {
        format!("locks {whom} out")
    }
}

fn completed(before: &State, who: u8, completion: Completion) -> String {
    let plan = before.operators[usize::from(who)].plan;
    let what = match (completion, plan) {
        (Completion::Admitted, _) => "records the admission".to_owned(),
        (Completion::Expelled, _) => "records the expulsion".to_owned(),
        (Completion::Alone, _) => "records the expulsion, nobody holds a marker".to_owned(),
        (Completion::Proven, _) => "clears solo".to_owned(),
        (Completion::Promoted { target: to, .. }, Plan::FailOver) => {
            let held: Vec<String> = members()
                .filter(|n| before.record.ackers & (1 << n) != 0)
                .map(|n| format!("db-{n} {{{}}}", transactions(before.member(n).held())))
                .collect();
            format!("has read {}, and takes db-{to}", held.join(", "))
        }
        (Completion::Promoted { target: to, .. }, _) => format!("finds db-{to} equal, and takes it"),
    };
    format!("operator {} {what}", operator(who))
}
