//! Kills and cuts of the primary, as many as one likes, under a promise: nothing that was acknowledged may be missing in the end.

use std::time::Duration;

use super::super::cluster::{Cluster, Failure, say};
use super::super::failover::kill_server;
use super::{Bench, LASTS, cut, heal, number};

/// The variables that ask for it: how often the primary's server is killed and its node cut off, in both scenarios together.
const KILLS: &str = "OUTAGE_KILLS";
const CUTS: &str = "OUTAGE_CUTS";
/// A failover has begun by then, and what is said of the topology's health is about it.
const BEGUN: Duration = Duration::from_secs(2);

pub(super) fn scenarios() -> &'static [(&'static str, super::super::Scenario)] {
    if std::env::var_os(KILLS).is_some() {
        &[("outage::losses_safe", safe), ("outage::losses_strict", strict)]
    } else {
        &[]
    }
}

fn safe(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    half(cluster, namespace, "Safe")
}

fn strict(cluster: &Cluster, namespace: &str) -> Result<(), Failure> {
    half(cluster, namespace, "Strict")
}

fn half(cluster: &Cluster, namespace: &str, durability: &str) -> Result<(), Failure> {
    let (kills, cuts) = (number(KILLS)?.div_ceil(2), number(CUTS)?.div_ceil(2));
    let mut bench = Bench::start(cluster, namespace, 3, &format!("    durability: {durability}\n"))?;
    for round in 0..kills + cuts {
        let primary = bench.next_round()?;
        if round < kills {
            kill_server(cluster, namespace, &primary)?;
            std::thread::sleep(BEGUN);
        } else {
            cut(cluster, namespace, &primary)?;
            std::thread::sleep(LASTS);
            heal(cluster, namespace, &primary)?;
        }
        if round % 10 == 9 {
            say(&format!("{durability}: {} of {} kills and cuts", round + 1, kills + cuts));
        }
    }
    bench.finish(&format!("{kills} kills and {cuts} cuts, `{durability}`"))
}
