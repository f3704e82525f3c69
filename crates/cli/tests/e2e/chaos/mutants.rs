//! An operator that is broken on purpose, and for each way to break it a story in which that must show; and the same stories with the
//! operator as it is, in which nothing may show. Decided by the steps of the story, not by chance.

use std::time::{Duration, Instant};

use serde_json::json;

use super::super::cluster::{Cluster, Failure, say, skipped, workspace};
use super::checker::{self, Violation};
use super::clients::Clients;
use super::entry::Entry;
use super::faults::Ground;
use super::{ROOT, member_names, remains, set_up};

/// Scenarios of `make chaos MUTANTS=1`: they need an image that nothing else needs.
pub(crate) const SCENARIOS: &[(&str, super::super::Scenario)] = &[
    ("chaos::mutants::no_drain", |cluster, namespace| both(cluster, namespace, "no-drain", without_drain)),
    ("chaos::mutants::no_fence", |cluster, namespace| both(cluster, namespace, "no-fence", without_fence)),
    ("chaos::mutants::no_expulsion", |cluster, namespace| both(cluster, namespace, "no-expulsion", without_expulsion)),
];

const MINUTE: Duration = Duration::from_secs(60);
const OPERATOR: &str = "mariadb-operator";

/// What is done to the topology while clients write; then all faults end, and the checker looks.
type Story = fn(&Stage<'_>) -> Result<(), Failure>;

struct Stage<'a> {
    ground: Ground<'a>,
    clients: &'a Clients,
    /// The primary, and two others.
    primary: String,
    one: String,
    other: String,
}

/// The story with the operator as it is, then with the broken one.
fn both(cluster: &Cluster, namespace: &str, mutant: &str, story: Story) -> Result<(), Failure> {
    if cluster.sandbox_dir().is_none() {
        skipped(&format!("chaos::mutants ({mutant}): not a sandbox"));
        return Ok(());
    }
    let sound = tell(cluster, namespace, story, 2 * MINUTE)?;
    if !sound.is_empty() {
        return Err(format!("{}: {sound:#?}, with the operator as it is", super::BROKEN));
    }
    say(&format!("chaos: {mutant}: nothing to complain of with the operator as it is"));
    cluster.kubectl(&["delete", "namespace", namespace, "--timeout=120s"])?;
    cluster.apply("default", &format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {namespace}\n"))?;
    let archive = workspace().join("target/mariadb-operator-mutants.oci.tar");
    cluster.sandbox_command("images load", &["images", "load", &archive.to_string_lossy()])?;
    replace_operator(cluster, Some(mutant))?;
    // What was broken on purpose may not heal.
    let broken = tell(cluster, namespace, story, MINUTE / 2);
    replace_operator(cluster, None)?;
    let broken = broken?;
    let shows = |violation: &&Violation| matches!(violation.kind(), "lost" | "two writers");
    let first =
        broken.iter().find(shows).ok_or_else(|| format!("{mutant}: the checker reports no loss and no two writers"))?;
    let count = |kind| broken.iter().filter(|violation| violation.kind() == kind).count();
    say(&format!(
        "chaos: {mutant}: the checker reports {} lost, {} of two writers, {} other violations; the first: {first}",
        count("lost"),
        count("two writers"),
        broken.len() - count("lost") - count("two writers")
    ));
    Ok(())
}

/// Another operator, or the one that was installed. Agents are never changed.
fn replace_operator(cluster: &Cluster, mutant: Option<&str>) -> Result<(), Failure> {
    let (image, variable) = match mutant {
        Some(mutant) => ("mariadb-operator-mutants:0.1.0", json!({"name": "MUTANT", "value": mutant})),
        None => ("mariadb-operator:0.1.0", json!({"name": "MUTANT", "$patch": "delete"})),
    };
    let container = json!({"name": "operator", "image": image, "env": [variable]});
    let patch = json!({"spec": {"template": {"spec": {"containers": [container]}}}});
    let deployment = "deployment/mariadb-operator";
    cluster.kubectl(&["patch", deployment, "-n", OPERATOR, "-p", &patch.to_string()])?;
    cluster.kubectl(&["rollout", "status", deployment, "-n", OPERATOR, "--timeout=120s"]).map(drop)
}

/// Sets up, lets the story happen, heals, and says what the checker finds.
fn tell(cluster: &Cluster, namespace: &str, story: Story, heals_in: Duration) -> Result<Vec<Violation>, Failure> {
    set_up(cluster, namespace)?;
    let members = member_names(super::MEMBERS);
    let primary_entry = Entry::of(cluster, namespace, &format!("{ROOT}-primary"))?;
    let replica_entry = Entry::of(cluster, namespace, &format!("{ROOT}-replica"))?;
    let clients = Clients::start(&primary_entry, &replica_entry, 4, 1)?;
    let ground = Ground { cluster, namespace, root: ROOT, members: &members, primary_entry };
    let primary = ground.primary();
    let mut others = members.iter().filter(|member| **member != primary).cloned();
    let (Some(one), Some(other)) = (others.next(), others.next()) else { return Err("too few members".to_owned()) };
    let stage = Stage { ground, clients: &clients, primary, one, other };
    let told = stage.operator_on_its_own().and_then(|()| story(&stage));
    stage.ground.heal_all();
    let well = stage.ground.await_well(heals_in);
    let history = clients.finish()?;
    told?;
    if let Err(failure) = &well {
        say(&format!("chaos: {failure}"));
    }
    // What was broken on purpose may have no server any more: who answers is asked.
    let answers = |pod: &&String| remains::fingerprint(cluster, namespace, pod).is_ok();
    let answering: Vec<String> = members.iter().filter(answers).cloned().collect();
    if answering.is_empty() || (well.is_ok() && answering.len() < members.len()) {
        return Err(format!("only {answering:?} answer"));
    }
    let _ = super::await_equal(cluster, namespace, &answering);
    let remains = remains::collect(cluster, namespace, ROOT, &answering)?;
    Ok(checker::check(&history, &remains))
}

/// A held table: what replicates waits, and what is received is not applied.
const HOLD: &str = "LOCK TABLES chaos.writes WRITE; DO SLEEP(300)";
const RELEASE: &str = "SELECT id FROM information_schema.processlist WHERE info = 'DO SLEEP(300)'";

impl Stage<'_> {
    fn sandbox(&self, words: &[&str]) -> Result<(), Failure> {
        self.ground.cluster.sandbox_command(&format!("sandbox {}", words.join(" ")), words).map(drop)
    }

    fn epoch(&self) -> Result<u64, Failure> {
        Ok(remains::record(self.ground.cluster, self.ground.namespace, ROOT)?.epoch)
    }

    fn node(&self, member: &str) -> Result<String, Failure> {
        self.ground.node_of(self.ground.namespace, member)
    }

    /// Cuts on members' nodes must not hit the operator: it gets a node of its own.
    fn operator_on_its_own(&self) -> Result<(), Failure> {
        let cluster = self.ground.cluster;
        let nodes: Vec<String> =
            [&self.primary, &self.one, &self.other].iter().map(|member| self.node(member)).collect::<Result<_, _>>()?;
        if nodes[0] == nodes[1] || nodes[0] == nodes[2] || nodes[1] == nodes[2] {
            return Err(format!("members share nodes: {nodes:?}"));
        }
        let operator = self.ground.operator()?;
        if !nodes.contains(&self.ground.node_of(OPERATOR, &operator)?) {
            return Ok(());
        }
        for node in &nodes {
            cluster.kubectl(&["cordon", node])?;
        }
        cluster.kubectl(&["delete", "pod", &operator, "-n", OPERATOR, "--wait=true"])?;
        cluster.kubectl(&["rollout", "status", "deployment/mariadb-operator", "-n", OPERATOR, "--timeout=60s"])?;
        for node in &nodes {
            cluster.kubectl(&["uncordon", node])?;
        }
        self.ground.await_well(MINUTE).map(drop)
    }

    fn hold(&self, member: &str) -> Result<(), Failure> {
        let script = format!("exec mariadb -u root -p\"${{MARIADB_ROOT_PASSWORD}}\" -e '{HOLD}'");
        let (cluster, namespace) = (self.ground.cluster, self.ground.namespace);
        // Ends with its session, which `release` kills.
        drop(cluster.kubectl_spawn(&["exec", member, "-n", namespace, "-c", "mariadb", "--", "sh", "-c", &script])?);
        cluster.eventually("the table is held", MINUTE / 4, || {
            match cluster.sql(namespace, member, RELEASE)?.as_str() {
                "" => Err("not yet".to_owned()),
                _ => Ok(()),
            }
        })
    }

    fn release(&self, member: &str) -> Result<(), Failure> {
        let (cluster, namespace) = (self.ground.cluster, self.ground.namespace);
        match cluster.sql(namespace, member, RELEASE)?.as_str() {
            "" => Ok(()),
            id => cluster.sql(namespace, member, &format!("KILL {id}")).map(drop),
        }
    }

    fn kill_primary(&self) -> Result<(), Failure> {
        self.sandbox(&["pod", "kill", &self.primary, "-n", self.ground.namespace, "--process", "mariadbd"])
    }

    /// Does this become so in time?
    fn soon(limit: Duration, mut holds: impl FnMut() -> Result<bool, Failure>) -> Result<bool, Failure> {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            if holds()? {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(false)
    }

    fn acknowledges(&self, more: u64, limit: Duration) -> Result<bool, Failure> {
        let before = self.clients.acknowledged();
        Self::soon(limit, || Ok(self.clients.acknowledged() >= before + more))
    }
}

/// Both replicas have received, and acknowledged, far more than they have applied when the primary dies.
fn without_drain(stage: &Stage<'_>) -> Result<(), Failure> {
    let epoch = stage.epoch()?;
    stage.hold(&stage.one)?;
    stage.hold(&stage.other)?;
    if !stage.acknowledges(800, MINUTE)? {
        return Err("writes do not go on while replicas only receive".to_owned());
    }
    stage.kill_primary()?;
    // Who drains cannot be done before the table is released; who does not is done already.
    Stage::soon(Duration::from_secs(3), || Ok(stage.epoch()? > epoch))?;
    stage.release(&stage.one)?;
    stage.release(&stage.other)?;
    stage.acknowledges(50, MINUTE)?;
    Ok(())
}

/// The old primary is silent for everybody, another one takes over, and then one replica hears the old one again. That replica is held
/// up in the middle of a transaction, so that it cannot be pointed at the new primary soon: only the fence keeps it from acknowledging.
fn without_fence(stage: &Stage<'_>) -> Result<(), Failure> {
    let epoch = stage.epoch()?;
    let namespace = stage.ground.namespace;
    stage.hold(&stage.other)?;
    if !stage.acknowledges(20, MINUTE)? {
        return Err("writes do not go on while a replica only receives".to_owned());
    }
    // Nothing is on its way when the network goes: both replicas have received the same, and the first one has applied it.
    stage.clients.rest(true);
    std::thread::sleep(Duration::from_secs(4));
    let address = stage.ground.cluster.get(namespace, "pod", &stage.primary)?.ok_or("no primary")?;
    let address = address["status"]["podIP"].as_str().and_then(|ip| ip.parse().ok()).ok_or("no address")?;
    let node = stage.node(&stage.primary)?;
    let operator = format!("pod/{}", stage.ground.operator()?);
    let primary_pod = format!("pod/{}", stage.primary);
    let other_node = stage.node(&stage.other)?;
    stage.sandbox(&["node", "cut", &other_node, "--from", &primary_pod, "-n", namespace])?;
    stage.sandbox(&["node", "cut", &node, "--from", &format!("pod/{}", stage.one), "-n", namespace])?;
    stage.sandbox(&["node", "cut", &node, "--from", "api"])?;
    stage.sandbox(&["node", "cut", &node, "--from", &operator, "-n", OPERATOR])?;
    if !Stage::soon(MINUTE, || Ok(stage.epoch()? > epoch))? {
        // The operator as it is may wait for the held replica, and gives up: nobody took over then.
        say("chaos: nobody took over");
    }
    stage.sandbox(&["node", "heal", &other_node])?;
    stage.clients.join(Entry::Address(std::net::SocketAddr::new(address, 3306)));
    stage.clients.rest(false);
    stage.acknowledges(200, MINUTE / 3)?;
    stage.release(&stage.other)?;
    Ok(())
}

/// An acker that only the operator does not hear is no acker any more; the other one receives nothing for a moment, in which the primary
/// dies. What the first one acknowledged meanwhile is nowhere else.
fn without_expulsion(stage: &Stage<'_>) -> Result<(), Failure> {
    let namespace = stage.ground.namespace;
    let epoch = stage.epoch()?;
    let operator = format!("pod/{}", stage.ground.operator()?);
    stage.sandbox(&["node", "cut", &stage.node(&stage.other)?, "--from", &operator, "-n", OPERATOR])?;
    let dropped = Stage::soon(MINUTE, || {
        let record = remains::record(stage.ground.cluster, namespace, ROOT)?;
        Ok(!record.solo && record.ackers.values().all(|acker| acker.member.0 == stage.one) && !record.ackers.is_empty())
    })?;
    if !dropped {
        return Err(format!("{} is still an acker", stage.other));
    }
    let primary = format!("pod/{}", stage.primary);
    stage.sandbox(&["node", "cut", &stage.node(&stage.one)?, "--from", &primary, "-n", namespace])?;
    stage.acknowledges(10, Duration::from_secs(1))?;
    stage.kill_primary()?;
    Stage::soon(MINUTE / 2, || Ok(stage.epoch()? > epoch))?;
    stage.acknowledges(50, MINUTE / 2)?;
    Ok(())
}
