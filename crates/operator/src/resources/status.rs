//! What this loop says in `.status`.

use api::status::{MariaDBStatus, condition};
use api::{MariaDB, Mistake, Resolved, mycnf, names, unsupported};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Event, EventType};
use kube::{Api, Resource as _, ResourceExt as _};
use serde_json::json;

use super::reconcile::Outcome;
use super::roll::{is_ready, pods_of};
use super::{Trouble, Worker, call};
use crate::Context;

/// What the replication loop says of a member whose server refuses its options (`topology::decide`).
const REFUSES: &str = "refuses its configuration";
/// Longest text of a condition.
const LONGEST: usize = 2000;

/// A condition to be.
struct Said {
    kind: &'static str,
    status: bool,
    reason: String,
    message: String,
}

fn say(kind: &'static str, status: bool, reason: &str, message: impl Into<String>) -> Said {
    Said { kind, status, reason: reason.to_owned(), message: message.into() }
}

/// Writes what differs from what is there, and publishes what people should hear of.
pub(super) async fn write(worker: &mut Worker, object: &MariaDB, outcome: &Outcome) -> Result<(), Trouble> {
    let context = worker.context.clone();
    let context = &context;
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let pods: Vec<_> = pods_of(context, &namespace, &name).into_iter().map(|(_, pod)| pod).collect();
    let ready = pods.iter().filter(|pod| is_ready(pod)).count();
    let wanted = object.spec.replicas.unwrap_or(1).max(0) as usize;
    let newest = worker.written.as_ref().filter(|written| newer(written, object)).unwrap_or(object);
    let before = newest.status.clone().unwrap_or_default();

    let said = [
        readiness(object, outcome, &pods, ready, wanted),
        validity(&before, outcome),
        updated(outcome, pods.len(), wanted),
        unsupported_fields(object, outcome.behind.as_deref()),
    ];
    let now = Timestamp::now();
    let number = |n: usize| i32::try_from(n).ok();
    let selector: Vec<String> = names::selector(&name).iter().map(|(key, value)| format!("{key}={value}")).collect();
    let status = MariaDBStatus {
        conditions: said.iter().map(|said| made(said, &before, object.metadata.generation, now)).collect(),
        observed_generation: object.metadata.generation,
        replicas: number(pods.len()),
        ready_replicas: number(ready),
        replicas_text: Some(format!("{ready}/{wanted}")),
        selector: Some(selector.join(",")),
        ..MariaDBStatus::default()
    };
    if same(&status, &before) {
        return Ok(());
    }
    for said in &said {
        if worth_an_event(said, &before) {
            publish(context, object, said).await;
        }
    }
    let api: Api<MariaDB> = Api::namespaced(context.client.clone(), &namespace);
    let body = json!({"apiVersion": MariaDB::api_version(&()), "kind": MariaDB::kind(&()),
        "metadata": {"name": name}, "status": status});
    let params = PatchParams::apply(names::RESOURCES_MANAGER).force();
    match call(|| format!("write the status of {name}"), api.patch_status(&name, &params, &Patch::Apply(&body))).await {
        Ok(mut written) => {
            written.metadata.managed_fields = None;
            worker.written = Some(written);
            Ok(())
        }
        // It is gone.
        Err(Trouble::Api { source, .. }) if matches!(&*source, kube::Error::Api(status) if status.code == 404) => {
            Ok(())
        }
        Err(trouble) => Err(trouble),
    }
}

/// Versions are opaque, but for being numbers that grow.
fn newer(written: &MariaDB, cached: &MariaDB) -> bool {
    let version = |object: &MariaDB| object.resource_version().and_then(|version| version.parse::<u64>().ok());
    written.uid() == cached.uid() && version(written) > version(cached)
}

fn readiness(object: &MariaDB, outcome: &Outcome, pods: &[std::sync::Arc<Pod>], ready: usize, wanted: usize) -> Said {
    let no = |reason: &str, message: String| say(condition::READY, false, reason, message);
    match (&outcome.resolved, &outcome.result) {
        (Err(mistakes), _) => return no("ConfigInvalid", list(mistakes)),
        // Members that work go on working: `Updated` says what is in the way of a change.
        (_, Err(trouble)) if wanted == 0 || ready < wanted => return no(trouble.reason(), trouble.to_string()),
        // Members that work are ready, whoever keeps hands off; `Updated` says that nothing is changed.
        (Ok(resolved), _) if resolved.suspend && (wanted == 0 || ready < wanted) => {
            return no(
                "Suspended",
                format!("spec.suspend is true: nothing is changed; {ready} of {wanted} members are ready"),
            );
        }
        _ => {}
    }
    if wanted == 0 {
        let message = if pods.is_empty() { "scaled to 0; the volumes are kept" } else { "being scaled to 0" };
        return no("Stopped", message.into());
    }
    if ready >= wanted {
        let message =
            if wanted == 1 { "the member is ready".into() } else { format!("all {wanted} members are ready") };
        return say(condition::READY, true, "Ready", message);
    }
    let stuck: Vec<(String, String)> = pods.iter().filter(|pod| !is_ready(pod)).filter_map(|pod| stuck(pod)).collect();
    let mut parts: Vec<String> = stuck.iter().map(|(_, text)| text.clone()).collect();
    let health = object.status.iter().flat_map(|status| &status.conditions);
    parts.extend(
        health
            .filter(|known| known.type_ == condition::REPLICATION_HEALTHY && known.status == "False")
            .map(|known| known.message.clone()),
    );
    let reason = match stuck.first() {
        Some((reason, _)) => reason.clone(),
        None if ready == 0 => "Starting".to_owned(),
        None => "MembersNotReady".to_owned(),
    };
    let mut message = format!("{ready} of {wanted} members are ready");
    if !parts.is_empty() {
        message = format!("{message}; {}", parts.join("; "));
    }
    no(&reason, message)
}

/// Why a pod does not get on: reason and text.
fn stuck(pod: &Pod) -> Option<(String, String)> {
    let name = pod.name_any();
    let status = pod.status.as_ref()?;
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    for container in containers {
        let Some(waiting) = container.state.as_ref().and_then(|state| state.waiting.as_ref()) else { continue };
        let reason = waiting.reason.clone().unwrap_or_default();
        if matches!(reason.as_str(), "" | "PodInitializing" | "ContainerCreating") {
            continue;
        }
        let more = waiting.message.as_deref().map(|message| format!(": {message}")).unwrap_or_default();
        return Some((reason.clone(), format!("{name}: {reason} of {}{more}", container.image)));
    }
    let unscheduled = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
    let reason = unscheduled.reason.clone().unwrap_or_else(|| "Unschedulable".to_owned());
    Some((reason, format!("{name}: {}", unscheduled.message.as_deref().unwrap_or("no node for it"))))
}

fn list(mistakes: &[Mistake]) -> String {
    mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn validity(before: &MariaDBStatus, outcome: &Outcome) -> Said {
    let no = |reason: &str, message: String| say(condition::CONFIG_VALID, false, reason, message);
    let resolved: &Resolved = match &outcome.resolved {
        Err(mistakes) => return no("Invalid", list(mistakes)),
        Ok(resolved) => resolved,
    };
    let refused = before
        .replication
        .iter()
        .flat_map(|replication| &replication.members)
        .filter(|member| names::ordinal(&resolved.name, &member.name).is_some())
        .find_map(|member| member.last_error.as_deref().filter(|error| error.contains(REFUSES)));
    if let Some(refused) = refused {
        let own_lines = resolved.my_cnf.as_deref().map_or(0, |own| own.lines().count() as u32);
        let at = place(outcome.user_cnf.as_deref().unwrap_or_default(), own_lines, refused);
        return no("RefusedByServer", format!("{at}{refused}"));
    }
    if resolved.warnings.is_empty() {
        return say(condition::CONFIG_VALID, true, "Valid", "");
    }
    say(condition::CONFIG_VALID, true, "ValidWithWarnings", list(&resolved.warnings))
}

/// Where the option that a message names stands in the user's `my.cnf`.
fn place(user_cnf: &str, own_lines: u32, message: &str) -> String {
    let normal = |text: &str| text.to_lowercase().replace('-', "_");
    let message = normal(message);
    // The longest name first: one may be part of another.
    let mut options = mycnf::options(user_cnf);
    options.sort_by_key(|option| std::cmp::Reverse(option.name.len()));
    match options.iter().find(|option| message.contains(&normal(&option.name))) {
        Some(option) => format!("{}: ", api::resolve::place(own_lines, option)),
        None => String::new(),
    }
}

fn updated(outcome: &Outcome, pods: usize, wanted: usize) -> Said {
    let no = |reason: &str, message: String| say(condition::UPDATED, false, reason, message);
    match (&outcome.resolved, &outcome.result, &outcome.updating) {
        (Err(_), ..) => no("ConfigInvalid", "the spec has mistakes; what runs is left as it is".into()),
        (_, Err(trouble), _) => no(trouble.reason(), trouble.to_string()),
        (Ok(resolved), ..) if resolved.suspend => no("Suspended", "spec.suspend is true: nothing is changed".into()),
        (_, _, Some((reason, message))) => no(reason, message.clone()),
        _ if pods != wanted => no("Scaling", format!("{pods} pods of {wanted}")),
        _ => say(condition::UPDATED, true, "Updated", "all pods run what the spec says"),
    }
}

fn unsupported_fields(object: &MariaDB, behind: Option<&str>) -> Said {
    let mut fields = unsupported::unsupported(&object.spec);
    if let Some(root) = behind {
        fields.push(format!(
            "spec.replication.replica.primaryName (a cascade: members follow the primary of {root} itself)"
        ));
    }
    if fields.is_empty() {
        return say(condition::UNSUPPORTED_FIELD, false, "None", "");
    }
    say(
        condition::UNSUPPORTED_FIELD,
        true,
        "NotBuiltYet",
        format!("accepted, but without effect in this version: {}", fields.join(", ")),
    )
}

fn made(said: &Said, before: &MariaDBStatus, generation: Option<i64>, now: Timestamp) -> Condition {
    let status = if said.status { "True" } else { "False" };
    let since = before.conditions.iter().find(|known| known.type_ == said.kind && known.status == status);
    let mut message: String = said.message.chars().take(LONGEST).collect();
    if message.len() < said.message.len() {
        message.push_str("...");
    }
    Condition {
        type_: said.kind.to_owned(),
        status: status.to_owned(),
        reason: said.reason.clone(),
        message,
        observed_generation: generation,
        // Times in `.status` have whole seconds.
        last_transition_time: since.map_or_else(
            || Time(Timestamp::from_second(now.as_second()).unwrap_or(now)),
            |known| known.last_transition_time.clone(),
        ),
    }
}

/// The fields of this loop are as they are already.
fn same(status: &MariaDBStatus, before: &MariaDBStatus) -> bool {
    status.observed_generation == before.observed_generation
        && status.replicas == before.replicas
        && status.ready_replicas == before.ready_replicas
        && status.replicas_text == before.replicas_text
        && status.selector == before.selector
        && status.conditions.iter().all(|condition| before.conditions.contains(condition))
}

/// Problems and warnings, when they are new.
fn worth_an_event(said: &Said, before: &MariaDBStatus) -> bool {
    let known = before.conditions.iter().find(|known| known.type_ == said.kind);
    let problem = match said.kind {
        condition::READY => {
            // (The root makes its CA a moment later.)
            let usual = ["Starting", "MembersNotReady", "Stopped", "CertificateNotReady"];
            !said.status && !usual.contains(&said.reason.as_str())
        }
        condition::CONFIG_VALID => !said.message.is_empty(),
        condition::UNSUPPORTED_FIELD => said.status,
        _ => matches!(
            said.reason.as_str(),
            "ScaleDownRefused" | "StorageCannotShrink" | "StorageCannotChange" | "VolumeNotExpanded"
        ),
    };
    // Ready repeats what ConfigValid says.
    let repeated = said.kind == condition::READY && said.reason == "ConfigInvalid";
    problem && !repeated && known.is_none_or(|known| known.reason != said.reason || known.message != said.message)
}

async fn publish(context: &Context, object: &MariaDB, said: &Said) {
    let event = Event {
        type_: EventType::Warning,
        reason: match said.kind {
            condition::UNSUPPORTED_FIELD => "UnsupportedField".to_owned(),
            condition::CONFIG_VALID if said.status => "ConfigWarning".to_owned(),
            condition::CONFIG_VALID => "ConfigInvalid".to_owned(),
            _ => said.reason.clone(),
        },
        // Events may hold 1 KiB.
        note: Some(said.message.chars().take(900).collect()),
        action: "Reconcile".to_owned(),
        secondary: None,
    };
    let reference = object.object_ref(&());
    if let Err(error) = call(|| "publish an event".to_owned(), context.events.publish(&event, &reference)).await {
        tracing::debug!(%error, "an event was not published");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_found_in_the_users_file() {
        let text = "[mariadb]\ninnodb-buffer-pool-size=16M\nno-such=2\nno-such-option=1\n";
        let at = place(text, 4, "refuses its configuration: unknown variable 'no-such-option=1'");
        assert_eq!(at, "spec.myCnf (line 4: no-such-option): ");
        assert_eq!(place(text, 4, "something else"), "");
    }
}
