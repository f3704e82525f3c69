//! The task of one topology.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::resolved::Resolved;
use api::{MariaDB, names};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use k8s_openapi::jiff::Timestamp;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Resource as _, ResourceExt as _};
use rustls::ClientConfig;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use topology::decision::{Decision, Event, Refusal, Report, Role, Standing};
use topology::member::{MemberName, MemberState};
use topology::memory::Memory;
use topology::observation::{Agent, Observation, Seen};
use topology::{Command, Course, Intent, decide};

use super::clerk::{Briefing, Clerk};
use super::clock::Clock;
use super::intent::Object;
use super::lease::{self, Kept, LeaseError};
use super::links::{self, Address, Answer, Links};
use super::{Inputs, facts, families, tls};

/// The CA is looked for again so soon while there is none.
const CA_MISSING: Duration = Duration::from_millis(300);
/// The CA is read again so often while an agent does not answer (it may have been replaced).
const CA_DOUBT: Duration = Duration::from_secs(30);
/// Client certificates are made anew so often; they live for a week.
const CA_AGE: Duration = Duration::from_secs(24 * 3600);
/// After a Lease that could not be read or written.
const LEASE_PAUSE: Duration = Duration::from_secs(1);
/// How long an agent may be silent before that is reported.
const GRACE: Duration = Duration::from_secs(2);
/// A pass at least so often.
const LONGEST: Duration = Duration::from_secs(30);

/// What came of a command.
struct Outcome {
    member: MemberName,
    command: Command,
    result: Answer,
    state: Option<MemberState>,
    /// It was the member's last one of this pass.
    last: bool,
}

struct Ca {
    version: Option<String>,
    config: Arc<ClientConfig>,
    read: Instant,
    issued: Instant,
}

/// The task of one topology.
pub(super) struct Runner {
    inputs: Inputs,
    namespace: String,
    root: String,
    uid: String,
    clock: Clock,
    news: Arc<Notify>,
    links: Links,
    memories: BTreeMap<MemberName, Memory>,
    server_ids: BTreeMap<MemberName, u32>,
    kept: Option<Kept>,
    /// Races for the record lost in a row.
    lost: u32,
    ca: Option<Ca>,
    resolved: BTreeMap<String, (Option<i64>, Resolved)>,
    outcomes: (mpsc::UnboundedSender<Outcome>, mpsc::UnboundedReceiver<Outcome>),
    briefings: watch::Sender<Option<Arc<Briefing>>>,
    events: mpsc::UnboundedSender<Event>,
    clerk: Option<Clerk>,
    before: Option<Report>,
    /// What the last decision began.
    course: Course,
}

impl Runner {
    pub(super) fn new(inputs: Inputs, namespace: String, root: String, uid: String) -> Self {
        let clock = Clock::start();
        let news = Arc::new(Notify::new());
        let (briefings, briefed) = watch::channel(None);
        let (events, said) = mpsc::unbounded_channel();
        let clerk = Clerk::new(inputs.clone(), namespace.clone(), briefed, said);
        Self {
            links: Links::new(clock, news.clone()),
            inputs,
            namespace,
            root,
            uid,
            clock,
            news,
            memories: BTreeMap::new(),
            server_ids: BTreeMap::new(),
            kept: None,
            lost: 0,
            ca: None,
            resolved: BTreeMap::new(),
            outcomes: mpsc::unbounded_channel(),
            briefings,
            events,
            clerk: Some(clerk),
            before: None,
            course: Course::default(),
        }
    }

    /// Works until the root is gone (the supervisor ends this task, and with it the clerk, as soon as it is).
    pub(super) async fn run(mut self) {
        // The clerk ends with this task: its channels close.
        if let Some(clerk) = self.clerk.take() {
            tokio::spawn(clerk.run());
        }
        loop {
            self.inputs.changed.mark_unchanged();
            let Some(wait) = self.pass().await else { return };
            tokio::select! {
                () = self.news.notified() => {}
                changed = self.inputs.changed.changed() => if changed.is_err() { return },
                outcome = self.outcomes.1.recv() => self.take(outcome),
                () = tokio::time::sleep(wait.min(LONGEST)) => {}
            }
            while let Ok(outcome) = self.outcomes.1.try_recv() {
                self.take(Some(outcome));
            }
        }
    }

    fn take(&mut self, outcome: Option<Outcome>) {
        let Some(Outcome { member, command, result, state, last }) = outcome else { return };
        if let Answer::Failed(error) = &result {
            tracing::warn!(
                namespace = self.namespace,
                topology = self.root,
                member = member.0,
                action = ?topology::memory::Kind::of(&command.action),
                error,
                "an order was not carried out"
            );
        }
        let memory = self.memories.entry(member.clone()).or_default();
        match result {
            Answer::Accepted => memory.end(&command, Ok(())),
            Answer::Failed(error) => memory.end(&command, Err(error)),
            Answer::Busy(doing) => {
                tracing::debug!(namespace = self.namespace, member = member.0, doing, "busy");
                memory.busy(&command, self.clock.now());
            }
        }
        memory.in_flight = !last;
        if let Some(state) = state {
            self.links.hear(&member, state);
        }
    }

    /// One pass. Returns how long the next one may wait; `None`: the root is gone.
    async fn pass(&mut self) -> Option<Duration> {
        let objects = self.objects()?;
        let resolved = self.resolve(&objects);
        let root = objects.first()?.clone();
        let mut wait = self.connect(&resolved).await;
        let Some(intent) = super::intent::intent(&resolved, root.metadata.annotations.as_ref(), &self.server_ids)
        else {
            return Some(wait);
        };
        let leases: Api<Lease> = Api::namespaced(self.inputs.client.clone(), &self.namespace);
        let lease_name = names::lease(&self.root);
        let kept = match self.kept.take() {
            Some(kept) => kept,
            None => match lease::read(&leases, &lease_name).await {
                Ok(kept) => kept,
                Err(error) => return Some(self.lease_trouble(&error)),
            },
        };
        let observation = self.observe(&intent, &resolved);
        let decision = decide(&intent, &kept.record, &observation, self.clock.now());
        let kept = match &decision.record {
            None => kept,
            Some(record) => {
                let owner = root.controller_owner_ref(&())?;
                match lease::swap(&leases, &lease_name, &owner, &kept, record).await {
                    Ok(kept) => {
                        self.lost = 0;
                        kept
                    }
                    // Somebody else decided: read that, and decide again.
                    Err(error @ LeaseError::Lost { .. }) => {
                        tracing::info!(namespace = self.namespace, topology = self.root, %error, "deciding again");
                        self.lost += 1;
                        return Some(Duration::from_millis(10 << self.lost.min(7)));
                    }
                    Err(error) => return Some(self.lease_trouble(&error)),
                }
            }
        };
        self.course = decision.course.clone();
        self.act(&decision);
        if let Some(look_again) = decision.look_again {
            wait = wait.min(look_again);
        }
        // An agent that was just lost, or not reached yet, is given a moment before people hear of it: a new controller
        // would else report every topology as broken, and as healed a moment later.
        match self.grace(&observation) {
            Some(left) => wait = wait.min(left),
            None => self.tell(&decision, &kept, &resolved),
        }
        self.announce(&decision.report.events);
        self.kept = Some(kept);
        Some(wait)
    }

    fn lease_trouble(&self, error: &LeaseError) -> Duration {
        tracing::warn!(namespace = self.namespace, topology = self.root, reason = error.reason(), %error, "no decision");
        LEASE_PAUSE
    }

    /// The topology's objects, the root first, the others as they were created.
    fn objects(&self) -> Option<Vec<Arc<MariaDB>>> {
        let all = super::by_namespace(&self.inputs.objects).remove(&self.namespace)?;
        let members = families(&all).roots.remove(&self.root)?;
        let mut objects: Vec<_> = all.into_iter().filter(|object| members.contains(&object.name_any())).collect();
        objects.sort_by_key(|object| {
            (object.name_any() != self.root, object.metadata.creation_timestamp.clone(), object.name_any())
        });
        (objects.first()?.uid().unwrap_or_default() == self.uid).then_some(objects)
    }

    /// Resolves; an object with mistakes counts as it was before them.
    fn resolve(&mut self, objects: &[Arc<MariaDB>]) -> Vec<Object> {
        for object in objects {
            let (name, generation) = (object.name_any(), object.metadata.generation);
            let known = self.resolved.get(&name);
            if known.is_some_and(|(known, _)| generation.is_some() && *known == generation) {
                continue;
            }
            if let Ok(resolved) = api::resolve(object) {
                if known.is_some() {
                    self.forget_failures(&name);
                }
                self.resolved.insert(name, (generation, resolved));
            }
        }
        let present: Vec<Resolved> = objects
            .iter()
            .filter_map(|object| self.resolved.get(&object.name_any()).map(|(_, resolved)| resolved.clone()))
            .collect();
        self.resolved.retain(|name, _| present.iter().any(|resolved| resolved.name == *name));
        // Without the root there is no intent at all.
        if present.first().is_none_or(|first| first.name != self.root) {
            return Vec::new();
        }
        super::intent::number(present)
    }

    /// What failed before an object was changed may work now: it is tried at once.
    fn forget_failures(&mut self, object: &str) {
        for (member, memory) in &mut self.memories {
            if names::ordinal(object, &member.0).is_some() {
                memory.tries.clear();
            }
        }
    }

    /// Keeps one link to every agent that has an address.
    async fn connect(&mut self, objects: &[Object]) -> Duration {
        let mut addresses = BTreeMap::new();
        for object in objects {
            for ordinal in 0..object.resolved.replicas {
                let name = names::pod(&object.resolved.name, ordinal);
                let Some(pod) = self.pod(&name) else { continue };
                let Some(ip) = facts::address(&pod).and_then(|ip| ip.parse::<IpAddr>().ok()) else { continue };
                let host = names::member_host(&name, &self.namespace);
                let pod_uid = pod.uid().unwrap_or_default();
                addresses.insert(MemberName(name), Address { ip, host, pod_uid });
            }
        }
        if addresses.is_empty() {
            self.links.clear();
            return LONGEST;
        }
        if let Err(error) = self.refresh_ca(&addresses).await {
            tracing::debug!(namespace = self.namespace, topology = self.root, error, "no certificate for the agents");
        }
        match &self.ca {
            Some(ca) => {
                self.links.follow(&ca.config, addresses);
                LONGEST
            }
            None => CA_MISSING,
        }
    }

    async fn refresh_ca(&mut self, addresses: &BTreeMap<MemberName, Address>) -> Result<(), String> {
        let age = self.ca.as_ref().map(|ca| (ca.read.elapsed(), ca.issued.elapsed()));
        let doubt = || addresses.keys().any(|member| matches!(self.links.heard(member), Agent::Silent { .. }));
        let due = match age {
            None => true,
            Some((read, issued)) => issued > CA_AGE || (read > CA_DOUBT && doubt()),
        };
        if !due {
            return Ok(());
        }
        let api: Api<Secret> = Api::namespaced(self.inputs.client.clone(), &self.namespace);
        let name = names::ca(&self.root);
        let secret = tokio::time::timeout(Duration::from_secs(5), api.get_opt(&name))
            .await
            .map_err(|_| format!("read the secret {name}: no answer"))?
            .map_err(|error| format!("read the secret {name}: {error}"))?
            .ok_or_else(|| format!("the secret {name} does not exist yet"))?;
        let version = secret.resource_version();
        if let Some(ca) = &mut self.ca
            && ca.version == version
            && ca.issued.elapsed() <= CA_AGE
        {
            ca.read = Instant::now();
            return Ok(());
        }
        let config = tls::client_config(&secret, Timestamp::now()).map_err(|error| error.to_string())?;
        self.links.clear();
        self.ca = Some(Ca { version, config, read: Instant::now(), issued: Instant::now() });
        Ok(())
    }

    fn pod(&self, name: &str) -> Option<Arc<Pod>> {
        self.inputs.pods.get(&ObjectRef::new(name).within(&self.namespace))
    }

    fn observe(&mut self, intent: &Intent, objects: &[Object]) -> Observation {
        let now = self.clock.now();
        let ephemeral = |object: &str| {
            objects.iter().any(|known| known.resolved.name == object && known.resolved.storage.ephemeral)
        };
        self.memories.retain(|member, _| intent.member(member).is_some());
        let mut members = BTreeMap::new();
        for member in &intent.members {
            let name = &member.name;
            let pod = self.pod(&name.0);
            let claim: Option<Arc<PersistentVolumeClaim>> =
                self.inputs.claims.get(&ObjectRef::new(&names::claim(&name.0)).within(&self.namespace));
            let agent = self.links.heard(name);
            let memory = self.memories.entry(name.clone()).or_default();
            if let Agent::Answers { state, .. } = &agent {
                memory.observe(state, now);
                self.server_ids.insert(name.clone(), state.server_id);
            }
            let seen = Seen {
                pod: facts::pod(pod.as_deref()),
                claim: facts::claim(claim.as_deref(), ephemeral(&member.object)),
                agent,
                memory: memory.clone(),
            };
            members.insert(name.clone(), seen);
        }
        Observation {
            members,
            idle_claims: self.idle_claims(objects),
            draw: rand::random(),
            course: self.course.clone(),
        }
    }

    /// Bound claims of members beyond what is wanted now.
    fn idle_claims(&self, objects: &[Object]) -> Vec<String> {
        let mut idle: Vec<String> = self
            .inputs
            .claims
            .state()
            .into_iter()
            .filter(|claim| claim.namespace().as_deref() == Some(&self.namespace))
            .filter(|claim| facts::claim(Some(claim), false) == topology::observation::Claim::Bound)
            .map(|claim| claim.name_any())
            .filter(|claim| {
                let prefix = names::claim("");
                objects.iter().any(|object| {
                    let ordinal =
                        claim.strip_prefix(&prefix).and_then(|pod| names::ordinal(&object.resolved.name, pod));
                    ordinal.is_some_and(|ordinal| ordinal >= object.resolved.replicas)
                })
            })
            .collect();
        idle.sort();
        idle
    }

    /// Sends the orders: those of one member one after the other, different members at once.
    fn act(&mut self, decision: &Decision) {
        let Some(ca) = &self.ca else { return };
        let mut by_member: BTreeMap<&MemberName, Vec<Command>> = BTreeMap::new();
        for (member, command) in decision.commands() {
            by_member.entry(member).or_default().push(command);
        }
        for (member, commands) in by_member {
            for command in &commands {
                tracing::info!(
                    namespace = self.namespace,
                    topology = self.root,
                    member = member.0,
                    epoch = command.stamp.epoch,
                    revision = command.stamp.revision,
                    action = ?topology::memory::Kind::of(&command.action),
                    "order"
                );
                self.memories.entry(member.clone()).or_default().begin(command, self.clock.now());
            }
            let address = self.links.address(member).cloned();
            let (tls, outcomes, member) = (ca.config.clone(), self.outcomes.0.clone(), member.clone());
            tokio::spawn(async move {
                let mut failed = false;
                let count = commands.len();
                for (i, command) in commands.into_iter().enumerate() {
                    let (result, state) = match &address {
                        Some(address) if !failed => links::tell(address.clone(), tls.clone(), command.clone()).await,
                        Some(_) => (Answer::Busy("what had to come first was not done".to_owned()), None),
                        None => (Answer::Failed("its agent has no address".to_owned()), None),
                    };
                    failed |= !matches!(result, Answer::Accepted);
                    let last = i + 1 == count;
                    let sent = outcomes.send(Outcome { member: member.clone(), command, result, state, last });
                    if sent.is_err() {
                        return;
                    }
                }
            });
        }
    }

    fn grace(&self, observation: &Observation) -> Option<Duration> {
        let now = self.clock.now();
        let silent = observation.members.values().filter_map(|seen| match &seen.agent {
            Agent::Silent { since, .. } if seen.pod == topology::observation::Pod::Running => Some(now.since(*since)),
            _ => None,
        });
        let left = silent.map(|lasted| GRACE.saturating_sub(lasted)).max()?;
        (!left.is_zero()).then_some(left)
    }

    fn announce(&self, events: &[Event]) {
        for event in events {
            if self.events.send(event.clone()).is_err() {
                tracing::error!(namespace = self.namespace, topology = self.root, "the clerk is gone");
            }
        }
    }

    /// Hands to the clerk what people should know.
    fn tell(&mut self, decision: &Decision, kept: &Kept, objects: &[Object]) {
        let report = &decision.report;
        self.announce(&changes(self.before.as_ref(), report));
        self.before = Some(report.clone());
        let replication = objects.first().and_then(|root| root.resolved.replication.as_ref());
        self.briefings.send_replace(Some(Arc::new(Briefing {
            report: report.clone(),
            record: kept.record.clone(),
            objects: objects.iter().map(|object| object.resolved.name.clone()).collect(),
            // What is in force, not what is wished for: no commit waits for an acknowledgement yet.
            durability: replication.map(|_| format!("{:?}", api::spec::Durability::Available)),
        })));
    }
}

/// Something is wrong, rather than new or on its way.
fn trouble(report: &Report) -> bool {
    let unwell = |standing: Standing| matches!(standing, Standing::Broken | Standing::Silent | Standing::Lagging);
    report
        .members
        .iter()
        .any(|member| unwell(member.standing) || member.role == Role::Primary && member.standing != Standing::Well)
}

/// Events that come from comparing two reports: new refusals, and health lost and won.
fn changes(before: Option<&Report>, now: &Report) -> Vec<Event> {
    let known = |refusal: &Refusal| {
        before.is_some_and(|before| {
            before.refusals.iter().any(|old| old.reason() == refusal.reason() && old.member() == refusal.member())
        })
    };
    let mut events: Vec<Event> = now
        .refusals
        .iter()
        .filter(|refusal| !refusal.passes() && !known(refusal))
        .map(|refusal| Event {
            warning: true,
            reason: refusal.reason(),
            message: refusal.to_string(),
            member: refusal.member().cloned(),
        })
        .collect();
    if let Some(before) = before {
        let health = |warning, reason| Event { warning, reason, message: now.health.message.clone(), member: None };
        match (before.health.ok, now.health.ok) {
            (false, true) => events.push(health(false, "ReplicationHealthy")),
            (true, false) if now.refusals.is_empty() && trouble(now) => events.push(health(true, now.health.reason)),
            _ => {}
        }
    }
    events
}
