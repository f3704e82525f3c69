//! The task of one topology.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::resolved::Resolved;
use api::{MariaDB, PrimaryChange, names};
use k8s_openapi::api::coordination::v1::Lease;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Resource as _, ResourceExt as _};
use tokio::sync::{Notify, mpsc, watch};
use topology::decision::{Decision, Event, Report};
use topology::intent::Request;
use topology::member::{MemberName, MemberState};
use topology::memory::Memory;
use topology::observation::{Agent, Observation};
use topology::plan::Outcome as ChangeOutcome;
use topology::{Change, Command, Course, Forecast, Intent, Record, Time, decide};

use super::authority::Authority;
use super::clerk::{Briefing, Clerk};
use super::clock::Clock;
use super::intent::Object;
use super::lease::{self, Kept, LeaseError};
use super::links::{Answer, Links};
use super::requests::{self, Requests};
use super::routing::{self, Router, Routes};
use super::{Inputs, changes, facts, fencing, telling};
use crate::metrics::{OfChange, OfRefusal, OfTopology};

/// After a Lease that could not be read or written.
const LEASE_PAUSE: Duration = Duration::from_secs(1);
/// How long an agent may be silent before that is reported (that it is, is noticed after up to two seconds).
const GRACE: Duration = Duration::from_secs(3);
/// A pass at least so often.
pub(super) const LONGEST: Duration = Duration::from_secs(30);
/// A failover that is told later than this after it was decided has no pod deleted any more.
const FENCED_WITHIN: Duration = Duration::from_secs(120);
/// Versions of the Lease that were our own doing are remembered so long that their echo is recognised.
const ECHOES: usize = 16;

/// What came of a command.
struct Outcome {
    member: MemberName,
    command: Command,
    result: Answer,
    state: Option<MemberState>,
    /// It was the member's last one of this pass.
    last: bool,
}

/// The task of one topology.
pub(super) struct Runner {
    pub(super) inputs: Inputs,
    pub(super) namespace: String,
    pub(super) root: String,
    pub(super) uid: String,
    pub(super) clock: Clock,
    started: Time,
    news: Arc<Notify>,
    pub(super) links: Links,
    pub(super) authority: Authority,
    pub(super) memories: BTreeMap<MemberName, Memory>,
    /// The life of each member's container in which its agent was heard last.
    pub(super) lives: BTreeMap<MemberName, facts::Life>,
    pub(super) server_ids: BTreeMap<MemberName, u32>,
    kept: Option<Kept>,
    /// Versions of the Lease that we wrote or read, the latest last.
    versions: Vec<String>,
    /// The version that the watch showed last.
    shown: Option<String>,
    /// When the record was last seen to be written by somebody else.
    pub(super) renewed: Time,
    /// Races for the record lost in a row.
    lost: u32,
    pub(super) resolved: BTreeMap<String, (Option<i64>, Resolved)>,
    outcomes: (mpsc::UnboundedSender<Outcome>, mpsc::UnboundedReceiver<Outcome>),
    briefings: watch::Sender<Option<Arc<Briefing>>>,
    routes: watch::Sender<Routes>,
    events: mpsc::UnboundedSender<Event>,
    changes: mpsc::UnboundedSender<PrimaryChange>,
    before: Option<Report>,
    forecast: Option<Forecast>,
    /// What the last decision began.
    pub(super) course: Course,
    /// What was told of earlier changes has been read into it.
    recalled: bool,
    /// What the root's annotation asks for.
    pub(super) request: Option<Result<Request, String>>,
    requests: Requests,
    /// Refusals that were counted and stand.
    refused: BTreeSet<&'static str>,
    /// When it was last looked whether the primary is open, and that it was not.
    closed_at: Option<Time>,
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.inputs.metrics.forget(&self.of_topology());
        self.inputs.releases.publish(&(self.namespace.clone(), self.root.clone()), &BTreeSet::new());
    }
}

impl Runner {
    /// With the tasks beside it, which end with it: their channels close.
    pub(super) fn new(inputs: Inputs, namespace: String, root: String, uid: String) -> Self {
        let clock = Clock::start();
        let news = Arc::new(Notify::new());
        let (briefings, briefed) = watch::channel(None);
        let (routes, wanted_routes) = watch::channel(Routes::default());
        let (events, said) = mpsc::unbounded_channel();
        let (changes, to_write) = mpsc::unbounded_channel();
        tokio::spawn(Clerk::new(inputs.clone(), namespace.clone(), briefed, said).run());
        tokio::spawn(Router::new(inputs.clone(), namespace.clone(), wanted_routes, events.clone()).run());
        tokio::spawn(changes::write_all(inputs.client.clone(), namespace.clone(), root.clone(), to_write));
        Self {
            links: Links::new(clock, news.clone()),
            authority: Authority::new(inputs.client.clone(), namespace.clone(), &root),
            inputs,
            namespace,
            root,
            uid,
            started: clock.now(),
            clock,
            news,
            memories: BTreeMap::new(),
            lives: BTreeMap::new(),
            server_ids: BTreeMap::new(),
            kept: None,
            versions: Vec::new(),
            shown: None,
            renewed: clock.now(),
            lost: 0,
            resolved: BTreeMap::new(),
            outcomes: mpsc::unbounded_channel(),
            briefings,
            routes,
            events,
            changes,
            before: None,
            forecast: None,
            course: Course::default(),
            recalled: false,
            request: None,
            requests: Requests::default(),
            refused: BTreeSet::new(),
            closed_at: None,
        }
    }

    fn of_topology(&self) -> OfTopology {
        OfTopology { namespace: self.namespace.clone(), topology: self.root.clone() }
    }

    /// Works until the root is gone (the supervisor ends this task as soon as it is).
    pub(super) async fn run(mut self) {
        loop {
            self.inputs.changed.mark_unchanged();
            let Some(wait) = self.pass().await else { return };
            tokio::select! {
                () = self.news.notified() => {}
                outcome = self.outcomes.1.recv() => self.take(outcome),
                changed = self.inputs.changed.changed() => if changed.is_err() { return },
                read = self.authority.news() => if self.authority.take(read) { self.links.clear() },
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
        if last {
            memory.back();
        }
        if let Some(state) = state {
            self.links.hear(&member, state);
        }
    }

    /// One pass. Returns how long the next one may wait; `None`: the root is gone.
    async fn pass(&mut self) -> Option<Duration> {
        let objects = self.objects()?;
        let resolved = self.resolve(&objects);
        let root = objects.first()?.clone();
        let mut wait = self.connect(&resolved);
        self.request = root.annotations().get(names::SWITCHOVER_ANNOTATION).map(|text| requests::parse(text));
        let asked = self.asked(&resolved);
        let Some(intent) =
            super::intent::intent(&resolved, root.metadata.annotations.as_ref(), &self.server_ids, asked)
        else {
            return Some(wait);
        };
        let leases: Api<Lease> = Api::namespaced(self.inputs.client.clone(), &self.namespace);
        let lease_name = names::lease(&self.root);
        self.doubt_record(&lease_name);
        let kept = match self.kept.take() {
            Some(kept) => kept,
            None => match lease::read(&leases, &lease_name).await {
                Ok(kept) => {
                    if kept.version().is_none_or(|version| self.versions.iter().all(|known| known != version)) {
                        self.renewed = self.clock.now();
                    }
                    self.know(&kept);
                    kept
                }
                Err(error) => return Some(self.lease_trouble(&error)),
            },
        };
        if let Err(wait) = self.recall().await {
            self.kept = Some(kept);
            return Some(wait);
        }
        let observation = self.observe(&intent, &resolved);
        let decision = decide(&intent, &kept.record, &observation, self.clock.now());
        let moves = decision.course.plan.as_ref().is_some_and(|plan| plan.kind.moves_the_primary());
        if !moves && decision.record.as_ref().is_some_and(|next| next.epoch == kept.record.epoch) {
            // What was opened meanwhile does not wait for the swap of the next step.
            self.route(&decision, &kept.record, &observation);
        }
        let kept = match &decision.record {
            None => kept,
            Some(record) => {
                let owner = root.controller_owner_ref(&())?;
                match lease::swap(&leases, &lease_name, &owner, &kept, record).await {
                    Ok(kept) => {
                        self.lost = 0;
                        self.know(&kept);
                        kept
                    }
                    // Somebody else decided: read that, and decide again.
                    Err(error @ LeaseError::Lost { .. }) => {
                        tracing::info!(namespace = self.namespace, topology = self.root, %error, "deciding again");
                        self.lost += 1;
                        let pause = if self.lost == 1 { 0 } else { 10 << self.lost.min(7) };
                        return Some(Duration::from_millis(pause));
                    }
                    Err(error) => return Some(self.lease_trouble(&error)),
                }
            }
        };
        self.act(&decision);
        self.course = decision.course.clone();
        self.route(&decision, &kept.record, &observation);
        for change in &decision.changes {
            self.record_change(change, &root, &resolved, &kept.record);
        }
        self.release(&intent, &decision);
        self.count(&decision, &kept.record);
        if let Some(look_again) = decision.look_again {
            wait = wait.min(look_again);
        }
        // An agent that was just lost, or not reached yet, is given a moment before people hear of it: a new controller
        // would else report every topology as broken, and as healed a moment later.
        match self.grace(&observation).filter(|_| decision.changes.is_empty() && self.course.plan.is_none()) {
            Some(left) => wait = wait.min(left),
            None => self.tell(&decision, &kept, &resolved, &intent, &root),
        }
        self.announce(&decision.report.events);
        self.kept = Some(kept);
        Some(wait)
    }

    /// Nothing is decided before it is known what was decided lately.
    async fn recall(&mut self) -> Result<(), Duration> {
        if self.recalled {
            return Ok(());
        }
        let api: Api<PrimaryChange> = Api::namespaced(self.inputs.client.clone(), &self.namespace);
        match changes::recall(&api, &self.root, &self.uid, self.clock.now()).await {
            Ok(course) => {
                self.course = course;
                self.recalled = true;
                Ok(())
            }
            Err(error) => {
                let (namespace, topology) = (&self.namespace, &self.root);
                tracing::warn!(namespace, topology, reason = "ChangesNotRead", error, "no decision");
                Err(LEASE_PAUSE)
            }
        }
    }

    /// A Lease that somebody else changed or removed is read anew before the next decision. What we wrote ourselves is known:
    /// on the way from one decision to the next nothing is read.
    fn doubt_record(&mut self, name: &str) {
        let shown = self.inputs.leases.get(&ObjectRef::new(name).within(&self.namespace));
        let version = shown.and_then(|lease| lease.metadata.resource_version.clone());
        if version == self.shown {
            return;
        }
        let own = version.as_ref().is_some_and(|version| self.versions.contains(version));
        self.shown = version;
        if !own {
            self.kept = None;
        }
    }

    fn know(&mut self, kept: &Kept) {
        self.versions.extend(kept.version().map(str::to_owned));
        let excess = self.versions.len().saturating_sub(ECHOES);
        self.versions.drain(..excess);
    }

    fn lease_trouble(&self, error: &LeaseError) -> Duration {
        tracing::warn!(namespace = self.namespace, topology = self.root, reason = error.reason(), %error, "no decision");
        LEASE_PAUSE
    }

    /// Sends the orders: those of one member one after the other, different members at once.
    fn act(&mut self, decision: &Decision) {
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
            }
            self.memories.entry(member.clone()).or_default().begin(&commands, self.clock.now());
            let line = self.links.line(member);
            let (outcomes, member) = (self.outcomes.0.clone(), member.clone());
            tokio::spawn(async move {
                let mut failed = false;
                let count = commands.len();
                for (i, command) in commands.into_iter().enumerate() {
                    let (result, state) = match &line {
                        Some(line) if !failed => line.clone().tell(command.clone()).await,
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

    /// Where clients are sent from now on.
    fn route(&self, decision: &Decision, record: &Record, observation: &Observation) {
        let labelled =
            |member: &MemberName| self.pod(&member.0).is_some_and(|pod| routing::has_role(&pod, Some(names::PRIMARY)));
        let routes = routing::routes(decision, record, observation, labelled);
        self.routes.send_if_modified(|known| {
            let news = *known != routes;
            if news {
                *known = routes;
            }
            news
        });
    }

    /// A change of primary is over: it is counted, told and written down.
    fn record_change(&mut self, change: &Change, root: &MariaDB, objects: &[Object], record: &Record) {
        let Some(owner) = root.controller_owner_ref(&()) else { return };
        let told = changes::told(change, &self.root, owner);
        let done = change.outcome == ChangeOutcome::Done;
        tracing::info!(namespace = self.namespace, topology = self.root, epoch = change.epoch, "{}", told.message);
        let of =
            OfChange { namespace: self.namespace.clone(), topology: self.root.clone(), outcome: told.outcome.as_str() };
        let counted = if change.switchover { &self.inputs.metrics.switchovers } else { &self.inputs.metrics.failovers };
        counted.get_or_create(&of).inc();
        if let Some(down) = change.closed_for {
            self.inputs.metrics.writes_down.observe(down.as_secs_f64());
        }
        let reason = match (change.switchover, done) {
            (false, true) => "FailedOver",
            (true, true) => "SwitchedOver",
            (false, false) => "FailoverRolledBack",
            (true, false) if changes::refused(change) => "SwitchoverRefused",
            (true, false) => "SwitchoverRolledBack",
        };
        // That a switchover was rolled back is an event of the decision itself.
        if reason != "SwitchoverRolledBack" {
            self.announce(&[Event {
                warning: !change.switchover || !done,
                reason,
                message: told.message.clone(),
                member: change.to.clone(),
            }]);
        }
        if self.changes.send(told).is_err() {
            tracing::error!(namespace = self.namespace, topology = self.root, "nobody writes changes down any more");
        }
        let fencing =
            objects.first().and_then(|root| root.resolved.replication.as_ref()).is_some_and(|root| root.fencing);
        // What is told late, or was followed by another change, is no news of that pod.
        let swapped = change.swapped().filter(|_| change.epoch == record.epoch);
        let fresh = swapped.is_some_and(|swapped| self.clock.now().since(swapped) < FENCED_WITHIN);
        if fencing && done && fresh && !change.switchover {
            self.fence(change);
        }
    }

    /// Has the old primary's pod deleted, where it is still the one that was primary.
    fn fence(&self, change: &Change) {
        let Some((from, uid)) = change.from.as_ref().zip(change.from_pod.as_ref()) else { return };
        if self.pod(&from.0).is_some_and(|pod| pod.uid().as_ref() == Some(uid)) {
            self.announce(&[Event {
                warning: true,
                reason: "FencingPod",
                message: format!(
                    "{from} was the primary and is lost: its pod is deleted (spec.replication.primary.fencing)"
                ),
                member: Some(from.clone()),
            }]);
            tokio::spawn(fencing::fence(self.inputs.clone(), self.namespace.clone(), from.0.clone(), uid.clone()));
        }
    }

    /// Tells the *resources* loop which pods may go.
    fn release(&self, intent: &Intent, decision: &Decision) {
        let released = decision
            .released
            .iter()
            .filter_map(|member| Some((member.0.clone(), self.pod(&member.0)?.uid().unwrap_or_default())))
            .collect();
        if self.inputs.releases.publish(&(self.namespace.clone(), self.root.clone()), &released) {
            let objects: BTreeSet<&str> = intent.members.iter().map(|member| member.object.as_str()).collect();
            for object in objects {
                (self.inputs.wake)(&self.namespace, object);
            }
        }
    }

    /// Counts refusals that are new, and time without a primary that is open.
    fn count(&mut self, decision: &Decision, record: &Record) {
        let refusals = &decision.report.refusals;
        let reasons: BTreeSet<&'static str> = refusals.iter().map(topology::decision::Refusal::reason).collect();
        for reason in reasons.difference(&self.refused) {
            let of = OfRefusal { namespace: self.namespace.clone(), topology: self.root.clone(), reason };
            self.inputs.metrics.refusals.get_or_create(&of).inc();
        }
        self.refused = reasons;
        let (of, now) = (self.of_topology(), self.clock.now());
        if let Some(closed_at) = self.closed_at.take() {
            self.inputs.metrics.without_primary.get_or_create(&of).inc_by(now.since(closed_at).as_secs_f64());
        }
        if record.epoch > 0 && !decision.report.members.is_empty() {
            let open = self.routes.borrow().is_open();
            self.inputs.metrics.writable.get_or_create(&of).set(i64::from(open));
            self.closed_at = (!open).then_some(now);
        }
    }

    fn grace(&self, observation: &Observation) -> Option<Duration> {
        let now = self.clock.now();
        let silent = observation.members.values().filter_map(|seen| match &seen.agent {
            Agent::Silent { since, .. } if seen.pod == topology::observation::Pod::Running => {
                Some(now.since(self.started.max(*since)))
            }
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
    fn tell(&mut self, decision: &Decision, kept: &Kept, objects: &[Object], intent: &Intent, root: &MariaDB) {
        let report = &decision.report;
        // In the middle of a plan nobody looks further; what was said before stands.
        if decision.forecast.is_some() || decision.course.plan.is_none() {
            self.forecast.clone_from(&decision.forecast);
        }
        // That a primary which hands over is closed for a moment is no news; what comes of it is.
        let changing = self.course.plan.is_some() || self.course.finishing.is_some();
        self.announce(&telling::changes(self.before.as_ref(), report, changing));
        let mut now = report.clone();
        if let Some(before) = self.before.take().filter(|_| changing) {
            now.health = before.health;
        }
        self.before = Some(now);
        let before = root.status.as_ref().and_then(|status| status.replication.as_ref()?.request.as_ref());
        let request = self.requests.status(self.request.as_ref(), decision, &kept.record, before);
        self.briefings.send_replace(Some(Arc::new(Briefing {
            report: report.clone(),
            record: kept.record.clone(),
            objects: objects.iter().map(|object| object.resolved.name.clone()).collect(),
            durability: intent.replication.then_some(intent.durability),
            forecast: self.forecast.clone(),
            request,
        })));
    }
}
