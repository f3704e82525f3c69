//! One stream per agent: what each member says, kept up to date, and a way to tell it something.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol::{AgentClient, ClientError, Refusal, Session};
use rustls::ClientConfig;
use tokio::sync::{Notify, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use topology::member::{MemberName, MemberState};
use topology::observation::Agent;
use topology::{Command, Time};

use super::clock::Clock;

/// Pauses between attempts to reach an agent: at once, then slower.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(100),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
];

/// Where an agent is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) ip: IpAddr,
    /// The name in its certificate.
    pub(super) host: String,
    /// Another pod of the same name is another agent.
    pub(super) pod_uid: String,
}

impl Address {
    fn client(&self, tls: &Arc<ClientConfig>) -> Result<AgentClient, ClientError> {
        AgentClient::new(SocketAddr::new(self.ip, protocol::AGENT_PORT), &self.host, tls.clone())
    }
}

/// A member's agent, as far as it is heard.
#[derive(Debug)]
struct Link {
    address: Address,
    heard: Arc<Mutex<Agent>>,
    line: Line,
    _stop: DropGuard,
}

/// The way by which a member is told something.
#[derive(Clone)]
pub(super) struct Line {
    address: Address,
    tls: Arc<ClientConfig>,
    /// Kept open while the agent's stream lives, so that an order costs no handshakes.
    session: Arc<tokio::sync::Mutex<Option<Session>>>,
    /// Its stream lives.
    alive: watch::Receiver<bool>,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").field("address", &self.address).finish_non_exhaustive()
    }
}

/// The links of one topology.
#[derive(Debug)]
pub(super) struct Links {
    clock: Clock,
    /// Told whenever something was heard.
    news: Arc<Notify>,
    open: BTreeMap<MemberName, Link>,
}

impl Links {
    pub(super) fn new(clock: Clock, news: Arc<Notify>) -> Self {
        Self { clock, news, open: BTreeMap::new() }
    }

    /// Opens, replaces and drops links so that there is one for each address given.
    pub(super) fn follow(&mut self, tls: &Arc<ClientConfig>, addresses: BTreeMap<MemberName, Address>) {
        let wanted: BTreeSet<MemberName> = addresses.keys().cloned().collect();
        self.open.retain(|member, _| wanted.contains(member));
        for (member, address) in addresses {
            if self.open.get(&member).is_none_or(|link| link.address != address) {
                let link = self.connect(address, tls.clone());
                self.open.insert(member, link);
            }
        }
    }

    /// Drops all links (they are opened again, with other keys, by the next `follow`).
    pub(super) fn clear(&mut self) {
        self.open.clear();
    }

    /// The way to tell a member something; `None`: its agent has no address.
    pub(super) fn line(&self, member: &MemberName) -> Option<Line> {
        self.open.get(member).map(|link| link.line.clone())
    }

    /// What was heard last.
    pub(super) fn heard(&self, member: &MemberName) -> Agent {
        self.open.get(member).map_or_else(
            || Agent::Silent { since: Time::default(), attempts: 0, why: "there is no connection to it".to_owned() },
            |link| lock(&link.heard).clone(),
        )
    }

    /// Takes a report in that came another way (after a command).
    pub(super) fn hear(&self, member: &MemberName, state: MemberState) {
        if let Some(link) = self.open.get(member) {
            note(&link.heard, state, self.clock.now());
        }
    }

    fn connect(&self, address: Address, tls: Arc<ClientConfig>) -> Link {
        let silent = Agent::Silent { since: self.clock.now(), attempts: 0, why: "no connection yet".to_owned() };
        let heard = Arc::new(Mutex::new(silent));
        let stop = CancellationToken::new();
        let (living, alive) = watch::channel(false);
        let line = Line { address, tls, session: Arc::default(), alive };
        let listener =
            Listener { clock: self.clock, news: self.news.clone(), heard: heard.clone(), line: line.clone(), living };
        tokio::spawn(stop.clone().run_until_cancelled_owned(listener.run()));
        Link { address: line.address.clone(), heard, line, _stop: stop.drop_guard() }
    }
}

fn lock(heard: &Mutex<Agent>) -> std::sync::MutexGuard<'_, Agent> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps the newer of two reports; says whether it told anything new.
fn note(heard: &Mutex<Agent>, mut state: MemberState, now: Time) -> bool {
    // Another age alone is no news.
    let answered = now.before(Duration::from_millis(std::mem::take(&mut state.answer_age_ms)));
    let mut heard = lock(heard);
    let news = match &*heard {
        Agent::Silent { .. } => true,
        // What was on its way when the answer to a command came is old.
        Agent::Answers { state: known, .. } if known.pod_uid == state.pod_uid && known.sequence > state.sequence => {
            return false;
        }
        Agent::Answers { state: known, .. } => **known != state,
    };
    *heard = Agent::Answers { state: Box::new(state), at: now, answered };
    news
}

struct Listener {
    clock: Clock,
    news: Arc<Notify>,
    heard: Arc<Mutex<Agent>>,
    line: Line,
    living: watch::Sender<bool>,
}

impl Listener {
    async fn run(self) {
        let mut failures = 0_usize;
        loop {
            let why = self.listen(&mut failures).await;
            self.living.send_replace(false);
            let fell_silent = {
                let mut heard = lock(&self.heard);
                let was_heard = matches!(*heard, Agent::Answers { .. });
                let (since, attempts) = match &*heard {
                    Agent::Silent { since, attempts, .. } => (*since, attempts + 1),
                    // It has been silent since it was heard last, not since that was noticed.
                    Agent::Answers { at, .. } => (*at, 0),
                };
                let same = matches!(&*heard, Agent::Silent { why: known, .. } if *known == why);
                *heard = Agent::Silent { since, attempts, why };
                was_heard || !same
            };
            if fell_silent {
                self.news.notify_one();
            }
            tokio::time::sleep(PAUSES[failures.min(PAUSES.len() - 1)]).await;
            failures += 1;
        }
    }

    /// Listens until the stream ends, and says why it did.
    async fn listen(&self, failures: &mut usize) -> String {
        let opened = async { self.line.address.client(&self.line.tls)?.watch().await }.await;
        let mut stream = match opened {
            Ok(stream) => stream,
            Err(error) => return error.to_string(),
        };
        loop {
            match stream.next().await {
                Ok(state) => {
                    *failures = 0;
                    if note(&self.heard, state, self.clock.now()) {
                        self.news.notify_one();
                    }
                    if !self.living.send_replace(true) {
                        tokio::spawn(self.line.clone().prepare());
                    }
                }
                Err(error) => return error.to_string(),
            }
        }
    }
}

/// What came of a command.
#[derive(Debug)]
pub(super) enum Answer {
    /// Done, or under way.
    Accepted,
    /// The agent does something else.
    Busy(String),
    /// It was not carried out.
    Failed(String),
}

impl Line {
    /// Connects, so that the next order needs no handshakes.
    async fn prepare(self) {
        let Ok(client) = self.address.client(&self.tls) else { return };
        let mut fresh = Session::new(client);
        // Where this fails, the order itself connects.
        if fresh.prepare().await.is_ok() {
            *self.session.lock().await = Some(fresh);
        }
    }

    /// Sends a command and looks at the member once more: the report that comes back has what the command did.
    ///
    /// An agent that falls silent meanwhile is not waited for: its command counts as failed, though it may have been
    /// carried out. What is true is seen when it answers again.
    pub(super) async fn tell(mut self, command: Command) -> (Answer, Option<MemberState>) {
        let was_alive = *self.alive.borrow_and_update();
        let kept = if was_alive { self.session.lock().await.take() } else { None };
        let mut session = match kept.map_or_else(|| self.address.client(&self.tls).map(Session::new), Ok) {
            Ok(session) => session,
            Err(error) => return (Answer::Failed(error.to_string()), None),
        };
        let call = async {
            let answer = match session.command(&command).await {
                Ok(_outcome) => Answer::Accepted,
                Err(ClientError::Refused(Refusal::Busy { doing })) => Answer::Busy(doing),
                Err(error) => Answer::Failed(error.to_string()),
            };
            (answer, session.state().await.ok())
        };
        let silent = async {
            if !was_alive || self.alive.wait_for(|alive| !alive).await.is_err() {
                // Nothing to watch, or the link is gone while its command is under way: the call has limits of its own.
                std::future::pending::<()>().await;
            }
        };
        let told = tokio::select! {
            told = call => told,
            () = silent => return (Answer::Failed("its agent fell silent".to_owned()), None),
        };
        *self.session.lock().await = Some(session);
        told
    }
}
