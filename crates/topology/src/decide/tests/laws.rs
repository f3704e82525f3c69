//! Laws that hold whatever happens (`World::check` watches every order): no two writers in one epoch, nothing is
//! initialised while data exists, nothing is replaced that was not named; and when things calm down, the topology heals.

use proptest::prelude::*;

use crate::Record;
use crate::member::{ServerError, ThreadState, Volume};
use crate::observation::{Claim, Pod};
use crate::scenario::{World, intent};

#[derive(Debug, Clone, Copy)]
enum Mishap {
    Pass,
    LoseOrders(u8),
    RestartPod(u8),
    LoseVolume(u8),
    Silence(u8, bool),
    Evict(u8, bool),
    Freeze(u8, bool),
    RestartController,
    LoseRecord,
    OldRecord(u8),
    Write(u8),
    Errant(u8),
    StopThreads(u8),
    SqlError(u8, u16),
    IoError(u8, u16),
    OpenByHand(u8),
    Foreign(u8),
    Minutes(u8),
}

fn any_mishap() -> impl Strategy<Value = Mishap> {
    let member = 0..3u8;
    prop_oneof![
        6 => Just(Mishap::Pass),
        1 => any::<u8>().prop_map(Mishap::LoseOrders),
        1 => member.clone().prop_map(Mishap::RestartPod),
        1 => member.clone().prop_map(Mishap::LoseVolume),
        1 => (member.clone(), any::<bool>()).prop_map(|(m, s)| Mishap::Silence(m, s)),
        1 => (member.clone(), any::<bool>()).prop_map(|(m, s)| Mishap::Evict(m, s)),
        1 => (member.clone(), any::<bool>()).prop_map(|(m, f)| Mishap::Freeze(m, f)),
        1 => Just(Mishap::RestartController),
        1 => Just(Mishap::LoseRecord),
        1 => (0..5u8).prop_map(Mishap::OldRecord),
        2 => member.clone().prop_map(Mishap::Write),
        1 => member.clone().prop_map(Mishap::Errant),
        1 => member.clone().prop_map(Mishap::StopThreads),
        1 => (member.clone(), prop::sample::select(vec![1062u16, 1032, 1950, 1205])).prop_map(|(m, e)| Mishap::SqlError(m, e)),
        1 => (member.clone(), prop::sample::select(vec![1236u16, 1045, 2003])).prop_map(|(m, e)| Mishap::IoError(m, e)),
        1 => member.clone().prop_map(Mishap::OpenByHand),
        1 => member.prop_map(Mishap::Foreign),
        1 => (1..8u8).prop_map(Mishap::Minutes),
    ]
}

fn error(errno: u16) -> ServerError {
    ServerError { errno: errno.into(), message: "by the test".to_owned() }
}

fn strike(world: &mut World, mishap: Mishap) {
    let name = |n: u8| format!("db-{n}");
    match mishap {
        Mishap::Pass => {
            world.pass(|_| true);
        }
        Mishap::LoseOrders(mask) => {
            world.pass(|n| mask & (1 << (n % 8)) == 0);
        }
        Mishap::RestartPod(n) => world.restart_pod(&name(n)),
        Mishap::LoseVolume(n) => world.lose_volume(&name(n)),
        Mishap::Silence(n, silent) => world.member(&name(n)).silent = silent,
        Mishap::Evict(n, away) => {
            world.restart_pod(&name(n));
            world.member(&name(n)).pod = if away { Pod::Absent } else { Pod::Running };
        }
        Mishap::Freeze(n, frozen) => world.freeze(&name(n), frozen),
        Mishap::RestartController => world.restart_controller(),
        Mishap::LoseRecord => world.record = Record::default(),
        Mishap::OldRecord(by) => world.record.revision = world.record.revision.saturating_sub(by.into()),
        Mishap::Write(n) => {
            if world.member(&name(n)).state.server.as_ref().is_some_and(|server| !server.read_only) {
                world.write(&name(n), 1);
            }
        }
        Mishap::Errant(n) => {
            // Root writes on a replica; then its primary's next event is out of order.
            if world.member(&name(n)).state.server.as_ref().is_some_and(|server| server.replication.is_some()) {
                world.write(&name(n), 1);
                strike(world, Mishap::SqlError(n, 1950));
            }
        }
        Mishap::StopThreads(n) | Mishap::SqlError(n, _) | Mishap::IoError(n, _) => {
            let Some(replication) =
                world.member(&name(n)).state.server.as_mut().and_then(|server| server.replication.as_mut())
            else {
                return;
            };
            match mishap {
                Mishap::SqlError(_, errno) => {
                    replication.sql = ThreadState::No;
                    replication.sql_error = Some(error(errno));
                }
                Mishap::IoError(_, errno) => {
                    replication.io = ThreadState::No;
                    replication.io_error = Some(error(errno));
                }
                _ => (replication.io, replication.sql) = (ThreadState::No, ThreadState::No),
            }
        }
        Mishap::OpenByHand(n) => {
            if let Some(server) = world.member(&name(n)).state.server.as_mut() {
                server.read_only = false;
            }
        }
        Mishap::Foreign(n) => {
            world.restart_pod(&name(n));
            world.member(&name(n)).state.volume = Volume::Foreign { found: "something".to_owned() };
        }
        Mishap::Minutes(n) => {
            world.run_for(u64::from(n) * 60);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens(mishaps in prop::collection::vec(any_mishap(), 1..60)) {
        let mut world = World::new(intent(3));
        for mishap in mishaps {
            strike(&mut world, mishap);
        }
    }

    /// Mishaps that take no data away and write none by hand heal by themselves.
    #[test]
    fn it_heals(mishaps in prop::collection::vec(any_mishap(), 1..40)) {
        let mut world = World::new(intent(3));
        for mishap in mishaps {
            match mishap {
                Mishap::LoseVolume(_)
                | Mishap::Foreign(_)
                | Mishap::OpenByHand(_)
                | Mishap::Errant(_)
                | Mishap::LoseRecord
                | Mishap::OldRecord(_) => {}
                other => strike(&mut world, other),
            }
        }
        for member in ["db-0", "db-1", "db-2"] {
            world.freeze(member, false);
        }
        for model in world.members.values_mut() {
            (model.pod, model.claim, model.silent) = (Pod::Running, Claim::Bound, false);
        }
        let mut decision = world.decide();
        for _ in 0..80 {
            if decision.report.health.ok {
                break;
            }
            decision = world.run_for(60);
        }
        prop_assert!(decision.report.health.ok, "{:?}\n{}", decision.report, world.log.join("\n"));
    }
}
