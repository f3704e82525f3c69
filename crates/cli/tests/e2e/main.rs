//! End to end: a cluster, the operator in it, real MariaDB servers, used through `kubectl` as a person would.
//!
//! On this machine the cluster is the sandbox. With `E2E_KUBECONFIG=FILE` the same scenarios run on any cluster that has
//! the operator installed; what needs the sandbox is skipped there, and says so. `E2E_KEEP=1` leaves the sandbox running.

mod ackers;
mod bad_input;
mod chaos;
mod cluster;
mod failover;
mod forward;
mod moments;
mod outage;
mod primary;
mod replication;
mod resilience;
mod rolls;
mod seed;
mod switches;
mod switchovers;
mod upkeep;
mod walk;
mod ways;

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use cluster::{Cluster, Failure, Where};
use libtest_mimic::{Arguments, Failed, Trial};

/// A scenario has a namespace of its own.
type Scenario = fn(&Cluster, &str) -> Result<(), Failure>;

/// Scenarios that share a cluster.
struct Tier {
    name: &'static str,
    scenarios: Vec<(&'static str, Scenario)>,
    /// So many at a time.
    together: usize,
}

/// Those that stop nodes or the operator, or name their namespace, come one after the other; each tier has a sandbox of its own,
/// beside the others.
fn tiers() -> [Tier; 3] {
    let shared = [
        replication::SCENARIOS,
        bad_input::SCENARIOS,
        failover::SCENARIOS,
        moments::SCENARIOS,
        upkeep::SCENARIOS,
        ways::SCENARIOS,
        walk::SCENARIOS,
        primary::SCENARIOS,
        switchovers::SCENARIOS,
    ];
    let alone = [
        failover::SEED_SCENARIOS,
        seed::SCENARIOS,
        resilience::SCENARIOS,
        ackers::SCENARIOS,
        rolls::SCENARIOS,
        switches::SCENARIOS,
        outage::scenarios(),
    ];
    let faults = [ways::ALONE, chaos::scenarios()];
    [
        Tier { name: "shared", scenarios: shared.concat(), together: 3 },
        Tier { name: "alone", scenarios: alone.concat(), together: 1 },
        Tier { name: "faults", scenarios: faults.concat(), together: 1 },
    ]
}

impl Tier {
    /// Is any of its scenarios asked for?
    fn is_wanted(&self, arguments: &Arguments) -> bool {
        let wanted = |name: &str| match &arguments.filter {
            Some(filter) if arguments.exact => name == filter,
            Some(filter) => name.contains(filter.as_str()),
            None => true,
        };
        self.scenarios.iter().any(|(name, _)| wanted(name))
    }

    /// Whether all went well.
    fn run(self, cluster: &Arc<Cluster>, mut arguments: Arguments) -> bool {
        // At least two threads, of which one may wait: then the harness prints a scenario's line when it is over, in one piece.
        let turns = Arc::new(Turns::new(arguments.test_threads.unwrap_or(self.together)));
        arguments.test_threads = Some(self.together.max(2));
        let trials = self.scenarios.iter().map(|&(name, scenario)| trial(cluster, &turns, name, scenario)).collect();
        !libtest_mimic::run(&arguments, trials).has_failed()
    }
}

/// How many scenarios may run now.
struct Turns {
    free: Mutex<usize>,
    freed: Condvar,
}

impl Turns {
    fn new(count: usize) -> Self {
        Self { free: Mutex::new(count.max(1)), freed: Condvar::new() }
    }

    fn take<T>(&self, run: impl FnOnce() -> T) -> T {
        let locked = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self.freed.wait_while(locked, |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        drop(free);
        let result = run();
        *self.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.freed.notify_one();
        result
    }
}

fn trial(cluster: &Arc<Cluster>, turns: &Arc<Turns>, name: &'static str, scenario: Scenario) -> Trial {
    let turns = Arc::clone(turns);
    let cluster = Arc::clone(cluster);
    let test = move || {
        // `replication::seed_manifests` -> `seed-manifests`; the seed's manifests name their own.
        let namespace = match name.rsplit("::").next() {
            Some(name) if name.starts_with("seed_") => "production".to_owned(),
            other => other.unwrap_or(name).replace('_', "-"),
        };
        let clean_up = || {
            if std::env::var_os("E2E_KEEP").is_some() {
                return Ok(());
            }
            // What does not go is a failure, too.
            let gone = cluster.kubectl(&["delete", "namespace", &namespace, "--timeout=180s", "--ignore-not-found"]);
            gone.map(drop).map_err(|failure| format!("{failure}\n{}", cluster.explain(&namespace)))
        };
        let run = || {
            let manifest = format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {namespace}\n");
            cluster.apply("default", &manifest)?;
            scenario(&cluster, &namespace)
        };
        let result = run().or_else(|first| {
            // Nothing that comes later makes good a promise that was broken, wherever in the scenario that was seen.
            if first.contains(cluster::BROKEN) {
                return Err(first);
            }
            // Two cores carry servers, builds and this: a time limit that is missed once is tried again, and told.
            cluster::say(&format!("retried: {name}: {first}\n{}", cluster.explain(&namespace)));
            clean_up().map_err(|left| format!("{first}\nand then: {left}"))?;
            run()
        });
        let result = result.map_err(|failure| format!("{failure}\n{}", cluster.explain(&namespace)));
        result.and(clean_up()).map_err(Failed::from)
    };
    Trial::test(name, move || turns.take(test))
}

fn main() {
    let arguments = Arguments::from_args();
    if arguments.list {
        libtest_mimic::run(&arguments, Vec::new()).exit();
    }
    // What needs no cluster.
    let checks = chaos::TRIALS.iter().map(|&(name, check)| Trial::test(name, move || check().map_err(Failed::from)));
    let checked = libtest_mimic::run(&arguments, checks.collect());
    let tiers = tiers().into_iter().filter(|tier| tier.is_wanted(&arguments));
    let well = match Cluster::prepare() {
        Ok(Some(Where::Sandboxes)) => std::thread::scope(|scope| {
            let running: Vec<_> = tiers
                .map(|tier| {
                    let arguments = arguments.clone();
                    scope.spawn(move || {
                        let cluster = started(Cluster::start(tier.name));
                        tier.run(&cluster, arguments)
                    })
                })
                .collect();
            // All of them, whatever becomes of one.
            let ends: Vec<bool> = running.into_iter().map(|tier| tier.join().unwrap_or(false)).collect();
            ends.into_iter().all(|well| well)
        }),
        Ok(Some(Where::Named(cluster))) => {
            let cluster = Arc::new(cluster);
            let ends: Vec<bool> = tiers.map(|tier| tier.run(&cluster, arguments.clone())).collect();
            ends.into_iter().all(|well| well)
        }
        Ok(None) => libtest_mimic::run(&arguments, Vec::new()).exit(),
        Err(failure) => {
            eprintln!("the cluster does not start: {failure}");
            false
        }
    };
    if checked.has_failed() || !well {
        std::process::exit(101);
    }
}

fn started(cluster: Result<Cluster, Failure>) -> Arc<Cluster> {
    match cluster {
        Ok(cluster) => Arc::new(cluster),
        Err(failure) => panic!("a sandbox does not start: {failure}"),
    }
}
