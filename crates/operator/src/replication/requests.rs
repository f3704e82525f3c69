//! Requests for a switchover: read from the root's annotation, and what becomes of them.

use api::names;
use api::status::RequestStatus;
use serde::Deserialize;
use topology::decision::Decision;
use topology::intent::Request;
use topology::member::MemberName;
use topology::plan::{Outcome, PlanKind, SwitchStep};
use topology::{Change, Plan, Record};

use super::changes;

/// Reads the annotation `k8s.mariadb.com/switchover`: `ID`, `ID POD`, or JSON with `id`, `to` and `why`.
pub(super) fn parse(text: &str) -> Result<Request, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Json {
        id: String,
        to: Option<String>,
        why: Option<String>,
    }
    let text = text.trim();
    let Json { id, to, why } = if text.starts_with('{') {
        serde_json::from_str(text).map_err(|error| error.to_string())?
    } else {
        let mut words = text.split_whitespace().map(str::to_owned);
        let (id, to) = (words.next().unwrap_or_default(), words.next());
        if words.next().is_some() {
            return Err("more than an id and a pod".to_owned());
        }
        Json { id, to, why: None }
    };
    if id.is_empty() {
        return Err("there is no id in it".to_owned());
    }
    let why = why.unwrap_or_else(|| format!("the annotation {} asks for it", names::SWITCHOVER_ANNOTATION));
    Ok(Request { id, target: to.filter(|to| !to.is_empty()).map(MemberName), why })
}

/// What is known of requests.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// What became of the last one that is over.
    over: Option<RequestStatus>,
}

impl Requests {
    /// What is said of the request that is made now. `before`: what `.status` says.
    pub(super) fn status(
        &mut self,
        request: Option<&Result<Request, String>>,
        decision: &Decision,
        record: &Record,
        before: Option<&RequestStatus>,
    ) -> Option<RequestStatus> {
        let request = match request? {
            Ok(request) => request,
            Err(error) => {
                let message =
                    Some(format!("the annotation {} is not understood: {error}", names::SWITCHOVER_ANNOTATION));
                return Some(RequestStatus { id: String::new(), phase: "Refused".to_owned(), message });
            }
        };
        let of = |phase: &str, message: String| RequestStatus {
            id: request.id.clone(),
            phase: phase.to_owned(),
            message: Some(message).filter(|message| !message.is_empty()),
        };
        let mine = |cause: Option<&String>| cause == Some(&request.id);
        let answers = |change: &&Change| mine(change.cause.request.as_ref());
        if let Some(change @ Change { outcome, to, .. }) = decision.changes.iter().rfind(answers) {
            let to = to.as_ref().map(ToString::to_string).unwrap_or_default();
            self.over = Some(match outcome {
                Outcome::Done => of("Done", format!("{to} is the primary")),
                Outcome::RolledBack { why } if changes::refused(change) => of("Refused", why.clone()),
                Outcome::RolledBack { why } => of("RolledBack", why.clone()),
            });
        }
        let known = self.over.as_ref().or(before).filter(|over| over.id == request.id && is_final(&over.phase));
        if let Some(over) = known {
            return Some(over.clone());
        }
        if let Some(Plan { kind: PlanKind::Switchover { cause, target, step }, .. }) = &decision.course.plan
            && mine(cause.request.as_ref())
        {
            return Some(of("UnderWay", describe(step, target)));
        }
        if let Some(change) = &decision.course.finishing
            && mine(change.cause.request.as_ref())
        {
            let to = change.to.as_ref().map(ToString::to_string).unwrap_or_default();
            return Some(of("UnderWay", format!("{to} is chosen and opens for writes")));
        }
        // Answered by an operator that did not live to tell. What it did, the record tells.
        if record.answered.contains(&request.id) && decision.course.plan.is_none() {
            let done = record.begun.iter().find(|begun| mine(begun.cause.request.as_ref()));
            return Some(match done {
                Some(begun) => of("Done", format!("{} is the primary", begun.to)),
                None => of(
                    "Refused",
                    "it was not carried out, or long ago: whoever looked at it has ended since, or it was made before the record. Ask again"
                        .to_owned(),
                ),
            });
        }
        Some(of("Pending", String::new()))
    }
}

/// It stays so.
fn is_final(phase: &str) -> bool {
    matches!(phase, "Done" | "RolledBack" | "Refused")
}

fn describe(step: &SwitchStep, target: &MemberName) -> String {
    match step {
        SwitchStep::Close => "the old primary goes read-only".to_owned(),
        SwitchStep::Reach(position) => format!("{target} applies everything up to {position}"),
        SwitchStep::LockOut(position) => {
            format!("all others are locked out on the old primary, {target} has reached {position}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations() {
        let request = |id: &str, to: Option<&str>| (id.to_owned(), to.map(|to| MemberName(to.to_owned())));
        let read = |text: &str| parse(text).map(|Request { id, target, why: _ }| (id, target));
        assert_eq!(read("now"), Ok(request("now", None)));
        assert_eq!(read(" 17 db-1 "), Ok(request("17", Some("db-1"))));
        assert_eq!(read(r#"{"id": "a", "to": "db-2", "why": "w"}"#), Ok(request("a", Some("db-2"))));
        for wrong in ["", "{}", r#"{"id": ""}"#, "a b c", r#"{"id": "a", "target": "db-1"}"#] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
