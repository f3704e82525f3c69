//! One stream per agent: what each member says, kept up to date, and a way to tell it something.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol::{AgentClient, ClientError, Refusal};
use rustls::ClientConfig;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use topology::member::{MemberName, MemberState};
use topology::observation::Agent;
use topology::{Command, Time};

use super::clock::Clock;

/// Pauses between attempts to reach an agent: at once, then slower.
const PAUSES: [Duration; 4] =
    [Duration::from_millis(100), Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1)];

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
    _stop: DropGuard,
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

    pub(super) fn address(&self, member: &MemberName) -> Option<&Address> {
        self.open.get(member).map(|link| &link.address)
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
        let listener = Listener {
            clock: self.clock,
            news: self.news.clone(),
            heard: heard.clone(),
            address: address.clone(),
            tls,
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(listener.run()));
        Link { address, heard, _stop: stop.drop_guard() }
    }
}

fn lock(heard: &Mutex<Agent>) -> std::sync::MutexGuard<'_, Agent> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps the newer of two reports; says whether it told anything new.
fn note(heard: &Mutex<Agent>, state: MemberState, now: Time) -> bool {
    let mut heard = lock(heard);
    let news = match &*heard {
        Agent::Silent { .. } => true,
        // What was on its way when a command was accepted is old.
        Agent::Answers { state: known, .. } if known.pod_uid == state.pod_uid && known.accepted > state.accepted => {
            return false;
        }
        Agent::Answers { state: known, .. } => **known != state,
    };
    *heard = Agent::Answers { state: Box::new(state), at: now };
    news
}

struct Listener {
    clock: Clock,
    news: Arc<Notify>,
    heard: Arc<Mutex<Agent>>,
    address: Address,
    tls: Arc<ClientConfig>,
}

impl Listener {
    async fn run(self) {
        let mut failures = 0_usize;
        loop {
            let why = self.listen(&mut failures).await;
            let fell_silent = {
                let mut heard = lock(&self.heard);
                let was_heard = matches!(*heard, Agent::Answers { .. });
                let (since, attempts) = match &*heard {
                    Agent::Silent { since, attempts, .. } => (*since, attempts + 1),
                    Agent::Answers { .. } => (self.clock.now(), 0),
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
        let opened = async { self.address.client(&self.tls)?.watch().await }.await;
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

/// Sends a command and looks at the member once more: the report that comes back has what the command did.
pub(super) async fn tell(address: Address, tls: Arc<ClientConfig>, command: Command) -> (Answer, Option<MemberState>) {
    let client = match address.client(&tls) {
        Ok(client) => client,
        Err(error) => return (Answer::Failed(error.to_string()), None),
    };
    let result = match client.command(&command).await {
        Ok(_outcome) => Answer::Accepted,
        Err(ClientError::Refused(Refusal::Busy { doing })) => Answer::Busy(doing),
        Err(error) => Answer::Failed(error.to_string()),
    };
    (result, client.state().await.ok())
}
