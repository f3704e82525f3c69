//! `durability: Available`: a primary's time is limited.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use libtest_mimic::Trial;
use topology::Stamp;
use topology::action::{Action, Opening};
use topology::member::MemberName;
use topology::record::{Record, annotation};

use super::changes::replicating;
use super::guard::{SOON, is_open, record};
use super::harness::{Lab, Settings, run};
use super::scenarios::trial;

const LIMIT: Duration = Duration::from_secs(3);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a_primary_stays_while_all_candidates_confirm", a_primary_stays_while_all_candidates_confirm),
        trial("a_primary_that_is_not_in_the_record_is_not_opened", a_primary_that_is_not_in_the_record_is_not_opened),
    ]
}

/// Member 0 is primary and renews the record, member 1 is a candidate.
fn limited(name: &str) -> (Lab, Api<Lease>) {
    let mut lab = Lab::new(name);
    let leases = lab.api(&Record { candidates: [MemberName("db-1".into())].into(), ..record(0, 1, &[]) });
    let limit = u64::try_from(LIMIT.as_millis()).ok();
    let settings = Settings { lease_limit_ms: limit, ..Settings::default() };
    lab.primary_with(0, &settings);
    lab.replica_with(1, 0, 0, &settings);
    replicating(&lab, 1);
    (lab, leases)
}

fn annotations(lab: &Lab, leases: &Api<Lease>, key: &str) -> Option<String> {
    let lease = lab.block_on(leases.get("db-topology")).unwrap();
    lease.metadata.annotations.unwrap().get(key).cloned()
}

fn stays_open_for(lab: &Lab, time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        assert!(is_open(&lab.state(0).unwrap()), "{}", lab.log(0));
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn a_primary_stays_while_all_candidates_confirm() {
    let (mut lab, leases) = limited("limited");
    assert_eq!(annotations(&lab, &leases, annotation::RENEWED_WITH).as_deref(), Some("db-1"));
    let api = format!("ip netns exec {} nft", lab.name());
    run(&format!(
        "{api} 'add table ip cut; add chain ip cut api {{ type filter hook input priority 0; }}; \
         add rule ip cut api iifname br0 tcp dport 8080 drop'"
    ));
    stays_open_for(&lab, 2 * LIMIT);
    let refused = lab.tell(1, Action::Fence).unwrap_err();
    assert!(refused.to_string().contains("promised that nobody takes over"), "{refused}");
    let replicas = format!("ip -n {} link set {}m1a", lab.name(), lab.name());
    let cut = Instant::now();
    run(&format!("{replicas} down"));
    lab.eventually(0, LIMIT, |state| !is_open(state));
    println!("closed {:?} after nobody confirmed any more (limit {LIMIT:?})", cut.elapsed());
    std::thread::sleep(LIMIT);
    assert!(!is_open(&lab.state(0).unwrap()), "nobody confirms");
    run(&format!("{replicas} up; {api} 'delete table ip cut'"));
    let state = lab.eventually(0, Duration::from_secs(40), is_open);
    assert_eq!(annotations(&lab, &leases, annotation::REVISION), Some(state.accepted.revision.to_string()));
    lab.sql(0, "CREATE TABLE app.again (id INT)");
    // One that takes part in a failover confirms nothing: with the record out of reach, the primary is closed.
    lab.tell(1, Action::Fence).unwrap();
    run(&format!(
        "{api} 'add table ip cut; add chain ip cut api {{ type filter hook input priority 0; }}; \
         add rule ip cut api iifname br0 tcp dport 8080 drop'"
    ));
    lab.eventually(0, LIMIT, |state| !is_open(state));
}

fn a_primary_that_is_not_in_the_record_is_not_opened() {
    let (lab, leases) = limited("stale");
    lab.decided(&leases, &record(1, 2, &[]));
    lab.eventually(0, LIMIT, |state| !is_open(state));
    lab.decided(&leases, &record(1, 3, &[]));
    let refused = lab
        .tell_as(0, Stamp { epoch: 4, revision: 1 }, &Action::OpenForWrites { opening: Opening::default() })
        .unwrap_err();
    assert!(refused.to_string().contains("does not name this data"), "{refused}");
    assert!(!is_open(&lab.eventually(0, SOON, |_| true)));
}
