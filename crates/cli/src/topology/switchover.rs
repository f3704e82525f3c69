//! Asks for another primary, and follows what becomes of it.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use api::status::MemberStatus;
use api::{GoDuration, MariaDB, names};
use clap::Args;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use super::{ClusterArguments, Topology, time, why};

/// The operator looked at it, and did nothing.
const REFUSED: u8 = 3;
/// It was begun, and the old primary has the writes back.
const ROLLED_BACK: u8 = 4;
/// Nothing final was heard in time.
const TIMED_OUT: u8 = 5;
/// The status is looked at so often.
const LOOK: Duration = Duration::from_millis(150);
/// A request is written so often, where others write at the same moment.
const ATTEMPTS: usize = 20;
/// The change's object is written beside the status: it may come a moment later.
const LATE: Duration = Duration::from_secs(5);

/// `switchover`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: 0 done (with --dry-run: it would be tried), 3 refused, 4 rolled back, 5 no answer in time, 1 anything else."
)]
pub(crate) struct SwitchoverArguments {
    /// A MariaDB object of the topology; may be left out where the namespace has one topology.
    name: Option<String>,
    /// The pod that shall be the primary; the operator chooses where this is left out.
    #[arg(long, value_name = "POD")]
    to: Option<String>,
    /// Say what would happen, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// How long to wait for the end, like 30s or 2m.
    #[arg(long, default_value = "60s", value_parser = duration)]
    timeout: Duration,
    #[command(flatten)]
    cluster: ClusterArguments,
}

fn duration(text: &str) -> Result<Duration, String> {
    text.parse::<GoDuration>().map(|duration| duration.0).map_err(|error| error.to_string())
}

pub(super) async fn run(arguments: &SwitchoverArguments) -> anyhow::Result<ExitCode> {
    let mut topology = Topology::find(&arguments.cluster, arguments.name.as_deref()).await?;
    if arguments.dry_run {
        return Ok(dry_run(&topology, arguments.to.as_deref()));
    }
    let Some(id) = ask(&mut topology, arguments.to.as_deref()).await? else { return Ok(ExitCode::from(REFUSED)) };
    follow(&mut topology, &id, arguments.timeout).await
}

/// The id of a request that is not over, or that nobody has looked at yet.
fn pending(root: &MariaDB) -> Option<String> {
    let text = root.annotations().get(names::SWITCHOVER_ANNOTATION)?.trim();
    let id = match serde_json::from_str::<serde_json::Value>(text) {
        Ok(request) => request["id"].as_str()?.to_owned(),
        Err(_) => text.split_whitespace().next()?.to_owned(),
    };
    let request = root.status.as_ref().and_then(|status| status.replication.as_ref()?.request.as_ref());
    // One that is not understood has no id.
    let over = request.is_some_and(|request| (request.id == id || request.id.is_empty()) && is_final(&request.phase));
    (!over).then_some(id)
}

fn is_final(phase: &str) -> bool {
    matches!(phase, "Done" | "RolledBack" | "Refused")
}

/// Writes the request; its id, or nothing where another one is under way: of two at once one is first.
async fn ask(topology: &mut Topology, to: Option<&str>) -> anyhow::Result<Option<String>> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let id = format!("{:x}-{:x}", since.as_millis(), std::process::id());
    let who = std::env::var("USER").unwrap_or_else(|_| "somebody".to_owned());
    let mut request = json!({"id": id, "why": format!("{who} asked for it (kubectl mariadb switchover)")});
    if let Some(to) = to {
        request["to"] = json!(to);
    }
    let api: Api<MariaDB> = Api::namespaced(topology.client.clone(), &topology.namespace);
    let params = PatchParams { field_manager: Some("kubectl-mariadb".to_owned()), ..PatchParams::default() };
    if let Some(why) = left_alone(&topology.root) {
        println!("refused: {why}");
        return Ok(None);
    }
    for _ in 0..ATTEMPTS {
        if let Some(other) = pending(&topology.root) {
            println!(
                "refused: the request {other} is under way: wait for its end (kubectl mariadb status), or withdraw it:\n  \
                 kubectl annotate mariadb {} -n {} {}-",
                topology.name(),
                topology.namespace,
                names::SWITCHOVER_ANNOTATION
            );
            return Ok(None);
        }
        let patch = json!({"metadata": {"resourceVersion": topology.root.resource_version(),
            "annotations": {names::SWITCHOVER_ANNOTATION: request.to_string()}}});
        match api.patch(&topology.name(), &params, &Patch::Merge(&patch)).await {
            Ok(_) => {
                match to {
                    Some(to) => println!("asked for {to} as the primary of {} (request {id})", topology.name()),
                    None => println!("asked for another primary of {} (request {id})", topology.name()),
                }
                return Ok(Some(id));
            }
            // Somebody has written meanwhile: the operator its status, or another one a request.
            Err(kube::Error::Api(status)) if status.code == 409 => topology.refresh().await?,
            Err(error) => {
                return Err(error).with_context(|| format!("ask for a switchover of {}", topology.name()));
            }
        }
    }
    bail!("{} is written to all the time: its request could not be written", topology.name())
}

async fn follow(topology: &mut Topology, id: &str, timeout: Duration) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let mut said = None;
    let end = loop {
        topology.refresh().await?;
        let request = topology.root.status.as_ref().and_then(|status| status.replication.as_ref()?.request.as_ref());
        if let Some(request) = request.filter(|request| request.id == id) {
            let line = match &request.message {
                Some(message) => format!("{}: {message}", request.phase),
                None => request.phase.clone(),
            };
            if said.as_ref() != Some(&line) {
                println!("{:>7.1}s  {line}", started.elapsed().as_secs_f64());
                said = Some(line);
            }
            if is_final(&request.phase) {
                break request.phase.clone();
            }
        }
        if started.elapsed() > timeout {
            let heard = said.map_or_else(|| "the operator has not answered".to_owned(), |said| format!("last: {said}"));
            eprintln!(
                "no end within {timeout:?}: {heard}. The request {id} stands; `kubectl mariadb status` shows what becomes of it"
            );
            return Ok(ExitCode::from(TIMED_OUT));
        }
        tokio::time::sleep(LOOK).await;
    };
    let late = Instant::now();
    loop {
        let changes = topology.changes().await?;
        if let Some(change) = changes.iter().find(|change| change.cause.request.as_deref() == Some(id)) {
            print!("\n{}", why::of_change(change, time::now()));
            break;
        }
        if late.elapsed() > LATE {
            eprintln!("the operator has not written down how it went (kubectl get primarychanges)");
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(match end.as_str() {
        "Done" => ExitCode::SUCCESS,
        "Refused" => ExitCode::from(REFUSED),
        _ => ExitCode::from(ROLLED_BACK),
    })
}

fn dry_run(topology: &Topology, to: Option<&str>) -> ExitCode {
    match foresee(&topology.root, to) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            println!("refused: {why}");
            ExitCode::from(REFUSED)
        }
    }
}

/// Nobody would look at a request.
fn left_alone(root: &MariaDB) -> Option<String> {
    let left_alone = root.spec.suspend == Some(true) || root.spec.maintenance == Some(true);
    left_alone.then(|| format!("{} is suspended or in maintenance: no decision is taken", root.name_any()))
}

/// What the operator would do, judged by what it says of the members; it looks again, and closer, when it is asked.
fn foresee(root: &MariaDB, to: Option<&str>) -> Result<String, String> {
    let name = root.name_any();
    let Some((status, replication)) =
        root.status.as_ref().and_then(|status| Some((status, status.replication.as_ref()?)))
    else {
        return Err(format!("the operator has said nothing of {name} yet"));
    };
    if let Some(why) = left_alone(root) {
        return Err(why);
    }
    let Some(primary) = &status.current_primary else {
        return Err(format!("{name} has no primary"));
    };
    let member = |name: &str| replication.members.iter().find(|member| member.name == name);
    if member(primary).is_none_or(|primary| primary.role.as_deref() != Some("primary")) {
        return Err(format!("PrimaryNotReady: {primary} is not well"));
    }
    let most = max_lag(root);
    let target = match to {
        Some(to) if to == primary => return Err(format!("TargetIsPrimary: {to} is the primary already")),
        Some(to) => {
            let found = member(to).ok_or_else(|| format!("TargetUnknown: {to} is no member of {name}"))?;
            fit(found, most).map_err(|(reason, why)| format!("{reason}: {to} {why}"))?;
            found
        }
        None => {
            let others = || replication.members.iter().filter(|member| member.name != *primary);
            let preferred =
                |member: &&MemberStatus| replication.candidates.first().is_none_or(|first| *first != member.name);
            others().filter(|member| fit(member, most).is_ok()).min_by_key(preferred).ok_or_else(|| {
                let why: Vec<String> = others()
                    .filter_map(|member| fit(member, most).err().map(|(_, why)| format!("{} {why}", member.name)))
                    .collect();
                format!("NoTarget: nobody can be the primary ({})", why.join("; "))
            })?
        }
    };
    if let Some(client) = member(primary).and_then(|primary| primary.long_transaction.as_ref()) {
        return Err(format!(
            "LongTransaction: a transaction on {primary} ({client}) is open that has written: it would be rolled back; wait for its end, or KILL the connection there"
        ));
    }
    let mut text = format!(
        "{} would be the primary in place of {primary}: {primary} goes read-only and its clients are cut, {} applies the rest, \
         opens, and {primary} follows it",
        target.name, target.name
    );
    if !replication.candidates.is_empty() && !replication.candidates.contains(&target.name) {
        text.push_str(&format!(
            ".\nThe operator does not count {} among those that could take over now ({}); it may refuse",
            target.name,
            replication.candidates.join(", ")
        ));
    }
    Ok(text)
}

/// `maxLagSeconds` of the root: beyond it nobody is a target.
fn max_lag(root: &MariaDB) -> i64 {
    api::resolve(root)
        .ok()
        .and_then(|resolved| resolved.replication)
        .map_or(30, |replication| i64::from(replication.replica.max_lag))
}

fn fit(member: &MemberStatus, max_lag: i64) -> Result<(), (&'static str, String)> {
    if member.reachable == Some(false) {
        return Err(("TargetSilent", "does not answer".to_owned()));
    }
    match member.unfit.as_deref() {
        Some("NoCandidate" | "HandsOff") => return Err(("TargetNotCandidate", "is no candidate".to_owned())),
        Some("ErrantTransactions") => {
            return Err(("TargetErrant", "has transactions that no primary wrote".to_owned()));
        }
        Some("Leaving") => return Err(("TargetSilent", "shall be restarted or taken away".to_owned())),
        // What else there is shows below, and more of it.
        _ => {}
    }
    let threads = [("IO", &member.io), ("SQL", &member.sql)];
    if let Some((thread, state)) = threads.iter().find(|(_, state)| state.as_deref() != Some("Yes")) {
        let state = state.as_deref().unwrap_or("not configured");
        let error = member.last_error.as_ref().map(|error| format!(", {error}")).unwrap_or_default();
        return Err(("TargetBroken", format!("does not replicate (its {thread} thread: {state}{error})")));
    }
    match member.lag {
        None => Err(("TargetLags", "has a lag that is not known".to_owned())),
        Some(lag) if lag > max_lag => Err(("TargetLags", format!("lags by {lag} s (at most {max_lag} s)"))),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> MariaDB {
        let member = |name: &str, lag: i64| json!({"name": name, "role": "replica", "source": "db-0", "lag": lag, "io": "Yes", "sql": "Yes", "reachable": true});
        let mut stopped = member("db-3", 0);
        stopped["sql"] = json!("No");
        let mut delayed = member("db-5", 0);
        delayed["unfit"] = json!("NoCandidate");
        serde_json::from_value(json!({"apiVersion": "k8s.mariadb.com/v1alpha1", "kind": "MariaDB",
            "metadata": {"name": "db", "namespace": "ns", "uid": "u"},
            "spec": {"replicas": 4, "storage": {"size": "1Gi"}, "replication": {"enabled": true}},
            "status": {"currentPrimary": "db-0", "replication": {"candidates": ["db-2", "db-1"], "members": [
                {"name": "db-0", "role": "primary", "reachable": true}, member("db-1", 0), member("db-2", 0), stopped,
                member("db-4", 99), delayed]}}}))
        .expect("a MariaDB")
    }

    #[test]
    fn dry_runs() {
        let root = root();
        let said = |to: Option<&str>| foresee(&root, to);
        assert!(said(None).expect("a target").starts_with("db-2 would be the primary in place of db-0"));
        assert!(said(Some("db-1")).is_ok());
        let refused = |to: &str| said(Some(to)).expect_err("no target");
        assert_eq!(refused("db-0"), "TargetIsPrimary: db-0 is the primary already");
        assert_eq!(refused("db-9"), "TargetUnknown: db-9 is no member of db");
        assert_eq!(refused("db-3"), "TargetBroken: db-3 does not replicate (its SQL thread: No)");
        assert_eq!(refused("db-4"), "TargetLags: db-4 lags by 99 s (at most 30 s)");
        assert_eq!(refused("db-5"), "TargetNotCandidate: db-5 is no candidate");
        let mut writing = root.clone();
        let replication = writing.status.as_mut().and_then(|status| status.replication.as_mut()).expect("a status");
        replication.members[0].long_transaction = Some("connection 12 of app".to_owned());
        assert!(
            foresee(&writing, None)
                .expect_err("refused")
                .starts_with("LongTransaction: a transaction on db-0 (connection 12 of app)")
        );
        let mut suspended = root.clone();
        suspended.spec.suspend = Some(true);
        assert!(foresee(&suspended, None).is_err());
    }

    #[test]
    fn requests_that_stand() {
        let mut root = root();
        assert_eq!(pending(&root), None);
        let request = r#"{"id": "a-1", "to": "db-1"}"#;
        root.annotations_mut().insert(names::SWITCHOVER_ANNOTATION.to_owned(), request.to_owned());
        assert_eq!(pending(&root).as_deref(), Some("a-1"));
        let mut said = |id: &str, phase: &str| {
            let replication = root.status.as_mut().and_then(|status| status.replication.as_mut()).expect("a status");
            replication.request = serde_json::from_value(json!({"id": id, "phase": phase})).expect("a request");
            pending(&root)
        };
        assert_eq!(said("before", "Done").as_deref(), Some("a-1"));
        assert_eq!(said("a-1", "UnderWay").as_deref(), Some("a-1"));
        assert_eq!(said("a-1", "Refused"), None);
    }

    #[test]
    fn durations() {
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert!(duration("soon").is_err());
    }
}
