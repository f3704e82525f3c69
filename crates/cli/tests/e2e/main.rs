//! End to end: a cluster, the operator in it, real MariaDB servers, used through `kubectl` as a person would.
//!
//! On this machine the cluster is the sandbox. With `E2E_KUBECONFIG=FILE` the same scenarios run on any cluster that has
//! the operator installed; what needs the sandbox is skipped there, and says so. `E2E_KEEP=1` leaves the sandbox running.

mod bad_input;
mod chaos;
mod cluster;
mod failover;
mod moments;
mod outage;
mod replication;
mod resilience;
mod switches;
mod upkeep;
mod ways;

use std::sync::Arc;

use cluster::{Cluster, Failure};
use libtest_mimic::{Arguments, Failed, Trial};

/// A scenario has a namespace of its own.
type Scenario = fn(&Cluster, &str) -> Result<(), Failure>;

fn trial(cluster: &Arc<Cluster>, name: &'static str, scenario: Scenario) -> Trial {
    let cluster = Arc::clone(cluster);
    Trial::test(name, move || {
        // `replication::seed_manifests` -> `seed-manifests`; the seed's manifests name their own.
        let namespace = match name.rsplit("::").next() {
            Some(name) if name.starts_with("seed_") => "production".to_owned(),
            other => other.unwrap_or(name).replace('_', "-"),
        };
        let clean_up = || {
            if std::env::var_os("E2E_KEEP").is_none() {
                let _ = cluster.kubectl(&["delete", "namespace", &namespace, "--timeout=60s"]);
            }
        };
        let run = || {
            let manifest = format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {namespace}\n");
            cluster.apply("default", &manifest)?;
            scenario(&cluster, &namespace)
        };
        let result = run().or_else(|first| {
            // Nothing that comes later makes good a promise that was broken.
            if first.starts_with(chaos::BROKEN) {
                return Err(first);
            }
            // Two cores carry servers, builds and this: a time limit that is missed once is tried again, and told.
            cluster::say(&format!("retried: {name}: {first}\n{}", cluster.explain(&namespace)));
            clean_up();
            run()
        });
        let result = result.map_err(|failure| format!("{failure}\n{}", cluster.explain(&namespace)));
        clean_up();
        result.map_err(Failed::from)
    })
}

fn main() {
    let mut arguments = Arguments::from_args();
    if arguments.list {
        libtest_mimic::run(&arguments, Vec::new()).exit();
    }
    // What needs no cluster.
    let checks = chaos::TRIALS.iter().map(|&(name, check)| Trial::test(name, move || check().map_err(Failed::from)));
    let checked = libtest_mimic::run(&arguments, checks.collect());
    // Two cores: two topologies at a time; scenarios that stop the sandbox or the operator come alone, afterwards.
    arguments.test_threads = arguments.test_threads.or(Some(2));
    let cluster = match Cluster::start() {
        Ok(Some(cluster)) => Arc::new(cluster),
        Ok(None) => libtest_mimic::run(&arguments, Vec::new()).exit(),
        Err(failure) => {
            eprintln!("the cluster does not start: {failure}");
            std::process::exit(101);
        }
    };
    let trials = |scenarios: &[(&'static str, Scenario)]| -> Vec<Trial> {
        scenarios.iter().map(|&(name, scenario)| trial(&cluster, name, scenario)).collect()
    };
    let shared = [
        replication::SCENARIOS,
        bad_input::SCENARIOS,
        failover::SCENARIOS,
        moments::SCENARIOS,
        upkeep::SCENARIOS,
        ways::SCENARIOS,
    ]
    .concat();
    let first = libtest_mimic::run(&arguments, trials(&shared));
    arguments.test_threads = Some(1);
    let alone = [
        failover::SEED_SCENARIOS,
        resilience::SCENARIOS,
        switches::SCENARIOS,
        ways::ALONE,
        chaos::scenarios(),
        outage::scenarios(),
    ]
    .concat();
    let second = libtest_mimic::run(&arguments, trials(&alone));
    drop(cluster);
    if checked.has_failed() || first.has_failed() || second.has_failed() {
        std::process::exit(101);
    }
}
